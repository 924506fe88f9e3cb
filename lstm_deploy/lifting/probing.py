"""Runs of a module as its author wrote it, to find its sizes, and the states that its recurrent modules are given."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import is_dataclass
from functools import partial
from itertools import count
from typing import Any, NamedTuple

import numpy as np
import torch
from msgspec.structs import replace
from torch import Tensor, nn

from lstm_deploy.contract import FixedDim, Signature, TensorSpec, sample_inputs, sizes_of, with_lengths
from lstm_deploy.errors import LiftingError, one_line, user_line
from lstm_deploy.lifting.calling import (
    CallingConvention,
    convention_of,
    flatten,
    state_leaves,
)
from lstm_deploy.lifting.data_flow import DataFlow
from lstm_deploy.lifting.derived_weights import Weights, check_constant
from lstm_deploy.lifting.execution import seeded, shared_copy
from lstm_deploy.lifting.packing import Packing
from lstm_deploy.lifting.recurrent import Call, Calls, Disturbance, make_stateful
from lstm_deploy.lifting.recurrent_modules import RECURRENT_MODULES, State, layers_of
from lstm_deploy.lifting.row_lengths import find_packing
from lstm_deploy.lifting.state_structure import Path, cloned

Disturb = Callable[[str, int], Disturbance]
"""By the path of a recurrent module and the number of its call."""
BATCH, SEQ, STEP = 2, 6, 3
"""Sizes of the inputs, and by how much each size is varied. None is 1, which tracers take for a constant.

