"""A parity case: the inputs of chained calls, and the outputs that an artifact is expected to give.

Cases are arrays alone: they can be handed to another process, and outlive the reference that they were made from.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from lstm_deploy.contract import Array, Feeds, Outputs, Signature
from lstm_deploy.runtimes import Runtime
from lstm_deploy.validation.tolerances import OUTPUT_SIZE, STATE_SIZE, TYPICAL_SIZES


class ParityCase(NamedTuple):
    """Chained calls, each from the state that the one before left, and the outputs expected of each."""

    check: str
    where: str
    """What sets it apart from the others of its check, for the report."""
    state: Feeds
    """Before the first call."""
    calls: tuple[Feeds, ...]
    """The inputs of each call."""
    expected: tuple[Outputs, ...]
    """The outputs that are compared after each call, in float64; not all are known after all calls."""
    sizes: Mapping[str, Array] = {}
    """How large the entries of each output are, which differences are relative to."""
    rounding: Mapping[str, float] = {}
    """PyTorch's own difference between float32 and float64, per output, relative to `sizes`."""
    slack: float = 1.0
    """How many times the usual tolerance is allowed."""
    for_int8: bool = True
    """Whether int8 has to pass it: 8 bits have no NaN, and a step as coarse as the largest input is large."""


def typed_feeds(signature: Signature, feeds: Feeds) -> Outputs:
    """Feeds in the types of the contract: states are float32, and a float16 artifact takes them in float16."""
    types = {spec.name: spec.dtype for spec in (*signature.inputs, *signature.state_inputs)}
    return {name: value.astype(types.get(name, value.dtype), copy=False) for name, value in feeds.items()}


def run_case(runtime: Runtime, case: ParityCase) -> Iterator[Outputs]:
    """The outputs of each call, the artifact's own state carried; single steps go through the buffers of streams."""
    signature = runtime.signature
    state: Feeds = {spec.name: case.state[spec.name].astype(spec.dtype, copy=False) for spec in signature.state_inputs}
    if case.check != "drift" or len(signature.inputs) != 1:
        for inputs in case.calls:
            outputs = runtime.run({**inputs, **state})
            yield outputs
            state = signature.next_state(outputs)
        return
    recurrence = runtime.recur(1, 1)
    recurrence.set_state(state)
    (name,) = recurrence.inputs
    pairs = list(zip(signature.state_inputs, signature.state_outputs, strict=True))
    for inputs, expected in zip(case.calls, case.expected, strict=True):
        recurrence.inputs[name][...] = inputs[name]
        recurrence.step()
        outputs = dict(recurrence.outputs)
        if pairs[0][1].name in expected:  # reading the state costs more than the step
            state = recurrence.get_state()
            outputs |= {after.name: state[before.name] for before, after in pairs}
        yield outputs


def shortened(cases: Sequence[ParityCase], steps: int) -> list[ParityCase]:
    """The same cases, none of which carries the state over more than `steps` steps."""
    return [
        case._replace(calls=case.calls[:steps], expected=case.expected[:steps], where=f"{steps} carried steps")
        if case.check == "drift" and len(case.calls) > steps
        else case
        for case in cases
    ]


def output_sizes(signature: Signature, calls: Sequence[Outputs]) -> dict[str, Array]:
    """The largest finite |value| over some calls and the axes that the contract does not fix, kept with size 1."""
    least = dict.fromkeys(signature.outputs, OUTPUT_SIZE) | dict.fromkeys(signature.state_outputs, STATE_SIZE)
    sizes: dict[str, Array] = {}
    for spec, size in least.items():
        axes = tuple(axis for axis, dim in enumerate(spec.shape) if isinstance(dim, str))
        for value in (outputs[spec.name] for outputs in calls if spec.name in outputs):
            finite = np.where(np.isfinite(value), np.abs(value), 0.0)  # floats, also of integers
            largest = finite.max(axis=axes, keepdims=True, initial=size)
            sizes[spec.name] = np.maximum(largest, sizes.get(spec.name, 0.0))
    return sizes


def with_typical_sizes(cases: Sequence[ParityCase], typical: str) -> list[ParityCase]:
    """The cases with sizes no smaller than those of the check `typical`, for outputs that happen to be near 0.

    The largest of them are no measure of the others where a state grows with every step.
    """
    known = [case.sizes for case in cases if case.check == typical]
    least: dict[str, Array] = {}
    for name in {name for sizes in known for name in sizes}:
        of_cases = np.stack([sizes[name] for sizes in known if name in sizes])
        least[name] = np.minimum(of_cases.max(axis=0), TYPICAL_SIZES * np.median(of_cases, axis=0))
    return [
        case._replace(sizes={name: np.maximum(size, least.get(name, 0.0)) for name, size in case.sizes.items()})
        for case in cases
    ]
