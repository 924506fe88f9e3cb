"""What is wrong with the ONNX graph of an LSTM, ours or another's, and what it costs.

A pure reading of the graph: nothing is run.
"""

from collections import Counter
from collections.abc import Collection, Iterator
from pathlib import Path

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from onnx import numpy_helper

from lstm_deploy.errors import InputError, one_line
from lstm_deploy.signature import CONTRACT_KEY, Array, Signature

LSTM_OPERATORS = ("LSTM", "DynamicQuantizeLSTM")
ALTERING = ("activation_alpha", "activation_beta", "activations", "clip", "input_forget")
"""Attributes of the LSTM operator that PyTorch's LSTM has no counterpart of."""
CHANGING = ("Clip", "Min", "Max", "Round", "Floor", "Ceil", "IsNaN", "IsInf")
"""Operators that cut or round values."""
PLAIN = (0, [b"Sigmoid", b"Tanh", b"Tanh"], [b"Sigmoid", b"Tanh", b"Tanh"] * 2)
"""Values of these with which it is PyTorch's LSTM after all."""
CONTROL_FLOW = ("Loop", "If", "Scan")
INTEGER_WEIGHTS = {
    "DynamicQuantizeLSTM": (1, 2),
    "MatMulInteger": (1,),
    "MatMulIntegerToFloat": (1,),
    "DynamicQuantizeMatMul": (1,),
    "QLinearMatMul": (3,),
    "QAttention": (1,),
    "QGemm": (3,),
    "ConvInteger": (1,),
    "QLinearConv": (3,),
    "MatMul": (1,),
    "Gemm": (1,),
    "Conv": (1,),
}
"""Operators that multiply by weights of 8 bits, and which inputs these are. The last three do where their inputs come
from `DequantizeLinear`: onnxruntime then multiplies the integers."""
PAIR_LIMIT = 128
"""What two neighbouring weights of one sign may be together: 255 times as much fits 16 bits, 255 * 129 does not."""
CPUS_KEY = "lstm_deploy.cpus"
"""Key in the `metadata_props` of an int8 file that was made for some CPUs only."""
VNNI = "vnni"
"""Its value for weights that saturate on x86 CPUs without VNNI."""


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
    return Counter(node.op_type for node in _nodes(model.graph))


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
    for node in _nodes(model.graph):
        for attribute in node.attribute:
            if attribute.t.data_type == kind or (node.op_type == "Cast" and attribute.i == kind):
                half.update(node.output)
    return any(node.op_type == "LSTM" and half.intersection(node.input) for node in _nodes(model.graph))


def lint(model: onnx.ModelProto, contract: Signature | None = None) -> list[str]:
    """One sentence for each defect; none for a graph as `export` makes it.

    Sizes are held against the contract, where there is one; without one, an input of fixed size is a defect.
    """
    found = []
    count = operators(model)
    if not any(count[name] for name in LSTM_OPERATORS):
        found.append("There is no LSTM node: runtimes cannot use their LSTM kernels, and no quantizer sees an LSTM.")
    for name in CONTROL_FLOW:
        if count[name] and not (contract and contract.rollout):
            found.append(f"{count[name]} {name} node(s): each step pays for control flow, and CUDA graphs are out.")
    constants = {tensor.name for tensor in model.graph.initializer}
    for node in _nodes(model.graph):
        if node.op_type in LSTM_OPERATORS:
            found += _lstm_defects(node, constants)
    promised = {spec.name: spec.shape for spec in (*contract.inputs, *contract.state_inputs)} if contract else {}
    for value in model.graph.input:
        dims = value.type.tensor_type.shape.dim
        shape = tuple(dim.dim_value if dim.HasField("dim_value") else dim.dim_param for dim in dims)
        described = f"The input {value.name} has the shape [{', '.join(map(str, shape))}]"
        if value.name in promised and shape != promised[value.name]:
            wanted = promised[value.name]
            pairs = zip(wanted, shape, strict=False)
            frozen = [
                f"{ours} is frozen at {theirs}"
                for ours, theirs in pairs
                if isinstance(ours, str) and theirs != ours and isinstance(theirs, int)
            ]
            why = f" ({', '.join(frozen)})" if frozen else ""
            found.append(f"{described}, not [{', '.join(map(str, wanted))}] as the contract says{why}.")
        elif value.name not in promised and len(shape) >= 2 and all(isinstance(size, int) for size in shape):
            found.append(f"{described}: batch and time are frozen.")
    return found


