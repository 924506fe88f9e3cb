"""Finds which of the tensors that an author's `forward` returns are the state for its next call.

First by structure: a part of the result that is built as an argument is, whatever is done to the tensors in it. Where
there is none, each tensor for itself, by what it follows from: it changes with the final state of a recurrent module.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import is_dataclass
from functools import cached_property
from typing import Any, NamedTuple

import torch
from msgspec.structs import replace

from lstm_deploy.errors import LiftingError
from lstm_deploy.lifting.calling import KEPT, Kept, StateArgument, numbered, state_leaves
from lstm_deploy.lifting.carried_state import Target
from lstm_deploy.lifting.data_flow import Ancestry
from lstm_deploy.lifting.probing import STEP, ModuleProbe, Recording, dynamic_dims, identical
from lstm_deploy.lifting.recurrent import Disturbance
from lstm_deploy.lifting.recurrent_modules import cell_of
from lstm_deploy.lifting.state_parts import DISTURBED, Part, differing
from lstm_deploy.lifting.state_structure import Path, children_of, cloned, leaves_of, matched

IS_FINAL, FOLLOWS, FOLLOWS_EARLIER, FOLLOWS_OUTPUT = 4, 3, 2, 1
"""How a returned tensor depends on a state: it is the final one of a call, or changes with that, or with one before, or
with the output of the call alone, the last step of which is that state too."""
_NEXT = re.compile(r"^(new|next)_|_(new|next|out)$")
_AFFIXES = re.compile(r"^(new|next|last|final|out)_|_(new|next|out|n)$")


Rivals = list[tuple[str, Path, Path | None]]
"""Arguments for which two returned values are equally likely: the argument as written, and both paths.

