"""The summary of a bundle for its report: what the model is, whether its files are right, and how fast they are."""

from collections.abc import Mapping
from typing import Any

from lstm_deploy.artifacts import FORMATS, Check, Manifest, format_value, markdown_table, worst_check
from lstm_deploy.contract import Classify, Forecast, LanguageModel
from lstm_deploy.exporters.usage import code, listed
from lstm_deploy.training import result_tables
from lstm_deploy.validation import CHECKS

Row = Mapping[str, Any]
ORIGINS = {
    "checkpoint": "It was trained by lstm-deploy",
    "weights": "It was inferred from the names and shapes of a file of weights",
    "module": "It is its author's own PyTorch module",
}
"""By kind of source."""


def summary(manifest: Manifest) -> dict[str, Any]:
    """The variables of the report that say in a line or a short table what the rest shows in full."""
    return {
        "about": _about(manifest),
        "verdict": _verdict(manifest),
        "quality": _quality(manifest),
        "speed": _speed(manifest),
        "files_table": "\n".join(_files_table(manifest)),
        "proofs": _proofs(manifest),
        "speed_table": "\n".join(_speed_table(manifest)),
        "machine": _machine(manifest),
    }


def measurements_of(manifest: Manifest) -> dict[str, Any] | None:
    """The recorded benchmark; None if there is none, or one by an older release that recorded less."""
    return manifest.measurements if "peaks" in (manifest.measurements or {}) else None


def _about(manifest: Manifest) -> str:
    """The model, its task and its origin."""
    contract, source = manifest.contract, manifest.source
    match contract.task:
        case Forecast(features=features, targets=targets, horizon=horizon, window=window):
            ahead = "one step" if horizon == 1 else f"{horizon} steps"
            what = f"It forecasts {listed(targets)} {ahead} ahead from {listed(features)}, {window} rows at a time."
        case LanguageModel(vocabulary=vocabulary, unit=unit):
            what = f"It continues a text, {unit} by {unit}; it knows {len(vocabulary)} {unit}s."
        case Classify(labels=labels, unit=unit):
            what = f"It labels a text, which it reads {unit} by {unit}, as one of {listed(labels)}."
        case _:
            what = f"From {listed([spec.name for spec in contract.inputs])} and its state it computes "
            what += f"{listed([spec.name for spec in contract.outputs]) if contract.outputs else 'its next state'}."
    *kinds, last = [FORMATS[name].label for name in FORMATS if any(a.format == name for a in manifest.artifacts)]
    formats = f"{', '.join(kinds)} and {last}" if kinds else last
    network = source.summary.replace("|", "\\|") or "A recurrent network"
    return (
        f"{network}. {what} {ORIGINS.get(source.kind, 'It comes from PyTorch')}; here it is as {formats}, "
        f"exported on {manifest.created.partition('T')[0]} with its hidden state as inputs and outputs."
    )


def _verdict(manifest: Manifest) -> str:
    """Whether all files compute what PyTorch computes, and how near to what is allowed they come."""
    parity = manifest.parity
    if parity is None:
        return "**Not checked yet**: `lstm-deploy validate` does."
    total, failed = len(parity.checks), len(parity.failures)
    if failed:
        files = listed(list(dict.fromkeys(check.artifact for check in parity.failures)))
        return f"**No**: {failed} of {total} checks failed, in {files}, against {parity.reference}."
    elsewhere = [name for name, report in manifest.parity_elsewhere.items() if report.passed]
    also = f" (and on {', '.join(elsewhere)})" if elsewhere else ""
    text = f"**Yes**: all {total} checks passed{also}, against {parity.reference}."
    if most := worst_check(check for check in parity.checks if check.precision == "float32"):
        text += f" The largest difference in float32 is {most.severity:.1%} of what is allowed: {_figure(most)}"
        text += f" in {code(most.output)} of `{most.artifact}`."
    return text


def _figure(check: Check) -> str:
    return f"{check.max_abs:.1e} of {check.tolerance:.1e}"


def _quality(manifest: Manifest) -> str:
    """How the model does on data that it was not trained on; empty where that is not known."""
    metrics = (manifest.training or {}).get("metrics")
    return f"{result_tables.baseline_verdict(metrics).removesuffix('.')}, on held-out data." if metrics else ""


