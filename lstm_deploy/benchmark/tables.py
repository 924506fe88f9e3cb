"""Benchmark results as text: tables for the terminal, Markdown and CSV, from the JSON document alone."""

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from lstm_deploy.artifacts import format_value, markdown_table
from lstm_deploy.benchmark.statistics import NO_DIFFERENCE

SCHEMA_VERSION = 1
UNSTABLE_SAYS = "The median is known only to lie between"
MAX_UNSTABLE = 5
"""More unstable rows than this are reported together."""
KEY = ("variant", "provider", "precision", "scenario", "scope", "batch", "seq_len", "threads")
"""The fields that identify a row."""

Row = Mapping[str, Any]
Document = Mapping[str, Any]


def _ratio(row: Row) -> str:
    if row["variant"] == row["baseline"] or row["ratio_to_baseline"] is None:
        return "1" if row["baseline"] else "–"
    if row["verdict"] == NO_DIFFERENCE:
        return NO_DIFFERENCE
    low, high = row["ratio_interval"]
    return f"{row['ratio_to_baseline']:.3g} ({low:.3g}–{high:.3g})"


def of_peak(fraction: float | None) -> str:
    """Percent of the machine's peak; one that is faster than the peak measured is at least as fast as that."""
    if fraction is None:
        return "–"
    if fraction > 1:
        return "≥100%"
    return f"{fraction:.0%}" if fraction >= 0.005 else "<1%"


def _limit(row: Row) -> str:
    return f"{of_peak(row['roofline_fraction'])} {row['limit']}" if row["limit"] else "–"


COLUMNS: dict[str, tuple[str, Callable[[Row], str]]] = {
    "variant": ("variant", lambda row: format_value(row["variant"])),
    "scenario": ("scenario", lambda row: format_value(row["scenario"])),
    "scope": ("scope", lambda row: format_value(row["scope"]).replace("_", " ")),
    "batch": ("batch", lambda row: format_value(row["batch"])),
    "seq_len": ("steps", lambda row: format_value(row["seq_len"])),
    "threads": ("threads", lambda row: format_value(row["threads"])),
    "p50_us": ("p50 µs", lambda row: format_value(row["p50_us"])),
    "p90_us": ("p90 µs", lambda row: format_value(row["p90_us"])),
    "p99_us": ("p99 µs", lambda row: format_value(row["p99_us"])),
    "steps_per_s": ("steps/s", lambda row: format_value(row["steps_per_s"])),
    "ratio_to_baseline": ("÷ baseline", _ratio),
    "roofline_fraction": ("of peak", _limit),
}
"""By key of the rows: heading and text."""
VARYING = ("scenario", "scope", "batch", "seq_len", "threads")
"""Columns shown only where rows differ in them."""


def table(document: Document) -> tuple[list[str], list[list[str]]]:
    """Headings and rows, with only the columns that vary."""
    results = document["results"]
    shown = [key for key in COLUMNS if key not in VARYING or len({row[key] for row in results}) > 1]
    if not document["peaks"]:
        shown.remove("roofline_fraction")
    return [COLUMNS[key][0] for key in shown], [[COLUMNS[key][1](row) for key in shown] for row in results]


def startup_table(document: Document) -> tuple[list[str], list[list[str]]]:
    """Headings and rows of what is outside the timed loop: loading, the first call, memory."""
    by_variant: dict[tuple[str, int], list[Row]] = {}
    for row in document["results"]:
        if not row["again"]:
            by_variant.setdefault((row["variant"], row["threads"]), []).append(row)
    cells = [
        [
            variant,
            format_value(rows[0]["load_s"] * 1000),
            format_value(max(row["first_call_us"] for row in rows) / 1000),
            format_value(None if rows[-1]["peak_mib"] is None else float(rows[-1]["peak_mib"])),
            ", ".join(rows[-1]["active"]),
        ]
        for (variant, _), rows in by_variant.items()
    ]
    return ["variant", "load ms", "slowest first call ms", "peak MiB", "runs on"], cells


def notes(document: Document) -> list[str]:
    """Explanations of the columns, a line each."""
    baselines = list(dict.fromkeys(row["baseline"] for row in document["results"] if row["baseline"]))
    lines = [
        f"÷ baseline: the median over rounds of the time over that of {', '.join(baselines)}, with its 95 % interval; "
        f"below 1 is faster. {NO_DIFFERENCE}: within noise.",
        "–: too few calls for a 99th percentile, or nothing to compare with.",
    ]
    if len({row["scope"] for row in document["results"]}) > 1:
        lines.append("end to end: from your arrays to your arrays; resident: all stays where it is computed.")
    if document["peaks"]:
        lines.append("of peak: % of this machine's peak (roofline), and what limits it: compute, or the memory named.")
    return lines


def cases(document: Document) -> list[list[Row]]:
    """The rows of each case (scenario, scope, sizes and threads), without those of the A/A controls."""
    found: dict[tuple[Any, ...], list[Row]] = {}
    for row in document["results"]:
        if not row["again"]:
            found.setdefault(tuple(row[name] for name in VARYING), []).append(row)
    return list(found.values())


