"""The weights inside an artifact against those of PyTorch, number by number, in PyTorch's names.

What no input shows (a weight of a gate that is shut, an entry that is small) is seen here; and what an input shows is
named here. Weights that were quantized are held against the steps that they were rounded to.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import onnx
from onnx import numpy_helper

from lstm_deploy.contract import LSTM, Array


class Layer(NamedTuple):
    """The weights of one LSTM layer in ONNX's layout: stacked by direction, gates i, o, f, c."""

    label: str
    """The layer in PyTorch's words: `lstm, layer 0`."""
    w: Array
    r: Array
    b: Array
    """Input and recurrent biases one after the other."""


def lstm_layers(model: onnx.ModelProto) -> list[tuple[Layer, Mapping[str, Array]]]:
    """Each LSTM node whose weights are constants, and for int8 and float16 the size of a step by tensor."""
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    found: list[tuple[Layer, Mapping[str, Array]]] = []
    for node in model.graph.node:
        names = list(node.input)
        if node.op_type == LSTM.onnx_operator and all(name in constants for name in names[1:4]):
            arrays = [numpy_helper.to_array(constants[name]) for name in names[1:4]]
            w, r, b = (value.astype(np.float64) for value in arrays)
            rounded = {
                letter: np.spacing(np.abs(a)) for letter, a in zip("wrb", arrays, strict=True) if a.itemsize == 2
            }
            found.append((Layer(node.name, w, r, b), rounded))
        elif node.op_type == LSTM.quantized_operator and all(name in constants for name in (*names[1:4], *names[8:12])):
            w, r, b, *scales = (numpy_helper.to_array(constants[name]) for name in (*names[1:4], *names[8:12]))
            w_step, w_zero, r_step, r_zero = (_by_direction(value) for value in scales)
            if any(step.shape[2] not in (1, value.shape[2]) for value, step in ((w, w_step), (r, r_step))):
                continue  # no kernel takes it
            # Quantized weights are stored transposed: [directions, inputs, 4 * hidden].
            w = ((w.astype(np.float64) - w_zero) * w_step).swapaxes(1, 2)
            r = ((r.astype(np.float64) - r_zero) * r_step).swapaxes(1, 2)
            steps = {"w": w_step.swapaxes(1, 2), "r": r_step.swapaxes(1, 2)}
            found.append((Layer(node.name, w, r, b.astype(np.float64)), steps))
    return found


def constants_of(model: onnx.ModelProto) -> dict[str, Array]:
    """The weights of a graph, and its other constants, by name."""
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def floats_of(model: onnx.ModelProto) -> dict[str, Array]:
    """The constants of a graph that are floats, by name."""
    return {
        tensor.name: numpy_helper.to_array(tensor).squeeze()
        for tensor in model.graph.initializer
        if tensor.data_type in (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16)
    }


def matrices_of(model: onnx.ModelProto) -> list[tuple[Array, Array | float]]:
    """The matrices of a graph, those that were quantized too, each with half of a step of its numbers."""
    constants = constants_of(model)
    found: list[tuple[Array, Array | float]] = []
    for name, value in constants.items():
        base = name.removesuffix("_quantized")
        if value.ndim != 2:
            continue
        if value.dtype.kind == "f":
            half_a_step = np.spacing(np.abs(value)).astype(np.float64) / 2 if value.itemsize == 2 else 0.0
            found.append((value.astype(np.float64), half_a_step))
        elif f"{base}_scale" in constants and f"{base}_zero_point" in constants:
            step, zero = constants[f"{base}_scale"].astype(np.float64), constants[f"{base}_zero_point"]
            found.append(((value.astype(np.float64) - zero) * step, 0.5 * step * (1 + 1e-3)))
    return found


def _by_direction(value: Array) -> Array:
    """A scale or zero point, for each direction or each direction and column, as `[directions, 1, columns]`."""
    value = value.astype(np.float64)
    return value.reshape(value.shape[0], 1, -1) if value.ndim else value.reshape(1, 1, 1)
