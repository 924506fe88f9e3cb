"""Reading an ONNX graph without running it: its nodes, its contract and its precision; replacing its nodes."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError
from onnx import inliner

from lstm_deploy.contract import CONTRACT_KEY, LSTM
from lstm_deploy.errors import InputError, one_line

EXTERNAL_ABOVE = 1_900_000_000
"""Bytes of weights above which they are stored beside the model, as a protobuf is limited to 2 GiB."""

INITIALIZERS_APART = 4
"""The version of ONNX's format from which on initializers need not be listed among the inputs too."""


def load(path: Path) -> onnx.ModelProto:
    """Read an ONNX file; raises `InputError` if it is not one."""
    try:
        model = onnx.load(path, load_external_data=False)
        if model.ir_version < INITIALIZERS_APART:  # then checked by a rule that writers of the time did not keep
            model.ir_version = INITIALIZERS_APART
            onnx.checker.check_model(model)
        else:
            onnx.checker.check_model(path)  # by path, so that weights beside the file are found
        return model
    except (DecodeError, onnx.checker.ValidationError, OSError, ValueError) as error:
        raise InputError(f"{path} is not a valid ONNX model ({one_line(error)}); check the path.") from error


def inlined(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with the bodies of its own functions, if it has any, in place of their calls."""
    return inliner.inline_local_functions(model) if model.functions else model


def contract_text(model: onnx.ModelProto) -> str | None:
    """The JSON of the contract in a model's metadata, or None."""
    return next((prop.value for prop in model.metadata_props if prop.key == CONTRACT_KEY), None)


def changed_weights(path: Path, other: Path) -> list[str]:
    """The names of weights that are in both files but not equal."""
    ours, theirs = (onnx.load(file, load_external_data=False).graph.initializer for file in (path, other))
    originals = {tensor.name: tensor for tensor in theirs}
    return [tensor.name for tensor in ours if originals.get(tensor.name, tensor) != tensor]


def operator_counts(model: onnx.ModelProto) -> Counter[str]:
    """How often each operator occurs in a graph and its subgraphs."""
    return Counter(node.op_type for node in nodes(model.graph))


def precision(model: onnx.ModelProto) -> str:
    """The precision that a graph computes in: `int8`, `float16` or `float32`."""
    if any(name.startswith("DynamicQuantize") or name.endswith("Integer") for name in operator_counts(model)):
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


def replace_nodes(graph: onnx.GraphProto, replacements: Iterable[onnx.NodeProto]) -> None:
    """Put `replacements` in place of all nodes, and drop the initializers that nothing uses any more."""
    replacements = list(replacements)
    del graph.node[:], graph.value_info[:]
    graph.node.extend(replacements)
    used = {name for node in nodes(graph) for name in node.input} | {value.name for value in graph.output}
    constants = [tensor for tensor in graph.initializer if tensor.name in used]
    del graph.initializer[:]
    graph.initializer.extend(constants)


def nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """The nodes of a graph and its subgraphs."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from nodes(attribute.g)


def rename(nodes: Iterable[onnx.NodeProto], names: Mapping[str, str], *, outputs: bool = False) -> None:
    """Rename values where nodes read them, in subgraphs too; with `outputs`, also where nodes write them."""
    for node in nodes:
        for values in (node.input, node.output) if outputs else (node.input,):
            values[:] = [names.get(name, name) for name in values]
        for attribute in node.attribute:
            rename(attribute.g.node, names, outputs=outputs)
