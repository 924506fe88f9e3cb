"""Finds where an author's `forward` takes a state, and where it gives back what follows from it, by running it.

What a state is, is seen from what it does: it reaches the state that a call of a recurrent module starts from, without
having passed through another call of one.
"""

import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from msgspec.structs import replace
from torch import Tensor, nn

from lstm_deploy.errors import LiftingError, one_line, user_line
from lstm_deploy.lifting.calling import (
    KEPT,
    StateArgument,
    flatten,
    named_like_state,
    numbered,
    state_leaves,
)
from lstm_deploy.lifting.initial_state import states_made_by_methods
from lstm_deploy.lifting.packing import Packing
from lstm_deploy.lifting.probing import LONGER, STEP, ModuleProbe, dynamic_dims, identical
from lstm_deploy.lifting.recurrent_modules import RECURRENT_MODULES
from lstm_deploy.lifting.state_candidates import Structures, candidates, projected, returned_structures
from lstm_deploy.lifting.state_parts import Usual, parts_of
from lstm_deploy.lifting.state_results import find_results
from lstm_deploy.lifting.state_structure import Leaf, StateList, leaves_of, mapped, structure_of, written


def find_required_state(probe: ModuleProbe) -> None:
    """Find how `forward` takes the state that it requires, before anything else can be run.

    Raises `LiftingError` for a required parameter that is neither an input nor a state.
    """
    missing = probe.convention.missing
    if not missing:
        _require_optional(probe)
        return
    probe.requires_state = True
    probe.packing = Packing(demands_sorted=True)  # sorted rows are taken by any module
    if _try_required(probe, missing):
        return
    raise _refusal(probe, missing)


def _require_optional(probe: ModuleProbe) -> None:
    """Take the optional state of a `forward` as required that does not run without, as with `core_state=()`."""
    states = [name for name in probe.convention.optional if named_like_state(name)]
    with_steps = [{**probe.sizes, **({"seq": steps} if steps else {})} for steps in _steps(probe)]
    if not states or any(_runs(probe, sizes, None) for sizes in with_steps):
        return
    convention, packing = probe.convention, probe.packing
    probe.convention = replace(convention, optional=tuple(n for n in convention.optional if n not in states))
    probe.requires_state, probe.packing = True, Packing(demands_sorted=True)
    if not _try_required(probe, states):  # something else keeps it from running, as will be reported
        probe.convention, probe.packing, probe.requires_state = convention, packing, False


def _refusal(probe: ModuleProbe, missing: Sequence[str]) -> LiftingError:
    """What to do about required parameters that take no state in a form that is known."""
    made = list(_made(probe, len(missing)))
    states = [name for name in missing if named_like_state(name)]
    others = [name for name in missing if name not in states]
    names, first = _enumerated(missing), next(iter(probe.convention.input_parameters or ()), "x")
    if others and not made:
        given = ", ".join(str(spec).replace(": ", ":").replace(", ", ",") for spec in probe.inputs)
        inputs = (
            f"describe every input with an --input of its own: {given}, and as in {others[0]}:int64[batch] or "
            f"{others[0]}:float32[batch,seq,1]"
        )
        if states:
            return LiftingError(
                f"forward also needs {_enumerated(others)}, beside its state {_enumerated(states)}; {inputs}, but not "
                f"the state, which is found, or made by a method init_state(batch_size) of the module."
            )
        return LiftingError(
            f"forward also needs {names}; {inputs}, or, for a state, give the module a method init_state(batch_size) "
            f"that returns the first {names}."
        )
    by_methods = any(map(flatten, states_made_by_methods(probe.original, probe.sizes["batch"])))
    reason = _why_not(probe, missing, made if by_methods else list(_usual(probe, len(missing))))
    if by_methods:
        return LiftingError(
            f"forward also needs {names}, and what a method of the module makes for it is no state that forward "
            f"takes{reason} let that method return {names} with one axis for the rows, or give the sizes that "
            f"forward needs, as in {first}:float32[1,1,40]."
        )
    return LiftingError(
        f"forward also needs {names}, and takes none of the usual forms of a state there{reason} give the module a "
        f"method init_state(batch_size) that returns the first {names}, or describe it with --input if it is no state."
    )


def _enumerated(names: Sequence[str]) -> str:
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))


def _why_not(probe: ModuleProbe, parameters: Sequence[str], guesses: Sequence[Structures]) -> str:
    """How `forward` fails with the first of these structures, in brackets, and a remedy; `;` if it runs."""
    before = probe.convention
    try:
        for structures in guesses[:1]:
            probe.convention = replace(before, state=_arguments(parameters, structures))
            probe.record(probe.sizes)
    except LiftingError as error:
        cause = error.__cause__ or error
        return f" ({one_line(cause)}{user_line(cause)}); correct the --input if that is at fault, else"
    finally:
        probe.convention = before
    return ";"


