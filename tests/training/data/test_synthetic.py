import numpy as np
import pytest

from lstm_deploy.training.data.synthetic import generate


def test_the_sine_follows_its_formula():
    series = generate("sine")
    assert series.values.shape == (1000, 1)
    np.testing.assert_allclose(series.noiseless[:, 0], np.sin(np.linspace(0, 20 * np.pi, 1000)))
    assert np.std(series.values - series.noiseless) == pytest.approx(0.1, rel=0.1)


def test_the_sines_follow_their_formula():
    series = generate("sines", 3000, seed=4)
    time = np.arange(3000)
    np.testing.assert_allclose(series.noiseless[:, 0], 3 * np.sin(time) + np.cos(5 * time) + 6)
    assert np.std(series.values - series.noiseless) == pytest.approx(1, rel=0.1)


def test_the_seed_determines_the_noise():
    first, repeated, other = (generate("sine", 10, seed=seed).values for seed in (1, 1, 2))
    assert np.array_equal(first, repeated)
    assert not np.array_equal(first, other)
