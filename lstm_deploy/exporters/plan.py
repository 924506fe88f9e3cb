"""The plan of an export: its options, checked before PyTorch is loaded or anything is written."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import msgspec
from msgspec import Struct

from lstm_deploy.artifacts import (
    FORMATS,
    GOLDEN,
    MANIFEST,
    REPORT,
    SUFFIXES,
    Bundle,
    Manifest,
    check_destination,
    environment,
    sha256,
)
from lstm_deploy.contract import Signature, StateLayout, no_rollout_reason
from lstm_deploy.errors import InputError, check_known
from lstm_deploy.exporters.precision.options import FLOAT16_FILE, PrecisionOptions
from lstm_deploy.runtimes import c_compiler

if TYPE_CHECKING:
    from lstm_deploy.lifting import Origin

DEFAULT_FORMATS = ("onnx", "torchscript")
FLOAT32_ONLY = PrecisionOptions()
OPSET = 18
"""The oldest that `torch.onnx.export` writes natively, so that the oldest runtimes can read it."""


class Plan(Struct, frozen=True, kw_only=True):
    """A checked export."""

    output: Path
    origin: "Origin | None"
    """None for a live module."""
    formats: tuple[str, ...]
    """In the order of `FORMATS`, each once."""
    state_layout: StateLayout
    precision: PrecisionOptions
    options: dict[str, Any]
    """Recorded in the manifest: together with the source they determine the bundle."""

    @property
    def name(self) -> str:
        """The name of the bundle."""
        return self.output.resolve().name

    @property
    def stages(self) -> int:
        """Stages of the export: lifting, each format, the reference, the proof, and any lower precision."""
        return len(self.formats) + (4 if self.precision.requested else 3)

    def existing_bundle(self) -> Bundle | None:
        """The intact bundle at the output, if it is of the same file, options and release."""
        try:
            bundle = Bundle(self.output)
        except InputError:
            return None
        manifest = bundle.manifest
        same = (
            self.origin is not None
            and self.origin.path.is_file()
            and manifest.source.sha256 == sha256(self.origin.path)
            and manifest.options == self.options
            and manifest.versions.get("lstm-deploy") == environment.versions()["lstm-deploy"]
            and not bundle.changed_files()
            and (self.precision.quantize != "int8" or has_int8(manifest))  # else it was refused, and will be again
        )
        return bundle if same else None

    def preview(self, *, force: bool = False) -> dict[str, Any]:
        """The files, options and contract of the bundle, without writing it; raises as the export would."""
        from lstm_deploy.lifting import sources

        assert self.origin is not None
        if self.existing_bundle() is None:
            check_destination(self.output, force=force)
        loaded = sources.load(self.origin, self.state_layout)
        models = [*(FORMATS[name].file_name() for name in self.formats), *self.precision.files(self.formats)]
        headers = [Path(name).with_suffix(".h").name for name in models if SUFFIXES[Path(name).suffix].has_header]
        rollouts = rollout_names(loaded.lifted.signature, models).values()
        return {
            "source": str(self.origin.path),
            "output": str(self.output),
            "files": [MANIFEST, *models, *headers, *rollouts, GOLDEN, REPORT],
            "options": self.options,
            "contract": loaded.lifted.signature,
            "findings": loaded.findings,
        }


def make_plan(
    output: Path,
    origin: "Origin | None" = None,
    formats: Sequence[str] = DEFAULT_FORMATS,
    state_layout: StateLayout = "layers-first",
    precision: PrecisionOptions = FLOAT32_ONLY,
) -> Plan:
    """Check the options of an export; raises `InputError` for those that are invalid or cannot be met here."""
    for name in formats or [""]:
        check_known(name, FORMATS, "a format")
    check_known(state_layout, get_args(StateLayout), "a state layout")
    if "c" in formats:
        c_compiler.find_compiler()  # without one there is no proof
    precision.check(formats)
    options: dict[str, Any] = {"formats": sorted(set(formats)), "state_layout": state_layout, "opset": OPSET}
    if precision.requested:
        options |= msgspec.structs.asdict(precision)
        options["data_sha256"] = sha256(precision.data) if precision.data else None
        del options["data"]
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
    return Plan(
        output=output,
        origin=origin,
        formats=tuple(name for name in FORMATS if name in formats),
        state_layout=state_layout,
        precision=precision,
        options=options,
    )


def has_int8(manifest: Manifest) -> bool:
    """Whether a bundle has an artifact in int8."""
    return any(artifact.precision == "int8" for artifact in manifest.artifacts)


def rollout_names(signature: Signature, models: Iterable[str]) -> dict[str, str]:
    """The file name of the rollout of each model file that gets one.

    Only ONNX does, and not in float16, since the CPU could not prove it.
    """
    if no_rollout_reason(signature):
        return {}
    own_file = [name for name in models if SUFFIXES[Path(name).suffix].rollout == "own file"]
    return {name: name.replace("model", "rollout", 1) for name in own_file if name != FLOAT16_FILE}
