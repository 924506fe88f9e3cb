"""Plots of a training, of its evaluation, and of a forecast. No PyTorch."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from lstm_deploy.artifacts import BLUE, GREY, ORANGE
from lstm_deploy.contract import Array, Classify, Forecast, Task
from lstm_deploy.training.evaluation import Evaluation, Predictions
from lstm_deploy.training.run_folder import Epoch

SHOWN_ROWS = 300
"""The latest held-out rows, which are plotted."""
LARGEST_CONFUSION = 40
"""Most labels of a confusion matrix that is plotted."""
NUMBERED_CONFUSION = 12
"""Most labels of a confusion matrix whose cells show their counts."""


def plots(history: Sequence[Epoch], evaluation: Evaluation, task: Task) -> dict[str, Figure]:
    """Every plot of a training, by name, the most informative first."""
    metrics, figures = evaluation.metrics, {}
    if isinstance(task, Forecast) and (one_step := evaluation.forecast):
        title = "one step" if task.horizon == 1 else f"the first of {task.horizon} steps"
        title += " ahead on held-out rows"
        if len(task.targets) == task.horizon == 1:
            title += f": RMSE {metrics['rmse']:.4g}, naive {metrics['naive_rmse']:.4g}"
            if "seasonal_naive_rmse" in metrics:
                title += f", seasonal naive {metrics['seasonal_naive_rmse']:.4g}"
        latest = slice(-SHOWN_ROWS, None)
        figures["prediction"] = forecast_plot(
            task.targets,
            one_step.labels[latest],
            one_step.truth[latest],
            one_step.prediction[latest],
            overlay=True,
            title=title + (f", the last {SHOWN_ROWS}" if len(one_step.truth) > SHOWN_ROWS else ""),
        )
        figures["residuals"] = residual_plot(task.targets, one_step)
    if isinstance(task, Forecast) and (rollout := evaluation.rollout):
        title = f"{len(rollout.truth)} steps ahead from its own predictions: RMSE {metrics['rollout_rmse']:.4g}"
        title += ", beside the noiseless series" if rollout.noiseless else ""
        figures["rollout"] = forecast_plot(
            task.targets, rollout.labels, rollout.truth, rollout.prediction, overlay=True, title=title
        )
    if isinstance(task, Classify) and evaluation.confusion is not None and len(task.labels) <= LARGEST_CONFUSION:
        figures["confusion"] = confusion_plot(evaluation.confusion, task.labels)
    naive = next((value for name, value in metrics.items() if name.startswith("naive_nats_per_")), None)
    figures["loss"] = loss_plot(history, naive)
    return figures


def forecast_plot(
    names: Sequence[str],
    labels: Sequence[str],
    history: Array,
    forecast: Array,
    *,
    overlay: bool = False,
    title: str = "",
) -> Figure:
    """One panel per target: the history and the forecast, `[rows, targets]` each.

    The forecast follows the history, or with `overlay` covers the same rows.
    """
    figure = Figure(figsize=(8, 0.6 + 2.8 * len(names)), layout="constrained")
    panels = figure.subplots(len(names), sharex=True, squeeze=False)[:, 0]
    first = 0 if overlay else len(history)
    for column, (name, axes) in enumerate(zip(names, panels, strict=True)):
        past, future = history[:, column], forecast[:, column]
        past_style = {"color": "#b9c4d0", "linewidth": 2.4} if overlay else {"color": GREY, "linewidth": 1.2}
        style: dict[str, Any] = {"color": ORANGE, "linewidth": 0.9}
        axes.plot(range(len(past)), past, label="truth" if overlay else "history", **past_style)
        if not overlay:  # connect the forecast with the latest value
            axes.plot([first - 1, first], [past[-1], future[0]], linestyle=":", **style)
        style |= {"marker": "o", "markersize": 4} if len(future) == 1 else {}
        axes.plot(range(first, first + len(future)), future, label="prediction" if overlay else "forecast", **style)
        axes.set_ylabel(name, parse_math=False)
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    panels[0].set_title(title, fontsize=10, loc="left")
    _label_rows(panels[-1], labels)
    return figure


def residual_plot(names: Sequence[str], predictions: Predictions) -> Figure:
    """For each target, one panel of its errors by row and one of their distribution."""
    figure = Figure(figsize=(8, 0.6 + 2.2 * len(names)), layout="constrained")
    panels = figure.subplots(len(names), 2, squeeze=False, width_ratios=(3, 1), sharex="col", sharey="row")
    for column, (name, (course, spread)) in enumerate(zip(names, panels, strict=True)):
        errors = predictions.prediction[:, column] - predictions.truth[:, column]
        course.plot(errors, ".", color=BLUE, markersize=3)
        course.axhline(0, color=GREY, linewidth=0.9)
        course.set_ylabel(name, parse_math=False)
        course.grid(alpha=0.3)
        margin = 1e-3 * np.abs(errors).max() + 1e-9  # a bin needs a width even if all errors are equal
        edges = np.linspace(errors.min() - margin, errors.max() + margin, 1 + min(40, max(5, len(errors) // 5)))
        spread.hist(errors, edges, orientation="horizontal", color=BLUE, alpha=0.7)
        spread.axhline(errors.mean(), color=ORANGE, linewidth=1.2, label=f"mean {errors.mean():.3g}")
        spread.legend(fontsize=8)
    panels[0, 0].set_title("prediction − truth on held-out rows", fontsize=10, loc="left")
    _label_rows(panels[-1, 0], predictions.labels, ticks=4)
    panels[-1, 1].set_xlabel("rows")
    return figure


def confusion_plot(confusion: Array, labels: Sequence[str]) -> Figure:
    """The fraction of each true label (rows) that was predicted as each label (columns)."""
    size = 2.2 + 0.45 * len(labels)
    figure = Figure(figsize=(size + 0.6, size), layout="constrained")
    axes = figure.subplots()
    fractions = confusion / np.maximum(confusion.sum(1, keepdims=True), 1)
    image = axes.imshow(fractions, cmap="Blues", vmin=0, vmax=1)
    ticks = range(len(labels))
    axes.set_xticks(ticks, labels, rotation=90, parse_math=False)
    axes.set_yticks(ticks, labels, parse_math=False)
    axes.set(xlabel="predicted", ylabel="true")
    if len(labels) <= NUMBERED_CONFUSION:
        for row, column in np.ndindex(confusion.shape):
            color = "white" if fractions[row, column] > 0.6 else "black"
            axes.text(column, row, f"{confusion[row, column]}", ha="center", va="center", color=color, fontsize=8)
    figure.colorbar(image, ax=axes, shrink=0.8, label="fraction of the true label")
    return figure


def loss_plot(history: Sequence[Epoch], naive: float | None) -> Figure:
    """The training and validation loss of each epoch, and that of a baseline where it is comparable."""
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
    """Show a few evenly spaced labels along the x axis."""
    rows = np.unique(np.linspace(0, len(labels) - 1, ticks).round().astype(int))
    axes.set_xticks(rows, [labels[row] for row in rows], fontsize=8)
