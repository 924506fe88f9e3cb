import json
import math

import numpy as np
import pytest
from hypothesis import given, strategies as st

from lstm_deploy.training import evaluation
from lstm_deploy.training.data.series import generate
from lstm_deploy.training.evaluation import find_season, forecast_metrics


def test_errors_match_hand_computed_ones():
    values = np.array([[0.0], [2], [4], [6], [8], [11], [10]])
    metrics = forecast_metrics(np.array([[[9.0]], [[10.0]]]), values, 5, (0,), 4, None)
    assert metrics["rows"] == 2
    assert metrics["rmse"] == pytest.approx(math.sqrt((4 + 0) / 2))
    assert metrics["mae"] == 1.0
    assert metrics["mase"] == 0.5  # the naive forecast of the first four rows is off by 2
    assert metrics["naive_rmse"] == pytest.approx(math.sqrt((9 + 1) / 2))
    assert metrics["naive_mase"] == 1.0
    assert "season" not in metrics


def test_the_seasonal_naive_forecast_is_the_value_one_season_ago():
    season = np.array([1.0, 5, 2, 8])
    values = np.tile(season, 8)[:, None]
    values[-1] += 3
    prediction = values[-4:].reshape(4, 1, 1)
    metrics = forecast_metrics(prediction, values, 28, (0,), 20, 4)
    assert metrics["rmse"] == 0
    assert metrics["seasonal_naive_rmse"] == pytest.approx(math.sqrt(9 / 4))
    assert metrics["mase_seasonal"] is None  # the seasonal naive forecast made no error in the training part
    json.dumps(metrics, allow_nan=False)


def test_a_horizon_beyond_the_season_uses_known_values_only():
    values = np.arange(40.0)[:, None]
    prediction = np.stack([values[start : start + 5] for start in range(30, 35)])
    metrics = forecast_metrics(prediction, values, 30, (0,), 20, 2)
    # Steps 1 and 2 look 2 back, 3 and 4 look 4 back, 5 looks 6 back.
    assert metrics["seasonal_naive_mae"] == pytest.approx(np.mean([2, 2, 4, 4, 6]))
    assert metrics["naive_mae"] == pytest.approx(np.mean([1, 2, 3, 4, 5]))
    assert metrics["rmse_by_step"] == [0.0] * 5


def test_targets_count_equally_in_mase_whatever_their_unit():
    values = np.stack([np.arange(20.0), 1000 * np.arange(20.0)], 1)
    prediction = values[15:].reshape(5, 1, 2) + np.array([1.0, 1000.0])
    metrics = forecast_metrics(prediction, values, 15, (0, 1), 15, None, ("a", "b"))
    assert metrics["mase"] == pytest.approx(1.0)
    assert metrics["by_target"]["a"] == {"rmse": 1.0, "mae": 1.0, "naive_rmse": 1.0}
    assert metrics["by_target"]["b"] == {"rmse": 1000.0, "mae": 1000.0, "naive_rmse": 1000.0}


@pytest.mark.parametrize("period", [7, 12, 24, 52])
def test_the_season_of_a_noisy_cycle_is_found(period):
    time = np.arange(20 * period)
    noise = 0.1 * np.random.default_rng(0).standard_normal(len(time))
    shape = np.sin(2 * np.pi * time / period) + 0.5 * np.sin(4 * np.pi * time / period)
    assert find_season(shape + 0.05 * time / period + noise) == pytest.approx(period, abs=1)


@pytest.mark.parametrize("seed", range(10))
def test_a_season_is_found_where_a_multiple_of_it_is_better_by_chance(seed):
    rng = np.random.default_rng(seed)
    values = 20 + 5 * np.sin(2 * np.pi * np.arange(504) / 24) + rng.normal(0, 0.4, 504)
    for row in np.flatnonzero(rng.random(504) < 0.05):
        values[row] = values[row - 1]  # a missing value
    assert find_season(values) == 24


@pytest.mark.parametrize("seed", range(10))
def test_a_random_walk_has_no_season(seed):
    steps = np.random.default_rng(seed).standard_normal(1000)
    assert find_season(np.cumsum(steps)) is None


@given(st.integers(1, 30))
def test_short_and_constant_series_have_no_season(rows):
    assert find_season(np.full(rows, 3.0)) is None
    assert find_season(np.arange(float(rows))) is None


def test_the_season_of_the_generated_sines_is_nearly_a_whole_number_of_their_periods():
    assert find_season(generate("sines").values[:3600, 0]) == 44  # 7 times 2 π


def test_accuracy_and_f1_match_a_hand_computed_confusion_matrix():
    confusion = evaluation.confusion_matrix(np.array([0, 0, 0, 1, 1, 2]), np.array([0, 0, 1, 1, 1, 0]), 3)
    assert confusion.tolist() == [[2, 1, 0], [0, 2, 0], [1, 0, 0]]
    metrics = evaluation.classification_metrics(confusion)
    assert metrics["accuracy"] == pytest.approx(4 / 6)
    assert metrics["macro_f1"] == pytest.approx((4 / 6 + 4 / 5 + 0) / 3)
    assert metrics["naive_accuracy"] == 0.5
    assert metrics["naive_macro_f1"] == pytest.approx((6 / 9) / 3)


def test_bits_are_nats_by_log_2_and_a_bigram_model_predicts_a_text_of_one_pair():
    metrics = evaluation.text_metrics(math.log(2), 2 * math.log(2), 10, "byte")
    assert (metrics["bits_per_byte"], metrics["naive_bits_per_byte"]) == (1.0, 2.0)
    tokens = np.tile([0, 1], 5000)
    assert evaluation.bigram_nats(tokens, tokens, 2) < 0.001
