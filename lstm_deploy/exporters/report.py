"""Tables and plots: `report.md` of a bundle, from its manifest alone."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from lstm_deploy.artifacts import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    RED,
    REPORT,
    REPORT_PLOTS,
    Bundle,
    Check,
    Manifest,
    ParityReport,
    atomic_write,
    format_value,
    markdown_table,
)
from lstm_deploy.benchmark import plots as bench_plots, tables
from lstm_deploy.contract import Forecast, LanguageModel, rollout_contract
from lstm_deploy.errors import InputError
from lstm_deploy.training import option_name

if TYPE_CHECKING:
    from lstm_deploy.training import TrialSummary

STYLES = ((BLUE, "o"), (ORANGE, "s"), (GREY, "^"), (GREEN, "D"), (PURPLE, "v"), (RED, "P"))
"""Colour and marker of each artifact."""


def write(bundle: Bundle) -> None:
    """Write `report.md` and the plots beside it, from the manifest."""
    manifest = bundle.manifest
    plots = bundle.path / REPORT_PLOTS
    plots.mkdir(exist_ok=True)
    if manifest.parity and manifest.parity.checks:
        save_plot(parity_plot(manifest), plots / "parity.png")
    if manifest.parity and manifest.parity.profiles:
        save_plot(error_plot(manifest.parity), plots / "errors.png")
    if measurements := _measurements(manifest):
        save_plot(bench_plots.latency_plot(measurements), plots / "latency.png")
    with atomic_write(bundle.path / REPORT) as file:
        file.write_text(_markdown(manifest), encoding="utf-8")


def parity_tables(checks: Sequence[Check]) -> list[tuple[list[str], list[list[str]]]]:
    """For each precision headings and rows: what was checked, what is allowed, and each artifact's difference."""
    precisions = dict.fromkeys(check.precision for check in checks)
    return [_parity_table([check for check in checks if check.precision == each]) for each in precisions]


def _parity_table(checks: Sequence[Check]) -> tuple[list[str], list[list[str]]]:
    artifacts = list(dict.fromkeys(check.artifact for check in checks))
    rows = []
    for name, output in dict.fromkeys((check.name, check.output) for check in checks):
        found = {check.artifact: check for check in checks if (check.name, check.output) == (name, output)}
        tolerance = next((check.tolerance for check in found.values() if check.tolerance), None)
        allowed = "" if tolerance is None else f"{tolerance:.1e}"
        rows.append([name, output, allowed, *(_verdict(found.get(artifact)) for artifact in artifacts)])
    return ["check", "output", "tolerance", *artifacts], rows


def parity_failures(report: ParityReport) -> list[str]:
    """For each artifact that failed its likely cause and first difference, then a line for each check that failed."""
    lines = []
    for found in report.diagnoses:
        lines.append(f"{found.artifact}: likely cause: {found.cause}")
        if found.place:
            lines.append(f"{found.artifact}: first difference: {found.place}")
    return lines + [
        " ".join(filter(None, (check.artifact, check.name, check.output))) + f": {check.detail}"
        for check in report.failures
    ]


def evidence_table(manifest: Manifest) -> tuple[list[str], list[list[str]]]:
    """Headings and rows: what each artifact of lower precision saves, and what it costs."""
    rows = []
    for artifact in manifest.artifacts:
        if (found := artifact.evidence) is None:
            continue
        if found.metric_value is None or found.metric_float32 is None:
            lost = f"differs by {found.difference:.2%}, cosine {found.cosine:.5f}"
        else:
            name = found.metric.replace("_", " ")
            how = "worse" if found.loss >= 0 else "better"
            lost = f"{name} {found.metric_float32:.5g} → {found.metric_value:.5g} ({abs(found.loss):.2%} {how})"
        timed = "–"
        if found.time_ratio is not None and found.p50_us is not None and found.p50_us_float32 is not None:
            what = "step" if found.scenario == "stream" else "sequence"
            before, after = format_value(found.p50_us_float32), format_value(found.p50_us)
            timed = f"{before} → {after} µs a {what} (× {found.time_ratio:.2f})"
        layers = f"{found.lowered_layers} of {found.lstm_layers}"
        size = f"{artifact.bytes:,} (× {found.bytes_ratio:.2f})"
        rows.append([artifact.path, layers, size, lost, timed, _growth(manifest, artifact.path)])
    return ["artifact", "LSTM layers", "bytes", "float32 → this", "time", "state error, step 100 → last"], rows


