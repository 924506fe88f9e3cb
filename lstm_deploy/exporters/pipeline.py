"""From a source to a bundle: lift, write each artifact, prove it, and only then give the bundle its name."""

import os
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal, get_args

import msgspec
import numpy as np
from msgspec.structs import replace
from torch import nn

from lstm_deploy.artifacts import (
    GOLDEN,
    MANIFEST,
    REPORT,
    Artifact,
    Bundle,
    Manifest,
    ParityReport,
    Source,
    atomic_bundle,
    check_destination,
    environment,
    sha256,
    write_manifest,
)
from lstm_deploy.contract import StateDtype, StateLayout, StatePolicy, Task, TensorSpec, rollout_contract
from lstm_deploy.errors import (
    InputError,
    LiftingError,
    LstmDeployError,
    ParityError,
    machine_limits,
    one_line,
    user_line,
)
from lstm_deploy.exporters import report
from lstm_deploy.exporters.c.writer import export_c
from lstm_deploy.exporters.onnx import OPSET, export_onnx
from lstm_deploy.exporters.onnx_rollout import export_rollout
from lstm_deploy.exporters.precision.int8_torch import quantized_copy
from lstm_deploy.exporters.precision.metrics import Examples, examples
from lstm_deploy.exporters.precision.selection import FLOAT16, INT8, Precisions, Request
from lstm_deploy.exporters.precision.trials import Examiner
from lstm_deploy.exporters.rollout_torch import export_rollout_torchscript
from lstm_deploy.exporters.torchscript import export_torchscript
from lstm_deploy.lifting import Lifted, sources
from lstm_deploy.runtimes import native
from lstm_deploy.validation import (
    LOWERED,
    QUICK,
    Case,
    ReferenceRuntime,
    check_artifacts,
    make_cases,
    record,
    shortened,
)

FORMATS = {"onnx": "model.onnx", "torchscript": "model.torchscript", "c": "model.c"}
"""File name of each format."""
USUAL_FORMATS = ("onnx", "torchscript")
"""What is written where nobody asks for a format."""
WRITERS: dict[str, Callable[[Lifted, Path], None]] = {"onnx": export_onnx, "torchscript": export_torchscript}
"""What writes a format from the model itself; C is written from the ONNX graph."""
ROLLOUTS = {"onnx": export_rollout, "torchscript": export_rollout_torchscript}
"""Writer of the rollout of an artifact, for the formats in which that is a file of its own."""
NOTHING_MORE = Request()


