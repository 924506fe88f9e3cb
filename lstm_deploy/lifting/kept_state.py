"""States that a module keeps between its calls, in attributes and buffers."""

from collections.abc import Iterable
from typing import Any

import torch
from msgspec.structs import replace

from lstm_deploy.errors import LiftingError
from lstm_deploy.lifting.calling import KEPT, StateArgument, flatten, state_leaves
from lstm_deploy.lifting.execution import shared_copy
from lstm_deploy.lifting.probing import STEP, ModuleProbe, attributes_of, differ
from lstm_deploy.lifting.state_search import differing, reaches, structure_in, with_rows_marked
from lstm_deploy.lifting.state_structure import cloned, leaves_of, structure_of


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
    before = probe.convention
    settled = {argument.attribute for argument in before.state}
    kept = probe.kept_attributes(probe.sizes)
    wider = probe.kept_attributes({**probe.sizes, "batch": probe.sizes["batch"] + STEP}) if probe.has_rows else kept
    arguments = []
    for path, value in kept.items():
        try:
            structure = structure_in(probe, value, wider.get(path))
        except ValueError:
            continue
        if path not in settled and leaves_of(structure):
            arguments.append(StateArgument(attribute=path, structure=structure))
    # All at once: a module may make its states anew as long as one of them is missing.
    probe.convention = replace(before, state=(*before.state, *arguments))
    known = len(state_leaves(before.state))
    for argument in arguments:
        count = len(leaves_of(argument.structure))
        if not _matters(probe, range(known, known + count)):
            rest = tuple(other for other in probe.convention.state if other is not argument)
            probe.convention = replace(probe.convention, state=rest)
            continue
        known += count
        if probe.has_rows and any("batch" not in leaf.dims for _, leaf in leaves_of(argument.structure)):
            raise LiftingError(
                f"forward keeps a state in self.{argument.attribute}, whose shape does not follow the number of rows, "
                "so it cannot be an input; give it an axis of rows, or give their number, as in x:float32[1,seq,3]."
            )


def check_repeatable(probe: ModuleProbe) -> None:
    """Raise `LiftingError` if a second call on the same inputs and state returns something else."""
    module = shared_copy(probe.original)
    state = probe.leaves(probe.sizes, 0) if probe.convention.state else None
    before = {path: cloned(value) for path, value in attributes_of(module).items()}
    first, second = (flatten(probe.run_again(module, state)) for _ in range(2))
    if [path for path, _ in first] == [path for path, _ in second] and all(
        torch.allclose(a, b, equal_nan=True) for (_, a), (_, b) in zip(first, second, strict=True)
    ):
        return
    changed = [path for path, value in attributes_of(module).items() if _is_other(value, before.get(path))]
    names = " and ".join(f"self.{path}" for path in changed) or "what it keeps"
    raise LiftingError(
        f"A second call of forward returns something else, because of {names}, which cannot be an input; keep a state "
        "in tensors of floats with an axis of rows, or let forward take and return it."
    )


def _matters(probe: ModuleProbe, numbers: Iterable[int]) -> bool:
    """Whether one of these tensors of the state reaches an LSTM's start, or changes what is returned."""
    leaves = probe.leaves(probe.sizes, 0)
    try:
        before = probe.record(probe.sizes, state=leaves)
        for number in numbers:
            others = list(leaves)
            others[number] = torch.randn(leaves[number].shape, generator=torch.Generator().manual_seed(1))
            after = probe.record(probe.sizes, state=others)
            values = [[value for path, value in run.returned if path[:1] != (KEPT,)] for run in (before, after)]
            same = all(torch.equal(a, b) for a, b in zip(*values, strict=True))
            if not same or differing(before, after):
                return True
    except LiftingError:
        pass
    return False


def _is_other(value: Any, before: Any) -> bool:
    if isinstance(value, bool | int | float | str | None) and isinstance(before, bool | int | float | str | None):
        return value != before
    return differ(value, before)