Where states are looked for, there are as many rows as `_rows_unlike` says."""
LOOP = "a loop in forward takes one step at a time; feed it one step a call"
"""Why a graph takes one step."""
LOOP_ALONE = "a loop in forward takes one step at a time, and calls of one step are not the loop over them"
"""The same where something else than the state leads from step to step."""
LONGER = (12, 24, 48, 96, 192, 384, 768, 1536, 3072)
"""Steps to try where `SEQ` are too few for a convolution or pooling over time."""


class Recording(NamedTuple):
    """One run of a module; by the path of each recurrent module, every call of it."""

    calls: dict[str, list[Call]]
    finals: dict[str, list[State]]
    returned: list[tuple[Path, Tensor]]
    value: Any
    """What was returned, as it was."""

    @property
    def call_counts(self) -> list[int]:
        return [len(calls) for calls in self.calls.values()]


class ModuleProbe:
    """A module and the inputs that it is run on. Every run is of a fresh copy.

    `resolve_sizes` settles `inputs`, `sizes`, `least_seq` and `packing`. Every run may correct `convention`.
    """

    original: nn.Module
    sizes: dict[str, int]
    inputs: tuple[TensorSpec, ...]
    least_seq: int
    convention: CallingConvention

    def __init__(self, original: nn.Module, inputs: Sequence[TensorSpec]) -> None:
        """Raises `LiftingError` if the inputs are not the arguments of `forward`."""
        self.original, self.inputs = original, tuple(inputs)
        self.convention = convention_of(original, inputs)
        self.packing: Packing | None = None
        """How the module packs padded sequences; none if it does not."""
        self.requires_state = False
        """Whether it does not run without a state."""
        self.same_without_state = False
        """Whether it does without a state what it does with the contract's initial one."""
        self.least_seq = 1
        self.sizes = sizes_of(inputs, _rows_unlike(original), SEQ)

    @property
    def has_rows(self) -> bool:
        """Whether the number of rows is dynamic."""
        return "batch" in dynamic_dims(self.inputs)

    @property
    def more_rows(self) -> dict[str, int]:
        """The sizes with another number of rows, if that is dynamic."""
        return {**self.sizes, "batch": self.sizes["batch"] + STEP} if self.has_rows else self.sizes

    def resolve_sizes(self) -> tuple[FixedDim, ...]:
        """Find the dimensions that the module fixes, and fix them in `inputs`."""
        self.inputs, self.packing = find_packing(self)
        names = dynamic_dims(self.inputs)
        fixed: list[FixedDim] = []
        try:
            recorded = self.record(self.sizes)
        except LiftingError as error:
            if (timed := self.with_time_named()) is not None:
                raise LiftingError(
                    f"The module does not run on few steps ({one_line(error.__cause__ or error)}); call its axis of "
                    f"time `seq`, as in {timed}, so that the steps it needs are found."
                ) from error
            if "seq" not in names:
                raise
            fixed += self._resolve_steps(error)
            self.inputs, self.packing = find_packing(self)
            recorded = self.record(self.sizes)
        batches = _batches(recorded)
        for name in sorted(names - {dim.name for dim in fixed}):
            larger = self.record({**self.sizes, name: self.sizes[name] + STEP})
            if name != "batch" and _batches(larger) != batches and not self._rows_follow_batch(batches):
                raise LiftingError(
                    f"The recurrent module takes {name!r} for the batch axis; call that axis `batch` and the time axis "
                    "`seq`."
                )
            if name == "batch" and batches == _batches(larger) and _steps(larger) != _steps(recorded):
                raise LiftingError(
                    "The recurrent module takes 'batch' for the axis of time, so the rows of a batch would be steps of "
                    "one sequence; call that axis `seq` if they are, describe all axes, as in "
                    f"{_described_with_time(self.inputs)}, or look at batch_first and unsqueeze in forward."
                )
            if name == "seq" and larger.call_counts != recorded.call_counts:
                fixed.append(FixedDim(name="seq", size=1, reason=LOOP))
        if "batch" not in names:
            fixed.append(
                FixedDim(name="batch", size=max(batches, default=1), reason="no axis of the inputs is called batch")
            )
        fixed_sizes = {dim.name: dim.size for dim in fixed}
        self.sizes |= fixed_sizes
        shapes = [tuple(fixed_sizes.get(str(dim), dim) for dim in spec.shape) for spec in self.inputs]
        self.inputs = tuple(replace(spec, shape=shape) for spec, shape in zip(self.inputs, shapes, strict=True))
        if "seq" in names - fixed_sizes.keys() and not self.runs(1):
            fewer = range(2, self.sizes["seq"])
            self.least_seq = next((steps for steps in fewer if self.runs(steps)), self.sizes["seq"])
        return tuple(fixed)

    def with_time_named(self) -> TensorSpec | None:
        """An input whose axis of time, which has another name, is called `seq`; none if there is no such axis.

        It is the one that, where it is longer, gives the recurrent modules more steps.
        """
        names = dynamic_dims(self.inputs)
        for name in () if "seq" in names else sorted(names - {"batch"}):
            for size in (self.sizes[name], *LONGER):
                try:
                    shorter, longer = (self.record({**self.sizes, name: each}) for each in (size, 4 * size))
                except LiftingError:
                    continue
                if _steps(longer) != _steps(shorter):
                    spec = next(spec for spec in self.inputs if name in spec.shape)
                    return replace(spec, shape=tuple("seq" if dim == name else dim for dim in spec.shape))
                break
        return None

    def _rows_follow_batch(self, batches: set[int]) -> bool:
        """Whether recurrent modules compute twice as many rows (`batches` at the usual sizes) for twice the batch."""
        if not self.has_rows:
            return False
        larger = _batches(self.record({**self.sizes, "batch": 2 * self.sizes["batch"]}))
        return larger == {2 * rows for rows in batches}

    def _resolve_steps(self, error: LiftingError) -> list[FixedDim]:
        """Set `sizes["seq"]` to a number of steps that the module runs on, which is fixed if it runs on no other.

        Candidates for a fixed number are the sizes of the module's own weights. Raises `error` if none of them runs.
        """
        if longer := next((steps for steps in LONGER if self.runs(steps) and self.runs(steps + STEP)), None):
            self.sizes["seq"] = longer
            return []
        values = (*self.original.parameters(), *self.original.buffers())
        candidates = sorted({size for value in values for size in value.shape if size < 10_000})
        steps = next((size for size in candidates if self.runs(size)), None)
        if steps is None:
            raise error
        self.sizes["seq"] = steps
        reason = f"the module runs on {steps} steps only ({one_line(error.__cause__ or error)})"
        return [FixedDim(name="seq", size=steps, reason=reason)]

    def record(
        self,
        sizes: Mapping[str, int],
        seed: int | None = 0,
        noise: int = 0,
        *,
        inputs: Sequence[Tensor] | None = None,
        lengths: Sequence[int] | None = None,
        state: Sequence[Tensor] | None = None,
        disturb: Disturb | None = None,
    ) -> Recording:
        """Run the module and record every call of every recurrent module; raises `LiftingError` if it does not run.

        `inputs` are drawn unless given, with rows of these `lengths`. `state` fills the arguments that take one; None
        leaves it out, or draws it where it is required.
        """
        by_path: dict[str, Calls] = {}

        def recorder() -> nn.Module:
            copy = shared_copy(self.original)  # some modules keep their state, or more, as an attribute
            by_path.update(make_stateful(copy))
            for path, calls in by_path.items():
                calls.recorded = []
                if disturb is not None:
                    calls.disturb = partial(disturb, path)
            return copy

        if lengths is not None:
            inputs = self.tensors(sizes, seed, lengths)
        value = self._run(recorder, sizes, seed, noise, inputs, state)
        calls = {path: calls.recorded or [] for path, calls in by_path.items()}
        return Recording(calls, {path: calls.finals for path, calls in by_path.items()}, flatten(value), value)

    def weights(self) -> dict[str, Weights]:
        """The weights that each recurrent module computes with, by its path, whichever way it gets them.

        Raises `LiftingError` if they are not the same in every call.
        """
        runs = [self.record(self.sizes, seed=seed).calls for seed in (0, 1)]
        weights = {path: calls[0].weights for path, calls in runs[0].items() if calls}
        for path, calls in (pair for run in runs for pair in run.items()):
            for call in calls:
                check_constant(path, weights[path], call.weights)
        return weights

    def run(
        self,
        sizes: Mapping[str, int],
        lengths: Sequence[int] | None = None,
        *,
        state: Sequence[Tensor] | None = None,
    ) -> Any:
        """Run the untouched module on `tensors(sizes, lengths=lengths)`; raises as `record`."""
        inputs = None if lengths is None else self.tensors(sizes, lengths=lengths)
        return self._run(lambda: shared_copy(self.original), sizes, inputs=inputs, state=state)

    def run_on(
        self, module: nn.Module, sizes: Mapping[str, int], seed: int = 0, *, state: Sequence[Tensor] | None = None
    ) -> Any:
        """Run a copy of the module that may have been run before; raises as `record`."""
        return self._run(lambda: module, sizes, seed, state=state)

    def leaves(self, sizes: Mapping[str, int], seed: int = 0) -> list[Tensor]:
        """Random tensors for the arguments that take a state."""
        generator = torch.Generator().manual_seed(seed)
        leaves = state_leaves(self.convention.state)
        return [torch.randn(leaf.sized(sizes["batch"]), generator=generator) for *_, leaf in leaves]

    def left_behind(self) -> list[Any]:
        """What the attributes that keep a state hold before any call here."""
        attributes = attributes_of(self.original)
        return [attributes.get(argument.attribute) for argument in self.convention.state if argument.attribute]

    def kept_attributes(self, sizes: Mapping[str, int], state: Sequence[Tensor] | None = None) -> dict[str, Any]:
        """The attributes with tensors that follow from what calls are given, by path, as they are after one call.

        Others that a call makes, as a mask for this number of steps, are no state.
        """
        module, inputs = shared_copy(self.original), self.tensors(sizes)
        if state is None and self.requires_state:
            state = self.leaves(sizes)
        with DataFlow({"call": [*inputs, *(state or ())]}) as flow:
            self._run(lambda: module, sizes, inputs=inputs, state=state)
        first = {path: cloned(value) for path, value in attributes_of(module).items()}
        follow = {path for path, tensors in contents_of(module).items() if flow.labels(tensors)}
        self._run(lambda: module, sizes, seed=1, state=state)
        second = attributes_of(module)
        return {path: value for path, value in first.items() if path in follow or differ(value, second.get(path))}

    def tensors(
        self, sizes: Mapping[str, int], seed: int | None = 0, lengths: Sequence[int] | None = None
    ) -> list[Tensor]:
        """Inputs of these sizes: random, or without a seed all zeros but for lengths.

        `lengths` are those of the rows, else random ones, in the order that the module demands.

        Raises `LiftingError` for impossible inputs: larger than memory, or of a range that ends before it begins.
        """
        try:
            sampled = sample_inputs(self.inputs, sizes, np.random.default_rng(seed or 0))
        except (ArithmeticError, LookupError, MemoryError, ValueError) as error:
            specs = ", ".join(map(str, self.inputs))
            raise LiftingError(f"No input can be {specs} ({one_line(error)}); correct the specification.") from error
        if lengths is not None:
            sampled = with_lengths(self.inputs, sampled, lengths)
        elif self.packing is not None and self.packing.demands_sorted:
            sampled |= {spec.name: np.sort(sampled[spec.name])[::-1].copy() for spec in self.inputs if spec.is_lengths}
        tensors = {name: torch.from_numpy(value) for name, value in sampled.items()}
        if seed is None:
            tensors |= {s.name: torch.zeros_like(tensors[s.name]) for s in self.inputs if not s.tells_lengths}
        return list(tensors.values())

    def _run(
        self,
        make: Callable[[], nn.Module],
        sizes: Mapping[str, int],
        seed: int | None = 0,
        noise: int = 0,
        inputs: Sequence[Tensor] | None = None,
        state: Sequence[Tensor] | None = None,
    ) -> Any:
        """Run a module, whose own random numbers are seeded with `noise`.

        `make` makes it, anew where it is called again with another convention, as a failed call may have changed it.
        """
        tensors = self.tensors(sizes, seed) if inputs is None else inputs
        if state is None and self.requires_state:
            state = self.leaves(sizes, seed or 0)
        with seeded(noise):
            try:
                given = None if state is None else [value.clone() for value in state]  # which forward may write into
                returned = self.convention.call(make(), tensors, given)
            except Exception as error:  # whatever the user's forward raises
                if (other := self._other_convention(error)) is not None:
                    before, self.convention = self.convention, other
                    try:
                        return self._run(make, sizes, seed, noise, inputs, state)
                    except LiftingError:
                        self.convention = before  # it was not that
                shapes = ", ".join(f"{spec.name} {list(x.shape)}" for spec, x in zip(self.inputs, tensors, strict=True))
                raise LiftingError(
                    f"The module does not run on inputs of shape {shapes} ({one_line(error)}{user_line(error)}); "
                    f"describe its inputs with --input, as in {_described_with_time(self.inputs)}."
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
        return None

    def runs(self, steps: int) -> bool:
        """Whether the module runs on this number of steps."""
        try:
            self.record({**self.sizes, "seq": steps})
        except LiftingError:
            return False
        return True


def _rows_unlike(module: nn.Module) -> int:
    """A number of rows that no size of a module is, so that only the axis of rows has it in what the module makes.

    Nor is it 2, as where `h` and `c` are put into one tensor.
    """
    recurrent = [child for child in module.modules() if isinstance(child, RECURRENT_MODULES)]
    layers = {layers * directions for layers, directions in map(layers_of, recurrent)}
    counts = {1, len(recurrent), *layers}
    taken = {*counts, *(2 * number for number in counts)}
    taken |= {size for value in (*module.parameters(), *module.buffers()) for size in value.shape}
    return next(rows for rows in count(3) if rows not in taken)


def example_inputs(signature: Signature, batch: int = BATCH, seq: int = SEQ, seed: int = 0) -> tuple[Tensor, ...]:
    """Arguments for `Lifted.forward`: random inputs of these sizes, and the initial state.

    A module that needs several steps gets several times as many, so that no layer inside is left with one.
    """
    seq += 4 * (signature.least_seq - 1)
    sizes = signature.clamp(sizes_of(signature.inputs, batch, seq))
    inputs = sample_inputs(signature.inputs, sizes, np.random.default_rng(seed))
    state = signature.initial_state(sizes["batch"])
    return tuple(torch.from_numpy(value) for value in (*inputs.values(), *state.values()))


def _described_with_time(specs: Sequence[TensorSpec]) -> str:
    """How the inputs may have to be described: the first one with an axis of time, where none has one."""
    if any("seq" in spec.shape for spec in specs):
        return "x:float32[batch,seq,40]"
    numbers = [str(dim) for dim in specs[0].shape if isinstance(dim, int)]
    return f"{specs[0].name}:{specs[0].dtype}[{','.join(('batch', 'seq', *numbers))}]"


def dynamic_dims(specs: Iterable[TensorSpec]) -> set[str]:
    """The names of the dynamic dimensions of some tensors."""
    return {dim for spec in specs for dim in spec.shape if isinstance(dim, str)}


def attributes_of(module: nn.Module) -> dict[str, Any]:
    """What the modules in a module hold beside parameters and submodules, buffers included, by path.

    Of objects of a user's own classes, what they hold.
    """
    own = {"_parameters", "_buffers", "_modules", "training", "calls", *vars(nn.Module())}
    found: dict[str, Any] = {}
    seen: set[int] = set()

    def add(path: str, value: Any) -> None:
        if not _is_plain_object(value):
            found[path] = value
        elif id(value) not in seen:
            seen.add(id(value))
            for name, child in vars(value).items():
                add(f"{path}.{name}", child)

    for path, child in module.named_modules():
        for name, value in (*vars(child).items(), *child._buffers.items()):
            if name not in own:
                add(f"{path}.{name}" if path else name, value)
    return found


def contents_of(module: nn.Module) -> dict[str, list[Tensor]]:
    """The tensors in each of those, by its path."""
    return {path: [tensor for _, tensor in flatten(value)] for path, value in attributes_of(module).items()}


def _is_plain_object(value: Any) -> bool:
    """Whether a value is an object of a class that is neither PyTorch's nor a structure of tensors."""
    if isinstance(value, nn.Module | Tensor | type | Mapping | tuple | list) or callable(value):
        return False
    return hasattr(value, "__dict__") and not is_dataclass(value)


def identical(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors are equal in every number, and NaN in the same places."""
    return a.shape == b.shape and bool(((a == b) | ((a != a) & (b != b))).all())  # noqa: PLR0124


def differ(a: Any, b: Any) -> bool:
    """Whether two nested values differ in their tensors."""
    ours, others = flatten(a), flatten(b)
    return [path for path, _ in ours] != [path for path, _ in others] or any(
        not identical(x, y) for (_, x), (_, y) in zip(ours, others, strict=True)
    )


def _batches(recorded: Recording) -> set[int]:
    return {call.batch for calls in recorded.calls.values() for call in calls}


def _steps(recorded: Recording) -> set[int]:
    return {call.steps for calls in recorded.calls.values() for call in calls}
