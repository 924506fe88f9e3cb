"""States that a module keeps between its calls, in attributes and buffers."""

from collections.abc import Iterable, Mapping, Sequence
from copy import deepcopy
from itertools import accumulate
from typing import Any

import torch
from msgspec.structs import replace
from torch import Tensor

from lstm_deploy.errors import LiftingError
from lstm_deploy.lifting.calling import (
    KEPT,
    KEPT_NUMBERS,
    KeptNumber,
    StateArgument,
    attributes_set,
    flatten,
    numbered,
    value_at,
)
from lstm_deploy.lifting.data_flow import DataFlow
from lstm_deploy.lifting.execution import shared_copy
from lstm_deploy.lifting.probing import ModuleProbe, attributes_of, contents_of, differ, dynamic_dims
from lstm_deploy.lifting.state_search import (
    check_state_sizes,
    kept_arguments,
    reaches,
    some_steps_only,
    with_rows_marked,
)
from lstm_deploy.lifting.state_structure import Path, cloned, leaves_of, structure_of

_KEPT_REMEDY = "keep a state in tensors of floats with an axis of rows, or let forward take and return it."
_OTHER_NUMBERS = (0, 1, 100, 10_000)
"""Tried in place of a number that calls change: the start, one call later, and after many, as for a warm-up."""
REPEATED = 4
"""How often a module is called to see whether it keeps anything: what one call keeps, another may only pass on."""


def find_kept_state_of_one_row(probe: ModuleProbe) -> None:
    """Find attributes that keep the state of one row, where the module runs on no other number of rows than that."""
    if probe.requires_state or not probe.has_rows:
        return
    sizes = probe.sizes
    try:
        probe.run(sizes)
    except LiftingError:
        probe.sizes = {**sizes, "batch": 1}
        try:
            kept = probe.kept_attributes(probe.sizes)
        except LiftingError:
            return  # it is not that, as will be reported
        finally:
            probe.sizes = sizes
        arguments = []
        for path, value in kept.items():
            structure = with_rows_marked(structure_of(value, value, 1), 1)
            if leaves_of(structure):
                arguments.append(StateArgument(attribute=path, structure=structure))
        probe.convention = replace(probe.convention, state=tuple(arguments))
        probe.requires_state = bool(arguments)
        if arguments and not reaches(probe, 0):
            probe.convention, probe.requires_state = replace(probe.convention, state=()), False


def find_kept_state(probe: ModuleProbe) -> None:
    """Find the attributes in which the module keeps a state between its calls.

    Raises `LiftingError` for one whose shape does not follow the number of rows.
    """
    settled = {argument.attribute for argument in probe.convention.state}
    found = [argument for argument in kept_arguments(probe) if argument.attribute not in settled]
    # All at once: a module may make its states anew as long as one of them is missing.
    probe.convention = replace(probe.convention, state=(*probe.convention.state, *found))
    if any(argument.attribute for argument in probe.convention.state):
        probe.convention = replace(probe.convention, numbers=_kept_numbers(probe))
        check_state_sizes(probe)
    acting = _acting(probe, probe.sizes)
    _check_others(probe, acting)
    arguments = [argument for argument in probe.convention.state if argument.attribute]
    others = [_acting(probe, sizes) for sizes in _other_steps(probe) if arguments and probe.runs(sizes["seq"])]
    for argument in arguments:
        acts = argument.attribute in acting
        if any((argument.attribute in of_others) != acts for of_others in others):
            raise some_steps_only(probe, argument.root)
        if not acts:
            rest = tuple(other for other in probe.convention.state if other is not argument)
            probe.convention = replace(probe.convention, state=rest)
        elif probe.has_rows and any("batch" not in leaf.dims for _, leaf in leaves_of(argument.structure)):
            raise LiftingError(
                f"forward keeps a state in {argument.root}, whose shape does not follow the number of rows, so it "
                f"cannot be an input; give it an axis of rows{_rows_remedy(probe, argument)}."
            )
    _check_kept_as_given(probe)
    _check_first_call(probe)


def _rows_remedy(probe: ModuleProbe, argument: StateArgument) -> str:
    """How to fix the number of rows, if that is seen from the state."""
    fixed = [leaf.dims[-2] for _, leaf in leaves_of(argument.structure) if "batch" not in leaf.dims and leaf.dims[1:]]
    if not fixed:
        return ""
    shape = tuple(fixed[0] if dim == "batch" else dim for dim in probe.inputs[0].shape)
    return f", or give their number, as in {replace(probe.inputs[0], shape=shape)}"


