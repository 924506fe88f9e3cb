"""Which calls of recurrent modules begin a chain of states, and how the contract's states flow into and out of them."""

import re
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple, cast

import msgspec
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from lstm_deploy.contract import LSTM, Cell, RecurrentSpec, StateSpec
from lstm_deploy.errors import LiftingError
from lstm_deploy.lifting.calling import KEPT, state_leaves
from lstm_deploy.lifting.carried_state import Carried, PortState, Stack, Target, layers_and_size
from lstm_deploy.lifting.initial_state import learned, with_initial
from lstm_deploy.lifting.probing import ModuleProbe, Recording, identical
from lstm_deploy.lifting.recurrent import StateFlow
from lstm_deploy.lifting.recurrent_modules import State, cell_of, layers_of, zeros_of
from lstm_deploy.lifting.state_parts import Part, Usual, differing, parts_of
from lstm_deploy.lifting.state_results import find_results
from lstm_deploy.lifting.state_structure import Path, written


class Start(NamedTuple):
    """A call that begins a chain of states."""

    path: str
    number: int
    """Of the call, among those of its module."""
    prefix: str
    """Of the names of its states in the contract."""
    is_authored: bool
    """Whether it starts from a state that `forward` takes."""
    initial: State | None
    """The learned initial state `[layers, size]`; none for zeros."""


def find_starts(probe: ModuleProbe, parts: Sequence[Part]) -> list[Start]:
    """The calls that start from a state that `forward` takes, from nothing, from a constant, or from a random state.

    The others start from a state that was computed from the inputs, as in a loop over time or after an encoder: it
    changes when other inputs are run. Beside a state that `forward` takes, only the calls that start from it count.
    """
    state = probe.leaves(probe.sizes, 0) if probe.convention.state else None
    first = probe.record(probe.sizes, seed=0, state=state)
    other_runs = [probe.record(probe.sizes, seed=seed, state=state) for seed in (1, 2, 3, None)]
    reseeded = probe.record(probe.sizes, seed=0, noise=1, state=state)
    if any(run.call_counts != first.call_counts for run in (*other_runs, reseeded)):
        raise LiftingError(
            "How often a recurrent module is called depends on the values of the inputs; use only their sizes."
        )
    authored = {(target.path, target.number) for part in parts for target in part.targets}
    starts: list[tuple[str, int, bool, State | None]] = []
    other_rows: list[tuple[str, int]] = []
    for path, calls in first.calls.items():
        for number, call in enumerate(calls):
            if (path, number) in authored:
                starts.append((path, number, True, None))
            elif call.batch != probe.sizes["batch"]:  # rows such as bands or words, which begin anew in each call
                other_rows.append((path, call.batch))
            elif authored:  # beside states that forward takes, one that it does not begins anew in each call
                continue
            elif all(_same(call.state, run.calls[path][number].state) for run in other_runs):
                random = not _same(call.state, reseeded.calls[path][number].state)
                starts.append((path, number, False, None if random else learned(call.state, path)))
    if not starts and other_rows:
        path, rows = other_rows[0]
        raise LiftingError(
            f"{path or 'The module'} computes {rows} rows where the batch has {probe.sizes['batch']}, so its state is "
            "not one of the batch's rows; export the part that runs on these rows as a module of its own, with all of "
            "them as its batch."
        )
    if not starts:
        raise _no_start(probe, first)
    paths = [path for path, *_ in starts]
    named: list[Start] = []
    taken = {spec.name for spec in probe.inputs}
    for index, (path, number, is_authored, initial) in enumerate(starts):
        prefix = "" if len(starts) == 1 else path.replace(".", "_") + "_"
        if paths.count(path) > 1:
            prefix += f"{paths[: index + 1].count(path)}_"
        own = partial(_names, cell_of(probe.original.get_submodule(path)))
        while taken & own(prefix):
            prefix = f"state_{prefix}" if prefix or not path else path.replace(".", "_") + "_"
        taken |= own(prefix)
        named.append(Start(path, number, prefix, is_authored, initial))
    check_vanishing_inputs(probe, [start for start in named if not start.is_authored])
    return named