None in place of the second where no value, or the one that is returned, are so.
"""


class Results(NamedTuple):
    """Where the states of a module come out of it."""

    paths: list[Path | None]
    """For each part of the state, the path of the returned tensor; none if nothing that is returned is one."""
    ambiguous: Rivals


class _Match(NamedTuple):
    """A part of what is returned that is built as an argument is."""

    argument: StateArgument
    path: Path
    results: dict[int, Path]
    """By the number of the tensor of the state."""
    rank: tuple[tuple[int, int], int, int]
    """How likely it is: by name and its depth, then whether each tensor follows from the argument (1 where one follows
    from an output alone, else 2), then how closely."""


def find_results(probe: ModuleProbe, parts: Sequence[Part]) -> Results:
    """Find, for each part of the state, the returned tensor that is its value for the next call."""
    influence = _Influence(probe, parts)
    arguments = numbered(probe.convention.state)
    results: dict[int, Path] = {}
    for argument, numbers in arguments:
        if argument.attribute:
            results |= _kept(argument, numbers)
    rivals = _add_by_structure(influence, arguments, results)
    for argument, numbers in arguments:
        after = _kept(argument, numbers) if argument.is_written else {}
        if after and numbers[0] not in results:
            results |= after
        elif after and influence.differ(after, results):
            rivals.append((argument.root, results[numbers[0]], after[numbers[0]]))
    rivals += _add_by_influence(influence, arguments, results)
    return Results([results.get(part.leaf) for part in parts], rivals)


def _add_by_structure(
    influence: "_Influence", arguments: Sequence[tuple[StateArgument, range]], results: dict[int, Path]
) -> Rivals:
    """Add the likeliest part of what is returned that is built as an argument is, for each; returns equal rivals."""
    matches = [
        match
        for argument, numbers in arguments
        if not argument.attribute
        for match in influence.matches(argument, numbers)
    ]
    matches.sort(key=lambda match: match.rank, reverse=True)
    chosen: dict[str, _Match] = {}
    for match in matches:
        if match.argument.root not in chosen and not set(match.results.values()) & set(results.values()):
            chosen[match.argument.root] = match
            results |= match.results
    pairs = [(chosen[match.argument.root], match) for match in matches if match.argument.root in chosen]
    return [
        (match.argument.root, best.path, match.path)
        for best, match in pairs
        if match.rank[1]
        and match.rank[:2] == best.rank[:2]
        and not set(match.results.values()) & set(results.values())
        and influence.differ(match.results, best.results)
        and not influence.is_surer(best.results, match.results)
    ]


def _add_by_influence(
    influence: "_Influence", arguments: Sequence[tuple[StateArgument, range]], results: dict[int, Path]
) -> Rivals:
    """Add tensors that follow from those of the state that have no result yet; returns rivals of the first of them."""
    rest = [(number, argument.root) for argument, numbers in arguments for number in numbers if number not in results]
    scores = {number: influence.free(number, results.values()) for number, _ in rest}
    windows, single = _windows(list(scores), scores, len(influence.paths)), _greedy(scores)
    if not windows or (len(single) == len(scores) and influence.is_likelier(single, windows[0], scores)):
        windows.insert(0, single)
    best, *others = ({number: influence.paths[position] for number, position in window.items()} for window in windows)
    results |= best
    if influence.is_doubtful(best):
        return [(rest[0][1], (), None)]
    return [
        (rest[0][1], best[rest[0][0]], other[rest[0][0]])
        for other in others
        if not influence.is_output(best, other)
        and not set(best.values()) & set(other.values())
        and influence.differ(best, other)
        and not influence.is_surer(best, other)
    ]


class _Influence:
    """What each returned tensor follows from, and which tensors of the state have its shape."""

    def __init__(self, probe: ModuleProbe, parts: Sequence[Part]) -> None:
        self.probe = probe
        self.leaves = probe.leaves(probe.sizes, 0)
        self.run = probe.record(probe.sizes, state=self.leaves)
        wider = _wider(probe)
        larger = dict(probe.record(wider, state=probe.leaves(wider, 0)).returned)
        self.paths = [path for path, _ in self.run.returned if path[:1] != (KEPT,)]
        self.values = dict(self.run.returned)
        targets = {target for part in parts for target in part.targets}
        self.by_target = {target: self._of_target(target) for target in targets}
        self.targets = {
            number: {target for part in parts if part.leaf == number for target in part.targets}
            for number in range(len(state_leaves(probe.convention.state)))
        }
        self.fitting = {
            number: {
                path
                for path in self.paths
                if tuple(self.values[path].shape) == leaf.sized(probe.sizes["batch"])
                and path in larger
                and tuple(larger[path].shape) == leaf.sized(wider["batch"])
            }
            for number, (*_, leaf) in enumerate(state_leaves(probe.convention.state))
        }

    def matches(self, argument: StateArgument, numbers: Sequence[int]) -> Iterator[_Match]:
        """The parts of what is returned that are built as an argument is and follow from it, or bear its name."""
        targets = {target for number in numbers for target in self.targets[number]}
        returned = self.run.value.returned if isinstance(self.run.value, Kept) else self.run.value
        for path, value, paths in _places(returned, argument.structure):
            if any(found not in self.fitting[number] for number, found in zip(numbers, paths, strict=True)):
                continue
            if not self._is_given_back(argument, value, dict(zip(numbers, paths, strict=True))):
                continue
            named = _likeness(path, argument.parameter)
            scores = {
                number: max((self.by_target[target].get(found, 0) for target in targets), default=0)
                for number, found in zip(numbers, paths, strict=True)
            }
            least = min((score for number, score in scores.items() if self.targets[number]), default=IS_FINAL)
            full = min(least, FOLLOWS_EARLIER)
            own = sum(self._own(number, found) for number, found in zip(numbers, paths, strict=True))
            # All that is returned is no state on its own where some of it does not follow from one.
            follows = any(scores.values()) or not targets
            if follows and (named or (len(paths) > 1 and (full or path))):
                likeness = (named, -len(path) if named else 0)
                yield _Match(argument, path, dict(zip(numbers, paths, strict=True)), (likeness, full, own))

    def _is_given_back(self, argument: StateArgument, value: Any, paths: Mapping[int, Path]) -> bool:
        """Whether `forward` makes the same of the very object that it returned as of the tensors at these paths.

        Only an object whose parts have names may be read in another order than it is built.
        """
        if not (hasattr(value, "_fields") or is_dataclass(value)):
            return True
        probe, convention = self.probe, self.probe.convention
        leaves = [self.values[paths[number]] if number in paths else leaf for number, leaf in enumerate(self.leaves)]
        ours = probe.record(probe.sizes, state=leaves).returned
        itself = replace(argument, structure=cloned(value))
        state = tuple(itself if other is argument else other for other in convention.state)
        try:
            probe.convention = replace(convention, state=state)
            rest = [leaf for number, leaf in enumerate(leaves) if number not in paths]
            theirs = probe.record(probe.sizes, state=rest).returned
        except LiftingError:
            return True  # it is not taken back
        finally:
            probe.convention = convention
        return len(ours) == len(theirs) and all(identical(a, b) for (_, a), (_, b) in zip(ours, theirs, strict=True))

    def free(self, number: int, taken: Any) -> dict[int, int]:
        """The positions of returned tensors that may be the new value of a tensor of the state, and how likely each is.

        What reaches no recurrent module, as the cache of a convolution, may be any but the first, which is the output.
        """
        places = {position: path for position, path in enumerate(self.paths) if path in self.fitting[number]}
        places = {position: path for position, path in places.items() if path not in taken}
        if not self.targets[number]:
            return {position: 1 for position in places if position}
        scores = {position: self._own(number, path) for position, path in places.items()}
        return {position: score for position, score in scores.items() if score}

    def differ(self, ours: Mapping[int, Path], others: Mapping[int, Path]) -> bool:
        """Whether the tensors at some paths are not those at others."""
        return any(not identical(self.values[ours[number]], self.values[others[number]]) for number in ours)

    def is_output(self, best: Mapping[int, Path], other: Mapping[int, Path]) -> bool:
        """Whether a rival is the first of what is returned, so that it is the output, and the best is not made of it.

        Where it is, the first may as well be the state, and the other an output that is made of it.
        """
        if len(other) > 1 or self.paths[0] not in other.values():
            return False
        (ours,) = best.values()
        return self._is_final(best) or not self._leads(self.paths[0], ours)

    def is_likelier(
        self, single: Mapping[int, int], window: Mapping[int, int], scores: Mapping[int, Mapping[int, int]]
    ) -> bool:
        """Whether tensors at these positions, each found by itself, are likelier than those that stand together.

        They are where the first of those is an output that is made of another of them.
        """
        ours, others = (sum(scores[number][at] for number, at in each.items()) for each in (single, window))
        rest = [self.paths[position] for position in window.values() if position]
        is_output = len(rest) < len(window) and any(self._leads(path, self.paths[0]) for path in rest)
        return ours > others or (ours == others and is_output)

    def is_surer(self, best: Mapping[int, Path], other: Mapping[int, Path]) -> bool:
        """Whether these are final states as they are, and a rival is made of inputs too, as a context of attention."""
        return self._is_final(best) and any(path in self._made_of_inputs for path in other.values())

    def is_doubtful(self, best: Mapping[int, Path]) -> bool:
        """Whether all that is returned is one tensor that is not a final state, of a `forward` that needs no state."""
        return () in best.values() and not self.probe.requires_state and not self._is_final(best)

    @cached_property
    def _made_of_inputs(self) -> set[Path]:
        """What changes with the inputs also where all calls of recurrent modules return the same."""
        fixed = Disturbance(0.25, 0.25, scale=0.0)
        ours, others = (
            dict(self.probe.record(self.probe.sizes, seed, state=self.leaves, disturb=lambda *_: fixed).returned)
            for seed in (0, 1)
        )
        return {path for path, value in ours.items() if path in others and not identical(value, others[path])}

    def _leads(self, source: Path, result: Path) -> bool:
        """Whether operators make one returned tensor of the other."""
        ancestry, values = self._ancestry
        return ancestry.leads(values[source], values[result])

    @cached_property
    def _ancestry(self) -> tuple[Ancestry, dict[Path, torch.Tensor]]:
        """How a run has come to what it returns."""
        with Ancestry() as ancestry:
            return ancestry, dict(self.probe.record(self.probe.sizes, state=self.leaves).returned)

    def _is_final(self, results: Mapping[int, Path]) -> bool:
        return all(self._own(number, path) == IS_FINAL for number, path in results.items())

    def _own(self, number: int, path: Path) -> int:
        return max((self.by_target[target].get(path, 0) for target in self.targets[number]), default=0)

    def _of_target(self, target: Target) -> dict[Path, int]:
        """How each returned tensor depends on the final state of the chain of calls that starts from `target`."""
        last = _last_of_chain(self.probe, self.run, target)
        final = self.run.finals[target.path][last][target.state]

        def runs_of(number: int, *disturbances: Disturbance) -> list[dict[Path, torch.Tensor]]:
            return [dict(_disturbed(self.probe, (target.path, number), by).returned) for by in disturbances]

        of_state = [Disturbance(0.0, offset, target.state) for offset in (0.25, 10.0, -10.0)]  # a clip hides small ones
        is_output = cell_of(self.probe.original.get_submodule(target.path)).states[target.state].is_output
        changed = {
            FOLLOWS: runs_of(last, *of_state),
            FOLLOWS_EARLIER: runs_of(target.number, of_state[0]) if last != target.number else [],
            FOLLOWS_OUTPUT: runs_of(last, Disturbance(0.25)) if is_output else [],
        }
        scores: dict[Path, int] = {}
        for path in self.paths:
            value = self.values[path]
            if value.numel() == final.numel() and identical(value.flatten(), final.flatten()):
                scores[path] = IS_FINAL
                continue
            for score, runs in changed.items():
                if any(not identical(run[path], value) for run in runs if path in run):
                    scores[path] = score
                    break
        return scores


def _kept(argument: StateArgument, numbers: Sequence[int]) -> dict[int, Path]:
    """Where the tensors of an argument are after a call, by number, that changes it in place or is an attribute."""
    leaves = leaves_of(argument.structure)
    return {number: (KEPT, argument.root, *path) for number, (path, _) in zip(numbers, leaves, strict=True)}


def _parts(value: Any, path: Path = ()) -> Iterator[tuple[Path, Any]]:
    """A nested value and all values in it, each with its path."""
    yield path, value
    for key, child in children_of(value):
        yield from _parts(child, (*path, key))


def _places(returned: Any, structure: Any) -> Iterator[tuple[Path, Any, list[Path]]]:
    """The parts of what is returned that are built as a structure is, each with the paths of the tensors in it."""
    for path, value in _parts(returned):
        in_order, by_name = (matched(structure, value, path, by_name=by_name) for by_name in (False, True))
        if in_order is not None:
            yield path, value, in_order
        if by_name is not None and by_name != in_order:
            yield path, value, by_name


def _likeness(path: Path, parameter: str) -> int:
    """How alike two names are: 3 for `next_state`, 2 for `state` itself, 1 for `final_state`, else 0."""
    name = path[-1] if path else ""
    if name == parameter:
        return 2
    if isinstance(name, str) and name and _NEXT.sub("", name) == parameter:
        return 3
    return int(isinstance(name, str) and bool(name) and _AFFIXES.sub("", name) == _AFFIXES.sub("", parameter))


def _disturbed(probe: ModuleProbe, call: tuple[str, int], by: Disturbance) -> Recording:
    """A run in which the results of one call are disturbed."""

    def disturb(path: str, number: int) -> Disturbance:
        return by if (path, number) == call else Disturbance()

    return probe.record(probe.sizes, state=probe.leaves(probe.sizes, 0), disturb=disturb)


def _last_of_chain(probe: ModuleProbe, base: Recording, target: Target) -> int:
    """The last call of the chain that begins with a call: the last one whose start follows from what that leaves."""
    after = differing(base, _disturbed(probe, target[:2], Disturbance(0.0, DISTURBED.state)))
    numbers = [other.number for other in after if other.path == target.path and other.number > target.number]
    return max(numbers, default=target.number)


def _windows(numbers: Sequence[int], scores: Mapping[int, Mapping[int, int]], count: int) -> list[dict[int, int]]:
    """Consecutive returned tensors that fit the arguments in their order: the best first, then the last.

    Those that follow from outputs alone are left out where others follow from the state.
    """
    found = []
    for start in range(count - len(numbers) + 1 if numbers else 0):
        window = {number: start + offset for offset, number in enumerate(numbers)}
        fits = [scores[number].get(position, 0) for number, position in window.items()]
        if all(fits):
            found.append((min(fits) > FOLLOWS_OUTPUT, sum(fits), start, window))
    surest = max((sure for sure, *_ in found), default=False)
    found = [fit for fit in found if fit[0] == surest]
    return [window for *_, window in sorted(found, key=lambda fit: fit[:3], reverse=True)]


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
