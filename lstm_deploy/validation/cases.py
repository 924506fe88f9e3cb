"""What an artifact is tried on, and what should come out: made once from a reference, for all artifacts.

A case is a chain of calls, each from the state that the call before left. Cases are arrays alone, so that they can be
handed to another process, and the reference may be gone by the time they are used.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import accumulate, count, pairwise
from typing import NamedTuple, Protocol

import numpy as np

from lstm_deploy.contract import Array, Feeds, Outputs, Signature, TensorSpec, sample_inputs, sample_state, sizes_of
from lstm_deploy.errors import InputError
from lstm_deploy.validation.tolerances import (
    HUGE_CELLS,
    LARGE_CELLS,
    OUTPUT_SIZE,
    ROUNDING,
    STATE_SIZE,
    TOLERANCES,
    sizes,
)

Trace = Mapping[str, Array]


class Reference(Protocol):
    """What artifacts are held against: the PyTorch model."""

    signature: Signature

    def run(self, feeds: Feeds) -> Outputs:
        """In float64; raises `InputError` for inputs that it refuses."""

    def run_float32(self, feeds: Feeds) -> Outputs:
        """In float32, to see what rounding alone does; only before the first `run`, which may need the memory."""


class Case(NamedTuple):
    """Chained calls, and what each should give."""

    check: str
    """The check that it belongs to."""
    where: str
    """What is special about it, for the report."""
    state: Feeds
    """Before the first call; later calls start from what the call before left."""
    calls: tuple[Feeds, ...]
    """The inputs of each call."""
    wanted: tuple[Outputs, ...]
    """For each call the outputs that are judged after it, in float64; not all are known after all calls."""
    sizes: Mapping[str, Array] = {}
    """For each output, how large its entries are, to judge differences by."""
    rounding: Mapping[str, float] = {}
    """For each output, PyTorch's own difference between float32 and float64, relative to `sizes`."""
    slack: float = 1.0
    """How many times the usual tolerance is allowed: exaggerated cells multiply what activations are off by."""
    for_int8: bool = True
    """Whether int8 is held to it: 8 bits have no NaN, and a step as coarse as the largest input is large."""


class Effort(NamedTuple):
    """How much is tried."""

    steps: int
    """Carried steps of the check `drift`."""
    shapes: tuple[tuple[int, int], ...]
    """Batch and sequence of single calls, none of which the export ever saw."""
    splits: int
    """Random splits of a sequence into chunks."""
    work: float
    """Rows × steps × weights that one case may take; where it would be more, shorter calls prove as much."""


QUICK = Effort(1_000, ((1, 1), (3, 7), (2, 100), (1, 50), (17, 3), (64, 2), (1, 400)), 1, 5e9)
"""At export."""
NORMAL = Effort(10_000, ((*QUICK.shapes, (32, 10), (256, 2), (1, 1500))), 2, 1e10)
"""By `validate`."""
LOWERED = QUICK._replace(steps=10_000, work=4e10)
"""At export of lower precisions, whose errors are followed through the state."""
THOROUGH = Effort(100_000, ((*NORMAL.shapes, (1000, 3), (5, 400), (1, 10_000))), 10, 1e12)

CHUNKS = (5, 1, 9, 1, 1, 13)
"""How a sequence is cut for the check `chunked`, beside random cuts."""
LARGEST_VOCABULARY = 20_000
"""Tokens that are all tried, each once."""
LARGEST = 4_000_000
"""Numbers that the outputs of one case may hold."""
EXTREME = 50.0
"""Saturating inputs and states are this many times as large as usual ones."""
FAR = 1_000.0
"""Cells grow without bound where a forget gate stays open; whoever clips them does it at less than this."""
DENORMAL = 1e-40
GOLDEN_CHAIN = (4, 1, 1, 7)
"""Lengths of the chained calls of a golden trace."""


class _Segment(NamedTuple):
    """What the reference gets in one call and the artifact in several."""

    inputs: Feeds
    parts: tuple[int, ...] = ()
    """Steps of each call of the artifact; none for all in one call."""


class _Try(NamedTuple):
    """A case before its outcome is known."""

    check: str
    where: str
    state: Feeds
    segments: tuple[_Segment, ...]
    slack: float = 1.0
    for_int8: bool = True


class _Disagreement(Exception):  # noqa: N818 - no error, but nothing to hold an artifact to
    """PyTorch's float32 and float64 kernels lead to NaN in different places."""


