"""The states that an author's `forward` takes, and the calls of recurrent modules that start from each."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from lstm_deploy.lifting.calling import KEPT, state_leaves
from lstm_deploy.lifting.carried_state import Selection, Target, selected
from lstm_deploy.lifting.probing import ModuleProbe, Recording, identical
from lstm_deploy.lifting.recurrent import Disturbance
from lstm_deploy.lifting.state_structure import Leaf

DISTURBED = Disturbance(0.25, 0.25)
MOST_STACKED = 16
"""Up to this number, the entries of an axis may be states of their own."""


class Part(NamedTuple):
    """A tensor that an author takes as a state, or one of several that are stacked in it."""

    leaf: int
    """Which of the tensors of all arguments."""
    selections: tuple[Selection, ...]
    leaf_dims: Leaf
    """The shape of the part itself."""
    targets: frozenset[Target]


def parts_of(probe: ModuleProbe) -> list[Part]:
    """The states that `forward` takes, those that are stacked in one tensor apart."""
    parts = []
    usual = Usual(probe)
    for number, (*_, leaf) in enumerate(state_leaves(probe.convention.state)):
        parts += _split(usual, number, leaf, ())
    return parts


class Usual:
    """Runs of a module with a usual state, to compare others with."""

    probe: ModuleProbe
    sizes: Mapping[str, int]
    seed: int
    leaves: list[Tensor]

    def __init__(self, probe: ModuleProbe, sizes: Mapping[str, int] | None = None, seed: int = 0) -> None:
        """`sizes` of the inputs, by default the usual ones, which are drawn with `seed`.

        Raises `LiftingError` if the module does not run with a state in the structures of its convention.
        """
        self.probe, self.sizes, self.seed = probe, sizes or probe.sizes, seed
        self.leaves = probe.leaves(self.sizes, 0)
        self.run: Recording = probe.record(self.sizes, seed, state=self.leaves)
        disturbed = probe.record(self.sizes, seed, state=self.leaves, disturb=lambda *_: DISTURBED)
        self.chained: set[Target] = differing(self.run, disturbed)
        """The starts that follow from what another call of a recurrent module leaves."""

    def reached(self, leaf: int, selections: Sequence[Selection] = ()) -> set[Target]:
        """The states that calls start from and that change with a tensor of the state, or with one entry of it."""
        return differing(self.run, self._changed(leaf, selections)) - self.chained

    def is_handed_on(self, part: Part, target: Target) -> bool:
        """Whether a unit of a state reaches that unit alone of what a call starts from, as through a mask or a clip."""
        last = len(part.leaf_dims.dims) - 1
        changed = self._changed(part.leaf, (*part.selections, Selection(last, 0)))
        ours, others = (run.calls[target.path][target.number].state or () for run in (self.run, changed))
        return all(identical(a[..., 1:], b[..., 1:]) for a, b in zip(ours, others, strict=True))

    def matters(self, leaf: int) -> bool:
        """Whether anything that is returned changes with a tensor of the state."""
        pairs = zip(self.run.returned, self._changed(leaf, ()).returned, strict=True)
        return any(path[:1] != (KEPT,) and not identical(value, other) for (path, value), (_, other) in pairs)

    def _changed(self, leaf: int, selections: Sequence[Selection]) -> Recording:
        """A run with another value of a tensor of the state, or of one entry of it."""
        changed = [value.clone() for value in self.leaves]
        entry = selected(changed[leaf], selections)
        entry += 0.5 * torch.sign(entry) + 0.1
        return self.probe.record(self.sizes, self.seed, state=changed)


def _split(usual: Usual, number: int, leaf: Leaf, selections: tuple[Selection, ...]) -> list[Part]:
    """The states in one tensor: itself, or the entries of an axis each of which is another module's."""
    targets = usual.reached(number, selections)
    whole = [Part(number, selections, leaf, frozenset(targets))]
    if len(targets) <= 1:
        return whole
    for axis, size in enumerate(leaf.dims):
        if not isinstance(size, int) or not 1 < size <= MOST_STACKED:
            continue
        dims = Leaf(leaf.dims[:axis] + leaf.dims[axis + 1 :])
        parts = [
            part for index in range(size) for part in _split(usual, number, dims, (*selections, Selection(axis, index)))
        ]
        reach = [part.targets for part in parts]
        if all(len(targets) == 1 for targets in reach) and len(set(reach)) == len(reach):
            return parts
    return whole


def differing(a: Recording, b: Recording) -> set[Target]:
    """The states that calls start from and that differ between two runs."""
    different = set()
    for path, calls in a.calls.items():
        for number, (call, other) in enumerate(zip(calls, b.calls[path], strict=False)):
            if call.state is None or other.state is None:
                continue
            for state, pair in enumerate(zip(call.state, other.state, strict=True)):
                if not identical(*pair):
                    different.add(Target(path, number, state))
    return different
