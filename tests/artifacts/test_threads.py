from lstm_deploy.artifacts import fitting_threads


def test_small_weights_are_computed_with_on_one_thread():
    assert fitting_threads(4 * 900_000) == 1
    assert fitting_threads(4 * 1_100_000) is None
