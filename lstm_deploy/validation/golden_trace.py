"""The golden trace of a bundle: calls of the reference that were recorded at export, and are replayed without it."""

from collections.abc import Mapping
from itertools import count

import numpy as np

from lstm_deploy.artifacts import GOLDEN, MANIFEST, Bundle, read_npz
from lstm_deploy.contract import Array, Feeds, Outputs, Signature, sample_inputs, sample_state, sizes_of
from lstm_deploy.errors import InputError
from lstm_deploy.validation.parity_case import ParityCase, output_sizes, with_typical_sizes
from lstm_deploy.validation.reference import Reference

CHAIN = (4, 1, 1, 7)
"""Lengths of the chained calls of a trace."""
SINGLE = (6, 3)
"""Lengths of the calls from states of their own."""


def record_trace(reference: Reference) -> dict[str, Array]:
    """Chained calls from the initial state, then calls from states of their own.

    Keys are `CALL.NAME`: the inputs and all outputs of each call, in the reference's precision. A call that has state
    inputs starts from them, the others from the state outputs of the call before.
    """
    rng = np.random.default_rng(20)
    signature = reference.signature
    trace: dict[str, Array] = {}
    state: Feeds = {}
    for call, seq in enumerate((*CHAIN, *SINGLE)):
        sizes = signature.clamp(sizes_of(signature.inputs, 2 if call < len(CHAIN) else 3, seq))
        inputs = sample_inputs(signature.inputs, sizes, rng)
        fresh = call == 0 or call >= len(CHAIN)
        if call == 0:
            state = signature.initial_state(sizes["batch"])
        elif fresh:
            state = sample_state(signature, sizes["batch"], rng)
        outputs = reference.run({**inputs, **state})
        trace |= {f"{call}.{name}": value for name, value in {**inputs, **(state if fresh else {}), **outputs}.items()}
        state = signature.next_state(outputs)
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
    cases = [
        ParityCase("golden", f"chain {number}", state, tuple(calls), tuple(outputs), output_sizes(signature, outputs))
        for number, (state, calls, outputs) in enumerate(chains)
    ]
    return with_typical_sizes(cases, "golden")


def golden_cases(bundle: Bundle) -> list[ParityCase]:
    """The cases of a bundle's trace; raises `InputError` where the file is not the one that was exported."""
    path = bundle.path / GOLDEN
    if not bundle.is_unchanged(GOLDEN, bundle.manifest.golden_sha256):
        raise InputError(f"{path} is missing or changed since the export; export the model again.")
    try:
        if cases := trace_cases(bundle.signature, read_npz(path)):
            return cases
    except (KeyError, ValueError):  # names and sizes that are not the contract's
        pass
    raise InputError(f"{path} does not fit the contract in {MANIFEST}; export the model again.")