def winners(timed: Sequence[Sequence[Row]]) -> dict[str, list[Row]]:
    """The fastest row of each case, by its variant.

    Cases where it cannot be told from the baseline are left out, and those where the baseline is the fastest and
    another cannot be told from it.
    """
    found: dict[str, list[Row]] = {}
    for rows in timed:
        best = min(rows, key=lambda row: row["p50_us"])
        others = [row for row in rows if row["variant"] != row["baseline"] == best["baseline"]]
        compared = others if best["variant"] == best["baseline"] else [best]
        if not any(row["verdict"] == NO_DIFFERENCE for row in compared):
            found.setdefault(best["variant"], []).append(best)
    return found


def fastest(document: Document) -> list[str]:
    """A line for each variant that is the fastest in some case, with these cases."""
    timed = [rows for case in cases(document) if (rows := [row for row in case if row["kind"] != "floor"])]
    varying = [name for name in VARYING if len({rows[0][name] for rows in timed}) > 1]
    words = {"batch": "batch ", "seq_len": "steps ", "threads": "threads "}
    lines = []
    for variant, best in winners([rows for rows in timed if len(rows) > 1]).items():
        own = [" ".join(f"{words.get(name, '')}{COLUMNS[name][1](row)}" for name in varying) for row in best]
        lines.append(f"fastest: {variant}{' for ' if own[0] else ''}{'; '.join(own)}.")
    return lines


def warnings(document: Document, most_unstable: int = MAX_UNSTABLE) -> list[str]:
    """A line for each row that is not reliable; one for all unstable rows where there are more than a few."""
    rows = [row for row in document["results"] if not row["again"]]
    all_warnings = [(row, warning) for row in rows for warning in row["warnings"]]
    unstable = [warning for _, warning in all_warnings if warning.startswith(UNSTABLE_SAYS)]
    lines = []
    if len(unstable) > most_unstable:
        all_warnings = [(row, warning) for row, warning in all_warnings if warning not in unstable]
        lines.append(
            f"{len(unstable)} of {len(rows)} rows are unstable, with a median uncertain by over 5 %: "
            "close other programs, or give more --rounds."
        )
    return lines + [
        f"{row['variant']}, {row['scenario']}, {row['scope'].replace('_', ' ')}, batch {row['batch']}: {warning}"
        for row, warning in all_warnings
    ]


def markdown(document: Document) -> str:
    """The tables, with explanations and the machine."""
    lines = [*describe_machine(document["environment"]), "", *markdown_table(*table(document)), ""]
    lines += [*(f"- {line}" for line in (*notes(document), *fastest(document))), ""]
    lines += [*markdown_table(*startup_table(document)), ""]
    for measured in document["peaks"]:
        lines += [describe_peaks(measured), ""]
    lines += [f"- left out: {reason}." for reason in document["left_out"]]
    lines += [f"- {warning}" for warning in warnings(document)]
    return "\n".join(lines).rstrip() + "\n"


def describe_machine(described: Mapping[str, Any]) -> list[str]:
    """The machine and the versions, a line each."""
    cpu, gpus = described["cpu"], [gpu["name"] for gpu in described["gpu"]]
    machine = f"{cpu['model']}, {cpu['usable_cores']} core(s) to use ({', '.join(cpu['features'])})"
    versions = ", ".join(f"{name} {number}" for name, number in described["versions"].items())
    return [f"{', '.join([machine, *gpus])}.", "", f"{versions}."]


def describe_peaks(measured: Mapping[str, Any]) -> str:
    """The peak rates of the machine in a sentence."""
    levels: dict[str, float] = {}
    for point in measured["memory"]:  # the fastest working set stands for its level
        levels[point["name"]] = max(levels.get(point["name"], 0), point["bytes_per_s"])
    rates = ", ".join(f"{rate / 1e9:,.0f} in {name}" for name, rate in measured["operations_per_s"].items())
    read = ", ".join(f"{rate / 1e9:,.0f} from {name}" for name, rate in levels.items())
    return (
        f"Measured on {measured['provider']} with {measured['threads']} thread(s): at best {rates} billion operations "
        f"per second; {read} GB/s."
    )


def csv_text(document: Document) -> str:
    """All fields of all rows except samples and rounds, for a spreadsheet."""
    fields = [name for name in document["results"][0] if name not in ("samples_us", "round_medians_us")]
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(fields)
    writer.writerows([_flat(row[name]) for name in fields] for row in document["results"])
    return file.getvalue()


def _flat(value: Any) -> Any:
    return " ".join(map(str, value)) if isinstance(value, Sequence) and not isinstance(value, str) else value


WRITERS: dict[str, Callable[[Document], str]] = {".md": markdown, ".csv": csv_text}
"""Writers of a table, by the suffix of the file."""