def _usual(probe: ModuleProbe, parameters: int) -> Iterator[Structures]:
    """The usual forms of a state in so many parameters."""
    yield from candidates(recurrent_of(probe.original), parameters, batched=_batched(probe))
    if parameters <= 2:
        yield from projected(probe.original, parameters)


def _try_required(probe: ModuleProbe, parameters: Sequence[str]) -> bool:
    usual = list(_usual(probe, len(parameters)))
    sizes = probe.sizes
    for batch in _batches(probe):
        probe.sizes = {**sizes, "batch": batch}
        made = list(_made(probe, len(parameters)))
        for steps in _steps(probe):
            probe.sizes = {**sizes, "batch": batch, **({"seq": steps} if "seq" in sizes else {})}
            if _accept(probe, parameters, made, are_states=True) or _accept(probe, parameters, usual):
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
    """Find the optional parameters that take a state: those called like one, then several together, then each alone.

    Raises `LiftingError` for a state that `forward` takes for some numbers of steps only.
    """
    if not probe.convention.optional or _try_optional(probe):
        return
    # What forward keeps beside may be made only where no state is passed.
    before = probe.convention
    probe.convention = replace(before, state=(*before.state, *kept_arguments(probe)))
    if probe.convention.state != before.state and _try_optional(probe):
        return
    probe.convention = before
    if "seq" in dynamic_dims(probe.inputs) and probe.least_seq == 1 and any(map(named_like_state, before.optional)):
        usual, probe.sizes = probe.sizes, {**probe.sizes, "seq": 1}
        try:
            accepted = _try_optional(probe)
            names = " and ".join(argument.root for argument in probe.convention.state)
        finally:
            probe.sizes, probe.convention = usual, before
        if accepted:
            raise some_steps_only(probe, names)


def some_steps_only(probe: ModuleProbe, place: str) -> LiftingError:
    """For a state that is used or not, as the number of steps is."""
    spec = next(spec for spec in probe.inputs if "seq" in spec.shape)
    fixed = replace(spec, shape=tuple(1 if dim == "seq" else dim for dim in spec.shape))
    return LiftingError(
        f"forward uses {place} for some numbers of steps only, so one graph cannot be right for all of them; "
        f"give their number, as in {fixed}."
    )


def kept_arguments(probe: ModuleProbe) -> list[StateArgument]:
    """The attributes that hold tensors and that a call changes, in the structures that they have after it."""
    kept, wider = probe.kept_attributes(probe.sizes), probe.kept_attributes(probe.more_rows)
    arguments = []
    for path, value in kept.items():
        try:
            structure = structure_in(probe, value, wider.get(path))
        except ValueError:
            continue
        if leaves_of(structure):
            arguments.append(StateArgument(attribute=path, structure=structure))
    return arguments


def _try_optional(probe: ModuleProbe) -> bool:
    """Settle on the optional parameters that take a state; whether there are any."""
    optional = probe.convention.optional
    named = tuple(name for name in optional if named_like_state(name))
    windows = [
        optional[start : start + size]
        for size in range(len(optional), 1, -1)
        for start in range(len(optional) - size + 1)
    ]
    groups = [named, *windows, *((name,) for name in optional)]
    returned, wider = probe.run(probe.sizes), probe.run(probe.more_rows)
    accepted: set[str] = set()
    for group in groups:
        if not group or accepted & set(group):
            continue
        guesses = list(_fed_back(probe, returned, wider, len(group)))
        if group[0] in named:
            guesses += [
                *candidates(recurrent_of(probe.original), len(group), batched=_batched(probe)),
                *_made(probe, len(group)),
            ]
        if _accept(probe, group, guesses):
            accepted |= set(group)
    return bool(accepted)


def _made(probe: ModuleProbe, arguments: int) -> Iterator[Structures]:
    """Structures of the states that methods such as `init_hidden` make."""
    made = [states_made_by_methods(probe.original, sizes["batch"]) for sizes in (probe.sizes, probe.more_rows)]
    for value, wider in zip(*made, strict=True):
        try:
            structure = structure_in(probe, value, wider)
        except ValueError:
            continue
        if arguments == 1:
            yield (structure,)
        elif isinstance(structure, tuple | list) and len(structure) == arguments:
            yield tuple(structure)


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


def _arguments(parameters: Sequence[str], structures: Structures) -> tuple[StateArgument, ...]:
    pairs = zip(parameters, structures, strict=True)
    return tuple(StateArgument(parameter=name, structure=structure) for name, structure in pairs)


