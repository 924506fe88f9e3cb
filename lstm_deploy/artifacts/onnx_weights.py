"""The weights stored in an ONNX graph, in the form in which they can be compared with PyTorch's."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import onnx
from onnx import numpy_helper

from lstm_deploy.artifacts.recurrent_nodes import cell_of_node
from lstm_deploy.contract import Array, CellKind

Matrix = tuple[Array, Array | float]
"""A matrix in float64, and the distance between neighbouring values if it was rounded to int8 or float16, else 0."""


class RecurrentLayer(NamedTuple):
    """The weights of one recurrent layer in ONNX's layout: stacked by direction, its order of gates."""

    label: str
    """For messages: `lstm, layer 0`, or the name of the node."""
    w: Array
    r: Array
    b: Array
    """Input biases, then recurrent biases."""
    steps: Mapping[str, Array] = {}
    """The distance between neighbouring values of `w`, `r` and `b` where they were rounded to int8 or float16."""
    kind: CellKind = "LSTM"


class StoredWeights(NamedTuple):
    """All weights of an artifact that can be compared with PyTorch's."""

    layers: list[RecurrentLayer]
    floats: dict[str, Array]
    """Constants that are floats, by name."""
    matrices: list[Matrix]
    """All matrices, quantized ones included."""


NONE = StoredWeights([], {}, [])


def read(model: onnx.ModelProto) -> StoredWeights:
    """The weights of a graph whose weights are loaded."""
    constants = constants_of(model)
    floats = {name: value.squeeze() for name, value in constants.items() if value.dtype in (np.float32, np.float16)}
    return StoredWeights(recurrent_layers(model), floats, _matrices(constants))


def constants_of(model: onnx.ModelProto) -> dict[str, Array]:
    """The initializers of a graph, by name."""
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def recurrent_layers(model: onnx.ModelProto) -> list[RecurrentLayer]:
    """The layer of each recurrent node whose weights are constants, and that computes what one of PyTorch's does."""
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    layers = []
    for node in model.graph.node:
        cell = cell_of_node(node)
        if cell is None:
            continue
        names = [*node.input[1:4], *(node.input[8:12] if node.op_type == cell.quantized_operator else ())]
        if not all(name in constants for name in names):
            continue
        w, r, b, *quantization = (numpy_helper.to_array(constants[name]) for name in names)
        if not quantization:
            steps = {
                letter: np.spacing(np.abs(a)) for letter, a in zip("wrb", (w, r, b), strict=True) if a.itemsize == 2
            }
            w, r, b = (a.astype(np.float64) for a in (w, r, b))
            layers.append(RecurrentLayer(node.name, w, r, b, steps, cell.kind))
            continue
        w_step, w_zero, r_step, r_zero = (_by_direction(value) for value in quantization)
        if any(step.shape[2] not in (1, value.shape[2]) for value, step in ((w, w_step), (r, r_step))):
            continue  # no kernel takes it
        # Quantized weights are stored transposed: [directions, inputs, gates * hidden].
        w = ((w.astype(np.float64) - w_zero) * w_step).swapaxes(1, 2)
        r = ((r.astype(np.float64) - r_zero) * r_step).swapaxes(1, 2)
        steps = {"w": w_step.swapaxes(1, 2), "r": r_step.swapaxes(1, 2)}
        layers.append(RecurrentLayer(node.name, w, r, b.astype(np.float64), steps, cell.kind))
    return layers


def _matrices(constants: Mapping[str, Array]) -> list[Matrix]:
    matrices: list[Matrix] = []
    for name, value in constants.items():
        base = name.removesuffix("_quantized")
        if value.ndim != 2:
            continue
        if value.dtype.kind == "f":
            step = np.spacing(np.abs(value)).astype(np.float64) if value.itemsize == 2 else 0.0
            matrices.append((value.astype(np.float64), step))
        elif f"{base}_scale" in constants and f"{base}_zero_point" in constants:
            step, zero = constants[f"{base}_scale"].astype(np.float64), constants[f"{base}_zero_point"]
            matrices.append(((value.astype(np.float64) - zero) * step, step))
    return matrices


def _by_direction(value: Array) -> Array:
    """A scale or zero point, per direction or per direction and column, as `[directions, 1, columns]`."""
    value = value.astype(np.float64)
    return value.reshape(value.shape[0], 1, -1) if value.ndim else value.reshape(1, 1, 1)
