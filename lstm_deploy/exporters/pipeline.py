"""From a source to a bundle: lift, write each artifact, prove it, and only then give the bundle its name."""

import os
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from msgspec.structs import replace
from torch import nn

from lstm_deploy.artifacts import (
    FORMATS,
    GOLDEN,
    SUFFIXES,
    Artifact,
    Bundle,
    Check,
    Manifest,
    as_path,
    atomic_bundle,
    check_destination,
    environment,
    relative_path,
    scratch_folder,
    several,
    sha256,
    write_manifest,
)
from lstm_deploy.contract import StateDtype, StateLayout, StatePolicy, Task, TensorSpec
from lstm_deploy.errors import (
    InputError,
    LiftingError,
    LstmDeployError,
    ParityError,
    machine_limits,
    one_line,
    refuse_unused,
    user_line,
)
from lstm_deploy.exporters import report
from lstm_deploy.exporters.c.writer import export_c
from lstm_deploy.exporters.onnx import export_onnx
from lstm_deploy.exporters.onnx_rollout import export_rollout
from lstm_deploy.exporters.plan import DEFAULT_FORMATS, Plan, has_int8, make_plan, rollout_names
from lstm_deploy.exporters.precision.evaluation_data import evaluation_data
from lstm_deploy.exporters.precision.int8_torchscript import quantized_copy
from lstm_deploy.exporters.precision.options import INT8_FILES, PrecisionOptions
from lstm_deploy.exporters.precision.selection import LowerPrecision
from lstm_deploy.exporters.torchscript import export_torchscript
from lstm_deploy.exporters.untranslated import REMEDY
from lstm_deploy.lifting import Lifted, Origin, sources, threads_for
from lstm_deploy.progress import OnProgress, silent
from lstm_deploy.runtimes import c_compiler
from lstm_deploy.validation import (
    LOWERED,
    QUICK,
    ParityCase,
    PyTorchReference,
    check_artifacts,
    golden_inputs,
    make_cases,
    pytorch_name,
    record_trace,
    shortened,
)

WRITERS: dict[str, Callable[[Lifted, Path], None]] = {"onnx": export_onnx, "torchscript": export_torchscript}
"""Writers of the formats that are made from the model itself; C is written from the ONNX graph."""


@machine_limits()
def export(
    source: nn.Module | Origin | str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    inputs: Mapping[str, str] | None = None,
    model: str | None = None,
    init: Mapping[str, Any] | None = None,
    weights_key: str | None = None,
    trust_pickle: bool = False,
    task: Task | None = None,
    state_policy: StatePolicy | None = None,
    formats: str | Sequence[str] = DEFAULT_FORMATS,
    state_layout: StateLayout = "layers-first",
    quantize: Literal["int8", "auto"] | None = None,
    int8_cpus: Literal["any", "vnni"] = "any",
    half: bool = False,
    state_dtype: StateDtype = "float16",
    data: str | os.PathLike[str] | None = None,
    max_metric_loss: float | None = None,
    force: bool = False,
    on_progress: OnProgress = silent,
) -> Bundle:
    """Export a live module, a checkpoint or a file of weights to a bundle at `output`, proven against PyTorch.

    `inputs` declares the arguments of a module's `forward`, in order, as `{"x": "float32[batch,seq,40]"}`. `model`
    (`FILE.py:Class` or `package.module:Class`), `init` (its arguments), `weights_key` and `trust_pickle` say how to
    read a file; `task` and `state_policy` what a third-party network was trained for. `formats` are one or several of
    `onnx`, `torchscript` and `c`. `quantize="int8"` adds int8, `"auto"` only where that is faster here, exact on all
    CPUs or, with `int8_cpus="vnni"`, more precise on those with VNNI alone; `half` adds float16 for CUDA. They may lose
    `max_metric_loss` of the metric on `data`, by default 1 % on what `train` held out. A bundle that is up to date is
    returned as it is, unless with `force`. `on_progress` gets the stage, the number of stages and a description.

    Raises `InputError` for a source that cannot be read or lifted, for an argument that has no effect on it, and for an
    output that is taken; and `ParityError` if an artifact differs from the model: then nothing is written. Where int8
    was asked for and loses too much, whichever layers stay in float, a bundle of float32 is written before that
    `ParityError`.
    """
    specs = _specs(inputs)
    read = {"model": model, "init": init, "weights_key": weights_key, "trust_pickle": trust_pickle}
    origin = source if isinstance(source, Origin) else None
    if isinstance(source, Origin):
        meant = {"inputs": inputs, "task": task, "state_policy": state_policy}
        refuse_unused("beside an Origin, which says it itself", **read, **meant)
    elif isinstance(source, nn.Module | type):  # of a class the error says what it takes
        refuse_unused("on a live module, which has its weights", **read)
    else:
        origin = Origin(
            path=as_path(source),
            model=model,
            init=init or {},
            weights_key=weights_key,
            inputs=specs,
            trust_pickle=trust_pickle,
            task=task,
            state_policy=state_policy,
        )
    precision = PrecisionOptions(
        quantize=quantize,
        int8_cpus=int8_cpus,
        half=half,
        state_dtype=state_dtype,
        data=None if data is None else as_path(data),
        max_metric_loss=max_metric_loss,
    )
    if origin is not None:
        sources.check_file(origin.path)
    plan = make_plan(as_path(output), origin, several(formats), state_layout, precision)
    return _write_bundle(plan, partial(_load, source, plan, specs, task, state_policy), on_progress, force=force)


