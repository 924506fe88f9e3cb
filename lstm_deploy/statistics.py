"""Summaries of timed samples. They know nothing of what was timed."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Samples = NDArray[np.float64]

CALLS_FOR_P99 = 662
"""Fewer samples say nothing of the 99th percentile: with 662, its 95 % interval lies within the sample."""


def percentile(rounds: Sequence[Samples], percent: float) -> float | None:
    """A percentile over all samples of all rounds; none for one beyond what so few samples can tell."""
    samples = np.concatenate(rounds)
    if percent >= 99 and samples.size < CALLS_FOR_P99:
        return None
    return float(np.percentile(samples, percent))


def median_of_medians(rounds: Sequence[Samples]) -> float:
    """The typical sample, robust against a round that was disturbed as a whole."""
    return float(np.median([np.median(samples) for samples in rounds]))


def spread(rounds: Sequence[Samples]) -> float:
    """Half the interquartile range of the rounds' medians, as a part of the median: how far to trust it."""
    low, middle, high = np.percentile([np.median(samples) for samples in rounds], [25, 50, 75])
    return float((high - low) / 2 / middle)


def ratio(
    rounds: Sequence[Samples], baseline: Sequence[Samples], *, seed: int = 0, resamples: int = 2000
) -> tuple[float, tuple[float, float]]:
    """The median over rounds of `median(rounds[i]) / median(baseline[i])`, with its 95 % bootstrap interval.

    Both were measured side by side in each round, so what disturbed a round cancels out. The interval is the
    percentile bootstrap (Efron and Tibshirani, 1993, section 13.3) over rounds.
    """
    ratios = np.array([np.median(a) / np.median(b) for a, b in zip(rounds, baseline, strict=True)])
    drawn = np.random.default_rng(seed).choice(ratios, (resamples, ratios.size))
    low, high = np.percentile(np.median(drawn, axis=1), [2.5, 97.5])
    return float(np.median(ratios)), (float(low), float(high))
