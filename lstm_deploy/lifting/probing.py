"""Running a module as its author wrote it, to see what it does and what its LSTMs are given."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from msgspec.structs import replace
from torch import Tensor, nn

from lstm_deploy.contract import Dim, FixedDim, TensorSpec, sample_inputs, sizes_of
from lstm_deploy.errors import LiftingError, one_line, user_line
from lstm_deploy.lifting.calling import RECURRENT_MODULES, Convention, State, convention_of, shared_copy
from lstm_deploy.lifting.recurrent import Call, Calls, make_stateful, same, zeros_of

Recorded = dict[str, list[Call]]
"""By the path of a recurrent module, what each of its calls was given."""
BATCH, SEQ, MORE = 2, 6, 3
"""Sizes that the module is tried at, and by how much each is varied: none is 1, which tracers take for a constant."""
LONGER = (12, 24, 48, 96, 192)
"""Steps to try where so few are not enough for what convolves or pools over time."""


class Start(NamedTuple):
    """A call that begins a chain of states."""

    path: str
    number: int
    initial: State | None
    """What it starts from `[layers, size]`; none for zeros."""


class Probe:
    """A module beside the inputs that it is tried on; each run is of a fresh copy.

    `inputs`, `sizes`, `least_seq` and `convention` become what `settle_sizes` finds; `packs` says whether padded
    sequences are packed.
    """

    def __init__(self, original: nn.Module, inputs: Sequence[TensorSpec]) -> None:
        """Raises `LiftingError` if the inputs are not the arguments of `forward`."""
        self.original, self.inputs = original, tuple(inputs)
        self.convention = convention_of(original, inputs)
        self.packs = False
        self.least_seq = 1
        self.sizes = sizes_of(inputs, BATCH, SEQ)

    def settle_sizes(self) -> tuple[FixedDim, ...]:
        """Find which dimensions the module fixes; afterwards `inputs` say so."""
        names = {dim for spec in self.inputs for dim in spec.shape if isinstance(dim, str)}
        fixed: list[FixedDim] = []
        try:
            recorded = self.record(self.sizes)
        except LiftingError as error:
            if "seq" not in names:
                raise
            longer = next((size for size in LONGER if self._runs(size) and self._runs(size + MORE)), None)
            size = longer or self._size_it_takes()
            if size is None:
                raise
            if longer is None:
                why = one_line(error.__cause__ or error)
                fixed.append(FixedDim(name="seq", size=size, reason=f"the module runs on {size} steps only ({why})"))
            self.sizes["seq"] = size
            recorded = self.record(self.sizes)
        self.packs = any(call.packed for calls in recorded.values() for call in calls)
        batches = _batches(recorded)
        for name in sorted(names - {dim.name for dim in fixed}):
            again = self.record({**self.sizes, name: self.sizes[name] + MORE})
            if name != "batch" and _batches(again) != batches:
                raise LiftingError(
                    f"The LSTM takes {name!r} for the axis of rows; call that axis `batch` and the one of time `seq`."
                )
            if name == "seq" and _counts(again) != _counts(recorded):
                reason = "a loop in forward takes one step at a time; feed it one step a call"
                fixed.append(FixedDim(name="seq", size=1, reason=reason))
        if "batch" not in names:
            fixed.append(FixedDim(name="batch", size=max(batches, default=1), reason="the input has no batch axis"))
        self.sizes |= {dim.name: dim.size for dim in fixed}
        self.inputs = tuple(_with_fixed(spec, fixed) for spec in self.inputs)
        if "seq" in names - {dim.name for dim in fixed} and not self._runs(1):
            fewer = range(2, self.sizes["seq"])
            self.least_seq = next((size for size in fewer if self._runs(size)), self.sizes["seq"])
        return tuple(fixed)

    def starts(self) -> list[Start]:
        """The calls that start from nothing, a constant, a random state, or the state that `forward` demands.

        The others start from what was computed from the inputs, as in a loop over time or after an encoder; that is
        seen by running on other inputs.
        """
        first = self.record(self.sizes, seed=0)
        others = [self.record(self.sizes, seed=seed) for seed in (1, 2, 3, None)]
        reseeded = self.record(self.sizes, seed=0, noise=1)
        demanded = self.demanded(self.sizes, seed=0)
        if any(_counts(other) != _counts(first) for other in (*others, reseeded)):
            raise LiftingError("How often an LSTM is called depends on the values of the inputs; it must not.")
        found = []
        for path, calls in first.items():
            for number, call in enumerate(calls):
                if same(call.state, demanded) and demanded is not None:
                    found.append(Start(path, number, None))
                elif all(same(call.state, other[path][number].state) for other in others):
                    random = not same(call.state, reseeded[path][number].state)
                    found.append(Start(path, number, None if random else _learned(call.state, path)))
        if not found:
            raise LiftingError(
                "Every LSTM of this module starts from a state that is computed from the inputs; "
                "leave the state out of the inputs, so that it can be made explicit."
            )
        return found

    def record(self, sizes: Mapping[str, int], seed: int | None = 0, noise: int = 0) -> Recorded:
        """What every call of every recurrent module is given; raises `LiftingError` if forward does not run."""
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
        """What the untouched module returns on these inputs, or on `tensors(sizes)`; raises as `record`."""
        return self._run(lambda: shared_copy(self.original), sizes, inputs=inputs)

    def tensors(self, sizes: Mapping[str, int], seed: int | None = 0) -> list[Tensor]:
        """Inputs of these sizes: random, or with no seed all zeros but for lengths.

        Raises `LiftingError` for inputs that cannot be: larger than memory, or of a range that ends before it begins.
        """
        try:
            sampled = sample_inputs(self.inputs, sizes, np.random.default_rng(seed or 0))
        except (ArithmeticError, LookupError, MemoryError, ValueError) as error:
            given = ", ".join(map(str, self.inputs))
            raise LiftingError(
                f"There is no input like {given} ({one_line(error)}); correct the specification."
            ) from error
        tensors = {name: torch.from_numpy(value) for name, value in sampled.items()}
        if seed is None:
            tensors |= {s.name: torch.zeros_like(tensors[s.name]) for s in self.inputs if not s.is_lengths}
        return list(tensors.values())

    def demanded(self, sizes: Mapping[str, int], seed: int = 0) -> State | None:
        """A state for a `forward` that demands one."""
        if not self.convention.states:
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
        """What a module returns; `noise` seeds what it draws by itself.

        `make` makes it, anew where it has to be called in another way: a call that failed midway leaves its traces.
        """
        tensors = self.tensors(sizes, seed) if inputs is None else inputs
        with seeded(noise):
            try:
                returned = self.convention.call(make(), tensors, self.demanded(sizes, seed or 0))
            except LiftingError:
                raise
            except Exception as error:  # whatever the user's forward raises
                if (other := self._other_convention(error)) is not None:
                    before, self.convention = self.convention, other
                    try:
                        return self._run(make, sizes, seed, noise, inputs)
                    except LiftingError:
                        self.convention = before  # it was not that
                shapes = ", ".join(f"{spec.name} {list(x.shape)}" for spec, x in zip(self.inputs, tensors, strict=True))
                reason = one_line(error)
                raise LiftingError(
                    f"The module does not run on inputs of shape {shapes} ({reason}{user_line(error)}); "
                    "say what the inputs are with --input, as in x:float32[batch,seq,40]."
                ) from error
        if any(x._version for x in tensors):
            self.convention = replace(self.convention, writes_inputs=True)
        return returned

    def _other_convention(self, error: Exception) -> Convention | None:
        """How to call the module instead, if that is what an error says."""
        found, text = self.convention, str(error)
        if not found.names_device and ("CUDA" in text or "device" in text):
            return replace(found, names_device=True)
        if len(found.states) == 1 and not found.by_key and "tuple" in text:  # it was given the pair (h, c)
            return replace(found, by_key=True)
        return None

    def _runs(self, seq: int) -> bool:
        """Whether forward runs on so many steps."""
        try:
            self.record({**self.sizes, "seq": seq})
        except LiftingError:
            return False
        return True

    def _size_it_takes(self) -> int | None:
        """A number of steps that the module runs on, among the sizes of its own weights."""
        values = (*self.original.parameters(), *self.original.buffers())
        for size in sorted({size for value in values for size in value.shape if size < 10_000}):
            try:
                self.record({**self.sizes, "seq": size})
            except LiftingError:
                continue
            return size
        return None


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Within the block, what is drawn at random comes from this seed; afterwards the generator is as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def _learned(state: State | None, path: str) -> State | None:
    """The constant that every row starts from `[layers, size]`; none if it is zeros."""
    if state is None or all((value == 0).all() for value in state):
        return None
    if any((value != value[:, :1]).any() for value in state):
        raise LiftingError(
            f"{path or 'The LSTM'} starts each row of a batch from another constant, which no contract can tell; "
            "start all rows alike."
        )
    return state[0][:, 0], state[1][:, 0]


def _batches(recorded: Recorded) -> set[int]:
    return {call.batch for calls in recorded.values() for call in calls}


def _counts(recorded: Recorded) -> dict[str, int]:
    return {path: len(calls) for path, calls in recorded.items()}


def _with_fixed(spec: TensorSpec, fixed: Sequence[FixedDim]) -> TensorSpec:
    sizes: dict[Dim, int] = {dim.name: dim.size for dim in fixed}
    return replace(spec, shape=tuple(sizes.get(dim, dim) for dim in spec.shape))
