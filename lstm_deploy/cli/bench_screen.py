"""The screen of `bench`: a block for each case, sorted by time, then what is the fastest."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from lstm_deploy.artifacts import format_value
from lstm_deploy.benchmark import NO_DIFFERENCE, tables
from lstm_deploy.cli import console

if TYPE_CHECKING:
    from lstm_deploy.cli.layout import Part

Row = Mapping[str, Any]
Case = Sequence[Row]
"""The rows of one scenario, scope, batch, number of steps and of threads."""
OPTIONAL = ("95 % interval", "p90 µs", "steps/s", "p99 µs", "of peak")
"""Columns that are left out where there is too little room, in this order."""
MOST_TITLES = 2
"""More cases than that are counted in the verdict, not named: their blocks show them."""


def show(document: Mapping[str, Any]) -> None:
    """The rows of each case, footnotes on what appears in them, what was left out, and the verdict."""
    described = document["environment"]
    machine = f"{described['cpu']['model']}, {described['cpu']['usable_cores']} cores"
    console.say(", ".join([machine, *(gpu["name"] for gpu in described["gpu"])]))
    cases = tables.cases(document)
    results = [row for rows in cases for row in rows]
    _show_cases(cases)
    console.say()
    for line in _footnotes(results):
        console.say((line, console.FAINT), hang=2)
    for reason in document["left_out"]:
        console.warn(f"{reason}.", "left out")
    for warning in tables.warnings({**document, "results": results}, most_unstable=1):
        console.warn(warning)
    _show_verdict([models for rows in cases if len(models := _models(rows)) > 1])


def _show_cases(cases: Sequence[Case]) -> None:
    baselines = {row["baseline"] for rows in cases for row in rows if row["baseline"]}
    against = f"vs {baselines.pop()}" if len(baselines) == 1 else "vs baseline"
    headings = ["variant", "p50 µs", "p90 µs", "p99 µs", "steps/s", against, "95 % interval", "of peak"]
    blocks = [_cells(rows) for rows in cases]
    everything = [cells for block in blocks for cells in block]
    for rows, block in zip(cases, blocks, strict=True):
        noise = max((row["noise_floor"] or 0 for row in rows), default=0)
        console.say_heading(_heading(rows[0]), f"noise {noise:.0%}" if noise else "")
        slowest = max(row["p50_us"] for row in rows)
        console.say_table(
            headings,
            block,
            optional=OPTIONAL,
            like=everything,
            bars=[row["p50_us"] / slowest for row in _sorted(rows)],
        )


def _heading(row: Row) -> str:
    steps = "stream, one step a call" if row["scenario"] == "stream" else f"{row['scenario']} of {row['seq_len']} steps"
    return f"{steps}, {row['scope'].replace('_', ' ')}, batch {row['batch']}, {_threads(row)}"


def _cells(rows: Case) -> "list[list[Part]]":
    fastest = _sorted(_models(rows))[:1]
    return [
        [
            (row["variant"], console.HEADING if row in fastest else ""),
            *(format_value(row[name]) for name in ("p50_us", "p90_us", "p99_us", "steps_per_s")),
            _against(row),
            _interval(row),
            tables.of_peak(row["roofline_fraction"]),
        ]
        for row in _sorted(rows)
    ]


def _against(row: Row) -> "Part":
    """How many times faster or slower than its baseline a row is."""
    if row["variant"] == row["baseline"]:
        return "baseline", console.FAINT
    if row["ratio_to_baseline"] is None or row["kind"] == "floor":
        return ""
    if row["verdict"] == NO_DIFFERENCE:
        return "same", console.FAINT
    ratio = row["ratio_to_baseline"]
    if ratio < 1:
        return f"{_times(1 / ratio):>4}× faster", console.GOOD
    return f"{_times(ratio):>4}× slower", console.BAD


def _interval(row: Row) -> str:
    """The 95 % interval of that."""
    if row["ratio_interval"] is None or row["variant"] == row["baseline"] or row["kind"] == "floor":
        return ""
    low, high = row["ratio_interval"]
    if row["ratio_to_baseline"] < 1:
        low, high = 1 / high, 1 / low
    return f"{_times(low)}–{_times(high)}×"


def _times(factor: float) -> str:
    return f"{factor:.2f}" if factor < 2 else f"{factor:.1f}" if factor < 100 else f"{factor:,.0f}"


def _footnotes(rows: Sequence[Row]) -> list[str]:
    """An explanation of each word that appears and does not explain itself."""
    lines = []
    if len({row["scope"] for row in rows}) > 1:
        lines.append("end to end: from your arrays to your arrays; resident: the data stays where it is computed.")
    if any(row["kind"] == "floor" for row in rows):
        lines.append("floor: a call of ONNX Runtime that computes nothing.")
    if any(row["verdict"] == NO_DIFFERENCE and row["variant"] != row["baseline"] for row in rows):
        lines.append("same: the difference is within the noise of its block.")
    fractions = [row["roofline_fraction"] for row in rows if row["roofline_fraction"] is not None]
    if fractions:
        lines.append("of peak: % of this machine's peak (roofline).")
    if any(fraction > 1 for fraction in fractions):
        lines.append("≥100%: as fast as the peak that was measured, which itself varies between runs.")
    return lines


def _show_verdict(cases: Sequence[Case]) -> None:
    """What is the fastest in which cases, and by how much."""
    found = tables.winners(cases)
    for variant, rows in sorted(found.items(), key=lambda item: -len(item[1])):
        if len(rows) == len(cases):
            where = f" in {'both' if len(rows) == 2 else f'all {len(rows)}'} cases" if len(rows) > 1 else ""
        elif len(rows) <= MOST_TITLES:
            where = f" for {'; '.join(_title(row, cases) for row in rows)}"
        else:
            where = f" in {len(rows)} of {len(cases)} cases"
        console.say(("FASTEST ", console.GOOD), f" {variant}{where}{_gain(rows)}", hang=9)
    if undecided := len(cases) - sum(map(len, found.values())):
        where = f"in {undecided} of {len(cases)} cases, " if len(cases) > 1 else ""
        console.say(("SAME    ", console.FAINT), f" {where}the fastest and the baseline are within noise", hang=9)


def _gain(rows: Sequence[Row]) -> str:
    """How many times faster than the baseline, where it is faster in all these rows."""
    gains = sorted(1 / row["ratio_to_baseline"] for row in rows if row["verdict"] == "faster")
    baselines = {row["baseline"] for row in rows}
    if len(gains) < len(rows) or len(baselines) > 1:
        return ""
    low, high = _times(gains[0]), _times(gains[-1])
    return f": {low if low == high else f'{low} to {high}'} times faster than {baselines.pop()}"


def _title(row: Row, cases: Sequence[Case]) -> str:
    """A case among others, by what differs."""
    differ = {name for name in tables.VARYING if len({rows[0][name] for rows in cases}) > 1}
    scenarios = {rows[0]["scenario"] for rows in cases}
    if len({(rows[0]["scenario"], rows[0]["seq_len"]) for rows in cases}) == len(scenarios):
        differ.discard("seq_len")
    words = {
        "scenario": row["scenario"],
        "scope": row["scope"].replace("_", " "),
        "batch": f"batch {row['batch']}",
        "seq_len": f"{row['seq_len']} steps",
        "threads": _threads(row),
    }
    return ", ".join(text for name, text in words.items() if name in differ)


def _threads(row: Row) -> str:
    return f"{row['threads']} thread{'s' if row['threads'] > 1 else ''}"


def _models(rows: Case) -> list[Row]:
    return [row for row in rows if row["kind"] != "floor"]


def _sorted(rows: Case) -> list[Row]:
    return sorted(rows, key=lambda row: row["p50_us"])