@machine_limits()
def export(
    source: nn.Module | sources.Origin | str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    inputs: Mapping[str, str] | None = None,
    model: str | None = None,
    init: Mapping[str, Any] | None = None,
    weights_key: str | None = None,
    trust_pickle: bool = False,
    task: Task | None = None,
    state_policy: StatePolicy | None = None,
    formats: Sequence[str] = USUAL_FORMATS,
    state_layout: StateLayout = "layers-first",
    quantize: Literal["int8", "auto"] | None = None,
    int8_cpus: Literal["any", "vnni"] = "any",
    half: bool = False,
    state_dtype: StateDtype = "float16",
    data: str | os.PathLike[str] | None = None,
    max_metric_loss: float | None = None,
    force: bool = False,
    on_progress: Callable[[int, int, str], None] = lambda *_: None,
) -> Bundle:
    """Export a live module, a checkpoint or a file of weights to a bundle at `output`, proven against PyTorch.

    `inputs` gives each argument of a module's `forward`, in order, as `{"x": "float32[batch,seq,40]"}`; a
    checkpoint of ours knows its own, and bare weights tell theirs. What else a file needs may come as an Origin, or
    apart: `model` names the class that a file of weights belongs to (`FILE.py:Class` or `package.module:Class`) and
    `init` its arguments; `weights_key` names the entry of the file; `trust_pickle` allows a pickle of a whole module
    to run its code. `task` (see `tasks`) says what a network of others is for, so that it can be run, and rolled out
    where it can feed itself; `state_policy` says whether it was trained with its state carried. `on_progress` is told
    what is being done. Where the same source stands exported with the same options already, that bundle is returned as
    it is, unless with `force`.

    `quantize="int8"` adds int8 artifacts and `"auto"` adds them only where they are faster here; they are right on
    every CPU, unless `int8_cpus="vnni"` gives up those without VNNI for finer weights. `half` adds float16 for CUDA,
    whose state is `state_dtype`. What they lose is measured on `data`, else on what `train` held out, and may be
    `max_metric_loss` of the metric (see `precision.Request` for the defaults).

    Raises `InputError` for a source that cannot be read or lifted and for an output that is taken,
    `ParityError` if an artifact differs from the model; then nothing is written. Where int8 was asked for and loses
    more than is allowed, whichever layers stay in float, a bundle of float32 is written before that `ParityError`.
    """
    path = Path(output)
    request = Request(
        quantize=quantize,
        int8_cpus=int8_cpus,
        half=half,
        state_dtype=state_dtype,
        data=None if data is None else Path(data),
        max_metric_loss=max_metric_loss,
    )
    stages = len(formats) + (4 if request else 3)
    specs = _specs(inputs)
    if isinstance(source, nn.Module):
        options = _options(formats, state_layout, request)
        check_destination(path, force=force)
        if not specs:
            raise InputError('The inputs of a module must be given, as in inputs={"x": "float32[batch,seq,40]"}.')
        on_progress(0, stages, "lifting")
        loaded = sources.load_module(source, specs, state_layout, task, state_policy)
    else:
        origin = (
            source
            if isinstance(source, sources.Origin)
            else sources.Origin(
                path=Path(source),
                model=model,
                init=init or {},
                weights_key=weights_key,
                inputs=specs,
                trust_pickle=trust_pickle,
                task=task,
                state_policy=state_policy,
            )
        )
        if not force and (there := up_to_date(origin, path, formats, state_layout, request)) is not None:
            return there
        options = _options(formats, state_layout, request, origin)
        check_destination(path, force=force)
        on_progress(0, stages, "lifting")
        loaded = sources.load(origin, state_layout)
    directory = Path(loaded.source.path or "").parent
    given = examples(loaded.lifted.signature, request.data, _with_data(loaded.training, directory)) if request else None
    with TemporaryDirectory() as scratch, atomic_bundle(path, force=force) as partial:
        # C is written from the ONNX graph, also where nobody asked for that.
        graph = (partial if "onnx" in formats else Path(scratch)) / FORMATS["onnx"]
        artifacts = _write_artifacts(
            loaded.lifted,
            formats,
            partial,
            graph,
            path.resolve().name,
            lambda done, what: on_progress(done, stages, what),
        )
        wanted = quantize == "int8" and "torchscript" in formats
        quantized = _write_int8_torchscript(loaded.lifted, partial) if wanted else None
        on_progress(len(formats) + 1, stages, "running PyTorch")
        reference = ReferenceRuntime(loaded.lifted)
        cases = make_cases(reference, LOWERED if request else QUICK)
        np.savez_compressed(partial / GOLDEN, **record(reference))  # type: ignore[arg-type]
        manifest = Manifest(
            name=path.resolve().name,
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            contract=loaded.lifted.signature,
            source=_relative(loaded.source, path),
            options=options,
            artifacts=tuple(artifacts),
            golden_sha256=sha256(partial / GOLDEN),
            training=loaded.training,
            findings=loaded.findings,
            versions=environment.versions(),
        )
        described = f"PyTorch in float64 ({_name(loaded.source)})"
        del loaded, reference  # so that large weights are not in memory beside the artifacts'
        write_manifest(partial, manifest)
        on_progress(len(formats) + 2, stages, "proving parity")
        bundle = Bundle(partial)
        bundle.update(parity=_proven(check_artifacts(bundle, artifacts, shortened(cases, QUICK.steps), described)))
        if given is not None:
            examiner = Examiner(partial / artifacts[0].path, given, cases, request.max_metric_loss)
            precisions = Precisions(
                partial,
                artifacts,
                request,
                examiner,
                graph,
                path.resolve().name,
                lambda what: on_progress(stages - 1, stages, what),
            )
            precisions.make(quantized)
            _add(bundle, precisions, cases, described, _missing_data(request, manifest.training, given))
        on_progress(stages - 1, stages, "writing rollouts")
        _add_rollouts(bundle, described)
        report.write(bundle)
    if quantize == "int8" and not _has_int8(bundle):
        reason = next(note for note in bundle.manifest.notes if "left out" in note)
        raise ParityError(f"{reason}. {path} holds float32 only; allow more with --max-metric-loss, or give --data.")
    return Bundle(path)


