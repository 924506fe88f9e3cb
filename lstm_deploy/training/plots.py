"""Plots of a training and of what it is worth, and of a forecast. No PyTorch."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from lstm_deploy.artifacts import BLUE, GREY, ORANGE
from lstm_deploy.contract import Array, Classify, Forecast, Task
from lstm_deploy.training.evaluation import Compared, Evaluation
from lstm_deploy.training.fit_log import Epoch

SHOWN_ROWS = 300
"""Held-out rows that are drawn beside their prediction."""
LARGEST_CONFUSION = 40
"""Labels of a confusion matrix that is drawn."""
NUMBERED = 12
"""Labels of one whose cells bear numbers."""


def plots(history: Sequence[Epoch], evaluation: Evaluation, task: Task) -> dict[str, Figure]:
    """Every plot that a training gives, by name; the one that tells most is the first."""
    metrics, found = evaluation.metrics, {}
    if isinstance(task, Forecast) and (shown := evaluation.forecast):
        title = "one step" if task.horizon == 1 else f"the first of {task.horizon} steps"
        title += " ahead on held-out rows"
        if len(task.targets) == task.horizon == 1:
            title += f": RMSE {metrics['rmse']:.4g}, naive {metrics['naive_rmse']:.4g}"
            if "seasonal_naive_rmse" in metrics:
                title += f", seasonal naive {metrics['seasonal_naive_rmse']:.4g}"
        latest = slice(-SHOWN_ROWS, None)
        found["prediction"] = forecast_plot(
            task.targets,
            shown.labels[latest],
            shown.truth[latest],
            shown.prediction[latest],
            beside=True,
            title=title + (f", the last {SHOWN_ROWS}" if len(shown.truth) > SHOWN_ROWS else ""),
        )
        found["residuals"] = residual_plot(task.targets, shown)
    if isinstance(task, Forecast) and (rolled := evaluation.rollout):
        title = f"{len(rolled.truth)} steps ahead from its own predictions: RMSE {metrics['rollout_rmse']:.4g}"
        title += ", beside the noiseless series" if rolled.noiseless else ""
        found["rollout"] = forecast_plot(
            task.targets, rolled.labels, rolled.truth, rolled.prediction, beside=True, title=title
        )
    if isinstance(task, Classify) and evaluation.confusion is not None and len(task.labels) <= LARGEST_CONFUSION:
        found["confusion"] = confusion_plot(evaluation.confusion, task.labels)
    naive = next((value for name, value in metrics.items() if name.startswith("naive_nats_per_")), None)
    found["loss"] = loss_plot(history, naive)
    return found


def forecast_plot(
    names: Sequence[str],
    labels: Sequence[str],
    history: Array,
    forecast: Array,
    *,
    beside: bool = False,
    title: str = "",
) -> Figure:
    """One panel for each target: what was (`[rows, targets]`) and what was predicted.

    The forecast follows the history, or stands `beside` it, row for row.
    """
    figure = Figure(figsize=(8, 0.6 + 2.8 * len(names)), layout="constrained")
    panels = figure.subplots(len(names), sharex=True, squeeze=False)[:, 0]
    first = 0 if beside else len(history)
    for column, (name, axes) in enumerate(zip(names, panels, strict=True)):
        past, future = history[:, column], forecast[:, column]
        past_style = {"color": "#b9c4d0", "linewidth": 2.4} if beside else {"color": GREY, "linewidth": 1.2}
        axes.plot(range(len(past)), past, label="truth" if beside else "history", **past_style)
        if not beside:  # connected with the latest value that is known
            axes.plot([first - 1, first], [past[-1], future[0]], color=ORANGE, linewidth=0.9, linestyle=":")
        axes.plot(
            range(first, first + len(future)),
            future,
            color=ORANGE,
            linewidth=0.9,
            label="prediction" if beside else "forecast",
            marker="o" if len(future) == 1 else None,
            markersize=4,
        )
        axes.set_ylabel(name, parse_math=False)
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    panels[0].set_title(title, fontsize=10, loc="left")
    _label_rows(panels[-1], labels)
    return figure


def residual_plot(names: Sequence[str], shown: Compared) -> Figure:
    """For each target a panel of its errors row by row, and one of how they are distributed."""
    figure = Figure(figsize=(8, 0.6 + 2.2 * len(names)), layout="constrained")
    panels = figure.subplots(len(names), 2, squeeze=False, width_ratios=(3, 1), sharex="col", sharey="row")
    for column, (name, (course, spread)) in enumerate(zip(names, panels, strict=True)):
        errors = shown.prediction[:, column] - shown.truth[:, column]
        course.plot(errors, ".", color=BLUE, markersize=3)
        course.axhline(0, color=GREY, linewidth=0.9)
        course.set_ylabel(name, parse_math=False)
        course.grid(alpha=0.3)
        margin = 1e-3 * np.abs(errors).max() + 1e-9  # so that errors which are all the same have a bin, too
        spread.hist(
            errors,
            bins=min(40, max(5, len(errors) // 5)),
            range=(errors.min() - margin, errors.max() + margin),
            orientation="horizontal",
            color=BLUE,
            alpha=0.7,
        )
        spread.axhline(errors.mean(), color=ORANGE, linewidth=1.2, label=f"mean {errors.mean():.3g}")
        spread.legend(fontsize=8)
    panels[0, 0].set_title("prediction − truth on held-out rows", fontsize=10, loc="left")
    _label_rows(panels[-1, 0], shown.labels, ticks=4)
    panels[-1, 1].set_xlabel("rows")
    return figure


def confusion_plot(confusion: Array, labels: Sequence[str]) -> Figure:
    """The part of each true label (rows) that was told to be each (columns)."""
    size = 2.2 + 0.45 * len(labels)
    figure = Figure(figsize=(size + 0.6, size), layout="constrained")
    axes = figure.subplots()
    parts = confusion / np.maximum(confusion.sum(1, keepdims=True), 1)
    image = axes.imshow(parts, cmap="Blues", vmin=0, vmax=1)
    ticks = range(len(labels))
    axes.set_xticks(ticks, labels, rotation=90, parse_math=False)
    axes.set_yticks(ticks, labels, parse_math=False)
    axes.set(xlabel="told", ylabel="true")
    if len(labels) <= NUMBERED:
        for row, column in np.ndindex(confusion.shape):
            color = "white" if parts[row, column] > 0.6 else "black"
            axes.text(column, row, f"{confusion[row, column]}", ha="center", va="center", color=color, fontsize=8)
    figure.colorbar(image, ax=axes, shrink=0.8, label="part of the true label")
    return figure


def loss_plot(history: Sequence[Epoch], naive: float | None) -> Figure:
    """The loss of each epoch, in training and validation, and a naive baseline's where it is comparable."""
    figure = Figure(figsize=(7, 3.2), layout="constrained")
    axes = figure.subplots()
    epochs = [epoch.epoch for epoch in history]
    style: dict[str, Any] = {"marker": "o", "markersize": 3} if len(epochs) <= 60 else {}
    axes.plot(epochs, [epoch.train_loss for epoch in history], color=GREY, label="training", **style)
    validated = [epoch.validation_loss for epoch in history if epoch.validation_loss is not None]
    if validated:
        axes.plot(epochs, validated, color=BLUE, label="validation", **style)
    if naive is not None:
        axes.axhline(naive, color=ORANGE, linestyle="--", label="bigram baseline on held-out text")
    losses = [epoch.train_loss for epoch in history] + validated
    if min(losses) > 0 and max(losses) > 20 * min(losses):
        axes.set_yscale("log")
    axes.set(xlabel="epoch", ylabel="loss")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    return figure


def _label_rows(axes: Axes, labels: Sequence[str], ticks: int = 6) -> None:
    """A few of the labels along the x axis."""
    if not labels:
        return
    rows = np.unique(np.linspace(0, len(labels) - 1, ticks).round().astype(int))
    axes.set_xticks(rows, [labels[row] for row in rows], fontsize=8)
