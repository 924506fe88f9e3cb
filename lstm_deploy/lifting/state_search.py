"""Finds where an author's `forward` takes a state, and where it gives back what follows from it, by running it.

What a state is, is seen from what it does: it reaches the state that a call of an LSTM starts from, without having
passed through another call of one.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from msgspec.structs import replace
from torch import Tensor, nn

from lstm_deploy.errors import LiftingError
from lstm_deploy.lifting.calling import KEPT, RECURRENT_MODULES, StateArgument, named_like_state, state_leaves
from lstm_deploy.lifting.carried_state import Selection, Target, selected
from lstm_deploy.lifting.packing import Packing
from lstm_deploy.lifting.probing import LONGER, STEP, ModuleProbe, Recording, dynamic_dims
from lstm_deploy.lifting.recurrent import Disturbance
from lstm_deploy.lifting.state_candidates import Structures, candidates, projected, returned_structures
from lstm_deploy.lifting.state_structure import Leaf, Path, mapped, structure_of

DISTURBED = Disturbance(0.25, (0.25, 0.25))
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


def find_required_state(probe: ModuleProbe) -> None:
    """Find how `forward` takes the state that it requires, before anything else can be run.

    Raises `LiftingError` for a required parameter that is neither an input nor a state.
    """
    missing = probe.convention.missing
    if not missing:
        return
    probe.requires_state = True
    probe.packing = Packing(demands_sorted=True)  # sorted rows are taken by any module
    if _try_required(probe):
        return
    others = [name for name in missing if not named_like_state(name)] or missing
    first = next(iter(probe.convention.input_parameters or ()), "x")
    raise LiftingError(
        f"forward also needs {', '.join(others)}; describe every input with an --input of its own, "
        f"{first} included, as in {others[0]}:int64[batch] or …:float32[batch,seq,40]."
    )


def parts_of(probe: ModuleProbe) -> list[Part]:
    """The states that `forward` takes, those that are stacked in one tensor apart."""
    parts = []
    usual = Usual(probe)
    for number, (*_, leaf) in enumerate(state_leaves(probe.convention.state)):
        parts += _split(usual, number, leaf, ())
    return parts


class Usual:
    """Runs of a module with a usual state, to compare others with."""

    def __init__(self, probe: ModuleProbe) -> None:
        """Raises `LiftingError` if the module does not run with a state in the structures of its convention."""
        self.probe, self.leaves = probe, probe.leaves(probe.sizes, 0)
        self.run = probe.record(probe.sizes, state=self.leaves)
        disturbed = probe.record(probe.sizes, state=self.leaves, disturb=lambda *_: DISTURBED)
        self.chained = differing(self.run, disturbed)
        """The starts that follow from what another call of an LSTM leaves."""

    def reached(self, leaf: int, selections: Sequence[Selection]) -> set[Target]:
        """The states that calls start from and that change with a tensor of the state, or with one entry of it."""
        changed = [value.clone() for value in self.leaves]
        entry = selected(changed[leaf], selections)
        entry += 0.5 * torch.sign(entry) + 0.1
        return differing(self.run, self.probe.record(self.probe.sizes, state=changed)) - self.chained


def find_results(probe: ModuleProbe, parts: Sequence[Part]) -> list[Path | None]:
    """For each part, the path of the returned tensor that follows from it; none if nothing that is returned does."""
    returned = probe.record(probe.sizes, state=probe.leaves(probe.sizes, 0))
    wider = _wider(probe)
    larger = probe.record(wider, state=probe.leaves(wider, 0)).returned
    results: dict[int, Path | None] = {}
    scores: dict[int, dict[int, int]] = {}
    for number, (argument, path, leaf) in enumerate(state_leaves(probe.convention.state)):
        if argument.attribute:
            results[number] = (KEPT, argument.attribute, *path)
            continue
        targets = {target for part in parts if part.leaf == number for target in part.targets}
        fitting = {
            position: value
            for position, ((_, value), (_, other)) in enumerate(zip(returned.returned, larger, strict=True))
            if tuple(value.shape) == leaf.sized(probe.sizes["batch"])
            and tuple(other.shape) == leaf.sized(wider["batch"])
        }
        scores[number] = _scores(probe, returned, fitting, targets)
    chosen = _window(list(scores), scores, len(returned.returned)) or _greedy(scores)
    results |= {number: returned.returned[position][0] for number, position in chosen.items()}
    return [results.get(part.leaf) for part in parts]


def _try_required(probe: ModuleProbe) -> bool:
    recurrent = recurrent_of(probe.original)
    parameters = probe.convention.missing
    guesses = [
        *candidates(recurrent, len(parameters), batched=_batched(probe)),
        *(projected(probe.original, len(parameters)) if len(parameters) <= 2 else ()),
    ]
    sizes = probe.sizes
    for batch in _batches(probe):
        for steps in _steps(probe):
            probe.sizes = {**sizes, "batch": batch, **({"seq": steps} if "seq" in sizes else {})}
            if _accept(probe, parameters, guesses):
                probe.sizes = {**sizes, "batch": batch}  # the number of steps is settled later
                return True
    probe.sizes = sizes
    return False


def _batched(probe: ModuleProbe) -> bool:
    """Whether the inputs have, or may have, an axis of rows."""
    return probe.has_rows or any(len(spec.shape) > 2 for spec in probe.inputs)


def _batches(probe: ModuleProbe) -> list[int]:
    """Numbers of rows to try: where no input has an axis of rows by name, one of its numbers may be that."""
    if probe.has_rows:
        return [probe.sizes["batch"]]
    numbers = [dim for spec in probe.inputs[:1] for dim in spec.shape[:2] if isinstance(dim, int)]
    return list(dict.fromkeys([*numbers, 1]))


def _steps(probe: ModuleProbe) -> list[int]:
    usual = probe.sizes.get("seq", 0)
    if not any("seq" in spec.shape for spec in probe.inputs):
        return [usual]
    windows = {size for value in probe.original.buffers() for size in value.shape if 1 < size < 1_000}
    return list(dict.fromkeys([usual, 1, *LONGER[:2], *sorted(windows)]))


def find_optional_state(probe: ModuleProbe) -> None:
    """Find the optional parameters that take a state: those called like one, then several together, then each alone."""
    optional = probe.convention.optional
    named = tuple(name for name in optional if named_like_state(name))
    windows = [
        optional[start : start + size]
        for size in range(len(optional), 1, -1)
        for start in range(len(optional) - size + 1)
    ]
    groups = [named, *windows, *((name,) for name in optional)]
    if not any(groups):
        return
    returned, wider = _returned_twice(probe)
    accepted: set[str] = set()
    for group in groups:
        if not group or accepted & set(group):
            continue
        guesses = list(_fed_back(probe, returned, wider, len(group)))
        if group[0] in named:
            guesses += candidates(recurrent_of(probe.original), len(group), batched=_batched(probe))
        if _accept(probe, group, guesses):
            accepted |= set(group)


def _returned_twice(probe: ModuleProbe) -> tuple[Any, Any]:
    """What `forward` returns without a state, for two numbers of rows if it takes several."""
    if not probe.has_rows:
        returned = probe.run(probe.sizes)
        return returned, returned
    return probe.run(probe.sizes), probe.run({**probe.sizes, "batch": probe.sizes["batch"] + STEP})


def _fed_back(probe: ModuleProbe, returned: Any, wider: Any, arguments: int) -> Iterator[Structures]:
    pairs = zip(returned_structures(returned, arguments), returned_structures(wider, arguments), strict=False)
    for values, others in pairs:
        try:
            yield tuple(structure_in(probe, value, other) for value, other in zip(values, others, strict=True))
        except ValueError:  # no state
            continue


def structure_in(probe: ModuleProbe, value: Any, wider: Any) -> Any:
    """As `structure_of`; where the number of rows is fixed, the axis of rows is where PyTorch has it."""
    batch = probe.sizes["batch"]
    structure = structure_of(value, wider, batch)
    return structure if probe.has_rows else with_rows_marked(structure, batch)


def with_rows_marked(structure: Any, batch: int) -> Any:
    """The structure with the axis of rows marked where PyTorch has it: the last but one."""

    def marked(leaf: Leaf) -> Leaf:
        for axis in (len(leaf.dims) - 2, *range(len(leaf.dims) - 1)):
            if axis >= 0 and leaf.dims[axis] == batch:
                return Leaf((*leaf.dims[:axis], "batch", *leaf.dims[axis + 1 :]))
        return leaf

    return mapped(structure, marked)


def _accept(probe: ModuleProbe, parameters: Sequence[str], guesses: Iterable[Structures]) -> bool:
    """Settle on the first of some structures with which `forward` runs and each tensor of which reaches an LSTM.

    One in which `forward` returns the new state as well is better than any other.
    """
    before = probe.convention.state
    second: tuple[StateArgument, ...] = ()
    for structures in guesses:
        arguments = [
            StateArgument(parameter=name, structure=structure)
            for name, structure in zip(parameters, structures, strict=True)
        ]
        probe.convention = replace(probe.convention, state=(*before, *arguments))
        if reaches(probe, len(state_leaves(before))):
            if all(result is not None for result in find_results(probe, parts_of(probe))):
                return True
            second = second or probe.convention.state
    probe.convention = replace(probe.convention, state=second or before)
    return bool(second)


def reaches(probe: ModuleProbe, known: int) -> bool:
    """Whether the module runs with its state, and each tensor of it but the first `known` reaches an LSTM's start."""
    try:
        usual = Usual(probe)
        numbers = range(known, len(usual.leaves))
        return bool(numbers) and all(usual.reached(number, ()) for number in numbers)
    except LiftingError:
        return False