def check_repeatable(probe: ModuleProbe) -> None:
    """Raise `LiftingError` if later calls on the same inputs and state return something else."""
    module = shared_copy(probe.original)
    state = probe.leaves(probe.sizes, 0) if probe.convention.state else None
    before = {path: cloned(value) for path, value in attributes_of(module).items()}
    first, *later = (flatten(probe.run_on(module, probe.sizes, state=state)) for _ in range(REPEATED))
    if all(_same(first, other) for other in later):
        return
    changed = [path for path, value in attributes_of(module).items() if _is_other(value, before.get(path))]
    if not changed:
        raise LiftingError(
            "Calls of forward with the same inputs return different things, though it keeps nothing that would explain "
            "it: it draws numbers at random (of Python or NumPy) or reads something outside; leave that out in "
            "evaluation mode, as by `if self.training`."
        )
    raise LiftingError(
        f"A later call of forward returns something else, because of {_and(changed)}, which cannot be an input; "
        f"{_KEPT_REMEDY}"
    )


def _kept_numbers(probe: ModuleProbe) -> tuple[KeptNumber, ...]:
    """What calls set on the module beside tensors and leave so: the number of rows, or a flag that it has a state.

    They are the same after a second call, on other inputs, and on other numbers of steps.
    """
    sizes = [probe.sizes, probe.more_rows, *_other_steps(probe)]
    modules = [shared_copy(probe.original) for _ in sizes]
    for seed, (module, of_call) in enumerate(zip(modules, sizes, strict=True)):
        probe.run_on(module, of_call, seed=seed)
    probe.run_on(modules[0], probe.sizes, seed=len(sizes))
    before, first, *others = map(attributes_of, (probe.original, *modules))
    numbers = []
    for path, value in first.items():
        if not isinstance(value, KEPT_NUMBERS) or any(path not in other for other in others):
            continue
        values = [other[path] for other in (first, *others)]
        if probe.has_rows and values == [of_call["batch"] for of_call in sizes]:
            numbers.append(KeptNumber(attribute=path, value=value, is_rows=True))
        elif value != before.get(path) and all(other == value for other in values):
            numbers.append(KeptNumber(attribute=path, value=value))
    return (*_objects_made(probe, modules[0]), *numbers)


def _objects_made(probe: ModuleProbe, called: torch.nn.Module) -> list[KeptNumber]:
    """The objects that hold a state after a call of a module, and that there are none of before, as `self.memory`.

    They are without that state, which is put there.
    """
    kept = [argument.attribute for argument in probe.convention.state if argument.attribute]
    held = {id(tensor): None for path in kept for _, tensor in flatten(value_at(called, path))}
    owners = dict.fromkeys(owner for path in kept for owner in accumulate(path.split(".")[:-1], "{}.{}".format))
    return [
        KeptNumber(attribute=path, value=deepcopy(value_at(called, path), {**held}))
        for path in owners
        if value_at(probe.original, path) is None and value_at(called, path) is not None
    ]


def _check_first_call(probe: ModuleProbe) -> None:
    """Raise `LiftingError` if flags as they are before the first call make it do something else on the same state."""
    state, numbers = probe.convention.state, probe.convention.numbers
    if not numbers or not any(argument.attribute for argument in state):
        return
    zeros = [torch.zeros_like(leaf) for leaf in probe.leaves(probe.sizes)]
    later = probe.record(probe.sizes, state=zeros).returned
    probe.convention = replace(probe.convention, numbers=tuple(number for number in numbers if number.is_object))
    first = probe.record(probe.sizes, state=zeros).returned
    probe.convention = replace(probe.convention, numbers=numbers)
    if not _same(first, later):
        names = _and(number.attribute for number in numbers)
        raise LiftingError(
            f"The first call of forward does something else than later ones with the same state, because of {names}; "
            "let it start from zeros as later calls do."
        )


def _same(a: Sequence[tuple[Path, Tensor]], b: Sequence[tuple[Path, Tensor]]) -> bool:
    """Whether two calls returned and kept the same tensors."""
    return [path for path, _ in a] == [path for path, _ in b] and all(
        x.shape == y.shape and torch.allclose(x, y, equal_nan=True) for (_, x), (_, y) in zip(a, b, strict=True)
    )


def _check_kept_as_given(probe: ModuleProbe) -> None:
    """Raise `LiftingError` for an attribute that a call leaves in another structure, as a list that grows."""
    if not any(argument.attribute for argument in probe.convention.state):
        return
    returned = probe.record(probe.sizes, state=probe.leaves(probe.sizes, 0)).returned
    for argument in probe.convention.state:
        left = [path[2:] for path, _ in returned if path[:2] == (KEPT, argument.root)]
        if argument.attribute and left != [path for path, _ in leaves_of(argument.structure)]:
            raise LiftingError(
                f"forward keeps a state in {argument.root}, which a second call leaves in another structure than the "
                "first, as a list that grows; keep the last state alone."
            )


