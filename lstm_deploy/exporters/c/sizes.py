"""Sizes and places in arrays as the C code has them: numbers, or polynomials in `steps`, the length of a sequence."""

from collections.abc import Sequence
from dataclasses import dataclass

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
        """Its value for so many steps."""
        return sum(factor * steps**power for power, factor in enumerate(self.coefficients))

    def __add__(self, other: "Size | int") -> "Size":
        a, b = self.coefficients, _size(other).coefficients
        longest = max(len(a), len(b))
        a, b = a + (0,) * (longest - len(a)), b + (0,) * (longest - len(b))
        return Size.of(*(x + y for x, y in zip(a, b, strict=True)))

    def __sub__(self, other: "Size | int") -> "Size":
        return self + _size(other) * -1

    def __mul__(self, other: "Size | int") -> "Size":
        b = _size(other).coefficients
        product = [0] * (len(self.coefficients) + len(b))
        for i, x in enumerate(self.coefficients):
            for j, y in enumerate(b):
                product[i + j] += x * y
        return Size.of(*product)

    def __str__(self) -> str:
        """As C, for an unsigned type; in parentheses where it is more than a number or a name."""
        powers = [" * ".join([STEPS] * power) for power in range(len(self.coefficients))]
        terms = [
            " * ".join(filter(None, [str(abs(factor)) if abs(factor) != 1 or not power else "", power]))
            for factor, power in zip(self.coefficients, powers, strict=True)
            if factor
        ]
        signs = [" - " if factor < 0 else " + " for factor in self.coefficients if factor]
        pairs = sorted(zip(signs, terms, strict=True), reverse=True)  # what is added first
        text = "".join(sign + term for sign, term in pairs).removeprefix(" + ")
        return f"({text})" if " " in text else text or "0"


ZERO, ONE = Size.of(), Size.of(1)


def fit(steps: Sequence[int], values: Sequence[float]) -> Size | None:
    """The polynomial that has these values for these steps, which follow each other; none if none of degree 2 does."""
    if any(value != int(value) for value in values):
        return None
    numbers = [int(value) for value in values]
    first, start = steps[0], numbers[0]
    difference = numbers[1] - numbers[0]
    second = numbers[2] - 2 * numbers[1] + numbers[0]
    if second % 2:
        return None
    # Newton's forward differences, at distances of 1.
    offset = Size.of(-first, 1)
    found = Size.of(start) + offset * difference + offset * (offset - 1) * (second // 2)
    return found if [found.at(number) for number in steps] == numbers else None


def product(sizes: Sequence[Size]) -> Size:
    """How many entries an array of this shape has."""
    result = ONE
    for size in sizes:
        result = result * size
    return result


def _size(value: "Size | int") -> Size:
    return Size.of(value) if isinstance(value, int) else value
