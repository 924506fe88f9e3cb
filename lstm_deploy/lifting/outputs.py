"""Measures the outputs of a lifted module, and checks that it computes what the untouched module computes.

Every run is of a copy, and its results are compared with those of the untouched module.
"""

import re
from collections.abc import Collection, Mapping, Sequence
from itertools import count
from typing import Any, cast, get_args

import numpy as np
import torch
from msgspec.structs import replace
from torch import Tensor

from lstm_deploy.contract import Dim, DType, TensorSpec, sample_state
from lstm_deploy.errors import LiftingError, one_line, user_line
from lstm_deploy.lifting.calling import KEPT, flatten
from lstm_deploy.lifting.execution import seeded, shared_copy
from lstm_deploy.lifting.initial_state import no_initial_state
from lstm_deploy.lifting.packing import check_returned
from lstm_deploy.lifting.probing import STEP, ModuleProbe, dynamic_dims
from lstm_deploy.lifting.recurrent import Lifted
from lstm_deploy.lifting.state_structure import Path

_NO_NAME = re.compile(r"[^\w.:/-]+")
"""What a key of a mapping may hold, and the name of an output may not: programs are written with it."""
MORE_STEPS = 45
"""By how much the number of steps is varied to see which axes of the outputs follow it."""
WORK = 2_000_000_000
"""Upper limit for steps × weights of one run on many steps."""


def measure_outputs(probe: ModuleProbe, template: Lifted) -> tuple[tuple[int, ...], tuple[TensorSpec, ...]]:
    """The positions of the outputs among the returned tensors, and their specs.

    Each dynamic dimension of the inputs is varied in turn: the axes of an output that vary with it bear its name.
    """
    sizes, signature = probe.sizes, template.signature
    lifted = shared_copy(template)
    leaves = run_and_compare(probe, lifted, sizes)
    if not leaves:
        raise LiftingError("forward returns no tensor, so there is nothing to export; return its outputs.")
    results = {carried.result for carried in lifted.flow.states if carried.result is not None}
    used = {carried.final.start for carried in lifted.flow.states if carried.final is not None}
    returned = [state for start in used for state in lifted.ports[start].returned or ()]
    returned += [value for path, value in leaves if path in results and path[:1] != (KEPT,)]
    finals = {(state.data_ptr(), state.shape) for state in returned}
    positions = tuple(
        i
        for i, (path, tensor) in enumerate(leaves)
        if path not in results and path[:1] != (KEPT,) and (tensor.data_ptr(), tensor.shape) not in finals
    )
    if not positions:  # nothing but the state is returned: then it is the output too
        positions = tuple(range(len(leaves)))
    outputs = [leaves[position] for position in positions]
    dims = dynamic_dims((*signature.inputs, *signature.state_inputs))
    # Many more steps, if it takes them: a layer with a stride may make of a few more what it makes of the usual ones.
    many = max(MORE_STEPS, sizes.get("seq", 0))
    more = {dim: many if dim == "seq" and probe.runs(sizes[dim] + many) else STEP for dim in dims}
    varied = [(dim, {**sizes, dim: sizes[dim] + more[dim]}) for dim in sorted(dims, key=lambda d: (d == "seq", d))]
    runs = [(dim, larger, run_and_compare(probe, shared_copy(template), larger)) for dim, larger in varied]
    axis_names: dict[str, tuple[int, ...]] = {dim: (sizes[dim], *(larger[dim] for _, larger in varied)) for dim in dims}
    shapes: list[list[Dim]] = []
    for position in positions:
        grown = [leaves[position][1].shape, *(run[position][1].shape for _, _, run in runs)]
        shapes.append(
            [
                _axis_name(axis, axis_sizes, [dim for dim, _ in varied], axis_names)
                for axis, axis_sizes in enumerate(zip(*grown, strict=True))
            ]
        )
    names = _output_names([path for path, _ in outputs], {*signature.input_names, *signature.output_names})
    specs = []
    for name, (_, tensor), shape in zip(names, outputs, shapes, strict=True):
        dtype = str(tensor.dtype).removeprefix("torch.")
        if dtype not in get_args(DType):
            raise LiftingError(f"The output {name} is {tensor.dtype}, which is not supported; return floats.")
        specs.append(TensorSpec(name=name, dtype=cast(DType, dtype), shape=tuple(shape)))
    return positions, tuple(specs)


