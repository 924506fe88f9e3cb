"""What is wrong with the ONNX graph of an LSTM, ours or another's, and what it costs.

A pure reading of the graph: nothing is run.
"""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError

from lstm_deploy.errors import InputError, one_line
from lstm_deploy.signature import Signature

LSTM_OPERATORS = ("LSTM", "DynamicQuantizeLSTM")
CONTROL_FLOW = ("Loop", "If", "Scan")


def load(path: Path) -> onnx.ModelProto:
    """Read an ONNX file; raises `InputError` if it is not one."""
    try:
        onnx.checker.check_model(path)  # by path, so that weights beside the file are found
        model = onnx.load(path, load_external_data=False)
    except (DecodeError, onnx.checker.ValidationError, OSError, ValueError) as error:
        raise InputError(f"{path} is not a valid ONNX model ({one_line(error)}); check the path.") from error
    return model


def operators(model: onnx.ModelProto) -> Counter[str]:
    """How often each operator stands in the graph and the graphs inside it."""
    return Counter(node.op_type for node in _nodes(model.graph))


def lint(model: onnx.ModelProto, contract: Signature | None = None) -> list[str]:
    """One sentence for each defect; none for a graph as `export` makes it.

    Sizes are held against the contract, where there is one; without one, an input of fixed size is a defect.
    """
    found = []
    count = operators(model)
    if not any(count[name] for name in LSTM_OPERATORS):
        found.append("There is no LSTM node: runtimes cannot use their LSTM kernels, and no quantizer sees an LSTM.")
    for name in CONTROL_FLOW:
        if count[name]:
            found.append(f"{count[name]} {name} node(s): each step pays for control flow, and CUDA graphs are out.")
    constants = {tensor.name for tensor in model.graph.initializer}
    for node in _nodes(model.graph):
        if node.op_type == "LSTM":
            computed = [letter for letter, name in zip("WRB", node.input[1:4], strict=False) if name not in constants]
            if computed:
                found.append(
                    f"The weights {', '.join(computed)} of {node.name or 'an LSTM'} are computed in the graph: "
                    "every call pays for it, and quantize_dynamic leaves this LSTM in float without a word."
                )
            if len(node.input) < 7 or not node.input[5] or not node.input[6]:
                found.append(f"{node.name or 'An LSTM'} has no initial state: it starts from zeros on every call.")
    promised = {spec.name: spec.shape for spec in (*contract.inputs, *contract.state_inputs)} if contract else {}
    for value in model.graph.input:
        dims = value.type.tensor_type.shape.dim
        shape = tuple(dim.dim_value if dim.HasField("dim_value") else dim.dim_param for dim in dims)
        described = f"The input {value.name} has the shape [{', '.join(map(str, shape))}]"
        if value.name in promised and shape != promised[value.name]:
            found.append(f"{described}, not [{', '.join(map(str, promised[value.name]))}] as the contract says.")
        elif value.name not in promised and len(shape) >= 2 and all(isinstance(size, int) for size in shape):
            found.append(f"{described}: batch and time are frozen.")
    return found


def _nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from _nodes(attribute.g)