def _no_start(probe: ModuleProbe, run: Recording) -> LiftingError:
    """For a module whose recurrent modules all start from what is in the inputs, or follows from them."""
    path, state = next((path, calls[0].state or ()) for path, calls in run.calls.items() if calls)
    inputs = zip(probe.inputs, probe.tensors(probe.sizes), strict=True)
    given = [spec.name for spec, x in inputs if any(torch.isin(value, x.to(value)).all() for value in state)]
    if given:
        return LiftingError(
            f"{path or 'The module'} starts from a state that is among the inputs; leave {' and '.join(given)} out of "
            "the inputs, and it is made a state."
        )
    return LiftingError(
        f"{path or 'The module'} starts from a state that forward computes from its inputs in every call, so there is "
        "none to carry from call to call; compute it before, and make it a required parameter of forward, as in "
        f"forward({', '.join(spec.name for spec in probe.inputs)}, state)."
    )


def _names(cell: Cell, prefix: str) -> set[str]:
    """The inputs and outputs for the states of a recurrent module with this prefix."""
    return {f"{prefix}{state.name}_{suffix}" for state in cell.states for suffix in ("in", "out")}


def find_flow(probe: ModuleProbe) -> tuple[list[Start], StateFlow]:
    """The calls that begin a chain of states, and how the state flows; raises `LiftingError` where it cannot."""
    parts = parts_of(probe)
    starts = find_starts(probe, parts)
    results, ambiguous = find_results(probe, parts)
    for root, *places in ambiguous:
        raise _undecided(root, places)
    numbers = {(start.path, start.number): index for index, start in enumerate(starts)}
    reach = [part.targets for part in parts]
    # A tensor that is the state of one call, and is so alone, bears the name of that; any other has the author's name.
    alone = [index for index, targets in enumerate(reach) if len(targets) == 1 and reach.count(targets) == 1]
    own = {target: index for index in alone for target in reach[index]}
    taken = {spec.name for spec in probe.inputs}
    names = [f"state_{name}" if f"{name}_in" in taken else name for name in _author_names(probe)]
    states: list[Carried] = []
    positions: dict[int, int] = {}
    for index, start in enumerate(starts):
        for state, cell_state in enumerate(cell_of(probe.original.get_submodule(start.path)).states):
            position = own.get(Target(start.path, start.number, state))
            if position is not None:
                positions[position] = len(states)
                name = f"{start.prefix}{cell_state.name}"
                states.append(_authored(probe, parts[position], results[position], name, starts))
            elif not start.is_authored:
                states.append(_at_port(probe, start, index, state))
    for index, part in enumerate(parts):
        if index not in positions:
            positions[index] = len(states)
            suffix = "".join(f"_{selection.index}" for selection in part.selections)
            states.append(_authored(probe, part, results[index], names[part.leaf] + suffix, starts))
    arguments = tuple(_source(parts, positions, leaf, ()) for leaf in range(len(names)))
    flow = StateFlow(starts=tuple(numbers), states=tuple(states), arguments=arguments)
    return starts, with_initial(probe, flow)


def _undecided(root: str, places: Sequence[Path | None]) -> LiftingError:
    """For a state whose next value may be any of some places in what `forward` returns; none for an output."""
    written_places = [
        f"what it leaves in {place[1]}" if place[:1] == (KEPT,) else written("", place) or "the result"
        for place in places
        if place is not None
    ]
    if None in places:
        return LiftingError(
            f"What forward returns may be the next {root}, or an output that is made of it; return both, as in "
            f"(y, {root})."
        )
    return LiftingError(
        f"Both {' and '.join(written_places)} of what forward returns may be the next {root}; return only that, or a "
        f"mapping in which it is called next_{root}."
    )


def recurrent_spec(module: nn.Module, start: Start) -> RecurrentSpec:
    """The recurrent module in `module` whose call begins a chain of states, for the contract."""
    child = module.get_submodule(start.path)
    cell, (layers, directions) = cell_of(child), layers_of(child)
    initial = {
        f"initial_{state.name}": tuple(map(tuple, value.tolist()))
        for state, value in zip(cell.states, start.initial or (), strict=False)
    }
    return RecurrentSpec(
        module=start.path,
        kind=msgspec.UNSET if cell is LSTM else cell.kind,
        prefix=start.prefix,
        input_size=cast(int, child.input_size),
        hidden_size=cast(int, child.hidden_size),
        proj_size=cast(int, getattr(child, "proj_size", 0)),
        num_layers=layers,
        num_directions=directions,
        **initial,
    )


def _at_port(probe: ModuleProbe, start: Start, number: int, state: int) -> Carried:
    """A state that is taken at the recurrent module itself."""
    spec, port = recurrent_spec(probe.original, start).states[state], PortState(number, state)
    return Carried(spec=spec, dims=(spec.layers, "batch", spec.size), given=port, final=port)


