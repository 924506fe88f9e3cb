"""How all plots look, in one place: colours, sizes of text, titles, legends and axes.

A plot is saved with two pixels to the point and has no text below `SMALL` points, so it can be read at half its size.
"""

import logging
import textwrap
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

BLUE, ORANGE, GREEN, PURPLE, AMBER, GREY = "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#6f6f6f"
"""Of the palette by Okabe and Ito, which all kinds of colour vision tell apart; grey is for backgrounds."""
SERIES = ((BLUE, "o"), (ORANGE, "s"), (GREEN, "^"), (PURPLE, "D"), (AMBER, "v"), (GREY, "P"))
"""Colour and marker of each of several things that are drawn alike, so that neither has to be told alone."""
SEQUENTIAL = "Blues"
"""Colour map of amounts: of one hue, so that lightness alone tells them."""
DPI = 144
TITLE, TEXT, SMALL = 12, 10, 9
"""Points of a figure's title, of a panel's and of axis labels, and of ticks and legends."""
CHARACTER = 0.55
"""Width of a character, as a part of its size."""


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of so many inches, whose parts keep clear of each other."""
    logging.getLogger("matplotlib.font_manager").setLevel(logging.ERROR)  # fonts that a machine has not
    return Figure(figsize=(width, height), dpi=DPI, layout="constrained")


def headline(figure: Figure, title: str, handles: Sequence[Artist] = ()) -> None:
    """A title over all panels, and under it a legend of the handles in as many columns as fit."""
    inches = figure.get_figwidth()
    widths = [0.5 + CHARACTER * SMALL / 72 * len(str(handle.get_label())) for handle in handles]
    fitting = (
        columns
        for columns in range(len(handles), 1, -1)
        if sum(part.max() for part in np.array_split(widths, columns)) < inches
    )
    style: dict[str, Any] = {"fontsize": SMALL, "title_fontsize": TITLE, "frameon": False, "alignment": "left"}
    legend = figure.legend(
        handles=handles,
        title="\n".join(textwrap.fill(line, int(72 * inches / TITLE / CHARACTER)) for line in title.splitlines()),
        loc="outside upper left",
        ncols=next(fitting, 1),
        **style,
    )
    for text in (legend.get_title(), *legend.get_texts()):
        text.set_parse_math(False)  # names are no formulas


def legend_entry(color: str, label: str, marker: str = "o", **style: Any) -> Line2D:
    """An entry of a legend: a marker, unless `style` has a line."""
    label = f" {label}" if label.startswith("_") else label  # or matplotlib would leave it out
    return Line2D([], [], color=color, marker=marker, label=label, **{"linestyle": "", **style})


def panel_title(axes: Axes, title: str) -> None:
    """The title of one panel of several."""
    axes.set_title(title, fontsize=TEXT, loc="left", parse_math=False)


def finish(axes: Axes, x: str = "", y: str = "") -> None:
    """Label the axes, with units, and set grid, ticks and frame as all panels have them."""
    axes.minorticks_off()  # on log axes they take most of the time that a plot takes
    axes.tick_params(labelsize=SMALL)
    axes.grid(alpha=0.3)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    if x:
        axes.set_xlabel(x, fontsize=TEXT, parse_math=False)
    if y:
        axes.set_ylabel(y, fontsize=TEXT, parse_math=False)
