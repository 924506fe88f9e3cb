"""Running all checks of some artifacts; those that need a runtime run in a subprocess."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import onnx
from msgspec.structs import replace

from lstm_deploy.artifacts import (
    SUFFIXES,
    Artifact,
    Bundle,
    Check,
    CrashError,
    Profile,
    fitting_threads,
    onnx_graph,
    read_interface,
    run_isolated,
)
from lstm_deploy.contract import Signature, rollout_contract
from lstm_deploy.errors import InputError
from lstm_deploy.progress import OnProgress, silent
from lstm_deploy.runtimes import Runtime, open_runtime
from lstm_deploy.validation.anew import Anew
from lstm_deploy.validation.checks import CHECKS, SHORT_ROLLOUT, CheckContext, Model, Subject, run_checks
from lstm_deploy.validation.comparison import Comparison
from lstm_deploy.validation.float16_emulation import in_float32
from lstm_deploy.validation.golden_trace import golden_cases
from lstm_deploy.validation.parity_case import ParityCase
from lstm_deploy.validation.reference import refuse_rollout
from lstm_deploy.validation.rollout_cases import AS_MODEL, make_rollout_cases
from lstm_deploy.validation.tolerances import Override, relative_tolerance


class CheckResults(NamedTuple):
    """The outcome of all checks of one artifact."""

    checks: list[Check]
    profiles: list[Profile]
    contract: Signature | None
    """The contract that the artifact carries; none if it could not be opened."""


def judge(
    subjects: Sequence[Subject],
    cases: Sequence[ParityCase],
    provider: str = "cpu",
    tolerances: Mapping[str, Override] | None = None,
    model: Model | None = None,
    anew: Mapping[str, Anew] = MappingProxyType({}),
    *,
    isolate: bool = True,
    on_progress: OnProgress = silent,
) -> list[CheckResults]:
    """All checks of some artifacts, of one bundle or of none; `model` is the PyTorch model, if there is one.

    `anew` has, for the name of an artifact, the one that the model is written as today.

    With `isolate`, artifacts of one format share a subprocess; should it crash, each runs in one of its own.
    """
    for subject in subjects:
        relative_tolerance(subject.precision, provider)  # or there is nothing to compare with
    bundle = next((subject.bundle for subject in subjects if subject.bundle), None)
    cases = [*(golden_cases(bundle) if bundle else ()), *cases]
    outcomes: dict[int, CheckResults | Exception] = {}  # by position: a manifest may list a file twice
    for suffix in dict.fromkeys(subject.path.suffix for subject in subjects):
        alike = {number: subject for number, subject in enumerate(subjects) if subject.path.suffix == suffix}
        names = ", ".join(subject.name for subject in alike.values())
        on_progress(len(outcomes), len(subjects), f"judging {names}")
        results = (_isolated if isolate else check_files)([*alike.values()], cases, provider, tolerances)
        outcomes.update(zip(alike, results, strict=True))
    return [
        _completed(subject, outcomes[number], provider, model, anew.get(subject.name))
        for number, subject in enumerate(subjects)
    ]


def of_bundle(
    bundle: Bundle, artifact: Artifact, reference: Signature | None = None, *, rollout_steps: int = SHORT_ROLLOUT
) -> Subject:
    """An artifact of a bundle, and its contract; `reference` is that of the model it should equal, as measured now."""
    is_rollout = artifact in bundle.manifest.rollouts
    contract = replace(bundle.signature, state_dtype=artifact.state_dtype)
    return Subject(
        path=bundle.file(artifact),
        name=artifact.path,
        precision=artifact.precision,
        contract=rollout_contract(contract) if is_rollout else contract,
        reference=None if is_rollout else reference,
        problems=tuple(_manifest_problems(bundle.file(artifact), artifact)),
        bundle=bundle,
        artifact=artifact,
        model=bundle.file(bundle.find(artifact.format, artifact.precision)) if is_rollout else None,
        rollout_steps=rollout_steps,
    )


def _manifest_problems(path: Path, artifact: Artifact) -> Iterator[str]:
    """In what the manifest says something else of a file than the file itself: its tolerances depend on it."""
    format_ = SUFFIXES[path.suffix].name if path.suffix in SUFFIXES else "unknown"
    if format_ != artifact.format:
        yield f"The manifest calls it {artifact.format}, and by its suffix it is {format_}."
    try:
        precision = artifact.precision
        if format_ == "onnx":
            precision = onnx_graph.precision(onnx_graph.load(path))
        elif format_ == "c":
            precision = read_interface(path).precision
    except (InputError, OSError):
        return  # as other checks report
    if precision != artifact.precision:
        yield f"It computes in {precision}, not in {artifact.precision} as the manifest says."


def check_file(
    subject: Subject,
    cases: Sequence[ParityCase],
    provider: str = "cpu",
    tolerances: Mapping[str, Override] | None = None,
) -> CheckResults:
    """Open an artifact and run the checks that need a runtime; `tolerances` are by output, `""` for all.

    A rollout is compared with its own model instead, called once for each step.
    """
    threads = fitting_threads(subject.path.stat().st_size)
    model = None
    if subject.model is not None:
        with closing(open_runtime(subject.model, provider, threads, even_changed=True)) as model:
            cases, tolerances = make_rollout_cases(model, subject.rollout_steps), AS_MODEL
    with closing(open_emulating(subject.path, subject.precision, provider, threads)) as runtime:
        if model is None:
            refuse_rollout(runtime, subject.name)
        else:
            _check_model(subject, runtime.signature, model.signature)
        return check_runtime(subject, runtime, cases, tolerances)


def check_runtime(
    subject: Subject,
    runtime: Runtime,
    cases: Sequence[ParityCase],
    tolerances: Mapping[str, Override] | None = None,
) -> CheckResults:
    """The checks that need a loaded artifact."""
    comparison = Comparison(runtime, subject.name, subject.precision, tolerances)
    cases = [case for case in cases if case.for_int8 or subject.precision != "int8"]
    context = CheckContext(subject, runtime.provider, runtime=runtime, comparison=comparison, cases=cases)
    return CheckResults(run_checks(context), comparison.profiles(), runtime.signature)


def open_emulating(path: Path, precision: str, provider: str, threads: int | None = None) -> Runtime:
    """Open an artifact; ONNX in float16, which the CPU cannot run, is emulated in float32 there."""
    if (precision, provider, path.suffix) == ("float16", "cpu", ".onnx"):
        from lstm_deploy.runtimes import OnnxRuntime

        return OnnxRuntime(in_float32(path), provider, threads)
    return open_runtime(path, provider, threads, even_changed=True)


def check_files(subjects: Sequence[Subject], *arguments: Any) -> list[CheckResults | Exception]:
    """`check_file` of each, or the `InputError` of a file that cannot be opened."""
    outcomes: list[CheckResults | Exception] = []
    for subject in subjects:
        try:
            outcomes.append(check_file(subject, *arguments))
        except InputError as error:
            outcomes.append(error)
    return outcomes


def _isolated(subjects: Sequence[Subject], *arguments: Any) -> list[CheckResults | Exception]:
    """`check_files` in a subprocess; should it crash, each file in one of its own."""
    try:
        return run_isolated(check_files, subjects, *arguments)
    except CrashError as error:
        if len(subjects) == 1:
            return [error]
        return [outcome for subject in subjects for outcome in _isolated([subject], *arguments)]


def _check_model(subject: Subject, rollout: Signature, model: Signature) -> None:
    """Raise `InputError` for a rollout that was made from another model."""
    assert subject.model is not None
    if subject.path.suffix == ".onnx" and (changed := onnx_graph.changed_weights(subject.path, subject.model)):
        problem = f"The weight {changed[0]} of {subject.name} is not that of {subject.model.name}"
    elif rollout != rollout_contract(model):
        problem = f"The contract of {subject.name} is not that of a rollout of {subject.model.name}"
    else:
        return
    raise InputError(f"{problem}; export the model again.")


def _completed(
    subject: Subject, outcome: CheckResults | Exception, provider: str, model: Model | None, anew: Anew | None
) -> CheckResults:
    """The results with those of the checks that need no runtime."""
    if isinstance(outcome, InputError) and subject.bundle is None:
        raise outcome  # no artifact, but a file that was named by mistake
    failure, results = (outcome, CheckResults([], [], None)) if isinstance(outcome, Exception) else (None, outcome)
    contradicted = (check.detail for check in results.checks if check.name == "declared" and not check.passed)
    subject = replace(subject, problems=(*subject.problems, *contradicted))
    graph: onnx.ModelProto | InputError | None = None
    if subject.path.suffix == ".onnx":
        try:
            graph = onnx_graph.load(subject.path)
        except InputError as error:
            graph = error
    context = CheckContext(subject, provider, results.contract, failure, subject.bundle, graph, model, anew)
    order = [spec.name for spec in CHECKS]
    checks = sorted([*run_checks(context), *results.checks], key=lambda check: order.index(check.name))
    return results._replace(checks=checks)
