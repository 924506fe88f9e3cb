"""C artifacts that `c_compiler` built, called through `ctypes`."""

import ctypes
import os
from collections.abc import Callable, Sequence
from functools import cached_property
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from msgspec.structs import replace

from lstm_deploy.artifacts import read_interface, weights_file
from lstm_deploy.contract import (
    Array,
    CInterface,
    Feeds,
    Outputs,
    Signature,
    TensorSpec,
    blank_feeds,
    carries_state,
    layout_of,
    rollout_contract,
)
from lstm_deploy.errors import InputError
from lstm_deploy.runtimes.c_compiler import built_library
from lstm_deploy.runtimes.protocol import Runtime

Arranged = tuple[TensorSpec, list[int]]
"""A tensor as C has it, one row after the other, and the axes that lead back to the order of the contract."""


class NativeRuntime(Runtime):
    """A compiled artifact; it keeps no state of its own, so threads may share it.

    Closing it does nothing: a library is small, and unloading it under a thread that runs it would crash.
    """

    def __init__(self, path: Path) -> None:
        """Raises `InputError` for a file that is no C artifact, or was never compiled on this machine."""
        self.path = path
        self.interface: CInterface = read_interface(path)
        signature = self.interface.signature
        self.signature: Signature = signature
        self._library = ctypes.CDLL(str(built_library(path)))
        self.weights: int | None = self._mapped()
        """The address of the mapped weights; none where they are in the code."""
        self.arrays: list[Arranged] = [_batch_first(spec) for spec in (*signature.inputs, *signature.outputs)]
        self.state_arrays: list[Arranged] = [_batch_first(spec) for spec in signature.state_inputs]
        self.state_size: int = sum(tensor.size for tensor in self.interface.states_in)
        """Floats in the state of one row."""
        self._fed = (*signature.inputs, *signature.state_inputs)
        self._default_sizes = signature.clamp({"batch": 1, "seq": signature.least_seq})
        size, pointer = ctypes.c_size_t, ctypes.c_void_p
        fields = [("weights", pointer), ("rows", size), ("steps", size), ("states", pointer), ("workspace", pointer)]
        fields += [(f"array{number}", pointer) for number in range(len(self.arrays))]
        self.call_type: Any = type("rows_call", (ctypes.Structure,), {"_fields_": fields})  # as in `c_compiler.GLUE`
        self.rows_function: Any = self.function("glue_rows", [ctypes.c_void_p])
        self.workspace_bytes: Any = self.function("glue_workspace_bytes", [ctypes.c_size_t], ctypes.c_size_t)
        if self.function("glue_state_bytes", [], ctypes.c_size_t)() != self.state_size * 4:
            raise InputError(f"The state of {path} is not that of its contract; export the model again.")

    def run(self, feeds: Feeds) -> Outputs:
        call = self._filled(feeds)
        call.step()
        return {**call.outputs, **self.signature.outgoing_state(call.get_state())}

    def recur(self, batch: int, seq: int) -> "RowsCall":
        inputs, initial = blank_feeds(self.signature, batch, seq)
        return self._filled({**inputs, **initial})

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

    def _filled(self, feeds: Feeds) -> "RowsCall":
        call = RowsCall(self, *self._sizes(feeds))
        for name, view in call.inputs.items():
            view[...] = feeds[name]
        call.set_state(feeds)
        return call

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
                raise InputError(f"{spec.name} has the shape {list(shape)}; feed {spec}, in the sizes of the others.")
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
        rows = [np.zeros(spec.sized(sizes), spec.dtype) for spec, _ in runtime.arrays]
        views = {spec.name: row.transpose(axes) for (spec, axes), row in zip(runtime.arrays, rows, strict=True)}
        self.inputs: Outputs = {spec.name: views[spec.name] for spec in runtime.signature.inputs}
        self.outputs: Outputs = {spec.name: views[spec.name] for spec in runtime.signature.outputs}
        # One row for each row of the batch: the struct of the C code, which consists of floats.
        self.states: Array = np.zeros((batch, runtime.state_size), np.float32)
        self._state: Outputs = {}
        start = 0
        for spec, axes in runtime.state_arrays:
            shape = spec.sized(sizes)
            end = start + prod(shape) // batch
            self._state[spec.name] = self.states[:, start:end].reshape(shape).transpose(axes)
            start = end
        workspace = np.zeros(runtime.workspace_bytes(steps) // 8 + 1, np.float64)
        self._referenced = rows, workspace
        addresses = [self.states.ctypes.data, workspace.ctypes.data, *(row.ctypes.data for row in rows)]
        self._call = runtime.call_type(runtime.weights, batch, steps, *addresses)
        function, address = runtime.rows_function, ctypes.addressof(self._call)
        self.step: Callable[[], None] = lambda: function(address)
        self.advance: Callable[[], Any] = self.step

    def get_state(self) -> Outputs:
        return {name: view.copy() for name, view in self._state.items()}

    def set_state(self, state: Feeds) -> None:
        for name, view in self._state.items():
            view[...] = state[name]


class NativeRollout(Runtime):
    """The rollout that a C artifact holds."""

    model: NativeRuntime
    signature: Signature

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
        return {"y": y, **self.signature.outgoing_state(call.get_state())}

    def _texts(self, feeds: Feeds) -> Outputs:
        x, noise = np.ascontiguousarray(feeds["x"], np.int64), np.ascontiguousarray(feeds["noise"], np.float32)
        stop, steps = int(feeds["stop"]), noise.shape[1]
        y = np.full((len(x), steps), stop, np.int64)
        call, counts = self._started(feeds, len(x)), []
        sampling = (ctypes.c_float(float(feeds["temperature"])), int(feeds["top_k"]), stop)
        for state, row, length, numbers, y_row in zip(call.states, x, feeds["lengths"], noise, y, strict=True):
            prompt = (state.ctypes.data, row.ctypes.data, int(length), numbers.ctypes.data)
            counts.append(self._call(*prompt, *sampling, y_row.ctypes.data, steps))
        one_row, (spec,) = self.model.recur(1, 1), self.model.signature.inputs
        one_row.inputs[spec.name][...] = layout_of(self.model.signature).inputs(np.array([[stop]]))
        for state, count in zip(call.states, counts, strict=True):  # `stop` is fed while other rows go on
            one_row.states[0] = state
            for _ in range(max(counts) - count):
                one_row.step()
            state[...] = one_row.states[0]
        return {"y": y[:, : max(counts)], **self.signature.outgoing_state(call.get_state())}

    def _call(self, *arguments: Any) -> int:
        function = self.model.function(f"{self.model.interface.name}_rollout", result=ctypes.c_size_t)
        weights = [ctypes.c_void_p(self.model.weights)] if self.model.interface.mapped else []
        typed = [value if isinstance(value, ctypes.c_float) else ctypes.c_size_t(value) for value in arguments]
        return int(function(*weights, *typed))

    def _started(self, feeds: Feeds, batch: int) -> RowsCall:
        call = RowsCall(self.model, batch, 1)
        call.set_state(feeds)
        return call


def _batch_first(spec: TensorSpec) -> Arranged:
    order = sorted(range(len(spec.shape)), key=lambda axis: spec.shape[axis] != "batch")  # sorting is stable
    return replace(spec, shape=tuple(spec.shape[axis] for axis in order)), [order.index(axis) for axis in sorted(order)]
