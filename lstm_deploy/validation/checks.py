"""The registry of checks: for each its name, what it needs, and the function that judges.

A check runs wherever all that it needs is at hand: some beside a runtime, in the process that runs the artifact, some
on files alone. To add one, write a function of what it needs and add its row to `CHECKS`; one that compares outputs is
a function in `case_inputs` and a row.
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import onnx
from msgspec import Struct
from msgspec.structs import replace

from lstm_deploy.artifacts import Artifact, Bundle, Check, CrashError, int8_saturation, lint
from lstm_deploy.contract import Array, Signature, TensorSpec
from lstm_deploy.errors import InputError, one_line
from lstm_deploy.runtimes import Runtime
from lstm_deploy.validation import case_inputs
from lstm_deploy.validation.anew import Anew
from lstm_deploy.validation.comparison import Comparison
from lstm_deploy.validation.parity_case import ParityCase, typed_feeds
from lstm_deploy.validation.rollout_cases import AS_MODEL, make_rollout_cases
from lstm_deploy.validation.stream_checks import stream_problems

if TYPE_CHECKING:
    from lstm_deploy.lifting import Lifted

SHORT_ROLLOUT, LONG_ROLLOUT = 64, 500
"""Steps of the longest rollouts, usually and thoroughly."""
InputsOf = Callable[[Signature, case_inputs.Effort, np.random.Generator], Iterator[case_inputs.CaseInputs]]
SECOND_CALL = "differ in a second call on the same inputs"


class Subject(Struct, frozen=True, kw_only=True):
    """An artifact to be checked."""

    path: Path
    name: str
    precision: str
    contract: Signature | None = None
    """That it should carry, if it is known."""
    bundle: Bundle | None = None
    artifact: Artifact | None = None
    reference: Signature | None = None
    """The contract of the model that a bundle is compared with, as it was measured now."""
    problems: tuple[str, ...] = ()
    """In what it contradicts its contract, as others saw."""
    model: Path | None = None
    """For a rollout, the artifact that it calls at each step."""
    rollout_steps: int = SHORT_ROLLOUT


class Model(NamedTuple):
    """The PyTorch model, with whose weights those of artifacts are compared."""

    lifted: "Lifted"
    graph: Path | None = None
    """The ONNX file that it is written as today, in float32, if it is."""


class CheckContext(NamedTuple):
    """All that checks may need of an artifact; what is not at hand is None."""

    subject: Subject
    provider: str
    contract: Signature | None = None
    """That the artifact carries, once it was opened."""
    failure: Exception | None = None
    """Why the artifact could not be run at all."""
    bundle: Bundle | None = None
    graph: onnx.ModelProto | InputError | None = None
    """Of an ONNX artifact, or why it cannot be read."""
    model: Model | None = None
    anew: Anew | None = None
    """The artifact beside the one that the reference is written as today."""
    runtime: Runtime | None = None
    comparison: Comparison | None = None
    cases: Sequence[ParityCase] | None = None


class Findings(NamedTuple):
    """The problems that a check of the artifact as a whole found, one sentence each; if none, its detail."""

    problems: Sequence[str]
    if_none: str


class CheckSpec(NamedTuple):
    """A row of the registry."""

    name: str
    proves: str
    """The fact that holds if it passes, in a few words."""
    needs: tuple[str, ...]
    """Fields of `CheckContext`, which `judge` is called with."""
    judge: Callable[..., Findings | list[Check] | None]
    """Gives findings, or finished checks of single outputs; none where the check does not apply."""
    inputs: InputsOf | None = None
    """Inputs of the cases that are made from the reference, for checks that compare outputs."""


def run_checks(context: CheckContext) -> list[Check]:
    """All checks whose needs are met, in the order of the registry."""
    checks: list[Check] = []
    for spec in CHECKS:
        needs = [getattr(context, need) for need in spec.needs]
        if any(value is None for value in needs):
            continue
        result = spec.judge(*needs)
        if isinstance(result, Findings):
            result = [
                Check(
                    name=spec.name,
                    artifact=context.subject.name,
                    precision=context.subject.precision,
                    provider=context.provider,
                    output="",
                    passed=not result.problems,
                    max_abs=None,
                    tolerance=None,
                    detail=" ".join(result.problems) or result.if_none,
                )
            ]
        checks += result or ()
    return checks


def _different(name: str, actual: object, expected: object) -> Iterator[str]:
    """One sentence for each part of a value of a contract that is not the expected one."""
    if actual == expected:
        return
    if isinstance(actual, Struct) and type(actual) is type(expected):
        for field in actual.__struct_fields__:
            yield from _different(f"{name}.{field}", getattr(actual, field), getattr(expected, field))
    elif isinstance(actual, tuple) and isinstance(expected, tuple) and len(actual) == len(expected):
        for number, (ours, theirs) in enumerate(zip(actual, expected, strict=True)):
            yield from _different(f"{name}[{number}]", ours, theirs)
    else:
        yield f"{name} is {actual!r}, not {expected!r}."


def _contract(carried: Signature, subject: Subject) -> Findings | None:
    if subject.contract is None:
        return None
    ours, theirs = carried, subject.contract
    if subject.bundle is None:
        # The reference may be these layers in a module of other names, as bare weights are.
        ours, theirs = _without_paths(ours), _without_paths(theirs)
    different = [
        sentence
        for field in Signature.__struct_fields__
        for sentence in _different(field, getattr(ours, field), getattr(theirs, field))
    ]
    if subject.reference is not None:
        expected_of, actual_of = measured(subject.reference), measured(carried)
        different += [
            f"{what} {actual_of[what]}, not {expected} as of the reference."
            for what, expected in expected_of.items()
            if actual_of[what] != expected
        ]
    return Findings([*subject.problems, *different], "as it should be")


def _without_paths(contract: Signature) -> Signature:
    """The contract without the places of its layers and states in the module that it was made from."""
    return replace(
        contract,
        recurrent=tuple(replace(spec, module="") for spec in contract.recurrent),
        states=tuple(replace(spec, module=None, argument="", result="") for spec in contract.state_specs),
    )


def measured(signature: Signature) -> dict[str, str]:
    """The facts of a contract that can be seen from the model alone, without its task or its training data.

    The keys begin sentences, and the values end them.
    """

    def tensors(specs: Sequence[TensorSpec]) -> str:
        return ", ".join(f"{spec}{' (lengths)' * spec.tells_lengths}" for spec in specs) or "none"

    states = signature.state_specs
    initial = {spec.name: spec.initial for spec in states if spec.initial is not None}
    fixed = {dim.name: dim.size for dim in signature.fixed}
    return {
        "The inputs are": tensors(signature.inputs),
        "The outputs are": tensors(signature.outputs),
        "The states are": ", ".join(f"{spec.name}: {spec.layers} layers of {spec.size}" for spec in states) or "none",
        "The states that do not start from zeros are": str(initial or "none"),
        "The state layout is": signature.state_layout,
        "Streaming is": signature.streaming,
        "The fixed sizes are": str(fixed or "none"),
        "The fewest steps of a call are": str(signature.least_seq),
    }


def _sha256(bundle: Bundle, subject: Subject) -> Findings | None:
    if subject.artifact is None:
        return None
    changed = [f"{name} is not the file that was exported." for name in bundle.changed(subject.artifact)]
    return Findings(changed, "as in the manifest")


def _lint(graph: onnx.ModelProto | InputError, subject: Subject) -> Findings:
    defects = [str(graph)] if isinstance(graph, InputError) else lint.lint(graph, subject.contract)
    return Findings(defects, "native recurrent nodes with constant weights")


def _saturation(graph: onnx.ModelProto | InputError, subject: Subject) -> Findings | None:
    problems = [] if isinstance(graph, InputError) else int8_saturation.problems(graph, subject.path.parent)
    if not problems and subject.precision != "int8":
        return None
    if problems and int8_saturation.needs_vnni(graph):  # opened only where the CPU has it
        return Findings([], int8_saturation.VNNI_ONLY)
    return Findings(problems, "sums of products are the same on every CPU")


def _structure(_: Signature, anew: Anew) -> Findings:
    return Findings(*anew.findings())


def _runs(failure: Exception) -> Findings:
    crashed = isinstance(failure, CrashError)
    return Findings([f"The runtime did not survive: {failure}." if crashed else str(failure)], "")


def _declared(runtime: Runtime) -> Findings | None:
    declared = runtime.declared()
    if declared is None:
        return None
    signature = runtime.signature
    specs = (*signature.inputs, *signature.state_inputs, *signature.outputs, *signature.state_outputs)
    problems = []
    for spec, actual in zip(specs, declared, strict=False):
        dims = list(zip(spec.shape, actual.shape, strict=False))
        same = all(isinstance(b, str) if isinstance(a, str) else a == b for a, b in dims)
        if (actual.name, actual.dtype, len(actual.shape)) != (spec.name, spec.dtype, len(spec.shape)) or not same:
            frozen = [str(a) for a, b in dims if isinstance(a, str) and isinstance(b, int)]
            why = f" ({', '.join(frozen)} frozen)" if frozen else ""
            problems.append(f"The graph declares {actual}, not {spec} as the contract does{why}.")
    if len(declared) != len(specs):
        problems.append(f"The graph has {len(declared)} inputs and outputs, not {len(specs)} as the contract.")
    return Findings(problems, "names, types and shapes are as the contract says")


def _provider(runtime: Runtime) -> Findings:
    return Findings(runtime.misplaced(), f"every node runs on {runtime.provider}")


def _stream(runtime: Runtime) -> Findings | None:
    try:
        problems = stream_problems(runtime)
    except Exception as error:  # whatever a runtime raises
        problems = [f"A stream does not run: {one_line(error)}."]
    if problems is None:
        return None
    return Findings(problems, "steps, saved states and rows of streams are as by plain calls")


def _repeatable(runtime: Runtime, cases: Sequence[ParityCase]) -> Findings:
    """The same call twice, another one in between, gives the same bits: no call is remembered, no number is random."""
    # The largest call is the likeliest to show randomness.
    single = (case for case in cases if len(case.calls) == 1)
    case = max(single, key=lambda case: sum(value.size for value in case.calls[0].values()), default=cases[0])
    feeds = typed_feeds(runtime.signature, {**case.calls[0], **case.state})
    try:
        first = {name: value.copy() for name, value in runtime.run(feeds).items()}
        telling = {spec.name for spec in runtime.signature.inputs if spec.tells_lengths}
        runtime.run({name: np.flip(x).copy() if name in telling else _other_value(x) for name, x in feeds.items()})
        second = runtime.run(feeds)
    except Exception as error:  # whatever a runtime raises
        return Findings([f"The call failed: {one_line(error)}."], "")
    changed = ", ".join(name for name in first if first[name].tobytes() != second[name].tobytes())
    problems = [f"{changed} {SECOND_CALL}."] if changed else []
    return Findings(problems, "the same call gives the same bits, another one in between")


def _other_value(value: Array) -> Array:
    """Another value that the same input could have."""
    # An array also where arithmetic turns an array of one number into a scalar.
    return np.array(value + np.asarray(0.5, value.dtype) if value.dtype.kind == "f" else np.flip(value))


def _rollout(comparison: Comparison, cases: Sequence[ParityCase], subject: Subject) -> list[Check]:
    """A rollout that is a file of its own has cases already; one inside a model's file is compared with that model."""
    model = comparison.runtime
    if model.rollout is None:
        return comparison.compare("rollout", cases)
    embedded = Comparison(model.rollout, comparison.artifact, comparison.precision, AS_MODEL)
    return embedded.compare("rollout", make_rollout_cases(model, subject.rollout_steps))


