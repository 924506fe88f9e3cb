"""Runs of a module as its author wrote it, to find the sizes it takes and the states that its LSTMs are given."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from msgspec.structs import replace
from torch import Tensor, nn

from lstm_deploy.contract import FixedDim, Signature, TensorSpec, sample_inputs, sizes_of
from lstm_deploy.errors import LiftingError, one_line, user_line
from lstm_deploy.lifting.calling import RECURRENT_MODULES, CallingConvention, State, convention_of
from lstm_deploy.lifting.derived_weights import Weights, check_constant
from lstm_deploy.lifting.execution import seeded, shared_copy
from lstm_deploy.lifting.recurrent import Call, Calls, make_stateful, zeros_of

Recorded = dict[str, list[Call]]
"""The arguments of every call, by the path of the recurrent module."""
BATCH, SEQ, STEP = 2, 6, 3
"""Sizes of the inputs, and by how much each size is varied. None is 1, which tracers take for a constant."""
LONGER = (12, 24, 48, 96, 192)
"""Steps to try where `SEQ` are too few for a convolution or pooling over time."""


class Start(NamedTuple):
    """A call that begins a chain of states."""

    path: str
    number: int
    """Of the call, among those of its module."""
    initial: State | None
    """The learned initial state `[layers, size]`; none for zeros."""


class ModuleProbe:
    """A module and the inputs that it is run on. Every run is of a fresh copy.

    `resolve_sizes` settles `inputs`, `sizes`, `least_seq` and `packs`. Every run may correct `convention`.
    """

    def __init__(self, original: nn.Module, inputs: Sequence[TensorSpec]) -> None:
        """Raises `LiftingError` if the inputs are not the arguments of `forward`."""
        self.original, self.inputs = original, tuple(inputs)
        self.convention = convention_of(original, inputs)
        self.packs = False
        """Whether the module packs padded sequences."""
        self.least_seq = 1
        self.sizes = sizes_of(inputs, BATCH, SEQ)

    def resolve_sizes(self) -> tuple[FixedDim, ...]:
        """Find the dimensions that the module fixes, and fix them in `inputs`."""
        names = dynamic_dims(self.inputs)
        fixed: list[FixedDim] = []
        try:
            recorded = self.record(self.sizes)
        except LiftingError as error:
            if "seq" not in names:
                raise
            fixed += self._resolve_steps(error)
            recorded = self.record(self.sizes)
        self.packs = any(call.packed for calls in recorded.values() for call in calls)
        batches = _batches(recorded)
        for name in sorted(names - {dim.name for dim in fixed}):
            larger = self.record({**self.sizes, name: self.sizes[name] + STEP})
            if name != "batch" and _batches(larger) != batches:
                raise LiftingError(
                    f"The LSTM takes {name!r} for the batch axis; call that axis `batch` and the time axis `seq`."
                )
            if name == "seq" and _call_counts(larger) != _call_counts(recorded):
                reason = "a loop in forward takes one step at a time; feed it one step a call"
                fixed.append(FixedDim(name="seq", size=1, reason=reason))
        if "batch" not in names:
            fixed.append(FixedDim(name="batch", size=max(batches, default=1), reason="the input has no batch axis"))
        fixed_sizes = {dim.name: dim.size for dim in fixed}
        self.sizes |= fixed_sizes
        shapes = [tuple(fixed_sizes.get(str(dim), dim) for dim in spec.shape) for spec in self.inputs]
        self.inputs = tuple(replace(spec, shape=shape) for spec, shape in zip(self.inputs, shapes, strict=True))
        if "seq" in names - fixed_sizes.keys() and not self._runs(1):
            fewer = range(2, self.sizes["seq"])
            self.least_seq = next((steps for steps in fewer if self._runs(steps)), self.sizes["seq"])
        return tuple(fixed)

    def _resolve_steps(self, error: LiftingError) -> list[FixedDim]:
        """Set `sizes["seq"]` to a number of steps that the module runs on, which is fixed if it runs on no other.

        Candidates for a fixed number are the sizes of the module's own weights. Raises `error` if none of them runs.
        """
        if longer := next((steps for steps in LONGER if self._runs(steps) and self._runs(steps + STEP)), None):
            self.sizes["seq"] = longer
            return []
        values = (*self.original.parameters(), *self.original.buffers())
        candidates = sorted({size for value in values for size in value.shape if size < 10_000})
        steps = next((size for size in candidates if self._runs(size)), None)
        if steps is None:
            raise error
        self.sizes["seq"] = steps
        reason = f"the module runs on {steps} steps only ({one_line(error.__cause__ or error)})"
        return [FixedDim(name="seq", size=steps, reason=reason)]

    def starts(self) -> list[Start]:
        """The calls that start from nothing, a constant, a random state, or the state that `forward` requires.

        The others start from a state that was computed from the inputs, as in a loop over time or after an encoder:
        it changes when other inputs are run.
        """
        first = self.record(self.sizes, seed=0)
        other_runs = [self.record(self.sizes, seed=seed) for seed in (1, 2, 3, None)]
        reseeded = self.record(self.sizes, seed=0, noise=1)
        required = self.required_state(self.sizes, seed=0)
        if any(_call_counts(run) != _call_counts(first) for run in (*other_runs, reseeded)):
            raise LiftingError("How often an LSTM is called depends on the values of the inputs; use only their sizes.")
        starts = []
        for path, calls in first.items():
            for number, call in enumerate(calls):
                if required is not None and _same(call.state, required):
                    starts.append(Start(path, number, None))
                elif all(_same(call.state, run[path][number].state) for run in other_runs):
                    random = not _same(call.state, reseeded[path][number].state)
                    starts.append(Start(path, number, None if random else _learned(call.state, path)))
        if not starts:
            raise LiftingError(
                "Every LSTM of this module starts from a state that is computed from the inputs; "
                "leave the state out of the inputs, so that it can be made explicit."
            )
        return starts

    def weights(self) -> dict[str, Weights]:
        """The weights that each recurrent module computes with, by its path, whichever way it gets them.

        Raises `LiftingError` if they are not the same in every call.
        """
        runs = [self.record(self.sizes, seed=seed) for seed in (0, 1)]
        weights = {path: calls[0].weights for path, calls in runs[0].items() if calls}
        for path, calls in (pair for run in runs for pair in run.items()):
            for call in calls:
                check_constant(path, weights[path], call.weights)
        return weights

    def record(self, sizes: Mapping[str, int], seed: int | None = 0, noise: int = 0) -> Recorded:
        """Run the module and record every call of every recurrent module; raises `LiftingError` if it does not run."""
        by_path: dict[str, Calls] = {}

        def recorder() -> nn.Module:
            copy = shared_copy(self.original)  # some modules keep their state, or more, as an attribute
            by_path.update(make_stateful(copy))
            for calls in by_path.values():
                calls.recorded = []
            return copy

        self._run(recorder, sizes, seed, noise)
        return {path: calls.recorded or [] for path, calls in by_path.items()}

    def run(self, sizes: Mapping[str, int], inputs: Sequence[Tensor] | None = None) -> Any:
        """Run the untouched module on these inputs, or on `tensors(sizes)`; raises as `record`."""
        return self._run(lambda: shared_copy(self.original), sizes, inputs=inputs)

    def tensors(self, sizes: Mapping[str, int], seed: int | None = 0) -> list[Tensor]:
        """Inputs of these sizes: random, or without a seed all zeros but for lengths.

        Raises `LiftingError` for impossible inputs: larger than memory, or of a range that ends before it begins.
        """
        try:
            sampled = sample_inputs(self.inputs, sizes, np.random.default_rng(seed or 0))
        except (ArithmeticError, LookupError, MemoryError, ValueError) as error:
            specs = ", ".join(map(str, self.inputs))
            raise LiftingError(f"No input can be {specs} ({one_line(error)}); correct the specification.") from error
        tensors = {name: torch.from_numpy(value) for name, value in sampled.items()}
        if seed is None:
            tensors |= {s.name: torch.zeros_like(tensors[s.name]) for s in self.inputs if not s.is_lengths}
        return list(tensors.values())

    def required_state(self, sizes: Mapping[str, int], seed: int = 0) -> State | None:
        """A random state for a `forward` that requires one, else none."""
        if not self.convention.state_parameters:
            return None
        (module,) = [child for child in self.original.modules() if isinstance(child, RECURRENT_MODULES)]
        generator = torch.Generator().manual_seed(seed)
        zeros = zeros_of(module, torch.empty(0), sizes["batch"])
        return tuple(torch.randn(state.shape, generator=generator) for state in zeros)

    def _run(
        self,
        make: Callable[[], nn.Module],
        sizes: Mapping[str, int],
        seed: int | None = 0,
        noise: int = 0,
        inputs: Sequence[Tensor] | None = None,
    ) -> Any:
        """Run a module, whose own random numbers are seeded with `noise`.

        `make` makes it, anew where it is called again with another convention, as a failed call may have changed it.
        """
        tensors = self.tensors(sizes, seed) if inputs is None else inputs
        with seeded(noise):
            try:
                returned = self.convention.call(make(), tensors, self.required_state(sizes, seed or 0))
            except Exception as error:  # whatever the user's forward raises
                if (other := self._other_convention(error)) is not None:
                    before, self.convention = self.convention, other
                    try:
                        return self._run(make, sizes, seed, noise, inputs)
                    except LiftingError:
                        self.convention = before  # it was not that
                shapes = ", ".join(f"{spec.name} {list(x.shape)}" for spec, x in zip(self.inputs, tensors, strict=True))
                raise LiftingError(
                    f"The module does not run on inputs of shape {shapes} ({one_line(error)}{user_line(error)}); "
                    "describe its inputs with --input, as in x:float32[batch,seq,40]."
                ) from error
        if any(x._version for x in tensors):
            self.convention = replace(self.convention, mutates_inputs=True)
        return returned

    def _other_convention(self, error: Exception) -> CallingConvention | None:
        """Another calling convention that an error hints at."""
        convention, text = self.convention, str(error)
        if not convention.hardcodes_device and ("CUDA" in text or "device" in text):
            return replace(convention, hardcodes_device=True)
        # An error about an index that is a name, or an attribute of that name: it takes a batch, not a tensor.
        if isinstance(error, IndexError | TypeError | AttributeError) and not convention.batch_names:
            names = tuple(spec.name for spec in self.inputs)
            by_attribute = isinstance(error, AttributeError) and getattr(error, "name", None) in names
            if len(names) == 1 and (by_attribute or "data type 'str'" in text or "too many indices" in text):
                return replace(convention, batch_names=names)
        # An error about a tuple: it was given the pair (h, c).
        if len(convention.state_parameters) == 1 and not convention.state_is_mapping and "tuple" in text:
            return replace(convention, state_is_mapping=True)
        return None

    def _runs(self, steps: int) -> bool:
        try:
            self.record({**self.sizes, "seq": steps})
        except LiftingError:
            return False
        return True


def example_inputs(signature: Signature, batch: int = BATCH, seq: int = SEQ, seed: int = 0) -> tuple[Tensor, ...]:
    """Arguments for `Lifted.forward`: random inputs of these sizes, and the initial state.

    A module that needs several steps gets several times as many, so that no layer inside is left with one.
    """
    seq += 4 * (signature.least_seq - 1)
    sizes = signature.clamp(sizes_of(signature.inputs, batch, seq))
    inputs = sample_inputs(signature.inputs, sizes, np.random.default_rng(seed))
    state = signature.initial_state(sizes["batch"])
    return tuple(torch.from_numpy(value) for value in (*inputs.values(), *state.values()))


def dynamic_dims(specs: Iterable[TensorSpec]) -> set[str]:
    """The names of the dynamic dimensions of some tensors."""
    return {dim for spec in specs for dim in spec.shape if isinstance(dim, str)}


def _same(a: State | None, b: State | None) -> bool:
    """Whether two states are equal in every number."""
    if a is None or b is None:
        return a is b
    return all(x.shape == y.shape and torch.equal(x, y) for x, y in zip(a, b, strict=True))


def _learned(state: State | None, path: str) -> State | None:
    """The constant `[layers, size]` that every row starts from; none if it is zeros."""
    if state is None or all((value == 0).all() for value in state):
        return None
    if any((value != value[:, :1]).any() for value in state):
        raise LiftingError(
            f"{path or 'The LSTM'} starts each row of a batch from another constant, which a contract cannot express; "
            "start all rows alike."
        )
    return state[0][:, 0], state[1][:, 0]


def _batches(recorded: Recorded) -> set[int]:
    return {call.batch for calls in recorded.values() for call in calls}


def _call_counts(recorded: Recorded) -> list[int]:
    return [len(calls) for calls in recorded.values()]
