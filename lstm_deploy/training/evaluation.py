"""What a network is worth on data that it never saw, beside what the simplest forecasts are worth. No PyTorch."""

import math
from typing import Any

import numpy as np
from msgspec import Struct

from lstm_deploy.contract import Array
from lstm_deploy.training.data.series import Values

LONGEST_SEASON = 1000
"""Steps of the longest season that is looked for."""
LOOKED_AT = 20_000
"""Rows that a season is looked for in."""


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
    prediction: Array,
    values: Values,
    start: int,
    columns: tuple[int, ...],
    fit_end: int,
    season: int | None,
    names: tuple[str, ...] = (),
) -> dict[str, Any]:
    """Errors of forecasts in raw units, with those of the naive and the seasonal naive forecast of the same rows.

    `prediction` is `[rows, horizon, targets]`, of which entry `[r, s]` tells row `start + r + s` of `values`; `columns`
    are those of the targets. MASE (Hyndman and Koehler, 2006) is the mean absolute error divided by that of the naive
    forecast one step ahead in the rows up to `fit_end`, `mase_seasonal` by that of the seasonal one; the mean over
    targets, each in its own unit. RMSE and MAE are over all targets, and for several `names` also of each.
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
        metrics["seasonal_naive_mase"] = _scaled(seasonal, truth, history, 1)
    if horizon > 1:
        metrics["rmse_by_step"] = [rmse(prediction[:, step], truth[:, step]) for step in steps]
    if len(names) > 1:
        metrics["by_target"] = {
            name: {**_errors(prediction[..., n], truth[..., n]), "naive_rmse": rmse(naive[..., n], truth[..., n])}
            for n, name in enumerate(names)
        }
    return metrics


def find_season(history: Values) -> int | None:
    """Steps of the season of a series `[rows]`, or none.

    It is the lag of the seasonal naive forecast that is nearly the best one there, the shortest of these, if it is
    better than the naive one by more than chance would make it.
    """
    history = history[-LOOKED_AT:]
    lags = np.arange(1, min(len(history) // 3, LONGEST_SEASON) + 1)
    if len(lags) < 2:
        return None
    errors = np.array([np.abs(history[lag:] - history[:-lag]).mean() for lag in lags])
    good = np.append(errors[1:] <= 1.05 * errors[1:].min(), False)
    begin = int(good.argmax())
    end = begin + int((~good[begin:]).argmax())
    best = 1 + begin + int(errors[1 + begin : 1 + end].argmin())
    return int(lags[best]) if errors[best] < 0.95 * errors[0] else None


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
