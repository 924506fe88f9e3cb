import numpy as np
import pytest
from hypothesis import given, strategies as st

from lstm_deploy.benchmark.statistics import (
    CALLS_FOR_P99,
    LEAST_DIFFERENCE,
    NO_DIFFERENCE,
    holm,
    median_interval,
    median_of_medians,
    noise_floor,
    percentile,
    ratio,
    slower_by,
    verdict,
)


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


def test_the_median_lies_in_its_interval_which_shrinks_with_more_rounds():
    rng = np.random.default_rng(0)
    rounds = [rng.normal(10, 1, 5) for _ in range(400)]
    few, many = median_interval(rounds[:10]), median_interval(rounds)
    assert few[0] <= median_of_medians(rounds[:10]) <= few[1]
    assert many[1] - many[0] < few[1] - few[0]


@given(st.floats(0.1, 10), st.integers(3, 20), st.integers(0, 1000))
def test_a_disturbance_of_a_whole_round_cancels_out(factor, rounds, seed):
    rng = np.random.default_rng(seed)
    baseline = [rng.uniform(1, 100) * np.ones(5) for _ in range(rounds)]
    middle, (low, high) = ratio([factor * samples for samples in baseline], baseline)
    assert low == pytest.approx(factor) == middle == pytest.approx(high)


def test_the_interval_has_its_nominal_coverage():
    """95 % of 200 intervals, give or take: the bootstrap over 15 rounds is known to be a little short."""
    covered = 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        noisy = [rng.normal(2, 0.2, 1) for _ in range(15)]
        _, (low, high) = ratio(noisy, [np.ones(1)] * 15, seed=seed)
        covered += low <= 2 <= high
    assert covered > 170


@given(st.floats(1.15, 3), st.integers(9, 60), st.integers(0, 1000))
def test_a_slowdown_is_significant(factor, rounds, seed):
    rng = np.random.default_rng(seed)
    old, new = np.exp(rng.normal(0, 0.02, rounds)), factor * np.exp(rng.normal(0, 0.02, rounds))
    times, chance = slower_by(new, old)
    assert times == pytest.approx(factor, rel=0.05)
    assert chance < 0.001
    assert slower_by(old, new)[1] > 0.999


def test_equal_samples_are_as_likely_faster_as_slower():
    assert slower_by([1.0] * 10, [1.0] * 10) == (1, pytest.approx(0.5, abs=0.02))


def test_the_rank_test_has_its_nominal_level():
    """Of 1000 pairs that do not differ, about 50 have a probability below 5 %."""
    rng = np.random.default_rng(0)
    low = sum(slower_by(rng.normal(10, 1, 15), rng.normal(10, 1, 15))[1] < 0.05 for _ in range(1000))
    assert 30 < low < 70


def test_many_tests_need_smaller_probabilities_to_be_significant():
    assert holm([0.04]) == [True]
    assert holm([0.04, 0.5]) == [False, False]
    assert holm([0.5, 0.001, 0.02]) == [False, True, True]
    assert holm([]) == []


def test_the_noise_floor_is_the_difference_of_a_baseline_from_its_control():
    baseline = [np.full(3, 10.0)] * 9
    assert noise_floor([np.full(3, 11.0)] * 9, baseline) == pytest.approx(0.1)
    assert noise_floor(baseline, baseline) == LEAST_DIFFERENCE


def test_a_verdict_needs_the_whole_interval_beyond_the_noise_floor():
    assert verdict((0.8, 0.9), 0.05) == "faster"
    assert verdict((1.06, 1.2), 0.05) == "slower"
    assert verdict((0.9, 0.96), 0.05) == verdict((1.04, 1.2), 0.05) == verdict((0.5, 2), 0.02) == NO_DIFFERENCE