def _split(usual: Usual, number: int, leaf: Leaf, selections: tuple[Selection, ...]) -> list[Part]:
    """The states in one tensor: itself, or the entries of an axis each of which is the state of another LSTM."""
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


def _scores(
    probe: ModuleProbe, returned: Recording, fitting: Mapping[int, Tensor], targets: set[Target]
) -> dict[int, int]:
    """How likely each of some returned tensors is what follows from the states `targets`: those that do not, are out.

    2 if it is the final state of a call itself, 1 if it changes with that.
    """
    scores: dict[int, int] = {}
    for target in targets:
        last = _last_of_chain(probe, returned, target)
        runs = [_disturbed(probe, target, last, offset) for offset in (0.25, 10.0, -10.0)]  # a clip hides small ones
        final = returned.finals[target.path][last][target.state]
        for position, value in fitting.items():
            if value.numel() == final.numel() and torch.equal(value.flatten(), final.flatten()):
                scores[position] = 2
            elif any(not torch.equal(run[position][1], value) for run in runs):
                scores[position] = max(1, scores.get(position, 0))
    return scores


def _disturbed(probe: ModuleProbe, target: Target, last: int, offset: float) -> list[tuple[Path, Tensor]]:
    """What `forward` returns if this is added to one of the final states of a call."""
    offsets = tuple(offset if state == target.state else 0.0 for state in range(2))

    def disturb(path: str, number: int) -> Disturbance:
        return Disturbance(0.0, offsets) if (path, number) == (target.path, last) else Disturbance()

    return probe.record(probe.sizes, state=probe.leaves(probe.sizes, 0), disturb=disturb).returned


