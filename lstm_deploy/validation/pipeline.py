"""`validate`: from a bundle or a file, and a reference, to a report."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import onnx
from msgspec.structs import replace

from lstm_deploy.artifacts import (
    MANIFEST,
    SUFFIXES,
    Artifact,
    Bundle,
    ParityReport,
    as_path,
    atomic_write,
    carried_contract,
    onnx_graph,
    read_interface,
    restore,
    scratch_folder,
    weights_file,
)
from lstm_deploy.contract import Signature
from lstm_deploy.errors import InputError, did_you_mean, machine_limits, refuse_unused
from lstm_deploy.progress import OnProgress, part_of, silent
from lstm_deploy.runtimes import c_compiler, cannot_run, find_provider
from lstm_deploy.validation.anew import Anew, WriteAnew
from lstm_deploy.validation.case_inputs import NORMAL, THOROUGH, Effort, thresholds
from lstm_deploy.validation.checks import LONG_ROLLOUT, SHORT_ROLLOUT, Model, Subject
from lstm_deploy.validation.diagnosis import explain
from lstm_deploy.validation.judging import CheckResults, judge, of_bundle
from lstm_deploy.validation.parity_case import ParityCase
from lstm_deploy.validation.reference import (
    ArtifactReference,
    Found,
    Reference,
    as_reference,
    find_reference,
    threads_for_reference,
)
from lstm_deploy.validation.reference_cases import make_cases
from lstm_deploy.validation.third_party_onnx import adapt
from lstm_deploy.validation.tolerances import Override, overrides

if TYPE_CHECKING:
    from torch import nn

    from lstm_deploy.lifting import Lifted, Origin


@machine_limits()
def validate(
    target: str | os.PathLike[str],
    *,
    reference: "nn.Module | Origin | str | os.PathLike[str] | None" = None,
    provider: str = "cpu",
    thorough: bool = False,
    names: Mapping[str, str] | None = None,
    atol: float | Mapping[str, float] | None = None,
    rtol: float | Mapping[str, float] | None = None,
    trust_c: bool = False,
    output: Path | None = None,
    write_anew: WriteAnew | None = None,
    on_progress: OnProgress = silent,
) -> ParityReport:
    """`lstm_deploy.validate`, described at `exporters.validate`; `write_anew` is what its check `structure` needs."""
    path = as_path(target)
    bundle = _bundle_of(path)
    tolerances = overrides(atol, rtol)
    find_provider(provider)
    on_progress(0, 1, "reading the reference")
    carried = None if bundle else carried_contract(path)
    found = find_reference(bundle, reference, carried)
    measured = found.model.signature if found.model else None
    left_out: list[str] = []
    with scratch_folder() as folder, threads_for_reference(found.model):
        if bundle is not None:
            if names:
                raise InputError("The names in a bundle are its contract's; leave out --map.")
            chosen, left_out = _runnable(bundle, path, provider, trust_c=trust_c)
            steps = LONG_ROLLOUT if thorough else SHORT_ROLLOUT
            subjects = [of_bundle(bundle, artifact, measured, rollout_steps=steps) for artifact in chosen]
        elif measured is not None:
            subjects = [_without_bundle(path, _with_task(measured, carried), names, folder)]
        else:
            raise InputError(f"{path} is in no bundle, so give the model it should equal with --reference.")
        _refuse_unused(subjects, found, tolerances, thorough=thorough)
        if output is not None:
            _check_output(output, path, subjects[0])
        for subject in (subject for subject in subjects if trust_c and subject.path.suffix == ".c"):
            c_compiler.build(subject.path)
        outputs = (bundle or found.model).signature.output_names  # type: ignore[union-attr] # one of them is there
        if unknown := set(tolerances) - {"", *outputs}:
            raise InputError(f"There is no output {min(unknown)!r}; {did_you_mean(min(unknown), outputs)}")
        # The reference is read, each artifact written anew, the reference run, each artifact judged.
        written = 0 if found.model is None or isinstance(found.model, ArtifactReference) else len(subjects)
        before = 1 + written + (found.model is not None)
        stages = before + len(subjects)
        anew, graph = _anew(found, subjects, folder, write_anew, part_of(on_progress, 1, stages))
        against = as_reference(found.model)
        if against:
            on_progress(before - 1, stages, "running the reference")
        cases = _cases(against, anew, THOROUGH if thorough else NORMAL) if against else []
        try:
            model = Model(against.lifted, graph) if against and against.lifted else None
            judging = part_of(on_progress, before, stages)
            results = judge(subjects, cases, provider, tolerances, model, anew, on_progress=judging)
        except InputError as error:  # about a copy in `folder` too, which nobody knows
            raise InputError(str(error).replace(str(subjects[0].path), str(path))) from error.__cause__
        diagnoses = tuple(
            explain(subject, result, against, provider)
            for subject, result in zip(subjects, results, strict=True)
            if not all(check.passed for check in result.checks)
        )
        report = replace(_report(results, found.described), diagnoses=diagnoses, left_out=tuple(left_out))
        if output is not None and report.passed:
            with atomic_write(output) as temporary:
                onnx_graph.save(onnx.load(subjects[0].path), temporary, weights_file(output))
    _check_unchanged(bundle)
    return report


def _refuse_unused(
    subjects: Sequence[Subject], found: Found, tolerances: Mapping[str, Override], *, thorough: bool
) -> None:
    """Raise `InputError` for what has no effect on these artifacts, or on this reference."""
    if all(subject.model for subject in subjects):
        refuse_unused("on a rollout, which must give what its model gives", **{"atol or rtol": tolerances})
    elif found.model is None:
        refuse_unused("without a reference: only the golden trace is replayed", thorough=thorough)


def _with_task(measured: Signature, carried: Signature | None) -> Signature:
    """The contract of a model, with what only its training knows from that which a file carries."""
    if carried is None or measured.task is not None:
        return measured
    return replace(measured, task=carried.task, state_policy=carried.state_policy)


def _check_unchanged(bundle: Bundle | None) -> None:
    """Raise `InputError` for a bundle that was replaced since it was opened."""
    if bundle is not None and Bundle(bundle.path).manifest.exported != bundle.manifest.exported:
        raise InputError(f"{bundle.path} was exported again during the validation; validate it again.")


def _check_output(output: Path, path: Path, subject: Subject) -> None:
    """Raise `InputError` where no file with a contract can be written, before the checks are run."""
    if subject.bundle is not None or subject.path == path:
        raise InputError(f"{path} is no ONNX file without a contract, so it needs none; leave out --output.")
    taken = output.exists() or weights_file(output).exists()
    if output.suffix != ".onnx" or taken or not output.absolute().parent.is_dir():
        raise InputError(f"{output} must be a new .onnx file in a directory that exists; choose another name.")


def _anew(
    found: Found, subjects: Sequence[Subject], folder: Path, write_anew: WriteAnew | None, on_progress: OnProgress
) -> tuple[dict[str, Anew], Path | None]:
    """Each artifact beside the one that the reference is written as, or why there is none; and `Written.graph`."""
    if found.model is None:
        return {}, None
    if isinstance(found.model, ArtifactReference) or write_anew is None:
        why = "the reference is an artifact, which is not written anew"
        return {subject.name: Anew(subject, why) for subject in subjects}, None
    files, graph = write_anew(found.model, subjects, folder, on_progress)
    return {subject.name: Anew(subject, files[subject.name], of_source=found.is_source) for subject in subjects}, graph


def _cases(against: Reference, anew: Mapping[str, Anew], effort: Effort) -> list[ParityCase]:
    """The cases of all checks, at the numbers that the artifacts compare with too."""
    numbers = sorted({number for one in anew.values() for number in one.numbers})
    return make_cases(
        against, effort, [("thresholds", inputs) for inputs in thresholds(against.signature, numbers, effort)]
    )


def check_artifacts(
    bundle: Bundle,
    artifacts: Sequence[Artifact],
    cases: Sequence[ParityCase],
    reference: str,
    lifted: "Lifted | None" = None,
    graph: Path | None = None,
) -> ParityReport:
    """Compare artifacts of a bundle that were just written with its golden trace and the cases of `reference`.

    With the model itself, `lifted`, and the ONNX `graph` in float32 that it was written as, weights are compared too,
    as by `validate`.
    """
    subjects = [of_bundle(bundle, artifact) for artifact in artifacts]
    model = None if lifted is None else Model(lifted, graph)
    return _report(judge(subjects, cases, model=model, isolate=False), reference)


def _report(results: Sequence[CheckResults], reference: str) -> ParityReport:
    checks = tuple(check for result in results for check in result.checks)
    profiles = tuple(profile for result in results for profile in result.profiles)
    passed = all(check.passed for check in checks)
    return ParityReport(passed=passed, reference=reference, checks=checks, profiles=profiles)


def _without_bundle(path: Path, contract: Signature, names: Mapping[str, str] | None, folder: Path) -> Subject:
    """A file alone; ONNX without a contract is copied into `folder`, with the reference's."""
    problems: list[str] = []
    if not isinstance(names, Mapping | None):
        raise InputError(f"names is {names!r}; give the file's names by the contract's, as {{'h_in': 'state_h'}}.")
    precision = read_interface(path).precision if path.suffix == ".c" else "float32"
    if path.suffix != ".onnx":
        refuse_unused(f"on {path.name}, which is not ONNX", names=names)
    else:
        model = onnx_graph.load(path)
        precision = onnx_graph.precision(model)
        if names or onnx_graph.contract_text(model) is None:
            adapted, problems = adapt(path, contract, names)
            path = folder / path.name
            onnx_graph.save(adapted, path, weights_file(path))
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
    restore(path)
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
