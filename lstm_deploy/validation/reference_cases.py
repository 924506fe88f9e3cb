"""Making parity cases: the inputs of every check in the registry, and the outputs that the reference gives for them."""

from collections.abc import Callable, Sequence
from typing import NamedTuple
from zlib import crc32

import numpy as np

from lstm_deploy.contract import Array, Feeds, Outputs, Signature
from lstm_deploy.errors import InputError
from lstm_deploy.validation.case_inputs import NORMAL, CaseInputs, Effort, split_steps
from lstm_deploy.validation.checks import CHECKS
from lstm_deploy.validation.golden_trace import trace_inputs
from lstm_deploy.validation.parity_case import ParityCase, output_sizes, with_typical_sizes
from lstm_deploy.validation.reference import Reference
from lstm_deploy.validation.tolerances import CALM, LARGEST, LOST, ROUNDING, TOLERANCES

TRACE_SEEDS = range(20, 40)
"""Of the inputs of a golden trace, tried in turn."""
CARRIED = ("drift", "golden")
"""Checks whose cases end where PyTorch's own float32 has lost what would be compared."""


def make_cases(
    reference: Reference, effort: Effort = NORMAL, more: Sequence[tuple[str, CaseInputs]] = ()
) -> list[ParityCase]:
    """The cases of all checks that compare an artifact with the reference; `more` are inputs of a check's further ones.

    Shapes on which the model itself does not run are left out, and infinities on which PyTorch's float32 and float64 do
    not agree. Raises the reference's `InputError` if it runs on no shape.
    """
    failure: InputError | None = None
    in_float32: list[tuple[str, CaseInputs, list[Outputs]]] = []
    wanted = list(more)
    for spec in CHECKS:
        # Each draws from a generator of its own, so that another check does not change its inputs.
        rng = np.random.default_rng(crc32(spec.name.encode()))
        if spec.inputs:
            wanted += ((spec.name, inputs) for inputs in spec.inputs(reference.signature, effort, rng))
    for check, inputs in wanted:
        try:
            in_float32.append((check, inputs, _outputs(reference.signature, reference.run_float32, inputs)))
        except InputError as error:  # the model itself refuses this shape or these values
            if check == "golden":  # which a bundle must have
                raise
            failure = error
    known: list[_Known] = []
    for check, inputs, rounded in in_float32:
        try:
            expected = _outputs(reference.signature, reference.run, inputs)
            known.append(_Known(check, inputs, expected, [rounded], output_sizes(reference.signature, expected)))
        except InputError as error:
            failure = error
    if max((max(_errors(case)[-1].values()) for case in known), default=0.0) > CALM:
        with reference.shaken():
            for case in known:
                case.others.append(_outputs(reference.signature, reference.run, case.inputs))
    cases = [finished for case in known if (finished := _finished(reference.signature, case))]
    if not any(case.check == "shapes" for case in cases):
        raise failure or InputError("No shape is small enough to be tried; give more memory or a smaller model.")
    return with_typical_sizes(cases, "shapes")


def golden_inputs(reference: Reference) -> list[tuple[str, CaseInputs]]:
    """What `make_cases` takes for a golden trace: the first inputs on which the reference gives numbers alone, if any.

    A mask may leave a row with nothing, and an attention with NaN, of which clients' runtimes make this or that.
    """
    drawn = [trace_inputs(reference.signature, seed) for seed in TRACE_SEEDS]
    try:
        chosen = next((inputs for inputs in drawn if _gives_numbers(reference, inputs)), drawn[0])
    except InputError:  # as `make_cases` will say
        chosen = drawn[0]
    return [("golden", chain) for chain in chosen]


def _gives_numbers(reference: Reference, wanted: Sequence[CaseInputs]) -> bool:
    calls = (call for inputs in wanted for call in _outputs(reference.signature, reference.run_float32, inputs))
    return not any(np.isnan(value).any() for call in calls for value in call.values())


class _Known(NamedTuple):
    """A case, the outputs that are expected, and what others are that rounding has moved."""

    check: str
    inputs: CaseInputs
    expected: list[Outputs]
    others: list[list[Outputs]]
    sizes: dict[str, Array]