def _specs(inputs: Mapping[str, str] | None) -> tuple[TensorSpec, ...]:
    if inputs is None:
        return ()
    if not isinstance(inputs, Mapping) or not all(isinstance(text, str) for pair in inputs.items() for text in pair):
        raise InputError('Inputs are given as a mapping, as in inputs={"x": "float32[batch,seq,40]"}.')
    return tuple(TensorSpec.parse(text, name) for name, text in inputs.items())


def _load(
    source: Any, plan: Plan, specs: tuple[TensorSpec, ...], task: Task | None, state_policy: StatePolicy | None
) -> sources.Loaded:
    if plan.origin is not None:
        return sources.load(plan.origin, plan.state_layout)
    if not specs:
        raise InputError('The inputs of a module must be given, as in inputs={"x": "float32[batch,seq,40]"}.')
    return sources.load_module(source, specs, plan.state_layout, task, state_policy)


def _write_bundle(plan: Plan, load: Callable[[], sources.Loaded], on_progress: OnProgress, *, force: bool) -> Bundle:
    """Load, write, prove and rename, unless the bundle is up to date; raises `ParityError` as `export` does."""

    def on_stage(stage: int, description: str) -> None:
        on_progress(stage, plan.stages, description)

    if not force and (existing := plan.existing_bundle()) is not None:
        return existing
    check_destination(plan.output, force=force)
    on_stage(0, "lifting")
    loaded = load()
    written, last = len(plan.formats), plan.stages - 1
    with (
        scratch_folder() as scratch,
        atomic_bundle(plan.output, force=force) as folder,
        threads_for(loaded.lifted.module),
    ):
        # C is written from the ONNX graph, also if that is not one of the formats.
        graph = (folder if "onnx" in plan.formats else scratch) / FORMATS["onnx"].file_name()
        data = lower = None
        if plan.precision.requested:
            beside = Path(loaded.source.path or "").parent
            data = evaluation_data(loaded.lifted.signature, plan.precision.data, loaded.training or {}, beside)
        artifacts = _write_artifacts(plan, loaded.lifted, folder, graph, on_stage)
        int8_torchscript = None
        if plan.precision.quantize == "int8" and "torchscript" in plan.formats:
            int8_torchscript = _write_int8_torchscript(loaded.lifted, folder / INT8_FILES["torchscript"])
        on_stage(written + 1, "running PyTorch")
        reference = PyTorchReference(loaded.lifted)
        effort = LOWERED if plan.precision.requested else QUICK
        cases = make_cases(reference, effort, golden_inputs(reference))
        golden = [case for case in cases if case.check == "golden"]
        cases = [case for case in cases if case.check != "golden"]  # they are read from the file, as by everyone
        np.savez_compressed(folder / GOLDEN, **record_trace(golden))  # type: ignore[arg-type]
        write_manifest(folder, _manifest(plan, loaded, artifacts, sha256(folder / GOLDEN)))
        source = loaded.source
        name = pytorch_name(Path(source.path).name if source.path else source.summary, source.kind)
        lifted = loaded.lifted if plan.precision.requested else None
        del loaded, reference  # so that large weights are not in memory beside the artifacts'
        on_stage(written + 2, "proving parity")
        bundle = Bundle(folder)
        _prove_float32(bundle, shortened(cases, QUICK.steps), name)
        if data is not None:
            lower = LowerPrecision(plan.precision, bundle, graph, data, cases, partial(on_stage, last))
            lower.write(int8_torchscript)
            _add_lower_precision(bundle, lower, cases, name, lifted, graph if graph.exists() else None)
        on_stage(last, "writing rollouts")
        _add_rollouts(bundle, name)
        report.write(bundle)
    bundle = Bundle(plan.output)
    if lower is not None and plan.precision.quantize == "int8" and not has_int8(bundle.manifest):
        reason = next(note for note in bundle.manifest.notes if "left out" in note)
        raise ParityError(f"{reason}. {plan.output} holds float32 only; {lower.remedy}.")
    return bundle


