"""`report.md` of a bundle, with its tables and plots, from the manifest alone."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lstm_deploy.artifacts import (
    REPORT,
    REPORT_PLOTS,
    Bundle,
    Check,
    Manifest,
    atomic_write,
    format_value,
    markdown_table,
)
from lstm_deploy.benchmark import tables
from lstm_deploy.contract import Forecast, LanguageModel, no_rollout_reason
from lstm_deploy.errors import InputError, why_missing
from lstm_deploy.training import result_tables

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Table = tuple[list[str], list[list[str]]]
"""Headings and rows."""
_PLOT = re.compile(rf"^!\[.*\]\({REPORT_PLOTS}/.*\)\n", re.MULTILINE)
"""A plot in the report."""


def write(bundle: Bundle) -> None:
    """Write `report.md` and, where matplotlib is installed, the plots beside it."""
    manifest = bundle.manifest
    folder = bundle.path / REPORT_PLOTS
    if folder.is_symlink():
        folder.unlink()  # it leads out of the bundle
    text = _markdown(manifest)
    if reason := why_missing("matplotlib"):
        for plot in folder.glob("*.png"):
            plot.unlink()  # it shows other figures than the tables
        text = f"{_PLOT.sub('', text)}\nNo plots: {reason}.\n"
    else:
        _draw(manifest, folder)
    with atomic_write(bundle.path / REPORT) as file:
        file.write_text(text, encoding="utf-8")


def _draw(manifest: Manifest, folder: Path) -> None:
    from lstm_deploy.benchmark import plots
    from lstm_deploy.exporters.parity_plots import error_plot, parity_plot

    folder.mkdir(exist_ok=True)
    if (parity := manifest.parity) and parity.checks:
        save_plot(parity_plot(parity), folder / "parity.png")
    if parity and parity.profiles:
        save_plot(error_plot(parity), folder / "errors.png")
    if measurements := _measurements(manifest):
        save_plot(plots.latency_plot(measurements), folder / "latency.png")


def parity_tables(checks: Sequence[Check]) -> list[Table]:
    """A table for each precision: the checks, their tolerances, and the difference of each artifact."""
    precisions = dict.fromkeys(check.precision for check in checks)
    return [_parity_table([check for check in checks if check.precision == precision]) for precision in precisions]


def _parity_table(checks: Sequence[Check]) -> Table:
    artifacts = list(dict.fromkeys(check.artifact for check in checks))
    rows = []
    for name, output in dict.fromkeys((check.name, check.output) for check in checks):
        by_artifact = {check.artifact: check for check in checks if (check.name, check.output) == (name, output)}
        tolerances = {f"{check.tolerance:.1e}" for check in by_artifact.values() if check.tolerance is not None}
        own = len(tolerances) > 1  # of other columns, or of runtimes of other exactness
        shown = "each its own" if own else "".join(tolerances)
        rows.append([name, output, shown, *(_outcome(by_artifact.get(artifact), own=own) for artifact in artifacts)])
    return ["check", "output", "tolerance", *artifacts], rows


def _outcome(check: Check | None, *, own: bool) -> str:
    """A cell of the table, with the tolerance of its own where the row has no common one."""
    if check is None:
        return ""
    figure = "" if check.max_abs is None else f"{check.max_abs:.1e}"
    if own and figure and check.tolerance is not None:
        figure += f" of {check.tolerance:.1e}"
    return figure or "passed" if check.passed else f"FAILED {figure}".strip()


def evidence_table(manifest: Manifest) -> Table:
    """The size, loss and time of each artifact of lower precision, beside float32's."""
    rows = []
    for artifact in manifest.artifacts:
        if (evidence := artifact.evidence) is None:
            continue
        if evidence.metric_value is None or evidence.metric_float32 is None:
            loss = f"differs by {evidence.difference:.2%}, cosine {evidence.cosine:.5f}"
        else:
            name = evidence.metric.replace("_", " ")
            direction = "worse" if evidence.loss >= 0 else "better"
            figures = f"{evidence.metric_float32:.5g} → {evidence.metric_value:.5g}"
            loss = f"{name} {figures} ({abs(evidence.loss):.2%} {direction})"
        if evidence.decisions_changed is not None:
            loss += f", {evidence.decisions_changed:.2%} of decisions changed"
        time = "–"
        if evidence.time_ratio is not None:
            call = "step" if evidence.scenario == "stream" else "sequence"
            figures = f"{format_value(evidence.p50_us_float32)} → {format_value(evidence.p50_us)} µs"
            time = f"{figures} a {call} (× {evidence.time_ratio:.2f})"
        layers = f"{evidence.lowered_layers} of {evidence.recurrent_layers}"
        of = "weights " if artifact.format == "c" else ""
        size = f"{artifact.bytes:,} ({of}× {evidence.bytes_ratio:.2f})"
        rows.append([artifact.path, layers, size, loss, time, _state_error(manifest, artifact.path)])
    return ["artifact", "recurrent layers", "bytes", "float32 → this", "time", "state error, step 100 → last"], rows


