"""Arrays in the C code, for one row of a batch.

A value has a stride for each axis, so that what only moves numbers (transposing, slicing, broadcasting) costs nothing.
"""

from collections.abc import Sequence
from typing import NamedTuple

from lstm_deploy.exporters.c.sizes import ONE, ZERO, Size, product


class Value(NamedTuple):
    """An array, or a view of one: entry `[i, j]` is `buffer[offset + i * strides[0] + j * strides[1]]`."""

    shape: tuple[Size, ...]
    c_type: str
    buffer: str
    """The C expression of a pointer; empty for a `literal`."""
    strides: tuple[Size, ...]
    offset: Size = ZERO
    literal: str = ""
    """The C expression of what every entry is, in place of a buffer."""

    @classmethod
    def array(cls, shape: tuple[Size, ...], c_type: str, buffer: str) -> "Value":
        """An array without gaps."""
        return cls(shape, c_type, buffer, contiguous(shape))

    @classmethod
    def constant(cls, shape: tuple[Size, ...], c_type: str, literal: str) -> "Value":
        """An array with one value in all entries, which takes no memory."""
        return cls(shape, c_type, "", (ZERO,) * len(shape), literal=literal)

    def at(self, indices: Sequence[str]) -> str:
        """The C expression of one entry."""
        if self.literal:
            return self.literal
        terms = [] if self.offset == ZERO else [str(self.offset)]
        for index, stride, size in zip(indices, self.strides, self.shape, strict=True):
            if index != "0" and stride != ZERO and size != ONE:
                terms.append(index if stride == ONE else f"{index} * {stride}")
        return f"{self.buffer}[{' + '.join(terms) or '0'}]"

    @property
    def pointer(self) -> str:
        """The C expression of the address of its first entry."""
        return self.buffer if self.offset == ZERO else f"{self.buffer} + {self.offset}"

    @property
    def size(self) -> Size:
        """The number of its entries."""
        return product(self.shape)

    @property
    def is_contiguous(self) -> bool:
        """Whether it is an array without gaps."""
        return not self.literal and all(
            stride == expected or size == ONE
            for stride, expected, size in zip(self.strides, contiguous(self.shape), self.shape, strict=True)
        )

    def broadcast(self, shape: Sequence[Size]) -> "Value":
        """A view with the shape of an operation's output."""
        missing = len(shape) - len(self.shape)
        strides = [ZERO] * missing + [
            ZERO if size == ONE and target != ONE else stride
            for size, stride, target in zip(self.shape, self.strides, shape[missing:], strict=True)
        ]
        return self._replace(shape=tuple(shape), strides=tuple(strides))


def contiguous(shape: Sequence[Size]) -> tuple[Size, ...]:
    """Strides of an array without gaps."""
    strides, step = [], ONE
    for size in reversed(shape):
        strides.append(step)
        step = step * size
    return tuple(reversed(strides))
