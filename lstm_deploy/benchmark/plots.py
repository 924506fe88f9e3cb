"""The results of a benchmark as plots, from its JSON alone.

The two scopes never share a panel, and the baseline timed once more stands only among the ratios: it shows the noise.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import groupby
from typing import Any, Literal, NamedTuple, TypeVar

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from lstm_deploy.artifacts import BLUE, GREEN, GREY, ORANGE, PURPLE, RED

Row = Mapping[str, Any]
Document = Mapping[str, Any]
K = TypeVar("K")

PRECISIONS = {"float32": BLUE, "int8": ORANGE, "float16": GREEN, "bfloat16": PURPLE}
"""Their colours; any other is red."""
COLORS = (BLUE, ORANGE, GREEN, RED, PURPLE, "#26a6a6", "#c958a3", "#9c8a1e", "#222222")
DASHES = ("-", (0, (5, 1.5)), (0, (1, 1.2)))
MARKERS = "osD^vP*X<>"
MOST_COLUMNS = 3
LABEL = 84
"""Points that a ceiling's label takes along its line."""
BEYOND = "far faster: beyond the edge"
LOG_FROM = 20
"""Times whose largest is more often the smallest than this stand on a log axis."""
TAIL = ((1, "all"), (0.5, "p50"), (0.1, "p90"), (0.01, "p99"), (1e-3, "p99.9"), (1e-4, "p99.99"))
"""Shares of calls that take at least as long as a percentile."""
TAIL_POINTS = 200
"""Of each line at most: more cannot be seen."""
STEPS = ((1, 1.5, 2, 3, 4, 5, 6, 8), (1, 2, 5), (1, 3), (1,))
"""Where a log axis may have ticks in each power of ten, from many to few."""


class Case(NamedTuple):
    """What a panel is of; its text is the panel's title."""

    scenario: str
    scope: str
    threads: int
    batch: int
    seq_len: int

    @property
    def size(self) -> tuple[int, int]:
        return self.batch * self.seq_len, self.threads

    @property
    def group(self) -> tuple[str, str]:
        return self.scenario, self.scope

    def __str__(self) -> str:
        sizes = f"batch {self.batch}, {_count(self.seq_len, 'step')}, {_count(self.threads, 'thread')}"
        return f"{self.scenario}, {self.scope.replace('_', ' ')}\n{sizes}"


class Style(NamedTuple):
    """How a variant is drawn in all plots that tell variants apart."""

    color: str
    dashes: Any
    marker: str


def plots(document: Document) -> dict[str, Figure]:
    """All plots that have something to show, by the stem of their file name."""
    makers: dict[str, Callable[[Document], Figure | None]] = {
        "latency": latency_plot,
        "distribution": distribution_plot,
        "ratio": ratio_plot,
        "scaling": scaling_plot,
        "roofline": roofline_plot,
        "precision": precision_plot,
    }
    return {name: figure for name, make in makers.items() if (figure := make(document))}


def latency_plot(document: Document) -> Figure:
    """Each variant's median, with a line to the 90th percentile and a tick at the 99th; a panel for each case."""
    rows = _rows(document)
    figure, panels = _grid(_by_case(rows), key=lambda case: case.group, columns=_columns(rows))
    beyond = False
    for axes, (case, found) in panels:
        axes.set_title(str(case), fontsize=9, loc="left")
        beyond |= _draw_latency(axes, found)
    used = [name for name in PRECISIONS if any(row["precision"] == name for row in rows)]
    used += list(dict.fromkeys(row["precision"] for row in rows if row["precision"] not in PRECISIONS))
    handles = [_dot(_color(name), name) for name in used]
    handles += [
        Line2D([], [], color=GREY, linewidth=2.5, label="to p90"),
        _dot(GREY, "p99, where known", "|", linewidth=0.8),
        Line2D([], [], color=GREY, linewidth=0.9, linestyle="--", label="median of the baseline (bold)"),
    ]
    if any(row["warnings"] for row in rows):
        handles.append(_dot(GREY, "hollow: not to be trusted, see its warning", fillstyle="none"))
    if beyond:
        handles.append(_dot(GREY, BEYOND, "<"))
    _legend_above(figure, handles, "Time of a call: dot and number are the median, fastest first")
    return figure


