"""Reading an ONNX graph: its nodes, its contract, and the precision it computes in. Nothing is run."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError

from lstm_deploy.contract import CONTRACT_KEY, LSTM
from lstm_deploy.errors import InputError, one_line

EXTERNAL_ABOVE = 1_900_000_000
"""Bytes of weights above which they lie beside the model: a protobuf ends at 2 GiB."""


def load(path: Path) -> onnx.ModelProto:
    """Read an ONNX file; raises `InputError` if it is not one."""
    try:
        onnx.checker.check_model(path)  # by path, so that weights beside the file are found
        model = onnx.load(path, load_external_data=False)
    except (DecodeError, onnx.checker.ValidationError, OSError, ValueError) as error:
        raise InputError(f"{path} is not a valid ONNX model ({one_line(error)}); check the path.") from error
    return model


def contract_text(model: onnx.ModelProto) -> str | None:
    """The JSON of the contract that a file carries; none if it carries none."""
    return next((prop.value for prop in model.metadata_props if prop.key == CONTRACT_KEY), None)


def changed_weights(path: Path, other: Path) -> list[str]:
    """The weights of a file that are not, number by number, those of the same name in another."""
    ours, theirs = (onnx.load(file, load_external_data=False).graph.initializer for file in (path, other))
    right = {tensor.name: tensor for tensor in theirs}
    return [tensor.name for tensor in ours if tensor.name in right and tensor != right[tensor.name]]


def operators(model: onnx.ModelProto) -> Counter[str]:
    """How often each operator stands in the graph and the graphs inside it."""
    return Counter(node.op_type for node in nodes(model.graph))


def precision(model: onnx.ModelProto) -> str:
    """`int8`, `float16` or `float32`, by what the graph computes in."""
    if any(name.startswith("DynamicQuantize") or name.endswith("Integer") for name in operators(model)):
        return "int8"
    types = {tensor.data_type for tensor in model.graph.initializer}
    return "float16" if onnx.TensorProto.FLOAT16 in types else "float32"


def has_float16_lstm(model: onnx.ModelProto) -> bool:
    """Whether an LSTM computes in float16."""
    kind = onnx.TensorProto.FLOAT16
    half = {tensor.name for tensor in model.graph.initializer if tensor.data_type == kind}
    half |= {value.name for value in model.graph.input if value.type.tensor_type.elem_type == kind}
    for node in nodes(model.graph):
        for attribute in node.attribute:
            if attribute.t.data_type == kind or (node.op_type == "Cast" and attribute.i == kind):
                half.update(node.output)
    return any(node.op_type == LSTM.onnx_operator and half.intersection(node.input) for node in nodes(model.graph))


def nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """The nodes of a graph and of the graphs inside it."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from nodes(attribute.g)
