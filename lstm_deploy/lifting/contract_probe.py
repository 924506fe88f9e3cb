"""What a lifted module does, measured: its outputs and their axes, and whether it streams.

Every run is of a copy, and is held against the untouched module.
"""

from collections.abc import Mapping, Sequence
from typing import cast, get_args

import numpy as np
import torch
from msgspec.structs import replace
from torch import Tensor, nn

from lstm_deploy.contract import (
    Dim,
    DType,
    Signature,
    Streaming,
    TensorSpec,
    by_module,
    sample_inputs,
    sample_state,
    sizes_of,
)
from lstm_deploy.errors import LiftingError, one_line, user_line
from lstm_deploy.lifting.calling import RECURRENT_MODULES, Path, flatten, in_float64, shared_copy
from lstm_deploy.lifting.probing import BATCH, MORE, Probe, seeded
from lstm_deploy.lifting.recurrent import Lifted

WORK = 2_000_000_000
"""Steps × weights that one run on many steps may take."""
NEARBY = 1e-12
"""A relative change of a state that is about as small as what float64's rounding adds up to."""
DAMPINGS = (1.0, 0.1, 0.01, 0.0)
"""By how much recurrent weights are made smaller, step by step, where a network blows rounding up until nothing can be
compared: whether its code looks across time does not depend on how large they are."""


def measure_outputs(
    probe: Probe, template: Lifted, contract: Signature
) -> tuple[tuple[int, ...], tuple[TensorSpec, ...]]:
    """Which of the returned tensors are outputs, and their names and shapes.

    Each dynamic dimension of the inputs is varied in turn: what varies with it in an output bears its name. Each
    run is compared with the untouched module.
    """
    sizes = probe.sizes
    lifted = shared_copy(template)
    leaves = _run_beside(probe, lifted, contract, sizes)
    returned = (state for port in lifted.ports for state in port.returned or ())
    finals = {(state.data_ptr(), state.shape) for state in returned}
    kept = tuple(index for index, (_, tensor) in enumerate(leaves) if (tensor.data_ptr(), tensor.shape) not in finals)
    if not kept:  # nothing but the state is returned: then it is the output too
        kept = tuple(range(len(leaves)))
    shapes: list[list[Dim]] = [list(leaves[index][1].shape) for index in kept]
    dynamic = {dim for spec in (*contract.inputs, *contract.state_inputs) for dim in spec.shape if isinstance(dim, str)}
    for name in sorted(dynamic):
        size = sizes[name]
        larger = _run_beside(probe, shared_copy(template), contract, {**sizes, name: size + MORE})
        for output, index in enumerate(kept):
            for axis, (old, new) in enumerate(zip(leaves[index][1].shape, larger[index][1].shape, strict=True)):
                if old != new:
                    shapes[output][axis] = name if (old, new) == (size, size + MORE) else f"{name}_{axis}"
    names = _output_names([leaves[index][0] for index in kept])
    _check_names([*contract.input_names, *names, *(spec.name for spec in contract.state_outputs)])
    for name, index in zip(names, kept, strict=True):
        if str(leaves[index][1].dtype).removeprefix("torch.") not in get_args(DType):
            raise LiftingError(f"The output {name} is {leaves[index][1].dtype}, which is not supported; return floats.")
    return kept, tuple(
        TensorSpec(
            name=name,
            dtype=cast(DType, str(leaves[index][1].dtype).removeprefix("torch.")),
            shape=tuple(shape),
        )
        for name, index, shape in zip(names, kept, shapes, strict=True)
    )


def check_sizes(probe: Probe, template: Lifted, contract: Signature) -> None:
    """Raise `LiftingError` where the module does not run, or breaks the promised shapes, on one row or step or on many.

    These are the sizes at which code does what it does at no other: `squeeze()` takes axes away, pooling has nothing
    to pool, positions end.
    """
    names = {dim for spec in contract.inputs for dim in spec.shape if isinstance(dim, str)}
    ones = {name: contract.least_seq if name == "seq" else 1 for name in sorted(names)}
    tried = [{name: size} for name, size in ones.items()] + [ones]
    if "seq" in names:
        tried.append({**ones, "seq": _many(template)})
    for some in tried:
        sizes = {**probe.sizes, **some}
        said = " and ".join(f"{name} {size}" for name, size in sorted(some.items()))
        try:
            leaves = _run_beside(probe, shared_copy(template), contract, sizes)
        except LiftingError as error:
            if (cause := error.__cause__) is None:
                raise
            taken = next(spec for spec in contract.inputs if set(some) & set(spec.shape))
            numbers = tuple(probe.sizes[str(dim)] if dim in some else dim for dim in taken.shape)
            raise LiftingError(
                f"The module does not run at {said} ({one_line(cause)}{user_line(cause)}); give a number for what "
                f"cannot be any, as in {replace(taken, shape=numbers)}."
            ) from cause
        for spec, index in zip(contract.outputs, template.kept, strict=True):
            shape = list(leaves[index][1].shape)
            promised = [sizes.get(dim) if isinstance(dim, str) else dim for dim in spec.shape]
            if len(shape) != len(promised) or any(b not in (a, None) for a, b in zip(shape, promised, strict=True)):
                raise LiftingError(
                    f"At {said} the output {spec.name} has the shape {shape}, at others {list(spec.shape)}; "
                    "a squeeze() in forward must name its axis, as in squeeze(-1)."
                )


