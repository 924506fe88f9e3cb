"""The two plots that show variants as points: under the roofline of the machine, and error against time."""

import math
from collections.abc import Mapping, Sequence
from itertools import groupby, pairwise
from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.transforms import Bbox

from lstm_deploy.artifacts import GREY
from lstm_deploy.benchmark import plot_layout as layout
from lstm_deploy.benchmark.plot_layout import Document, Panel, Row, Style
from lstm_deploy.benchmark.tables import bandwidths

CEILING_LABEL = 84
"""Points that a ceiling's label takes along its line."""
OFFSETS = [(7, 0), (-7, 0)]
OFFSETS += [(dx, side * 10 * far) for far in range(1, 16) for dx in (0, 7, -7) for side in (1, -1)]
"""Where the label of a point may be, in points from it, the best first."""
ALIGNMENTS: dict[int, Literal["left", "center", "right"]] = {1: "left", 0: "center", -1: "right"}


def roofline_plot(document: Document) -> Figure | None:
    """Operations per byte read against operations per second, under the limits of the machine.

    A horizontal line is a peak rate of arithmetic, a slanting one the bandwidth of a memory (for its fastest working
    set). One panel per provider, number of threads and scope; none where the machine was not measured.
    """
    peaks = {(measured["provider"], measured["threads"]): measured for measured in document["peaks"]}
    styles = layout.styles_of(document)
    found: dict[tuple[str, int, str], list[Row]] = {}
    for row in layout.rows_of(document):
        if (row["provider"], row["threads"]) in peaks and row["operations"] and row["bytes"]:
            found.setdefault((row["provider"], row["threads"], row["scope"]), []).append(row)
    if not found:
        return None
    panels = []
    for (provider, threads, scope), rows in found.items():
        title = f"{scope.replace('_', ' ')}\n{provider}, {layout.count(threads, 'thread')}"
        panels.append(Panel(title, (provider, threads), rows, key=peaks[provider, threads]))
    figure, drawn = layout.grid(panels, height=5.0, columns=2, width=6.0, styles=styles)
    for axes, panel in drawn:
        _draw_roofline(axes, panel.rows, panel.key, styles)
    layout.legend_beside(figure, panels, styles, "Operations per second,\na point for each case", lines=False)
    figure.draw_without_rendering()  # how steep the lines are depends on the layout
    for axes, panel in drawn:
        _label_ceilings(axes, panel.key)
    return figure


def precision_plot(document: Document) -> Figure | None:
    """How far each variant's outputs are from the baseline's, against its median, in each scenario's smallest case.

    Errors of 0 have a place of their own below all others. None where nothing was compared with a baseline.
    """
    rows = [row for row in layout.rows_of(document) if row["error"] is not None]
    if all(layout.is_baseline(row) for row in rows):
        return None
    groups = groupby(layout.panels_of(rows, "against"), lambda panel: panel.line)
    smallest = [min(group, key=lambda panel: _size(panel.rows[0])) for _, group in groups]
    order: list[object] = list(dict.fromkeys((row["scenario"], row["baseline"]) for row in rows))
    panels = [panel._replace(line=(panel.rows[0]["scenario"], panel.rows[0]["baseline"])) for panel in smallest]
    panels.sort(key=lambda panel: order.index(panel.line))
    height = max(3.8, *(1.4 + 0.18 * len(panel.rows) for panel in panels))
    figure, drawn = layout.grid(panels, height=height, columns=2, width=5.2)
    for axes, panel in drawn:
        _draw_errors(axes, panel.rows)
    precisions = dict.fromkeys(row["precision"] for row in rows)
    handles = [layout.legend_entry(layout.color_of(name), name) for name in precisions]
    title = "Largest difference from the baseline's outputs ÷ their size, against the median time"
    layout.legend_above(figure, handles, title)
    figure.draw_without_rendering()  # where labels have room depends on the layout
    for axes, panel in drawn:
        _label_points(axes, [layout.short_name(row) for row in panel.rows])
    return figure


def _size(row: Row) -> tuple[int, int]:
    return row["batch"] * row["seq_len"], row["threads"]


