"""Measures the outputs of a lifted module, and checks that it computes what the untouched module computes.

Every run is of a copy, and its results are compared with those of the untouched module.
"""

import re
from collections.abc import Collection, Mapping, Sequence
from itertools import count
from typing import cast, get_args

import torch
from msgspec.structs import replace
from torch import Tensor

from lstm_deploy.contract import Dim, DType, TensorSpec, by_module
from lstm_deploy.errors import LiftingError, one_line, user_line
from lstm_deploy.lifting.calling import Path, flatten
from lstm_deploy.lifting.execution import seeded, shared_copy
from lstm_deploy.lifting.probing import STEP, ModuleProbe, dynamic_dims
from lstm_deploy.lifting.recurrent import Lifted

_NO_NAME = re.compile(r"[^\w.:/-]+")
"""What a key of a mapping may hold, and the name of an output may not: programs are written with it."""
WORK = 2_000_000_000
"""Upper limit for steps × weights of one run on many steps."""


def measure_outputs(probe: ModuleProbe, template: Lifted) -> tuple[tuple[int, ...], tuple[TensorSpec, ...]]:
    """The positions of the outputs among the returned tensors, and their specs.

    Each dynamic dimension of the inputs is varied in turn: the axes of an output that vary with it bear its name.
    """
    sizes, signature = probe.sizes, template.signature
    lifted = shared_copy(template)
    leaves = _run_and_compare(probe, lifted, sizes)
    if not leaves:
        raise LiftingError("forward returns no tensor, so there is nothing to export; return its outputs.")
    returned = (state for port in lifted.ports for state in port.returned or ())
    finals = {(state.data_ptr(), state.shape) for state in returned}
    positions = tuple(i for i, (_, tensor) in enumerate(leaves) if (tensor.data_ptr(), tensor.shape) not in finals)
    if not positions:  # nothing but the state is returned: then it is the output too
        positions = tuple(range(len(leaves)))
    outputs = [leaves[position] for position in positions]
    dims = dynamic_dims((*signature.inputs, *signature.state_inputs))
    varied = [(dim, {**sizes, dim: sizes[dim] + STEP}) for dim in sorted(dims, key=lambda dim: (dim == "seq", dim))]
    runs = [(dim, larger, _run_and_compare(probe, shared_copy(template), larger)) for dim, larger in varied]
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
            leaves = _run_and_compare(probe, shared_copy(template), sizes)
        except LiftingError as error:
            if (cause := error.__cause__) is None:
                raise
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


def check_row_order(probe: ModuleProbe, template: Lifted) -> None:
    """Raise `LiftingError` if an LSTM gets the rows in another order than the inputs: then its state is another row's.

    A forward that sorts rows by length before it packs them does that.
    """
    signature = template.signature
    if not any(spec.is_lengths for spec in signature.inputs) or signature.fixed_size("batch") is not None:
        return
    sizes = {**probe.sizes, "batch": 2}
    lengths = torch.tensor([sizes["seq"] - 2, sizes["seq"]])
    finals = []
    for seed in (0, 1):  # of the first row of the inputs; the second stays
        inputs = [
            lengths.to(x.dtype)
            if spec.is_lengths
            else torch.cat([other[:1], x[1:]])
            if spec.shape[:1] == ("batch",)
            else x
            for spec, x, other in zip(signature.inputs, probe.tensors(sizes), probe.tensors(sizes, seed), strict=True)
        ]
        lifted = shared_copy(template)
        lifted.call(*inputs, *_initial_state(lifted, 2))
        finals.append(lifted.final_states())
    for recurrent, before, after in zip(signature.recurrent, *map(by_module, finals), strict=True):
        if (before[0] != after[0]).any(-1).any(0).tolist() == [False, True]:  # but the state of the second row changed
            raise LiftingError(
                f"{recurrent.module or 'The LSTM'} gets the rows of a batch in another order than the inputs have, so "
                "its state would be another row's; do not sort by length, but pass enforce_sorted=False to "
                "pack_padded_sequence."
            )


def ignores_padding(probe: ModuleProbe, lifted: Lifted) -> bool:
    """Whether outputs without a time axis stay the same when no row fills it, as with `pad_packed_sequence`."""
    inputs = [
        x.clamp(max=probe.sizes["seq"] - 2) if spec.is_lengths else x
        for spec, x in zip(probe.inputs, probe.tensors(probe.sizes), strict=True)
    ]
    expected = flatten(probe.run(probe.sizes, inputs))
    actual = flatten(shared_copy(lifted).call(*inputs, *_initial_state(lifted, probe.sizes["batch"])))
    pairs = [(expected[position][1], actual[position][1]) for position in lifted.output_positions]
    return all(a.shape != b.shape or torch.allclose(a, b, rtol=1e-4, atol=1e-5) for a, b in pairs)


def many_steps(lifted: Lifted) -> int:
    """Enough steps to show a dependence far back in time, and not too many for large weights."""
    weights = sum(parameter.numel() for parameter in lifted.parameters())
    return max(24, min(200, WORK // max(1, weights)))


def _run_and_compare(probe: ModuleProbe, lifted: Lifted, sizes: Mapping[str, int]) -> list[tuple[Path, Tensor]]:
    """Run the lifted module from the states that the untouched one starts from.

    Returns its leaves; raises `LiftingError` if the untouched module returns something else.
    """
    recorded = probe.record(sizes)
    states = _initial_state(lifted, sizes["batch"])
    for port, (path, number) in enumerate(lifted.starts):
        if (state := recorded[path][number].state) is not None:
            states[2 * port : 2 * port + 2] = map(lifted.in_layout, state)
    expected = flatten(probe.run(sizes))
    with seeded(0):  # as `probe.run` is
        try:
            actual = flatten(lifted.call(*probe.tensors(sizes), *states))
        except Exception as error:  # of code that changes its LSTM while it runs, for example
            raise LiftingError(
                f"With its state made explicit the module does not run ({one_line(error)}{user_line(error)}); "
                "forward must call its LSTMs as they are."
            ) from None
    if len(lifted.final_states()) != 2 * len(lifted.ports):
        raise LiftingError("An LSTM of this module is not always called, so it has no single state; always call it.")
    same = [path for path, _ in expected] == [path for path, _ in actual] and all(
        a.shape == b.shape and torch.allclose(a, b, rtol=1e-5, atol=1e-6, equal_nan=True)
        for (_, a), (_, b) in zip(expected, actual, strict=True)
    )
    if not same:
        raise LiftingError(
            f"With its state made explicit the module computes something else at {dict(sizes)}; "
            "forward must be a function of its inputs and the state alone."
        )
    return actual


def _initial_state(lifted: Lifted, batch: int) -> list[Tensor]:
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
