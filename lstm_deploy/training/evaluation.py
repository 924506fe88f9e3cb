"""Metrics on held-out data, with those of naive baselines. No PyTorch."""

import math
from typing import Any

import numpy as np
from msgspec import Struct

from lstm_deploy.contract import Array
from lstm_deploy.training.data.series import Values

LONGEST_SEASON = 1000
"""Steps in the longest season that is considered."""
SEASON_ROWS = 20_000
"""Number of the latest rows that are searched for a season."""


class Predictions(Struct, frozen=True, kw_only=True):
    """Predictions with the truth, `[rows, targets]` each, and the label of each row."""

    truth: Values
    prediction: Values
    labels: tuple[str, ...]
    noiseless: bool = False
    """Whether the truth is a generated series without its noise."""


class Evaluation(Struct, frozen=True, kw_only=True):
    """Metrics on held-out data, of the network and of baselines, and the predictions to plot."""

    metrics: dict[str, Any]
    forecast: Predictions | None = None
    """One step ahead."""
    rollout: Predictions | None = None
    """Many steps ahead, from the network's own predictions."""
    confusion: Array | None = None
    """Number of texts by true label (rows) and predicted label (columns)."""


def forecast_metrics(
    prediction: Array,
    values: Values,
    start: int,
    columns: tuple[int, ...],
    fit_end: int,
    season: int | None,
    names: tuple[str, ...] = (),
) -> dict[str, Any]:
    """Errors of forecasts in raw units, and those of the naive and the seasonal naive forecast for the same rows.

    Entry `[r, s]` of `prediction` `[rows, horizon, targets]` predicts row `start + r + s` of `values`, in `columns`.
    MASE (Hyndman and Koehler, 2006) divides the mean absolute error by that of the one-step naive forecast within the
    rows before `fit_end`, `mase_seasonal` by that of the seasonal one; both are means over targets, each in its own
    unit. RMSE and MAE are over all targets, and for several `names` also per target.
    """
    rows, horizon, _ = prediction.shape
    series = values[:, columns]
    ends = start + np.arange(rows)[:, None]
    steps = np.arange(horizon)
    truth, history = series[ends + steps], series[:fit_end]
    naive = np.broadcast_to(series[ends - 1], truth.shape)
    metrics: dict[str, Any] = {"rows": rows}
    metrics |= _errors(prediction, truth, history) | _errors(naive, truth, history, "naive_")
    if season and season < fit_end and start >= season:
        # The latest known value of the same phase: for steps beyond one season, more than one season back.
        seasonal = series[ends + steps - season * (steps // season + 1)]
        metrics |= {"season": season, "mase_seasonal": _mase(prediction, truth, history, season)}
        metrics |= _errors(seasonal, truth, history, "seasonal_naive_")
    if horizon > 1:
        metrics["rmse_by_step"] = [rmse(prediction[:, step], truth[:, step]) for step in steps]
    if len(names) > 1:
        by_target = ((name, prediction[..., n], truth[..., n], naive[..., n]) for n, name in enumerate(names))
        metrics["by_target"] = {
            name: {"rmse": rmse(y, expected), "mae": mae(y, expected), "naive_rmse": rmse(baseline, expected)}
            for name, y, expected, baseline in by_target
        }
    return metrics


def find_season(history: Values) -> int | None:
    """The length of a season in a series `[rows]`, in steps, if there is one.

    It is the shortest lag at which the seasonal naive forecast has nearly its smallest error (within 5 % and two of its
    standard errors, as one of several multiples of a season is the best by chance), if that is at least 5 % below the
    error of the naive forecast.
    """
    history = history[-SEASON_ROWS:]
    lags = np.arange(1, min(len(history) // 3, LONGEST_SEASON) + 1)
    if len(lags) < 2:
        return None
    errors = np.array([np.abs(history[lag:] - history[:-lag]).mean() for lag in lags])
    least = lags[1 + int(errors[1:].argmin())]
    differences = np.abs(history[least:] - history[:-least])
    good = np.append(errors[1:] <= 1.05 * errors[1:].min() + 2 * differences.std() / math.sqrt(len(differences)), False)
    begin = int(good.argmax())
    end = begin + int((~good[begin:]).argmax())
    best = 1 + begin + int(errors[1 + begin : 1 + end].argmin())
    return int(lags[best]) if errors[best] < 0.95 * errors[0] else None


def rmse(prediction: Array, truth: Array) -> float:
    """Root mean squared error."""
    return float(np.sqrt(np.mean(np.square(prediction - truth))))


def mae(prediction: Array, truth: Array) -> float:
    """Mean absolute error."""
    return float(np.abs(prediction - truth).mean())


def classification_metrics(confusion: Array) -> dict[str, Any]:
    """Accuracy and macro-F1, and those of always predicting the most frequent label."""
    naive = np.zeros_like(confusion)
    naive[:, confusion.sum(1).argmax()] = confusion.sum(1)
    metrics: dict[str, Any] = {"texts": int(confusion.sum())}
    for prefix, counts in (("", confusion), ("naive_", naive)):
        correct, total = np.diag(counts), counts.sum(0) + counts.sum(1)
        # F1 is 0 for a label that neither occurs nor is predicted.
        f1 = np.divide(2 * correct, total, out=np.zeros(len(total)), where=total > 0)
        metrics |= {f"{prefix}accuracy": float(correct.sum() / counts.sum()), f"{prefix}macro_f1": float(f1.mean())}
    return metrics


def confusion_matrix(truth: Array, predicted: Array, labels: int) -> Array:
    """Counts by true label (rows) and predicted label (columns)."""
    return np.bincount(truth * labels + predicted, minlength=labels**2).reshape(labels, labels)


def text_metrics(nats: float, naive: float, tokens: int, unit: str) -> dict[str, Any]:
    """Cross-entropy per token in nats and bits, and that of a baseline; `unit` is the name of a token."""
    return {
        f"{unit}s": tokens,
        f"nats_per_{unit}": nats,
        f"bits_per_{unit}": nats / math.log(2),
        f"naive_nats_per_{unit}": naive,
        f"naive_bits_per_{unit}": naive / math.log(2),
    }


def bigram_nats(train: Array, test: Array, size: int) -> float:
    """Cross-entropy of a bigram model with add-one smoothing, counted on `train`, over a vocabulary of `size`."""
    counts = np.ones((size, size))
    np.add.at(counts, (train[:-1], train[1:]), 1)
    probability = counts / counts.sum(axis=1, keepdims=True)
    return float(-np.log(probability[test[:-1], test[1:]]).mean())


def _errors(prediction: Array, truth: Array, history: Values, prefix: str = "") -> dict[str, float | None]:
    errors = {"rmse": rmse(prediction, truth), "mae": mae(prediction, truth), "mase": _mase(prediction, truth, history)}
    return {f"{prefix}{name}": error for name, error in errors.items()}


def _mase(prediction: Array, truth: Array, history: Values, lag: int = 1) -> float | None:
    """None where the naive forecast with that lag makes no error in `history`."""
    scale = np.abs(history[lag:] - history[:-lag]).mean(axis=0)
    if not (scale > 0).all():
        return None
    return float((np.abs(prediction - truth).mean(axis=tuple(range(truth.ndim - 1))) / scale).mean())
