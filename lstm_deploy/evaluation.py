"""What a network is worth on data that it never saw, beside what the simplest forecasts are worth. No PyTorch."""

import math
from typing import Any

import numpy as np
from msgspec import Struct

from lstm_deploy.data import Values
from lstm_deploy.signature import Array

LONGEST_SEASON = 1000
"""Steps of the longest season that is looked for."""


class Compared(Struct, frozen=True, kw_only=True):
    """Values beside the truth, `[rows, targets]` each."""

    truth: Values
    prediction: Values
    labels: tuple[str, ...]
    noiseless: bool = False
    """Whether the truth is what was generated, without its noise."""


class Evaluation(Struct, frozen=True, kw_only=True):
    """Metrics on held-out data by name, those of baselines beside them, and what their plots need."""

    metrics: dict[str, Any]
    forecast: Compared | None = None
    """One step ahead."""
    rollout: Compared | None = None
    """Many steps ahead, from the network's own predictions."""
    confusion: Array | None = None
    """Texts by their true label (rows) and the one that was told (columns)."""


def forecast_metrics(
    prediction: Array, values: Values, start: int, columns: tuple[int, ...], fit_end: int, season: int | None
) -> dict[str, Any]:
    """Errors of forecasts in raw units, with those of the naive and the seasonal naive forecast of the same rows.

    `prediction` is `[rows, horizon, targets]`, of which entry `[r, s]` tells row `start + r + s` of `values`; `columns`
    are those of the targets. MASE (Hyndman and Koehler, 2006) is the mean absolute error divided by that of the naive
    forecast one step ahead in the rows up to `fit_end`, `mase_seasonal` by that of the seasonal one; the mean over
    targets, each in its own unit.
    """
    rows, horizon, _ = prediction.shape
    series = values[:, columns]
    ends = start + np.arange(rows)[:, None]
    steps = np.arange(horizon)
    truth = series[ends + steps]
    naive = np.broadcast_to(series[ends - 1], truth.shape)
    metrics: dict[str, Any] = {"rows": rows, **_errors(prediction, truth)}
    history = series[:fit_end]
    metrics["mase"] = _scaled(prediction, truth, history, 1)
    metrics |= {f"naive_{name}": value for name, value in _errors(naive, truth).items()}
    metrics["naive_mase"] = _scaled(naive, truth, history, 1)
    if season and season < fit_end and start >= season:
        # The latest known value of the same phase: steps beyond one season look more than one back.
        seasonal = series[ends + steps - season * (steps // season + 1)]
        metrics["season"] = season
        metrics["mase_seasonal"] = _scaled(prediction, truth, history, season)
        metrics |= {f"seasonal_naive_{name}": value for name, value in _errors(seasonal, truth).items()}
    if horizon > 1:
        metrics["rmse_by_step"] = [_errors(prediction[:, step], truth[:, step])["rmse"] for step in steps]
    return metrics


def find_season(history: Values) -> int | None:
    """Steps of the season of a series `[rows]`, or none.

    It is the first lag of nearly the highest autocorrelation, without the trend, beyond the first lag at which that is
    negative, if the seasonal naive forecast is better than the naive one there.
    """
    rows = len(history)
    time = np.arange(rows) - (rows - 1) / 2
    centred = history - history.mean()
    centred = centred - time * (time @ centred) / max(time @ time, 1)
    power = np.abs(np.fft.rfft(centred, 2 * rows)) ** 2
    lags = min(rows // 3, LONGEST_SEASON)
    correlation = np.fft.irfft(power)[: lags + 1] / np.arange(rows, rows - lags - 1, -1)  # unbiased
    negative = np.flatnonzero(correlation < 0)
    if not negative.size or negative[0] >= lags:
        return None
    high = correlation >= 0.95 * correlation[negative[0] :].max()
    high[: negative[0]] = False
    begin = int(high.argmax())
    end = begin + int(np.append(~high[begin:], True).argmax())
    season = begin + int(correlation[begin:end].argmax())
    seasonal, naive = (np.abs(history[lag:] - history[:-lag]).mean() for lag in (season, 1))
    return season if season > 1 and seasonal < naive else None


def rmse(prediction: Array, truth: Array) -> float:
    """Root of the mean squared difference."""
    return float(np.sqrt(np.mean(np.square(prediction - truth))))


def classification_metrics(confusion: Array) -> dict[str, Any]:
    """Accuracy and macro-F1, with those of always telling the most frequent label."""
    naive = np.zeros_like(confusion)
    naive[:, confusion.sum(1).argmax()] = confusion.sum(1)
    metrics = {"texts": int(confusion.sum()), "accuracy": _accuracy(confusion), "macro_f1": _macro_f1(confusion)}
    return metrics | {"naive_accuracy": _accuracy(naive), "naive_macro_f1": _macro_f1(naive)}


def confusion_of(truth: Array, told: Array, labels: int) -> Array:
    """How many of each label (rows) were told to be each (columns)."""
    counts = np.zeros((labels, labels), np.int64)
    np.add.at(counts, (truth, told), 1)
    return counts


def text_metrics(nats: float, naive: float, tokens: int, unit: str) -> dict[str, Any]:
    """Cross-entropy of each token in nats and bits, with that of a baseline; `unit` says what one is."""
    return {
        f"{unit}s": tokens,
        f"nats_per_{unit}": nats,
        f"bits_per_{unit}": nats / math.log(2),
        f"naive_nats_per_{unit}": naive,
        f"naive_bits_per_{unit}": naive / math.log(2),
    }


def bigram_nats(train: Array, test: Array, size: int) -> float:
    """Cross-entropy of the frequencies of pairs in the training part, with 1 added to each count."""
    counts = np.ones((size, size))
    np.add.at(counts, (train[:-1], train[1:]), 1)
    probability = counts / counts.sum(axis=1, keepdims=True)
    return float(-np.log(probability[test[:-1], test[1:]]).mean())


def _errors(prediction: Array, truth: Array) -> dict[str, float]:
    return {"rmse": rmse(prediction, truth), "mae": float(np.abs(prediction - truth).mean())}


def _scaled(prediction: Array, truth: Array, history: Values, lag: int) -> float | None:
    """None where the naive forecast of the training part makes no error."""
    scale = np.abs(history[lag:] - history[:-lag]).mean(axis=0)
    if not (scale > 0).all():
        return None
    return float((np.abs(prediction - truth).mean(axis=tuple(range(truth.ndim - 1))) / scale).mean())


def _accuracy(confusion: Array) -> float:
    return float(np.trace(confusion) / confusion.sum())


def _macro_f1(confusion: Array) -> float:
    """The mean of F1 over labels; 0 for one that is neither there nor told."""
    right = np.diag(confusion)
    both = confusion.sum(0) + confusion.sum(1)
    return float(np.divide(2 * right, both, out=np.zeros(len(both)), where=both > 0).mean())
