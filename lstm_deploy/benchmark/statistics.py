"""Summaries of timed samples. They know nothing of what was timed."""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Samples = NDArray[np.float64]

CALLS_FOR_P99 = 662
"""Of so many samples, at least two lie beyond the 99th percentile with a probability of 99 %."""

LEAST_ROUNDS = 9
RESAMPLES = 2000
LEAST_DIFFERENCE = 0.02
"""Processes that run the same file differ by as much, from where their memory happens to lie."""
NO_DIFFERENCE = "no difference"


def percentile(rounds: Sequence[Samples], percent: float) -> float | None:
    """A percentile over all samples of all rounds; none for one beyond what so few samples can tell."""
    samples = np.concatenate(rounds)
    if percent >= 99 and samples.size < CALLS_FOR_P99:
        return None
    return float(np.percentile(samples, percent))


def median_of_medians(rounds: Sequence[Samples]) -> float:
    """The typical sample, robust against a round that was disturbed as a whole."""
    return float(np.median([np.median(samples) for samples in rounds]))


def median_interval(rounds: Sequence[Samples], *, seed: int = 0) -> tuple[float, float]:
    """Where the median of medians lies, with 95 %."""
    return _interval(np.array([np.median(samples) for samples in rounds]), seed)


def ratio(
    rounds: Sequence[Samples], baseline: Sequence[Samples], *, seed: int = 0
) -> tuple[float, tuple[float, float]]:
    """The median over rounds of `median(rounds[i]) / median(baseline[i])`, with its 95 % bootstrap interval.

    Both were measured side by side in each round, so what disturbed a round cancels out.
    """
    ratios = np.array([np.median(a) / np.median(b) for a, b in zip(rounds, baseline, strict=True)])
    return float(np.median(ratios)), _interval(ratios, seed)


def noise_floor(again: Sequence[Samples], baseline: Sequence[Samples]) -> float:
    """By how much two processes that run the same thing may differ here: as far as their ratio's interval reaches."""
    _, (low, high) = ratio(again, baseline)
    return max(LEAST_DIFFERENCE, abs(low - 1), abs(high - 1))


def verdict(interval: tuple[float, float], floor: float) -> str:
    """What an interval of a ratio says: `faster` or `slower` only where all of it is further from 1 than the floor."""
    low, high = interval
    if high < 1 - floor:
        return "faster"
    return "slower" if low > 1 + floor else NO_DIFFERENCE


def slower_by(new: Sequence[float], old: Sequence[float]) -> tuple[float, float]:
    """How many times slower one set of medians is than another, and the probability of that by chance.

    The medians of rounds that were not taken side by side, each within one process; what differs from one process to
    the next is not in them. The ratio of their medians, and the one-sided rank test of
    Mann and Whitney (1947), by its normal approximation, which holds from about eight rounds on.
    """
    a, b = np.asarray(new), np.sort(np.asarray(old))
    # Pairs in which the new one is slower; equal ones count half.
    wins = float((np.searchsorted(b, a, "left") + np.searchsorted(b, a, "right")).sum()) / 2
    pairs = a.size * b.size
    deviations = (wins - pairs / 2 - 0.5) / math.sqrt(pairs * (a.size + b.size + 1) / 12)
    return float(np.median(a) / np.median(b)), math.erfc(deviations / math.sqrt(2)) / 2


def holm(probabilities: Sequence[float], level: float = 0.05) -> list[bool]:
    """Which of several tests hold at a level for all of them together (Holm, 1979)."""
    order = np.argsort(probabilities)
    held = [False] * len(order)
    for rank, index in enumerate(order):
        if probabilities[index] > level / (len(order) - rank):
            break
        held[index] = True
    return held


def _interval(values: Samples, seed: int) -> tuple[float, float]:
    """95 % percentile bootstrap of the median (Efron and Tibshirani, 1993, section 13.3)."""
    drawn = np.random.default_rng(seed).choice(values, (RESAMPLES, values.size))
    low, high = np.percentile(np.median(drawn, axis=1), [2.5, 97.5])
    return float(low), float(high)