def _axis_name(axis: int, sizes: tuple[int, ...], dims: Sequence[str], known: dict[str, tuple[int, ...]]) -> Dim:
    """The name of an axis of these `sizes`: usually, and with each of `dims` larger in turn; a number if it is fixed.

    An axis that follows from others gets a name of its own: that of the last dimension it varies with, and a number. It
    is added to `known`, the sizes of axes that have names.
    """
    varies_with = [dim for dim, size in zip(dims, sizes[1:], strict=True) if size != sizes[0]]
    if not varies_with:
        return sizes[0]
    if name := next((name for name, others in known.items() if others == sizes), None):
        return name
    name = next(name for number in count(axis) if (name := f"{varies_with[-1]}_{number}") not in known)
    known[name] = sizes
    return name


def check_sizes(probe: ModuleProbe, template: Lifted) -> None:
    """Raise `LiftingError` if the module fails or an output has another shape on one row, on one step or on many steps.

    Code may fail at these sizes alone: `squeeze()` removes axes, pooling has too few steps, position embeddings end.
    """
    signature = template.signature
    smallest = {dim: signature.least_seq if dim == "seq" else 1 for dim in sorted(dynamic_dims(signature.inputs))}
    cases = [*({dim: size} for dim, size in smallest.items()), smallest]
    if "seq" in smallest:
        cases.append({**smallest, "seq": many_steps(template)})
    for case in cases:
        sizes = {**probe.sizes, **case}
        where = " and ".join(f"{dim} {size}" for dim, size in sorted(case.items()))
        try:
            leaves = run_and_compare(probe, shared_copy(template), sizes)
        except LiftingError as error:
            if (cause := error.__cause__) is None:
                raise
            timed = probe.with_time_named()
            if timed is not None and set(case) != {"batch"}:
                raise LiftingError(
                    f"The module does not run at {where} ({one_line(cause)}{user_line(cause)}); call its axis of time "
                    f"`seq`, as in {timed}, so that the fewest steps are found."
                ) from cause
            spec = next(spec for spec in signature.inputs if set(case) & set(spec.shape))
            fixed = replace(spec, shape=tuple(probe.sizes[str(dim)] if dim in case else dim for dim in spec.shape))
            raise LiftingError(
                f"The module does not run at {where} ({one_line(cause)}{user_line(cause)}); give a number for a "
                f"dimension that cannot have any size, as in {fixed}."
            ) from cause
        for spec, position in zip(signature.outputs, template.output_positions, strict=True):
            shape = list(leaves[position][1].shape)
            promised = [sizes.get(dim) if isinstance(dim, str) else dim for dim in spec.shape]
            if len(shape) != len(promised) or any(b not in (a, None) for a, b in zip(shape, promised, strict=True)):
                raise LiftingError(
                    f"At {where} the output {spec.name} has the shape {shape}, at other sizes {list(spec.shape)}; "
                    "a squeeze() in forward must name its axis, as in squeeze(-1)."
                )


