import math

import numpy as np
import pytest
from hypothesis import given, strategies as st
from hypothesis.extra import numpy as hnp

from lstm_deploy.exporters.precision import metrics

floats = hnp.arrays(np.float64, (7, 3), elements=st.floats(-100, 100))


def test_loss_is_what_became_worse():
    assert metrics.loss("rmse", 1.1, 1.0) == pytest.approx(0.1)
    assert metrics.loss("accuracy", 0.9, 1.0) == pytest.approx(0.1)
    assert metrics.loss("rmse", 0.9, 1.0) < 0
    assert metrics.loss("rmse", 0.0, 0.0) == 0
    assert metrics.loss("rmse", 1.0, 0.0) == math.inf
    assert metrics.loss("rmse", math.nan, 1.0) == math.inf


@given(expected=floats, noise=floats)
def test_a_difference_of_a_tenth_means_a_cosine_of_0_995(expected, noise):
    centred = expected - expected.mean(0)
    off, cosine = metrics.difference({"y": centred + 0.001 * noise}, {"y": centred})
    if off <= 0.1:
        assert cosine >= 0.995 - 1e-9 or not centred.any()
    assert metrics.difference({"y": expected}, {"y": expected})[0] == 0


def test_a_difference_is_seen_beside_a_large_offset_and_nan_is_infinite():
    rng = np.random.default_rng(0)
    expected = 1e6 + rng.standard_normal((100, 2))
    off, cosine = metrics.difference({"y": expected + rng.standard_normal((100, 2))}, {"y": expected})
    assert off > 0.5
    assert cosine > 0.999
    assert metrics.difference({"y": expected * np.nan}, {"y": expected})[0] == math.inf


def test_the_output_with_the_largest_difference_is_reported():
    rng = np.random.default_rng(0)
    expected = {name: rng.standard_normal((50, 2)) for name in ("right", "wrong")}
    off, _ = metrics.difference({**expected, "wrong": -expected["wrong"]}, expected)
    assert off > 1.9