def distribution_plot(document: Document) -> Figure | None:
    """The share of calls that take at least so long, on log axes: percentiles are read at the left.

    One panel for each case; a model that does nothing is left out where it is far from all others. None where the
    document has no samples.
    """
    every = _rows(document)
    styles = _styles(every)
    rows = [row for row in every if any(map(len, row.get("samples_us") or ()))]
    if not rows:
        return None
    figure, panels = _grid(
        _by_case(rows), key=lambda case: case.group, columns=_columns(rows), height=3.2, legend=max(1.9, _width(styles))
    )
    for axes, (case, found) in panels:
        axes.set_title(str(case), fontsize=9, loc="left")
        _draw_tails(axes, found, styles)
    used = {row["variant"] for row in rows}
    handles = [_line(style, label) for label, style in styles.items() if label in used]
    _legend_beside(figure, handles, "Share of calls that take\nat least so long: at p90,\na tenth of them")
    return figure


def ratio_plot(document: Document) -> Figure | None:
    """Each variant's time over the baseline's, with its 95 % interval, and the noise of the case as a band around 1.

    One panel for each case and baseline.
    """
    rows = [row for row in _rows(document, twins=True) if row["ratio_interval"] and not _is_baseline(row)]
    if not rows:
        return None
    figure, panels = _grid(_by_baseline(rows), key=lambda key: (key[0].group, key[1]), columns=_columns(rows))
    beyond = False
    for axes, (key, found) in panels:
        _title_with_baseline(axes, *key, "÷")
        beyond |= _draw_ratios(axes, found)
    handles: list[Artist] = [
        _dot(BLUE, "faster than the baseline"),
        _dot(ORANGE, "slower"),
        _dot(GREY, "no difference that is more than noise"),
        Patch(color=GREY, alpha=0.25, label="noise: the baseline against itself"),
    ]
    if beyond:
        handles.append(_dot(GREY, BEYOND, "<"))
    _legend_above(figure, handles, "Time ÷ the baseline's, with its 95 % interval: left of 1 is faster")
    return figure


def scaling_plot(document: Document) -> Figure | None:
    """The time of one step of one row against the batch, and against the steps of a call; a line for each variant.

    Of the other size the smallest and the largest are shown. None where nothing was measured at two sizes.
    """
    rows = [row for row in _rows(document) if not _is_floor(row)]
    panels: dict[tuple[str, str, int, str, int], list[Row]] = {}
    for along, other in (("batch", "seq_len"), ("seq_len", "batch")):
        for row in rows:
            panels.setdefault((row["scenario"], row["scope"], row["threads"], along, row[other]), []).append(row)
    panels = {key: found for key, found in panels.items() if len({row[key[3]] for row in found}) > 1}
    extremes: dict[tuple[str, str, int, str], set[int]] = {}
    for key in panels:
        extremes.setdefault(key[:4], set()).add(key[4])
    shown = [item for item in panels.items() if item[0][4] in _ends(extremes[item[0][:4]])]
    if not shown:
        return None
    scenarios = list(dict.fromkeys(row["scenario"] for row in rows))
    shown.sort(key=lambda item: (scenarios.index(item[0][0]), item[0][2], item[0][1], item[0][3], item[0][4]))
    styles = _styles(_rows(document))
    figure, drawn = _grid(
        shown, key=lambda key: key[0], height=3.0, legend=max(1.9, _width(styles)), columns=2, wide=5.2
    )
    for axes, ((scenario, scope, threads, along, fixed), found) in drawn:
        other = f"batch {fixed}" if along == "seq_len" else _count(fixed, "step")
        title = f"{scenario}, {scope.replace('_', ' ')}\n{other}, {_count(threads, 'thread')}"
        axes.set_title(title, fontsize=9, loc="left")
        axes.set_xlabel("batch" if along == "batch" else "steps of a call", fontsize=8)
        _draw_scaling(axes, found, along, styles)
    used = {row["variant"] for _, found in shown for row in found}
    handles = [_line(style, label, style.marker) for label, style in styles.items() if label in used]
    _legend_beside(figure, handles, "Time of one step\nof one row")
    return figure