def make_cases(reference: Reference, effort: Effort = NORMAL) -> list[Case]:
    """All that an artifact of this model is tried on.

    Shapes on which the model itself does not run are left out, and infinities on which PyTorch's float32 and float64 do
    not agree. Raises the reference's `InputError` if it runs on none.
    """
    signature = reference.signature
    failure: Exception | None = None
    rounded: list[tuple[_Try, list[Outputs]]] = []
    cases: list[Case] = []
    for attempt in _tries(signature, effort):
        try:
            rounded.append((attempt, _outcome(signature, reference.run_float32, attempt)))
        except InputError as error:  # the model itself refuses this shape or these values
            failure = error
    for attempt, single in rounded:
        try:
            cases.append(_expected(reference, attempt, single))
        except (InputError, _Disagreement) as error:
            failure = error
    if not any(case.check == "shapes" for case in cases):
        raise failure or InputError("No shape is small enough to be tried; give more memory or a smaller model.")
    typical = _typical_sizes(cases)
    return [
        case._replace(sizes={name: np.maximum(size, typical.get(name, 0.0)) for name, size in case.sizes.items()})
        for case in cases
    ]


def record(reference: Reference) -> dict[str, Array]:
    """A golden trace: chained calls from the initial state, then calls from states of their own.

    Keys are `CALL.NAME`: the inputs and all outputs of each call, in the reference's precision. A call that has state
    inputs starts from them, the others from the state outputs of the call before.
    """
    rng = np.random.default_rng(20)
    signature = reference.signature
    trace: dict[str, Array] = {}
    state: Feeds = {}
    for call, seq in enumerate((*GOLDEN_CHAIN, 6, 3)):
        batch = 2 if call < len(GOLDEN_CHAIN) else 3
        sizes = signature.clamp(sizes_of(signature.inputs, batch, seq))
        inputs = sample_inputs(signature.inputs, sizes, rng)
        fresh = call == 0 or call >= len(GOLDEN_CHAIN)
        if call == 0:
            state = signature.initial_state(sizes["batch"])
        elif fresh:
            state = sample_state(signature, sizes["batch"], rng)
        outputs = reference.run({**inputs, **state})
        trace |= {f"{call}.{name}": value for name, value in {**inputs, **(state if fresh else {}), **outputs}.items()}
        state = signature.next_state(outputs)
    return trace


def replayed(signature: Signature, trace: Trace) -> list[Case]:
    """The cases of a golden trace: one for each chain."""
    chains: list[tuple[Feeds, list[Feeds], list[Outputs]]] = []
    for call in count():
        if f"{call}.{signature.output_names[0]}" not in trace:
            break
        if f"{call}.{signature.state_inputs[0].name}" in trace:
            chains.append(({spec.name: trace[f"{call}.{spec.name}"] for spec in signature.state_inputs}, [], []))
        chains[-1][1].append({spec.name: trace[f"{call}.{spec.name}"] for spec in signature.inputs})
        chains[-1][2].append({name: trace[f"{call}.{name}"] for name in signature.output_names})
    cases = [
        Case("golden", f"chain {number}", state, tuple(calls), tuple(wanted), output_sizes(signature, wanted))
        for number, (state, calls, wanted) in enumerate(chains)
    ]
    typical = _typical_sizes([case._replace(check="shapes") for case in cases])
    return [
        case._replace(sizes={name: np.maximum(case.sizes[name], typical[name]) for name in case.sizes})
        for case in cases
    ]


def shortened(cases: Sequence[Case], steps: int) -> list[Case]:
    """The same cases, none of which carries the state over more steps."""
    return [
        case._replace(calls=case.calls[:steps], wanted=case.wanted[:steps], where=f"{steps} carried steps")
        if case.check == "drift" and len(case.calls) > steps
        else case
        for case in cases
    ]


def dynamic_axes(spec: TensorSpec) -> tuple[int, ...]:
    """The axes whose size is not fixed by the contract."""
    return tuple(axis for axis, dim in enumerate(spec.shape) if isinstance(dim, str))


def weights_of(signature: Signature) -> int:
    """How many weights the LSTMs of a contract have: what a step of one row costs."""
    return sum(
        len(spec.cell.pytorch_gates)
        * (spec.hidden_size * spec.num_directions)
        * (spec.input_size + (2 * spec.num_layers - 1) * spec.output_size)
        for spec in signature.recurrent
    )


