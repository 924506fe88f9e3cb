"""From a source to a bundle: lift, write each artifact, prove it, and only then give the bundle its name."""

import os
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, get_args

import msgspec
import numpy as np
from torch import nn

from lstm_deploy import environment, report, sources
from lstm_deploy.bundle import (
    GOLDEN,
    MANIFEST,
    REPORT,
    Artifact,
    Bundle,
    Manifest,
    Source,
    check_free,
    write_manifest,
    writing,
)
from lstm_deploy.errors import InputError, LiftingError, LstmDeployError, ParityError
from lstm_deploy.exporters.onnx import OPSET, export_onnx
from lstm_deploy.exporters.torchscript import export_torchscript
from lstm_deploy.files import sha256
from lstm_deploy.lifting import Lifted, user_line
from lstm_deploy.parity import record
from lstm_deploy.signature import StateLayout, TensorSpec
from lstm_deploy.validation import check_bundle

FORMATS: dict[str, tuple[str, Callable[[Lifted, Path], None]]] = {
    "onnx": ("model.onnx", export_onnx),
    "torchscript": ("model.torchscript", export_torchscript),
}
"""File name and writer of each format."""


def export(
    source: nn.Module | str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    inputs: Mapping[str, str] | None = None,
    formats: Sequence[str] = tuple(FORMATS),
    state_layout: StateLayout = "layers-first",
    force: bool = False,
    on_progress: Callable[[int, int, str], None] = lambda *_: None,
) -> Bundle:
    """Export a checkpoint or a live module to a bundle at `output`, every artifact proven against PyTorch.

    `inputs` gives each argument of a module's `forward`, in order, as `{"x": "float32[batch,seq,40]"}`; a
    checkpoint of ours knows its own. `on_progress` is told what is being done. Where the same source stands
    exported with the same options already, that bundle is returned as it is.

    Raises `InputError` for a source that cannot be read or lifted and for an output that is taken,
    `ParityError` if an artifact differs from the model; then nothing is written.
    """
    path = Path(output)
    options = _options(formats, state_layout)
    stages = len(formats) + 2
    if isinstance(source, nn.Module):
        check_free(path, force=force)
        if not isinstance(inputs, Mapping) or not inputs or not all(isinstance(text, str) for text in inputs.values()):
            raise InputError('The inputs of a module must be given, as in inputs={"x": "float32[batch,seq,40]"}.')
        specs = [TensorSpec.parse(text, name) for name, text in inputs.items()]
        on_progress(0, stages, "lifting")
        loaded = sources.load_module(source, specs, state_layout)
    else:
        if (there := up_to_date(source, path, formats, state_layout)) is not None:
            return there
        check_free(path, force=force)
        on_progress(0, stages, "lifting")
        loaded = sources.load_checkpoint(Path(source), state_layout)
    with writing(path, force=force) as partial:
        artifacts = []
        for stage, format_ in enumerate(dict.fromkeys(formats), 1):
            on_progress(stage, stages, f"writing {format_}")
            name, write = FORMATS[format_]
            _write(write, format_, loaded.lifted, partial / name)
            artifacts.append(
                Artifact(
                    path=name,
                    format=format_,
                    precision="float32",
                    sha256=sha256(partial / name),
                    bytes=(partial / name).stat().st_size,
                )
            )
        signature = loaded.lifted.signature
        reference = sources.reference(loaded.lifted)
        np.savez_compressed(partial / GOLDEN, **record(reference))  # type: ignore[arg-type]
        manifest = Manifest(
            name=path.resolve().name,
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            contract=signature,
            source=_relative(loaded.source, path),
            options=options,
            artifacts=tuple(artifacts),
            golden_sha256=sha256(partial / GOLDEN),
            training=loaded.training,
            versions=environment.versions(),
        )
        write_manifest(partial, manifest)
        on_progress(stages - 1, stages, "proving parity")
        bundle = Bundle(partial)
        parity = check_bundle(
            bundle, bundle.manifest.artifacts, reference, f"PyTorch in float64 ({_name(loaded.source)})"
        )
        if not parity.passed:
            worst = max(parity.failures, key=lambda check: check.severity)
            raise ParityError(
                f"{worst.artifact} differs from PyTorch in {worst.output or worst.name} ({worst.detail}), so nothing "
                "was written; please report this with the module that shows it."
            )
        bundle.update(parity=parity)
        report.write(bundle)
    return Bundle(path)


def plan(
    source: str | os.PathLike[str],
    output: str | os.PathLike[str],
    formats: Sequence[str] = tuple(FORMATS),
    state_layout: StateLayout = "layers-first",
    *,
    force: bool = False,
) -> dict[str, Any]:
    """What `export` would do, with the same errors, but nothing written."""
    options = _options(formats, state_layout)
    if up_to_date(source, output, formats, state_layout) is None:
        check_free(Path(output), force=force)
    loaded = sources.load_checkpoint(Path(source), state_layout)
    return {
        "source": str(source),
        "output": str(output),
        "files": [MANIFEST, *(FORMATS[name][0] for name in formats), GOLDEN, REPORT],
        "options": options,
        "contract": loaded.lifted.signature,
    }


def up_to_date(
    source: str | os.PathLike[str],
    output: str | os.PathLike[str],
    formats: Sequence[str] = tuple(FORMATS),
    state_layout: StateLayout = "layers-first",
) -> Bundle | None:
    """The bundle at `output`, if it is whole and from this very file, with these options and this release."""
    try:
        bundle = Bundle(output)
    except InputError:
        return None
    manifest, file = bundle.manifest, Path(source)
    same = (
        file.is_file()
        and manifest.source.sha256 == sha256(file)
        and manifest.options == _options(formats, state_layout)
        and manifest.versions.get("lstm-deploy") == environment.versions()["lstm-deploy"]
        and not bundle.changed_files()
    )
    return bundle if same else None


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


def _options(formats: Sequence[str], state_layout: str) -> dict[str, Any]:
    unknown = [name for name in formats if name not in FORMATS]
    if unknown or not formats:
        raise InputError(f"{unknown[0] if unknown else ''!r} is not a format; choose from {', '.join(FORMATS)}.")
    if state_layout not in get_args(StateLayout):
        raise InputError(f"{state_layout!r} is not a state layout; use {' or '.join(get_args(StateLayout))}.")
    return {"formats": sorted(set(formats)), "state_layout": state_layout, "opset": OPSET}


def _name(source: Source) -> str:
    return Path(source.path).name if source.path else source.summary


def _relative(source: Source, bundle: Path) -> Source:
    if source.path is None:
        return source
    try:
        path = os.path.relpath(Path(source.path).resolve(), bundle.resolve())
    except ValueError:  # another drive on Windows
        path = str(Path(source.path).resolve())
    return msgspec.structs.replace(source, path=Path(path).as_posix())