def roofline_plot(document: Document) -> Figure | None:
    """Operations for each byte that is read against operations per second, under what the machine can do.

    A level line is a peak of arithmetic, a slanting one the bandwidth of a memory (of its fastest working set). One
    panel for each provider, number of threads and scope; none where the machine was not measured.
    """
    peaks = {(known["provider"], known["threads"]): known for known in document["peaks"]}
    every = _rows(document)
    styles = _styles(every)
    panels: dict[tuple[str, int, str], list[Row]] = {}
    for row in every:
        if (row["provider"], row["threads"]) in peaks and row["operations"] and row["bytes"]:
            panels.setdefault((row["provider"], row["threads"], row["scope"]), []).append(row)
    if not panels:
        return None
    figure, drawn = _grid(
        list(panels.items()), key=lambda key: key[:2], height=5.0, legend=max(1.9, _width(styles)), columns=2, wide=6.0
    )
    for axes, ((provider, threads, scope), found) in drawn:
        axes.set_title(f"{scope.replace('_', ' ')}\n{provider}, {_count(threads, 'thread')}", fontsize=9, loc="left")
        axes.set_xlabel("operations for each byte that must be read", fontsize=8)
        _draw_roofline(axes, found, peaks[provider, threads], styles)
    used = {row["variant"] for found in panels.values() for row in found}
    handles: list[Artist] = [_dot(style.color, label, style.marker) for label, style in styles.items() if label in used]
    _legend_beside(figure, handles, "Operations per second,\na point for each case")
    figure.draw_without_rendering()  # how steep the lines are depends on the layout
    for axes, ((provider, threads, _), _) in drawn:
        _label_ceilings(axes, peaks[provider, threads])
    return figure


def precision_plot(document: Document) -> Figure | None:
    """How far each variant's outputs are from the baseline's, against its median, in each scenario's smallest case.

    An error of 0 has a place of its own below all others. None where nothing was compared with a baseline.
    """
    rows = [row for row in _rows(document) if row["error"] is not None]
    if all(_is_baseline(row) for row in rows):
        return None
    smallest: dict[tuple[tuple[str, str], str], tuple[tuple[Case, str], list[Row]]] = {}
    for (case, baseline), found in _by_baseline(rows):
        before = smallest.get((case.group, baseline))
        if before is None or case.size < before[0][0].size:
            smallest[case.group, baseline] = (case, baseline), found
    order = list(dict.fromkeys((row["scenario"], row["baseline"]) for row in rows))
    figure, panels = _grid(
        sorted(smallest.values(), key=lambda item: order.index((item[0][0].scenario, item[0][1]))),
        key=lambda key: (key[0].scenario, key[1]),
        columns=2,
        wide=5.2,
        height=max(3.8, *(1.4 + 0.18 * len(found) for _, found in smallest.values())),
    )
    for axes, (key, found) in panels:
        _title_with_baseline(axes, *key, "against")
        _draw_errors(axes, found)
    used = dict.fromkeys(row["precision"] for row in rows)
    handles = [_dot(_color(name), name) for name in used]
    _legend_above(
        figure, handles, "Largest difference from the baseline's outputs ÷ their size, against the median time"
    )
    figure.draw_without_rendering()  # labels are placed where there is room, which depends on the layout
    for axes, (_, found) in panels:
        _label_points(axes, [_short(row) for row in found])
    return figure


def _draw_latency(axes: Axes, rows: Sequence[Row]) -> bool:
    """Whether something stands beyond the edge."""
    rows = sorted(rows, key=lambda row: row["p50_us"])
    medians, p90s = ([row[name] for row in rows] for name in ("p50_us", "p90_us"))
    colors = [_color(row["precision"]) for row in rows]
    places = range(len(rows))
    slowest = max(max(row["p50_us"], row["p90_us"], row["p99_us"] or 0) for row in rows)
    fastest = min((row["p50_us"] for row in rows if not _is_floor(row)), default=medians[0])
    if slowest / fastest > LOG_FROM:
        _log_axis(axes, "x", _lowest(medians[0], fastest) / 1.2, slowest * 1.2, _time)
    else:
        axes.set_xlim(0, 1.05 * slowest)
        axes.xaxis.set_major_locator(MaxNLocator(4))
        axes.xaxis.set_major_formatter(lambda value, _: _time(value))
    axes.hlines(places, medians, p90s, colors=colors, linewidth=2.5, alpha=0.6)
    for place, row, color in zip(places, rows, colors, strict=True):
        if row["p99_us"]:
            ends = [row["p90_us"], row["p99_us"]]
            axes.plot(ends, [place, place], color=color, linewidth=0.8, marker="|", markevery=[1])
        if _is_baseline(row):
            axes.axvline(row["p50_us"], color=GREY, linewidth=0.9, linestyle="--", zorder=0)
    faces = ["white" if row["warnings"] else color for row, color in zip(rows, colors, strict=True)]
    beyond = _draw_dots(axes, medians, faces, colors)
    _name_rows(axes, rows, [row["variant"] for row in rows], [_time(median) for median in medians])
    _finish(axes)
    return beyond


