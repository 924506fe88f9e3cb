"""How each state of the contract, `[layers, batch, size]`, goes into the author's code and comes out of it."""

from collections.abc import Sequence
from math import prod
from typing import NamedTuple

import torch
from msgspec import Struct
from torch import Tensor

from lstm_deploy.contract import Dim, StateSpec
from lstm_deploy.lifting.state_structure import Path


class PortState(Struct, frozen=True):
    """A state of a call of a recurrent module: of the call that begins a chain, and after the last of that chain."""

    start: int
    """Which of the calls that begin a chain."""
    state: int
    """Which of its cell's states."""


class Target(NamedTuple):
    """A state that a call of a recurrent module starts from."""

    path: str
    number: int
    """Of the call, among those of its module."""
    state: int
    """Which of its cell's states."""


class Selection(Struct, frozen=True):
    """One entry along an axis of a tensor in which the author has stacked several states."""

    axis: int
    index: int


class Stack(Struct, frozen=True):
    """A tensor in which the author has stacked several states of the contract, or stacks of them."""

    axis: int
    parts: tuple["Stack | int", ...]


class Carried(Struct, frozen=True, kw_only=True):
    """One state of the contract."""

    spec: StateSpec
    dims: tuple[Dim, ...]
    """The author's shape, or that of a recurrent module."""
    target: Target | None = None
    """The one state of a call that an argument brings about; none if it has several."""
    given: PortState | None = None
    """Where it goes in; none if it is (part of) an argument of the author's `forward`."""
    result: Path | None = None
    """Where it comes out, in what `forward` returns; none if it does so at `final`."""
    selections: tuple[Selection, ...] = ()
    """How it is taken out of the tensor at `result`."""
    final: PortState | None = None

    def to_author(self, state: Tensor) -> Tensor:
        """`[layers, batch, size]` in the author's shape."""
        if "batch" not in self.dims:
            return state.reshape([int(dim) for dim in self.dims])
        axis = self.dims.index("batch")
        if len(self.dims) == 3 and axis < 2:
            return state if axis == 1 else state.transpose(0, 1)
        if len(self.dims) == 2 and axis == 0:
            return state.squeeze(0)
        others = [int(dim) for dim in self.dims if isinstance(dim, int)]
        return state.transpose(0, 1).reshape(state.shape[1], *others).movedim(0, axis)

    def from_author(self, value: Tensor) -> Tensor:
        """The reverse of `to_author`."""
        if "batch" not in self.dims:
            return value.reshape(self.spec.layers, 1, self.spec.size)
        axis = self.dims.index("batch")
        if len(self.dims) == 3 and axis < 2:
            return value if axis == 1 else value.transpose(0, 1)
        if len(self.dims) == 2 and axis == 0:
            return value.unsqueeze(0)
        value = value.movedim(axis, 0)
        return value.reshape(value.shape[0], self.spec.layers, self.spec.size).transpose(0, 1)


def layers_and_size(dims: Sequence[Dim]) -> tuple[int, int]:
    """How many layers, and of which size, a tensor of the author's shape makes."""
    others = [dim for dim in dims if isinstance(dim, int)]
    return prod(others[:-1]), others[-1] if others else 1


def assembled(source: Stack | int, states: Sequence[Tensor]) -> Tensor:
    """A tensor of an argument, from the states in the author's shapes."""
    if isinstance(source, int):
        return states[source]
    return torch.stack([assembled(part, states) for part in source.parts], source.axis)


def taken_apart(source: Stack | int, value: Tensor) -> dict[int, Tensor]:
    """The reverse of `assembled`: the states in a tensor, by number."""
    if isinstance(source, int):
        return {source: value}
    parts = [taken_apart(part, value.select(source.axis, index)) for index, part in enumerate(source.parts)]
    return {number: state for part in parts for number, state in part.items()}


def selected(value: Tensor, selections: Sequence[Selection]) -> Tensor:
    """One state out of a tensor in which several are stacked."""
    for selection in selections:
        value = value.select(selection.axis, selection.index)
    return value
