"""The inputs and states that each check feeds a model: one function per check, which knows the contract alone."""

import math
from collections.abc import Iterator, Sequence
from itertools import accumulate, pairwise
from typing import NamedTuple

import numpy as np

from lstm_deploy.contract import (
    Array,
    Feeds,
    Forecast,
    Outputs,
    Signature,
    TensorSpec,
    sample_inputs,
    sample_state,
    sizes_of,
    steps_of,
    with_lengths,
)
from lstm_deploy.validation.tolerances import HUGE_CELLS, LARGE_CELLS


class Effort(NamedTuple):
    """How many cases are made, and how large."""

    steps: int
    """Carried steps of the check `drift`."""
    shapes: tuple[tuple[int, int], ...]
    """Batch and sequence of single calls, none of which the export ever saw."""
    splits: int
    """Random splits of a sequence into chunks."""
    work: float
    """Rows × steps × weights that one case may take; larger ones would prove no more."""


QUICK = Effort(1_000, ((1, 1), (3, 7), (2, 100), (1, 50), (17, 3), (64, 2), (1, 400)), 1, 5e9)
"""At export."""
NORMAL = Effort(10_000, ((*QUICK.shapes, (32, 10), (256, 2), (1, 1500))), 2, 1e10)
"""By `validate`."""
LOWERED = QUICK._replace(steps=10_000, work=4e10)
"""At export of lower precisions, whose errors are followed through the state."""
THOROUGH = Effort(100_000, ((*NORMAL.shapes, (1000, 3), (5, 400), (1, 10_000))), 10, 1e12)

CHUNKS = (5, 1, 9, 1, 1, 13)
"""How a sequence is cut for the check `chunked`, beside random cuts."""
MAX_VOCABULARY = 20_000
"""The largest vocabulary of which every token is tried."""
MAX_OUTPUTS = 4_000_000
"""Numbers that the outputs of one case may hold."""
LARGE = 50.0
"""Saturating inputs and states are this many times as large as usual ones."""
HUGE = 1_000.0
"""Cells grow without bound where a forget gate stays open; whoever clips them does it at less than this."""
DENORMAL = 1e-40
USUAL_STEPS = 10
"""Of calls with each of the usual batches, where a model's contract names no window."""
MAX_TRIED_VALUE = 10_000
"""The same for inputs and states: four times as much is still a number in float16."""
MAX_TRIED_SIZE = 20_000
"""The largest size that is tried because a graph names it."""


class Segment(NamedTuple):
    """The inputs of one call of the reference, which the artifact gets in one call or in several."""

    inputs: Feeds
    parts: tuple[int, ...] = ()
    """Steps of each call of the artifact; none for all in one call."""

    def calls(self, signature: Signature) -> list[Outputs]:
        """The inputs of each call of the artifact."""
        return split_steps(signature.inputs, self.inputs, self.parts) if self.parts else [dict(self.inputs)]


class CaseInputs(NamedTuple):
    """A parity case whose expected outputs are not known yet; the fields are those of `ParityCase`."""

    where: str
    state: Feeds
    segments: tuple[Segment, ...]
    slack: float = 1.0
    for_int8: bool = True

    @property
    def feeds(self) -> Outputs:
        """Inputs and states of the first call."""
        return {**self.segments[0].inputs, **self.state}

    def feeding(self, changes: Feeds, where: str = "") -> "CaseInputs":
        """The same single call with other values of some inputs and states."""
        inputs = {name: changes.get(name, value) for name, value in self.segments[0].inputs.items()}
        state = {name: changes.get(name, value) for name, value in self.state.items()}
        return self._replace(where=where or self.where, state=state, segments=(Segment(inputs),))


def shapes(signature: Signature, effort: Effort, rng: np.random.Generator) -> Iterator[CaseInputs]:
    """Single calls of many sizes."""
    window = signature.task.window if isinstance(signature.task, Forecast) else USUAL_STEPS
    sizes = [*effort.shapes, (2, 5), *((batch, window) for batch in range(1, 9))]
    if isinstance(signature.task, Forecast):
        sizes.append((1, signature.task.horizon))
    yield from _of_sizes(signature, list(dict.fromkeys(sizes)), effort, rng)