def _has_int8(bundle: Bundle) -> bool:
    return any(artifact.precision == "int8" for artifact in bundle.manifest.artifacts)


def _proven(parity: ParityReport) -> ParityReport:
    """A report of float32 artifacts, all of which must pass; raises `ParityError` with the worst check."""
    if parity.passed:
        return parity
    worst = max(parity.failures, key=lambda check: check.severity)
    raise ParityError(
        f"{worst.artifact} differs from PyTorch in {worst.output or worst.name} ({worst.detail}), so nothing "
        "was written; forward must be a function of its inputs and the state alone, without random draws or "
        "branches on sizes. If it is, please report this with the module."
    )


def _write_int8_torchscript(lifted: Lifted, folder: Path) -> tuple[int, int] | str:
    """Write the int8 TorchScript artifact, to be examined; its LSTM layers in int8, and all. Or why it cannot be."""
    quantized, done, total = quantized_copy(lifted)
    if not done:
        return "PyTorch has no int8 LSTM with projections"
    try:
        _write(export_torchscript, "torchscript", quantized, folder / INT8["torchscript"])
    except LiftingError as error:  # of code that reads weights which are packed now
        (folder / INT8["torchscript"]).unlink(missing_ok=True)
        return f"the module does not run with int8 weights ({one_line(error.__cause__ or error)})"
    return done, total


def _add(bundle: Bundle, precisions: Precisions, cases: Sequence[Case], described: str, notes: Sequence[str]) -> None:
    """Enter artifacts of lower precision into a bundle, with their parity."""
    before, parity = bundle.manifest, bundle.manifest.parity
    assert parity is not None
    bundle.update(artifacts=(*before.artifacts, *precisions.artifacts), notes=(*notes, *precisions.notes))
    found = check_artifacts(bundle, precisions.artifacts, cases, described)
    merged = replace(
        found,
        passed=parity.passed and found.passed,
        checks=parity.checks + found.checks,
        profiles=parity.profiles + found.profiles,
    )
    bundle.update(parity=merged)


def _add_rollouts(bundle: Bundle, described: str) -> None:
    """Write and prove the rollout of each artifact that has one; float16 has none, as the CPU could not prove it."""
    before, parity = bundle.manifest, bundle.manifest.parity
    assert parity is not None
    try:
        rollout_contract(before.contract)
    except InputError:
        return
    made: list[Artifact] = []
    for artifact in before.artifacts:
        if artifact.precision == "float16" or artifact.format not in ROLLOUTS:
            continue
        path = bundle.path / _rollout_name(artifact.path)
        ROLLOUTS[artifact.format](bundle.path / artifact.path, path)
        rollout = Artifact.of(path, artifact.format, artifact.precision)
        made.append(replace(rollout, weights=artifact.weights, weights_sha256=artifact.weights_sha256))
    bundle.update(rollouts=tuple(made))
    found = check_artifacts(bundle, made, (), described)
    wrong = {check.artifact: check for check in found.failures}
    for name in wrong:
        (bundle.path / name).unlink()
    bundle.update(
        rollouts=tuple(rollout for rollout in made if rollout.path not in wrong),
        notes=(*before.notes, *(f"{name} is left out: {check.detail.rstrip('.')}" for name, check in wrong.items())),
        parity=replace(parity, checks=parity.checks + tuple(c for c in found.checks if c.artifact not in wrong)),
    )


def _rollout_name(model: str) -> str:
    return model.replace("model", "rollout", 1)


def _missing_data(request: Request, training: Mapping[str, Any] | None, given: Examples) -> list[str]:
    """What must be said where the training's own file should have told the metric, and could not."""
    if request.data is not None or given.truth or not (training or {}).get("data"):
        return []
    return [
        f"what is lost was measured on {given.described}, not on what the training held out: its file is not there any "
        "more, or changed; give --data"
    ]


