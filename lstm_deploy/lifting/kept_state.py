"""States that a module keeps between its calls, in attributes and buffers."""

from collections.abc import Mapping
from typing import Any

import torch
from msgspec.structs import replace

from lstm_deploy.errors import LiftingError
from lstm_deploy.lifting.calling import KEPT, StateArgument, flatten, numbered
from lstm_deploy.lifting.execution import shared_copy
from lstm_deploy.lifting.probing import ModuleProbe, attributes_of, differ, dynamic_dims
from lstm_deploy.lifting.state_parts import Usual
from lstm_deploy.lifting.state_search import kept_arguments, reaches, some_steps_only, with_rows_marked
from lstm_deploy.lifting.state_structure import cloned, leaves_of, structure_of

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
    for argument in found:
        matters = _matters(probe, probe.sizes, argument)
        if any(_matters(probe, sizes, argument) != matters for sizes in _other_steps(probe)):
            raise some_steps_only(probe, argument.root)
        if not matters:
            rest = tuple(other for other in probe.convention.state if other is not argument)
            probe.convention = replace(probe.convention, state=rest)
        elif probe.has_rows and any("batch" not in leaf.dims for _, leaf in leaves_of(argument.structure)):
            raise LiftingError(
                f"forward keeps a state in {argument.root}, whose shape does not follow the number of rows, "
                "so it cannot be an input; give it an axis of rows, or give their number, as in x:float32[1,seq,3]."
            )
    _check_kept_as_given(probe)


def check_repeatable(probe: ModuleProbe) -> None:
    """Raise `LiftingError` if later calls on the same inputs and state return something else."""
    module = shared_copy(probe.original)
    state = probe.leaves(probe.sizes, 0) if probe.convention.state else None
    before = {path: cloned(value) for path, value in attributes_of(module).items()}
    first, *later = (flatten(probe.run_again(module, state)) for _ in range(REPEATED))
    if all(
        [path for path, _ in first] == [path for path, _ in other]
        and all(torch.allclose(a, b, equal_nan=True) for (_, a), (_, b) in zip(first, other, strict=True))
        for other in later
    ):
        return
    changed = [path for path, value in attributes_of(module).items() if _is_other(value, before.get(path))]
    names = " and ".join(f"self.{path}" for path in changed) or "what it keeps"
    raise LiftingError(
        f"A later call of forward returns something else, because of {names}, which cannot be an input; keep a state "
        "in tensors of floats with an axis of rows, or let forward take and return it."
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


def _matters(probe: ModuleProbe, sizes: Mapping[str, int], argument: StateArgument) -> bool:
    """Whether a tensor of an argument of the state reaches an LSTM's start, or changes what is returned."""
    numbers = next(numbers for other, numbers in numbered(probe.convention.state) if other is argument)
    try:
        for seed in range(3):  # an input such as a flag may hide it
            usual = Usual(probe, sizes, seed)
            if any(usual.reached(number) or usual.matters(number) for number in numbers):
                return True
    except LiftingError:
        pass
    return False


def _is_other(value: Any, before: Any) -> bool:
    if isinstance(value, bool | int | float | str | None) and isinstance(before, bool | int | float | str | None):
        return value != before
    return differ(value, before)