def metric_rows(metrics: Mapping[str, Any]) -> list[list[str]]:
    """Each metric beside the naive baseline's, which bears its name with `naive_` before it."""
    rows = []
    for name, value in metrics.items():
        if isinstance(value, dict):  # of each target
            rows += [[f"{key}: {metric}", figure] for key, own in value.items() for metric, figure in metric_rows(own)]
        elif value is not None:
            rows.append([name.replace("_", " "), _figure(value)])
    return rows


def verdict(metrics: Mapping[str, Any]) -> str:
    """Whether the model beats its baselines, by the metric that it was trained for; the better of them counts.

    Several targets are compared by MASE, in which each has its own unit.
    """
    name = next(name for name in metrics if name in ("rmse", "accuracy") or name.startswith("nats_per_"))
    name = "mase" if "by_target" in metrics and metrics["mase"] is not None else name
    kinds = {kind: metrics.get(f"{kind}_{name}") for kind in ("naive", "seasonal_naive")}
    baselines = {kind.replace("_", " "): value for kind, value in kinds.items() if value is not None}
    higher_is_better = name == "accuracy"
    which = (max if higher_is_better else min)(baselines, key=lambda kind: baselines[kind])
    ours, theirs = metrics[name], baselines[which]
    label = name.replace("_", " ")
    if theirs == (1 if higher_is_better else 0):
        return f"The {which} baseline makes no error at all ({label} {theirs:g}), so there is nothing to beat."
    if higher_is_better:
        beats = "Better than" if ours > theirs else "It does NOT beat"
        return f"{beats} the {which} baseline: {label} {ours:.3f} against {theirs:.3f}."
    if ours < theirs:
        return f"Better than the {which} baseline by {1 - ours / theirs:.1%} ({label})."
    return f"It does NOT beat the {which} baseline: {label} is {ours / theirs - 1:.1%} worse."


def search_table(trials: "Sequence[TrialSummary]") -> tuple[list[str], list[list[str]]]:
    """Headings and rows: every trial of a search, the best first."""
    names = list(dict.fromkeys(name for trial in trials for name in trial.chosen))
    rows = [
        [
            str(trial.trial),
            "–" if trial.loss is None else format_value(trial.loss),
            str(trial.epochs),
            trial.state,
            *(
                format_value(value) if isinstance(value, float) else str(value)
                for value in map(trial.chosen.get, names)
            ),
        ]
        for trial in trials
    ]
    return ["trial", "validation loss", "epochs", "", *(option_name(name) for name in names)], rows


def _figure(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(_figure, value))
    return format_value(value) if isinstance(value, float) else f"{value:,}"


def parity_plot(manifest: Manifest) -> Figure:
    """Each check's difference as a part of what is allowed, on a log scale: right of 1 fails."""
    assert manifest.parity is not None
    checks = [check for check in manifest.parity.checks if check.max_abs is not None and check.tolerance]
    artifacts = list(dict.fromkeys(check.artifact for check in checks))
    rows = list(dict.fromkeys((check.name, check.output) for check in checks))
    figure = Figure(figsize=(7, 1.2 + 0.24 * len(rows)), layout="constrained")
    axes = figure.subplots()
    floor = 1e-6  # a difference of nothing at all must stand somewhere on a log scale
    for artifact, (color, marker) in zip(artifacts, STYLES * len(artifacts), strict=False):
        points = [
            (max(check.severity, floor), rows.index((check.name, check.output)))
            for check in checks
            if check.artifact == artifact
        ]
        axes.plot(*zip(*points, strict=True), marker, color=color, label=artifact, alpha=0.8)
    axes.axvline(1, color="crimson", linewidth=1)
    axes.annotate("tolerance ", (1, len(rows) - 0.6), color="crimson", ha="right", fontsize=8)
    axes.set(xscale="log", xlabel="largest difference from PyTorch ÷ tolerance", ylim=(len(rows) - 0.4, -0.6))
    axes.minorticks_off()
    axes.set_yticks(range(len(rows)), [f"{name}: {output}" for name, output in rows])
    axes.grid(axis="x", alpha=0.3)
    figure.legend(loc="outside upper right", ncols=len(artifacts), fontsize=8)
    return figure


