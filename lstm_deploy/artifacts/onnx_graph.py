"""Reading an ONNX graph without running it: its nodes, its contract and its precision; replacing its nodes."""

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError
from onnx import TensorProto, external_data_helper, inliner

from lstm_deploy.artifacts import int8_functions
from lstm_deploy.contract import CONTRACT_KEY, RECURRENT_OPERATORS
from lstm_deploy.errors import InputError, one_line

EXTERNAL_ABOVE = 1_900_000_000
"""Bytes of weights above which they are stored beside the model, as a protobuf is limited to 2 GiB."""

READ_UP_TO = 2**18
"""Numbers of a tensor beside the model up to which it is read with the graph: sizes, initial states and the like."""

ROUNDING = ("DynamicQuantize", "QuantizeLinear", "QLinear", "QGemm", "QAttention")
"""How the names of operators begin that round what they are given to integers."""
FLOATS = {
    TensorProto.BFLOAT16: "bfloat16",
    TensorProto.FLOAT16: "float16",
    TensorProto.FLOAT: "float32",
    TensorProto.DOUBLE: "float64",
}
"""Types of floats, the coarsest first: a graph is as precise as the coarsest of its weights."""

INITIALIZERS_APART = 4
"""The version of ONNX's format from which on initializers need not be listed among the inputs too."""


def load(path: Path) -> onnx.ModelProto:
    """Read an ONNX file, without large weights that lie beside it; raises `InputError` if it is not one."""
    try:
        model = onnx.load(path, load_external_data=False)
        if missing := [name for name in files_beside(model) if not (path.parent / name).is_file()]:
            raise InputError(f"{path} has weights in {missing[0]}, which is not beside it; put it there.")
        if model.ir_version < INITIALIZERS_APART:  # then checked by a rule that writers of the time did not keep
            model.ir_version = INITIALIZERS_APART
            onnx.checker.check_model(model)
        else:
            onnx.checker.check_model(path)  # by path, so that weights beside the file are found
        for tensor in tensors(model):
            if external_data_helper.uses_external_data(tensor) and math.prod(tensor.dims) <= READ_UP_TO:
                external_data_helper.load_external_data_for_tensor(tensor, str(path.parent))
                tensor.data_location = TensorProto.DEFAULT
                del tensor.external_data[:]
        return model
    except (DecodeError, onnx.checker.ValidationError, OSError, ValueError) as error:
        raise InputError(f"{path} is not a valid ONNX model ({one_line(error)}); check the path.") from error


def files_beside(model: onnx.ModelProto) -> list[str]:
    """The names of the files that hold weights of a model which was read without them."""
    beside = [tensor for tensor in tensors(model) if external_data_helper.uses_external_data(tensor)]
    return sorted({entry.value for tensor in beside for entry in tensor.external_data if entry.key == "location"})


def inlined(model: onnx.ModelProto, *, layers: bool = False) -> onnx.ModelProto:
    """The model with the bodies of its own functions in place of their calls, those of recurrent layers if asked.

    Else these are read like onnxruntime's operators; `lint` compares what they compute with what `export` writes.
    """
    if not model.functions:
        return model
    if layers:
        return inliner.inline_local_functions(model)
    kept = [(function.domain, function.name) for function in int8_functions.named_like_layers(model)]
    return inliner.inline_selected_functions(model, kept, exclude=True)


def save(model: onnx.ModelProto, path: Path, weights: Path) -> None:
    """Write a model with all its weights, into a new file `weights` in the same folder if they are too many for one."""
    if sum(len(tensor.raw_data) for tensor in tensors(model)) > EXTERNAL_ABOVE:
        onnx.save_model(model, path, save_as_external_data=True, location=weights.name)
    else:
        onnx.save_model(model, path)


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
    """The precision that a graph computes in: `int8`, or a type of floats, which is `float32` if it has no weights."""
    if any(node.op_type.startswith(ROUNDING) or "Integer" in node.op_type for node in _all_nodes(model)):
        return "int8"
    types = {tensor.data_type for tensor in tensors(model) if math.prod(tensor.dims) > 1}
    return next((name for kind, name in FLOATS.items() if kind in types), "float32")


def has_float16_cells(model: onnx.ModelProto) -> bool:
    """Whether a recurrent node computes in float16."""
    kind = onnx.TensorProto.FLOAT16
    half = {tensor.name for tensor in model.graph.initializer if tensor.data_type == kind}
    half |= {value.name for value in model.graph.input if value.type.tensor_type.elem_type == kind}
    for node in nodes(model.graph):
        for attribute in node.attribute:
            if attribute.t.data_type == kind or (node.op_type == "Cast" and attribute.i == kind):
                half.update(node.output)
    return any(node.op_type in RECURRENT_OPERATORS and half.intersection(node.input) for node in nodes(model.graph))


def has_batch_first_nodes(model: onnx.ModelProto) -> bool:
    """Whether a recurrent node has the attribute layout=1."""
    found = (item for node in _all_nodes(model) if node.op_type in RECURRENT_OPERATORS for item in node.attribute)
    return any(item.name == "layout" and item.i == 1 for item in found)


def replace_nodes(graph: onnx.GraphProto, replacements: Iterable[onnx.NodeProto]) -> None:
    """Put `replacements` in place of all nodes, and drop the initializers that nothing uses any more."""
    replacements = list(replacements)
    del graph.node[:], graph.value_info[:]
    graph.node.extend(replacements)
    used = {name for node in nodes(graph) for name in node.input} | {value.name for value in graph.output}
    constants = [tensor for tensor in graph.initializer if tensor.name in used]
    del graph.initializer[:]
    graph.initializer.extend(constants)


def nodes(graph: onnx.GraphProto | onnx.FunctionProto) -> Iterator[onnx.NodeProto]:
    """The nodes of a graph and its subgraphs."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from nodes(attribute.g)


def tensors(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """The constants of a model: initializers, and what nodes hold, in subgraphs and functions too."""
    yield from model.graph.initializer
    for node in _all_nodes(model):
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.g.initializer


def _all_nodes(model: onnx.ModelProto) -> Iterator[onnx.NodeProto]:
    """The nodes of a model, those of its functions too."""
    for graph in (model.graph, *model.functions):
        yield from nodes(graph)


def rename(nodes: Iterable[onnx.NodeProto], names: Mapping[str, str], *, outputs: bool = False) -> None:
    """Rename values where nodes read them, in subgraphs too; with `outputs`, also where nodes write them."""
    for node in nodes:
        for values in (node.input, node.output) if outputs else (node.input,):
            values[:] = [names.get(name, name) for name in values]
        for attribute in node.attribute:
            rename(attribute.g.node, names, outputs=outputs)
