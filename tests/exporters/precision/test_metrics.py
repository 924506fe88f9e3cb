import math

import numpy as np
import pytest
from hypothesis import given, strategies as st
from hypothesis.extra import numpy as hnp

from lstm_deploy.contract import Forecast, Signature, TensorSpec
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


def signature(*shape, task=None):
    y = TensorSpec(name="y", dtype="float32", shape=shape)
    return Signature(inputs=(), outputs=(y,), recurrent=(), task=task)


@pytest.mark.parametrize("shape", [("batch", 3), ("batch", "seq", 3), ("batch", 3, "seq")])
def test_decisions_are_told_apart_from_numbers_that_move(shape):
    """A difference that a cosine does not show changes the decisions of a network that is not sure."""
    expected = np.tile([1.0, 1.001, 0.0], (100, 1))
    outputs = expected.copy()
    outputs[:35, 0] += 0.002
    _, cosine = metrics.difference({"y": outputs}, {"y": expected})
    assert cosine > 0.999999
    assert metrics.decisions_changed(signature(*shape), {"y": outputs}, {"y": expected}) == pytest.approx(0.35)
    assert metrics.decisions_changed(signature(*shape), {"y": expected}, {"y": expected}) == 0


@pytest.mark.parametrize("shape", [("batch",), ("batch", 1), ("batch", "seq"), ("batch", "seq", 1)])
def test_outputs_without_columns_are_no_decisions(shape):
    assert metrics.decisions_changed(signature(*shape), {"y": np.ones((9, 1))}, {"y": np.ones((9, 1))}) is None


def test_a_forecast_is_no_decision():
    task = Forecast(features=("a", "b"), targets=("a", "b"), window=9, horizon=1)
    given = {"y": np.ones((9, 2))}
    assert metrics.decisions_changed(signature("batch", 2, task=task), given, given) is None
