"""Many streams that come and go in the rows of one batch: one call steps all that have an input."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike

from lstm_deploy.contract import Array, Feeds, Outputs
from lstm_deploy.errors import InputError, describe
from lstm_deploy.runtimes.input_checks import as_array
from lstm_deploy.runtimes.streams import Stream


class Slots:
    """The rows of a stream, handed out one by one. Not thread-safe, as the stream itself.

    slots = Slots(model.stream(batch=32))
    caller = slots.open()
    y = slots.step({caller: x})[caller]
    slots.close(caller)
    """

    def __init__(self, stream: Stream) -> None:
        """Take over a stream, which must not be used otherwise from here on; raises `InputError` for anything else."""
        if not isinstance(stream, Stream):
            raise InputError(
                f"Slots are of a stream, not of {describe(stream)}; give lstm_deploy.open(…).stream(batch=…)."
            )
        self._stream = stream
        self._free = list(range(stream.batch))[::-1]

    def __len__(self) -> int:
        """How many are open."""
        return self._stream.batch - len(self._free)

    def __repr__(self) -> str:
        return f"<Slots: {len(self)} of {self._stream.batch} taken>"

    def open(self, state: Feeds | None = None) -> int:
        """A row that starts from the initial state, or from one that `state_of` gave.

        Raises `InputError` where all are taken.
        """
        if not self._free:
            raise InputError(f"All {self._stream.batch} slots are taken; close one, or use a stream of a larger batch.")
        slot = self._free[-1]
        if state is None:
            self._stream.reset([slot])
        else:
            self._stream.set_rows([slot], state)
        return self._free.pop()

    def close(self, slot: int) -> None:
        """Give a row back."""
        self._check(slot)
        self._free.append(slot)

    def step(self, x: Mapping[int, ArrayLike]) -> dict[int, Array]:
        """A step of some open slots: `x` `[features]` (a token: a number) by slot → `y` by slot; the others wait."""
        if not isinstance(x, Mapping):
            raise InputError(f"A step is a mapping of inputs by slot, not {describe(x)}; give {{slot: x}}.")
        for slot in x:
            self._check(slot)
        if not x:
            return {}
        numbers = list(x)
        try:
            rows = np.stack([as_array(row) for row in x.values()])
        except ValueError as error:
            raise InputError(f"The rows of the slots differ in shape ({error}); feed one step for each.") from error
        in_order = numbers == list(range(self._stream.batch))
        y = self._stream.step(rows, rows=None if in_order else numbers)
        return dict(zip(numbers, np.moveaxis(y, self._stream.rows_axis, 0), strict=True))

    def state_of(self, slot: int) -> Outputs:
        """A copy of the state of an open slot, to be opened again later, here or elsewhere."""
        self._check(slot)
        return self._stream.get_rows([slot])

    def _check(self, slot: int) -> None:
        in_range = isinstance(slot, int) and not isinstance(slot, bool) and 0 <= slot < self._stream.batch
        if not in_range or slot in self._free:
            raise InputError(f"Slot {slot!r} is not open; open one first.")
