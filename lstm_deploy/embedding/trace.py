"""The golden trace as a text that a few lines of any language can read, with a tolerance for each number.

One record per line, words separated by spaces:

    reset BATCH                  go to the initial state, with BATCH rows
    state NAME COUNT NUMBERS     set a state input to these numbers, row-major as in the contract
    input NAME COUNT NUMBERS     an input of the next call
    call                         call the model; its state stays for the next call
    output NAME COUNT PAIRS      after a call: each expected number, and its tolerance
    save, restore                keep a copy of the state; go back to it
    end CALLS OUTPUTS            how many there were: a trace that lacks any proves nothing

The numbers are PyTorch's in float64, and the tolerances those of `validate`. The numbers of int8 are the artifact's
own, as its runtime computed them here: a client that is wrong differs from these far more clearly than from PyTorch's,
and the distance to PyTorch has been judged by `validate`.
"""

from collections.abc import Iterator, Sequence

import numpy as np

from lstm_deploy.artifacts import Artifact, Bundle
from lstm_deploy.contract import Array, Feeds, Outputs, Signature, TensorSpec
from lstm_deploy.errors import InputError
from lstm_deploy.runtimes import open_runtime
from lstm_deploy.validation import INT8_KERNELS, ParityCase, allowed, golden_cases, relative_tolerance, run_case

INFINITE = 1e300
"""Replaces infinity in the trace, which not every language reads; clients clip what they compare to it."""


def trace(bundle: Bundle, artifact: Artifact) -> str:
    """The golden trace of a bundle for one artifact; C computes one row, so for C the rows follow one another.

    Raises `InputError` where the trace was changed since the export, or int8 cannot be run here.
    """
    signature = bundle.signature
    cases = golden_cases(bundle)
    if artifact.format == "c":
        cases = [row for case in cases for row in _rows(signature, case)]
    elif signature.fixed_size("batch") is None:
        cases = [_rows(signature, cases[0])[0], *cases]  # one row, as most programs have
    relative = relative_tolerance(artifact.precision, "cpu")
    if artifact.precision == "int8":
        runtime = open_runtime(bundle.file(artifact), "cpu", threads=1)
        cases = [case._replace(expected=tuple(run_case(runtime, case))) for case in cases]
        relative = INT8_KERNELS.relative
    # The calls from the initial state come last, then the first of them again, so that `reset` has something to undo.
    lines = [line for case in reversed(cases) for line in _records(signature, case, relative)]
    lines += [*_start(signature, cases[0]), *_call(signature, cases[0], 0, relative)]
    calls, outputs = (sum(line.startswith(kind) for line in lines) for kind in ("call", "output "))
    return "".join(f"{line}\n" for line in [*lines, f"end {calls} {outputs}"])


def _start(signature: Signature, case: ParityCase) -> Iterator[str]:
    batch = _batch(signature, case)
    yield f"reset {batch}"
    initial = signature.initial_state(batch)
    for name, value in case.state.items():
        if not np.array_equal(value.astype(initial[name].dtype), initial[name]):
            yield _record("state", name, value)


def _records(signature: Signature, case: ParityCase, relative: float) -> Iterator[str]:
    yield from _start(signature, case)
    for number in range(len(case.calls)):
        if number == 2:  # the second call again, from the state before it
            yield from ("restore", *_call(signature, case, 1, relative))
        elif number == 1:
            yield from ("save", *_start(signature, case), "restore")  # a reset must not change the saved copy
        yield from _call(signature, case, number, relative)


def _call(signature: Signature, case: ParityCase, number: int, relative: float) -> Iterator[str]:
    for name, value in case.calls[number].items():
        yield _record("input", name, value)
    yield "call"
    for name in signature.output_names:
        expected = np.clip(case.expected[number][name].astype(np.float64), -INFINITE, INFINITE)
        if np.isnan(expected).any():
            raise InputError(f"{name} of the golden trace holds NaN, which no number equals; fix the model.")
        tolerance = np.broadcast_to(allowed(case.sizes[name], relative, case.rounding.get(name, 0.0)), expected.shape)
        pairs = " ".join(
            f"{value:.9g} {bound:.2g}" for value, bound in zip(expected.flat, (1.05 * tolerance).flat, strict=True)
        )
        yield f"output {name} {expected.size} {pairs}"


def _record(kind: str, name: str, value: Array) -> str:
    digits = "{:.9g}" if value.dtype.kind == "f" else "{:d}"
    return f"{kind} {name} {value.size} " + " ".join(digits.format(number) for number in value.ravel().tolist())


def _batch(signature: Signature, case: ParityCase) -> int:
    return int(next(iter(case.state.values())).shape[signature.batch_axis_of_state])


def _rows(signature: Signature, case: ParityCase) -> list[ParityCase]:
    """A case for each row of the batch."""
    batch = _batch(signature, case)

    def row(number: int, specs: Sequence[TensorSpec], values: Feeds) -> Outputs:
        return {
            spec.name: np.take(values[spec.name], [number], axis=spec.shape.index("batch"))
            if "batch" in spec.shape
            else values[spec.name]
            for spec in specs
        }

    outputs = (*signature.outputs, *signature.state_outputs)
    return [
        case._replace(
            state=row(number, signature.state_inputs, case.state),
            calls=tuple(row(number, signature.inputs, call) for call in case.calls),
            expected=tuple(row(number, outputs, expected) for expected in case.expected),
        )
        for number in range(batch)
    ]
