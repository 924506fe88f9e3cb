"""Plots of a benchmark, from its JSON alone.

The two scopes never share a panel, and the A/A control stands only among the ratios, where it shows the noise.
"""

from collections.abc import Sequence
from typing import Any

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from lstm_deploy.artifacts import plot_style as style
from lstm_deploy.benchmark import plot_layout as layout
from lstm_deploy.benchmark.tables import Document, Row

BEYOND = "far faster: beyond the edge"
LOG_FROM = 20
"""Times are on a log axis where the largest is more than this many times the smallest."""


def plots(document: Document) -> dict[str, Figure]:
    """The latency plot and, where there is a baseline, the ratio plot, by the stem of their file name."""
    ratios = ratio_plot(document)
    return {"latency": latency_plot(document), **({"ratio": ratios} if ratios else {})}


def latency_plot(document: Document) -> Figure:
    """Each variant's median, with a line to the 90th percentile and a tick at the 99th; one panel per case."""
    rows = layout.rows_of(document)
    figure, panels = layout.grid(layout.panels_of(rows), columns=layout.columns_for(rows))
    beyond = [_draw_latency(axes, panel.rows) for axes, panel in panels]
    precisions = dict.fromkeys(row["precision"] for row in rows)
    used = [name for name in layout.PRECISIONS if name in precisions]
    handles = [style.legend_entry(layout.color_of(name), name) for name in dict.fromkeys([*used, *precisions])]
    handles += [
        style.legend_entry(style.GREY, "to p90", "", linestyle="-", linewidth=2.5),
        style.legend_entry(style.GREY, "p99, where known", "|", linewidth=0.8),
        style.legend_entry(style.GREY, "median of the baseline (bold)", "", linestyle="--", linewidth=0.9),
    ]
    if any(map(layout.is_null_model, rows)):
        handles.append(style.legend_entry(style.GREY, "floor: the call of a model that computes nothing", ""))
    if any(row["warnings"] for row in rows):
        handles.append(style.legend_entry(style.GREY, "hollow: not to be trusted, see its warning", fillstyle="none"))
    if any(beyond):
        handles.append(style.legend_entry(style.GREY, BEYOND, "<"))
    style.headline(figure, "Time of a call: median as dot and number, fastest first", handles)
    return figure


def ratio_plot(document: Document) -> Figure | None:
    """Each variant's time over the baseline's, with its 95 % interval, and the noise of the case as a band around 1.

    One panel per case and baseline.
    """
    rows = layout.rows_of(document, controls=True)
    rows = [row for row in rows if row["ratio_interval"] and not layout.is_baseline(row)]
    if not rows:
        return None
    figure, panels = layout.grid(layout.panels_of(rows, "÷"), columns=layout.columns_for(rows))
    beyond = [_draw_ratios(axes, panel.rows) for axes, panel in panels]
    handles: list[Artist] = [
        style.legend_entry(style.BLUE, "faster than the baseline"),
        style.legend_entry(style.ORANGE, "slower"),
        style.legend_entry(style.GREY, "no difference that is more than noise"),
        Patch(color=style.GREY, alpha=0.25, label="noise: the baseline against itself"),
    ]
    if any(beyond):
        handles.append(style.legend_entry(style.GREY, BEYOND, "<"))
    style.headline(figure, "Time ÷ the baseline's, with 95 % interval: left of 1 is faster", handles)
    return figure


def _draw_latency(axes: Axes, rows: Sequence[Row]) -> bool:
    """Returns whether something lies beyond the edge."""
    rows = sorted(rows, key=lambda row: row["p50_us"])
    medians, p90s = ([row[name] for row in rows] for name in ("p50_us", "p90_us"))
    colors = [layout.color_of(row["precision"]) for row in rows]
    places = range(len(rows))
    slowest = max(max(row["p50_us"], row["p90_us"], row["p99_us"] or 0) for row in rows)
    fastest = min((row["p50_us"] for row in rows if not layout.is_null_model(row)), default=medians[0])
    if slowest / fastest > LOG_FROM:
        layout.log_axis(axes, _left_end(medians[0], fastest) / 1.2, slowest * 1.2, layout.time_text)
    else:
        axes.set_xlim(0, 1.05 * slowest)
        axes.xaxis.set_major_locator(MaxNLocator(4))
        axes.xaxis.set_major_formatter(lambda value, _: layout.time_text(value))
    axes.hlines(places, medians, p90s, colors=colors, linewidth=2.5, alpha=0.6)
    for place, row, color in zip(places, rows, colors, strict=True):
        if row["p99_us"]:
            ends = [row["p90_us"], row["p99_us"]]
            axes.plot(ends, [place, place], color=color, linewidth=0.8, marker="|", markevery=[1])
        if layout.is_baseline(row):
            axes.axvline(row["p50_us"], color=style.GREY, linewidth=0.9, linestyle="--", zorder=0)
    faces = ["white" if row["warnings"] else color for row, color in zip(rows, colors, strict=True)]
    beyond = _draw_dots(axes, medians, faces, colors)
    names, figures = [row["variant"] for row in rows], [layout.time_text(median) for median in medians]
    _label_rows(axes, rows, names, figures, "time of a call")
    return beyond