def _draw_roofline(axes: Axes, rows: Sequence[Row], peaks: Mapping[str, Any], styles: Mapping[str, Style]) -> None:
    axes.set_xlabel("operations for each byte that must be read", fontsize=8)
    rates, levels = _ceilings(peaks)
    points = [(row["operations"] / row["bytes"], row["operations"] / row["p50_us"] * 1e6) for row in rows]
    top, fastest = max(rates.values()), max(levels.values())
    left = min([x for x, _ in points] + [min(rates.values()) / fastest])
    right = max([x for x, _ in points] + [top / min(levels.values())])
    left /= 4 ** (1 + max(_crowded(levels)) // 2)  # labels need room
    right *= 8 ** (1 + max(_crowded(rates)) // 2)
    low = min([y for _, y in points] + [left * min(levels.values())]) / 2
    high = 3 * max([y for _, y in points] + [top])
    layout.log_axis(axes, "x", left, right, lambda value: f"{value:g}")
    layout.log_axis(axes, "y", low, high, lambda value: layout.with_unit(value, "op/s"))
    for rate in rates.values():
        axes.plot([rate / fastest, right], [rate, rate], color="black", linewidth=0.9)
    for rate in levels.values():
        axes.plot([left, top / rate], [left * rate, top], color=GREY, linewidth=0.9)
    for row, (x, y) in zip(rows, points, strict=True):
        style = styles[row["variant"]]
        axes.plot([x], [y], style.marker, color=style.color, markersize=5, alpha=0.75, markeredgewidth=0)
    layout.finish(axes)


def _ceilings(peaks: Mapping[str, Any]) -> tuple[dict[str, float], dict[str, float]]:
    """Operations per second by precision and bytes per second by level of memory, each the fastest first."""
    rates, levels = (
        dict(sorted(ceilings.items(), key=lambda item: -item[1]))
        for ceilings in (peaks["operations_per_s"], bandwidths(peaks))
    )
    return rates, levels


def _crowded(ceilings: Mapping[str, float]) -> list[int]:
    """For each ceiling, how many in a row above it are so close that their labels would meet."""
    rates = list(ceilings.values())
    crowded = [0]
    for above, rate in pairwise(rates):
        crowded.append(crowded[-1] + 1 if above < 1.6 * rate else 0)
    return crowded


def _label_ceilings(axes: Axes, peaks: Mapping[str, Any]) -> None:
    """Write its name along each line; labels of lines that are close stand below the line or further along."""
    left, right = axes.get_xlim()
    (x0, y0), (x1, y1) = axes.transData.transform([(1, 1), (10, 10)])
    slope = math.atan2(y1 - y0, x1 - x0)
    rates, levels = _ceilings(peaks)
    for (name, rate), crowded in zip(rates.items(), _crowded(rates), strict=True):
        axes.annotate(
            f"{name}: {layout.with_unit(rate, 'op/s')}",
            (right, rate),
            (-4 - CEILING_LABEL * (crowded // 2), -2.5 if crowded % 2 else 2.5),
            textcoords="offset points",
            ha="right",
            va="top" if crowded % 2 else "bottom",
            fontsize=8,
        ).set_in_layout(False)
    for (name, rate), crowded in zip(levels.items(), _crowded(levels), strict=True):
        along, away = 9 + CEILING_LABEL * (crowded // 2), -9.5 if crowded % 2 else 2.5
        axes.annotate(
            f"{name}: {layout.with_unit(rate, 'B/s')}",
            (left, left * rate),
            (along * math.cos(slope) - away * math.sin(slope), along * math.sin(slope) + away * math.cos(slope)),
            textcoords="offset points",
            rotation=math.degrees(slope),
            rotation_mode="anchor",
            fontsize=8,
        ).set_in_layout(False)


def _draw_errors(axes: Axes, rows: Sequence[Row]) -> None:
    errors = [row["error"] for row in rows if row["error"] > 0]
    lowest = 10.0 ** math.floor(math.log10(min(errors, default=1e-6)))
    highest = 2 * max(errors, default=1e-5)
    zero = lowest / 10**0.75
    times = [row["p50_us"] for row in rows]
    layout.log_axis(axes, "x", min(times) / 1.5, max(times) * 1.5, layout.time_text)
    layout.log_axis(axes, "y", lowest / 10**1.25, highest, _scientific, zero=(zero, lowest, "0 (equal)"))
    axes.axhline(lowest / 10**0.25, color=GREY, linewidth=0.8, linestyle=":")
    colors = [layout.color_of(row["precision"]) for row in rows]
    axes.scatter(times, [max(row["error"], zero) for row in rows], s=32, c=colors, alpha=0.9, zorder=3)
    layout.finish(axes)


def _scientific(value: float) -> str:
    return np.format_float_scientific(value, precision=1, trim="-", exp_digits=2)


def _label_points(axes: Axes, labels: Sequence[str]) -> None:
    """Write a label beside each point, where it covers nothing, with a line to its point where it is far."""
    scale = 72 / axes.get_figure(root=True).dpi  # type: ignore[union-attr]
    points = np.asarray(axes.transData.transform(axes.collections[-1].get_offsets())) * scale
    (left, bottom), (right, top) = axes.bbox.get_points() * scale
    taken = [Bbox.from_bounds(x - 4, y - 4, 8, 8) for x, y in points]
    for (x, y), label in zip(points, labels, strict=True):
        boxes = [_label_box(x + dx, y + dy, 4.8 * len(label), dx) for dx, dy in OFFSETS]
        inside = [
            index
            for index, box in enumerate(boxes)
            if left < box.x0 and bottom < box.y0 and box.x1 < right and box.y1 < top
        ]
        free = [index for index in inside if not boxes[index].count_overlaps(taken)]
        chosen = (free or inside or [0])[0]
        dx, dy = OFFSETS[chosen]
        taken.append(boxes[chosen])
        side = int(np.sign(dx))
        joined = {"arrowstyle": "-", "color": GREY, "linewidth": 0.6, "relpos": ((1 - side) / 2, 0.5), "shrinkB": 3}
        axes.annotate(
            label,
            tuple(axes.transData.inverted().transform((x / scale, y / scale))),
            (dx, dy),
            textcoords="offset points",
            ha=ALIGNMENTS[side],
            va="center",
            fontsize=8,
            parse_math=False,
            arrowprops=joined if (dx and dy) or abs(dy) > 10 else None,
        ).set_in_layout(False)


def _label_box(x: float, y: float, width: float, side: float) -> Bbox:
    """The space of a text to the right or left of a place, or centred on it."""
    start = x if side > 0 else x - width / (2 if not side else 1)
    return Bbox.from_bounds(start, y - 5, width, 10)
