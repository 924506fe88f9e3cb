"""Finds how a module packs padded rows: which input tells their lengths, and which lengths it takes."""

from collections.abc import Iterator, Sequence
from copy import copy
from typing import TYPE_CHECKING

from msgspec.structs import replace
from torch import Tensor, nn

from lstm_deploy.contract import TensorSpec, steps_of
from lstm_deploy.errors import LiftingError
from lstm_deploy.lifting.packing import PackCall, Packing, observed

if TYPE_CHECKING:
    from lstm_deploy.lifting.probing import ModuleProbe


def find_packing(probe: "ModuleProbe") -> tuple[tuple[TensorSpec, ...], Packing | None]:
    """The inputs, of which one may be found to tell the lengths of rows, and how the module packs.

    No packing where the module does not pack, or does not run.
    """
    inputs = probe.inputs
    try:
        packs = bool(_pack_calls(probe, inputs))
    except LiftingError:  # as where every random row consists of padding
        packs = True
    if packs and not any(spec.tells_lengths for spec in inputs):
        inputs = next((other for other in _telling_lengths(probe) if _lengths_follow(probe, other)), inputs)
    try:
        return inputs, _packing(probe, inputs)
    except LiftingError:
        return inputs, None


def falling_lengths(rows: int, steps: int, least: int = 1) -> list[int]:
    """A length for each row, the first one all steps: as unequal as they can be."""
    shorter = (0, 1, 3, 4, 2)
    return sorted((max(least, steps - shorter[row % len(shorter)]) for row in range(rows)), reverse=True)


def _packing(probe: "ModuleProbe", inputs: Sequence[TensorSpec]) -> Packing | None:
    falling = falling_lengths(_rows(probe, inputs), steps_of(inputs, probe.sizes))
    calls = _pack_calls(probe, inputs, falling)
    if not calls:
        return None
    packing = Packing(takes_numbers=any(call.are_numbers for call in calls))
    if falling[0] == falling[-1] or not any(spec.tells_lengths for spec in inputs):
        return packing
    try:
        calls = _pack_calls(probe, inputs, falling[::-1])
    except LiftingError:
        return packing._replace(demands_sorted=True)
    return packing._replace(sorts_rows=any(_is_falling(call.lengths) for call in calls))


def _telling_lengths(probe: "ModuleProbe") -> Iterator[tuple[TensorSpec, ...]]:
    """The inputs with another one each time said to tell lengths."""
    embeddings = [child for child in probe.original.modules() if isinstance(child, nn.Embedding)]
    padding = {0: None, 1: None} | {child.padding_idx: None for child in embeddings if child.padding_idx is not None}
    for index, spec in enumerate(probe.inputs):
        rest = probe.inputs[:index], probe.inputs[index + 1 :]
        for candidate in _candidates(spec, list(padding)):
            yield *rest[0], candidate, *rest[1]


def _candidates(spec: TensorSpec, padding: Sequence[int]) -> Iterator[TensorSpec]:
    if len(spec.shape) == 1 and spec.shape[0] != "seq":
        if spec.dtype in ("int32", "int64"):
            yield replace(spec, is_lengths=True)
    elif len(spec.shape) > 1 and ("seq" in spec.shape[:2] or "batch" in spec.shape[:2]):
        if spec.dtype == "bool":
            yield from (replace(spec, padding=value) for value in (0, 1))
        elif spec.dtype.startswith("int"):
            yield from (replace(spec, padding=value) for value in padding)
            yield replace(spec, padding=0, low=(0,), high=(1,))  # a mask
        else:
            yield replace(spec, padding=0)
            yield replace(spec, padding=0, low=(1,), high=(1,))  # a mask


def _lengths_follow(probe: "ModuleProbe", inputs: Sequence[TensorSpec]) -> bool:
    """Whether the module packs shorter rows where these inputs say that rows are shorter."""
    rows, steps = _rows(probe, inputs), steps_of(inputs, probe.sizes)
    try:
        full = _pack_calls(probe, inputs, [steps] * rows)
        cut = _pack_calls(probe, inputs, [*[steps] * (rows - 1), max(1, steps - 2)])
    except LiftingError:
        return False
    pairs = list(zip(full, cut, strict=False))
    return bool(pairs) and all(a.lengths.min() == a.lengths.max() > b.lengths.min() for a, b in pairs)


def _rows(probe: "ModuleProbe", inputs: Sequence[TensorSpec]) -> int:
    """The number of rows, also where it is a number in the shape of the input that tells their lengths."""
    spec = next((spec for spec in inputs if spec.tells_lengths), inputs[0])
    if "batch" in spec.shape:
        return probe.sizes["batch"]
    return next((dim for dim in spec.shape[:2] if isinstance(dim, int)), 1)


def _pack_calls(
    probe: "ModuleProbe", inputs: Sequence[TensorSpec], lengths: Sequence[int] | None = None
) -> list[PackCall]:
    """What the module packs, given these inputs; raises `LiftingError` if it does not run."""
    other = copy(probe)
    other.inputs = tuple(inputs)
    with observed() as calls:
        other.run(probe.sizes, lengths=lengths)
    return calls


def _is_falling(lengths: Tensor) -> bool:
    return bool((lengths[:-1] >= lengths[1:]).all() and lengths[0] > lengths[-1])
