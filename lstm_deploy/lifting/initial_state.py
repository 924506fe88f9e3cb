"""The values that a state has before the first call."""

import inspect
import re
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from msgspec.structs import replace
from torch import Tensor, nn

from lstm_deploy.errors import LiftingError
from lstm_deploy.lifting.calling import flatten, state_leaves
from lstm_deploy.lifting.carried_state import Carried, taken_apart
from lstm_deploy.lifting.execution import seeded, shared_copy
from lstm_deploy.lifting.probing import ModuleProbe, Recording
from lstm_deploy.lifting.recurrent import StateFlow
from lstm_deploy.lifting.recurrent_modules import State

_MAKER = re.compile(r"(init|initial|zero|begin|blank|empty|new).*(hidden|state|memory|carry)|(hidden|state)s?_init")
"""Names of methods that make a state to begin with."""


def with_initial(probe: ModuleProbe, flow: StateFlow) -> StateFlow:
    """Set the initial values of the states that `forward` takes.

    Where it can be called without a state, it then starts as without one. Where it cannot, they are what a method such
    as `init_hidden` makes, else zeros. They are zeros, too, where it draws them, and where they are in attributes that
    earlier calls have changed.
    """
    if not flow.arguments or any(flatten(attribute) for attribute in probe.left_behind()):
        return flow
    if probe.requires_state:
        made = next(_made_by_methods(probe), None)
        return flow if made is None else _with_values(flow, _constants(flow, made))
    bare, reseeded = probe.record(probe.sizes), probe.record(probe.sizes, noise=1)
    if not _start_alike(flow, bare, reseeded):
        return flow
    probe.same_without_state = True
    zeros = _rows(flow, [None] * len(flow.states), probe.sizes["batch"])
    if _start_alike(flow, bare, probe.record(probe.sizes, state=flow.leaves(zeros))):
        return flow
    try:
        values = [_start_of(carried, bare) for carried in flow.states]
    except LiftingError as error:
        raise no_initial_state(probe) from error
    rows = _rows(flow, values, probe.sizes["batch"])
    if not _start_alike(flow, bare, probe.record(probe.sizes, state=flow.leaves(rows))):
        raise no_initial_state(probe)
    return _with_values(flow, values)


def no_initial_state(probe: ModuleProbe) -> LiftingError:
    """For a module that does without a state what it does with no constant one."""
    names = " and ".join(dict.fromkeys(argument.root for argument in probe.convention.state))
    parameters = [argument.root for argument in probe.convention.state if argument.parameter]
    remedy = (
        f"make {' and '.join(parameters)} a required parameter of forward, and compute the first one before it"
        if parameters
        else "let the first call start from zeros, or take the state as a parameter of forward"
    )
    return LiftingError(
        f"What forward does without {names} is not what it does from zeros or from another constant, as where it "
        f"computes the first state, so the contract would have no initial state; {remedy}."
    )


def learned(state: State | None, path: str) -> State | None:
    """The constant `[layers, size]` that every row starts from; none if it is zeros."""
    if state is None or all((value == 0).all() for value in state):
        return None
    if any((value != value[:, :1]).any() for value in state):
        raise LiftingError(
            f"{path or 'The module'} starts each row of a batch from another constant, which a contract cannot "
            "express; start all rows alike."
        )
    return tuple(value[:, 0] for value in state)


def _start_of(carried: Carried, run: Recording) -> Tensor | None:
    """What the call that a state brings about starts from in a run, `[layers, size]`, if that has the state's shape."""
    target = carried.target
    state = run.calls[target.path][target.number].state if target else None
    if target is None or state is None or len(state[target.state]) != carried.spec.layers:
        return None
    constant = learned((state[target.state],), target.path)
    return constant[0] if constant and constant[0].shape[1] == carried.spec.size else None


def _constants(flow: StateFlow, leaves: Sequence[Tensor]) -> list[Tensor | None]:
    """What each state is, `[layers, size]`, in the tensors of the author's arguments; none for zeros."""
    values: list[Tensor | None] = [None] * len(flow.states)
    for source, leaf in zip(flow.arguments, leaves, strict=True):
        for number, value in taken_apart(source, leaf).items():
            carried = flow.states[number]
            constant = learned((carried.from_author(value),), carried.spec.argument)
            values[number] = constant[0] if constant else None
    return values


def _with_values(flow: StateFlow, values: Sequence[Tensor | None]) -> StateFlow:
    """The flow with these initial values, `[layers, size]`; none for zeros. What a module takes itself is kept."""
    return replace(
        flow,
        states=tuple(
            carried
            if value is None
            else replace(carried, spec=replace(carried.spec, initial=tuple(map(tuple, value.tolist()))))
            for carried, value in zip(flow.states, values, strict=True)
        ),
    )


def _rows(flow: StateFlow, values: Sequence[Tensor | None], batch: int) -> list[Tensor]:
    """Values for each row, `[layers, batch, size]`."""
    shapes = [(carried.spec.layers, batch, carried.spec.size) for carried in flow.states]
    return [
        torch.zeros(shape) if value is None else value.unsqueeze(1).expand(shape)
        for shape, value in zip(shapes, values, strict=True)
    ]


def states_made_by_methods(module: nn.Module, batch: int, noise: int = 0) -> list[Any]:
    """What methods of the module such as `init_hidden` make for some rows; None for one that cannot be called so."""
    names = [name for name in dir(type(module)) if _MAKER.search(name) and name not in dir(nn.Module)]
    return [_call(shared_copy(module), name, batch, noise) for name in names]


def _made_by_methods(probe: ModuleProbe) -> Iterator[list[Tensor]]:
    """The tensors of the state as methods of the module make them for some rows, if they have its shapes."""
    batch = probe.sizes["batch"]
    leaves = [leaf for *_, leaf in state_leaves(probe.convention.state)]
    made = [states_made_by_methods(probe.original, batch, noise) for noise in (0, 1)]
    for pair in zip(*made, strict=True):
        values, others = ([value.detach().float() for _, value in flatten(state)] for state in pair)
        fits = [value.shape for value in values] == [leaf.sized(batch) for leaf in leaves]
        if fits and all(torch.equal(a, b) for a, b in zip(values, others, strict=True)):
            yield values


def _call(module: nn.Module, name: str, batch: int, noise: int) -> Any:
    """What a method returns for a number of rows; None if it cannot be called so."""
    method: Any = getattr(module, name)
    try:
        required = [p.name for p in inspect.signature(method).parameters.values() if p.default is p.empty]
        with seeded(noise):
            return method(*("cpu" if "device" in parameter else batch for parameter in required))
    except Exception:  # whatever the author's method raises: it is for something else
        return None


def _start_alike(flow: StateFlow, a: Recording, b: Recording) -> bool:
    """Whether the calls that start from a state of the author's start from the same in two runs; none is zeros."""
    at_ports = {carried.given.start for carried in flow.states if carried.given is not None}
    for number, (path, call) in enumerate(flow.starts):
        if number not in at_ports:
            ours, others = (run.calls[path][call].state for run in (a, b))
            count = len(ours or others or ())
            zeros = (torch.zeros(()),) * count
            if not all(bool((x == y).all()) for x, y in zip(ours or zeros, others or zeros, strict=True)):
                return False
    return True