def _write_artifacts(
    plan: Plan, lifted: Lifted, folder: Path, graph: Path, on_stage: Callable[[int, str], None]
) -> list[Artifact]:
    """All float32 artifacts; `graph` is where the ONNX one goes."""
    artifacts = []
    for number, format_ in enumerate(plan.formats, 1):
        on_stage(number, f"writing {format_}")
        path = folder / FORMATS[format_].file_name()
        if format_ == "c":
            if not graph.exists():
                _write("onnx", lifted, graph)
            export_c(graph, path, plan.name)
            c_compiler.build(path)
        else:
            _write(format_, lifted, path)
        artifacts.append(Artifact.of(path, format_))
    return artifacts


def _write(format_: str, lifted: Lifted, path: Path) -> None:
    """Write one artifact; raises `LiftingError` for whatever the exporter raises on the user's code."""
    try:
        WRITERS[format_](lifted, path)
    except (LstmDeployError, OSError):
        raise
    except Exception as error:
        if type(error).__name__.startswith("GuardOnDataDependent"):
            raise LiftingError(
                f"forward does something else for some values of its inputs than for others{user_line(error)}; write "
                "both ways as one, as with torch.where, since a graph has one way for all values."
            ) from error
        reason = one_line((str(error).strip() or type(error).__name__).splitlines()[0])
        raise LiftingError(
            f"The module cannot be exported to {format_} ({type(error).__name__}: {reason}{user_line(error)}); forward "
            "must not branch on the values of its inputs, nor fix sizes that are declared to be dynamic."
        ) from error


def _write_int8_torchscript(lifted: Lifted, path: Path) -> tuple[int, int] | str:
    """Write an int8 TorchScript candidate: how many recurrent layers are in int8, and of all; or why there is none."""
    quantized, lowered, total = quantized_copy(lifted)
    if not lowered:
        return "PyTorch has no int8 kernel for an nn.RNN, nor for an LSTM with projections"
    try:
        _write("torchscript", quantized, path)
    except LiftingError as error:  # of code that reads weights which are packed now
        path.unlink(missing_ok=True)
        return f"the module does not run with int8 weights ({one_line(error.__cause__ or error)})"
    return lowered, total


def _manifest(plan: Plan, loaded: sources.Loaded, artifacts: Sequence[Artifact], golden_sha256: str) -> Manifest:
    source = loaded.source
    if source.path is not None:
        source = replace(source, path=relative_path(Path(source.path), plan.output.resolve()))
    return Manifest(
        name=plan.name,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        contract=loaded.lifted.signature,
        source=source,
        options=plan.options,
        artifacts=tuple(artifacts),
        golden_sha256=golden_sha256,
        training=loaded.training,
        findings=loaded.findings,
        versions=environment.versions(),
    )


def _prove_float32(bundle: Bundle, cases: Sequence[ParityCase], reference: str) -> None:
    """Record the parity of the float32 artifacts; raises `ParityError` with the worst check unless all pass."""
    parity = check_artifacts(bundle, bundle.manifest.artifacts, cases, reference)
    if not parity.passed:
        raise ParityError(_refusal(bundle, parity.failures))
    bundle.update(parity=parity)


