"""Using a bundle from Python: whole calls, rollouts, and streams that carry their state. No PyTorch on this path.

A `Model` may be shared by threads: its runtimes keep no state. A stream may not: it has one set of buffers, so each
thread needs its own, or a lock around each call.
"""

import math
import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple

import numpy as np
from msgspec.structs import replace
from numpy import ndarray
from numpy.typing import ArrayLike

from lstm_deploy.artifacts import Artifact, Bundle
from lstm_deploy.contract import (
    Array,
    Feeds,
    Forecast,
    Outputs,
    Signature,
    TensorSpec,
    check_rollout_inputs,
    layout_of,
    rollout_contract,
)
from lstm_deploy.errors import InputError, machine_limits
from lstm_deploy.runtimes.opening import open_runtime
from lstm_deploy.runtimes.protocol import Runtime
from lstm_deploy.runtimes.stepping import Stepper, unroll

TINY = 1e-30
"""The largest float32 times this, a million times over, is still finite."""
RUNTIMES = {"onnx": "onnx", "native": "c", "torchscript": "torchscript"}
"""The format that each runtime runs, the usual first."""
Rows = int | slice | Sequence[int] | Array
"""Which rows of a batch: a number, a slice, several numbers, or a mask."""


def open(path: str | os.PathLike[str]) -> "Model":  # noqa: A001 - the public name
    """Open a bundle directory, or a single artifact of one, for use.

    Raises `InputError` for anything else.
    """
    return Model(Path(path))


class Model:
    """A bundle whose artifacts are loaded as they are asked for, on one thread each.

    Everywhere `provider` is `cpu` or `cuda`, `precision` is `float32`, `int8` or `float16`, and `runtime` is `onnx`,
    `native`, which compiles the C artifact, or `torchscript`, which alone needs PyTorch: the first whose artifact is
    there, unless it is given.
    """

    def __init__(self, path: Path) -> None:
        if not path.exists():
            raise InputError(f"{path} does not exist; give a bundle or an artifact of one.")
        self.path = path
        self.bundle = Bundle(path) if path.is_dir() else None
        self._runtimes: dict[tuple[Path, str], Runtime] = {}
        self._loading = Lock()

    @property
    def signature(self) -> Signature:
        return self.bundle.signature if self.bundle else self.runtime().signature

    @property
    def rollout_contract(self) -> Signature:
        """What `rollout` takes and gives; raises `InputError` for a model that cannot feed itself."""
        return self.signature if self.signature.rollout else rollout_contract(self.signature)

    def runtime(self, provider: str = "cpu", precision: str = "float32", runtime: str | None = None) -> Runtime:
        """An artifact, loaded once; raises `InputError` where the bundle has none such."""
        if self.bundle is None:
            return self._load(self.path, provider)
        return self._load(self.bundle.file(self.bundle.find(self._format(runtime), precision)), provider)

    @machine_limits()
    def run(
        self,
        feeds: Feeds,
        *,
        provider: str = "cpu",
        precision: str = "float32",
        runtime: str | None = None,
    ) -> Outputs:
        """One call: all outputs by name. State that is not fed is the initial state."""
        loaded = self.runtime(provider, precision, runtime)
        return loaded.run(_complete(loaded.signature, feeds))

    @machine_limits()
    def rollout(
        self,
        feeds: Feeds,
        *,
        provider: str = "cpu",
        precision: str = "float32",
        runtime: str | None = None,
    ) -> Outputs:
        """Many steps, the model fed with its own outputs: inputs and outputs as `rollouts` describes them.

        One call of the bundle's rollout where it has one; else one call of the model for each step, which gives the
        same. Raises `InputError` for a model that cannot feed itself.
        """
        loaded = self.runtime(provider, precision, runtime)
        given = _complete(self.rollout_contract, feeds)
        check_rollout_inputs(self.rollout_contract, given)
        if loaded.signature.rollout:  # the file that was opened is one
            return loaded.run(given)
        if loaded.rollout is not None:
            return loaded.rollout.run(given)
        artifact = self._rollout(precision, runtime)
        if artifact is None:
            return unroll(loaded, given)
        assert self.bundle is not None
        return self._load(self.bundle.file(artifact), provider).run(given)

    @machine_limits()
    def stream(
        self,
        batch: int = 1,
        provider: str = "cpu",
        precision: str = "float32",
        runtime: str | None = None,
        *,
        window: int | None = None,
        allow_nan: bool = False,
    ) -> "Stream":
        """A stream of `batch` rows that starts from the initial state.

        Its state is what the model carries; or, with `window`, and where a forecaster cannot carry one, the latest
        `window` rows, on which each step starts anew. NaN and infinities are refused unless with `allow_nan`.
        Raises `InputError` for a model that cannot be streamed.
        """
        loaded = self.runtime(provider, precision, runtime)
        if window is not None or (loaded.signature.streaming == "none" and _is_forecaster(loaded.signature)):
            return WindowStream(loaded, batch, window, allow_nan=allow_nan)
        return StateStream(loaded, batch, allow_nan=allow_nan)

    def _load(self, path: Path, provider: str) -> Runtime:
        with self._loading:
            if (path, provider) not in self._runtimes:
                # One thread: a step of an LSTM is too short to share, and waiting threads cost other programs.
                self._runtimes[path, provider] = open_runtime(path, provider, threads=1)
            return self._runtimes[path, provider]

    def _rollout(self, precision: str, runtime: str | None) -> Artifact | None:
        if self.bundle is None:
            return None
        wanted = (self._format(runtime), precision)
        return next((a for a in self.bundle.manifest.rollouts if (a.format, a.precision) == wanted), None)

    def _format(self, runtime: str | None) -> str:
        """The format that a runtime runs, by default of the first that the bundle has an artifact for."""
        if runtime is None:
            assert self.bundle is not None
            there = {artifact.format for artifact in self.bundle.manifest.artifacts}
            return next(format_ for format_ in RUNTIMES.values() if format_ in there)
        if runtime not in RUNTIMES:
            raise InputError(f"{runtime!r} is not a runtime; use {', '.join(RUNTIMES)}.")
        return RUNTIMES[runtime]


