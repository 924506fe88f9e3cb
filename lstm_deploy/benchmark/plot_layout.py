"""The layout that plots of a benchmark share: rows grouped into panels, the grid of panels, and log axes."""

import math
from collections.abc import Callable, Iterable, Sequence
from itertools import groupby
from typing import Any, NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter

from lstm_deploy.artifacts import plot_style as style
from lstm_deploy.benchmark.tables import Document, Row

PRECISIONS = {"float32": style.BLUE, "int8": style.ORANGE, "float16": style.GREEN, "bfloat16": style.PURPLE}
"""Colours of precisions; any other is amber."""
MAX_COLUMNS = 3
TICK_STEPS = ((1, 1.5, 2, 3, 4, 5, 6, 8), (1, 2, 5), (1, 3), (1,))
"""Where a log axis may have ticks within each power of ten, from many to few."""


class Panel(NamedTuple):
    """One set of axes."""

    title: str
    line: object
    """Panels that agree in this share lines of the grid."""
    rows: list[Row]


def rows_of(document: Document, *, controls: bool = False) -> list[dict[str, Any]]:
    """The rows of a document; those of the A/A control only on request."""
    return [row for row in document["results"] if controls or not row["again"]]


def panels_of(rows: Iterable[Row], relation: str = "") -> list[Panel]:
    """A panel per case, ordered by size within each scenario and scope.

    With a `relation`, which stands before its name in the title, also per baseline.
    """
    cases: dict[tuple[str, str, str, int, int, int], list[Row]] = {}
    for row in rows:
        sizes = (row["threads"], row["seq_len"], row["batch"])
        cases.setdefault((row["scenario"], row["scope"], row["baseline"] if relation else "", *sizes), []).append(row)
    groups = list(dict.fromkeys(case[:2] for case in cases))
    baselines = list(dict.fromkeys(case[2] for case in cases))
    panels = []
    for case in sorted(cases, key=lambda case: (groups.index(case[:2]), baselines.index(case[2]), *case[3:])):
        scenario, scope, baseline, threads, seq_len, batch = case
        end = "\n" if len(baseline) > 16 else ", "  # a longer line would reach into the next panel
        beside = f"{end}{relation} {baseline}" if relation else ""
        sizes_text = f"batch {batch}, {count(seq_len, 'step')}, {count(threads, 'thread')}"
        title = f"{scenario}, {scope.replace('_', ' ')}{beside}\n{sizes_text}"
        panels.append(Panel(title, case[:3], cases[case]))
    return panels


def columns_for(rows: Sequence[Row]) -> int:
    """The number of columns that puts the batches side by side; without several of them, the numbers of steps."""
    for name in ("batch", "seq_len", "threads"):
        if (sizes := len({row[name] for row in rows})) > 1:
            return next((columns for columns in (3, 2) if sizes % columns == 0), MAX_COLUMNS)
    return 1


def is_baseline(row: Row) -> bool:
    """Whether a row is the baseline that its ratio refers to."""
    return bool(row["variant"] == row["baseline"])


def is_null_model(row: Row) -> bool:
    """Whether a row is of the model that computes nothing: the cost of a call, not a competitor."""
    return bool(row["kind"] == "floor")


def short_name(row: Row) -> str:
    """A variant's name where target and provider are clear from the panel."""
    name: str = row["variant"]
    return name.removeprefix(f"{row['group']}: ").removesuffix(f" {row['provider']}")


def color_of(precision: str) -> str:
    """The colour of a precision."""
    return PRECISIONS.get(precision, style.AMBER)


def grid(panels: Sequence[Panel], columns: int) -> tuple[Figure, list[tuple[Axes, Panel]]]:
    """A figure with axes for each panel, as high as its rows need; panels that agree in `line` begin a new line."""
    groups = [list(group) for _, group in groupby(panels, lambda panel: panel.line)]
    most = max(map(len, groups))
    columns = min(columns, 2 if most == 4 else most)
    lines = [group[start : start + columns] for group in groups for start in range(0, len(group), columns)]
    heights = [max(1.05 + 0.21 * len(panel.rows) for panel in line) for line in lines]  # inches
    figure = style.new_figure(4.8 * columns if columns > 1 else 7, 0.9 + sum(heights))
    cells = figure.add_gridspec(len(lines), columns, height_ratios=heights)
    drawn = [
        (figure.add_subplot(cells[index, column]), panel)
        for index, line in enumerate(lines)
        for column, panel in enumerate(line)
    ]
    for axes, panel in drawn:
        style.panel_title(axes, panel.title)
    return figure, drawn


def log_axis(axes: Axes, low: float, high: float, text: Callable[[float], str]) -> None:
    """Make the x axis logarithmic, with at most five ticks."""
    if high / low < 3:
        middle = math.sqrt(low * high)
        low, high = middle / math.sqrt(3), middle * math.sqrt(3)
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    candidates: list[list[float]] = []
    for steps, apart in [*((steps, 1) for steps in TICK_STEPS), ((1,), 2), ((1,), 3), ((1,), 4)]:
        ticks = [step * 10.0**power for power in powers if power % apart == 0 for step in steps]
        candidates.append([tick for tick in ticks if low <= tick <= high])
    chosen = next((ticks for ticks in candidates if len(ticks) <= 5), candidates[-1])
    axes.set(xscale="log", xlim=(low, high))
    axes.set_xticks(chosen, [text(tick) for tick in chosen])


def count(number: int, noun: str) -> str:
    """A number and its noun, in the plural where need be."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def time_text(us: float) -> str:
    """Microseconds as a time with a fitting unit."""
    return EngFormatter("s")(float(f"{us:.3g}") / 1e6) if us else "0"