def _draw_ratios(axes: Axes, rows: Sequence[Row]) -> bool:
    """Whether something stands beyond the edge."""
    rows = sorted(rows, key=lambda row: row["ratio_to_baseline"])
    lows, highs = zip(*(row["ratio_interval"] for row in rows), strict=True)
    ratios = [row["ratio_to_baseline"] for row in rows]
    # All rows of a case and baseline have one noise floor, where they have any.
    noise = next((row["noise_floor"] for row in rows if row["noise_floor"] is not None), None)
    rivals = [row["ratio_interval"] for row in rows if not _is_floor(row)]
    low = min([0.8, 1 - (noise or 0), *(interval[0] for interval in rivals)])
    low = low if low > 0 else min(0.1, *ratios)
    high = max([1.25, 1 + (noise or 0), *(interval[1] for interval in rivals)])
    _log_axis(axes, "x", _lowest(lows[0], low) / 1.15, 1.15 * high, lambda value: f"{value:g}")
    edge = axes.get_xlim()[0]
    if noise is not None:
        axes.axvspan(max(1 - noise, edge), 1 + noise, color=GREY, alpha=0.25, linewidth=0, zorder=0)
    axes.axvline(1, color=GREY, linewidth=0.9, linestyle="--", zorder=0)
    colors = [{"faster": BLUE, "slower": ORANGE}.get(row["verdict"], GREY) for row in rows]
    axes.hlines(range(len(rows)), lows, highs, colors=colors, linewidth=1.8)
    beyond = _draw_dots(axes, ratios, colors, colors)
    _name_rows(axes, rows, [_short(row) for row in rows], [f"{ratio:.3g}" for ratio in ratios])
    _finish(axes)
    return beyond


def _lowest(first: float, low: float) -> float:
    """The left end of a log axis: it reaches to what does nothing only where that is near the others."""
    return first if low / 10 <= first < low else low


def _draw_dots(axes: Axes, values: Sequence[float], faces: Sequence[str], colors: Sequence[str]) -> bool:
    """A dot in each row, or an arrow at the edge for what lies left of the axis; whether there is any."""
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
    axes.scatter([edge] * len(beyond), beyond, s=30, c=GREY, marker="<", zorder=3, clip_on=False)
    return bool(beyond)


def _draw_tails(axes: Axes, rows: Sequence[Row], styles: Mapping[str, Style]) -> None:
    tails = [(row, *_tail(np.concatenate(row["samples_us"]))) for row in rows]
    rivals = [tail for tail in tails if not _is_floor(tail[0])] or tails
    edge = _lowest(*(min(times[0] for _, times, _ in some) for some in (tails, rivals)))
    tails = [tail for tail in tails if tail[1][0] >= edge]
    for row, times, shares in tails:
        style = styles[row["variant"]]
        axes.step(times, shares, where="pre", color=style.color, linestyle=style.dashes, linewidth=1.3)
    lowest = min(0.1, *(shares[-1] for _, _, shares in rivals)) / 1.3
    axes.set(yscale="log", ylim=(lowest, 1.1))
    axes.set_yticks(*zip(*[tick for tick in TAIL if tick[0] >= lowest], strict=True))
    _log_axis(axes, "x", edge / 1.1, 1.1 * max(times[-1] for _, times, _ in rivals), _time)
    _finish(axes)