class Stream:
    """What `Model.stream` gives: rows go in step by step, and what they leave behind stays for the next.

    Not for two threads at once.
    """

    batch: int
    signature: Signature
    row_shape: tuple[int, ...]
    """Of `x` in a step of all rows."""
    row_dtype: Any
    _batch_axis: int
    """Of the arrays of the state."""

    def step(self, x: ArrayLike, *, rows: Rows | None = None, out: Array | None = None) -> Array:
        """One step: `x` `[batch, features]` (tokens: `[batch]`) → `y` without its axis of time.

        With `rows`, `x` and `y` hold these rows only, and the others stay as they are. `y` is written to `out` where
        that is given, so that nothing is allocated; else it is an array of its own. Raises `InputError` for another
        shape or kind of number, for NaN, and for tokens that the model does not know; the state is then unchanged.
        """
        raise NotImplementedError

    def feed(self, x: ArrayLike) -> Array:
        """Several steps in one call: `x` `[batch, seq, features]` (tokens: `[batch, seq]`) → `y`."""
        raise NotImplementedError

    @property
    def state(self) -> Outputs:
        """A copy of the state, which can be set again later, here or in another stream."""
        raise NotImplementedError

    @state.setter
    def state(self, state: Feeds) -> None:
        raise NotImplementedError

    def initial_state(self, batch: int) -> Outputs:
        """The state that new rows start from."""
        raise NotImplementedError

    def reset(self, rows: Rows | None = None) -> None:
        """Go back to the initial state, in some rows or in all."""
        if rows is None:
            self.state = self.initial_state(self.batch)
        else:
            self.set_rows(rows, self.initial_state(len(self._numbers(rows))))

    def get_rows(self, rows: Rows) -> Outputs:
        """A copy of the state of some rows, as a batch of them."""
        numbers = self._numbers(rows)
        return {name: np.take(value, numbers, axis=self._batch_axis) for name, value in self.state.items()}

    def set_rows(self, rows: Rows, state: Feeds) -> None:
        """Put a state, as `get_rows` gives it, into some rows; the others stay as they are."""
        numbers, whole = self._numbers(rows), self.state
        for name, value in whole.items():
            given = np.asarray(state[name]) if name in state else None
            wanted = (*value.shape[: self._batch_axis], len(numbers), *value.shape[self._batch_axis + 1 :])
            if given is None or given.shape != wanted:
                there = "missing" if given is None else f"{list(given.shape)}"
                raise InputError(f"{name} of the state is {there}, not {list(wanted)}; set what get_rows gave.")
            np.moveaxis(value, self._batch_axis, 0)[numbers] = np.moveaxis(given, self._batch_axis, 0)
        self.state = whole

    def _step_rows(self, x: ArrayLike, rows: Rows, out: Array | None) -> Array:
        """`step` of some rows: the others go along with an input of no meaning, and get their state back."""
        numbers, before = self._numbers(rows), self.state
        given = _array(x)
        if given.shape[:1] != numbers.shape:
            raise InputError(f"x has shape {list(given.shape)}; feed one row for each of the {len(numbers)} in rows.")
        if not len(numbers):
            raise InputError("A step needs at least one row; leave out rows for all.")
        # Any valid row will do; the first is one.
        everything = np.repeat(given[:1], self.batch, axis=0)
        everything[numbers] = given
        y = self.step(everything)
        after = self.get_rows(numbers)
        self.state = before
        if out is not None:
            _check_out(out, (len(numbers), *y.shape[1:]), y.dtype)
        self.set_rows(numbers, after)
        return _into(out, y[numbers])

    def _numbers(self, rows: Rows) -> Array:
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
        except IndexError as error:
            raise InputError(f"There are no rows {rows!r} in a batch of {self.batch} ({error}).") from error


