"""`report.md` of a bundle, with its tables and plots: for a colleague who knows neither the model nor lstm-deploy."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from shlex import quote
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
    template_environment,
)
from lstm_deploy.benchmark import tables
from lstm_deploy.contract import Forecast, LanguageModel, comment_safe, no_rollout_reason
from lstm_deploy.embedding import c_literal, python_literal
from lstm_deploy.errors import InputError, why_missing
from lstm_deploy.exporters.summary import measurements_of, summary
from lstm_deploy.exporters.usage import code, listed, usage
from lstm_deploy.training import result_tables

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Table = tuple[list[str], list[list[str]]]
"""Headings and rows."""


def write(bundle: Bundle) -> None:
    """Write `report.md` and, where matplotlib is installed, the plots beside it."""
    manifest, folder = bundle.manifest, bundle.path / REPORT_PLOTS
    if folder.is_symlink():
        folder.unlink()  # it leads out of the bundle
    no_plots = why_missing("matplotlib")
    if no_plots:
        for plot in folder.glob("*.png"):
            plot.unlink()  # it shows other figures than the tables
    else:
        _draw(manifest, folder)
    text = _markdown(bundle, sorted(plot.name for plot in folder.glob("*.png")), no_plots)
    with atomic_write(bundle.path / REPORT) as file:
        file.write_text(text, encoding="utf-8")


def _draw(manifest: Manifest, folder: Path) -> None:
    """Draw all plots that there are figures for."""
    from lstm_deploy.benchmark import plots
    from lstm_deploy.exporters.parity_plots import error_plot, parity_plot

    folder.mkdir(exist_ok=True)
    if (parity := manifest.parity) and parity.checks:
        save_plot(parity_plot(parity), folder / "parity.png")
    if parity and parity.profiles:
        save_plot(error_plot(parity), folder / "errors.png")
    if measurements := measurements_of(manifest):
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
        figure.savefig(file, format=path.suffix.removeprefix(".") or "png")


def _markdown(bundle: Bundle, plots: Sequence[str], no_plots: str) -> str:
    manifest = bundle.manifest
    metrics, measurements = (manifest.training or {}).get("metrics"), measurements_of(manifest)
    used = usage(bundle)
    variables = {
        "name": manifest.name,
        "plots": plots,
        "no_plots": no_plots,
        **used,
        **summary(manifest),
        "ways": _ways(used),
        "remarks": _remarks(manifest),
        "lowered": any(artifact.precision != "float32" for artifact in manifest.artifacts),
        "metrics_table": _table(["metric", "value"], result_tables.metric_rows(metrics)) if metrics else "",
        "findings": manifest.findings,
        "no_rollout": why_no_rollout(manifest),
        "evidence_table": _table(*evidence_table(manifest)),
        "evidence_data": next((a.evidence.data for a in manifest.artifacts if a.evidence), ""),
        "settings": _settings(manifest),
        "notes": manifest.notes,
        "check_tables": [_table(*found) for found in parity_tables(manifest.parity.checks)] if manifest.parity else [],
        "measurements": tables.markdown(measurements).rstrip() if measurements else "",
        "versions": ", ".join(f"{name} {number}" for name, number in manifest.versions.items()),
    }
    filters = {"python": python_literal, "python_list": _python_list, "c_text": c_literal, "shell": _shell}
    environment = template_environment(
        "lstm_deploy.exporters", {**filters, "code": code, "listed": listed, "commented": comment_safe}
    )
    text = environment.get_template("report.md.jinja").render(variables)
    return re.sub(r"\n{3,}", "\n\n", text)


def _table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown; empty without rows."""
    return "\n".join(markdown_table(headings, rows)) if rows else ""


def _python_list(names: Sequence[str]) -> str:
    return f"[{', '.join(map(python_literal, names))}]"


def _shell(text: str) -> str:
    """A text as one word of a shell, on one line: a name that has more than one is not reproduced."""
    return quote("".join(letter if letter.isprintable() else "?" for letter in text))


def _ways(used: Mapping[str, Any]) -> str:
    """The ways to use a bundle, in the order of the report."""
    ways = ["Python", *(["onnxruntime alone"] if used["files"]["onnx"] else [])]
    ways += [
        *(["PyTorch"] if used["files"]["torchscript"] else []),
        *(["C"] if used["c"] else []),
        "the command line",
    ]
    labels = {"node": "Node", "web": "a browser", "cpp": "C++", "go": "Go", "rust": "Rust"}
    return ", ".join([*ways, *(labels[name] for name, _ in used["clients"] if name in labels)])


def _remarks(manifest: Manifest) -> list[str]:
    """Failures with their causes, and where files were not checked, or elsewhere."""
    lines = []
    if manifest.parity:
        lines += [
            *manifest.parity.explain_failures(),
            *(f"Not checked: {reason}." for reason in manifest.parity.left_out),
        ]
    for provider, parity in manifest.parity_elsewhere.items():
        failed = f"{len(parity.failures)} of {len(parity.checks)} checks FAILED"
        outcome = f"all {len(parity.checks)} checks passed" if parity.passed else failed
        lines.append(f"On {provider}: {outcome}, against {parity.reference}.")
    return lines


def _settings(manifest: Manifest) -> list[str]:
    """A line for each artifact of lower precision with the settings that were chosen for it."""
    lines = []
    for artifact in manifest.artifacts:
        chosen = artifact.evidence.settings if artifact.evidence else {}
        if settings := ", ".join(f"{name} {value}" for name, value in chosen.items() if name != "chosen_for"):
            assert artifact.evidence is not None
            lines.append(f"{code(artifact.path)}: {settings}; {len(artifact.evidence.tried)} tried.")
    return lines


def why_no_rollout(manifest: Manifest) -> str:
    """Why the model of a bundle cannot be rolled out; empty where it can, and where nobody would expect it to."""
    if manifest.rollouts or not isinstance(manifest.contract.task, Forecast | LanguageModel):
        return ""
    return no_rollout_reason(manifest.contract)