def _authored(probe: ModuleProbe, part: Part, result: Path | None, name: str, starts: Sequence[Start]) -> Carried:
    """A state that `forward` takes, in an argument or an attribute."""
    taken, path, _ = state_leaves(probe.convention.state)[part.leaf]
    argument = _written(path, taken.root, part)
    target = next(iter(part.targets)) if len(part.targets) == 1 else None
    layers, size = layers_and_size(part.leaf_dims.dims)
    module: Any = probe.original.get_submodule(target.path) if target else None
    spec = StateSpec(
        name=name,
        layers=layers,
        size=size,
        bounded=target is None or cell_of(module).states[target.state].bounded,
        module=None if target is None else target.path,
        argument=argument,
        result="" if result is None else _written(result, None, part),
    )
    final = None
    if result is None:
        zeros = () if target is None else zeros_of(module, torch.empty(0), 1)[target.state].shape
        if target is None or tuple(zeros) != (layers, 1, size) or not Usual(probe).is_handed_on(part, target):
            raise LiftingError(
                f"forward takes the state {argument} and returns nothing that follows from it; return it, or describe "
                "it with an --input if it is no state."
            )
        calls = [(start.path, start.number) for start in starts]
        final = PortState(calls.index((target.path, target.number)), target.state)
    return Carried(
        spec=spec,
        dims=part.leaf_dims.dims,
        target=target,
        result=result,
        selections=() if result is None else part.selections,
        final=final,
    )


def _author_names(probe: ModuleProbe) -> list[str]:
    """A name for each tensor of the state, after its argument."""
    names = []
    for argument, path, _ in state_leaves(probe.convention.state):
        words = "_".join([argument.parameter or argument.attribute, *map(str, path)])
        names.append(re.sub(r"\W+", "_", words).removesuffix("_in"))
    return names


def _written(path: Path, root: str | None, part: Part) -> str:
    """A place in the author's words: `hidden[0]`, `self.hidden`, or `[1][0]` of what `forward` returns."""
    if root is None and path[:1] == (KEPT,):
        root, path = str(path[1]), path[2:]
    text = written(root or "", path)
    for selection in part.selections:
        text += f"[{', '.join([':'] * selection.axis + [str(selection.index)])}]"
    return text or "the result"


def _source(parts: Sequence[Part], positions: Mapping[int, int], leaf: int, path: tuple[Any, ...]) -> Stack | int:
    """What a tensor of an argument is made from."""
    inside = [index for index, part in enumerate(parts) if part.leaf == leaf and part.selections[: len(path)] == path]
    if len(inside) == 1 and len(parts[inside[0]].selections) == len(path):
        return positions[inside[0]]
    following = sorted({parts[index].selections[len(path)] for index in inside}, key=lambda entry: entry.index)
    return Stack(following[0].axis, tuple(_source(parts, positions, leaf, (*path, entry)) for entry in following))


class NonzeroStart(TorchFunctionMode):
    """Within the block, the zeros that a module makes are not zero, so that what acts on them is seen."""

    MAKERS = ("zeros", "zeros_like", "new_zeros")

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        if getattr(func, "__name__", "") in self.MAKERS and isinstance(made, Tensor) and made.is_floating_point():
            return made + 0.5
        return made


def check_vanishing_inputs(probe: ModuleProbe, starts: Sequence[Start]) -> None:
    """Raise `LiftingError` for an input that would change what a recurrent module starts from, if that were not zeros.

    It would be in the contract without any effect, as the state enters at the module itself.
    """
    if not starts:
        return
    usual, others = (probe.tensors(probe.sizes, seed) for seed in (0, 1))
    state = probe.leaves(probe.sizes, 0) if probe.convention.state else None
    with NonzeroStart():
        base = probe.record(probe.sizes, inputs=usual, state=state)
    for position, spec in enumerate(probe.inputs):
        inputs = [*usual[:position], others[position], *usual[position + 1 :]]
        with NonzeroStart():
            changed = differing(base, probe.record(probe.sizes, inputs=inputs, state=state))
        calls = {(target.path, target.number) for target in changed}
        for start in starts:
            if (start.path, start.number) in calls:
                raise LiftingError(
                    f"{spec.name} acts on the state that {start.path or 'the module'} starts from, which forward "
                    "itself sets to zeros, so it would have no effect; let forward take the state (state=None) and "
                    f"return the new one, or leave {spec.name} out."
                )


def _same(a: State | None, b: State | None) -> bool:
    """Whether two states are equal in every number."""
    if a is None or b is None:
        return a is b
    return all(identical(x, y) for x, y in zip(a, b, strict=True))