def _weights(_: Signature, subject: Subject, model: Model) -> Findings | None:
    if subject.model is not None:  # a rollout is compared with its model's artifact, and that with the weights
        return None
    from lstm_deploy.validation.weights import weight_problems

    try:
        problems = weight_problems(subject.path, *model)
    except InputError as error:  # a damaged file
        problems = [f"The weights cannot be read ({str(error).rstrip('.')})."]
    return None if problems is None else Findings(problems, "as PyTorch's, number by number")


def _outputs(name: str, proves: str, inputs: InputsOf | None = None) -> CheckSpec:
    """A check that compares the outputs of its cases with those expected."""
    return CheckSpec(
        name, proves, ("comparison", "cases"), lambda comparison, cases: comparison.compare(name, cases), inputs
    )


CHECKS = (
    CheckSpec(
        "contract",
        "the contract in the file is that of the bundle, and what is measured on the model",
        ("contract", "subject"),
        _contract,
    ),
    CheckSpec("sha256", "the file is the one that was exported", ("bundle", "subject"), _sha256),
    CheckSpec(
        "lint",
        "the ONNX graph has native recurrent nodes, constant weights and open sizes",
        ("graph", "subject"),
        _lint,
    ),
    CheckSpec("saturation", "sums in int8 cannot overflow, on any CPU", ("graph", "subject"), _saturation),
    CheckSpec(
        "structure",
        "the graph is, node by node, the one that the model is written as",
        ("contract", "anew"),
        _structure,
    ),
    CheckSpec("runs", "the file opens, and its runtime survives", ("failure",), _runs),
    _outputs("golden", "calls that were recorded at the export give what was recorded"),
    _outputs("shapes", "right for batches and lengths that the export never saw", case_inputs.shapes),
    _outputs(
        "values", "right for inputs and states far beyond the usual ones, and for every token", case_inputs.values
    ),
    _outputs("thresholds", "right at and around each number that the graph compares with"),
    _outputs("nonfinite", "NaN or infinity in one row leaves the others right", case_inputs.nonfinite),
    _outputs("liveness", "each state acts on each output as in PyTorch", case_inputs.liveness),
    _outputs("rows", "rows of a batch do not see each other", case_inputs.rows),
    _outputs("lengths", "right for padded rows of unequal length", case_inputs.lengths),
    _outputs("chunked", "a sequence in chunks, the state carried, is the whole sequence", case_inputs.chunked),
    _outputs("drift", "many single steps with the state carried stay right", case_inputs.drift),
    CheckSpec("declared", "names, types and shapes in the file are those of the contract", ("runtime",), _declared),
    CheckSpec("provider", "every node runs where it was asked to", ("runtime",), _provider),
    CheckSpec(
        "stream",
        "streams of `lstm_deploy.open` give what plain calls give, resets and saved states included",
        ("runtime",),
        _stream,
    ),
    CheckSpec("repeatable", "the same call gives the same bits", ("runtime", "cases"), _repeatable),
    CheckSpec(
        "rollout",
        "a rollout gives what one call of the model for each step gives",
        ("comparison", "cases", "subject"),
        _rollout,
    ),
    CheckSpec("weights", "every weight is that of PyTorch", ("contract", "subject", "model"), _weights),
)
"""In the order of a report, by their names in `validate --json`; docs/validation.md explains each."""
