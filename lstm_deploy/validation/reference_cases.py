"""Making parity cases: the inputs of every check in the registry, and the outputs that the reference gives for them."""

from collections.abc import Callable, Iterator, Sequence
from zlib import crc32

import numpy as np

from lstm_deploy.contract import Array, Feeds, Outputs, Signature
from lstm_deploy.errors import InputError
from lstm_deploy.validation.case_inputs import NORMAL, CaseInputs, Effort, split_steps
from lstm_deploy.validation.checks import CHECKS
from lstm_deploy.validation.parity_case import ParityCase, output_sizes, with_typical_sizes
from lstm_deploy.validation.reference import Reference
from lstm_deploy.validation.tolerances import ROUNDING, TOLERANCES


def make_cases(reference: Reference, effort: Effort = NORMAL) -> list[ParityCase]:
    """The cases of all checks that compare an artifact with the reference.

    Shapes on which the model itself does not run are left out, and infinities on which PyTorch's float32 and float64 do
    not agree. Raises the reference's `InputError` if it runs on no shape.
    """
    failure: InputError | None = None
    in_float32: list[tuple[str, CaseInputs, list[Outputs]]] = []
    cases: list[ParityCase] = []
    for spec in CHECKS:
        # Each draws from a generator of its own, so that another check does not change its inputs.
        rng = np.random.default_rng(crc32(spec.name.encode()))
        for inputs in spec.inputs(reference.signature, effort, rng) if spec.inputs else ():
            try:
                in_float32.append((spec.name, inputs, _outputs(reference.signature, reference.run_float32, inputs)))
            except InputError as error:  # the model itself refuses this shape or these values
                failure = error
    for check, inputs, rounded in in_float32:
        try:
            cases += _cases(reference, check, inputs, rounded)
        except InputError as error:
            failure = error
    if not any(case.check == "shapes" for case in cases):
        raise failure or InputError("No shape is small enough to be tried; give more memory or a smaller model.")
    return with_typical_sizes(cases, "shapes")


def _cases(reference: Reference, check: str, inputs: CaseInputs, rounded: Sequence[Outputs]) -> Iterator[ParityCase]:
    """The case with the outputs of the reference, and how far `rounded`, those in float32, are from them.

    None where float32 and float64 lead to NaN in different places, so that there is nothing to compare with.
    """
    signature = reference.signature
    expected = _outputs(signature, reference.run, inputs)
    sizes = output_sizes(signature, expected)
    rounding = dict.fromkeys(sizes, 0.0)
    if check == "nonfinite" and not _same_nonfinite(expected, rounded):
        return
    kept = 0
    for number, (exact, single) in enumerate(zip(expected, rounded, strict=True), 1):
        errors = {name: max(rounding[name], _relative_error(single[name], exact[name], sizes[name])) for name in exact}
        lost = max(errors.values(), default=0.0) > ROUNDING * TOLERANCES["float32", "cpu"].relative
        if check == "drift" and kept and lost:
            break  # PyTorch's own float32 has lost what would be compared
        rounding |= errors
        if all(spec.name in exact for spec in signature.state_outputs):
            kept = number
    yield ParityCase(
        check=check,
        where=f"{kept} {inputs.where}" if check == "drift" else inputs.where,
        state=inputs.state,
        calls=tuple(call for segment in inputs.segments for call in segment.calls(signature))[:kept],
        expected=tuple(expected[:kept]),
        sizes=sizes,
        rounding=rounding,
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


def _same_nonfinite(expected: Sequence[Outputs], rounded: Sequence[Outputs]) -> bool:
    """Whether the same entries are NaN or infinite in float64 and float32."""
    return all(
        np.array_equal(test(exact[name]), test(single[name]))
        for exact, single in zip(expected, rounded, strict=True)
        for name in exact
        for test in (np.isfinite, np.isnan)
    )


def _relative_error(rounded: Array, exact: Array, size: Array) -> float:
    with np.errstate(invalid="ignore"):
        off = np.abs(np.asarray(rounded, np.float64) - exact) / size  # of booleans, too
    return float(np.nan_to_num(off, nan=0.0, posinf=0.0).max(initial=0.0))
