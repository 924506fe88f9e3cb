"""Plots of parity: differences beside their tolerances, and over carried steps."""

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import PercentFormatter

from lstm_deploy.artifacts import ParityReport, plot_style as style


def parity_plot(report: ParityReport) -> Figure:
    """The difference of each check relative to its tolerance, on a log scale: right of 1 fails."""
    checks = [check for check in report.checks if check.is_measured]
    artifacts = list(dict.fromkeys(check.artifact for check in checks))
    rows = list(dict.fromkeys((check.name, check.output) for check in checks))
    styles = dict(zip(artifacts, style.SERIES * len(artifacts), strict=False))
    figure = style.new_figure(7, 1.8 + 0.22 * len(rows))
    axes = figure.subplots()
    for artifact, (color, marker) in styles.items():
        own = [check for check in checks if check.artifact == artifact]
        severities = np.maximum([check.severity for check in own], 1e-6)  # a log scale has no 0
        heights = [rows.index((check.name, check.output)) for check in own]
        axes.plot(severities, heights, marker, color=color, fillstyle="none", markeredgewidth=1.6)
    axes.axvline(1, color=style.ORANGE, linewidth=1.5)
    axes.annotate("allowed ", (1, len(rows) - 0.6), color=style.ORANGE, ha="right", fontsize=style.SMALL)
    axes.set(xscale="log", ylim=(len(rows) - 0.4, -0.6))
    axes.set_yticks(range(len(rows)), [f"{name}: {output}" for name, output in rows], parse_math=False)
    style.finish(axes, "largest difference from the reference ÷ what is allowed")
    style.headline(figure, "Differences in each check: left of the line passes", _entries(styles))
    return figure


def error_plot(report: ParityReport) -> Figure:
    """For each output, its largest difference over carried steps, and the distribution of its differences."""
    outputs = list(dict.fromkeys(profile.output for profile in report.profiles))
    artifacts = list(dict.fromkeys(profile.artifact for profile in report.profiles))
    styles = dict(zip(artifacts, style.SERIES * len(artifacts), strict=False))
    figure = style.new_figure(9, 1.4 + 1.9 * len(outputs))
    panels = figure.subplots(len(outputs), 2, squeeze=False, sharex="col")
    top = max(3 * max((error for p in report.profiles for error in p.errors), default=0), 1e-4)
    for (curve, spread), output in zip(panels, outputs, strict=True):
        for profile in (profile for profile in report.profiles if profile.output == output):
            color, marker = styles[profile.artifact]
            if profile.steps:
                errors = np.maximum(profile.errors, 1e-9)
                curve.plot(profile.steps, errors, color=color, marker=marker, markersize=5, fillstyle="none")
            powers = range(-len(profile.histogram) + 1, 1)
            share = np.divide(profile.histogram, max(sum(profile.histogram), 1))
            spread.plot(powers, share, color=color, marker=marker, markersize=5, fillstyle="none")
        curve.set(xscale="log", yscale="log", ylim=(1e-9, top))
        if not curve.lines:
            curve.annotate("no carried steps", (0.5, 0.5), xycoords="axes fraction", ha="center", color=style.GREY)
        spread.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        spread.set(ylim=(0, 1))
        style.finish(curve, y=output)
        style.finish(spread)
    style.panel_title(panels[0, 0], "Largest difference so far,\nrelative to the size of the output")
    style.panel_title(panels[0, 1], "Share of numbers by the power of ten\nof their relative difference")
    style.finish(panels[-1, 0], "steps with the state carried")
    style.finish(panels[-1, 1], "power of ten")
    style.headline(figure, "Differences from the reference", _entries(styles))
    return figure


def _entries(styles: Mapping[str, tuple[str, str]]) -> list[Line2D]:
    """An entry of the legend for each artifact; markers are hollow, as those of equal figures lie on each other."""
    return [style.legend_entry(color, name, marker, fillstyle="none") for name, (color, marker) in styles.items()]