def many_steps(lifted: Lifted) -> int:
    """Enough steps to show a dependence far back in time, twice what a call needs, not too many for large weights."""
    weights = sum(parameter.numel() for parameter in lifted.parameters())
    return max(24, 2 * lifted.signature.least_seq, min(200, WORK // max(1, weights)))


def run_and_compare(
    probe: ModuleProbe, lifted: Lifted, sizes: Mapping[str, int], lengths: Sequence[int] | None = None
) -> list[tuple[Path, Tensor]]:
    """Run both modules from the same state: random where `forward` takes it, else that which the untouched one has.

    On rows of these lengths, if they are given.

    Returns the leaves of the lifted one; raises `LiftingError` if the untouched module returns something else.
    """
    states = [torch.from_numpy(state) for state in sample_state(lifted.signature, sizes["batch"], _rng()).values()]
    given = lifted.flow.leaves([lifted.in_layout(state) for state in states]) if lifted.flow.arguments else None
    recorded = probe.record(sizes, lengths=lengths, state=given)
    for position, carried in enumerate(lifted.flow.states):
        if carried.given is not None:
            path, number = lifted.flow.starts[carried.given.start]
            if (start := recorded.calls[path][number].state) is not None:
                states[position] = lifted.in_layout(start[carried.given.state])
            else:
                states[position] = torch.zeros_like(states[position])
    actual = _compare(probe, lifted, sizes, lengths, states, given)
    if probe.same_without_state:  # then without a state, too
        try:
            _compare(probe, lifted, sizes, lengths, initial_state(lifted, sizes["batch"]), None)
        except LiftingError as error:
            raise no_initial_state(probe) from error
    return actual


def _compare(
    probe: ModuleProbe,
    lifted: Lifted,
    sizes: Mapping[str, int],
    lengths: Sequence[int] | None,
    states: Sequence[Tensor],
    given: Sequence[Tensor] | None,
) -> list[tuple[Path, Tensor]]:
    returned = probe.run(sizes, lengths, state=given)
    check_returned(returned)
    expected = flatten(returned)
    actual = flatten(_call(lifted, *probe.tensors(sizes, lengths=lengths), *states))
    if len(lifted.flow.returned(dict(actual), lifted.ports)) != len(states):
        raise LiftingError(
            "A recurrent part of this module is not always called, so it has no single state; always call it."
        )
    if given is None:
        actual = [(path, value) for path, value in actual if path[:1] != (KEPT,)]
    same = [path for path, _ in expected] == [path for path, _ in actual] and all(
        a.shape == b.shape and a.dtype == b.dtype and torch.allclose(a, b, rtol=1e-5, atol=1e-6, equal_nan=True)
        for (_, a), (_, b) in zip(expected, actual, strict=True)
    )
    if not same:
        raise LiftingError(
            f"With its state made explicit the module computes something else at {dict(sizes)}; {_remedy(probe)}."
        )
    return actual


def _rng() -> np.random.Generator:
    return np.random.default_rng(1)


def _call(lifted: Lifted, *tensors: Tensor) -> Any:
    """What the lifted module returns; raises `LiftingError` if it does not run where the untouched one has run."""
    try:
        with seeded(0):  # as `probe.run` is
            return lifted.call(*tensors)
    except LiftingError:
        raise
    except Exception as error:  # whatever the user's forward raises
        raise LiftingError(
            f"With its state made explicit the module does not run ({one_line(error)}{user_line(error)}); "
            "forward must call its recurrent modules as they are, and be a function of its inputs and the state alone."
        ) from error


def _remedy(probe: ModuleProbe) -> str:
    """What to change in a forward that computes something else once its state is explicit."""
    if probe.packing is None:
        return "forward must be a function of its inputs and the state alone"
    if probe.packing.sorts_rows:
        return "do not sort rows by length, but pass enforce_sorted=False to pack_padded_sequence"
    return (
        "what forward does to the data of a PackedSequence must be the same for each step alone, as a Linear layer is, "
        "and padded again before steps are put together or returned"
    )


def initial_state(lifted: Lifted, batch: int) -> list[Tensor]:
    """The state of the contract before the first step."""
    return [torch.from_numpy(state) for state in lifted.signature.initial_state(batch).values()]


def _output_names(paths: Sequence[Path], taken: Collection[str]) -> list[str]:
    """Keys of mappings name outputs; positions become `y`, or `y0`, `y1`, … where there are several.

    A name that an input, a state (`taken`) or an output before it has already gets `_out` at its end.
    """
    if len(paths) == 1 and all(isinstance(key, int) for key in paths[0]):
        wanted = ["y"]
    else:
        wanted = [("y" if isinstance(path[0], int) else "") + "_".join(map(str, path)) for path in paths]
    wanted = [_NO_NAME.sub("_", name) for name in wanted]
    wanted = [name if name[:1].isalpha() or name[:1] == "_" else f"y{name}" for name in wanted]
    names: list[str] = []
    for first in wanted:
        name = first
        while name in taken or name in names or (name != first and name in wanted):
            name += "_out"
        names.append(name)
    return names
