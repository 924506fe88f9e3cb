"""Using a bundle from Python: whole calls, and streams that carry their state. No PyTorch on this path."""

import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from lstm_deploy.bundle import Bundle
from lstm_deploy.errors import InputError
from lstm_deploy.runtimes import Runtime, open_runtime
from lstm_deploy.signature import Array, Feeds, Outputs, Signature, TensorSpec


def open(path: str | os.PathLike[str]) -> "Model":  # noqa: A001 - the public name
    """Open a bundle directory, or a single artifact of one, for use.

    Raises `InputError` for anything else.
    """
    return Model(Path(path))


class Model:
    """A bundle whose artifacts are loaded as they are asked for."""

    def __init__(self, path: Path) -> None:
        if not path.exists():
            raise InputError(f"{path} does not exist; give a bundle or an artifact of one.")
        self.path = path
        self.bundle = Bundle(path) if path.is_dir() else None
        self._runtimes: dict[tuple[str, str], Runtime] = {}

    @property
    def signature(self) -> Signature:
        return self.bundle.signature if self.bundle else self.runtime().signature

    def runtime(self, provider: str = "cpu", precision: str = "float32") -> Runtime:
        """The ONNX artifact of a precision, loaded on a provider; loaded once."""
        key = (provider, precision)
        if key not in self._runtimes:
            path = self.bundle.file(self.bundle.find("onnx", precision)) if self.bundle else self.path
            # One thread: a step of an LSTM is too short to share, and waiting threads cost other programs.
            self._runtimes[key] = open_runtime(path, provider, threads=1)
        return self._runtimes[key]

    def run(self, feeds: Feeds, *, provider: str = "cpu", precision: str = "float32") -> Outputs:
        """One call: all outputs by name. State that is not fed is the initial state."""
        runtime = self.runtime(provider, precision)
        signature = runtime.signature
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
        return runtime.run({**signature.initial_state(batch), **given})

    def stream(self, batch: int = 1, provider: str = "cpu", precision: str = "float32") -> "Stream":
        """A stream of `batch` rows that starts from the initial state."""
        return Stream(self.runtime(provider, precision), batch)


class Stream:
    """Carries the state from one call to the next. Not for two threads at once; make one stream for each."""

    def __init__(self, runtime: Runtime, batch: int = 1) -> None:
        """Raises `InputError` for a model that cannot be streamed or has more inputs than `x`."""
        signature = runtime.signature
        if signature.streaming == "none":
            raise InputError(
                f"This model cannot be streamed ({signature.streaming_reason}); call run with whole sequences."
            )
        time_axis = _time_axis(signature)
        if len(signature.inputs) != 1 or time_axis is None:
            raise InputError("Streams take one input with a time axis; call run with all inputs instead.")
        if isinstance(batch, bool) or not isinstance(batch, int) or batch < 1:
            raise InputError(f"A stream cannot have {batch!r} rows; give a batch of 1 or more.")
        self.signature, self.batch = signature, batch
        self._runtime = runtime
        self._spec = signature.inputs[0]
        self.time_axis = time_axis
        self._one_step = runtime.recur(batch, 1)  # always holds the present state

    def step(self, x: ArrayLike) -> Array:
        """One step: `x` `[batch, features]` (tokens: `[batch]`) → `y` without its time axis.

        Raises `InputError` for another shape or kind of number, and for tokens that the model does not know.
        """
        try:
            x = np.expand_dims(np.asarray(x), self.time_axis)
        except ValueError as error:  # ragged, or with too few axes
            raise InputError(f"A step is one row for each stream ({error}); feed {self._spec} without seq.") from error
        y = self.feed(x)
        shape = self.signature.outputs[0].shape
        if "seq" in shape:
            return y.squeeze(shape.index("seq"))
        one_step = len(shape) == len(self._spec.shape) and shape[self.time_axis] == 1
        return y.squeeze(self.time_axis) if one_step else y

    def feed(self, x: ArrayLike) -> Array:
        """Several steps in one call: `x` `[batch, seq, features]` (tokens: `[batch, seq]`) → `y`."""
        x = _checked(np.asarray(x), self._spec, {"batch": self.batch})
        if x.shape[self.time_axis] == 1:
            self._one_step.inputs[self._spec.name][...] = x
            self._one_step.step()
            return self._one_step.outputs[self.signature.outputs[0].name].copy()
        outputs = self._runtime.run({self._spec.name: x, **self.state})
        self.state = self.signature.next_state(outputs)
        return outputs[self.signature.outputs[0].name]

    @property
    def state(self) -> Outputs:
        """A copy of the state, which can be set again later, here or in another stream."""
        return self._one_step.get_state()

    @state.setter
    def state(self, state: Feeds) -> None:
        if missing := [spec.name for spec in self.signature.state_inputs if spec.name not in state]:
            raise InputError(f"The state has no {missing[0]!r}; set what was read from the state of a stream.")
        specs = self.signature.state_inputs
        self._one_step.set_state(
            {spec.name: _checked(np.asarray(state[spec.name]), spec, {"batch": self.batch}) for spec in specs}
        )

    def reset(self) -> None:
        """Go back to the initial state."""
        self.state = self.signature.initial_state(self.batch)


def _time_axis(signature: Signature) -> int | None:
    """The axis of time of the first input, also where a call takes one step only; none if it has none."""
    shape = signature.inputs[0].shape
    if "seq" in shape:
        return shape.index("seq")
    one_step = any((dim.name, dim.size) == ("seq", 1) for dim in signature.fixed)
    return shape.index(1) if one_step and 1 in shape else None


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
    return value.astype(spec.dtype, copy=False)
