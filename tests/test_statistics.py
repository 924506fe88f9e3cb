import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lstm_deploy.statistics import CALLS_FOR_P99, median_of_medians, percentile, ratio, spread


def test_percentiles_are_over_all_samples():
    rounds = [np.arange(50.0), np.arange(50.0, 101.0)]
    assert percentile(rounds, 50) == 50
    assert percentile(rounds, 90) == 90


@pytest.mark.parametrize(("count", "known"), [(CALLS_FOR_P99 - 1, False), (CALLS_FOR_P99, True)])
def test_p99_needs_enough_calls(count, known):
    assert (percentile([np.ones(count)], 99) is not None) is known


def test_one_disturbed_round_does_not_move_the_median():
    rounds = [np.full(5, 10.0)] * 8 + [np.full(5, 1000.0)]
    assert median_of_medians(rounds) == 10


def test_spread_is_relative():
    assert spread([np.full(3, 10.0)] * 5) == 0
    assert spread([np.full(3, value) for value in (8.0, 9.0, 10.0, 11.0, 12.0)]) == pytest.approx(0.1)


@given(st.floats(0.1, 10), st.integers(3, 20), st.integers(0, 1000))
def test_what_disturbs_a_whole_round_cancels_out(factor, rounds, seed):
    rng = np.random.default_rng(seed)
    baseline = [rng.uniform(1, 100) * np.ones(5) for _ in range(rounds)]
    middle, (low, high) = ratio([factor * samples for samples in baseline], baseline)
    assert low == pytest.approx(factor) == middle == pytest.approx(high)


def test_the_interval_covers_the_truth_as_often_as_it_says():
    """95 % of 200 intervals, give or take: the bootstrap over 15 rounds is known to be a little short."""
    covered = 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        noisy = [rng.normal(2, 0.2, 1) for _ in range(15)]
        _, (low, high) = ratio(noisy, [np.ones(1)] * 15, seed=seed)
        covered += low <= 2 <= high
    assert covered > 170
