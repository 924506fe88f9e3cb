"""Sizes and offsets of arrays in the C code: numbers, or polynomials in `steps`, the length of a sequence."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest

from lstm_deploy.contract import STEPS


@dataclass(frozen=True)
class Size:
    """`coefficients[0] + coefficients[1] * steps + …`, whole numbers, the last of them not 0."""

    coefficients: tuple[int, ...]

    @classmethod
    def of(cls, *coefficients: int) -> "Size":
        numbers = list(coefficients)
        while numbers and numbers[-1] == 0:
            numbers.pop()
        return cls(tuple(numbers))

    @property
    def number(self) -> int | None:
        """Its value where it does not depend on `steps`."""
        return None if len(self.coefficients) > 1 else sum(self.coefficients)

    def at(self, steps: int) -> int:
        """Its value for a number of steps."""
        return sum(factor * steps**power for power, factor in enumerate(self.coefficients))

    def __add__(self, other: "Size | int") -> "Size":
        return Size.of(*map(sum, zip_longest(self.coefficients, _size(other).coefficients, fillvalue=0)))

    def __sub__(self, other: "Size | int") -> "Size":
        return self + _size(other) * -1

    def __mul__(self, other: "Size | int") -> "Size":
        factors = _size(other).coefficients
        product = [0] * (len(self.coefficients) + len(factors))
        for i, x in enumerate(self.coefficients):
            for j, y in enumerate(factors):
                product[i + j] += x * y
        return Size.of(*product)

    def __str__(self) -> str:
        """As C, for an unsigned type; in parentheses where it is more than a number or a name."""
        terms = [
            (factor < 0, " * ".join([str(abs(factor))] * (abs(factor) != 1 or not power) + [STEPS] * power))
            for power, factor in enumerate(self.coefficients)
            if factor
        ]
        signed = (f"{' - ' if negative else ' + '}{term}" for negative, term in sorted(terms, reverse=True))
        text = "".join(signed).removeprefix(" + ")
        return f"({text})" if " " in text else text or "0"


ZERO, ONE = Size.of(), Size.of(1)


def fit(steps: Sequence[int], values: Sequence[float]) -> Size | None:
    """The polynomial of degree 2 or less with these values at these consecutive steps; none if there is none."""
    if any(value != int(value) for value in values):
        return None
    numbers = [int(value) for value in values]
    difference = numbers[1] - numbers[0]
    second = numbers[2] - 2 * numbers[1] + numbers[0]
    if second % 2:
        return None
    # Newton's forward differences, at distances of 1.
    offset = Size.of(-steps[0], 1)
    polynomial = Size.of(numbers[0]) + offset * difference + offset * (offset - 1) * (second // 2)
    return polynomial if [polynomial.at(number) for number in steps] == numbers else None


def product(sizes: Sequence[Size]) -> Size:
    """The number of entries of an array of this shape."""
    return math.prod(sizes, start=ONE)


def _size(value: "Size | int") -> Size:
    return Size.of(value) if isinstance(value, int) else value
