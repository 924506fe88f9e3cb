"""Measures whether a lifted module streams: whether chunks with carried state give what the whole sequence gives."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from lstm_deploy.contract import Streaming, TensorSpec, sample_inputs, sample_state, sizes_of
from lstm_deploy.errors import one_line
from lstm_deploy.lifting.calling import RECURRENT_MODULES
from lstm_deploy.lifting.execution import frozen_copy, in_float64
from lstm_deploy.lifting.outputs import many_steps
from lstm_deploy.lifting.probing import BATCH, dynamic_dims, example_inputs
from lstm_deploy.lifting.recurrent import Lifted

NEARBY = 1e-12
"""A relative change of a state that is about as small as the accumulated rounding of float64."""
DAMPINGS = (1.0, 0.1, 0.01, 0.0)
"""Factors for the recurrent weights, tried in turn where a network amplifies rounding until nothing can be compared.
Whether its code looks across time does not depend on their size."""

Returned = tuple[Tensor, ...]
"""The outputs of a lifted module, then its final states."""


def measure_streaming(lifted: Lifted, declared: Sequence[TensorSpec]) -> tuple[Streaming, str]:
    """The `streaming` and `streaming_reason` of a lifted module, found by running it on chunks and on the whole.

    `declared` are its inputs before any dimension was fixed.
    """
    signature = lifted.signature
    for recurrent in signature.recurrent:
        if recurrent.num_directions == 2:
            return "none", f"{recurrent.module or 'the LSTM'} is bidirectional: its first output needs the last input"
    one_step = signature.fixed_size("seq") == 1
    specs = declared if one_step else signature.inputs  # a loop over time runs at any length here
    if any("seq" in spec.shape for spec in specs):
        return _measure_chunks(lifted, specs, one_step=one_step)
    if takes_one_step(lifted):
        return "exact", ""  # a sequence is its steps, as nothing but the state is kept between calls
    others = sorted(dynamic_dims(signature.inputs) - {"batch"})
    if others and signature.fixed_size("seq") is None:
        return "none", f"no axis is called `seq`; call {' or '.join(others)} so if it is that of time"
    reason = next((f": {dim.reason}" for dim in signature.fixed if dim.name == "seq"), "")
    return "none", f"the number of steps is fixed{reason}"


def _measure_chunks(lifted: Lifted, specs: Sequence[TensorSpec], *, one_step: bool) -> tuple[Streaming, str]:
    """`measure_streaming` where a sequence can be cut: along `seq` of `specs`, into single steps with `one_step`."""
    signature = lifted.signature
    # The last chunk is short: over many steps an LSTM forgets what was wrong at the cut before them.
    chunks = (1,) * 40 if one_step else (3, 1, many_steps(lifted), 3)
    sizes = signature.clamp(sizes_of(specs, BATCH, sum(chunks))) | {"seq": sum(chunks)}
    inputs = [torch.from_numpy(x) for x in sample_inputs(specs, sizes, np.random.default_rng(0)).values()]
    # Not from zeros: there an LSTM on even inputs hardly moves, and all cuts look alike.
    states = sample_state(signature, sizes["batch"], np.random.default_rng(1)).values()
    initial = [torch.from_numpy(state).double() for state in states]
    try:
        parts, whole = _run_in_chunks_and_whole(lifted, specs, inputs, initial, chunks)
    except RuntimeError as error:
        return "none", f"it does not run on every number of steps ({one_line(error)})"
    count = len(signature.outputs)
    if not _close(parts[-1][count:], whole[count:]):
        if lifted.flow.is_authored:
            return "state-only", "forward changes the state on its way in or out, so each cut of a sequence counts"
        return "none", "the state after chunks differs from that after the whole: something looks across time"
    outputs = [_joined([part[index] for part in parts], whole[index], chunks) for index in range(count)]
    if not _close(outputs, whole[:count]):
        return "state-only", "the output looks across time, so it depends on how the sequence is cut"
    return "exact", ""


def takes_one_step(lifted: Lifted) -> bool:
    """Whether a call is one step: each call of an LSTM in it has one, and starts from a state of its own.

    A loop over the steps of a window starts from the state of the step before.
    """
    copy = frozen_copy(lifted)
    for calls in copy.calls.values():
        calls.recorded = []
    copy(*example_inputs(copy.signature))
    recorded = {
        (path, number): call for path, calls in copy.calls.items() for number, call in enumerate(calls.recorded or ())
    }
    return recorded.keys() == set(lifted.flow.starts) and all(call.steps == 1 for call in recorded.values())


def _run_in_chunks_and_whole(
    lifted: Lifted, specs: Sequence[TensorSpec], inputs: Sequence[Tensor], initial: list[Tensor], chunks: Sequence[int]
) -> tuple[list[Returned], Returned]:
    """Results of each chunk, started from the state after the one before it, and of the whole sequence.

    In float64, as artifacts are proven: float32's rounding would hide a dependence as small as their tolerance.
    """

    def run(start: int, steps: int, state: Sequence[Tensor]) -> Returned:
        part = [
            torch.full_like(x, steps)
            if spec.is_lengths
            else x.narrow(spec.shape.index("seq"), start, steps)
            if "seq" in spec.shape
            else x
            for spec, x in zip(specs, inputs, strict=True)
        ]
        returned: Returned = lifted(*part, *state)
        return returned

    lifted = frozen_copy(lifted).double()
    inputs = [x.double() if x.is_floating_point() else x for x in inputs]
    modules = [module for module in lifted.modules() if isinstance(module, RECURRENT_MODULES)]
    weights = [pair for module in modules for pair in module.named_parameters(recurse=False)]
    recurrent = [(weight, weight.data) for name, weight in weights if name.startswith("weight_hh")]
    count = len(lifted.signature.outputs)
    with in_float64():
        for damping in DAMPINGS:
            for weight, data in recurrent:
                weight.data = data * damping
            parts: list[Returned] = []
            for number, steps in enumerate(chunks):
                parts.append(run(sum(chunks[:number]), steps, parts[-1][count:] if parts else initial))
            whole = run(0, sum(chunks), initial)
            nearby = run(0, sum(chunks), [state * (1 + NEARBY) for state in initial])
            if _close(nearby, whole):
                break
    return parts, whole


def _joined(parts: Sequence[Tensor], whole: Tensor, chunks: Sequence[int]) -> Tensor:
    """Outputs of chunks joined along the time axis, or the last one where the whole has no such axis.

    Time may be one axis with others, as in `[batch * seq, …]`: then it is found by trying all places that it may have.
    """
    joined = parts[-1]
    for axis in range(whole.dim()):
        shape = list(parts[0].shape)
        shape[axis] = sum(part.shape[axis] for part in parts)
        if shape != list(whole.shape):
            continue
        joined = torch.cat(list(parts), axis)
        entries, rest = divmod(whole.shape[axis], sum(chunks))
        if rest or any(part.shape[axis] != entries * steps for part, steps in zip(parts, chunks, strict=True)):
            return joined
        for before in (size for size in range(1, entries + 1) if entries % size == 0):
            split = [
                part.reshape(*part.shape[:axis], before, steps, entries // before, *part.shape[axis + 1 :])
                for part, steps in zip(parts, chunks, strict=True)
            ]
            other = torch.cat(split, axis + 1).flatten(axis, axis + 2)
            if _close([other], [whole]):
                return other
        return joined
    return joined


def _close(actual: Sequence[Tensor], expected: Sequence[Tensor]) -> bool:
    """Whether all differences are small beside the spread of each column, and beside the tolerance of artifacts."""
    pairs = zip(actual, expected, strict=True)
    return all(a.shape == b.shape and _columns_close(a.double(), b.double()) for a, b in pairs)


def _columns_close(actual: Tensor, expected: Tensor) -> bool:
    # Two runs of one module in float64, in a tolerance of their own: that of artifacts belongs to validation.
    columns = expected.flatten(0, -2) if expected.dim() > 1 else expected.reshape(-1, 1)
    spread = (columns.amax(0) - columns.amin(0)).reshape(-1)  # one for each entry of the last axis, or for all
    spread = torch.nan_to_num(spread, nan=0.0, posinf=0.0)  # of columns that are masked with infinities
    close = (actual - expected).abs() <= 1e-6 * (expected.abs() + spread) + 1e-7
    return bool((close | (actual == expected)).all())
