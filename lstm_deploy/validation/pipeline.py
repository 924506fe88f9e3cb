"""Validating bundles and single artifacts: which reference there is, and which checks apply."""

import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from lstm_deploy.artifacts import MANIFEST, Artifact, Bundle, Diagnosis, ParityReport, lint, onnx_graph
from lstm_deploy.contract import Feeds, Outputs, Signature
from lstm_deploy.errors import InputError, machine_limits, one_line
from lstm_deploy.runtimes import SUFFIXES, Runtime, cannot_run, find_provider, native, open_runtime
from lstm_deploy.validation.cases import NORMAL, THOROUGH, Case, Reference, make_cases
from lstm_deploy.validation.checks import (
    LONG_ROLLOUT,
    ROLLOUT_ALONE,
    SHORT_ROLLOUT,
    Subject,
    check_of,
    judge,
    of_bundle,
    open_for_proof,
)
from lstm_deploy.validation.comparing import Verdict
from lstm_deploy.validation.third_party_onnx import adapt
from lstm_deploy.validation.tolerances import Override, overrides

if TYPE_CHECKING:
    from torch import nn

    from lstm_deploy.lifting import Origin
    from lstm_deploy.validation.reference import ReferenceRuntime

GOLDEN_TRACE = "golden trace"
"""What stands as the reference in a report where PyTorch was not asked."""
Progress = Callable[[int, int, str], None]


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
    on_progress: Progress = lambda *_: None,
) -> ParityReport:
    """Hold every artifact of a bundle, or any ONNX or TorchScript file, against the model it should compute.

    `reference` is the live module, its checkpoint, another artifact or bundle, or a `sources.Origin` that says whose
    weights a file has. Without one it is the file that the bundle was exported from, if it is still there and PyTorch
    is installed; else the golden trace in the bundle. `thorough` tries more, for minutes. `names` are the file's
    names of inputs and outputs by the contract's, for an ONNX file made elsewhere. `atol` and `rtol` allow differences
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
    against, described = _reference(bundle, reference)
    left_out: list[str] = []
    with tempfile.TemporaryDirectory(prefix="lstm-deploy-") as folder:
        if bundle is None:
            if against is None:
                raise InputError(f"{path} is in no bundle, so give the model it should equal with --reference.")
            subjects = [_foreign(path, against.signature, names, Path(folder))]
        else:
            if names:
                raise InputError("The names in a bundle are its contract's; leave out --map.")
            chosen, left_out = _chosen(bundle, path, provider, trust_c)
            steps = LONG_ROLLOUT if thorough else SHORT_ROLLOUT
            subjects = [of_bundle(bundle, artifact, rollout_steps=steps) for artifact in chosen]
        for subject in subjects:
            if trust_c and subject.path.suffix == ".c":
                native.build(subject.path)
        known = (bundle or against).signature  # type: ignore[union-attr]
        if unknown := set(tolerances) - {"", *known.output_names}:
            raise InputError(f"There is no output {min(unknown)!r}; there is {', '.join(known.output_names)}.")
        effort = THOROUGH if thorough else NORMAL
        on_progress(0, len(subjects) + 1, "running the reference")
        cases = make_cases(against, effort) if against else []
        done = 0

        def on_format(judged: Sequence[Subject]) -> None:
            nonlocal done
            on_progress(done + 1, len(subjects) + 1, f"judging {', '.join(subject.name for subject in judged)}")
            done += len(judged)

        verdicts = hold(subjects, against, cases, provider, tolerances, on_format=on_format)
        checks = [check for verdict in verdicts for check in verdict.checks]
        diagnoses = [
            explain(subject, verdict, against, provider)
            for subject, verdict in zip(subjects, verdicts, strict=True)
            if not all(check.passed for check in verdict.checks)
        ]
    return ParityReport(
        passed=all(check.passed for check in checks),
        reference=described,
        checks=tuple(checks),
        profiles=tuple(profile for verdict in verdicts for profile in verdict.profiles),
        diagnoses=tuple(diagnoses),
        left_out=tuple(left_out),
    )


class _ArtifactReference:
    """Another artifact in the place of PyTorch."""

    def __init__(self, runtime: Runtime) -> None:
        self.signature, self._runtime = runtime.signature, runtime

    def run(self, feeds: Feeds) -> Outputs:
        return self._runtime.run(feeds)

    run_float32 = run


def hold(
    subjects: Sequence[Subject],
    against: Reference | None,
    cases: Sequence[Case],
    provider: str = "cpu",
    tolerances: Mapping[str, Override] | None = None,
    *,
    isolate: bool = True,
    on_format: Callable[[Sequence[Subject]], None] = lambda _: None,
) -> list[Verdict]:
    """All checks of some artifacts, their weights beside those of a PyTorch model included."""
    verdicts = judge(subjects, cases, provider, tolerances, isolate=isolate, on_format=on_format)
    if (lifted := getattr(against, "lifted", None)) is None:
        return verdicts
    from lstm_deploy.validation import weights as fidelity

    held = []
    for subject, verdict in zip(subjects, verdicts, strict=True):
        checks = verdict.checks
        # A rollout is held against its model's artifact, and that against the weights.
        if subject.model is None and verdict.signature is not None:
            problems = fidelity.problems(subject.path, lifted)
            if problems is not None:
                weights = check_of(subject, provider, "weights", problems, "as PyTorch's, number by number")
                checks = [*checks, weights]
        held.append(verdict._replace(checks=checks))
    return held


def explain(subject: Subject, verdict: Verdict, against: Reference | None, provider: str = "cpu") -> Diagnosis:
    """Why an artifact failed."""
    if subject.model is not None:
        details = "; ".join(dict.fromkeys(f"{c.name}: {c.detail}" for c in verdict.checks if not c.passed))
        cause = f"{subject.model.name}, called once for each step, gives something else ({details})"
        return Diagnosis(artifact=subject.name, cause=cause)
    from lstm_deploy.validation.diagnosis import diagnose

    failures = [check for check in verdict.checks if not check.passed]
    try:
        runtime = None if verdict.signature is None else open_for_proof(subject.path, subject.precision, provider)
        cause, place = diagnose(failures, runtime, against, *_knowledge(against))
        if subject.path.suffix == ".onnx" and (nodes := lint.suspicious(onnx_graph.load(subject.path))):
            cause = f"{cause} (look at these nodes first: {nodes})"
    except Exception as error:  # a wrong artifact may fail in any way; that it is wrong is known already
        cause, place = f"it could not be told, since a call of the artifact fails ({one_line(error)})", ""
    return Diagnosis(artifact=subject.name, cause=cause, place=place)


def _knowledge(against: Reference | None) -> tuple[Any, ...]:
    """What PyTorch models know of themselves beside their outputs."""
    if (lifted := getattr(against, "lifted", None)) is None:
        return ()
    from lstm_deploy.validation import weights as fidelity, wrong_weights

    return fidelity.buffers(lifted), partial(wrong_weights.alterations, against.module)  # type: ignore[union-attr]


def _foreign(path: Path, contract: Signature, names: Mapping[str, str] | None, folder: Path) -> Subject:
    """A file that no bundle vouches for; one without a contract is given the reference's."""
    if path.suffix != ".onnx":  # C says its precision itself
        precision = native.precision_of(path) if path.suffix == ".c" else "float32"
        return Subject(path=path, name=path.name, precision=precision, contract=contract)
    model = onnx_graph.load(path)
    precision = onnx_graph.precision(model)
    if not names and onnx_graph.contract_text(model) is not None:
        return Subject(path=path, name=path.name, precision=precision, contract=contract)
    adapted, problems = adapt(path, contract, names)
    copy = folder / path.name
    copy.write_bytes(adapted)
    return Subject(path=copy, name=path.name, precision=precision, contract=contract, problems=tuple(problems))