class StateStream(Stream):
    """A stream whose model carries its state: buffers bound once, and no allocation in a step that is given `out`."""

    def __init__(self, runtime: Runtime, batch: int = 1, *, allow_nan: bool = False) -> None:
        """Raises `InputError` for a model that cannot be streamed or has more inputs than `x`."""
        signature = runtime.signature
        if signature.streaming == "none":
            raise InputError(
                f"This model cannot be streamed ({signature.streaming_reason}); call run with whole sequences."
            )
        time_axis = _time_axis(signature)
        if len(signature.inputs) != 1 or time_axis is None:
            raise InputError("Streams take one input with a time axis; call run with all inputs instead.")
        self.signature, self.batch, self.time_axis = signature, _checked_batch(batch), time_axis
        self._batch_axis = signature.batch_axis_of_state
        self._runtime, self._spec, self._allow_nan = runtime, signature.inputs[0], allow_nan
        self.recurrence = runtime.recur(batch, 1)  # its buffers always hold the present state
        x, y = self.recurrence.inputs[self._spec.name], self.recurrence.outputs[signature.outputs[0].name]
        row = x.squeeze(time_axis)  # a view, as the next
        self._y = y.squeeze(_y_time_axis(signature, time_axis))
        self.row_shape, self.row_dtype = row.shape, row.dtype
        probe = _probe(x.reshape(-1), self._spec, allow_nan)
        # What a step needs, in one place: each attribute that it looks up is a cache miss after each run.
        self._needed = (self.row_dtype, self.row_shape, row, *probe, self.recurrence.step, self._y)

    def step(self, x: ArrayLike, *, rows: Rows | None = None, out: Array | None = None) -> Array:
        if rows is not None:
            return self._step_rows(x, rows, out)
        dtype, shape, row, look, low, high, advance, y = self._needed
        if type(x) is not ndarray or x.dtype is not dtype or x.shape != shape:
            x = self._checked_row(x)
        row[...] = x
        if not low < look() < high:
            _check_values(row, self._spec)
        if out is None:
            advance()
            return y.copy()
        if type(out) is not ndarray or out.shape != y.shape or out.dtype is not y.dtype or not out.flags.writeable:
            _check_out(out, y.shape, y.dtype)
        advance()
        out[...] = y
        return out

    def feed(self, x: ArrayLike) -> Array:
        x = _checked(_array(x), self._spec, {"batch": self.batch})
        if not self._allow_nan:
            _check_values(x, self._spec)
        outputs = self._runtime.run({self._spec.name: x, **self.state})
        self.state = self.signature.next_state(outputs)
        return outputs[self.signature.outputs[0].name]

    @property
    def state(self) -> Outputs:
        return self.recurrence.get_state()

    @state.setter
    def state(self, state: Feeds) -> None:
        specs = self.signature.state_inputs
        if not isinstance(state, Mapping):
            raise InputError(f"{state!r} is no state; set what was read from the state of a stream.")
        if missing := [spec.name for spec in specs if spec.name not in state]:
            raise InputError(f"The state has no {missing[0]!r}; set what was read from the state of a stream.")
        checked = {spec.name: _checked(_array(state[spec.name]), spec, {"batch": self.batch}) for spec in specs}
        if not self._allow_nan:
            for spec in specs:
                _check_values(checked[spec.name], spec)
        self.recurrence.set_state(checked)

    def initial_state(self, batch: int) -> Outputs:
        return self.signature.initial_state(batch)

    def _checked_row(self, x: ArrayLike) -> Array:
        shape = (*self._spec.shape[: self.time_axis], *self._spec.shape[self.time_axis + 1 :])
        return _checked(_array(x), replace(self._spec, shape=shape), {"batch": self.batch})


