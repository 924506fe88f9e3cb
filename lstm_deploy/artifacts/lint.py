"""Defects of the ONNX graph of an LSTM, from any exporter, and their cost, found without running the graph."""

from collections import Counter
from collections.abc import Collection, Iterator

import onnx

from lstm_deploy.artifacts.onnx_graph import nodes, operator_counts
from lstm_deploy.contract import LSTM, Signature

ALTERING = ("activation_alpha", "activation_beta", "activations", "clip", "input_forget")
"""Attributes of the LSTM operator without a counterpart in PyTorch's LSTM."""
DEFAULTS = (0, [b"Sigmoid", b"Tanh", b"Tanh"], [b"Sigmoid", b"Tanh", b"Tanh"] * 2)
"""Values of these attributes with which the operator computes PyTorch's LSTM."""
VALUE_CHANGING = ("Clip", "Min", "Max", "Round", "Floor", "Ceil", "IsNaN", "IsInf")
"""Operators that clip or round values."""
CONTROL_FLOW = ("Loop", "If", "Scan")


def lint(model: onnx.ModelProto, contract: Signature | None = None) -> list[str]:
    """One sentence for each defect; none for a graph that `export` wrote.

    Shapes are compared with the contract, if there is one; without one, an input of fixed size is a defect.
    """
    defects = []
    count = operator_counts(model)
    if not any(count[name] for name in LSTM.operators):
        defects.append("There is no LSTM node: runtimes cannot use their LSTM kernels, and no quantizer sees an LSTM.")
    for name in CONTROL_FLOW:
        if count[name] and not (contract and contract.rollout):
            defects.append(f"{count[name]} {name} node(s): control flow slows down each step and prevents CUDA graphs.")
    constants = {tensor.name for tensor in model.graph.initializer}
    for node in nodes(model.graph):
        if node.op_type in LSTM.operators:
            defects += _lstm_defects(node, constants)
    expected = {spec.name: spec.shape for spec in (*contract.inputs, *contract.state_inputs)} if contract else {}
    for value in model.graph.input:
        dims = value.type.tensor_type.shape.dim
        shape = tuple(dim.dim_value if dim.HasField("dim_value") else dim.dim_param for dim in dims)
        described = f"The input {value.name} has the shape [{', '.join(map(str, shape))}]"
        if value.name in expected and shape != expected[value.name]:
            pairs = zip(expected[value.name], shape, strict=False)
            frozen = [
                f"{dim} is frozen at {size}" for dim, size in pairs if isinstance(dim, str) and isinstance(size, int)
            ]
            why = f" ({', '.join(frozen)})" if frozen else ""
            defects.append(f"{described}, not [{', '.join(map(str, expected[value.name]))}] as the contract says{why}.")
        elif value.name not in expected and len(shape) >= 2 and all(isinstance(size, int) for size in shape):
            defects.append(f"{described}: batch and time are frozen.")
    return defects


def value_changing_nodes(model: onnx.ModelProto) -> str:
    """List nodes that change values on purpose, which is no defect in itself; empty if there are none."""
    counts = Counter(node.op_type for node in nodes(model.graph) if node.op_type in VALUE_CHANGING)
    for node in nodes(model.graph):
        if node.op_type == "Cast":
            to = onnx.TensorProto.DataType.Name(onnx.helper.get_attribute_value(node.attribute[0])).lower()
            if to in ("float16", "bfloat16"):
                counts[f"Cast to {to}"] += 1
    return ", ".join(f"{number} {name}" for name, number in counts.items())


def _lstm_defects(node: onnx.NodeProto, constants: Collection[str]) -> Iterator[str]:
    """Defects of one LSTM node; `constants` are the names of the graph's initializers."""
    name = node.name or "An LSTM"
    computed = [letter for letter, weight in zip("WRB", node.input[1:4], strict=False) if weight not in constants]
    if computed:
        yield (
            f"The weights {', '.join(computed)} of {name} are computed in the graph: this costs time on every "
            "call, and quantize_dynamic silently leaves this LSTM in float."
        )
    for attribute in node.attribute:
        if attribute.name in ALTERING and onnx.helper.get_attribute_value(attribute) not in DEFAULTS:
            yield f"{name} has the attribute {attribute.name}: it does not compute what PyTorch's LSTM does."
        if attribute.name == "direction" and attribute.s == b"reverse":
            yield f"{name} reads time backwards only, which no PyTorch LSTM does."
    if node.op_type == LSTM.onnx_operator and len(node.input) > 7 and node.input[7]:
        yield f"{name} has peephole weights, which PyTorch's LSTM does not have."
    if len(node.input) < 7 or not node.input[5] or not node.input[6]:
        yield f"{name} has no initial state: it starts from zeros on every call."