def _errors(case: _Known) -> list[dict[str, float]]:
    """After each call, the largest difference that rounding has made to each output, up to that call."""
    largest = dict.fromkeys(case.sizes, 0.0)
    errors = []
    for exact, *others in zip(case.expected, *case.others, strict=True):
        for name, value in exact.items():
            off = (_relative_error(other[name], value, case.sizes[name]) for other in others)
            largest[name] = max(largest[name], *off)
        errors.append(dict(largest))
    return errors


def _finished(signature: Signature, case: _Known) -> ParityCase | None:
    """The case with how far rounding alone leads.

    None where there is nothing to compare with: float32 and float64 lead to NaN in different places, or rounding leads
    anywhere, or float32 cannot hold the numbers, as of a state that doubles at each of many steps.
    """
    check, inputs, expected = case.check, case.inputs, case.expected
    if check == "nonfinite" and not (_same_nonfinite(case) and _is_robust(signature, inputs, expected)):
        return None
    errors, kept = _errors(case), len(expected)
    if check in CARRIED:
        kept = 0
        for number, (exact, error) in enumerate(zip(expected, errors, strict=True), 1):
            if kept and max(error.values()) > ROUNDING * TOLERANCES["float32", "cpu"].relative:
                break  # PyTorch's own float32 has lost what would be compared
            if all(spec.name in exact for spec in signature.state_outputs):
                kept = number
    if max(errors[kept - 1].values()) > LOST and check != "golden":  # which a bundle must have
        return None
    return ParityCase(
        check=check,
        where=f"{kept} {inputs.where}" if check == "drift" else inputs.where,
        state=inputs.state,
        calls=tuple(call for segment in inputs.segments for call in segment.calls(signature))[:kept],
        expected=tuple(expected[:kept]),
        sizes=case.sizes,
        rounding=errors[kept - 1],
        slack=inputs.slack,
        for_int8=inputs.for_int8,
    )


def _outputs(signature: Signature, run: Callable[[Feeds], Outputs], inputs: CaseInputs) -> list[Outputs]:
    """The outputs that are known after each call of the artifact, from one call of the reference for each segment."""
    state = inputs.state
    calls: list[Outputs] = []
    for segment in inputs.segments:
        outputs = run({**segment.inputs, **state})
        state = signature.next_state(outputs)
        if len(segment.parts) <= 1:
            calls.append(dict(outputs))
        else:  # states, and what is not along the time, are known after the last call alone
            exact = [spec for spec in signature.outputs if not signature.shares_time(spec)]
            exact = exact if signature.streaming == "exact" else []
            calls += split_steps([spec for spec in exact if "seq" in spec.shape], outputs, segment.parts)
            calls[-1] = {**{spec.name: outputs[spec.name] for spec in (*exact, *signature.state_outputs)}, **calls[-1]}
    return calls


def _same_nonfinite(case: _Known) -> bool:
    """Whether the same entries are NaN or infinite in float64 and float32."""
    return all(
        np.array_equal(test(exact[name]), test(other[name]))
        for exact, *others in zip(case.expected, *case.others, strict=True)
        for other in others
        for name in exact
        for test in (np.isfinite, np.isnan)
    )


def _is_robust(signature: Signature, inputs: CaseInputs, expected: Sequence[Outputs]) -> bool:
    """Whether NaN does not come of an infinite cell times a gate that is all but shut: 0 in PyTorch, and not in C."""
    states = zip(signature.state_inputs, signature.state_specs, strict=True)
    infinite = any(np.isinf(inputs.state[spec.name]).any() for spec, source in states if not source.bounded)
    return not (infinite and any(np.isnan(value).any() for outputs in expected for value in outputs.values()))


def _relative_error(rounded: Array, exact: Array, size: Array) -> float:
    """Infinite where float32 cannot hold a number that float64 can; where that has none, there is no error."""
    rounded, exact = np.asarray(rounded, np.float64), np.asarray(exact, np.float64)  # of booleans, too
    ends = np.finfo(np.float32)
    held = (np.abs(rounded) <= LARGEST) | (rounded == exact.clip(ends.min, ends.max))  # a mask may set the smallest one
    with np.errstate(invalid="ignore"):
        off = np.where(held, np.abs(rounded - exact), np.inf)
        off = np.where(np.isfinite(exact), off, 0.0)
    return float((off / size).max(initial=0.0))
