"""Summaries and tests of samples; independent of what was timed."""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Samples = NDArray[np.float64]

CALLS_FOR_P99 = 662
"""With so many samples, at least two lie beyond the 99th percentile with a probability of 99 %."""
LEAST_ROUNDS = 9
RESAMPLES = 2000
LEAST_DIFFERENCE = 0.02
"""Two processes that run the same file differ by as much, through where their memory happens to lie."""
NO_DIFFERENCE = "no difference"


def percentile(rounds: Sequence[Samples], percent: float) -> float | None:
    """A percentile over the samples of all rounds; none where there are too few samples for it."""
    samples = np.concatenate(rounds)
    if percent >= 99 and samples.size < CALLS_FOR_P99:
        return None
    return float(np.percentile(samples, percent))


def median_of_medians(rounds: Sequence[Samples]) -> float:
    """The typical sample, robust against a round that was disturbed as a whole."""
    return float(np.median([np.median(samples) for samples in rounds]))


def median_interval(rounds: Sequence[Samples]) -> tuple[float, float]:
    """95 % bootstrap interval of the median of medians."""
    return _interval(np.array([np.median(samples) for samples in rounds]))


def ratio(
    rounds: Sequence[Samples], baseline: Sequence[Samples], *, seed: int = 0
) -> tuple[float, tuple[float, float]]:
    """The median over rounds of `median(rounds[i]) / median(baseline[i])`, with its 95 % bootstrap interval.

    Both were measured side by side in each round, so what disturbed a round cancels out.
    """
    ratios = np.array([np.median(a) / np.median(b) for a, b in zip(rounds, baseline, strict=True)])
    return float(np.median(ratios)), _interval(ratios, seed)


def noise_floor(control: Sequence[Samples], baseline: Sequence[Samples]) -> float:
    """How much two processes that run the same file may differ: as far from 1 as the interval of their ratio reaches.

    `control` is the A/A control: the baseline, timed a second time in another process.
    """
    _, (low, high) = ratio(control, baseline)
    return max(LEAST_DIFFERENCE, abs(low - 1), abs(high - 1))


def verdict(interval: tuple[float, float], floor: float) -> str:
    """`faster` or `slower` where the whole interval of a ratio is further from 1 than the noise floor."""
    low, high = interval
    if high < 1 - floor:
        return "faster"
    return "slower" if low > 1 + floor else NO_DIFFERENCE


def slower_by(new: Sequence[float], old: Sequence[float]) -> tuple[float, float]:
    """How many times slower one set of medians is than another, and the probability of that by chance.

    The medians are of rounds that were not interleaved, each set from one process; differences between processes are
    not included. The ratio of the two medians, and the one-sided rank test of Mann and Whitney (1947) in its normal
    approximation, which holds from about eight rounds on.
    """
    a, b = np.asarray(new), np.sort(np.asarray(old))
    # Pairs in which the new one is slower; equal ones count half.
    wins = float((np.searchsorted(b, a, "left") + np.searchsorted(b, a, "right")).sum()) / 2
    pairs = a.size * b.size
    deviations = (wins - pairs / 2 - 0.5) / math.sqrt(pairs * (a.size + b.size + 1) / 12)
    return float(np.median(a) / np.median(b)), math.erfc(deviations / math.sqrt(2)) / 2


def holm(probabilities: Sequence[float], level: float = 0.05) -> list[bool]:
    """Which of several tests are significant at a level for all of them together (Holm, 1979)."""
    order = np.argsort(probabilities)
    significant = [False] * len(order)
    for rank, index in enumerate(order):
        if probabilities[index] > level / (len(order) - rank):
            break
        significant[index] = True
    return significant


def _interval(values: Samples, seed: int = 0) -> tuple[float, float]:
    """95 % percentile bootstrap of the median (Efron and Tibshirani, 1993, section 13.3)."""
    drawn = np.random.default_rng(seed).choice(values, (RESAMPLES, values.size))
    low, high = np.percentile(np.median(drawn, axis=1), [2.5, 97.5])
    return float(low), float(high)
