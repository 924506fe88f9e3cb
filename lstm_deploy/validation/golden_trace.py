"""The golden trace of a bundle: calls of the reference that were recorded at export, and are replayed without it."""

from collections.abc import Mapping, Sequence
from itertools import count

import numpy as np

from lstm_deploy.artifacts import GOLDEN, MANIFEST, Bundle, read_npz
from lstm_deploy.contract import Array, Feeds, Outputs, Signature, sample_inputs, sample_state, sizes_of
from lstm_deploy.errors import InputError
from lstm_deploy.validation.case_inputs import CaseInputs, Segment
from lstm_deploy.validation.parity_case import ParityCase, output_sizes, with_typical_sizes

CHAIN = (4, 1, 1, 7)
"""Lengths of the chained calls of a trace."""
SINGLE = (6, 3)
"""Lengths of the calls from states of their own."""


def trace_inputs(signature: Signature, seed: int = 20) -> list[CaseInputs]:
    """Chained calls from the initial state, then calls from states of their own."""
    rng = np.random.default_rng(seed)

    def inputs(batch: int, seq: int) -> dict[str, Array]:
        return sample_inputs(signature.inputs, signature.clamp(sizes_of(signature.inputs, batch, seq)), rng)

    def rows(batch: int) -> int:
        return signature.clamp(sizes_of(signature.inputs, batch, 1))["batch"]

    chain = tuple(Segment(inputs(2, seq)) for seq in CHAIN)
    alone = [(sample_state(signature, rows(3), rng), Segment(inputs(3, seq))) for seq in SINGLE]
    starts = [(signature.initial_state(rows(2)), chain), *((state, (call,)) for state, call in alone)]
    return [CaseInputs(f"chain {number}", state, calls) for number, (state, calls) in enumerate(starts)]


def record_trace(cases: Sequence[ParityCase]) -> dict[str, Array]:
    """The arrays of a trace, from the cases of `trace_inputs`.

    Keys are `CALL.NAME`: the inputs and all outputs of each call, in the reference's precision. A call that has state
    inputs starts from them, the others from the state outputs of the call before. `rounding.CHAIN.NAME` is PyTorch's
    own difference between float32 and float64, relative to the size of the output.
    """
    trace: dict[str, Array] = {}
    number = count()
    for chain, case in enumerate(cases):
        state = case.state
        for inputs, outputs in zip(case.calls, case.expected, strict=True):
            call = next(number)
            trace |= {f"{call}.{name}": value for name, value in {**inputs, **state, **outputs}.items()}
            state = {}
        trace |= {f"rounding.{chain}.{name}": np.float64(off) for name, off in case.rounding.items()}  # type: ignore[misc]
    return trace


def trace_cases(signature: Signature, trace: Mapping[str, Array]) -> list[ParityCase]:
    """The cases of a trace, one for each chain."""
    chains: list[tuple[Feeds, list[Feeds], list[Outputs]]] = []
    for call in count():
        if f"{call}.{signature.output_names[0]}" not in trace:
            break
        if f"{call}.{signature.state_inputs[0].name}" in trace:
            chains.append(({spec.name: trace[f"{call}.{spec.name}"] for spec in signature.state_inputs}, [], []))
        chains[-1][1].append({spec.name: trace[f"{call}.{spec.name}"] for spec in signature.inputs})
        chains[-1][2].append({name: trace[f"{call}.{name}"] for name in signature.output_names})
    cases = []
    for number, (state, calls, outputs) in enumerate(chains):
        rounding = {name: float(trace.get(f"rounding.{number}.{name}", 0.0)) for name in signature.output_names}
        sizes = output_sizes(signature, outputs)
        cases.append(ParityCase("golden", f"chain {number}", state, tuple(calls), tuple(outputs), sizes, rounding))
    return with_typical_sizes(cases, "golden")


def golden_cases(bundle: Bundle) -> list[ParityCase]:
    """The cases of a bundle's trace; raises `InputError` where the file is not the one that was exported."""
    path = bundle.path / GOLDEN
    if not bundle.is_unchanged(GOLDEN, bundle.manifest.golden_sha256):
        raise InputError(f"{path} is missing or changed since the export; export the model again.")
    try:
        if cases := trace_cases(bundle.signature, read_npz(path)):
            return cases
    except (LookupError, ValueError):  # names and sizes that are not the contract's
        pass
    raise InputError(f"{path} does not fit the contract in {MANIFEST}; export the model again.")
