"""C artifacts that `c_compiler` built, called through `ctypes`."""

import ctypes
import os
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lstm_deploy.artifacts import read_interface, weights_file
from lstm_deploy.contract import (
    Array,
    Dim,
    Feeds,
    Outputs,
    TensorSpec,
    blank_inputs,
    carries_state,
    layout_of,
    rollout_contract,
    sizes_of,
)
from lstm_deploy.errors import InputError
from lstm_deploy.runtimes.c_compiler import built_library
from lstm_deploy.runtimes.protocol import Runtime


class NativeRuntime(Runtime):
    """A compiled artifact; it keeps no state of its own, so threads may share it.

    Closing it does nothing: a library is small, and unloading it under a thread that runs it would crash.
    """

    def __init__(self, path: Path) -> None:
        """Raises `InputError` for a file that is no C artifact, or was never compiled on this machine."""
        self.path = path
        self.interface = read_interface(path)
        self.signature = signature = self.interface.signature
        self._library = ctypes.CDLL(str(built_library(path)))
        self.weights = self._mapped()
        """The address of the mapped weights; none where they are in the code."""
        states = signature.state_inputs
        self.arrays = [_rows_array(spec, _batch_axis(spec)) for spec in (*signature.inputs, *signature.outputs)]
        self.state_arrays = [_rows_array(spec, signature.batch_axis_of_state) for spec in states]
        self.state_size = sum(tensor.size for tensor in self.interface.states_in)
        """Floats in the state of one row."""
        self._state_outputs = [(i.name, o.name) for i, o in zip(states, signature.state_outputs, strict=True)]
        self._fed = (*signature.inputs, *states)
        self._default_sizes = signature.clamp({"batch": 1, "seq": signature.least_seq})
        self.call_type = _call_type(len(self.arrays))
        self.rows_function = self.function("glue_rows", [ctypes.c_void_p])
        self.workspace_bytes = self.function("glue_workspace_bytes", [ctypes.c_size_t], ctypes.c_size_t)
        if self.function("glue_state_bytes", [], ctypes.c_size_t)() != self.state_size * 4:
            raise InputError(f"The state of {path} is not that of its contract; export the model again.")

    def run(self, feeds: Feeds) -> Outputs:
        call = RowsCall(self, *self._sizes(feeds))
        for name, view in call.inputs.items():
            view[...] = feeds[name]
        call.set_state(feeds)
        call.run()
        state = call.get_state()
        return {**call.outputs, **{after: state[before] for before, after in self._state_outputs}}

    def recur(self, batch: int, seq: int) -> "RowsCall":
        sizes = self.signature.clamp(sizes_of(self.signature.inputs, batch, seq))
        call = RowsCall(self, sizes["batch"], sizes["seq"])
        for name, value in blank_inputs(self.signature.inputs, sizes).items():
            call.inputs[name][...] = value
        call.set_state(self.signature.initial_state(batch))
        return call

    @cached_property
    def rollout(self) -> "NativeRollout | None":
        return NativeRollout(self) if self.interface.has_rollout else None

    def function(self, name: str, arguments: Sequence[Any] | None = None, result: Any = None) -> Any:
        """A function of the library."""
        function = getattr(self._library, name)
        function.restype = result
        if arguments is not None:
            function.argtypes = arguments
        return function

    def _sizes(self, feeds: Feeds) -> tuple[int, int]:
        """The rows and steps of the inputs; raises `InputError` where these do not fit together."""
        sizes: dict[str, int] = {}
        for spec in self._fed:
            shape = np.shape(feeds[spec.name])
            fits = len(shape) == len(spec.shape) and all(
                size == (sizes.setdefault(dim, size) if isinstance(dim, str) else dim)
                for size, dim in zip(shape, spec.shape, strict=True)
            )
            if not fits or 0 in shape:
                raise InputError(
                    f"{spec.name} has the shape {list(shape)}; feed {spec}, as many rows and steps as the others."
                )
        sizes = {**self._default_sizes, **sizes}
        if (expected := self.signature.clamp(sizes)) != sizes:
            raise InputError(f"A call of this model takes {expected['seq']} steps, not {sizes['seq']}; feed as many.")
        return sizes["batch"], sizes["seq"]

    def _mapped(self) -> int | None:
        if not self.interface.mapped:
            return None
        file = weights_file(self.path)
        map_file = self.function(f"{self.interface.name}_map", [ctypes.c_char_p], ctypes.c_void_p)
        address: int | None = map_file(os.fsencode(file))
        if not address:
            raise InputError(f"{file} is missing, or holds the weights of another model; export the model again.")
        return address