def error_plot(report: ParityReport) -> Figure:
    """For each output a panel of its largest difference over carried steps, and one of how differences spread."""
    outputs = list(dict.fromkeys(profile.output for profile in report.profiles))
    artifacts = list(dict.fromkeys(profile.artifact for profile in report.profiles))
    styles = dict(zip(artifacts, STYLES * len(artifacts), strict=False))
    figure = Figure(figsize=(8, 0.9 + 1.7 * len(outputs)), layout="constrained")
    panels = figure.subplots(len(outputs), 2, squeeze=False)
    for (curve, spread), output in zip(panels, outputs, strict=True):
        for profile in report.profiles:
            if profile.output != output:
                continue
            color, marker = styles[profile.artifact]
            if profile.steps:
                errors = np.maximum(profile.errors, 1e-9)
                curve.plot(profile.steps, errors, color=color, marker=marker, markersize=3, label=profile.artifact)
            powers = range(-len(profile.histogram) + 1, 1)
            share = np.divide(profile.histogram, max(sum(profile.histogram), 1))
            spread.step(powers, share, color=color, where="post", label=profile.artifact)
        top = 3 * max((error for p in report.profiles for error in p.errors), default=1e-4)
        curve.set(xscale="log", yscale="log", ylabel=output, ylim=(1e-9, max(top, 1e-4)))
        if not curve.lines:
            curve.annotate("no carried steps", (0.5, 0.5), xycoords="axes fraction", ha="center", color=GREY)
        spread.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        curve.minorticks_off()  # on log scales they take most of the time that a plot takes
        curve.grid(alpha=0.3)
        spread.grid(alpha=0.3)
    panels[0, 0].set_title("largest difference ÷ size, so far", fontsize=9, loc="left")
    panels[0, 1].set_title("share of entries that differ by 10ⁿ of their size", fontsize=9, loc="left")
    panels[-1, 0].set_xlabel("carried steps")
    panels[-1, 1].set_xlabel("n")
    handles, labels = panels[0, 1].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper right", ncols=len(artifacts), fontsize=8)
    return figure


def check_plot(path: Path) -> None:
    """Raise `InputError` for a file name that says no format of plots."""
    formats = Figure().canvas.get_supported_filetypes()
    if path.suffix and path.suffix.removeprefix(".").lower() not in formats:
        raise InputError(f"{path.suffix} is no format of plots; use .png, .svg or .pdf.")


def save_plot(figure: Figure, path: Path) -> None:
    """Write a plot, whole or not at all, in the format of its suffix (PNG where there is none)."""
    with atomic_write(path) as file:
        figure.savefig(file, dpi=120, format=path.suffix.removeprefix(".") or "png")


