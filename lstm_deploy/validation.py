"""Validating bundles and single artifacts: which reference there is, and which checks apply."""

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from lstm_deploy import lint
from lstm_deploy.bundle import GOLDEN, MANIFEST, Artifact, Bundle
from lstm_deploy.checks import ParityReport
from lstm_deploy.errors import InputError
from lstm_deploy.files import read_npz
from lstm_deploy.parity import Judge, Reference, Trace, prove, replay
from lstm_deploy.runtimes import SUFFIXES, open_runtime
from lstm_deploy.signature import Signature

if TYPE_CHECKING:
    from torch import nn

    from lstm_deploy.sources import Origin

GOLDEN_TRACE = "golden trace"
"""What stands as the reference in a report where PyTorch was not asked."""


def validate(
    target: "Bundle | str | Path",
    *,
    reference: "nn.Module | Origin | str | Path | None" = None,
    provider: str = "cpu",
) -> ParityReport:
    """Hold every artifact of a bundle, or one artifact by its path, against the model it was made from.

    `reference` is the live module, its checkpoint, or a `sources.Origin` that says whose weights a file has.
    Without one it is the file that the bundle was exported from, if it is still there and PyTorch is installed;
    else the golden trace in the bundle. Raises `InputError` where nothing is there to compare with, and
    `ProviderError` for a provider that is not there.
    """
    path = target.path if isinstance(target, Bundle) else Path(target)
    bundle = _bundle_of(path)
    against = _reference(bundle, reference)
    if bundle is None:
        if against is None:
            raise InputError(f"{path} is in no bundle, so give the model it should equal with --reference.")
        judge = Judge(path.name, "float32", open_runtime(path, provider))
        problems = contract_problems(judge.runtime.signature, against.signature)
        judge.whole("contract", problems, "as the reference's")
        if path.suffix == ".onnx":
            judge.whole(
                "lint", lint.lint(lint.load(path), judge.runtime.signature), "native LSTM nodes with constant weights"
            )
        prove(judge, against)
        return _report(_described(reference), judge)
    artifacts = [
        artifact for artifact in bundle.manifest.artifacts if path.is_dir() or bundle.file(artifact) == path.resolve()
    ]
    if find_spec("torch") is None:
        artifacts = [artifact for artifact in artifacts if artifact.format != "torchscript"]
    if not artifacts:
        raise InputError(f"No artifact of {bundle.path} can be checked without PyTorch; install it.")
    described = GOLDEN_TRACE if against is None else _described(reference or bundle.source_path)
    return check_bundle(bundle, artifacts, against, described, provider)


def check_bundle(
    bundle: Bundle,
    artifacts: Sequence[Artifact],
    against: Reference | None,
    described: str,
    provider: str = "cpu",
) -> ParityReport:
    """Hold some artifacts of a bundle against its golden trace and, where there is one, a reference."""
    golden = read_golden(bundle)
    return _report(described, *(_judge(bundle, artifact, golden, against, provider) for artifact in artifacts))


def _judge(bundle: Bundle, artifact: Artifact, golden: Trace, against: Reference | None, provider: str) -> Judge:
    """All checks of one artifact of a bundle."""
    path = bundle.file(artifact)
    judge = Judge(artifact.path, artifact.precision, open_runtime(path, provider))
    judge.whole("contract", contract_problems(judge.runtime.signature, bundle.signature), "as in the manifest")
    own = {artifact.path, artifact.weights}
    changed = [f"{name} is not the file that was exported." for name in bundle.changed_files() if name in own]
    judge.whole("sha256", changed, "as in the manifest")
    if artifact.format == "onnx":
        judge.whole(
            "lint", lint.lint(lint.load(path), judge.runtime.signature), "native LSTM nodes with constant weights"
        )
    replay(judge, golden)
    if against is not None:
        prove(judge, against)
    return judge


def contract_problems(found: Signature, wanted: Signature) -> list[str]:
    """Which parts of an artifact's contract are not those of the manifest."""
    return [
        f"{field} is {getattr(found, field)!r}, not {getattr(wanted, field)!r}."
        for field in Signature.__struct_fields__
        if getattr(found, field) != getattr(wanted, field)
    ]


def read_golden(bundle: Bundle) -> Trace:
    """The arrays of `golden.npz`; raises `InputError` if the file is not what was exported."""
    path = bundle.path / GOLDEN
    if GOLDEN in bundle.changed_files():
        raise InputError(f"{path} is missing or changed since the export; export the model again.")
    return read_npz(path)


def _bundle_of(path: Path) -> Bundle | None:
    if path.is_dir():
        return Bundle(path)
    if not path.is_file():
        raise InputError(f"{path} does not exist; give a bundle or an artifact.")
    if path.suffix not in SUFFIXES:
        raise InputError(f"{path} is neither a bundle nor one of {', '.join(SUFFIXES)}; give one of these.")
    if (path.parent / MANIFEST).is_file():
        bundle = Bundle(path.parent)
        if any(artifact.path == path.name for artifact in bundle.manifest.artifacts):
            return bundle
    return None


def _reference(bundle: Bundle | None, given: Any) -> Reference | None:
    if find_spec("torch") is None or (given is None and bundle is None):
        return None
    from lstm_deploy import sources

    layout = bundle.signature.state_layout if bundle else "layers-first"
    inputs = bundle.signature.inputs if bundle else ()
    if given is None:
        assert bundle is not None
        loaded = sources.load_source_of(bundle)
        return None if loaded is None else sources.reference(loaded.lifted)
    if isinstance(given, str | Path):
        given = sources.Origin(path=Path(given))
    if isinstance(given, sources.Origin):
        return sources.reference(sources.load(replace(given, inputs=given.inputs or inputs), layout).lifted)
    if bundle is None:
        raise InputError("A module can be the reference of a bundle only, whose contract tells its inputs.")
    return sources.reference(sources.load_module(given, inputs, layout).lifted)


def _described(reference: Any) -> str:
    path = getattr(reference, "path", reference)
    if isinstance(path, str | Path):
        return f"PyTorch in float64 ({Path(path).name})"
    return f"PyTorch in float64 ({type(reference).__name__})"


def _report(reference: str, *judges: Judge) -> ParityReport:
    checks: Sequence[Any] = [check for judge in judges for check in judge.checks]
    return ParityReport(passed=all(check.passed for check in checks), reference=reference, checks=tuple(checks))