def _refusal(bundle: Bundle, failures: Sequence[Check]) -> str:
    """A sentence on checks that failed, and what can be done."""
    unusable = next((check for check in failures if check.name == "runs"), None)
    if unusable is not None and unusable.artifact == FORMATS["onnx"].file_name():
        reason = unusable.detail.replace(f"{bundle.path}{os.sep}", "").removesuffix("; export it again.")
        return (
            f"What forward does can be written to ONNX, but {reason}, so nothing was written; find the operator that "
            f"is named there and write it with others, {REMEDY}."
        )
    worst = max(failures, key=lambda check: check.severity)
    if all(check.name == "drift" for check in failures):
        wrong = {SUFFIXES[Path(check.artifact).suffix].name for check in failures}
        others = " or ".join(f"--format {name}" for name in FORMATS if name not in wrong)
        return (
            f"{worst.artifact} computes each call as PyTorch does, but {worst.output or 'its state'} drifts away from "
            f"PyTorch's over carried steps ({worst.detail}), so nothing was written: where a state grows from step to "
            f"step, so do the rounding errors; keep the state bounded{f', or try {others}' if others else ''}."
        )
    return (
        f"{worst.artifact} differs from PyTorch in {worst.output or worst.name} ({worst.detail}), so nothing was "
        "written; forward must be a function of its inputs and the state alone, without random draws or branches on "
        "sizes. If it is, please report this with the module."
    )


def _add_lower_precision(
    bundle: Bundle,
    lower: LowerPrecision,
    cases: Sequence[ParityCase],
    reference: str,
    lifted: Lifted | None,
    graph: Path | None,
) -> None:
    """Record the artifacts of lower precision that are proven, as `validate` would, their notes and their parity."""
    float32, parity, data = bundle.manifest.artifacts, bundle.manifest.parity, lower.evaluator.data
    assert parity is not None
    notes = []
    trained_on = (bundle.manifest.training or {}).get("data")
    if trained_on and lower.options.data is None and not data.truth:
        notes.append(
            f"what is lost was measured on {data.description}, not on what the training held out: its file is not "
            "there any more, or changed; give --data"
        )
    bundle.update(artifacts=(*float32, *lower.artifacts), notes=(*notes, *lower.notes))
    proof = check_artifacts(bundle, lower.artifacts, cases, reference, lifted, graph)
    wrong = {check.artifact: check for check in proof.failures}
    for artifact in (artifact for artifact in lower.artifacts if artifact.path in wrong):
        for name in filter(None, (artifact.path, artifact.weights, artifact.header)):
            (bundle.path / name).unlink()
    bundle.update(
        artifacts=(*float32, *(artifact for artifact in lower.artifacts if artifact.path not in wrong)),
        notes=(*notes, *lower.notes, *_left_out(wrong)),
        parity=replace(
            parity,
            checks=parity.checks + tuple(check for check in proof.checks if check.artifact not in wrong),
            profiles=parity.profiles + tuple(one for one in proof.profiles if one.artifact not in wrong),
        ),
    )


def _left_out(wrong: Mapping[str, Check]) -> list[str]:
    """A note on each artifact that failed a check."""
    return [f"{name} is left out: {check.detail.rstrip('.')}" for name, check in wrong.items()]


def _add_rollouts(bundle: Bundle, reference: str) -> None:
    """Write the rollout of each artifact that has one, and keep those that are proven."""
    before, parity = bundle.manifest, bundle.manifest.parity
    assert parity is not None
    names = rollout_names(before.contract, [artifact.path for artifact in before.artifacts])
    rollouts = []
    for artifact in (artifact for artifact in before.artifacts if artifact.path in names):
        path = bundle.path / names[artifact.path]
        export_rollout(bundle.path / artifact.path, path)
        rollout = Artifact.of(path, artifact.format, artifact.precision)
        rollouts.append(replace(rollout, weights=artifact.weights, weights_sha256=artifact.weights_sha256))
    bundle.update(rollouts=tuple(rollouts))
    proof = check_artifacts(bundle, rollouts, (), reference)
    wrong = {check.artifact: check for check in proof.failures}
    for name in wrong:
        (bundle.path / name).unlink()
    bundle.update(
        rollouts=tuple(rollout for rollout in rollouts if rollout.path not in wrong),
        notes=(*before.notes, *_left_out(wrong)),
        parity=replace(parity, checks=parity.checks + tuple(c for c in proof.checks if c.artifact not in wrong)),
    )