def _last_of_chain(probe: ModuleProbe, base: Recording, target: Target) -> int:
    """The last call of the chain that begins with a call: the last one whose start follows from what that leaves."""

    def disturb(path: str, number: int) -> Disturbance:
        return Disturbance(0.0, DISTURBED.state) if (path, number) == target[:2] else Disturbance()

    after = differing(base, probe.record(probe.sizes, state=probe.leaves(probe.sizes, 0), disturb=disturb))
    numbers = [other.number for other in after if other.path == target.path and other.number > target.number]
    return max(numbers, default=target.number)


def _window(numbers: Sequence[int], scores: Mapping[int, Mapping[int, int]], count: int) -> dict[int, int]:
    """Consecutive returned tensors that fit the arguments in their order; of several, the best, and then the last."""
    best, chosen = 0, {}
    for start in range(count - len(numbers) + 1):
        window = {number: start + offset for offset, number in enumerate(numbers)}
        fits = [scores[number].get(position, 0) for number, position in window.items()]
        if all(fits) and sum(fits) >= best:
            best, chosen = sum(fits), window
    return chosen


def _greedy(scores: Mapping[int, Mapping[int, int]]) -> dict[int, int]:
    """For each argument the best of the returned tensors that is not taken yet; of several, the last."""
    chosen: dict[int, int] = {}
    for number, fitting in scores.items():
        free = {position: score for position, score in fitting.items() if position not in chosen.values()}
        if free:
            chosen[number] = max(free, key=lambda position: (free[position], position))
    return chosen


def _wider(probe: ModuleProbe) -> dict[str, int]:
    dynamic = dynamic_dims(probe.inputs)
    return {name: size + STEP if name in dynamic else size for name, size in probe.sizes.items()}


def differing(a: Recording, b: Recording) -> set[Target]:
    """The states that calls start from and that differ between two runs."""
    different = set()
    for path, calls in a.calls.items():
        for number, (call, other) in enumerate(zip(calls, b.calls[path], strict=False)):
            if call.state is None or other.state is None:
                continue
            for state, pair in enumerate(zip(call.state, other.state, strict=True)):
                if pair[0].shape != pair[1].shape or not torch.equal(*pair):
                    different.add(Target(path, number, state))
    return different


def recurrent_of(module: nn.Module) -> dict[str, nn.Module]:
    """The recurrent modules in a module, by path."""
    return {path: child for path, child in module.named_modules() if isinstance(child, RECURRENT_MODULES)}