def _files_table(manifest: Manifest) -> list[str]:
    """A line for each file, with its size and its worst check."""
    checks = manifest.parity.by_artifact if manifest.parity else {}
    rows = []
    for artifact in manifest.exported:
        own = checks.get(artifact.path, [])
        failed = sum(not check.passed for check in own)
        outcome = f"**{failed} of {len(own)} FAILED**" if failed else f"{len(own)} passed" if own else "–"
        cells = ["–", "–"]
        if most := worst_check(own):
            cells = [f"{_figure(most)} ({code(most.output)}, `{most.name}`)", f"{most.severity:.1%}"]
        rows.append([code(artifact.path), artifact.precision, f"{artifact.bytes:,}", outcome, *cells])
    return markdown_table(["file", "precision", "bytes", "checks", "worst difference", "of what is allowed"], rows)


def _proofs(manifest: Manifest) -> list[tuple[str, str]]:
    """The checks that were made, and the fact that each proves."""
    made = {check.name for check in manifest.parity.checks} if manifest.parity else set()
    return [(spec.name, spec.proves) for spec in CHECKS if spec.name in made]


def _rows(manifest: Manifest) -> list[Row]:
    """The measurements of the bundle's own files, from the caller's arrays to the caller's arrays where there are."""
    document = measurements_of(manifest)
    names = {artifact.path for artifact in manifest.exported}
    rows = [row for row in document["results"] if row["artifact"] in names and not row["again"]] if document else []
    end_to_end = [row for row in rows if row["scope"] == "end_to_end"]
    return end_to_end or rows


def _speed(manifest: Manifest) -> str:
    """The fastest file in the case that most programs have: the smallest of a stream. Empty where none was timed."""
    if not (rows := _rows(manifest)):
        return ""
    first = min(rows, key=lambda row: (row["scenario"] != "stream", row["batch"], row["seq_len"], row["threads"]))
    case = ("scenario", "batch", "seq_len", "threads")
    row = min((row for row in rows if all(row[name] == first[name] for name in case)), key=lambda row: row["p50_us"])
    text = f"**{format_value(row['p50_us'])} µs** {_call(row)} with {code(row['artifact'])}"
    if row["ratio_to_baseline"] is not None and row["variant"] != row["baseline"]:
        text += f", {row['ratio_to_baseline']:.2g} of what {code(row['baseline'])} takes"
    return f"{text}; {_machine(manifest)}."


def _call(row: Row) -> str:
    """A call of a row, in words."""
    call = {"stream": "a step", "sequence": f"a sequence of {row['seq_len']} steps"}.get(
        row["scenario"], f"a {row['scenario']} of {row['seq_len']} steps"
    )
    return call if row["batch"] == 1 else f"{call} of {row['batch']} rows"


def _speed_table(manifest: Manifest) -> list[str]:
    """A line for each case and file of the bundle; nothing where nothing was measured."""
    rows = [
        [
            _call(row),
            code(row["artifact"]),
            row["provider"] if row["threads"] == 1 else f"{row['provider']}, {row['threads']} threads",
            *(format_value(row[name]) for name in ("p50_us", "p99_us")),
            _beside(row),
        ]
        for row in sorted(_rows(manifest), key=_order)
    ]
    headings = ["call", "file", "on", "median µs", "99th percentile µs", "beside"]
    return markdown_table(headings, rows) if rows else []


def _order(row: Row) -> tuple[Any, ...]:
    return row["scenario"] != "stream", row["scenario"], row["batch"], row["seq_len"], row["threads"], row["p50_us"]


def _beside(row: Row) -> str:
    if row["ratio_to_baseline"] is None or row["variant"] == row["baseline"]:
        return "–"
    return f"{row['ratio_to_baseline']:.2g} of {code(row['baseline'])}"


def _machine(manifest: Manifest) -> str:
    document = measurements_of(manifest)
    if document is None:
        return ""
    described = document["environment"]
    parts = [described["cpu"]["model"], *(gpu["name"] for gpu in described["gpu"])]
    return f"measured on {', '.join(parts)}, {described['cpu']['usable_cores']} cores to use"
