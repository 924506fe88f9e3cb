"""Running all checks of some artifacts, those that run an artifact in a process of its own."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from msgspec.structs import replace

from lstm_deploy.artifacts import (
    Artifact,
    Bundle,
    Check,
    CrashError,
    Diagnosis,
    ParityReport,
    Profile,
    isolated,
    onnx_graph,
)
from lstm_deploy.contract import Signature, contract_of
from lstm_deploy.errors import InputError
from lstm_deploy.runtimes import OnnxRuntime, Runtime, open_runtime
from lstm_deploy.validation.checks import SHORT_ROLLOUT, CheckContext, Graph, Subject, in_order, run_checks
from lstm_deploy.validation.comparison import Comparison
from lstm_deploy.validation.float16_emulation import in_float32
from lstm_deploy.validation.golden_trace import golden_cases
from lstm_deploy.validation.parity_case import ParityCase
from lstm_deploy.validation.reference import refuse_rollout
from lstm_deploy.validation.rollout_cases import AS_MODEL, make_rollout_cases
from lstm_deploy.validation.tolerances import Override, relative_tolerance

if TYPE_CHECKING:
    from lstm_deploy.lifting import Lifted


class CheckResults(NamedTuple):
    """The outcome of all checks of one artifact."""

    checks: list[Check]
    profiles: list[Profile] = []  # noqa: RUF012 - never changed
    contract: Signature | None = None
    """The contract that the artifact carries; none if it could not be opened."""


Job = tuple[Callable[..., CheckResults], tuple[Any, ...]]
"""A function that runs an artifact, and its arguments, such as another process can be handed."""


def check_artifacts(
    bundle: Bundle, artifacts: Sequence[Artifact], cases: Sequence[ParityCase], described: str
) -> ParityReport:
    """Compare artifacts of a bundle that were just written with its golden trace and the reference's cases."""
    return report_of(judge([of_bundle(bundle, artifact) for artifact in artifacts], cases, isolate=False), described)


def report_of(
    results: Sequence[CheckResults],
    described: str,
    diagnoses: Sequence[Diagnosis] = (),
    left_out: Sequence[str] = (),
) -> ParityReport:
    """The report of several artifacts; `described` names the reference."""
    checks = tuple(check for result in results for check in result.checks)
    return ParityReport(
        passed=all(check.passed for check in checks),
        reference=described,
        checks=checks,
        profiles=tuple(profile for result in results for profile in result.profiles),
        diagnoses=tuple(diagnoses),
        left_out=tuple(left_out),
    )


def judge(
    subjects: Sequence[Subject],
    cases: Sequence[ParityCase],
    provider: str = "cpu",
    tolerances: Mapping[str, Override] | None = None,
    lifted: "Lifted | None" = None,
    *,
    isolate: bool = True,
    on_format: Callable[[Sequence[Subject]], None] = lambda _: None,
) -> list[CheckResults]:
    """All checks of some artifacts, of one bundle or of none; `lifted` is the PyTorch model, if there is one.

    With `isolate`, those of one format run in a process of their own; should it crash, each runs in another.
    """
    bundle = next((subject.bundle for subject in subjects if subject.bundle), None)
    cases = [*(golden_cases(bundle) if bundle else ()), *cases]
    outcomes: dict[int, CheckResults | Exception] = {}
    for suffix in dict.fromkeys(subject.path.suffix for subject in subjects):
        numbers = [number for number, subject in enumerate(subjects) if subject.path.suffix == suffix]
        on_format([subjects[number] for number in numbers])
        jobs = [_job(subjects[number], cases, provider, tolerances or {}) for number in numbers]
        outcomes.update(zip(numbers, _run(jobs, isolate=isolate), strict=True))
    return [_completed(subject, outcomes[number], provider, lifted) for number, subject in enumerate(subjects)]


def of_bundle(bundle: Bundle, artifact: Artifact, *, rollout_steps: int = SHORT_ROLLOUT) -> Subject:
    """An artifact of a bundle, and the contract that follows from the bundle's."""
    is_rollout = artifact in bundle.manifest.rollouts
    contract = replace(bundle.signature, state_dtype=artifact.state_dtype)
    return Subject(
        path=bundle.file(artifact),
        name=artifact.path,
        precision=artifact.precision,
        contract=contract_of(contract) if is_rollout else contract,
        bundle=bundle,
        artifact=artifact,
        model=bundle.file(bundle.find(artifact.format, artifact.precision)) if is_rollout else None,
        rollout_steps=rollout_steps,
    )