def check_rows(probe: Probe, template: Lifted, contract: Signature) -> None:
    """Raise `LiftingError` if an LSTM gets the rows in another order than the inputs: then its state is another row's.

    That is what sorting by length before packing does.
    """
    if not any(spec.is_lengths for spec in contract.inputs) or any(dim.name == "batch" for dim in contract.fixed):
        return
    steps = probe.sizes["seq"]
    states = _initial_state(contract, 2)
    finals = []
    for seed in (0, 1):
        inputs = [
            torch.tensor([steps - 2, steps]).to(x.dtype)
            if spec.is_lengths
            else torch.cat([other[:1], x[1:]])
            if spec.shape[:1] == ("batch",)
            else x
            for spec, x, other in zip(
                contract.inputs,
                probe.tensors({**probe.sizes, "batch": 2}),
                probe.tensors({**probe.sizes, "batch": 2}, seed),
                strict=True,
            )
        ]
        lifted = shared_copy(template)
        lifted.call(*inputs, *states)
        finals.append(lifted.final_states())
    for spec, before, after in zip(contract.recurrent, *map(by_module, finals), strict=True):
        changed = (before[0] != after[0]).any(-1).any(0).tolist()
        if changed == [False, True]:  # though it is the first row of the inputs that changed
            raise LiftingError(
                f"{spec.module or 'The LSTM'} gets the rows of a batch in another order than the inputs have, so its "
                "state would be another row's; do not sort by length, but pass enforce_sorted=False to "
                "pack_padded_sequence."
            )


def _run_beside(
    probe: Probe, lifted: Lifted, contract: Signature, sizes: Mapping[str, int]
) -> list[tuple[Path, Tensor]]:
    """What the lifted module returns, once it is seen to be what the untouched one returns from the same state."""
    recorded = probe.record(sizes)
    states = _initial_state(contract, sizes["batch"])
    for number, (path, call) in enumerate(lifted.starts):
        if (given := recorded[path][call].state) is not None:
            states[2 * number : 2 * number + 2] = map(lifted.in_layout, given)
    wanted = flatten(probe.run(sizes))
    with seeded(0):  # as `probe.run` is
        got = flatten(lifted.call(*probe.tensors(sizes), *states))
    if len(lifted.final_states()) != 2 * len(lifted.ports):
        raise LiftingError("An LSTM of this module is called only sometimes, so it has no single state.")
    same_outputs = [path for path, _ in wanted] == [path for path, _ in got] and all(
        a.shape == b.shape and torch.allclose(a, b, rtol=1e-5, atol=1e-6, equal_nan=True)
        for (_, a), (_, b) in zip(wanted, got, strict=True)
    )
    if not same_outputs:
        raise LiftingError(
            f"With its state made explicit the module computes something else at {dict(sizes)}; "
            "forward must be a function of its inputs and the state alone."
        )
    return got


def ignores_padding(probe: Probe, lifted: Lifted, contract: Signature) -> bool:
    """Whether outputs without a time axis stay the same when no row fills it, as with `pad_packed_sequence`."""
    inputs = [
        x.clamp(max=probe.sizes["seq"] - 2) if spec.is_lengths else x
        for spec, x in zip(probe.inputs, probe.tensors(probe.sizes), strict=True)
    ]
    wanted = flatten(probe.run(probe.sizes, inputs))
    got = flatten(shared_copy(lifted).call(*inputs, *_initial_state(contract, probe.sizes["batch"])))
    return all(
        a.shape != b.shape or torch.allclose(a, b, rtol=1e-4, atol=1e-5)
        for index in lifted.kept
        for a, b in [(wanted[index][1], got[index][1])]
    )


def _check_names(names: Sequence[str]) -> None:
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise LiftingError(
            f"Two inputs or outputs would be called {twice[0]!r}; rename the module's own argument, key or submodule."
        )