def _of_sizes(
    signature: Signature, sizes: Sequence[tuple[int, int]], effort: Effort, rng: np.random.Generator
) -> Iterator[CaseInputs]:
    """Single calls of each batch and sequence, from a random state and from the initial one."""
    weights, seen = _weight_count(signature), set()
    for batch, seq in sizes:
        clamped = signature.clamp(sizes_of(signature.inputs, batch, seq))
        work = batch * seq * weights if batch * seq > 21 else 0
        if tuple(clamped.values()) in seen or work > effort.work:
            continue
        seen.add(tuple(clamped.values()))
        usual = single_call(signature, batch, seq, rng)
        yield usual
        if 2 * work <= effort.work:
            initial = signature.initial_state(clamped["batch"])
            yield usual._replace(state=initial, where=f"{usual.where}, from the initial state")


def values(signature: Signature, _: Effort, rng: np.random.Generator) -> Iterator[CaseInputs]:
    """Inputs and states beyond those of training, and every token of a vocabulary."""
    usual = single_call(signature, 3, 6, rng)._replace(slack=LARGE_CELLS)
    bounded = {f"{state.name}_in": state.bounded for state in signature.state_specs}

    def scaled(where: str, x: float, h: float, c: float) -> CaseInputs:
        inputs = {spec.name: _scaled(usual.feeds[spec.name], spec, x) for spec in signature.inputs}
        state = {name: value * (h if bounded[name] else c) for name, value in usual.state.items()}
        return usual.feeding({**inputs, **state}, where)

    yield scaled(f"{LARGE:.0f} times as large as usual", LARGE, LARGE, LARGE)._replace(for_int8=False)
    yield scaled(f"cells {LARGE:.0f} times as large as usual", 1, 1, LARGE)
    yield scaled(f"cells {HUGE:,.0f} times as large as usual", 1, 1, HUGE)._replace(slack=HUGE_CELLS, for_int8=False)
    yield scaled(f"inputs {HUGE:,.0f} times as large as usual", HUGE, 1, LARGE)._replace(for_int8=False)
    yield scaled("a little beyond the usual range", 1.3, 1.3, 1.3)
    yield scaled("all zero", 0.0, 0.0, 0.0)
    yield scaled("denormal numbers", DENORMAL, DENORMAL, DENORMAL)
    for spec in signature.inputs:
        if spec.dtype.startswith("int") and spec.high and spec.high[0] < MAX_VOCABULARY:
            tokens = np.arange(int(spec.high[0]) + 1)
            steps = 1 if signature.one_step else 50
            usual = single_call(signature, -(-len(tokens) // steps), steps, rng, "every token")
            yield usual.feeding({spec.name: np.resize(tokens, usual.feeds[spec.name].shape).astype(spec.dtype)})


def thresholds(signature: Signature, numbers: Sequence[float], effort: Effort) -> Iterator[CaseInputs]:
    """Sizes, inputs and states around each number that a graph compares with or clips at: one less, it, one more."""
    rng = np.random.default_rng(21)
    around = sorted({number + by for number in numbers for by in (-1, 0, 1)})
    whole = [int(value) for value in around if value == int(value) and 1 <= value <= MAX_TRIED_SIZE]
    sizes = [*((size, 3) for size in whole), *((1, size) for size in whole)]
    yield from _of_sizes(signature, sizes, effort, rng)
    usual = single_call(signature, 3, 4, rng)
    states = dict.fromkeys(usual.state)
    for value in (value for value in around if abs(value) <= MAX_TRIED_VALUE + 1):
        slack = HUGE_CELLS if abs(value) > 2 * LARGE else LARGE_CELLS if abs(value) > 2 else 1.0
        case = usual._replace(slack=slack, for_int8=False)
        filled = {spec.name: filling for spec in (*signature.inputs, *signature.state_inputs)
                  if (filling := _filled(usual.feeds[spec.name], spec, value, rng)) is not None}  # fmt: skip
        for name, changed in filled.items():
            yield case.feeding({name: changed}, f"{name} with {value:g}")
        yield case.feeding({name: np.full_like(usual.state[name], value) for name in states}, f"states of {value:g}")
        larger = {name: np.full_like(usual.state[name], 4 * value) for name in states}
        yield case.feeding(larger, f"states of {4 * value:g}")


def _filled(values: Array, spec: TensorSpec, value: float, rng: np.random.Generator) -> Array | None:
    """The same with a number in all of row 0 and half of the other entries; none for lengths, or if it does not fit."""
    if spec.tells_lengths or spec.dtype == "bool":
        return None
    if not spec.dtype.startswith("float"):
        high = spec.high[0] if spec.high else 1
        if value != int(value) or not 0 <= value <= high:
            return None
    changed = np.where(rng.random(values.shape) < 0.5, np.asarray(value, values.dtype), values)
    if "batch" in spec.shape:
        np.moveaxis(changed, spec.shape.index("batch"), 0)[0] = value
    return changed.astype(values.dtype)


def nonfinite(signature: Signature, _: Effort, rng: np.random.Generator) -> Iterator[CaseInputs]:
    """NaN and infinity in row 0 of each input and state."""
    usual = single_call(signature, 3, 6, rng)._replace(for_int8=False)
    for value in (np.nan, np.inf, -np.inf):
        for name, axis in _float_row_axes(signature):
            changed = usual.feeds[name].copy()
            np.moveaxis(changed, axis, 0)[0] = value
            yield usual.feeding({name: changed}, f"{name}: {value} in row 0")


def liveness(signature: Signature, _: Effort, rng: np.random.Generator) -> Iterator[CaseInputs]:
    """Another state for one layer after another: every output must move as the reference's."""
    usual = single_call(signature, 3, 3, rng)
    layers_axis = 1 - signature.batch_axis_of_state
    for name, value in usual.state.items():
        for layer in range(value.shape[layers_axis]):
            state = value.copy()
            block = np.moveaxis(state, layers_axis, 0)
            block[layer] = np.where(block[layer] > 0, -1.5, 1.5) - block[layer]
            yield usual.feeding({name: state}, f"another {name} of layer {layer}")


def rows(signature: Signature, _: Effort, rng: np.random.Generator) -> Iterator[CaseInputs]:
    """One row far from the others."""
    usual = single_call(signature, 5, 4, rng, "one row far from the others")
    feeds = {name: value.copy() for name, value in usual.feeds.items()}
    for name, axis in _float_row_axes(signature):
        np.moveaxis(feeds[name], axis, 0)[2] *= 20
    yield usual.feeding(feeds)._replace(slack=LARGE_CELLS, for_int8=False)


def lengths(signature: Signature, _: Effort, rng: np.random.Generator) -> Iterator[CaseInputs]:
    """Rows of unequal length, unsorted."""
    if any(spec.tells_lengths for spec in signature.inputs):
        usual = single_call(signature, 5, 9, rng, "lengths from 1 to all")
        sizes = signature.clamp(sizes_of(signature.inputs, 5, 9))
        unequal = np.resize([1, 9, 4, 1, 8], sizes["batch"]).clip(max=steps_of(signature.inputs, sizes))
        yield usual.feeding(with_lengths(signature.inputs, usual.feeds, unequal.tolist()))


def chunked(signature: Signature, effort: Effort, rng: np.random.Generator) -> Iterator[CaseInputs]:
    """A sequence in chunks; the reference gets it whole, unless its output depends on how a sequence is cut.

    Where a call is one step there are no chunks but steps, one after the other. It gets chunks also where steps and
    rows share an axis of an output: those of a chunk lie apart in the whole.
    """
    whole = signature.streaming == "exact" and not any(map(signature.shares_time, signature.outputs))
    if signature.streaming != "none":
        for split in range(effort.splits):
            chunks = CHUNKS if split == 0 else tuple(rng.integers(1, 12, 6).tolist())
            if signature.one_step:
                yield _chain(signature, f"{sum(chunks)} steps of several rows", 3, [(1,) * sum(chunks)], rng)
                continue
            groups = [chunks] if whole else [(steps,) for steps in chunks]
            yield _chain(signature, f"{len(chunks)} chunks of {sum(chunks)} steps", 3, groups, rng)


def drift(signature: Signature, effort: Effort, rng: np.random.Generator) -> Iterator[CaseInputs]:
    """Single steps with the state carried, which is known after 1, 2, 5, 10, 20, 50, … of them."""
    if signature.streaming == "none":
        return
    width = sum(math.prod(dim for dim in spec.shape if isinstance(dim, int)) for spec in signature.outputs)
    steps = max(min(effort.steps, int(effort.work / _weight_count(signature)), MAX_OUTPUTS // width), 10)
    each = signature.one_step or (signature.streaming == "state-only" and signature.states)
    if each:  # the reference, too, has to take each step by itself
        steps = min(steps, 300)
    marks = sorted({min(steps, digit * 10**power) for power in range(len(str(steps))) for digit in (1, 2, 5)} | {steps})
    groups = [(1,)] * steps if each else [(1,) * (after - before) for before, after in pairwise((0, *marks))]
    yield _chain(signature, "carried steps", 1, groups, rng)


def split_steps(specs: Sequence[TensorSpec], values: Feeds, parts: Sequence[int]) -> list[Outputs]:
    """Split values along time into parts of the given steps; those without a time axis are the same in each part."""

    def part(spec: TensorSpec, start: int, stop: int) -> Array:
        value = values[spec.name]
        if spec.is_lengths:
            return np.full_like(value, stop - start)
        return value.take(range(start, stop), spec.shape.index("seq")) if "seq" in spec.shape else value

    spans = pairwise(accumulate(parts, initial=0))
    return [{spec.name: part(spec, *span) for spec in specs} for span in spans]


def single_call(signature: Signature, batch: int, seq: int, rng: np.random.Generator, where: str = "") -> CaseInputs:
    """One call on random inputs, from a random state."""
    sizes = signature.clamp(sizes_of(signature.inputs, batch, seq))
    inputs = sample_inputs(signature.inputs, sizes, rng)
    state = sample_state(signature, sizes["batch"], rng)
    return CaseInputs(where or f"batch {sizes['batch']}, seq {sizes['seq']}", state, (Segment(inputs),))


def _chain(
    signature: Signature, where: str, batch: int, groups: Sequence[tuple[int, ...]], rng: np.random.Generator
) -> CaseInputs:
    """A sequence that the artifact gets in calls of these steps, and the reference in one call for each group.

    Where a call is one step, so is each call of the reference.
    """
    sizes = signature.clamp(sizes_of(signature.inputs, batch, sum(map(sum, groups))))
    state = sample_state(signature, sizes["batch"], rng)
    if signature.one_step:
        calls = range(sum(map(len, groups)))
        return CaseInputs(where, state, tuple(Segment(sample_inputs(signature.inputs, sizes, rng)) for _ in calls))
    inputs = sample_inputs(signature.inputs, sizes, rng)
    wholes = split_steps(signature.inputs, inputs, [*map(sum, groups)])
    return CaseInputs(where, state, tuple(map(Segment, wholes, groups)))


def _float_row_axes(signature: Signature) -> list[tuple[str, int]]:
    """The inputs and states that hold floats for each row, and their axis of rows."""
    specs = (spec for spec in (*signature.inputs, *signature.state_inputs) if "batch" in spec.shape)
    return [(spec.name, spec.shape.index("batch")) for spec in specs if spec.dtype.startswith("float")]


def _scaled(value: Array, spec: TensorSpec, factor: float) -> Array:
    """Values moved away from the middle of the training range, or, with a factor below 1, towards 0."""
    if not spec.dtype.startswith("float"):
        return value
    middle = (np.add(spec.low, spec.high) / 2).astype(value.dtype) if factor > 1 and spec.low and spec.high else 0.0
    return np.asarray((value - middle) * factor + middle).astype(value.dtype)


def _weight_count(signature: Signature) -> int:
    """The number of weights of all LSTMs, as a measure of what a step of one row costs."""
    return sum(
        len(spec.cell.pytorch_gates)
        * (spec.hidden_size * spec.num_directions)
        * (spec.input_size + (2 * spec.num_layers - 1) * spec.output_size)
        for spec in signature.recurrent
    )