def _accept(
    probe: ModuleProbe, parameters: Sequence[str], guesses: Iterable[Structures], *, are_states: bool = False
) -> bool:
    """Settle on the first of some structures with which `forward` runs and that reach a recurrent module.

    One in which `forward` returns the new state as well is better than any other. `are_states` is as for `reaches`.
    """
    before = probe.convention.state
    second: tuple[StateArgument, ...] = ()
    for structures in guesses:
        probe.convention = replace(probe.convention, state=(*before, *_arguments(parameters, structures)))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what forward does with a structure that is none of its own
            accepted = reaches(probe, len(before), are_states=are_states)
        if accepted:
            _name_entries(probe, len(before))
            check_state_sizes(probe)
            _mark_written(probe)
            parts = parts_of(probe)
            missing = [part for part, path in zip(parts, find_results(probe, parts).paths, strict=True) if path is None]
            if not missing:
                return True
            if all(part.targets for part in missing):  # a recurrent module has the new value of these
                second = second or probe.convention.state
    probe.convention = replace(probe.convention, state=second or before)
    return bool(second)


def check_state_sizes(probe: ModuleProbe) -> None:
    """Raise `LiftingError` for a state with an axis that follows an input's, as weights over a text do."""
    for dim in sorted(dynamic_dims(probe.inputs) - {"batch", "seq"}):
        size, larger = probe.sizes[dim], {**probe.sizes, dim: probe.sizes[dim] + STEP}
        places = [
            written(argument.root, path)
            for argument, path, leaf in state_leaves(probe.convention.state)
            if size in leaf.dims
        ]
        if not places or probe.requires_state or _runs(probe, larger, probe.leaves(larger)):
            continue
        if _runs(probe, larger, None):  # it is the state alone that does not fit
            spec = next(spec for spec in probe.inputs if dim in spec.shape)
            fixed = replace(spec, shape=tuple(size if other == dim else other for other in spec.shape))
            raise LiftingError(
                f"The size of the state {' and '.join(places)} follows {dim}, and a state has one size in all calls; "
                f"give a number for {dim}, as in {fixed}."
            )


def _runs(probe: ModuleProbe, sizes: Mapping[str, int], state: Sequence[Tensor] | None) -> bool:
    try:
        probe.run(sizes, state=state)
    except LiftingError:
        return False
    return True


def reaches(probe: ModuleProbe, known: int, *, are_states: bool = False) -> bool:
    """Whether the module runs with its state, and that in all arguments but the first `known` reaches a start.

    Tensors beside those that do, as the cache of a convolution, may act on what is returned instead; in an argument of
    their own they do so only if that is called like a state, or if they `are_states` since a method makes them.
    """
    try:
        usual = Usual(probe)
        reached = []
        for argument, numbers in numbered(probe.convention.state)[known:]:
            own = [bool(usual.reached(number)) for number in numbers]
            if not any(own) and not (are_states or named_like_state(argument.parameter)):
                return False
            if not all(yes or usual.matters(number) for number, yes in zip(numbers, own, strict=True)):
                return False
            reached += own
        return any(reached)
    except LiftingError:
        return False


def _name_entries(probe: ModuleProbe, known: int) -> None:
    """Put mappings in the place of lists that forward has read by names, if it runs with them."""
    before = probe.convention.state
    named = [
        replace(argument, structure=argument.structure.as_mapping())
        if isinstance(argument.structure, StateList)
        else argument
        for argument in before[known:]
    ]
    probe.convention = replace(probe.convention, state=(*before[:known], *named))
    if probe.convention.state != before and not reaches(probe, known):  # as where they are attributes
        probe.convention = replace(probe.convention, state=before)


def _mark_written(probe: ModuleProbe) -> None:
    """Mark the arguments whose values `forward` changes in place."""
    convention, leaves = probe.convention, probe.leaves(probe.sizes, 0)
    marked = [replace(argument, is_written=bool(argument.parameter)) for argument in convention.state]
    probe.convention = replace(convention, state=tuple(marked))
    after = dict(probe.record(probe.sizes, state=leaves).returned)
    settled = []
    for argument, numbers in numbered(convention.state):
        now = [after.get((KEPT, argument.root, *path)) for path, _ in leaves_of(argument.structure)]
        pairs = [(value, leaves[number]) for value, number in zip(now, numbers, strict=True) if value is not None]
        # A structure that has lost some of its places, as a list that is emptied, holds no state.
        is_written = len(pairs) == len(now) and any(not identical(*pair) for pair in pairs)
        settled.append(replace(argument, is_written=bool(argument.parameter) and is_written))
    probe.convention = replace(convention, state=tuple(settled))


def recurrent_of(module: nn.Module) -> dict[str, nn.Module]:
    """The recurrent modules in a module, by path."""
    return {path: child for path, child in module.named_modules() if isinstance(child, RECURRENT_MODULES)}
