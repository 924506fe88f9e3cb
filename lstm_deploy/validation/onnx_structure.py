"""The structure of an ONNX graph: its nodes, subgraphs included, their wiring and its weights."""

from collections.abc import Hashable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.printer
from onnx import numpy_helper

from lstm_deploy.contract import Array
from lstm_deploy.validation.structure import Graph, Node


def onnx_structure(path: Path) -> Graph:
    """The structure of the file at `path`, with the weights beside it."""
    return structure_of(onnx.load(path))


def structure_of(model: onnx.ModelProto) -> Graph:
    """The structure of a model with its weights; versions of operators and lines of functions count as nodes."""
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    nodes = list(_nodes(model.graph, constants, ""))
    for item in model.opset_import:
        nodes.append(Node("version of operators", item.domain, (("version", item.version),), (), ()))
    for function in model.functions:
        nodes += _lines(function)
    for sparse in model.graph.sparse_initializer:
        nodes.append(Node("sparse weight", sparse.values.name, (), (), ()))
    inputs = tuple(value.name for value in model.graph.input)
    outputs = tuple(value.name for value in model.graph.output)
    return Graph(inputs, outputs, tuple(nodes), constants, named_ports=True, ordered=False)


def _lines(function: onnx.FunctionProto) -> Iterator[Node]:
    """A node for each line of a function's text, after the line before it, so that what differs can be named."""
    name = f"{function.domain}.{function.name}"
    before: tuple[str, ...] = ()
    for number, line in enumerate(onnx.printer.to_text(function).splitlines()):
        if line.strip():
            after = (f"{name}: {number}",)
            yield Node(f"line {line.strip()!r} of {name}", "", (), before, after)
            before = after


def _nodes(graph: onnx.GraphProto, constants: dict[str, Array], place: str) -> Iterator[Node]:
    """The nodes in order, those inside first; constants are added to those that are known."""
    for node in graph.node:
        if node.op_type == "Constant" and not node.domain:
            constants[node.output[0]] = _constant(node)
            continue
        settings: list[tuple[str, Hashable]] = [("domain", node.domain)] if node.domain else []
        inside: list[str] = []
        for attribute in sorted(node.attribute, key=lambda one: one.name):
            bodies = [*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs]
            for body in bodies:
                where = f"{place}{node.op_type} {attribute.name}: "
                constants |= {tensor.name: numpy_helper.to_array(tensor) for tensor in body.initializer}
                if body.input:
                    yield Node(f"{where}inputs", node.name, (), (), tuple(value.name for value in body.input))
                yield from _nodes(body, constants, where)
                inside += [value.name for value in body.output]
            if not bodies:
                settings.append((attribute.name, _setting(attribute)))
        outputs = tuple(node.output)
        yield Node(place + node.op_type, node.name or next(filter(None, outputs), ""), tuple(settings),
                   (*_trimmed(node.input), *inside), outputs)  # fmt: skip


def _trimmed(names: Any) -> list[str]:
    """Inputs without those left out at the end."""
    trimmed = list(names)
    while trimmed and not trimmed[-1]:
        trimmed.pop()
    return trimmed


def _constant(node: onnx.NodeProto) -> Array:
    (attribute,) = node.attribute
    value = onnx.helper.get_attribute_value(attribute)
    if isinstance(value, onnx.TensorProto):
        return np.asarray(numpy_helper.to_array(value))
    kinds = {"value_float": np.float32, "value_floats": np.float32, "value_int": np.int64, "value_ints": np.int64}
    return np.asarray(value, kinds.get(attribute.name))


def _setting(attribute: onnx.AttributeProto) -> Hashable:
    value: Any = onnx.helper.get_attribute_value(attribute)
    if isinstance(value, onnx.TensorProto):
        array = numpy_helper.to_array(value)
        return (str(array.dtype), array.shape, array.tobytes())
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    if isinstance(value, list | tuple):
        return tuple(item.decode(errors="replace") if isinstance(item, bytes) else item for item in value)
    return value if isinstance(value, int | float) else str(value)
