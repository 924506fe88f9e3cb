import math
import os
import signal

import numpy as np
import pytest
from conftest import COLUMNS, ignore, options

from lstm_deploy import data, training
from lstm_deploy.data import Series
from lstm_deploy.errors import InputError, LstmDeployError


def series(values: np.ndarray) -> Series:
    columns = tuple(f"c{index}" for index in range(values.shape[1]))
    labels = tuple(map(str, range(len(values))))
    return Series(columns=columns, values=values, labels=labels, filled=0, dropped=0, left_out=())


def sine(rows: int = 400) -> Series:
    return series(np.sin(np.arange(rows) / 3)[:, None] * 40 + 1000)


def test_a_sine_is_learned_far_better_than_the_naive_forecast():
    trained = training.train_forecaster(sine(), ("c0",), options(hidden_size=16, epochs=30, learning_rate=0.01), ignore)
    metrics = trained.spec.training["metrics"]
    assert metrics["rmse"] < 0.25 * metrics["naive_rmse"]


def test_metrics_are_those_of_the_predictions_on_the_last_fifth():
    given = sine()
    trained = training.train_forecaster(given, ("c0",), options(), ignore)
    metrics = trained.spec.training["metrics"]
    assert np.array_equal(trained.truth, given.values[320:])
    assert trained.prediction.shape == trained.truth.shape == (80, 1)
    assert metrics["rmse"] == pytest.approx(np.sqrt(np.mean((trained.prediction - trained.truth) ** 2)))
    assert metrics["naive_mae"] == pytest.approx(np.abs(np.diff(given.values[319:, 0])).mean())


def test_scaling_knows_the_training_part_only():
    values = np.arange(100.0)[:, None]
    trained = training.train_forecaster(series(values), ("c0",), options(window=5), ignore)
    assert (trained.spec.low, trained.spec.high) == ((0.0,), (71.0,))


def test_the_seed_decides_the_result(prices):
    given = data.read_series(prices, COLUMNS)
    first, again, other = (
        training.train_forecaster(given, ("close",), options(seed=seed), ignore).tensors["fc.weight"]
        for seed in (1, 1, 2)
    )
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_a_repeated_text_is_learned():
    trained = training.train_language_model(
        "abcdefgh" * 400, options(epochs=15, learning_rate=0.02, window=20, batch_size=4), ignore
    )
    metrics = trained.spec.training["metrics"]
    assert metrics["nats_per_character"] < 0.05
    assert metrics["bits_per_character"] == pytest.approx(metrics["nats_per_character"] / math.log(2))
    assert trained.spec.task.vocabulary == tuple("abcdefgh")


def test_progress_ends_at_the_last_step(text):
    seen = []
    training.train_language_model(
        text.read_text(encoding="utf-8"), options(window=50, epochs=2), lambda *event: seen.append(event)
    )
    assert seen[-1][0] == seen[-1][1] == len(seen)
    assert "epoch 2/2" in seen[-1][2]


def test_the_weights_of_the_best_epoch_are_kept(prices):
    given = data.read_series(prices, COLUMNS)
    trained = training.train_forecaster(given, ("close",), options(epochs=6, learning_rate=0.05), ignore)
    best = trained.spec.training["best_epoch"]
    assert trained.validation_losses[best - 1] == min(trained.validation_losses)


def test_too_few_rows_and_too_short_texts_are_refused():
    with pytest.raises(InputError, match="smaller --window"):
        training.train_forecaster(sine(20), ("c0",), options(), ignore)
    with pytest.raises(InputError, match="smaller --window"):
        training.train_language_model("abc" * 20, options(window=100), ignore)


@pytest.mark.parametrize("rows", [1, 2, 3, 5, 8])
def test_the_smallest_series_is_trained_on_or_refused(rows):
    try:
        trained = training.train_forecaster(sine(rows), ("c0",), options(window=1), ignore)
    except InputError:
        assert rows < 5
    else:
        assert np.isfinite(trained.spec.training["metrics"]["rmse"])


def test_a_constant_column_is_refused_by_name():
    values = np.column_stack([np.arange(100.0), np.full(100, 3.0)])
    with pytest.raises(InputError, match="'c1' is constant"):
        training.train_forecaster(series(values), ("c0",), options(window=5), ignore)


def test_a_target_that_is_no_feature_is_refused():
    with pytest.raises(InputError, match="'z'"):
        training.train_forecaster(sine(), ("z",), options(), ignore)


def test_a_loss_that_is_not_finite_stops_the_training():
    with pytest.raises(LstmDeployError, match="smaller --learning-rate"):
        training.train_forecaster(sine(), ("c0",), options(learning_rate=1e30, epochs=5), ignore)


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
def test_ctrl_c_stops_and_can_be_pressed_again():
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        training.train_forecaster(sine(), ("c0",), options(epochs=1000), lambda *_: signal.raise_signal(signal.SIGINT))
    assert signal.getsignal(signal.SIGINT) is before