def measure_streaming(lifted: Lifted, contract: Signature, given: Sequence[TensorSpec]) -> tuple[Streaming, str]:
    """Whether chunks with carried state give what the whole sequence gives, seen by running both.

    In float64, as in the proof of artifacts: float32's noise would hide a dependence as small as what these may differ
    by. The weights of `lifted` are the same afterwards, in the same memory.
    """
    for spec in contract.recurrent:
        if spec.num_directions == 2:
            return "none", f"{spec.module or 'the LSTM'} is bidirectional: its first output needs the last input"
    one_step = any(dim.name == "seq" and dim.size == 1 for dim in contract.fixed)
    specs = given if one_step else contract.inputs  # a loop over time runs at any length here
    if not any("seq" in spec.shape for spec in specs):
        fixed = next((f": {dim.reason}" for dim in contract.fixed if dim.name == "seq"), "")
        return "none", f"the number of steps is fixed{fixed}"
    # The last chunk is short: over many steps an LSTM forgets what was wrong at the cut before them.
    chunks = (1,) * 40 if one_step else (3, 1, _many(lifted), 3)
    sizes = contract.clamp(sizes_of(specs, BATCH, sum(chunks))) | {"seq": sum(chunks)}
    sampled = sample_inputs(specs, sizes, np.random.default_rng(0))
    inputs = [_double(torch.from_numpy(sampled[spec.name])) for spec in specs]
    # Not from zeros: there an LSTM on even inputs hardly moves, and all cuts look alike.
    states = sample_state(contract, sizes["batch"], np.random.default_rng(1))
    first = [torch.from_numpy(state).double() for state in states.values()]

    def run(start: int, steps: int, state: Sequence[Tensor]) -> tuple[Tensor, ...]:
        part = [
            torch.full_like(x, steps)
            if spec.is_lengths
            else x.narrow(spec.shape.index("seq"), start, steps)
            if "seq" in spec.shape
            else x
            for spec, x in zip(specs, inputs, strict=True)
        ]
        result: tuple[Tensor, ...] = lifted(*part, *state)
        return result

    count = len(contract.outputs)
    weights = [(parameter, parameter.data) for parameter in lifted.parameters()]
    try:
        lifted.double()
        with in_float64():
            recurrent = [(weight, weight.data) for weight in _recurrent_weights(lifted)]
            for damping in DAMPINGS:
                for weight, data in recurrent:
                    weight.data = data * damping
                parts: list[tuple[Tensor, ...]] = []
                for number, steps in enumerate(chunks):
                    parts.append(run(sum(chunks[:number]), steps, parts[-1][count:] if parts else first))
                wanted = run(0, sum(chunks), first)
                nearby = run(0, sum(chunks), [state * (1 + NEARBY) for state in first])
                if _close(nearby, wanted):
                    break
    except RuntimeError as error:
        return "none", f"it does not run on every number of steps ({one_line(error)})"
    finally:
        for parameter, data in weights:
            parameter.data = data
    if not _close(parts[-1][count:], wanted[count:]):
        return "none", "the state after chunks differs from that after the whole: something looks across time"
    outputs = [_joined([part[index] for part in parts], wanted[index]) for index in range(count)]
    if not _close(outputs, wanted[:count]):
        return "state-only", "the output looks across time, so it depends on how the sequence is cut"
    return "exact", ""


def _recurrent_weights(lifted: Lifted) -> list[nn.Parameter]:
    found = []
    for module in lifted.modules():
        if isinstance(module, RECURRENT_MODULES):
            weights = module.named_parameters(recurse=False)
            found += [weight for name, weight in weights if name.startswith("weight_hh")]
    return found


def _many(lifted: Lifted) -> int:
    """Steps enough to see what looks far across time, and not too many for large weights."""
    weights = sum(parameter.numel() for parameter in lifted.parameters())
    return max(24, min(200, WORK // max(1, weights)))


def _initial_state(contract: Signature, batch: int) -> list[Tensor]:
    return [torch.from_numpy(state) for state in contract.initial_state(batch).values()]


def _joined(parts: Sequence[Tensor], whole: Tensor) -> Tensor:
    """Outputs of chunks along the axis of time, or the last one where the whole has no such axis."""
    for axis in range(whole.dim()):
        others = [size for index, size in enumerate(parts[0].shape) if index != axis]
        if sum(part.shape[axis] for part in parts) == whole.shape[axis] and others == [
            size for index, size in enumerate(whole.shape) if index != axis
        ]:
            return torch.cat(list(parts), axis)
    return parts[-1]


def _close(got: Sequence[Tensor], wanted: Sequence[Tensor]) -> bool:
    """Whether differences are small beside how much each column varies, and beside what artifacts may differ by."""
    return all(a.shape == b.shape and _close_columns(a.double(), b.double()) for a, b in zip(got, wanted, strict=True))


def _double(x: Tensor) -> Tensor:
    return x.double() if x.is_floating_point() else x


def _close_columns(got: Tensor, wanted: Tensor) -> bool:
    # Two runs of one module in float64, in this room's own tolerance: that of artifacts is validation's, above it.
    columns = wanted.flatten(0, -2) if wanted.dim() > 1 else wanted.reshape(-1, 1)
    spread = (columns.amax(0) - columns.amin(0)).reshape(-1)  # one for each entry of the last axis, or for all
    spread = torch.nan_to_num(spread, nan=0.0, posinf=0.0)  # of columns that are masked with infinities
    close = (got - wanted).abs() <= 1e-6 * (wanted.abs() + spread) + 1e-7
    return bool((close | (got == wanted)).all())


def _output_names(paths: Sequence[Path]) -> list[str]:
    """Keys of mappings name outputs; positions become `y`, or `y0`, `y1`, … where there are several."""
    if len(paths) == 1 and all(isinstance(key, int) for key in paths[0]):
        return ["y"]
    return [("y" if isinstance(path[0], int) else "") + "_".join(map(str, path)) for path in paths]