def check_file(
    path: Path,
    name: str,
    precision: str,
    provider: str,
    cases: Sequence[ParityCase],
    tolerances: Mapping[str, Override] | None = None,
    rollout_steps: int = SHORT_ROLLOUT,
) -> CheckResults:
    """Open an artifact and run the checks that need a runtime; `tolerances` are by output, `""` for all."""
    runtime = open_emulating(path, precision, provider)
    try:
        refuse_rollout(runtime, name)
        return check_runtime(runtime, name, precision, cases, tolerances, rollout_steps)
    finally:
        runtime.close()


def check_rollout(path: Path, model: Path, name: str, precision: str, provider: str, steps: int) -> CheckResults:
    """Open a rollout and compare it with its own model, called once for each step."""
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
        return check_runtime(runtime, name, precision, cases, AS_MODEL, steps)
    finally:
        runtime.close()


def check_runtime(
    runtime: Runtime,
    name: str,
    precision: str,
    cases: Sequence[ParityCase],
    tolerances: Mapping[str, Override] | None = None,
    rollout_steps: int = SHORT_ROLLOUT,
) -> CheckResults:
    """The checks that need a loaded artifact; `name` and `precision` are as the report has them."""
    comparison = Comparison(runtime, name, precision, tolerances)
    context = CheckContext(
        name,
        precision,
        runtime.provider,
        runtime=runtime,
        comparison=comparison,
        cases=[case for case in cases if case.for_int8 or precision != "int8"],
        rollout_steps=rollout_steps,
    )
    checks = run_checks(context)
    return CheckResults(checks, comparison.profiles(), runtime.signature)


def open_emulating(path: Path, precision: str, provider: str) -> Runtime:
    """Open an artifact; ONNX in float16, which the CPU cannot run, is emulated in float32 there."""
    if (precision, provider, path.suffix) == ("float16", "cpu", ".onnx"):
        return OnnxRuntime(in_float32(path), provider)
    return open_runtime(path, provider)


def run_jobs(jobs: Sequence[Job]) -> list[CheckResults | Exception]:
    """The results of each job, or the `InputError` of a file that cannot be opened."""
    outcomes: list[CheckResults | Exception] = []
    for function, arguments in jobs:
        try:
            outcomes.append(function(*arguments))
        except InputError as error:
            outcomes.append(error)
    return outcomes


def _job(subject: Subject, cases: Sequence[ParityCase], provider: str, tolerances: Mapping[str, Override]) -> Job:
    relative_tolerance(subject.precision, provider)  # or there is nothing to compare with
    reported = (subject.name, subject.precision, provider)
    if subject.model is not None:
        return check_rollout, (subject.path, subject.model, *reported, subject.rollout_steps)
    return check_file, (subject.path, *reported, cases, tolerances, subject.rollout_steps)


def _run(jobs: Sequence[Job], *, isolate: bool) -> list[CheckResults | Exception]:
    if not isolate:
        return run_jobs(jobs)
    try:
        return isolated(run_jobs, jobs)
    except CrashError as error:
        if len(jobs) == 1:
            return [error]
        return [outcome for job in jobs for outcome in _run([job], isolate=True)]


def _completed(
    subject: Subject, outcome: CheckResults | Exception, provider: str, lifted: "Lifted | None"
) -> CheckResults:
    """The results with those of the checks that need no runtime."""
    failure = outcome if isinstance(outcome, Exception) else None
    if isinstance(failure, InputError) and subject.bundle is None:
        raise failure  # no artifact, but a file that was named by mistake
    results = CheckResults([]) if isinstance(outcome, Exception) else outcome
    graph = None
    if subject.path.suffix == ".onnx":
        try:
            model = onnx_graph.load(subject.path)
        except InputError as error:
            model = error
        graph = Graph(model, subject.path.parent, subject.precision, results.contract)
    context = CheckContext(
        subject.name,
        subject.precision,
        provider,
        subject=subject,
        contract=results.contract,
        failure=failure,
        graph=graph,
        lifted=lifted,
    )
    return results._replace(checks=in_order([*run_checks(context), *results.checks]))