def _chosen(bundle: Bundle, path: Path, provider: str, trust_c: bool = False) -> tuple[list[Artifact], list[str]]:
    """The artifacts of a bundle that were meant and can be judged here; those that cannot, and why."""
    chosen: list[Artifact] = []
    left_out: list[str] = []
    for artifact in bundle.manifest.exported:
        if not path.is_dir() and bundle.file(artifact) != path.resolve():
            continue
        why = cannot_run(artifact.format, artifact.precision, provider)
        if artifact.precision == "float16" and artifact.format == "onnx":
            why = ""  # on the CPU it is computed in float32
        elif artifact.format == "c" and not (why or trust_c or native.is_compiled(bundle.file(artifact))):
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
        raise InputError(f"{path} does not exist; give a bundle or an artifact.")
    if path.suffix not in SUFFIXES:
        raise InputError(f"{path} is neither a bundle nor one of {', '.join(SUFFIXES)}; give one of these.")
    if (path.parent / MANIFEST).is_file():
        bundle = Bundle(path.parent)
        if any(artifact.path == path.name for artifact in bundle.manifest.exported):
            return bundle
    return None


def _reference(bundle: Bundle | None, given: Any) -> tuple[Reference | None, str]:
    """What to hold against, and what to call it; none where only the golden trace is there."""
    if isinstance(given, str | Path) and (Path(given).is_dir() or Path(given).suffix in SUFFIXES):
        path = Path(given)
        other = Bundle(path) if path.is_dir() else None
        runtime = open_runtime(other.file(other.find("onnx")) if other else path)
        if runtime.signature.rollout:
            raise InputError(ROLLOUT_ALONE.format(path.name))
        return _ArtifactReference(runtime), path.name
    if find_spec("torch") is None or (given is None and bundle is None):
        return None, GOLDEN_TRACE
    from lstm_deploy.lifting import sources

    layout = bundle.signature.state_layout if bundle else "layers-first"
    inputs = bundle.signature.inputs if bundle else ()
    if given is None:
        assert bundle is not None
        loaded, name = sources.load_source_of(bundle), bundle.source_path
        if loaded is None or name is None:
            return None, GOLDEN_TRACE
        return _pytorch(loaded.lifted), _described(name.name)
    if isinstance(given, str | Path):
        given = sources.Origin(path=Path(given))
    if isinstance(given, sources.Origin):
        loaded = sources.load(replace(given, inputs=given.inputs or inputs), layout)
        return _pytorch(loaded.lifted), _described(given.path.name)
    if bundle is None:
        raise InputError("A module can be the reference of a bundle only, whose contract tells its inputs.")
    return _pytorch(sources.load_module(given, inputs, layout).lifted), _described(type(given).__name__)


def _pytorch(lifted: Any) -> "ReferenceRuntime":
    from lstm_deploy.validation.reference import ReferenceRuntime

    return ReferenceRuntime(lifted)


def _described(name: str) -> str:
    return f"PyTorch in float64 ({name})"
