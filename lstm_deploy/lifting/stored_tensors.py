"""Tensors of a file that are read when they are used."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from math import prod

import torch
from torch import Tensor


@dataclass(eq=False)
class Storage:
    """The numbers of one or several tensors."""

    dtype: torch.dtype
    numel: int
    read: Callable[[int], bytes]
    """Reads as many bytes as are asked for, or all if the file has fewer."""

    @cached_property
    def numbers(self) -> Tensor:
        """All numbers, `[numel]`; raises `ValueError` if there are fewer."""
        if not self.numel:
            return torch.empty(0, dtype=self.dtype)
        content = bytearray(self.read(self.numel * self.dtype.itemsize))
        return torch.frombuffer(content, dtype=self.dtype, count=self.numel)


@dataclass(eq=False)
class StoredTensor:
    """A tensor of a file: as much as is known of it before its numbers are read."""

    storage: Storage
    dtype: torch.dtype
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    offset: int
    kind: str = ""
    """What it is if it is not a plain tensor: `quantized`, `sparse_tensor` and the like."""

    @property
    def nbytes(self) -> int:
        """The size of its elements together."""
        return prod(self.shape) * self.dtype.itemsize

    def load(self) -> Tensor:
        """The tensor; raises `ValueError` or `RuntimeError` if the file holds fewer numbers than it needs."""
        numbers = self.storage.numbers
        if numbers.dtype != self.dtype:
            numbers = numbers.view(self.dtype)
        return numbers.as_strided(self.shape, self.stride, self.offset)