def _state_error(manifest: Manifest, artifact: str) -> str:
    """The error of the state after 100 carried steps, and after the last."""
    profiles = manifest.parity.profiles if manifest.parity else ()
    outputs = {spec.name for spec in manifest.contract.state_outputs}
    own = [p for p in profiles if p.artifact == artifact and p.output in outputs and 100 in p.steps]
    curves = [dict(zip(profile.steps, profile.errors, strict=True)) for profile in own]
    if not curves:
        return "–"
    last = max(curves[0])
    return f"{max(c[100] for c in curves):.1e} → {max(c[last] for c in curves):.1e} ({last:,})"


def check_plot(path: Path) -> None:
    """Raise `InputError` unless the suffix is that of a plot's format, and matplotlib is installed."""
    from matplotlib.figure import Figure

    formats = Figure().canvas.get_supported_filetypes()
    if path.suffix and path.suffix.removeprefix(".").lower() not in formats:
        raise InputError(f"{path.suffix} is not a format of plots; use .png, .svg or .pdf.")
    if path.exists() and not path.is_file() and not path.is_dir():
        raise InputError(f"{path} is a device or a pipe; give a file name for the plot.")


def save_plot(figure: "Figure", path: Path) -> None:
    """Write a plot, whole or not at all, in the format of its suffix (PNG where there is none)."""
    with atomic_write(path) as file:
        figure.savefig(file, dpi=120, format=path.suffix.removeprefix(".") or "png")


def _markdown(manifest: Manifest) -> str:
    lines = [f"# {manifest.name}", "", f"{manifest.source.summary}, exported {manifest.created}.", ""]
    contract = manifest.contract
    lines += ["## Contract", "", "| tensor | |", "|---|---|"]
    lines += [f"| input | `{spec}` |" for spec in (*contract.inputs, *contract.state_inputs)]
    lines += [f"| output | `{spec}` |" for spec in (*contract.outputs, *contract.state_outputs)]
    lines += ["", f"Streaming: {contract.streaming_text}. State policy: {contract.state_policy}.", ""]
    if isinstance(task := contract.task, Forecast):
        columns = f"Columns of x: {', '.join(task.features)}; of y: {', '.join(task.targets)}."
        lines += [f"{columns} Window: {task.window}.", ""]
    if manifest.findings:
        lines += ["Inferred, and not proven by any check:", "", *(f"- {finding}" for finding in manifest.findings), ""]
    lines += ["## Artifacts", ""]
    lines += markdown_table(
        ["file", "format", "precision", "bytes"],
        [[f"`{a.path}`", a.format, a.precision, f"{a.bytes:,}"] for a in manifest.exported],
    )
    if reason := why_no_rollout(manifest):
        lines += ["", f"No rollout: {reason}"]
    lines += _evidence(manifest)
    metrics = (manifest.training or {}).get("metrics")
    if metrics:
        lines += ["", "## On held-out data", ""]
        lines += [*markdown_table(["metric", "value"], result_tables.metric_rows(metrics)), ""]
        lines.append(result_tables.baseline_verdict(metrics))
    if manifest.parity:
        outcome = "All checks passed" if manifest.parity.passed else "**Some checks failed**"
        lines += ["", "## Parity", "", f"{outcome}, against {manifest.parity.reference}.", ""]
        for headings, rows in parity_tables(manifest.parity.checks):
            lines += [*markdown_table(headings, rows), ""]
        lines += [f"- {line}" for line in manifest.parity.explain_failures()]
        lines += ["", "![differences as a part of the tolerance](report/parity.png)"]
        if any(profile.steps for profile in manifest.parity.profiles):
            lines += ["", "![differences over carried steps, and how they are distributed](report/errors.png)"]
    if measurements := _measurements(manifest):
        lines += ["", "## Latency", "", tables.markdown(measurements).rstrip()]
        lines += ["", "![latency](report/latency.png)"]
    versions = ", ".join(f"{name} {number}" for name, number in manifest.versions.items())
    return "\n".join([*lines, "", f"Made with {versions}.", ""])


def _measurements(manifest: Manifest) -> dict[str, Any] | None:
    """The recorded benchmark; None if it is by an older release that recorded less."""
    return manifest.measurements if "peaks" in (manifest.measurements or {}) else None


def why_no_rollout(manifest: Manifest) -> str:
    """Why the model of a bundle cannot be rolled out; empty where it can, and where nobody would expect it to."""
    if manifest.rollouts or not isinstance(manifest.contract.task, Forecast | LanguageModel):
        return ""
    return no_rollout_reason(manifest.contract)


def _evidence(manifest: Manifest) -> list[str]:
    """The section on lower precision; empty where there is none and none was asked for."""
    evidence = {artifact.path: artifact.evidence for artifact in manifest.artifacts if artifact.evidence}
    if not evidence and not manifest.notes:
        return []
    lines = ["", "## Lower precision", ""]
    if evidence:
        data = next(iter(evidence.values())).data
        lines += [
            *markdown_table(*evidence_table(manifest)),
            "",
            f"Measured on {data}. A decision is which column of an output is the largest. "
            "`×` is the part of float32's bytes (of C, which is text, those of the weights in it) or time, timed side "
            "by side; "
            "the state error is the largest difference from PyTorch, relative to the state's size, after 100 and "
            "after the last of the carried steps in the plot below.",
            "",
        ]
        for path, item in evidence.items():
            settings = ", ".join(f"{name} {value}" for name, value in item.settings.items() if name != "chosen_for")
            if settings:
                lines.append(f"- `{path}`: {settings}; {len(item.tried)} tried.")
    return lines + [f"- {note}." for note in manifest.notes]
