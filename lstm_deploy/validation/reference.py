"""The reference that artifacts are compared with: which one a user means, or a bundle knows."""

import os
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from lstm_deploy.artifacts import SUFFIXES, Bundle, as_path
from lstm_deploy.contract import Feeds, Outputs, Signature, TensorSpec
from lstm_deploy.errors import InputError, LiftingError, why_missing
from lstm_deploy.runtimes import Runtime, open_runtime

if TYPE_CHECKING:
    from lstm_deploy.lifting import Lifted, sources

GOLDEN_TRACE = "golden trace"
"""The reference named in a report where PyTorch was not run."""


class Reference(Protocol):
    """What artifacts are compared with: as a rule the PyTorch model."""

    signature: Signature
    lifted: "Lifted | None"
    """The PyTorch model; none where another artifact stands in its place."""

    def run(self, feeds: Feeds) -> Outputs:
        """In float64; raises `InputError` for inputs that it refuses."""

    def run_float32(self, feeds: Feeds) -> Outputs:
        """In float32, to see what rounding alone does; only before the first `run`, which may need the memory."""

    def shaken(self) -> AbstractContextManager[None]:
        """Within the block, `run` computes with weights that are off as products in float32 are."""


class ArtifactReference:
    """Another artifact in the place of PyTorch, whose rounding is not known."""

    lifted: "Lifted | None" = None

    signature: Signature
    run: Callable[[Feeds], Outputs]
    run_float32: Callable[[Feeds], Outputs]

    def __init__(self, runtime: Runtime) -> None:
        self.signature, self.run, self.run_float32 = runtime.signature, runtime.run, runtime.run

    def shaken(self) -> AbstractContextManager[None]:
        return nullcontext()


class Found(NamedTuple):
    """The model to compare with, not run yet."""

    model: "Lifted | ArtifactReference | None"
    """None where there is only a trace."""
    described: str
    """Its name in a report."""
    is_source: bool = True
    """Whether a bundle was exported from it, as far as that is known: then it is written as the same artifacts."""


def find_reference(bundle: Bundle | None, given: Any, carried: Signature | None = None) -> Found:
    """The model that a user gave, or the source of the bundle.

    `given` is a live module, its checkpoint, another artifact or bundle, a `sources.Origin`, or none. `carried` is the
    contract of an artifact outside a bundle. Raises `InputError` where the reference cannot be read or is none.
    """
    if isinstance(given, str | os.PathLike):
        given = as_path(given)
    if isinstance(given, Path) and (given.is_dir() or given.suffix in SUFFIXES):
        path = given
        other = Bundle(path) if path.is_dir() else None
        runtime = open_runtime(other.file(other.find("onnx")) if other else path)
        refuse_rollout(runtime, path.name)
        return Found(ArtifactReference(runtime), path.name, is_source=False)
    if given is None and (bundle is None or why_missing("torch")):
        return Found(None, GOLDEN_TRACE)
    from lstm_deploy.lifting import sources

    known = bundle.signature if bundle else carried
    layout = known.state_layout if known else "layers-first"
    if given is None:
        assert bundle is not None
        source = sources.load_source_of(bundle)
        if source is None or bundle.source_path is None:
            return Found(None, GOLDEN_TRACE)
        loaded, name = source, bundle.source_path.name
    elif isinstance(given, Path | sources.Origin):
        origin = given if isinstance(given, sources.Origin) else sources.Origin(path=given)
        loaded = _as_contracted(known, partial(sources.load, origin, layout))
        name = origin.path.name
    elif known is None:
        raise InputError(
            "A module can be the reference of a bundle or an artifact of ours, whose contract gives its inputs."
        )
    else:
        loaded = _as_contracted(known, lambda inputs: sources.load_module(given, inputs, layout))
        name = type(given).__name__
    exported = bundle.manifest.source if bundle else loaded.source
    same = (exported.kind, exported.sha256) == (loaded.source.kind, loaded.source.sha256)
    return Found(loaded.lifted, pytorch_name(name, loaded.source.kind), same)


def pytorch_name(name: str, kind: str) -> str:
    """The name in a report of a model run by PyTorch, from that of its file or class and the `Source.kind`."""
    return f"PyTorch in float64 ({name}{', as inferred' if kind == 'weights' else ''})"


def _as_contracted(
    known: Signature | None, load: "Callable[[Sequence[TensorSpec]], sources.Loaded]"
) -> "sources.Loaded":
    """The reference, described as the model of a contract was: then sizes that it fixes are found as they were."""
    if known is None:
        return load(())
    if known.described_inputs != known.inputs:
        with suppress(LiftingError):
            loaded = load(known.described_inputs)
            if loaded.lifted.signature.inputs == known.inputs:
                return loaded
    return load(known.inputs)


def as_reference(model: "Lifted | ArtifactReference | None") -> Reference | None:
    """What `find_reference` found, ready to be run; a lifted module is taken over."""
    if model is None or isinstance(model, ArtifactReference):
        return model
    from lstm_deploy.validation.pytorch_reference import PyTorchReference

    return PyTorchReference(model)


def threads_for_reference(model: "Lifted | ArtifactReference | None") -> AbstractContextManager[None]:
    """Run PyTorch within the block on as many threads as what `find_reference` found is worth."""
    if model is None or isinstance(model, ArtifactReference):
        return nullcontext()
    from lstm_deploy.lifting import threads_for

    return threads_for(model.module)


def refuse_rollout(runtime: Runtime, name: str) -> None:
    """Raise `InputError` for a rollout, which can be compared with its own model only."""
    if runtime.signature.rollout:
        raise InputError(
            f"{name} is a rollout, which is compared with the model in its bundle; give that bundle, or its model."
        )
