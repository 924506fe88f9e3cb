"""The structures in which authors usually take the state of their recurrent modules, to be tried in turn."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import combinations
from typing import Any

import torch
from torch import Tensor, nn

from lstm_deploy.contract import Dim
from lstm_deploy.lifting.recurrent_modules import STEPS, zeros_of
from lstm_deploy.lifting.state_structure import Leaf, StateList, StatePair, children_of

Structures = tuple[Any, ...]
"""One for each argument."""
MOST_MODULES = 4
"""Up to this number of recurrent modules, each subset of them is tried."""


def candidates(recurrent: Mapping[str, Any], arguments: int, *, batched: bool) -> Iterator[Structures]:
    """Structures for this number of arguments that hold the state of all, or some, of the recurrent modules."""
    names = list(recurrent)
    sizes = range(len(names), 0, -1) if len(names) <= MOST_MODULES else (len(names), 1)
    for size in sizes:
        for chosen in combinations(names, size):
            yield from _of_modules({name: recurrent[name] for name in chosen}, arguments, batched=batched)
    yield from _of_groups(recurrent, arguments, batched=batched)


def projected(module: nn.Module, arguments: int) -> Iterator[Structures]:
    """Structures for states that forward changes by a linear layer before a recurrent module gets them."""
    widths = sorted({child.in_features for child in module.modules() if isinstance(child, nn.Linear)})
    for width in widths:
        for dims in (("batch", width), (1, "batch", width)):
            yield from _alike(Leaf(dims), arguments)


def returned_structures(returned: Any, arguments: int) -> Iterator[Structures]:
    """Parts of what `forward` returned that it may take back as so many arguments; the last ones first."""
    parts = [child for _, child in children_of(returned)]
    if isinstance(returned, Tensor) or not parts:
        return
    for start in reversed(range(len(parts) - arguments + 1)):
        yield tuple(parts[start : start + arguments])
    if arguments == 1:
        for start in range(len(parts) - 1):
            yield (tuple(parts[start:]),)
        for part in parts:
            yield from returned_structures(part, 1)


def _of_modules(recurrent: Mapping[str, Any], arguments: int, *, batched: bool) -> Iterator[Structures]:
    for styles in _styles(recurrent.values(), batched=batched):
        if len(styles) == 1:
            yield from _of_one(styles[0], arguments)
            continue
        leaves = [[*map(Leaf, dims)] for dims in styles]
        own = [StatePair(both) if len(both) == 2 else both[0] for both in leaves]
        hs, cs = [both[0] for both in leaves], [both[1] for both in leaves if len(both) == 2]
        flat = [leaf for both in leaves for leaf in both]
        if arguments == len(own):
            yield tuple(own)
        if cs and arguments == len(flat):
            yield tuple(flat)
            yield (*hs, *cs)
        if arguments == 1:
            yield (StateList(own),)
            yield (flat,)
            yield (dict(zip(recurrent, own, strict=True)),)
        if cs and arguments <= 2:
            yield from _pair_or_both(hs, cs, arguments)
        if arguments == 1 and all(leaf.dims[1:] == ("batch", hs[0].dims[-1]) for leaf in flat):
            yield (Leaf((sum(leaf.dims[0] for leaf in flat if isinstance(leaf.dims[0], int)), *hs[0].dims[1:])),)
        if len({leaf.dims for leaf in flat}) == 1:
            count, dims = len(own), hs[0].dims
            if len(cs) == count and arguments <= 2:
                yield from _pair_or_both(Leaf((count, *dims)), Leaf((count, *dims)), arguments)
            if arguments == 1:
                stacks = _stacks_of_pairs(count, dims) if len(cs) == count else _stacks(len(flat), dims)
                yield from ((Leaf(shape),) for shape in stacks)


def _of_groups(recurrent: Mapping[str, Any], arguments: int, *, batched: bool) -> Iterator[Structures]:
    """An argument for each of several stages, with as many modules in each, whose states are put together alike."""
    each = len(recurrent) // arguments
    if arguments == 1 or each < 2 or each * arguments != len(recurrent):
        return
    names = list(recurrent)
    groups = ({name: recurrent[name] for name in names[start : start + each]} for start in range(0, len(names), each))
    for alike in zip(*(_of_modules(group, 1, batched=batched) for group in groups), strict=False):
        yield tuple(structure for (structure,) in alike)


def _stacks_of_pairs(count: int, dims: tuple[Dim, ...]) -> list[tuple[Dim, ...]]:
    """Shapes of one tensor that holds `h` and `c` of several modules of one size."""
    return [(2, count, *dims), (count, 2, *dims), (count, *dims, 2), (2 * count, *dims)]


def _stacks(count: int, dims: tuple[Dim, ...]) -> list[tuple[Dim, ...]]:
    """Shapes of one tensor that holds several states of one size."""
    return [(count, *dims), *([("batch", count, *dims[1:])] if dims[0] == "batch" else [])]


def _of_one(dims: Sequence[tuple[Dim, ...]], arguments: int) -> Iterator[Structures]:
    leaves = [*map(Leaf, dims)]
    if len(leaves) == 2 and arguments <= 2:
        yield from _pair_or_both(leaves[0], leaves[1], arguments)
    if arguments != 1:
        return
    if len(leaves) == 1:
        yield (leaves[0],)
    yield (StateList(leaves),)  # where entries are replaced in place, or have other names
    yield (dict(zip("hc", leaves, strict=False)),)
    if len(leaves) == 1:
        return
    h, c = dims
    if h == c:
        yield (Leaf((2, *h)),)
        yield (Leaf((*h, 2)),)
        if h[0] == "batch":
            yield (Leaf(("batch", 2, *h[1:])),)
    widths = [size for size in (h[-1], c[-1]) if isinstance(size, int)]
    yield (Leaf((*h[:-1], sum(widths))),)
    if isinstance(h[0], int) and len(h) == 3 and h == c:
        yield (Leaf((2 * h[0], *h[1:])),)
    yield (Leaf(h),)
    yield (Leaf(c),)


def _pair_or_both(h: Any, c: Any, arguments: int) -> Iterator[Structures]:
    yield (StatePair((h, c)),) if arguments == 1 else (h, c)


def _alike(leaf: Leaf, arguments: int) -> Iterator[Structures]:
    if arguments == 1:
        yield (leaf,)
        yield (StatePair((leaf, leaf)),)
    else:
        yield (leaf,) * arguments


def _styles(modules: Iterable[Any], *, batched: bool) -> Iterator[list[tuple[tuple[Dim, ...], ...]]]:
    """Shapes of the states of each module: as PyTorch has them, without the axis of layers, and with rows first."""
    modules = list(modules)
    rows: tuple[Dim, ...] = ("batch",)
    forms: list[list[tuple[tuple[Dim, ...], ...]]] = []
    for module in modules:
        cell = isinstance(module, STEPS)
        zeros = zeros_of(module, torch.empty(0), 1)
        depth, sizes = zeros[0].shape[0], [state.shape[2] for state in zeros]
        layered = tuple((depth, *rows, size) for size in sizes)
        flat = tuple((*rows, size) for size in sizes) if depth == 1 else layered
        first = tuple((*rows, depth, size) for size in sizes)
        natural = flat if cell else layered
        alone = tuple((depth, size) for size in sizes)
        single = tuple((size,) for size in sizes) if depth == 1 else alone
        unbatched = [single, alone] if cell else [alone, single]
        forms.append([*([] if batched else unbatched), natural, layered, flat, first])
    seen = []
    for style in zip(*forms, strict=True):
        if style not in seen:
            seen.append(style)
            yield [*style]
