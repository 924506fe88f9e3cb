"""Plots of a training, of its evaluation, and of a forecast. No PyTorch."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from lstm_deploy.artifacts import plot_style as style
from lstm_deploy.contract import Array, Classify, Forecast, LanguageModel, Task
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
        title = "One step" if task.horizon == 1 else f"The first of {task.horizon} steps"
        title += " ahead on held-out rows"
        if len(one_step.truth) > SHOWN_ROWS:
            title += f", the last {SHOWN_ROWS}"
        if len(task.targets) == task.horizon == 1:
            title += f"\nRMSE {metrics['rmse']:.4g}, naive {metrics['naive_rmse']:.4g}"
            if "seasonal_naive_rmse" in metrics:
                title += f", seasonal naive {metrics['seasonal_naive_rmse']:.4g}"
        latest = slice(-SHOWN_ROWS, None)
        figures["prediction"] = forecast_plot(
            task.targets,
            one_step.labels[latest],
            one_step.truth[latest],
            one_step.prediction[latest],
            overlay=True,
            title=title,
        )
        figures["residuals"] = residual_plot(task.targets, one_step)
    if isinstance(task, Forecast) and (rollout := evaluation.rollout):
        title = f"{len(rollout.truth)} steps ahead from its own predictions\nRMSE {metrics['rollout_rmse']:.4g}"
        title += ", beside the noiseless series" if rollout.noiseless else ""
        figures["rollout"] = forecast_plot(
            task.targets, rollout.labels, rollout.truth, rollout.prediction, overlay=True, title=title
        )
    if isinstance(task, Classify) and evaluation.confusion is not None and len(task.labels) <= LARGEST_CONFUSION:
        figures["confusion"] = confusion_plot(evaluation.confusion, task.labels)
    figures["loss"] = loss_plot(history, evaluation, task)
    return figures


def forecast_plot(
    names: Sequence[str],
    labels: Sequence[str],
    history: Array,
    forecast: Array,
    *,
    overlay: bool = False,
    title: str = "Forecast",
) -> Figure:
    """One panel per target, in its own unit: the history and the forecast, `[rows, targets]` each.

    The forecast follows the history, or with `overlay` covers the same rows.
    """
    figure = style.new_figure(8, 1.2 + 2.4 * len(names))
    panels = figure.subplots(len(names), sharex=True, squeeze=False)[:, 0]
    first = 0 if overlay else len(history)
    thick: dict[str, Any] = {"color": style.GREY, "alpha": 0.45 if overlay else 1, "linewidth": 3 if overlay else 1.5}
    thin: dict[str, Any] = {"color": style.ORANGE, "linewidth": 1.2}
    dots = {"marker": "o", "markersize": 4} if len(forecast) == 1 else {}
    for column, (name, axes) in enumerate(zip(names, panels, strict=True)):
        past, future = history[:, column], forecast[:, column]
        axes.plot(range(len(past)), past, label="truth" if overlay else "history", **thick)
        if not overlay:  # connect the forecast with the latest value
            axes.plot([first - 1, first], [past[-1], future[0]], linestyle=":", **thin)
        label = "prediction" if overlay else "forecast"
        axes.plot(range(first, first + len(future)), future, label=label, **thin, **dots)
        style.finish(axes, y=name)
    _label_rows(panels[-1], labels)
    style.headline(figure, title, panels[0].get_legend_handles_labels()[0])
    return figure


def residual_plot(names: Sequence[str], predictions: Predictions) -> Figure:
    """For each target, one panel of its errors by row and one of their distribution."""
    figure = style.new_figure(8, 1.2 + 2.2 * len(names))
    panels = figure.subplots(len(names), 2, squeeze=False, width_ratios=(3, 1), sharex="col", sharey="row")
    for column, (name, (course, spread)) in enumerate(zip(names, panels, strict=True)):
        errors = predictions.prediction[:, column] - predictions.truth[:, column]
        course.plot(errors, ".", color=style.BLUE, markersize=4)
        course.axhline(0, color=style.GREY, linewidth=1)
        margin = 1e-3 * np.abs(errors).max() + 1e-9  # a bin needs a width even if all errors are equal
        edges = np.linspace(errors.min() - margin, errors.max() + margin, 1 + min(40, max(5, len(errors) // 5)))
        spread.hist(errors, edges, orientation="horizontal", color=style.BLUE, alpha=0.7)
        spread.axhline(errors.mean(), color=style.ORANGE, linewidth=1.5)
        style.panel_title(spread, f"line: mean {errors.mean():.3g}")
        style.finish(course, y=f"error of {name}")
        style.finish(spread)
    _label_rows(panels[-1, 0], predictions.labels, ticks=4)
    style.finish(panels[-1, 1], "rows")
    style.headline(figure, "Errors on held-out rows: prediction − truth")
    return figure


def confusion_plot(confusion: Array, labels: Sequence[str]) -> Figure:
    """The fraction of each true label (rows) that was predicted as each label (columns)."""
    size = 2.6 + 0.5 * len(labels)
    figure = style.new_figure(size + 0.8, size)
    axes = figure.subplots()
    fractions = confusion / np.maximum(confusion.sum(1, keepdims=True), 1)
    image = axes.imshow(fractions, cmap=style.SEQUENTIAL, vmin=0, vmax=1)
    ticks = range(len(labels))
    axes.set_xticks(ticks, labels, rotation=90, parse_math=False)
    axes.set_yticks(ticks, labels, parse_math=False)
    style.finish(axes, "predicted label", "true label")
    axes.grid(visible=False)
    if len(labels) <= NUMBERED_CONFUSION:
        for row, column in np.ndindex(confusion.shape):
            color = "white" if fractions[row, column] > 0.5 else "black"
            centre: dict[str, Any] = {"ha": "center", "va": "center", "color": color, "fontsize": style.SMALL}
            axes.text(column, row, f"{confusion[row, column]}", **centre)
    bar = figure.colorbar(image, ax=axes, shrink=0.8)
    bar.set_label("part of the true label", fontsize=style.TEXT)
    bar.ax.tick_params(labelsize=style.SMALL)
    style.headline(figure, "Texts by true and predicted label")
    return figure


def loss_plot(history: Sequence[Epoch], evaluation: Evaluation, task: Task) -> Figure:
    """The training and validation loss of each epoch, and that of a baseline where it is comparable."""
    figure = style.new_figure(7, 3.6)
    axes = figure.subplots()
    epochs = [epoch.epoch for epoch in history]
    line: dict[str, Any] = {"linestyle": "-", "markersize": 4 if len(epochs) <= 60 else 0}
    axes.plot(epochs, [epoch.train_loss for epoch in history], "s", color=style.GREY, label="training", **line)
    validated = [epoch.validation_loss for epoch in history if epoch.validation_loss is not None]
    if validated:
        axes.plot(epochs, validated, "o", color=style.BLUE, label="validation", **line)
    naive = next((value for name, value in evaluation.metrics.items() if name.startswith("naive_nats_per_")), None)
    if naive is not None:
        axes.axhline(naive, color=style.ORANGE, linestyle="--", label="bigram baseline on held-out text")
    losses = [epoch.train_loss for epoch in history] + validated
    if min(losses) > 0 and max(losses) > 20 * min(losses):
        axes.set_yscale("log")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    style.finish(axes, "epoch", f"loss ({_unit_of_loss(task)})")
    style.headline(figure, "Loss by epoch", axes.get_legend_handles_labels()[0])
    return figure


def _unit_of_loss(task: Task) -> str:
    match task:
        case Forecast():
            return "mean square of scaled errors"
        case LanguageModel(unit=unit):
            return f"nats per {unit}"
        case _:
            return "nats per text"


def _label_rows(axes: Axes, labels: Sequence[str], ticks: int = 6) -> None:
    """Show a few evenly spaced labels along the x axis."""
    rows = np.unique(np.linspace(0, len(labels) - 1, ticks).round().astype(int))
    axes.set_xticks(rows, [labels[row] for row in rows], parse_math=False)
