"""Using a bundle from Python: whole calls, and streams that carry their state. No PyTorch on this path."""

import os
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from lstm_deploy.bundle import Bundle
from lstm_deploy.errors import InputError
from lstm_deploy.runtimes import Runtime, open_runtime
from lstm_deploy.signature import Array, Feeds, Outputs, Signature


def open(path: str | os.PathLike[str]) -> "Model":  # noqa: A001 - the public name
    """Open a bundle directory, or a single artifact of one, for use.

    Raises `InputError` for anything else.
    """
    return Model(Path(path))


class Model:
    """A bundle whose artifacts are loaded as they are asked for."""

    def __init__(self, path: Path) -> None:
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
        given = dict(feeds)
        missing = [spec.name for spec in runtime.signature.inputs if spec.name not in given]
        if missing:
            raise InputError(f"The input {missing[0]!r} is missing; feed {runtime.signature.inputs[0]}.")
        first = runtime.signature.inputs[0]
        batch = given[first.name].shape[first.shape.index("batch")]
        return runtime.run({**runtime.signature.initial_state(batch), **given})

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
        if len(signature.inputs) != 1 or "seq" not in signature.inputs[0].shape:
            raise InputError("Streams take one input with a time axis; call run with all inputs instead.")
        self.signature, self.batch = signature, batch
        self._runtime = runtime
        self._spec = signature.inputs[0]
        self._time_axis = self._spec.shape.index("seq")
        self._one_step = runtime.recur(batch, 1)  # always holds the present state

    def step(self, x: ArrayLike) -> Array:
        """One step: `x` `[batch, features]` (tokens: `[batch]`) → `y` without its time axis.

        The array returned is overwritten by the next call; copy it to keep it.
        Raises `InputError` for another shape or kind of number.
        """
        x = np.asarray(x)
        wanted = tuple(size for size in self._spec.sized({"batch": self.batch, "seq": -1}) if size != -1)
        if x.shape != wanted:
            raise InputError(f"A step has shape {list(x.shape)}; feed {list(wanted)}, one row for each stream.")
        y = self.feed(np.expand_dims(x, self._time_axis))
        output = self.signature.outputs[0]
        return y.squeeze(output.shape.index("seq")) if "seq" in output.shape else y

    def feed(self, x: ArrayLike) -> Array:
        """Several steps in one call: `x` `[batch, seq, features]` (tokens: `[batch, seq]`) → `y`."""
        x = np.asarray(x)
        length = x.shape[self._time_axis] if x.ndim == len(self._spec.shape) else 0
        wanted = self._spec.sized({"batch": self.batch, "seq": length})
        if not length or x.shape != wanted or not np.can_cast(x.dtype, self._spec.dtype, "same_kind"):
            raise InputError(
                f"The input is {x.dtype}{list(x.shape)}; feed {self._spec} with batch {self.batch} and any seq above 0."
            )
        if length == 1:
            self._one_step.inputs[self._spec.name][...] = x
            self._one_step.step()
            return self._one_step.outputs[self.signature.outputs[0].name]
        outputs = self._runtime.run({self._spec.name: x.astype(self._spec.dtype), **self.state})
        pairs = zip(self.signature.state_inputs, self.signature.state_outputs, strict=True)
        self.state = {before.name: outputs[after.name] for before, after in pairs}
        return outputs[self.signature.outputs[0].name]

    @property
    def state(self) -> Outputs:
        """A copy of the state, which can be set again later, here or in another stream."""
        return self._one_step.get_state()

    @state.setter
    def state(self, state: Feeds) -> None:
        self._one_step.set_state(state)

    def reset(self) -> None:
        """Go back to the initial state."""
        self.state = self.signature.initial_state(self.batch)