def _with_data(training: Mapping[str, Any] | None, directory: Path) -> Mapping[str, Any] | None:
    """What the training reported, its data found from where the checkpoint lies."""
    if not training or "path" not in (training.get("data") or {}):
        return training
    return {**training, "data": {**training["data"], "path": str(directory / training["data"]["path"])}}


def plan(
    origin: sources.Origin,
    output: Path,
    formats: Sequence[str] = USUAL_FORMATS,
    state_layout: StateLayout = "layers-first",
    request: Request = NOTHING_MORE,
    *,
    force: bool = False,
) -> dict[str, Any]:
    """What `export` would do, with the same errors, but nothing written."""
    options = _options(formats, state_layout, request, origin)
    if up_to_date(origin, output, formats, state_layout, request) is None:
        check_destination(output, force=force)
    loaded = sources.load(origin, state_layout)
    models = [*(FORMATS[name] for name in formats), *_lower(formats, request)]
    headers = [Path(name).with_suffix(".h").name for name in models if name.endswith(".c")]
    try:
        rollout_contract(loaded.lifted.signature)
        rollouts = [_rollout_name(name) for name in models if name != FLOAT16 and not name.endswith(".c")]
    except InputError:
        rollouts = []
    return {
        "source": str(origin.path),
        "output": str(output),
        "files": [MANIFEST, *models, *headers, *rollouts, GOLDEN, REPORT],
        "options": options,
        "contract": loaded.lifted.signature,
        "findings": loaded.findings,
    }


def up_to_date(
    origin: sources.Origin,
    output: Path,
    formats: Sequence[str] = USUAL_FORMATS,
    state_layout: StateLayout = "layers-first",
    request: Request = NOTHING_MORE,
) -> Bundle | None:
    """The whole bundle at `output`, if it is from this very file, with these options and this release."""
    options = _options(formats, state_layout, request, origin)
    try:
        bundle = Bundle(output)
    except InputError:
        return None
    manifest = bundle.manifest
    same = (
        origin.path.is_file()
        and manifest.source.sha256 == sha256(origin.path)
        and manifest.options == options
        and manifest.versions.get("lstm-deploy") == environment.versions()["lstm-deploy"]
        and not bundle.changed_files()
        and (request.quantize != "int8" or _has_int8(bundle))  # else it was refused, and is again
    )
    return bundle if same else None


def _lower(formats: Sequence[str], request: Request) -> list[str]:
    """Artifacts of lower precision that may come of a request."""
    quantized = [INT8[name] for name in formats if request.quantize == "int8" or name != "torchscript"]
    if not request.quantize:
        quantized = []
    return [*quantized, FLOAT16] if request.half else quantized


def _specs(inputs: Mapping[str, str] | None) -> tuple[TensorSpec, ...]:
    if inputs is None:
        return ()
    if not isinstance(inputs, Mapping) or not all(isinstance(text, str) for text in inputs.values()):
        raise InputError('Inputs are given as a mapping, as in inputs={"x": "float32[batch,seq,40]"}.')
    return tuple(TensorSpec.parse(text, name) for name, text in inputs.items())


def _write_artifacts(
    lifted: Lifted, formats: Sequence[str], folder: Path, graph: Path, name: str, on_write: Callable[[int, str], None]
) -> list[Artifact]:
    """All float32 artifacts, the ONNX one at `graph`; `name` is what functions of C begin with."""
    artifacts = []
    for number, format_ in enumerate(sorted(set(formats), key=list(FORMATS).index), 1):
        on_write(number, f"writing {format_}")
        path = folder / FORMATS[format_]
        if format_ == "c":
            if not graph.exists():
                _write(export_onnx, "onnx", lifted, graph)
            export_c(graph, path, name)
            native.build(path)
        else:
            _write(WRITERS[format_], format_, lifted, path)
        artifacts.append(Artifact.of(path, format_))
    return artifacts


