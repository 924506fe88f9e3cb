"""What follows from which tensors in a call, as seen from the operators that the call runs.

Other values of a tensor need not change a result: a comparison, a clamp or a product with zero may hide it. Here a
result follows from a tensor as soon as any operator leads from one to the other.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

_SHAPE_ONLY = ("_like", "new_empty", "new_full", "new_ones", "new_zeros", "new_empty_strided")
_OVERWRITES = ("copy_", "fill_", "zero_")
_TO_PYTHON = ("_local_scalar_dense", "equal", "is_nonzero")


class DataFlow(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Within the block, finds what follows from tensors that have a label.

    Where a value of a labelled tensor becomes a number of Python, all that is computed after it follows from it.
    """

    def __init__(self, labelled: Mapping[str, Iterable[Tensor]]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._labels: dict[int, frozenset[str]] = {}
        """By the address of the memory, so that views count as what they are views of."""
        self._held: list[Tensor] = []
        """Keeps that memory from being used for anything else."""
        self.of_numbers: frozenset[str] = frozenset()
        """The labels of what has become a number."""
        for label, tensors in labelled.items():
            for tensor in tensors:
                self._set(tensor, self._own(tensor) | {label})

    def labels(self, tensors: Iterable[Tensor]) -> frozenset[str]:
        """The labels of what any of these tensors follow from."""
        return frozenset().union(*map(self._own, tensors))

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        results = func(*args, **kwargs)
        name = func._schema.name.rpartition("::")[2]
        given = _tensors((args, kwargs))
        if name.endswith(_SHAPE_ONLY):
            return results
        overwritten = args[0] if name in _OVERWRITES else None
        labels = self.of_numbers | self.labels(tensor for tensor in given if tensor is not overwritten)
        if overwritten is not None:
            whole = overwritten.numel() * overwritten.element_size() == overwritten.untyped_storage().nbytes()
            self._set(overwritten, labels if whole else labels | self._own(overwritten))
        elif name in _TO_PYTHON:
            self.of_numbers |= labels
        elif labels:
            written = [value for value, place in zip(args, func._schema.arguments, strict=False) if _is_written(place)]
            views = {*map(_address, given)}  # which have the labels of their memory already
            computed = [tensor for tensor in _tensors(results) if _address(tensor) not in views]
            for tensor in (*computed, *_tensors(written)):
                self._set(tensor, labels | self._own(tensor))
        return results

    def _own(self, tensor: Tensor) -> frozenset[str]:
        return self._labels.get(_address(tensor), frozenset())

    def _set(self, tensor: Tensor, labels: frozenset[str]) -> None:
        if address := _address(tensor):
            self._labels[address] = labels
            self._held.append(tensor)


class Ancestry(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Within the block, keeps which tensors each operator makes of which."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._steps: list[tuple[set[int], set[int]]] = []
        self._held: list[Tensor] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        results = func(*args, **(kwargs or {}))
        given, made = _tensors((args, kwargs)), _tensors(results)
        self._held += made
        self._steps.append(({*map(_address, given)}, {*map(_address, made)}))
        return results

    def leads(self, source: Tensor, result: Tensor) -> bool:
        """Whether operators made one tensor of the other."""
        reached = {_address(source)}
        for given, made in self._steps:
            if reached & given:
                reached |= made
        return _address(source) != _address(result) and _address(result) in reached


def _tensors(value: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(value) if isinstance(leaf, Tensor)]


def _is_written(place: Any) -> bool:
    return place.alias_info is not None and place.alias_info.is_write


def _address(tensor: Tensor) -> int:
    """Of the memory of a tensor; 0 if it has none, or not in one piece."""
    return tensor.untyped_storage().data_ptr() if tensor.layout is torch.strided else 0