class RowsCall:
    """Buffers for some rows and steps, and the call on them: a `Recurrence`.

    Rows lie one after the other, whatever the contract's layout; its arrays are views of them.
    """

    def __init__(self, runtime: NativeRuntime, batch: int, steps: int) -> None:
        sizes = {"batch": batch, "seq": steps}
        rows = [np.zeros(array.sized(sizes), array.dtype) for array in runtime.arrays]
        views = {array.name: row.transpose(array.axes) for array, row in zip(runtime.arrays, rows, strict=True)}
        self.inputs: Outputs = {spec.name: views[spec.name] for spec in runtime.signature.inputs}
        self.outputs: Outputs = {spec.name: views[spec.name] for spec in runtime.signature.outputs}
        # One row for each row of the batch: the struct of the C code, which consists of floats.
        self.states = np.zeros((batch, runtime.state_size), np.float32)
        self._state: Outputs = {}
        start = 0
        for array in runtime.state_arrays:
            shape = [batch, *array.sized(sizes)[1:]]
            end = start + prod(shape[1:])
            self._state[array.name] = self.states[:, start:end].reshape(shape).transpose(array.axes)
            start = end
        workspace = np.zeros(runtime.workspace_bytes(steps) // 8 + 1, np.float64)
        self._referenced = rows, workspace
        addresses = [self.states.ctypes.data, workspace.ctypes.data, *(row.ctypes.data for row in rows)]
        self._call = runtime.call_type(runtime.weights, batch, steps, *addresses)
        function, address = runtime.rows_function, ctypes.addressof(self._call)
        self.step: Callable[[], None] = lambda: function(address)
        self.run = self.advance = self.step

    def get_state(self) -> Outputs:
        return {name: view.copy() for name, view in self._state.items()}

    def set_state(self, state: Feeds) -> None:
        for name, view in self._state.items():
            view[...] = state[name]


class NativeRollout(Runtime):
    """The rollout that a C artifact holds."""

    def __init__(self, model: NativeRuntime) -> None:
        self.model, self.signature = model, rollout_contract(model.signature)

    def run(self, feeds: Feeds) -> Outputs:
        return self._texts(feeds) if "noise" in feeds else self._forecasts(feeds)

    def recur(self, batch: int, seq: int) -> RowsCall:  # noqa: ARG002 - the protocol's
        raise InputError("A rollout makes many steps in a call, and has no steps of its own; stream its model.")

    def _forecasts(self, feeds: Feeds) -> Outputs:
        x, steps = np.ascontiguousarray(feeds["x"], np.float32), int(feeds["steps"])
        y = np.zeros((len(x), steps, x.shape[2]), np.float32)
        if not carries_state(self.model.signature):
            for row, y_row in zip(x, y, strict=True):
                self._call(row.ctypes.data, len(row), y_row.ctypes.data, steps)
            return {"y": y}
        call = self._started(feeds, len(x))
        for state, row, y_row in zip(call.states, x, y, strict=True):
            self._call(state.ctypes.data, row.ctypes.data, len(row), y_row.ctypes.data, steps)
        return {"y": y, **self._state_after(call)}

    def _texts(self, feeds: Feeds) -> Outputs:
        x, noise = np.ascontiguousarray(feeds["x"], np.int64), np.ascontiguousarray(feeds["noise"], np.float32)
        stop, steps = int(feeds["stop"]), noise.shape[1]
        y = np.full((len(x), steps), stop, np.int64)
        call, counts = self._started(feeds, len(x)), []
        sampling = (ctypes.c_float(float(feeds["temperature"])), int(feeds["top_k"]), stop)
        for state, row, length, numbers, y_row in zip(call.states, x, feeds["lengths"], noise, y, strict=True):
            prompt = (state.ctypes.data, row.ctypes.data, int(length), numbers.ctypes.data)
            counts.append(self._call(*prompt, *sampling, y_row.ctypes.data, steps))
        for state, count in zip(call.states, counts, strict=True):  # `stop` is fed while other rows go on
            self._feed(state, stop, max(counts) - count)
        return {"y": y[:, : max(counts)], **self._state_after(call)}

    def _feed(self, state: Array, token: int, count: int) -> None:
        """Feed a token `count` times to the row of this state."""
        one_row, (x,) = self.model.recur(1, 1), self.model.signature.inputs
        one_row.inputs[x.name][...] = layout_of(self.model.signature).inputs(np.array([[token]]))
        one_row.states[0] = state
        for _ in range(count):
            one_row.step()
        state[...] = one_row.states[0]

    def _call(self, *arguments: Any) -> int:
        interface = self.model.interface
        function = self.model.function(f"{interface.name}_rollout", result=ctypes.c_size_t)
        weights = [ctypes.c_void_p(self.model.weights)] if interface.mapped else []
        typed = [value if isinstance(value, ctypes.c_float) else ctypes.c_size_t(value) for value in arguments]
        return int(function(*weights, *typed))

    def _started(self, feeds: Feeds, batch: int) -> RowsCall:
        call = RowsCall(self.model, batch, 1)
        call.set_state(feeds)
        return call

    def _state_after(self, call: RowsCall) -> Outputs:
        state = call.get_state()
        return {after.name: state[name] for after, name in zip(self.signature.state_outputs, state, strict=True)}


class RowsArray(NamedTuple):
    """An array of the contract as C has it: the batch axis first."""

    name: str
    dtype: str
    dims: tuple[Dim, ...]
    axes: tuple[int, ...]
    """Its axes in the order of the contract."""

    def sized(self, sizes: Mapping[str, int]) -> list[int]:
        """The shape in numbers."""
        return [sizes[dim] if isinstance(dim, str) else dim for dim in self.dims]


def _rows_array(spec: TensorSpec, batch_axis: int | None) -> RowsArray:
    """A tensor without a batch axis has one row."""
    order = sorted(range(len(spec.shape)), key=lambda axis: axis != batch_axis)  # the batch axis, then the others
    axes = tuple(order.index(axis) for axis in range(len(order)))
    return RowsArray(spec.name, spec.dtype, tuple(spec.shape[axis] for axis in order), axes)


def _batch_axis(spec: TensorSpec) -> int | None:
    return spec.shape.index("batch") if "batch" in spec.shape else None


def _call_type(arrays: int) -> Any:
    """The struct `rows_call` of `c_compiler.GLUE`."""
    size, pointer = ctypes.c_size_t, ctypes.c_void_p
    fields = [("weights", pointer), ("rows", size), ("steps", size), ("states", pointer), ("workspace", pointer)]
    fields += [(f"array{number}", pointer) for number in range(arrays)]
    return type("RowsCallStruct", (ctypes.Structure,), {"_fields_": fields})