def _markdown(manifest: Manifest) -> str:
    lines = [f"# {manifest.name}", "", f"{manifest.source.summary}, exported {manifest.created}.", ""]
    contract = manifest.contract
    lines += ["## Contract", "", "| tensor | |", "|---|---|"]
    lines += [f"| input | `{spec}` |" for spec in (*contract.inputs, *contract.state_inputs)]
    lines += [f"| output | `{spec}` |" for spec in (*contract.outputs, *contract.state_outputs)]
    reason = f" ({contract.streaming_reason})" if contract.streaming_reason else ""
    lines += ["", f"Streaming: {contract.streaming}{reason}. State policy: {contract.state_policy}.", ""]
    if isinstance(contract.task, Forecast):
        task = contract.task
        lines += [
            f"Columns of x: {', '.join(task.features)}; of y: {', '.join(task.targets)}. Window: {task.window}.",
            "",
        ]
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
        lines += [*markdown_table(["metric", "value"], metric_rows(metrics)), "", verdict(metrics)]
    if manifest.parity:
        outcome = "All checks passed" if manifest.parity.passed else "**Some checks failed**"
        lines += ["", "## Parity", "", f"{outcome}, against {manifest.parity.reference}.", ""]
        for headings, rows in parity_tables(manifest.parity.checks):
            lines += [*markdown_table(headings, rows), ""]
        lines += [f"- {line}" for line in parity_failures(manifest.parity)]
        lines += ["", "![differences as a part of the tolerance](report/parity.png)"]
        if any(profile.steps for profile in manifest.parity.profiles):
            lines += ["", "![differences over carried steps, and how they are distributed](report/errors.png)"]
    if measurements := _measurements(manifest):
        lines += ["", "## Latency", "", tables.markdown(measurements).rstrip()]
        lines += ["", "![latency](report/latency.png)"]
    versions = ", ".join(f"{name} {number}" for name, number in manifest.versions.items())
    return "\n".join([*lines, "", f"Made with {versions}.", ""])


def _measurements(manifest: Manifest) -> dict[str, Any] | None:
    """The benchmark that is recorded; none where a version that kept less recorded it."""
    return manifest.measurements if "peaks" in (manifest.measurements or {}) else None


def why_no_rollout(manifest: Manifest) -> str:
    """Why a bundle whose model has a task has no rollout; empty where it has one, and where nobody would expect one."""
    if manifest.rollouts or not isinstance(manifest.contract.task, Forecast | LanguageModel):
        return ""
    try:
        rollout_contract(manifest.contract)
    except InputError as reason:
        return str(reason)
    return ""


def _evidence(manifest: Manifest) -> list[str]:
    """What is said of artifacts of lower precision; nothing where there are none and none was asked for."""
    lowered = [artifact for artifact in manifest.artifacts if artifact.evidence]
    if not lowered and not manifest.notes:
        return []
    lines = ["", "## Lower precision", ""]
    if lowered:
        assert lowered[0].evidence is not None
        lines += [*markdown_table(*evidence_table(manifest)), ""]
        lines += [
            f"Measured on {lowered[0].evidence.data}. `×` is the part of float32's bytes or time, timed side by side; "
            "the state error is the largest difference from PyTorch, relative to the state's size, after 100 and "
            "after the last of the carried steps in the plot below.",
            "",
        ]
        for artifact in lowered:
            assert artifact.evidence is not None
            settings = {name: value for name, value in artifact.evidence.settings.items() if name != "chosen_for"}
            if settings:
                told = ", ".join(f"{name} {value}" for name, value in settings.items())
                lines.append(f"- `{artifact.path}`: {told}; {len(artifact.evidence.tried)} tried.")
    return lines + [f"- {note}." for note in manifest.notes]


def _growth(manifest: Manifest, artifact: str) -> str:
    """The error of the state after 100 carried steps, and after the last."""
    profiles = manifest.parity.profiles if manifest.parity else ()
    outputs = {spec.name for spec in manifest.contract.state_outputs}
    curves = [
        dict(zip(p.steps, p.errors, strict=True)) for p in profiles if p.artifact == artifact and p.output in outputs
    ]
    curves = [curve for curve in curves if 100 in curve]
    if not curves:
        return "–"
    last = max(curves[0])
    return f"{max(c[100] for c in curves):.1e} → {max(c[last] for c in curves):.1e} ({last:,})"


def _verdict(check: Check | None) -> str:
    if check is None:
        return ""
    figure = "" if check.max_abs is None else f"{check.max_abs:.1e}"
    return figure or "passed" if check.passed else f"FAILED {figure}".strip()
