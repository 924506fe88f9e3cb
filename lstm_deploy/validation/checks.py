"""All checks of one artifact, those that run it in a process of its own; it knows no reference, only cases."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from lstm_deploy.artifacts import (
    GOLDEN,
    Artifact,
    Bundle,
    Check,
    CrashError,
    ParityReport,
    isolated,
    lint,
    onnx_graph,
    read_npz,
    saturation,
)
from lstm_deploy.contract import Signature, contract_of
from lstm_deploy.errors import InputError
from lstm_deploy.runtimes import Runtime, open_runtime
from lstm_deploy.validation.cases import Case, Trace, replayed
from lstm_deploy.validation.comparing import Verdict, prove
from lstm_deploy.validation.float16_on_cpu import widened
from lstm_deploy.validation.rollout_cases import make_rollout_cases
from lstm_deploy.validation.tolerances import ROLLOUT, Override, relative_tolerance

SHORT_ROLLOUT, LONG_ROLLOUT = 64, 500
"""Steps that rollouts are tried on, usually and thoroughly."""
AS_MODEL = {"": Override(relative=ROLLOUT.relative)}


ROLLOUT_ALONE = "{} is a rollout, which is held against the model in its bundle; give that bundle, or its model."


Proof = tuple[Callable[..., Verdict], tuple[Any, ...]]
"""A function that runs an artifact, and its arguments, such as another process can be handed."""


class Subject(Struct, frozen=True, kw_only=True):
    """One artifact to be judged."""

    path: Path
    name: str
    precision: str
    contract: Signature
    """What it should say of itself."""
    bundle: Bundle | None = None
    artifact: Artifact | None = None
    problems: tuple[str, ...] = ()
    """What is wrong with its contract, as seen before it runs."""
    model: Path | None = None
    """For a rollout, the artifact that it calls at each step."""
    rollout_steps: int = SHORT_ROLLOUT
    """How many a rollout is tried on."""


def check_artifacts(
    bundle: Bundle, artifacts: Sequence[Artifact], cases: Sequence[Case], described: str
) -> ParityReport:
    """Hold artifacts of a bundle that were just written against its golden trace and the reference's cases."""
    verdicts = judge([of_bundle(bundle, artifact) for artifact in artifacts], cases, isolate=False)
    checks = tuple(check for verdict in verdicts for check in verdict.checks)
    return ParityReport(
        passed=all(check.passed for check in checks),
        reference=described,
        checks=checks,
        profiles=tuple(profile for verdict in verdicts for profile in verdict.profiles),
    )


def judge(
    subjects: Sequence[Subject],
    cases: Sequence[Case],
    provider: str = "cpu",
    tolerances: Mapping[str, Override] | None = None,
    *,
    isolate: bool = True,
    on_format: Callable[[Sequence[Subject]], None] = lambda _: None,
) -> list[Verdict]:
    """All checks of some artifacts, of one bundle or of none.

    Unless told otherwise, those of one format run in a process of their own; should it crash, each runs in another.
    """
    bundle = next((subject.bundle for subject in subjects if subject.bundle), None)
    cases = [*(golden_cases(bundle) if bundle else ()), *cases]
    outcomes: dict[int, Verdict | Exception] = {}
    for suffix in dict.fromkeys(subject.path.suffix for subject in subjects):
        numbers = [number for number, subject in enumerate(subjects) if subject.path.suffix == suffix]
        on_format([subjects[number] for number in numbers])
        proofs = [_proof(subjects[number], cases, provider, tolerances or {}) for number in numbers]
        outcomes.update(zip(numbers, _outcomes(proofs, isolate=isolate), strict=True))
    return [_verdict(subject, outcomes[number], provider) for number, subject in enumerate(subjects)]


def run_proofs(proofs: Sequence[Proof]) -> list[Verdict | Exception]:
    """What each proof finds, or the `InputError` of a file that cannot be opened."""
    found: list[Verdict | Exception] = []
    for function, arguments in proofs:
        try:
            found.append(function(*arguments))
        except InputError as error:
            found.append(error)
    return found


def _proof(subject: Subject, cases: Sequence[Case], provider: str, tolerances: Mapping[str, Override]) -> Proof:
    relative_tolerance(subject.precision, provider)
    named = (subject.name, subject.precision, provider)
    if subject.model is not None:
        return prove_rollout, (subject.path, subject.model, *named, subject.rollout_steps)
    return prove_file, (subject.path, *named, cases, tolerances, subject.rollout_steps)


def _outcomes(proofs: Sequence[Proof], *, isolate: bool) -> list[Verdict | Exception]:
    if not isolate:
        return run_proofs(proofs)
    try:
        return isolated(run_proofs, proofs)
    except CrashError as error:
        if len(proofs) == 1:
            return [error]
        return [outcome for proof in proofs for outcome in _outcomes([proof], isolate=True)]


