"""Inputs that make branches on values act, such as one on a blank label or on a frame of zeros.

Random inputs seldom have the one value that a branch asks for. So the numbers that a module compares with are seen
from its operators, and steps and rows are filled with them.
"""

from collections.abc import Iterator, Mapping, Sequence
from math import isfinite
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from lstm_deploy.contract import TensorSpec, sample_inputs
from lstm_deploy.lifting.execution import frozen_copy
from lstm_deploy.lifting.probing import example_inputs
from lstm_deploy.lifting.recurrent import Lifted

ROWS = 4
"""Rows for each value: each has it in other steps."""
MOST_VALUES = 24
"""How many values of an input are tried."""
_COMPARISONS = ("eq", "ne", "lt", "le", "gt", "ge", "isin")


class _Compared(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Within the block, keeps the numbers that tensors are compared with."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.numbers: dict[float, None] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func._schema.name.rpartition("::")[2] in _COMPARISONS:
            for value in args:
                few = value.flatten().tolist() if isinstance(value, Tensor) and value.numel() <= ROWS else [value]
                self.numbers |= {float(x): None for x in few if isinstance(x, bool | int | float) and isfinite(x)}
        return func(*args, **(kwargs or {}))


def compared_numbers(lifted: Lifted) -> list[float]:
    """The numbers that a module compares its tensors with, in the order in which it does so."""
    copy = frozen_copy(lifted)
    with _Compared() as compared:  # of a batch that has more numbers than a constant
        copy(*example_inputs(copy.signature, batch=ROWS + 1))
    return list(compared.numbers)


def branch_inputs(
    lifted: Lifted, specs: Sequence[TensorSpec], sizes: Mapping[str, int]
) -> Iterator[tuple[Sequence[Tensor], int]]:
    """Random inputs, with one value in half of the rows and steps of one of them; and a seed for their state.

    Then in half of the steps of all rows, for branches on a batch as a whole.
    """
    numbers = compared_numbers(lifted)
    enough = -(-ROWS // sizes["batch"])  # calls where the number of rows is fixed
    for position, spec in enumerate(specs):
        if spec.tells_lengths:  # whose values are lengths and padding
            continue
        for number, value in enumerate(_values(spec, numbers)):
            for again, named in ((again, named) for named in (("batch", "seq"), ("seq",)) for again in range(enough)):
                rng = np.random.default_rng((position, number, again))
                inputs = sample_inputs(specs, sizes, rng)
                x = inputs[spec.name]
                chosen = rng.random([sizes[str(dim)] if dim in named else 1 for dim in spec.shape]) < 0.5
                inputs[spec.name] = np.where(chosen, np.asarray(value, x.dtype), x)
                yield [torch.from_numpy(values) for values in inputs.values()], number


def _values(spec: TensorSpec, numbers: Sequence[float]) -> Sequence[float]:
    """The values of an input to try: those that something is compared with first."""
    if spec.dtype == "bool":
        return [0, 1]
    if spec.dtype.startswith("float"):
        around = [number + by for number in numbers for by in (0, 1, -1)]
        return list(dict.fromkeys([*around, 0.0]))[:MOST_VALUES]
    high = int(spec.high[0]) if spec.high else 1
    whole = [number for number in numbers if number == int(number) and 0 <= number <= high]
    every = range(high) if high < MOST_VALUES else ()  # as of a table of what is a blank
    return list(dict.fromkeys(map(int, [*whole, 0, min(1, high), high, *every])))[:MOST_VALUES]