def saturating(model: onnx.ModelProto, folder: Path) -> dict[str, tuple[int, int]]:
    """Nodes whose sums saturate on x86 CPUs without VNNI: how many rows of their weights may, and of how many.

    These CPUs multiply bytes from 0 to 255 by signed ones and add the products of two neighbouring inputs in 16 bits.
    `folder` is where weights outside the file lie.
    """
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    dequantized = {node.output[0]: node.input[0] for node in _nodes(model.graph) if node.op_type == "DequantizeLinear"}
    found: dict[str, tuple[int, int]] = {}
    for number, node in enumerate(_nodes(model.graph)):
        is_plain = node.op_type in ("MatMul", "Gemm", "Conv")
        if is_plain and node.input[0] not in dequantized:
            continue
        for position in INTEGER_WEIGHTS.get(node.op_type, ()):
            name = node.input[position]
            tensor = constants.get(dequantized.get(name, "") if is_plain else name)
            if tensor is None or tensor.data_type != onnx.TensorProto.INT8:
                continue
            bad = [_over(rows) for rows in _rows(node, numpy_helper.to_array(tensor, str(folder)))]
            if any(count for count, _ in bad):
                before = found.get(label := node.name or f"{node.op_type} {number}", (0, 0))
                count, rows = max(bad)
                found[label] = (before[0] + count, before[1] + rows)
    return found


def saturation(model: onnx.ModelProto, folder: Path) -> list[str]:
    """One sentence for each node that `saturating` finds."""
    return [
        f"{name} saturates on CPUs without VNNI, in {count} of {rows} rows: two neighbouring weights are more than "
        f"{PAIR_LIMIT} together; quantize it with lstm-deploy, or with reduce_range=True."
        for name, (count, rows) in saturating(model, folder).items()
    ]


def needs_vnni(model: onnx.ModelProto) -> bool:
    """Whether a file says of itself that it was made for CPUs with VNNI."""
    return any((prop.key, prop.value) == (CPUS_KEY, VNNI) for prop in model.metadata_props)


def _rows(node: onnx.NodeProto, weights: Array) -> Iterator[Array]:
    """Weights as `[outputs, inputs]`, in each order in which a kernel may go through the inputs."""
    if node.op_type.endswith(("Conv", "ConvInteger")):
        yield weights.reshape(len(weights), -1)
        yield np.moveaxis(weights, 1, -1).reshape(len(weights), -1)
    elif any(item.name == "transB" and item.i for item in node.attribute):
        yield weights
    elif weights.ndim >= 2:
        yield np.moveaxis(weights, -2, -1).reshape(-1, weights.shape[-2])


def _over(rows: Array) -> tuple[int, int]:
    """How many rows have a pair of weights beyond `PAIR_LIMIT`, and how many rows there are."""
    filled = np.pad(rows.astype(np.int16), ((0, 0), (0, rows.shape[1] % 2)))
    first, second = filled[:, 0::2], filled[:, 1::2]
    # Weights of different signs are never more together than one of them.
    return int((np.abs(first + second) > PAIR_LIMIT).any(axis=1).sum()), len(rows)


def suspicious(model: onnx.ModelProto) -> str:
    """Nodes that change values on purpose, which are no defect by themselves; empty where there are none."""
    found = Counter(node.op_type for node in _nodes(model.graph) if node.op_type in CHANGING)
    for node in _nodes(model.graph):
        if node.op_type == "Cast":
            to = onnx.TensorProto.DataType.Name(onnx.helper.get_attribute_value(node.attribute[0])).lower()
            if to in ("float16", "bfloat16"):
                found[f"Cast to {to}"] += 1
    return ", ".join(f"{number} {name}" for name, number in found.items())


def _lstm_defects(node: onnx.NodeProto, constants: Collection[str]) -> Iterator[str]:
    """What is wrong with one LSTM node; `constants` are the names of the graph's initializers."""
    name = node.name or "An LSTM"
    computed = [letter for letter, weight in zip("WRB", node.input[1:4], strict=False) if weight not in constants]
    if computed:
        yield (
            f"The weights {', '.join(computed)} of {name} are computed in the graph: every call pays for it, and "
            "quantize_dynamic leaves this LSTM in float without a word."
        )
    for attribute in node.attribute:
        if attribute.name in ALTERING and onnx.helper.get_attribute_value(attribute) not in PLAIN:
            yield f"{name} has the attribute {attribute.name}: it computes something else than PyTorch's LSTM."
        if attribute.name == "direction" and attribute.s == b"reverse":
            yield f"{name} reads time backwards, which no PyTorch LSTM does by itself."
    if node.op_type == "LSTM" and len(node.input) > 7 and node.input[7]:
        yield f"{name} has peephole weights, which PyTorch's LSTM does not know."
    if len(node.input) < 7 or not node.input[5] or not node.input[6]:
        yield f"{name} has no initial state: it starts from zeros on every call."


def _nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from _nodes(attribute.g)