def _verdict(subject: Subject, outcome: Verdict | Exception, provider: str) -> Verdict:
    """A verdict with the checks that read an artifact and do not run it."""
    if isinstance(outcome, InputError) and subject.bundle is None:
        raise outcome  # no artifact, but a file that was named by mistake
    if isinstance(outcome, Exception):
        crashed = isinstance(outcome, CrashError)
        problem = f"The runtime did not survive: {outcome}." if crashed else str(outcome)
        outcome = Verdict([check_of(subject, provider, "runs", [problem], "")], [], None)
    return outcome._replace(checks=[*_whole(subject, outcome.signature, provider), *outcome.checks])


def prove_file(
    path: Path,
    name: str,
    precision: str,
    provider: str,
    cases: Sequence[Case],
    tolerances: Mapping[str, Override] | None = None,
    rollout_steps: int = SHORT_ROLLOUT,
) -> Verdict:
    """Open an artifact and hold it against some cases, and the rollout that it holds against its own steps."""
    runtime = open_for_proof(path, precision, provider)
    try:
        if runtime.signature.rollout:
            raise InputError(ROLLOUT_ALONE.format(name))
        verdict = prove(runtime, name, precision, cases, tolerances)
        if runtime.rollout is None:
            return verdict
        rolled = prove(runtime.rollout, name, precision, make_rollout_cases(runtime, rollout_steps), AS_MODEL)
        return verdict._replace(checks=[*verdict.checks, *(c for c in rolled.checks if c.name == "rollout")])
    finally:
        runtime.close()


def prove_rollout(path: Path, model: Path, name: str, precision: str, provider: str, steps: int) -> Verdict:
    """Open a rollout and hold it against its own model, called once for each step."""
    single = open_runtime(model, provider)
    try:
        cases = make_rollout_cases(single, steps)
    finally:
        single.close()
    runtime = open_runtime(path, provider)
    try:
        if path.suffix == ".onnx" and (changed := onnx_graph.changed_weights(path, model)):
            raise InputError(f"The weight {changed[0]} of {name} is not that of {model.name}; export the model again.")
        if runtime.signature != contract_of(single.signature):
            raise InputError(
                f"The contract of {name} is not that of a rollout of {model.name}; export the model again."
            )
        return prove(runtime, name, precision, cases, AS_MODEL)
    finally:
        runtime.close()


def open_for_proof(path: Path, precision: str, provider: str) -> Runtime:
    """Open an artifact; one in float16, which the CPU cannot run, is computed in float32 there."""
    if (precision, provider, path.suffix) == ("float16", "cpu", ".onnx"):
        from lstm_deploy.runtimes import OnnxRuntime

        return OnnxRuntime(widened(path), provider)
    return open_runtime(path, provider)


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
    if not bundle.is_unchanged(GOLDEN, bundle.manifest.golden_sha256):
        raise InputError(f"{path} is missing or changed since the export; export the model again.")
    return read_npz(path)


def golden_cases(bundle: Bundle) -> list[Case]:
    """The golden trace of a bundle as cases."""
    return replayed(bundle.signature, read_golden(bundle))


def of_bundle(bundle: Bundle, artifact: Artifact, *, rollout_steps: int = SHORT_ROLLOUT) -> Subject:
    """An artifact of a bundle, to be judged by its contract."""
    rolls = artifact in bundle.manifest.rollouts
    contract = replace(bundle.signature, state_dtype=artifact.state_dtype)
    return Subject(
        path=bundle.file(artifact),
        name=artifact.path,
        precision=artifact.precision,
        contract=contract_of(contract) if rolls else contract,
        bundle=bundle,
        artifact=artifact,
        model=bundle.file(bundle.find(artifact.format, artifact.precision)) if rolls else None,
        rollout_steps=rollout_steps,
    )


def _whole(subject: Subject, found: Signature | None, provider: str) -> list[Check]:
    """The checks that read an artifact and do not run it; `found` is its contract, none if it could not be opened."""
    checks = []
    if found is not None:
        problems = [*subject.problems, *contract_problems(found, subject.contract)]
        checks.append(check_of(subject, provider, "contract", problems, "as it should be"))
    if subject.bundle and subject.artifact:
        changed = [f"{name} is not the file that was exported." for name in subject.bundle.changed(subject.artifact)]
        checks.append(check_of(subject, provider, "sha256", changed, "as in the manifest"))
    if subject.path.suffix == ".onnx":
        fine = "sums of products are the same on every CPU"
        try:
            model = onnx_graph.load(subject.path)
        except InputError as error:
            defects, saturates = [str(error)], []
        else:
            defects, saturates = lint.lint(model, found), saturation.problems(model, subject.path.parent)
            if saturates and saturation.needs_vnni(model):  # opened only where the CPU has it
                saturates, fine = [], saturation.ONLY_VNNI
        checks.append(check_of(subject, provider, "lint", defects, "native LSTM nodes with constant weights"))
        if saturates or subject.precision == "int8":
            checks.append(check_of(subject, provider, "saturation", saturates, fine))
    return checks


def check_of(subject: Subject, provider: str, name: str, problems: Sequence[str], fine: str) -> Check:
    """A check of an artifact as a whole, which passes where there are no problems."""
    return Check(
        name=name,
        artifact=subject.name,
        precision=subject.precision,
        provider=provider,
        output="",
        passed=not problems,
        max_abs=None,
        tolerance=None,
        detail=" ".join(problems) or fine,
    )