def _tries(signature: Signature, effort: Effort) -> Iterator[_Try]:
    rng = np.random.default_rng(1)
    weights = weights_of(signature)
    for batch, seq in effort.shapes:
        if batch * seq <= 21 or batch * seq * weights <= effort.work:
            yield _single(signature, "shapes", "", batch, seq, rng)
    usual = _single(signature, "shapes", "from the initial state", 2, 5, rng)
    yield usual._replace(state=signature.initial_state(signature.clamp({"batch": 2})["batch"]))
    yield from _values(signature, rng)
    yield from _liveness(signature, rng)
    yield from _vocabulary(signature, rng)
    usual = _single(signature, "rows", "one row far from the others", 5, 4, rng)
    inputs = _row_scaled(signature, usual.segments[0].inputs, 2)
    state = _row_scaled(signature, usual.state, 2)
    yield usual._replace(state=state, segments=(_Segment(inputs),), slack=LARGE_CELLS, for_int8=False)
    for spec in signature.inputs:
        if spec.is_lengths:
            usual = _single(signature, "lengths", "lengths from 1 to all", 5, 9, rng)
            inputs = dict(usual.segments[0].inputs)
            longest = inputs[spec.name].max()
            inputs[spec.name] = np.resize([1, 9, 4, 1, 8], inputs[spec.name].shape).clip(max=longest).astype(spec.dtype)
            yield usual._replace(segments=(_Segment(inputs),))
    if signature.streaming == "none":
        return
    for split in range(effort.splits):
        chunks = CHUNKS if split == 0 else tuple(rng.integers(1, 12, 6).tolist())
        yield _chain(signature, "chunked", f"{len(chunks)} chunks of {sum(chunks)} steps", 3, chunks, rng)
    width = sum(math.prod(dim for dim in spec.shape if isinstance(dim, int)) for spec in signature.outputs)
    steps = max(min(effort.steps, int(effort.work / weights), LARGEST // width), 10)
    if _fixed_seq(signature):  # the reference, too, has to take each step by itself
        steps = min(steps, 300)
    yield _chain(signature, "drift", "carried steps", 1, (1,) * steps, rng)


def _single(signature: Signature, check: str, what: str, batch: int, seq: int, rng: np.random.Generator) -> _Try:
    sizes = signature.clamp(sizes_of(signature.inputs, batch, seq))
    where = f"batch {sizes['batch']}, seq {sizes['seq']}"
    inputs = sample_inputs(signature.inputs, sizes, rng)
    return _Try(check, what or where, sample_state(signature, sizes["batch"], rng), (_Segment(inputs),))


def _values(signature: Signature, rng: np.random.Generator) -> Iterator[_Try]:
    """Inputs and states as they do not occur in training."""
    usual = _single(signature, "values", "", 3, 6, rng)._replace(slack=LARGE_CELLS)
    usual_inputs = usual.segments[0].inputs

    def changed(what: str, x: float, h: float, c: float) -> _Try:
        inputs = {spec.name: _scaled(usual_inputs[spec.name], spec, x) for spec in signature.inputs}
        factors = {name: np.float32(h if signature.cell_states[name].is_output else c) for name in usual.state}
        state = {name: (value * factors[name]).astype(value.dtype) for name, value in usual.state.items()}
        return usual._replace(where=what, segments=(_Segment(inputs),), state=state)

    yield changed(f"{EXTREME:.0f} times as large as usual", EXTREME, EXTREME, EXTREME)._replace(for_int8=False)
    yield changed(f"cells {EXTREME:.0f} times as large as usual", 1, 1, EXTREME)
    yield changed(f"cells {FAR:,.0f} times as large as usual", 1, 1, FAR)._replace(slack=HUGE_CELLS, for_int8=False)
    yield changed("a little beyond the usual range", 1.3, 1.3, 1.3)
    yield changed("all zero", 0.0, 0.0, 0.0)
    yield changed("denormal numbers", DENORMAL, DENORMAL, DENORMAL)
    usual = usual._replace(check="nonfinite", slack=1.0, for_int8=False)
    for value in (np.nan, np.inf, -np.inf):
        where = f"{value} in row 0"
        for spec in signature.inputs:
            if spec.dtype.startswith("float") and "batch" in spec.shape:
                x = usual_inputs[spec.name].copy()
                np.moveaxis(x, spec.shape.index("batch"), 0)[0] = value
                segment = _Segment({**usual_inputs, spec.name: x})
                yield usual._replace(where=f"{spec.name}: {where}", segments=(segment,))
        for spec in signature.state_inputs:
            if "batch" in spec.shape:
                state = usual.state[spec.name].copy()
                np.moveaxis(state, signature.batch_axis_of_state, 0)[0] = value
                where = f"{spec.name}: {value} in row 0"
                yield usual._replace(where=where, state={**usual.state, spec.name: state})


def _scaled(value: Array, spec: TensorSpec, factor: float) -> Array:
    """Farther from the middle of the range of training, or nearer; nearest is 0."""
    if not spec.dtype.startswith("float"):
        return value
    middle = (np.add(spec.low, spec.high) / 2).astype(value.dtype) if factor > 1 and spec.low and spec.high else 0.0
    return np.asarray((value - middle) * factor + middle).astype(value.dtype)


def _row_scaled(signature: Signature, values: Feeds, row: int) -> Outputs:
    """A copy in which one row is many times as large."""
    copies = {name: value.copy() for name, value in values.items()}
    for spec in (*signature.inputs, *signature.state_inputs):
        if spec.name in copies and spec.dtype.startswith("float") and "batch" in spec.shape:
            np.moveaxis(copies[spec.name], spec.shape.index("batch"), 0)[row] *= 20
    return copies


def _vocabulary(signature: Signature, rng: np.random.Generator) -> Iterator[_Try]:
    """Every token once."""
    for spec in signature.inputs:
        if spec.dtype.startswith("int") and spec.high and spec.high[0] < LARGEST_VOCABULARY:
            tokens = np.arange(int(spec.high[0]) + 1)
            usual = _single(signature, "values", "every token", -(-len(tokens) // 50), 50, rng)
            inputs = dict(usual.segments[0].inputs)
            inputs[spec.name] = np.resize(tokens, inputs[spec.name].shape).astype(spec.dtype)
            yield usual._replace(segments=(_Segment(inputs),))


def _liveness(signature: Signature, rng: np.random.Generator) -> Iterator[_Try]:
    """The state of one layer after another is replaced: every output must move as the reference's."""
    usual = _single(signature, "liveness", "", 3, 3, rng)
    layers_axis = 1 - signature.batch_axis_of_state
    for spec in signature.state_inputs:
        for layer in range(int(spec.shape[layers_axis])):
            state = usual.state[spec.name].copy()
            block = np.moveaxis(state, layers_axis, 0)
            block[layer] = np.where(block[layer] > 0, -1.5, 1.5) - block[layer]
            yield usual._replace(where=f"another {spec.name} of layer {layer}", state={**usual.state, spec.name: state})


def _chain(
    signature: Signature, check: str, what: str, batch: int, parts: Sequence[int], rng: np.random.Generator
) -> _Try:
    """A sequence that the artifact gets in parts, and the reference whole, or marked where its states are wanted.

    Where a call takes a fixed number of steps, or the output depends on how a sequence is cut, so does the reference.
    """
    sizes = signature.clamp(sizes_of(signature.inputs, batch, sum(parts)))
    state = sample_state(signature, sizes["batch"], rng)
    if _fixed_seq(signature):
        segments = [_Segment(sample_inputs(signature.inputs, sizes, rng)) for _ in parts]
        return _Try(check, what, state, tuple(segments))
    inputs = sample_inputs(signature.inputs, sizes, rng)
    if check == "drift":
        groups = _between_marks(len(parts))
    else:
        groups = [tuple(parts)] if signature.streaming == "exact" else [(part,) for part in parts]
    wholes = _cut(signature, inputs, [sum(group) for group in groups])
    return _Try(check, what, state, tuple(map(_Segment, wholes, groups)))


def _between_marks(steps: int) -> list[tuple[int, ...]]:
    """Single steps, grouped so that groups end at 1, 2, 5, 10, 20, 50, … steps."""
    marks = sorted({min(steps, digit * 10**power) for power in range(len(str(steps))) for digit in (1, 2, 5)} | {steps})
    return [(1,) * (after - before) for before, after in pairwise((0, *marks))]


def _expected(reference: Reference, attempt: _Try, single: Sequence[Outputs]) -> Case:
    """A case with what the reference makes of it, and how much of that float32 keeps."""
    signature = reference.signature
    wanted = _outcome(signature, reference.run, attempt)
    calls = [part for segment in attempt.segments for part in _cut(signature, segment.inputs, segment.parts)]
    sizes = output_sizes(signature, wanted)
    rounding: dict[str, float] = dict.fromkeys(sizes, 0.0)
    if attempt.check == "nonfinite" and not _agree(wanted, single):
        raise _Disagreement
    kept = 0
    for number, (exact, rounded) in enumerate(zip(wanted, single, strict=True), 1):
        now = {name: max(rounding[name], _relative_error(rounded[name], exact[name], sizes[name])) for name in exact}
        lost = max(now.values(), default=0.0) > ROUNDING * TOLERANCES["float32", "cpu"].relative
        if attempt.check == "drift" and kept and lost:
            break  # PyTorch's own float32 has lost what would be judged
        rounding |= now
        if all(spec.name in exact for spec in signature.state_outputs):
            kept = number
    where = f"{kept} {attempt.where}" if attempt.check == "drift" else attempt.where
    return Case(
        attempt.check,
        where,
        attempt.state,
        tuple(calls[:kept]),
        tuple(wanted[:kept]),
        sizes,
        rounding,
        attempt.slack,
        attempt.for_int8,
    )


def _agree(wanted: Sequence[Outputs], single: Sequence[Outputs]) -> bool:
    """Whether the same entries are NaN or infinite in float64 and float32."""
    return all(
        np.array_equal(np.isfinite(exact[name]), np.isfinite(rounded[name]))
        and np.array_equal(np.isnan(exact[name]), np.isnan(rounded[name]))
        for exact, rounded in zip(wanted, single, strict=True)
        for name in exact
    )


def _relative_error(rounded: Array, exact: Array, size: Array) -> float:
    with np.errstate(invalid="ignore"):
        off = np.abs(rounded - exact) / size
    return float(np.nan_to_num(off, nan=0.0, posinf=0.0).max(initial=0.0))


def _outcome(signature: Signature, run: Callable[[Feeds], Outputs], attempt: _Try) -> list[Outputs]:
    """What is known after each call of the artifact, from one call of the reference for each segment."""
    state = attempt.state
    outcome: list[Outputs] = []
    for segment in attempt.segments:
        outputs = run({**segment.inputs, **state})
        state = signature.next_state(outputs)
        known: list[Outputs] = [{} for _ in segment.parts or (0,)]
        known[-1] = dict(outputs)
        for spec in signature.outputs:
            if len(known) > 1 and signature.streaming != "exact":
                del known[-1][spec.name]
            elif len(known) > 1 and "seq" in spec.shape:
                axis = spec.shape.index("seq")
                for part, (start, stop) in zip(known, pairwise(accumulate(segment.parts, initial=0)), strict=True):
                    part[spec.name] = _steps(outputs[spec.name], axis, start, stop)
        outcome += known
    return outcome


def _cut(signature: Signature, inputs: Feeds, parts: Sequence[int]) -> list[Outputs]:
    """The inputs of each part of the time; without parts, all of it."""
    if not parts:
        return [dict(inputs)]
    cut: list[Outputs] = []
    for start, stop in pairwise(accumulate(parts, initial=0)):
        cut.append({})
        for spec in signature.inputs:
            value = inputs[spec.name]
            if spec.is_lengths:
                value = np.full_like(value, stop - start)
            elif "seq" in spec.shape:
                value = _steps(value, spec.shape.index("seq"), start, stop)
            cut[-1][spec.name] = value
    return cut


def _steps(value: Array, axis: int, start: int, stop: int) -> Array:
    index = [slice(None)] * value.ndim
    index[axis] = slice(start, stop)
    return np.ascontiguousarray(value[tuple(index)])


def _fixed_seq(signature: Signature) -> int:
    """The only number of steps that a call takes, or 0."""
    return next((dim.size for dim in signature.fixed if dim.name == "seq"), 0)


def output_sizes(signature: Signature, wanted: Sequence[Outputs]) -> dict[str, Array]:
    """How large the entries of each output are, over some calls, to judge differences by."""
    found: dict[str, Array] = {}
    for spec, least in (
        *((spec, OUTPUT_SIZE) for spec in signature.outputs),
        *((spec, STATE_SIZE) for spec in signature.state_outputs),
    ):
        each = [sizes(known[spec.name], dynamic_axes(spec)) for known in wanted if spec.name in known]
        if each:
            found[spec.name] = np.maximum(np.max(each, axis=0), least)
    return found


def _typical_sizes(cases: Sequence[Case]) -> dict[str, Array]:
    """How large each output is on usual inputs: what a difference is seen beside, also where the output is near 0."""
    found: dict[str, Array] = {}
    for case in cases:
        if case.check == "shapes":
            for name, size in case.sizes.items():
                found[name] = np.maximum(found[name], size) if name in found else size
    return found