def _other_steps(probe: ModuleProbe) -> list[dict[str, int]]:
    """Sizes with other numbers of steps, one of them 1 if the module takes that."""
    if "seq" not in dynamic_dims(probe.inputs):
        return []
    return [{**probe.sizes, "seq": steps} for steps in (probe.least_seq, 2 * probe.sizes["seq"])]


def _acting(probe: ModuleProbe, sizes: Mapping[str, int]) -> set[str]:
    """Which of the attributes that a call changes act on what a later call returns: their paths.

    That may be by way of another of them. Seen from the data flow of a second call, as values may hide it.
    """
    convention, module = probe.convention, shared_copy(probe.original)
    state = probe.leaves(sizes) if convention.state else None
    changed = probe.kept_attributes(sizes, state)
    if not changed and not any(argument.attribute for argument in convention.state):
        return set()
    probe.run_on(module, sizes, state=state)
    others = {path: tensors for path, tensors in contents_of(module).items() if path in changed}
    kept = {argument.attribute: numbers for argument, numbers in numbered(convention.state) if argument.attribute}
    of_state = {path: [(state or [])[number] for number in numbers] for path, numbers in kept.items()}
    with DataFlow({**others, **of_state}) as flow:
        returned = flatten(probe.run_on(module, sizes, state=state))
    after = {path: tensors for path, tensors in contents_of(module).items() if path in others}
    after |= {path: [x for keys, x in returned if keys[:2] == (KEPT, f"self.{path}")] for path in kept}
    acting = set(flow.of_numbers | flow.labels(x for keys, x in returned if keys[:1] != (KEPT,)))
    reached = [argument.root for argument in convention.state if argument.parameter]
    acting |= flow.labels(x for keys, x in returned if keys[:1] == (KEPT,) and keys[1] in reached)
    while more := flow.labels(x for path in acting for x in after.get(path, ())) - acting:
        acting |= more
    return acting


def _check_others(probe: ModuleProbe, acting: set[str]) -> None:
    """Raise `LiftingError` for attributes that act on later calls and cannot be inputs: numbers, flags, indices."""
    settled = {argument.attribute for argument in probe.convention.state}
    settled |= {number.attribute for number in probe.convention.numbers}
    if others := {*acting, *_acting_numbers(probe)} - settled:
        raise LiftingError(
            f"forward keeps {_and(others)} from call to call, which acts on later calls and cannot be an input; "
            f"{_KEPT_REMEDY}"
        )


def _acting_numbers(probe: ModuleProbe) -> set[str]:
    """The numbers and flags that calls change and that act on what a later call returns."""
    state = probe.leaves(probe.sizes) if probe.convention.state else None
    module = shared_copy(probe.original)
    if any(number.is_object for number in probe.convention.numbers):
        probe.run_on(module, probe.sizes)  # which makes the objects that hold numbers, too
    snapshots = [attributes_of(module)]
    for seed in range(2):
        probe.run_on(module, probe.sizes, seed, state=state)
        snapshots.append(attributes_of(module))
    usual = flatten(probe.run_on(shared_copy(module), probe.sizes, state=state))
    changed = [
        path
        for path, number in snapshots[-1].items()
        if isinstance(number, bool | int | float) and any(snapshot.get(path) != number for snapshot in snapshots)
    ]
    return {path for path in changed if _acts(probe, module, path, state, usual)}


def _acts(
    probe: ModuleProbe,
    module: torch.nn.Module,
    path: str,
    state: Sequence[Tensor] | None,
    usual: Sequence[tuple[Path, Tensor]],
) -> bool:
    """Whether another value of this number makes a call on the module return something else than the usual."""
    number = attributes_of(module)[path]
    for other in (not number,) if isinstance(number, bool) else _OTHER_NUMBERS:
        try:
            with attributes_set(copy := shared_copy(module), {path: other}):
                returned = flatten(probe.run_on(copy, probe.sizes, state=state))
        except LiftingError:
            continue  # it can have no such value
        if not _same(usual, returned):
            return True
    return False


def _and(paths: Iterable[str]) -> str:
    return " and ".join(f"self.{path}" for path in sorted(paths))


def _is_other(value: Any, before: Any) -> bool:
    if isinstance(value, KEPT_NUMBERS) and isinstance(before, KEPT_NUMBERS):
        return value != before
    return differ(value, before)