class WindowStream(Stream):
    """A stream whose model sees the latest rows at each step, from the initial state, as when it was trained.

    Its state is those rows. What a row gets before there are enough of them is NaN.
    """

    def __init__(self, runtime: Runtime, batch: int = 1, window: int | None = None, *, allow_nan: bool = False) -> None:
        """`window` is the training's unless given. Raises `InputError` for a model that is no forecaster."""
        signature = runtime.signature
        layout, task = layout_of(signature), signature.task
        if not isinstance(task, Forecast):
            raise InputError("Only a forecaster looks at a window; leave it out.")
        if layout.window and window not in (None, layout.window):
            raise InputError(f"A call of this model takes {layout.window} steps, not {window}; leave the window out.")
        self.window = window if window is not None else task.window
        if isinstance(self.window, bool) or not isinstance(self.window, int) or self.window < signature.least_seq:
            raise InputError(f"A window cannot have {self.window!r} rows; give {signature.least_seq} or more.")
        self.signature, self.batch, self._batch_axis = signature, _checked_batch(batch), 0
        self._call, self._allow_nan = Stepper(runtime), allow_nan
        self._spec = TensorSpec(name="x", dtype="float32", shape=("batch", layout.width))
        self._outputs = len(task.output_names)
        self.row_shape, self.row_dtype = (batch, layout.width), np.dtype(np.float32)
        self.state = self.initial_state(batch)

    def step(self, x: ArrayLike, *, rows: Rows | None = None, out: Array | None = None) -> Array:
        if rows is not None:
            return self._step_rows(x, rows, out)
        if out is not None:
            _check_out(out, (self.batch, self._outputs), np.dtype(np.float32))
        x = _checked(_array(x), self._spec, {"batch": self.batch})
        if not self._allow_nan:
            _check_values(x, self._spec)
        self._rows[:, :-1] = self._rows[:, 1:]
        self._rows[:, -1] = x
        self._seen += 1
        full = self._seen >= self.window
        y = np.full((self.batch, self._outputs), np.nan, np.float32)
        if full.any():
            y[full] = self._call(self._rows, self.signature.initial_state(self.batch))[0][full]
        return _into(out, y)

    def feed(self, x: ArrayLike) -> Array:
        spec = TensorSpec(name="x", dtype="float32", shape=("batch", "seq", *self._spec.shape[1:]))
        x = _checked(_array(x), spec, {"batch": self.batch})
        if not self._allow_nan:
            _check_values(x, spec)
        return np.stack([self.step(x[:, time]) for time in range(x.shape[1])], axis=1)

    @property
    def state(self) -> Outputs:
        return {"rows": self._rows.copy(), "seen": self._seen.copy()}

    @state.setter
    def state(self, state: Feeds) -> None:
        wanted = self.initial_state(self.batch)
        for name, value in wanted.items():
            given = np.asarray(state[name]) if isinstance(state, Mapping) and name in state else None
            if given is None or given.shape != value.shape or not np.can_cast(given.dtype, value.dtype, "same_kind"):
                raise InputError(f"The state needs {name!r} {list(value.shape)}; set what was read from a stream.")
        if not self._allow_nan:
            _check_values(np.asarray(state["rows"], np.float32), replace(self._spec, name="rows"))
        self._rows, self._seen = (np.array(state[name], value.dtype) for name, value in wanted.items())

    def initial_state(self, batch: int) -> Outputs:
        width = self._spec.shape[1]
        assert isinstance(width, int)
        return {"rows": np.zeros((batch, self.window, width), np.float32), "seen": np.zeros(batch, np.int64)}


def _is_forecaster(signature: Signature) -> bool:
    return isinstance(signature.task, Forecast) and len(signature.inputs) == 1


def _time_axis(signature: Signature) -> int | None:
    """The axis of time of the first input, also where a call takes one step only; none if it has none."""
    shape = signature.inputs[0].shape
    if "seq" in shape:
        return shape.index("seq")
    one_step = any((dim.name, dim.size) == ("seq", 1) for dim in signature.fixed)
    return shape.index(1) if one_step and 1 in shape else None


def _y_time_axis(signature: Signature, time_axis: int) -> tuple[int, ...]:
    """The axis of time of the first output; none if it is of the last step only."""
    x, y = signature.inputs[0].shape, signature.outputs[0].shape
    if "seq" in y:
        return (y.index("seq"),)
    return (time_axis,) if len(x) == len(y) and y[time_axis] == 1 else ()