def _draw_scaling(axes: Axes, rows: Sequence[Row], along: str, styles: Mapping[str, Style]) -> None:
    lines: dict[str, list[tuple[int, float]]] = {}
    for row in rows:
        lines.setdefault(row["variant"], []).append((row[along], row["p50_us"] / (row["batch"] * row["seq_len"])))
    for label, points in lines.items():
        style = styles[label]
        axes.plot(
            *zip(*sorted(points), strict=True),
            color=style.color,
            linestyle=style.dashes,
            marker=style.marker,
            markersize=4.5,
            linewidth=1.2,
        )
    sizes = sorted({row[along] for row in rows})
    times = [time for points in lines.values() for _, time in points]
    axes.set(xscale="log", xlim=(sizes[0] / 1.3, sizes[-1] * 1.3))
    axes.set_xticks(sizes, [str(size) for size in sizes])
    _log_axis(axes, "y", min(times) / 1.3, max(times) * 1.3, _time)
    _finish(axes)


def _draw_roofline(axes: Axes, rows: Sequence[Row], known: Mapping[str, Any], styles: Mapping[str, Style]) -> None:
    rates, levels = _rates(known), _levels(known)
    points = [(row["operations"] / row["bytes"], row["operations"] / row["p50_us"] * 1e6) for row in rows]
    top, fastest = max(rates.values()), max(levels.values())
    left = min([x for x, _ in points] + [min(rates.values()) / fastest])
    right = max([x for x, _ in points] + [top / min(levels.values())])
    left /= 4 ** (1 + max(moved for _, moved in _moved(levels)) // 2)  # labels need room
    right *= 8 ** (1 + max(moved for _, moved in _moved(rates)) // 2)
    low, high = min([y for _, y in points] + [left * min(levels.values())]) / 2, 3 * max([y for _, y in points] + [top])
    _log_axis(axes, "x", left, right, lambda value: f"{value:g}")
    _log_axis(axes, "y", low, high, lambda value: _number(value, "op/s"))
    for rate in rates.values():
        axes.plot([rate / fastest, right], [rate, rate], color="black", linewidth=0.9)
    for rate in levels.values():
        axes.plot([left, top / rate], [left * rate, top], color=GREY, linewidth=0.9)
    for row, (x, y) in zip(rows, points, strict=True):
        style = styles[row["variant"]]
        axes.plot([x], [y], style.marker, color=style.color, markersize=5, alpha=0.75, markeredgewidth=0)
    _finish(axes)


def _levels(known: Mapping[str, Any]) -> dict[str, float]:
    """Bytes per second of each level of memory, the fastest first."""
    levels: dict[str, float] = {}
    for point in known["memory"]:
        levels[point["name"]] = max(levels.get(point["name"], 0), point["bytes_per_s"])
    return dict(sorted(levels.items(), key=lambda item: -item[1]))


def _rates(known: Mapping[str, Any]) -> dict[str, float]:
    """Operations per second in each precision, the fastest first."""
    return dict(sorted(known["operations_per_s"].items(), key=lambda item: -item[1]))


def _moved(ceilings: Mapping[str, float]) -> list[tuple[tuple[str, float], int]]:
    """For each ceiling how many others in a row are so close above that their labels would meet."""
    found: list[tuple[tuple[str, float], int]] = []
    for item in ceilings.items():
        close = bool(found) and found[-1][0][1] < 1.6 * item[1]
        found.append((item, found[-1][1] + 1 if close else 0))
    return found


def _label_ceilings(axes: Axes, known: Mapping[str, Any]) -> None:
    """Write along each line what it is, next to each other where lines are close."""
    left, right = axes.get_xlim()
    (x0, y0), (x1, y1) = axes.transData.transform([(1, 1), (10, 10)])
    slope = math.degrees(math.atan2(y1 - y0, x1 - x0))
    across = math.radians(slope)
    for (name, rate), moved in _moved(_rates(known)):
        axes.annotate(
            f"{name}: {_number(rate, 'op/s')}",
            (right, rate),
            (-4 - LABEL * (moved // 2), -2.5 if moved % 2 else 2.5),
            textcoords="offset points",
            ha="right",
            va="top" if moved % 2 else "bottom",
            fontsize=8,
        ).set_in_layout(False)
    for (name, rate), moved in _moved(_levels(known)):
        along, away = 9 + LABEL * (moved // 2), -9.5 if moved % 2 else 2.5
        axes.annotate(
            f"{name}: {_number(rate, 'B/s')}",
            (left, left * rate),
            (along * math.cos(across) - away * math.sin(across), along * math.sin(across) + away * math.cos(across)),
            textcoords="offset points",
            rotation=slope,
            rotation_mode="anchor",
            fontsize=8,
        ).set_in_layout(False)


def _draw_errors(axes: Axes, rows: Sequence[Row]) -> None:
    found = [row["error"] for row in rows if row["error"] > 0]
    lowest = 10.0 ** math.floor(math.log10(min(found, default=1e-6)))
    highest = 2 * max(found, default=1e-5)
    none = lowest / 10**0.75
    times = [row["p50_us"] for row in rows]
    _log_axis(axes, "x", min(times) / 1.5, max(times) * 1.5, _time)
    _log_axis(axes, "y", lowest / 10**1.25, highest, lambda value: f"{value:.0e}", floor=(none, lowest, "0 (equal)"))
    axes.axhline(lowest / 10**0.25, color=GREY, linewidth=0.8, linestyle=":")
    axes.scatter(
        times,
        [max(row["error"], none) for row in rows],
        s=32,
        c=[_color(row["precision"]) for row in rows],
        alpha=0.9,
        zorder=3,
    )
    _finish(axes)


def _label_points(axes: Axes, labels: Sequence[str]) -> None:
    """Write a label beside each point of a panel, where it covers no other, joined to its point where it is far."""
    scale = 72 / axes.get_figure(root=True).dpi  # type: ignore[union-attr]
    points = np.asarray(axes.transData.transform(axes.collections[-1].get_offsets())) * scale
    (left, bottom), (right, top) = axes.bbox.get_points() * scale
    taken = [(x - 4, y - 4, x + 4, y + 4) for x, y in points]
    ways = [(7, 0), (-7, 0)]
    ways += [(dx, side * 10 * far) for far in range(1, 16) for dx in (0, 7, -7) for side in (1, -1)]
    for (x, y), label in zip(points, labels, strict=True):
        boxes = [_box(x + dx, y + dy, 4.8 * len(label), dx) for dx, dy in ways]
        inside = [
            index
            for index, box in enumerate(boxes)
            if left < box[0] and bottom < box[1] and box[2] < right and box[3] < top
        ]
        free = [index for index in inside if not any(_overlap(boxes[index], other) for other in taken)]
        chosen = (free or inside or [0])[0]
        dx, dy = ways[chosen]
        taken.append(boxes[chosen])
        joined = {
            "arrowstyle": "-",
            "color": GREY,
            "linewidth": 0.6,
            "relpos": ((1 - np.sign(dx)) / 2, 0.5),
            "shrinkB": 3,
        }
        axes.annotate(
            label,
            tuple(axes.transData.inverted().transform((x / scale, y / scale))),
            (dx, dy),
            textcoords="offset points",
            ha=_SIDES[int(np.sign(dx))],
            va="center",
            fontsize=8,
            parse_math=False,
            arrowprops=joined if (dx and dy) or abs(dy) > 10 else None,
        ).set_in_layout(False)


_SIDES: dict[int, Literal["left", "center", "right"]] = {1: "left", 0: "center", -1: "right"}


def _box(x: float, y: float, width: float, side: float) -> tuple[float, float, float, float]:
    """Of a text to the right or left of a place, or around it."""
    start = x if side > 0 else x - width / (2 if not side else 1)
    return start, y - 5, start + width, y + 5


def _overlap(a: Sequence[float], b: Sequence[float]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _rows(document: Document, *, twins: bool = False) -> list[dict[str, Any]]:
    """The rows; the baseline's second timing only if asked for."""
    return [row for row in document["results"] if twins or not row["again"]]


def _short(row: Row) -> str:
    """Its name beside others of the same target and provider."""
    name: str = row["variant"]
    return name.removeprefix(f"{row['group']}: ").removesuffix(f" {row['provider']}")


def _case(row: Row) -> Case:
    return Case(row["scenario"], row["scope"], row["threads"], row["batch"], row["seq_len"])


def _by_case(rows: Iterable[Row]) -> list[tuple[Case, list[Row]]]:
    """Rows of each case, those of a scenario and scope after each other, by size."""
    cases: dict[Case, list[Row]] = {}
    for row in rows:
        cases.setdefault(_case(row), []).append(row)
    groups = list(dict.fromkeys(case.group for case in cases))
    return sorted(
        cases.items(),
        key=lambda item: (groups.index(item[0].group), item[0].threads, item[0].seq_len, item[0].batch),
    )


def _by_baseline(rows: Sequence[Row]) -> list[tuple[tuple[Case, str], list[Row]]]:
    """Rows of each case and baseline; in a scenario and scope those of one baseline after each other."""
    baselines = list(dict.fromkeys(row["baseline"] for row in rows))
    found = [
        ((case, name), own)
        for case, all_rows in _by_case(rows)
        for name in baselines
        if (own := [row for row in all_rows if row["baseline"] == name])
    ]
    groups = list(dict.fromkeys(case.group for (case, _), _ in found))
    return sorted(found, key=lambda item: (groups.index(item[0][0].group), baselines.index(item[0][1])))


def _title_with_baseline(axes: Axes, case: Case, baseline: str, relation: str) -> None:
    where, sizes = str(case).split("\n")
    end = "\n" if len(baseline) > 16 else ", "  # or it would reach into the next panel
    axes.set_title(f"{where}{end}{relation} {baseline}\n{sizes}", fontsize=9, loc="left", parse_math=False)


def _columns(rows: Iterable[Row]) -> int:
    """As many as put the batches beside each other; without several, the numbers of steps."""
    rows = list(rows)
    for name in ("batch", "seq_len", "threads"):
        if (sizes := len({row[name] for row in rows})) > 1:
            return next((columns for columns in (3, 2) if sizes % columns == 0), MOST_COLUMNS)
    return 1


def _is_baseline(row: Row) -> bool:
    return bool(row["variant"] == row["baseline"])


def _is_floor(row: Row) -> bool:
    """Whether it is the model that does nothing: no rival, only what a call costs."""
    return bool(row["kind"] == "floor")


def _styles(rows: Iterable[Row]) -> dict[str, Style]:
    labels = dict.fromkeys(row["variant"] for row in rows)
    return {
        label: Style(
            COLORS[index % len(COLORS)],
            DASHES[index // len(COLORS) % len(DASHES)],
            MARKERS[index % len(MARKERS)],
        )
        for index, label in enumerate(labels)
    }


def _tail(samples: NDArray[np.float64]) -> tuple[list[float], list[float]]:
    """Times, and the shares of samples that are as long or longer."""
    ordered = np.sort(samples)
    left = np.unique(np.geomspace(1, ordered.size, TAIL_POINTS).round().astype(int))[::-1]
    return ordered[ordered.size - left].tolist(), (left / ordered.size).tolist()


def _grid(
    panels: Sequence[tuple[K, list[Row]]],
    *,
    key: Callable[[K], object],
    height: float = 0,
    columns: int = MOST_COLUMNS,
    wide: float = 4.6,
    legend: float = 0,
) -> tuple[Figure, list[tuple[Axes, tuple[K, list[Row]]]]]:
    """A figure with axes for each panel; those with one key stand in rows of their own, as far as that is possible.

    Without a height each panel has one for its rows. `legend` is the width to leave for one.
    """
    groups = [list(group) for _, group in groupby(panels, lambda panel: key(panel[0]))]
    most = max(map(len, groups))
    columns = min(columns, 2 if most == 4 else most)
    lines = [group[start : start + columns] for group in groups for start in range(0, len(group), columns)]
    heights = [height or max(0.75 + 0.19 * len(rows) for _, rows in line) for line in lines]
    wide = wide if columns > 1 else max(wide, 6.5)
    figure = Figure(figsize=(wide * columns + legend, 0.7 * (not legend) + sum(heights)), layout="constrained")
    grid = figure.add_gridspec(len(lines), columns, height_ratios=heights)
    drawn = [
        (figure.add_subplot(grid[index, column]), panel)
        for index, line in enumerate(lines)
        for column, panel in enumerate(line)
    ]
    return figure, drawn


def _log_axis(
    axes: Axes,
    name: Literal["x", "y"],
    low: float,
    high: float,
    text: Callable[[float], str],
    floor: tuple[float, float, str] | None = None,
) -> None:
    """Make an axis logarithmic, with a few ticks; `floor` is a place below the rest, where it starts, and its text."""
    if high / low < 3:
        middle = math.sqrt(low * high)
        low, high = middle / math.sqrt(3), middle * math.sqrt(3)
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    least = 0.999 * floor[1] if floor else low
    found: list[list[float]] = []
    for steps, apart in [*((steps, 1) for steps in STEPS), ((1,), 2), ((1,), 3), ((1,), 4)]:
        ticks = [step * 10.0**power for power in powers if power % apart == 0 for step in steps]
        found.append([tick for tick in ticks if least <= tick <= high])
    most = 5 if name == "x" else 8
    chosen = next((ticks for ticks in found if len(ticks) <= most), found[-1])
    labels = [text(tick) for tick in chosen]
    if floor:
        chosen, labels = [floor[0], *chosen], [floor[2], *labels]
    axes.set(**{f"{name}scale": "log", f"{name}lim": (low, high)})
    getattr(axes, f"set_{name}ticks")(chosen, labels)


def _name_rows(axes: Axes, rows: Sequence[Row], names: Sequence[str], texts: Sequence[str]) -> None:
    """A variant's name at the left of its row, a figure at the right; the first on top."""
    axes.set_yticks(range(len(rows)), names, parse_math=False)
    for row, name in zip(rows, axes.get_yticklabels(), strict=True):
        if _is_baseline(row):
            name.set_fontweight("bold")
    for place, text in enumerate(texts):
        axes.annotate(
            text,
            (1, place),
            (4, 0),
            xycoords=axes.get_yaxis_transform(),
            textcoords="offset points",
            va="center",
            size=8,
        )
    axes.set_ylim(len(rows) - 0.4, -0.6)


def _finish(axes: Axes) -> None:
    axes.minorticks_off()  # on log axes they take most of the time that a plot takes
    axes.tick_params(labelsize=8)
    axes.grid(alpha=0.25)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _legend_above(figure: Figure, handles: Sequence[Artist], title: str) -> None:
    widths = [_width([str(handle.get_label())]) for handle in handles]
    fitting = (
        columns
        for columns in range(len(handles), 1, -1)
        if sum(part.max() for part in np.array_split(widths, columns)) < figure.get_figwidth()
    )
    _legend(figure, handles, title, loc="outside upper left", ncols=next(fitting, 1))


def _legend_beside(figure: Figure, handles: Sequence[Artist], title: str) -> None:
    _legend(figure, handles, title, loc="outside right upper")


def _legend(figure: Figure, handles: Sequence[Artist], title: str, **where: Any) -> None:
    legend = figure.legend(
        handles=handles, title=title, fontsize=8, title_fontsize=9, alignment="left", frameon=False, **where
    )
    for text in legend.get_texts():
        text.set_parse_math(False)


def _width(labels: Iterable[str]) -> float:
    """Inches of a legend's column with these labels."""
    return 0.6 + 0.068 * max(map(len, labels), default=0)


def _dot(color: str, label: str, marker: str = "o", **style: Any) -> Line2D:
    return Line2D([], [], color=color, marker=marker, linestyle="", label=_legible(label), **style)


def _line(style: Style, label: str, marker: str = "") -> Line2D:
    return Line2D(
        [], [], color=style.color, linestyle=style.dashes, marker=marker, markersize=4.5, label=_legible(label)
    )


def _legible(label: str) -> str:
    """A legend leaves out what starts with an underscore."""
    return f" {label}" if label.startswith("_") else label


def _color(precision: str) -> str:
    return PRECISIONS.get(precision, RED)


def _ends(values: Iterable[int]) -> tuple[int, int]:
    found = sorted(values)
    return found[0], found[-1]


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _time(us: float) -> str:
    """With a unit that leaves few digits."""
    for size, unit in ((1e-3, "ns"), (1.0, "µs"), (1e3, "ms")):
        if us < 999.5 * size:
            return f"{us / size:.3g} {unit}" if us else "0"
    return f"{us / 1e6:.3g} s"


def _number(value: float, unit: str) -> str:
    for size, prefix in ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= 0.9995 * size:
            return f"{value / size:.3g} {prefix}{unit}"
    return f"{value:.3g} {unit}"
