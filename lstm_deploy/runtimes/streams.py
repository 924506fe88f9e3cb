"""Streams: one step per call, with the state kept from call to call."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from msgspec.structs import replace
from numpy import ndarray
from numpy.typing import ArrayLike

from lstm_deploy.contract import Array, Dim, Feeds, Forecast, Outputs, Signature, TensorSpec, layout_of
from lstm_deploy.errors import InputError
from lstm_deploy.runtimes.input_checks import as_array, check_batch, check_out, check_values, checked, range_check
from lstm_deploy.runtimes.protocol import Recurrence, Runtime
from lstm_deploy.runtimes.stepping import Stepper

Rows = int | slice | Sequence[int] | Array
"""Some rows of a batch: a number, a slice, several numbers, or a mask."""


class Stream:
    """Rows go in step by step, and each step starts from the state that the last one left. Not thread-safe."""

    batch: int
    signature: Signature
    row_shape: tuple[int, ...]
    """Shape of `x` in a step of all rows."""
    row_dtype: Any
    _batch_axis: int
    """The axis of rows in the arrays of the state."""
    rows_axis: int = 0
    """The axis of rows in what a step returns."""
    _state_specs: tuple[TensorSpec, ...]
    _allow_nan: bool

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: a step takes {self.row_dtype}{list(self.row_shape)}>"

    def step(self, x: ArrayLike, *, rows: Rows | None = None, out: Array | None = None) -> Array:
        """One step: `x` `[batch, features]` (tokens: `[batch]`) → `y` without its axis of time.

        With `rows`, `x` and `y` hold these rows only, and the others stay as they are. `y` is written to `out` where
        that is given, so that nothing is allocated; else it is an array of its own. Raises `InputError` for another
        shape or kind of number, for NaN, and for tokens outside the vocabulary; the state is then unchanged.
        """
        raise NotImplementedError

    def feed(self, x: ArrayLike) -> Array:
        """Several steps: `x` `[batch, seq, features]` (tokens: `[batch, seq]`) → `y`.

        Where a call of the model is one step, as many calls. Time is the axis that the model has for it; else the one
        after the rows, or the first where a model has no axis of rows.
        """
        raise NotImplementedError

    def initial_state(self, batch: int) -> Outputs:
        """The state that new rows start from."""
        raise NotImplementedError

    @property
    def state(self) -> Outputs:
        """A copy of the state, which can be set again later, here or in another stream."""
        return self._get_state()

    @state.setter
    def state(self, state: Feeds) -> None:
        self._set_state(self._checked_state(state, self.batch))

    def reset(self, rows: Rows | None = None) -> None:
        """Go back to the initial state, in some rows or in all."""
        if rows is None:
            self.state = self.initial_state(self.batch)
        else:
            self.set_rows(rows, self.initial_state(len(self._row_numbers(rows))))

    def get_rows(self, rows: Rows) -> Outputs:
        """A copy of the state of some rows, as a batch of them."""
        numbers = self._row_numbers(rows)
        return {name: np.take(value, numbers, axis=self._batch_axis) for name, value in self.state.items()}

    def set_rows(self, rows: Rows, state: Feeds) -> None:
        """Put a state, as `get_rows` gives it, into some rows; the others stay as they are."""
        numbers, whole = self._row_numbers(rows), self.state
        for name, part in self._checked_state(state, len(numbers)).items():
            np.moveaxis(whole[name], self._batch_axis, 0)[numbers] = np.moveaxis(part, self._batch_axis, 0)
        self._set_state(whole)

    def _checked_state(self, state: Feeds, batch: int) -> Outputs:
        remedy = "set what was read from the state of a stream"
        if not isinstance(state, Mapping):
            raise InputError(f"{state!r} is no state; {remedy}.")
        if missing := [spec.name for spec in self._state_specs if spec.name not in state]:
            raise InputError(f"The state has no {missing[0]!r}; {remedy}.")
        return {
            spec.name: checked(state[spec.name], spec, {"batch": batch}, allow_nan=self._allow_nan)
            for spec in self._state_specs
        }

    def _get_state(self) -> Outputs:
        raise NotImplementedError

    def _set_state(self, state: Outputs) -> None:
        """Continue from a state that has been checked."""
        raise NotImplementedError

    def _step_rows(self, x: ArrayLike, rows: Rows, out: Array | None) -> Array:
        """`step` of some rows: the others go along with an arbitrary input, and get their state back."""
        numbers, before = self._row_numbers(rows), self.state
        chosen = as_array(x)
        if chosen.shape[:1] != numbers.shape:
            raise InputError(f"x has shape {list(chosen.shape)}; feed one row for each of the {len(numbers)} in rows.")
        if not len(numbers):
            raise InputError("A step needs at least one row; leave out rows for all.")
        everything = np.repeat(chosen[:1], self.batch, axis=0)  # any valid row will do
        everything[numbers] = chosen
        y = self.step(everything)
        after = self.get_rows(numbers)
        self.state = before
        chosen_y = np.take(y, numbers, axis=self.rows_axis)
        if out is not None:
            check_out(out, chosen_y.shape, y.dtype)
        self.set_rows(numbers, after)
        return _into(out, chosen_y)

    def _row_numbers(self, rows: Rows) -> Array:
        """The numbers of some rows; raises `InputError` for those that the batch does not have."""
        try:
            chosen = rows if isinstance(rows, slice) else np.atleast_1d(rows)
            if isinstance(rows, bool) or (isinstance(chosen, ndarray) and chosen.ndim != 1):
                raise IndexError("give numbers, or a truth value for each row")
            empty = isinstance(chosen, ndarray) and not chosen.size  # of floats, as numpy makes it of an empty list
            numbers = np.arange(self.batch)[[] if empty else chosen]
            if len(np.unique(numbers)) != len(numbers):
                raise IndexError("one is named twice")
            return np.asarray(numbers)
        except (IndexError, ValueError, TypeError) as error:
            raise InputError(f"There are no rows {rows!r} in a batch of {self.batch} ({error}).") from error


class StateStream(Stream):
    """A stream whose model carries its state: buffers bound once, and no allocation in a step that is given `out`."""

    signature: Signature
    batch: int
    recurrence: Recurrence
    rows_axis: int
    row_shape: tuple[int, ...]
    row_dtype: Any

    def __init__(self, runtime: Runtime, batch: int = 1, *, allow_nan: bool = False) -> None:
        """Raises `InputError` for a model that cannot be streamed or has more inputs than `x`."""
        signature = runtime.signature
        check_streamable(signature)
        if len(signature.inputs) != 1 or not (signature.one_step or "seq" in signature.inputs[0].shape):
            names = " and ".join(spec.name for spec in signature.inputs)
            raise InputError(
                f"A stream takes one input with a time axis, and this model takes {names}; give each step of all of "
                "them to lstm_deploy.open(…).run, with signature.next_state of what the last call returned."
            )
        if not signature.outputs:
            raise InputError(
                "This model gives nothing but its state, so there is nothing to stream; call lstm_deploy.open(…).run."
            )
        self.signature, self.batch = signature, _check_rows(signature, batch)
        self._batch_axis, self._state_specs = signature.batch_axis_of_state, signature.state_inputs
        self._runtime, self._spec, self._allow_nan = runtime, signature.inputs[0], allow_nan
        self.recurrence = runtime.recur(batch, 1)  # its buffers always hold the present state
        x, y = self.recurrence.inputs[self._spec.name], self.recurrence.outputs[signature.outputs[0].name]
        self._over_time = signature.over_time(self._spec)
        row = _one_step(x, signature.time_axis(self._spec))  # a view, as the next
        self._y = _one_step(y, signature.time_axis(signature.outputs[0]))
        y_dims = _dims_of_a_step(signature.over_time(signature.outputs[0]))
        self.rows_axis = y_dims.index("batch") if "batch" in y_dims else 0
        self.row_shape, self.row_dtype = row.shape, row.dtype
        self._row_spec = replace(self._spec, shape=_dims_of_a_step(self._over_time))
        # Everything a step needs, in one place: each attribute that it looks up is a cache miss after each run.
        validity = range_check(x.reshape(-1), self._spec, allow_nan)
        self._step_needs = (self.row_dtype, self.row_shape, row, *validity, self.recurrence.step, self._y)

    def step(self, x: ArrayLike, *, rows: Rows | None = None, out: Array | None = None) -> Array:
        if rows is not None:
            return self._step_rows(x, rows, out)
        dtype, shape, row, reduce, low, high, advance, y = self._step_needs
        if type(x) is not ndarray or x.dtype is not dtype or x.shape != shape:
            x = checked(x, self._row_spec, {"batch": self.batch})
        row[...] = x
        if not low < reduce() < high:
            check_values(row, self._spec)
        if out is None:
            advance()
            return y.copy()
        if type(out) is not ndarray or out.shape != y.shape or out.dtype is not y.dtype or not out.flags.writeable:
            check_out(out, y.shape, y.dtype)
        advance()
        out[...] = y
        return out

    def feed(self, x: ArrayLike) -> Array:
        x = checked(x, self._over_time, {"batch": self.batch}, allow_nan=self._allow_nan)
        if self.signature.one_step:
            y = self.signature.over_time(self.signature.outputs[0])
            steps = np.moveaxis(x, self._over_time.shape.index("seq"), 0)
            return np.stack([self.step(row) for row in steps], axis=y.shape.index("seq"))
        outputs = self._runtime.run({self._spec.name: x, **self.state})
        self.state = self.signature.next_state(outputs)
        return outputs[self.signature.outputs[0].name]

    def initial_state(self, batch: int) -> Outputs:
        return self.signature.initial_state(batch)

    def _get_state(self) -> Outputs:
        return self.recurrence.get_state()

    def _set_state(self, state: Outputs) -> None:
        self.recurrence.set_state(state)


class WindowStream(Stream):
    """A stream whose model sees the latest rows at each step, from the initial state, as when it was trained.

    Its state is those rows. The output of a row is NaN until there are enough of them.
    """

    window: int
    signature: Signature
    batch: int
    row_shape: tuple[int, ...]
    row_dtype: Any

    def __init__(self, runtime: Runtime, batch: int = 1, window: int | None = None, *, allow_nan: bool = False) -> None:
        """`window` is the training's by default. Raises `InputError` for a model that is no forecaster."""
        signature = runtime.signature
        layout, task = layout_of(signature), signature.task
        if not isinstance(task, Forecast):
            raise InputError("Only a forecaster looks at a window; leave it out.")
        if layout.window and window not in (None, layout.window):
            raise InputError(f"A call of this model takes {layout.window} steps, not {window}; leave the window out.")
        self.window = window if window is not None else task.window
        if isinstance(self.window, bool) or not isinstance(self.window, int) or self.window < signature.least_seq:
            raise InputError(f"A window cannot have {self.window!r} rows; give {signature.least_seq} or more.")
        self.signature, self.batch, self._batch_axis = signature, check_batch(batch), 0
        self._call, self._allow_nan = Stepper(runtime), allow_nan
        self._spec = TensorSpec(name="x", dtype="float32", shape=("batch", layout.width))
        self._state_specs = (
            replace(self._spec, name="rows", shape=("batch", self.window, layout.width)),
            TensorSpec(name="seen", dtype="int64", shape=("batch",)),
        )
        self._outputs = len(task.output_names)
        self.row_shape, self.row_dtype = (batch, layout.width), np.dtype(np.float32)
        self._set_state(self.initial_state(batch))

    def step(self, x: ArrayLike, *, rows: Rows | None = None, out: Array | None = None) -> Array:
        if rows is not None:
            return self._step_rows(x, rows, out)
        if out is not None:
            check_out(out, (self.batch, self._outputs), np.dtype(np.float32))
        x = checked(x, self._spec, {"batch": self.batch}, allow_nan=self._allow_nan)
        self._rows[:, :-1] = self._rows[:, 1:]
        self._rows[:, -1] = x
        self._seen += 1
        full = self._seen >= self.window
        y = np.full((self.batch, self._outputs), np.nan, np.float32)
        if full.any():
            y[full] = self._call(self._rows, self.signature.initial_state(self.batch))[0][full]
        return _into(out, y)

    def feed(self, x: ArrayLike) -> Array:
        spec = replace(self._spec, shape=("batch", "seq", *self._spec.shape[1:]))
        x = checked(x, spec, {"batch": self.batch}, allow_nan=self._allow_nan)
        return np.stack([self.step(x[:, time]) for time in range(x.shape[1])], axis=1)

    def initial_state(self, batch: int) -> Outputs:
        return {spec.name: np.zeros(spec.sized({"batch": batch}), spec.dtype) for spec in self._state_specs}

    def _get_state(self) -> Outputs:
        return {"rows": self._rows.copy(), "seen": self._seen.copy()}

    def _set_state(self, state: Outputs) -> None:
        self._rows, self._seen = state["rows"].copy(), state["seen"].copy()


def check_streamable(signature: Signature) -> None:
    """Raise `InputError` for a model that does not carry its state from one step to the next."""
    if signature.streaming == "none":
        raise InputError(
            f"This model cannot be streamed ({signature.streaming_reason}); give whole sequences to "
            "lstm_deploy.open(…).run in Python."
        )


def _dims_of_a_step(over_time: TensorSpec) -> tuple[Dim, ...]:
    return tuple(dim for dim in over_time.shape if dim != "seq")


def _one_step(value: Array, time_axis: int | None) -> Array:
    """A view of the only step of an input or output."""
    return value if time_axis is None else value.squeeze(time_axis)


def _check_rows(signature: Signature, batch: int) -> int:
    """`check_batch`; a model of a fixed number of rows is streamed with these."""
    batch = check_batch(batch)
    rows = signature.fixed_size("batch") or batch
    if batch not in (1, rows):
        raise InputError(f"A call of this model has {rows} row(s), so a stream cannot have {batch}; leave batch out.")
    return rows


def _into(out: Array | None, y: Array) -> Array:
    if out is None:
        return y
    out[...] = y
    return out