def _write(write: Callable[[Lifted, Path], None], format_: str, lifted: Lifted, path: Path) -> None:
    """Write one artifact; what the exporter makes of the user's code becomes one sentence."""
    try:
        write(lifted, path)
    except (LstmDeployError, OSError):
        raise
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise LiftingError(
            f"The module cannot be exported to {format_} ({type(error).__name__}: {reason}{user_line(error)}); forward "
            "must not branch on the values of its inputs, nor fix sizes that are said to be dynamic."
        ) from error


def _options(
    formats: Sequence[str], state_layout: str, request: Request, origin: sources.Origin | None = None
) -> dict[str, Any]:
    """What decides, with the source, what is written; raises `InputError` for what is not known."""
    unknown = [name for name in formats if name not in FORMATS]
    if unknown or not formats:
        raise InputError(f"{unknown[0] if unknown else ''!r} is not a format; choose from {', '.join(FORMATS)}.")
    if state_layout not in get_args(StateLayout):
        raise InputError(f"{state_layout!r} is not a state layout; use {' or '.join(get_args(StateLayout))}.")
    if "c" in formats:
        native.compiler()  # or there is no proof
    _check_request(request, formats)
    options: dict[str, Any] = {"formats": sorted(set(formats)), "state_layout": state_layout, "opset": OPSET}
    if request:
        options |= {
            "quantize": request.quantize,
            "int8_cpus": request.int8_cpus,
            "half": request.half,
            "state_dtype": request.state_dtype,
            "data_sha256": sha256(request.data) if request.data else None,
            "max_metric_loss": request.max_metric_loss,
        }
    if origin is not None:
        code = Path((origin.model or "").rpartition(":")[0])
        options |= {
            "model": origin.model,
            "model_sha256": sha256(code) if code.suffix == ".py" and code.is_file() else None,
            "init": dict(origin.init),
            "weights_key": origin.weights_key,
            "inputs": [str(spec) for spec in origin.inputs],
            "task": msgspec.json.decode(msgspec.json.encode(origin.task)),  # as it is read back
            "state_policy": origin.state_policy,
        }
    return options


def _check_request(request: Request, formats: Sequence[str]) -> None:
    """Raise `InputError` for lower precisions that make no sense."""
    if request.quantize not in (None, "int8", "auto"):
        raise InputError(f"{request.quantize!r} is no way to quantize; use int8 or auto.")
    if request.int8_cpus not in ("any", "vnni"):
        raise InputError(f"{request.int8_cpus!r} is no kind of CPUs; use any or vnni.")
    if request.int8_cpus == "vnni" and not (request.quantize and "onnx" in formats):
        raise InputError("--int8-cpus is for ONNX in int8; add --quantize int8 and --format onnx.")
    if request.int8_cpus == "vnni" and environment.lacks_vnni():
        raise InputError("This CPU has no VNNI, so such weights cannot be proven here; leave out --int8-cpus vnni.")
    if request.half and "onnx" not in formats:
        raise InputError("float16 is for ONNX; add --format onnx.")
    if request.quantize == "auto" and not {"onnx", "c"} & set(formats):
        raise InputError("--quantize auto is for ONNX and C; add --format onnx.")
    if (request.data is not None or request.max_metric_loss is not None) and not request:
        raise InputError(
            "--data and --max-metric-loss are for int8 and float16; ask for one with --quantize or --half."
        )
    part = request.max_metric_loss
    if part is not None and (isinstance(part, bool) or not isinstance(part, int | float) or not 0 <= part <= 1):
        raise InputError(f"max_metric_loss is {part!r}; give a part from 0 to 1, as 0.01 for 1 %.")
    if request.state_dtype != "float16" and not request.half:
        raise InputError("--state-dtype is for float16; add --half.")
    if request.data is not None and not request.data.is_file():
        raise InputError(f"{request.data} does not exist or is not a file; check --data.")


def _name(source: Source) -> str:
    name = Path(source.path).name if source.path else source.summary
    return f"{name}, as inferred" if source.kind == "weights" else name


def _relative(source: Source, bundle: Path) -> Source:
    if source.path is None:
        return source
    try:
        path = os.path.relpath(Path(source.path).resolve(), bundle.resolve())
    except ValueError:  # another drive on Windows
        path = str(Path(source.path).resolve())
    return msgspec.structs.replace(source, path=Path(path).as_posix())