def _draw_ratios(axes: Axes, rows: Sequence[Row]) -> bool:
    """Returns whether something lies beyond the edge."""
    rows = sorted(rows, key=lambda row: row["ratio_to_baseline"])
    lows, highs = zip(*(row["ratio_interval"] for row in rows), strict=True)
    ratios = [row["ratio_to_baseline"] for row in rows]
    # All rows of a case and baseline have one noise floor, where they have any.
    noise = next((row["noise_floor"] for row in rows if row["noise_floor"] is not None), None)
    competitors = [row["ratio_interval"] for row in rows if not layout.is_null_model(row)]
    low = min([0.8, 1 - (noise or 0), *(interval[0] for interval in competitors)])
    low = low if low > 0 else min(0.1, *ratios)
    high = max([1.25, 1 + (noise or 0), *(interval[1] for interval in competitors)])
    layout.log_axis(axes, _left_end(lows[0], low) / 1.15, 1.15 * high, lambda value: f"{value:g}")
    edge = axes.get_xlim()[0]
    if noise is not None:
        axes.axvspan(max(1 - noise, edge), 1 + noise, color=style.GREY, alpha=0.25, linewidth=0, zorder=0)
    axes.axvline(1, color=style.GREY, linewidth=0.9, linestyle="--", zorder=0)
    colors = [{"faster": style.BLUE, "slower": style.ORANGE}.get(row["verdict"], style.GREY) for row in rows]
    axes.hlines(range(len(rows)), lows, highs, colors=colors, linewidth=1.8)
    beyond = _draw_dots(axes, ratios, colors, colors)
    names, figures = [layout.short_name(row) for row in rows], [f"{ratio:.3g}" for ratio in ratios]
    _label_rows(axes, rows, names, figures, f"time ÷ that of {rows[0]['baseline']}")
    return beyond


def _left_end(first: float, low: float) -> float:
    """The left end of a log axis: it reaches to the null model only where that is near the others."""
    return first if low / 10 <= first < low else low


def _draw_dots(axes: Axes, values: Sequence[float], faces: Sequence[str], colors: Sequence[str]) -> bool:
    """A dot in each row, or an arrow at the edge for a value left of the axis; returns whether there is one."""
    edge = axes.get_xlim()[0]
    inside = [place for place, value in enumerate(values) if value >= edge]
    beyond = [place for place, value in enumerate(values) if value < edge]
    axes.scatter(
        [values[place] for place in inside],
        inside,
        s=28,
        c=[faces[place] for place in inside],
        edgecolors=[colors[place] for place in inside],
        linewidths=1.4,
        zorder=3,
        clip_on=False,
    )
    axes.scatter([edge] * len(beyond), beyond, s=30, c=style.GREY, marker="<", zorder=3, clip_on=False)
    return bool(beyond)


def _label_rows(axes: Axes, rows: Sequence[Row], names: Sequence[str], figures: Sequence[str], x: str) -> None:
    """A variant's name at the left of its row, a figure at the right; the first row on top. `x` is the axis' label."""
    axes.set_yticks(range(len(rows)), names, parse_math=False)
    for row, name in zip(rows, axes.get_yticklabels(), strict=True):
        if layout.is_baseline(row):
            name.set_fontweight("bold")
    right = axes.get_yaxis_transform()
    for place, text in enumerate(figures):
        where: dict[str, Any] = {"xycoords": right, "textcoords": "offset points", "va": "center"}
        axes.annotate(text, (1, place), (4, 0), size=style.SMALL, **where)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    style.finish(axes, x)
