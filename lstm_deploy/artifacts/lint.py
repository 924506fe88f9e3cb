"""What is wrong with the ONNX graph of an LSTM, ours or another's, and what it costs.

A pure reading of the graph: nothing is run.
"""

from collections import Counter
from collections.abc import Collection, Iterator

import onnx

from lstm_deploy.artifacts.onnx_graph import nodes, operators
from lstm_deploy.contract import LSTM, Signature

ALTERING = ("activation_alpha", "activation_beta", "activations", "clip", "input_forget")
"""Attributes of the LSTM operator that PyTorch's LSTM has no counterpart of."""
CHANGING = ("Clip", "Min", "Max", "Round", "Floor", "Ceil", "IsNaN", "IsInf")
"""Operators that cut or round values."""
PLAIN = (0, [b"Sigmoid", b"Tanh", b"Tanh"], [b"Sigmoid", b"Tanh", b"Tanh"] * 2)
"""Values of these with which it is PyTorch's LSTM after all."""
CONTROL_FLOW = ("Loop", "If", "Scan")


def lint(model: onnx.ModelProto, contract: Signature | None = None) -> list[str]:
    """One sentence for each defect; none for a graph as `export` makes it.

    Sizes are held against the contract, where there is one; without one, an input of fixed size is a defect.
    """
    found = []
    count = operators(model)
    if not any(count[name] for name in LSTM.operators):
        found.append("There is no LSTM node: runtimes cannot use their LSTM kernels, and no quantizer sees an LSTM.")
    for name in CONTROL_FLOW:
        if count[name] and not (contract and contract.rollout):
            found.append(f"{count[name]} {name} node(s): each step pays for control flow, and CUDA graphs are out.")
    constants = {tensor.name for tensor in model.graph.initializer}
    for node in nodes(model.graph):
        if node.op_type in LSTM.operators:
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


def suspicious(model: onnx.ModelProto) -> str:
    """Nodes that change values on purpose, which are no defect by themselves; empty where there are none."""
    found = Counter(node.op_type for node in nodes(model.graph) if node.op_type in CHANGING)
    for node in nodes(model.graph):
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
    if node.op_type == LSTM.onnx_operator and len(node.input) > 7 and node.input[7]:
        yield f"{name} has peephole weights, which PyTorch's LSTM does not know."
    if len(node.input) < 7 or not node.input[5] or not node.input[6]:
        yield f"{name} has no initial state: it starts from zeros on every call."
