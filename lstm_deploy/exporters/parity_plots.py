"""Plots of parity: differences beside their tolerances, and over carried steps."""

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from lstm_deploy.artifacts import BLUE, GREEN, GREY, ORANGE, PURPLE, RED, ParityReport

STYLES = ((BLUE, "o"), (ORANGE, "s"), (GREY, "^"), (GREEN, "D"), (PURPLE, "v"), (RED, "P"))
"""Colour and marker of each artifact."""


def parity_plot(report: ParityReport) -> Figure:
    """The difference of each check relative to its tolerance, on a log scale: right of 1 fails."""
    checks = [check for check in report.checks if check.max_abs is not None and check.tolerance]
    artifacts = list(dict.fromkeys(check.artifact for check in checks))
    rows = list(dict.fromkeys((check.name, check.output) for check in checks))
    figure = Figure(figsize=(7, 1.2 + 0.24 * len(rows)), layout="constrained")
    axes = figure.subplots()
    for artifact, (color, marker) in zip(artifacts, STYLES * len(artifacts), strict=False):
        own = [check for check in checks if check.artifact == artifact]
        severities = np.maximum([check.severity for check in own], 1e-6)  # a log scale has no 0
        heights = [rows.index((check.name, check.output)) for check in own]
        axes.plot(severities, heights, marker, color=color, label=artifact, alpha=0.8)
    axes.axvline(1, color="crimson", linewidth=1)
    axes.annotate("tolerance ", (1, len(rows) - 0.6), color="crimson", ha="right", fontsize=8)
    axes.set(xscale="log", xlabel="largest difference from PyTorch ÷ tolerance", ylim=(len(rows) - 0.4, -0.6))
    axes.minorticks_off()
    axes.set_yticks(range(len(rows)), [f"{name}: {output}" for name, output in rows])
    axes.grid(axis="x", alpha=0.3)
    figure.legend(loc="outside upper right", ncols=len(artifacts), fontsize=8)
    return figure


def error_plot(report: ParityReport) -> Figure:
    """For each output, its largest difference over carried steps, and the distribution of its differences."""
    outputs = list(dict.fromkeys(profile.output for profile in report.profiles))
    artifacts = list(dict.fromkeys(profile.artifact for profile in report.profiles))
    styles = dict(zip(artifacts, STYLES * len(artifacts), strict=False))
    figure = Figure(figsize=(8, 0.9 + 1.7 * len(outputs)), layout="constrained")
    panels = figure.subplots(len(outputs), 2, squeeze=False)
    for (curve, spread), output in zip(panels, outputs, strict=True):
        for profile in (profile for profile in report.profiles if profile.output == output):
            color, marker = styles[profile.artifact]
            if profile.steps:
                errors = np.maximum(profile.errors, 1e-9)
                curve.plot(profile.steps, errors, color=color, marker=marker, markersize=3, label=profile.artifact)
            powers = range(-len(profile.histogram) + 1, 1)
            share = np.divide(profile.histogram, max(sum(profile.histogram), 1))
            spread.step(powers, share, color=color, where="post", label=profile.artifact)
        top = 3 * max((error for p in report.profiles for error in p.errors), default=1e-4)
        curve.set(xscale="log", yscale="log", ylabel=output, ylim=(1e-9, max(top, 1e-4)))
        if not curve.lines:
            curve.annotate("no carried steps", (0.5, 0.5), xycoords="axes fraction", ha="center", color=GREY)
        spread.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        curve.minorticks_off()  # on log scales they take most of the time that a plot takes
        curve.grid(alpha=0.3)
        spread.grid(alpha=0.3)
    panels[0, 0].set_title("largest difference ÷ size, so far", fontsize=9, loc="left")
    panels[0, 1].set_title("share of entries that differ by 10ⁿ of their size", fontsize=9, loc="left")
    panels[-1, 0].set_xlabel("carried steps")
    panels[-1, 1].set_xlabel("n")
    handles, labels = panels[0, 1].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper right", ncols=len(artifacts), fontsize=8)
    return figure
