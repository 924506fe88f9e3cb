"""Checks of a lifted module that takes padded rows: on rows of unequal length, in every order that it takes."""

import torch
from torch import Tensor

from lstm_deploy.contract import steps_of
from lstm_deploy.errors import LiftingError, one_line, user_line
from lstm_deploy.lifting.calling import flatten
from lstm_deploy.lifting.execution import shared_copy
from lstm_deploy.lifting.outputs import initial_state, run_and_compare
from lstm_deploy.lifting.probing import ModuleProbe
from lstm_deploy.lifting.recurrent import Lifted, rows_taken
from lstm_deploy.lifting.row_lengths import falling_lengths

ROWS = 5


def check_row_lengths(probe: ModuleProbe, template: Lifted) -> tuple[str, ...]:
    """What a user must know of the rows that a module takes; nothing where no input tells their lengths.

    Raises `LiftingError` if the lifted module computes something else than the untouched one on rows of unequal length,
    or carries the state of another row.
    """
    signature = template.signature
    if not any(spec.tells_lengths for spec in signature.inputs):
        return ()
    sizes = {**probe.sizes, "batch": signature.fixed_size("batch") or ROWS}
    lengths = falling_lengths(sizes["batch"], steps_of(signature.inputs, sizes), signature.least_seq)
    run_and_compare(probe, shared_copy(template), sizes, lengths)
    if probe.packing is None:
        _check_row_order(probe, template)
        return ()
    notes = [
        f"{spec.name} is {spec.padding:g} where a row has ended, and something else before, in one step at least"
        for spec in signature.inputs
        if not spec.is_lengths and spec.tells_lengths
    ]
    if not probe.packing.demands_sorted:
        run_and_compare(probe, shared_copy(template), sizes, lengths[2:] + lengths[:2])
        _check_row_order(probe, template)
    elif not _takes_any_order(probe, template, sizes, lengths):
        notes.append("the rows of a batch must be sorted by falling length")
    if not _ignores_padding(probe, template):
        notes.append("the outputs look at padded steps, so the longest row of a batch must fill the time axis")
    return tuple(notes)


def _takes_any_order(probe: ModuleProbe, template: Lifted, sizes: dict[str, int], lengths: list[int]) -> bool:
    """Whether the lifted module gives the same rows for rows in another order, which the untouched one refuses.

    Raises `LiftingError` if forward itself refuses them: a graph cannot.
    """
    signature = template.signature
    inputs, states = probe.tensors(sizes, lengths=lengths), initial_state(template, sizes["batch"])
    backwards = torch.arange(sizes["batch"]).flip(0)
    turned = rows_taken(signature.inputs, inputs, backwards)
    expected = shared_copy(template)(*inputs, *states)
    try:
        actual = shared_copy(template)(*turned, *states)
    except Exception as error:  # whatever the user's forward raises
        raise LiftingError(
            f"forward refuses rows that are not sorted by length ({one_line(error)}{user_line(error)}), which depends "
            "on the values of its inputs; leave that to pack_padded_sequence."
        ) from error
    specs = (*signature.outputs, *signature.state_outputs)
    pairs = zip(rows_taken(specs, actual, backwards), expected, strict=True)
    return all(torch.allclose(a, b, rtol=1e-4, atol=1e-5, equal_nan=True) for a, b in pairs)


def _check_row_order(probe: ModuleProbe, template: Lifted) -> None:
    """Raise `LiftingError` if a recurrent module gets the rows in another order, as its state is then another row's.

    A forward that sorts rows by length before it packs them does that, unless the sort is one that can be left out.
    """
    signature = template.signature
    if signature.fixed_size("batch") is not None:
        return
    sizes = {**probe.sizes, "batch": 2}
    steps = steps_of(signature.inputs, sizes)
    lengths = [max(signature.least_seq, steps - 2), steps]
    finals = []
    for seed in (0, 1):  # of the first row of the inputs; the second stays
        inputs = [
            torch.where(_first_row(x, spec.shape.index("batch")), other, x) if "batch" in spec.shape else x
            for spec, x, other in zip(
                signature.inputs,
                probe.tensors(sizes, lengths=lengths),
                probe.tensors(sizes, seed, lengths),
                strict=True,
            )
        ]
        lifted = shared_copy(template)
        returned = flatten(lifted.call(*inputs, *initial_state(lifted, 2)))
        finals.append(lifted.flow.returned(dict(returned), lifted.ports))
    for state, before, after in zip(signature.state_specs, *finals, strict=True):
        changed = (before != after) & ~(before.isnan() & after.isnan())
        if changed.any(-1).any(0).tolist() == [False, True]:  # but the state of the second row changed
            raise LiftingError(
                f"{state.module or 'The module'} gets the rows of a batch in another order than the inputs have, so "
                "its state would be another row's; do not sort by length, but pass enforce_sorted=False to "
                "pack_padded_sequence."
            )


def _first_row(x: Tensor, axis: int) -> Tensor:
    """Where a tensor belongs to the first row."""
    return (torch.arange(x.shape[axis]) == 0).reshape([-1 if dim == axis else 1 for dim in range(x.dim())])


def _ignores_padding(probe: ModuleProbe, template: Lifted) -> bool:
    """Whether outputs without a time axis stay the same when no row fills it, as with `pad_packed_sequence`."""
    rows, steps = probe.sizes["batch"], steps_of(template.signature.inputs, probe.sizes)
    lengths = [max(template.signature.least_seq, steps - 2)] * rows
    try:
        expected = flatten(probe.run(probe.sizes, lengths))
    except LiftingError:  # as where padded steps are added to those of the input
        return False
    inputs = probe.tensors(probe.sizes, lengths=lengths)
    actual = flatten(shared_copy(template).call(*inputs, *initial_state(template, rows)))
    pairs = [(expected[position][1], actual[position][1]) for position in template.output_positions]
    return all(a.shape != b.shape or torch.allclose(a, b, rtol=1e-4, atol=1e-5, equal_nan=True) for a, b in pairs)
