"""`validate`: from a bundle or a file, and a reference, to a report."""

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec.structs import replace

from lstm_deploy.artifacts import MANIFEST, SUFFIXES, Artifact, Bundle, ParityReport, onnx_graph, read_interface
from lstm_deploy.contract import Signature
from lstm_deploy.errors import InputError, machine_limits
from lstm_deploy.progress import OnProgress, silent
from lstm_deploy.runtimes import c_compiler, cannot_run, find_provider
from lstm_deploy.validation.case_inputs import NORMAL, THOROUGH
from lstm_deploy.validation.checks import LONG_ROLLOUT, SHORT_ROLLOUT, Subject
from lstm_deploy.validation.diagnosis import explain
from lstm_deploy.validation.judging import CheckResults, judge, of_bundle
from lstm_deploy.validation.parity_case import ParityCase
from lstm_deploy.validation.reference import find_reference
from lstm_deploy.validation.reference_cases import make_cases
from lstm_deploy.validation.third_party_onnx import adapt
from lstm_deploy.validation.tolerances import overrides

if TYPE_CHECKING:
    from torch import nn

    from lstm_deploy.lifting import Origin


@machine_limits()
def validate(
    target: "Bundle | str | Path",
    *,
    reference: "nn.Module | Origin | str | Path | None" = None,
    provider: str = "cpu",
    thorough: bool = False,
    names: Mapping[str, str] | None = None,
    atol: float | Mapping[str, float] | None = None,
    rtol: float | Mapping[str, float] | None = None,
    trust_c: bool = False,
    on_progress: OnProgress = silent,
) -> ParityReport:
    """Compare every artifact of a bundle, or any ONNX or TorchScript file, with the model it should compute.

    `reference` is the live module, its checkpoint, another artifact or bundle, or a `sources.Origin` that says whose
    weights a file has. Without one it is the file that the bundle was exported from, if it is still there and PyTorch
    is installed; else the golden trace in the bundle. `thorough` tries more, for minutes. `names` maps the contract's
    names of inputs and outputs to the file's, for a third-party ONNX file. `atol` and `rtol` allow differences
    up to `atol + rtol * size` in place of the table in `tolerances`, for all outputs or by name. `trust_c` allows C
    that was not exported on this machine to be compiled and run, here and from then on.

    A runtime that crashes is a failed check. Raises `InputError` where nothing is there to compare with or a file
    cannot be read, and `ProviderError` for a provider that is not there.
    """
    path = target.path if isinstance(target, Bundle) else Path(target)
    bundle = _bundle_of(path)
    tolerances = overrides(atol, rtol)
    find_provider(provider)
    on_progress(0, 1, "reading the reference")
    against, described = find_reference(bundle, reference)
    left_out: list[str] = []
    with tempfile.TemporaryDirectory(prefix="lstm-deploy-") as folder:
        if bundle is not None:
            if names:
                raise InputError("The names in a bundle are its contract's; leave out --map.")
            chosen, left_out = _runnable(bundle, path, provider, trust_c=trust_c)
            steps = LONG_ROLLOUT if thorough else SHORT_ROLLOUT
            subjects = [of_bundle(bundle, artifact, rollout_steps=steps) for artifact in chosen]
        elif against is not None:
            subjects = [_without_bundle(path, against.signature, names, Path(folder))]
        else:
            raise InputError(f"{path} is in no bundle, so give the model it should equal with --reference.")
        for subject in subjects:
            if trust_c and subject.path.suffix == ".c":
                c_compiler.build(subject.path)
        outputs = (bundle or against).signature.output_names  # type: ignore[union-attr] # one of them is there
        if unknown := set(tolerances) - {"", *outputs}:
            raise InputError(f"There is no output {min(unknown)!r}; there is {', '.join(outputs)}.")
        on_progress(0, len(subjects) + 1, "running the reference")
        cases = make_cases(against, THOROUGH if thorough else NORMAL) if against else []
        lifted = against.lifted if against else None
        results = judge(subjects, cases, provider, tolerances, lifted, on_progress=on_progress)
        diagnoses = tuple(
            explain(subject, result, against, provider)
            for subject, result in zip(subjects, results, strict=True)
            if not all(check.passed for check in result.checks)
        )
    return replace(_report(results, described), diagnoses=diagnoses, left_out=tuple(left_out))


def check_artifacts(
    bundle: Bundle, artifacts: Sequence[Artifact], cases: Sequence[ParityCase], reference: str
) -> ParityReport:
    """Compare artifacts of a bundle that were just written with its golden trace and the cases of `reference`."""
    return _report(judge([of_bundle(bundle, artifact) for artifact in artifacts], cases, isolate=False), reference)


def _report(results: Sequence[CheckResults], reference: str) -> ParityReport:
    checks = tuple(check for result in results for check in result.checks)
    profiles = tuple(profile for result in results for profile in result.profiles)
    passed = all(check.passed for check in checks)
    return ParityReport(passed=passed, reference=reference, checks=checks, profiles=profiles)


def _without_bundle(path: Path, contract: Signature, names: Mapping[str, str] | None, folder: Path) -> Subject:
    """A file alone; ONNX without a contract is copied into `folder`, with the reference's."""
    problems: list[str] = []
    precision = read_interface(path).precision if path.suffix == ".c" else "float32"
    if path.suffix == ".onnx":
        model = onnx_graph.load(path)
        precision = onnx_graph.precision(model)
        if names or onnx_graph.contract_text(model) is None:
            adapted, problems = adapt(path, contract, names)
            path = folder / path.name
            path.write_bytes(adapted)
    return Subject(path=path, name=path.name, precision=precision, contract=contract, problems=tuple(problems))


def _runnable(bundle: Bundle, path: Path, provider: str, *, trust_c: bool = False) -> tuple[list[Artifact], list[str]]:
    """The artifacts of a bundle that `path` names and that can run here; those that cannot, and why."""
    chosen: list[Artifact] = []
    left_out: list[str] = []
    for artifact in bundle.manifest.exported:
        if not path.is_dir() and bundle.file(artifact) != path.resolve():
            continue
        why = cannot_run(artifact.format, artifact.precision, provider)
        if artifact.precision == "float16" and artifact.format == "onnx":
            why = ""  # on the CPU it is emulated in float32
        elif artifact.format == "c" and not (why or trust_c or c_compiler.is_built(bundle.file(artifact))):
            why = "it was not compiled on this machine, or changed since; --trust-c compiles and runs it"
        if why:
            left_out.append(f"{artifact.path}: {why}")
        else:
            chosen.append(artifact)
    if not chosen:
        raise InputError(f"No artifact of {bundle.path} can be checked here ({'; '.join(left_out)}).")
    return chosen, left_out


def _bundle_of(path: Path) -> Bundle | None:
    if path.is_dir():
        return Bundle(path)
    if not path.is_file():
        raise InputError(f"{path} does not exist or is not a file; give a bundle or an artifact.")
    if path.suffix not in SUFFIXES:
        raise InputError(f"{path} is neither a bundle nor one of {', '.join(SUFFIXES)}; give one of these.")
    if (path.parent / MANIFEST).is_file():
        bundle = Bundle(path.parent)
        if any(artifact.path == path.name for artifact in bundle.manifest.exported):
            return bundle
    return None