def _complete(signature: Signature, feeds: Feeds) -> Outputs:
    """All inputs of a call, checked; state that is not given is the initial state."""
    if not isinstance(feeds, Mapping):
        raise InputError(f"Feeds are a mapping of arrays by name; there is {', '.join(signature.input_names)}.")
    given = {name: np.asarray(value) for name, value in feeds.items()}
    for spec in signature.inputs:
        if spec.name not in given:
            raise InputError(f"The input {spec.name!r} is missing; feed {spec}.")
        given[spec.name] = _checked(given[spec.name], spec)
    batches = [given[s.name].shape[s.shape.index("batch")] for s in signature.inputs if "batch" in s.shape]
    batch = batches[0] if batches else 1
    for spec in signature.state_inputs:
        if spec.name in given:
            given[spec.name] = _checked(given[spec.name], spec, {"batch": batch})
    if unknown := sorted(set(given) - set(signature.input_names)):
        raise InputError(f"There is no input {unknown[0]!r}; feed {', '.join(signature.input_names)}.")
    return {**signature.initial_state(batch), **given}


def _checked(value: Array, spec: TensorSpec, sizes: Mapping[str, int] | None = None) -> Array:
    """The value in the type of its specification; raises `InputError` before the runtime could.

    `sizes` are those that its dynamic dimensions must have.
    """
    known = sizes or {}
    wanted = [known.get(dim, dim) if isinstance(dim, str) else dim for dim in spec.shape]
    fits = value.ndim == len(wanted) and all(
        size == dim if isinstance(dim, int) else size > 0 for size, dim in zip(value.shape, wanted, strict=True)
    )
    if not fits or not np.can_cast(value.dtype, spec.dtype, "same_kind"):
        at = "".join(f" with {name} {size}" for name, size in known.items())
        raise InputError(f"{spec.name} is {value.dtype}{list(value.shape)}; feed {spec}{at}.")
    if spec.high is not None and value.dtype.kind in "iu" and spec.dtype.startswith("int"):
        outside = (value < 0) | (value > spec.high[0])
        if outside.any():
            raise InputError(f"The token {value[outside][0]} is not in the vocabulary; feed 0 to {spec.high[0]:.0f}.")
    with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite, and is refused as that
        return value.astype(spec.dtype, copy=False)


def _array(x: ArrayLike) -> Array:
    try:
        return np.asarray(x)
    except ValueError as error:
        raise InputError(f"The rows differ in shape ({error}); feed one array.") from error


def _checked_batch(batch: int) -> int:
    if isinstance(batch, bool) or not isinstance(batch, int | np.integer) or batch < 1:
        raise InputError(f"A stream cannot have {batch!r} rows; give a batch of 1 or more.")
    return int(batch)


class Probe(NamedTuple):
    """A quick look at a flat array: where it is between `low` and `high`, nothing is wrong with any number."""

    look: Callable[[], Any]
    low: float
    high: float


def _probe(numbers: Array, spec: TensorSpec, allow_nan: bool) -> Probe:
    """What tells at once that an array is finite, or holds tokens that the model knows."""
    if numbers.dtype.kind == "f" and not allow_nan:
        if numbers.size == 1:
            return Probe(numbers.item, -math.inf, math.inf)
        # One call in place of two: a weighted sum is finite where all numbers are, as the weights are tiny.
        return Probe(partial(numbers.dot, np.full_like(numbers, TINY)), -math.inf, math.inf)
    if numbers.dtype.kind == "i" and spec.high is not None:
        unsigned = numbers.view(f"u{numbers.itemsize}")  # what is below 0 is beyond all tokens
        return Probe(unsigned.item if numbers.size == 1 else unsigned.max, -1, int(spec.high[0]) + 1)
    return Probe(lambda: 0, -1, 1)


def _check_values(x: Array, spec: TensorSpec) -> None:
    """Raise `InputError` for NaN, infinities, and tokens that the model does not know."""
    if x.dtype.kind == "f" and not np.isfinite(x).all():
        value = x[~np.isfinite(x)][0]
        raise InputError(
            f"{spec.name} holds {value}, which would spoil the state for good; leave the step out, or put a number "
            "in its place."
        )
    _checked(x, replace(spec, shape=x.shape))


def _into(out: Array | None, y: Array) -> Array:
    if out is None:
        return y
    out[...] = y
    return out


def _check_out(out: object, shape: tuple[int, ...], dtype: Any) -> None:
    """Raise `InputError` for what a result cannot be written to as it is."""
    if not isinstance(out, ndarray) or out.shape != shape or out.dtype != dtype or not out.flags.writeable:
        there = f"has shape {list(out.shape)}, {out.dtype}" if isinstance(out, ndarray) else f"is {out!r}"
        raise InputError(f"out {there}; give a writable array of {list(shape)}, {dtype}.")
