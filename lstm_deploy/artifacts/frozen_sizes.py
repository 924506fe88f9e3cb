"""Which sizes an ONNX graph fixes: of its inputs, and of what its recurrent nodes read.

Each fixed size of an input gets a name of its own, and ONNX's shape inference carries these names through the graph:
the name that arrives at a recurrent node's axis of time is that of an axis of time.
"""

import math
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import onnx
from onnx import helper, shape_inference

from lstm_deploy.artifacts.value_flow import FIRST_STATE, Value, ValueFlow

LARGE = 1024
"""Entries of a constant above which its numbers are no sizes, and are left out."""
Size = int | str | None


class Axis(NamedTuple):
    """An axis of an input of the graph."""

    input: str
    position: int


class Frozen(NamedTuple):
    """What is fixed."""

    inputs: dict[str, list[str]]
    """For each input that a recurrent node reads as data or as its state, its fixed axes: `batch`, `time`, or `""` for
    one that has neither role as far as the graph shows it."""
    nodes: dict[int, tuple[Size, Size, Size]]
    """For each recurrent node, by position, its steps, its rows and the rows of its initial state: a number where the
    graph fixes it whatever its inputs are."""


def frozen_sizes(model: onnx.ModelProto, flow: ValueFlow) -> Frozen:
    """Read them from a graph, which may lack the weights that lie beside it."""
    axes, shapes = _traced(model)
    roles: dict[Axis, str] = {}
    sizes: dict[int, tuple[Size, Size, Size]] = {}
    read: set[str] = set()
    for node in flow.recurrent:
        states = [node.input(FIRST_STATE + number) for number in range(len(node.states))]
        for value in filter(None, (node.input(0), *states)):
            read |= {source.name for source in flow.sources(value) if source.kind == "input"}
        batch_first = bool(node.attribute("layout", 0))
        rows, steps = _outer(shapes, node.input(0))[:: 1 if batch_first else -1]
        state_rows = [_outer(shapes, state)[not batch_first] for state in states]
        sizes[node.position] = (steps, rows, state_rows[0])
        for size, role in ((steps, "time"), *((size, "batch") for size in (rows, *state_rows))):
            if size in axes:
                roles[axes[size]] = role
    inputs: dict[str, list[str]] = {}
    for axis in axes.values():
        if axis.input in read or not flow.recurrent:
            inputs.setdefault(axis.input, []).append(roles.get(axis, ""))
    return Frozen(inputs, sizes)


def _outer(shapes: Mapping[Value, list[Size]], value: Value | None) -> tuple[Size, Size]:
    """The first two sizes of a value of three axes, as far as they are known."""
    shape = shapes.get(value, []) if value is not None else []
    return (shape[0], shape[1]) if len(shape) == 3 else (None, None)


def _traced(model: onnx.ModelProto) -> tuple[dict[Size, Axis], dict[Value, list[Size]]]:
    """The axes that bear each name, and the shapes of the values of the graph itself in these names."""
    traced = onnx.ModelProto()
    axes: dict[Size, Axis] = {}
    traced.ir_version = max(model.ir_version, 4)  # from which on constants need not be inputs
    traced.opset_import.extend(model.opset_import)
    traced.functions.extend(model.functions)
    traced.graph.name = "sizes"
    traced.graph.node.extend(model.graph.node)
    constants = {tensor.name for tensor in model.graph.initializer}
    for tensor in model.graph.initializer:
        if math.prod(tensor.dims) <= LARGE and tensor.data_location != onnx.TensorProto.EXTERNAL:
            traced.graph.initializer.append(tensor)
        else:
            traced.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    for value in model.graph.input:
        if value.name in constants:
            continue
        named = traced.graph.input.add()
        named.CopyFrom(value)
        for position, dim in enumerate(named.type.tensor_type.shape.dim):
            if dim.HasField("dim_value"):
                name = f"size {position} of {value.name}"
                axes[name] = Axis(value.name, position)
                dim.dim_param = name
    for value in model.graph.output:
        traced.graph.output.add(name=value.name)
    _forget_shapes(traced.graph.node)
    graph = shape_inference.infer_shapes(traced, data_prop=True).graph
    shapes = {
        (0, value.name): [dim.dim_value if dim.HasField("dim_value") else dim.dim_param or None for dim in _dims(value)]
        for value in (*graph.input, *graph.output, *graph.value_info)
        if value.type.tensor_type.HasField("shape")
    }
    return axes, shapes | {(0, tensor.name): list(tensor.dims) for tensor in model.graph.initializer}


def _forget_shapes(nodes: Iterable[onnx.NodeProto]) -> None:
    """Drop what the file says of shapes inside: it holds for the sizes that the inputs had."""
    for node in nodes:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                del attribute.g.value_info[:]
                for value in attribute.g.output:
                    value.type.tensor_type.ClearField("shape")
                _forget_shapes(attribute.g.node)


def _dims(value: onnx.ValueInfoProto) -> list[onnx.TensorShapeProto.Dimension]:
    return list(value.type.tensor_type.shape.dim)
