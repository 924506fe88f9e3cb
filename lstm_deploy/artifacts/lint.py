"""Defects of the ONNX graph of a recurrent network, from any exporter, found without running it, and their cost."""

from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial

import onnx

from lstm_deploy.artifacts import int8_functions
from lstm_deploy.artifacts.frozen_sizes import Frozen, frozen_sizes
from lstm_deploy.artifacts.onnx_graph import inlined, nodes, operator_counts
from lstm_deploy.artifacts.recurrent_nodes import cell_of_node, differing_attributes
from lstm_deploy.artifacts.recurrent_state import listed, node_states, sentences
from lstm_deploy.artifacts.value_flow import FIRST_STATE, RecurrentNode, ValueFlow
from lstm_deploy.contract import RECURRENT_OPERATORS, Signature

Parts = tuple[str, str, str]
"""A sentence: what comes before the name of its node, what comes after it, and what comes after several names."""
DefectsOf = Callable[[RecurrentNode, ValueFlow], Iterator[Parts]]
NOT_FOLDED = "DequantizeLinear"
"""The operator that onnxruntime runs on every call even if its inputs are constants."""
VALUE_CHANGING = ("Clip", "Min", "Max", "Round", "Floor", "Ceil", "IsNaN", "IsInf")
"""Operators that clip or round values."""
NO_CELLS = "runtimes cannot use their kernels for it, and a state, if there is one, is not seen"
CONTROL_FLOW = ("Loop", "If", "Scan")


def lint(model: onnx.ModelProto, contract: Signature | None = None) -> list[str]:
    """One sentence for each defect; none for a graph that `export` wrote.

    Sizes are compared with the contract, if there is one; without one, a size of an input that is fixed is a defect,
    and a state that callers cannot carry.
    """
    defects = [
        f"The function {function.domain}.{function.name} is not the int8 layer that lstm-deploy writes under this name."
        for function in int8_functions.named_like_layers(model)
        if not int8_functions.is_layer(function)
    ]
    model = inlined(model)
    flow = ValueFlow(model)
    count = operator_counts(model)
    if not any(count[name] for name in RECURRENT_OPERATORS):
        defects.append(f"There is no LSTM, GRU or RNN node: {NO_CELLS}.")
    for name in CONTROL_FLOW:
        if count[name] and not (contract and contract.rollout):
            defects.append(f"{count[name]} {name} node(s): control flow slows down each step and prevents CUDA graphs.")
    defects += _of_alike(flow, _weight_defects)
    for node in flow.recurrent:
        defects += _node_defects(node, flow)
    if contract is None:
        defects += [*_unread_inputs(flow), *_state_defects(flow), *_frozen_defects(model, flow)]
    else:
        defects += [*_other_cells(flow, contract), *_without_state(flow), *_other_shapes(model, contract)]
    return defects


def states(model: onnx.ModelProto) -> list[str]:
    """One sentence on the state of each recurrent node, or for all nodes that are alike: whether it is carried."""
    return [*sentences(node_states(ValueFlow(inlined(model))))]


def value_changing_nodes(model: onnx.ModelProto) -> str:
    """List nodes that change values on purpose, which is no defect in itself; empty if there are none."""
    counts = Counter(node.op_type for node in nodes(model.graph) if node.op_type in VALUE_CHANGING)
    for node in nodes(model.graph):
        if node.op_type == "Cast":
            to = onnx.TensorProto.DataType.Name(onnx.helper.get_attribute_value(node.attribute[0])).lower()
            if to in ("float16", "bfloat16"):
                counts[f"Cast to {to}"] += 1
    return ", ".join(f"{number} {name}" for name, number in counts.items())


def _of_alike(flow: ValueFlow, defects_of: DefectsOf) -> Iterator[str]:
    """One sentence for all nodes that have the same defect."""
    alike: dict[Parts, list[str]] = {}
    for node in flow.recurrent:
        for parts in defects_of(node, flow):
            alike.setdefault(parts, []).append(node.label)
    for (before, one, several), labels in alike.items():
        yield f"{before}{listed(labels)} {several if len(labels) > 1 else one}"


def _node_defects(node: RecurrentNode, flow: ValueFlow) -> Iterator[str]:
    """Defects of the attributes of one recurrent node."""
    if node.attribute("layout", 0):
        yield f"{node.label} has the attribute layout=1 (batch first), with which onnxruntime opens no recurrent node."
    title = RECURRENT_OPERATORS[node.node.op_type].title
    for name in differing_attributes(node.node):
        value = node.attribute(name)
        has = f"lacks the attribute {name}" if value is None else f"has the attribute {name}"
        has += f"={value:g}" if isinstance(value, int | float) else ""
        yield f"{node.label} {has}: it does not compute what PyTorch's {title} does."
    if node.attribute("direction") == b"reverse":
        yield f"{node.label} reads time backwards only, which no PyTorch {title} does."
    peepholes = node.input(7) if node.node.op_type == "LSTM" else None
    if peepholes and not flow.is_zero(peepholes):
        yield f"{node.label} has peephole weights, which PyTorch's LSTM does not have."


def _weight_defects(node: RecurrentNode, flow: ValueFlow) -> Iterator[Parts]:
    """Weights that are no constants of the file."""
    ways: dict[str, list[str]] = {}
    for letter, value in (("W", node.input(1)), ("R", node.input(2)), ("B", node.input(3))):
        if value is None or flow.is_constant(value):
            continue
        kinds = {source.kind for source in flow.sources(value)}
        if value in flow.inputs:
            way = "are inputs of the graph, which every call has to bring"
        elif kinds <= {"zeros", "constant"} and NOT_FOLDED not in flow.operators(value):
            way = "are put together from constants by nodes, which onnxruntime does once, when it loads the file"
        else:
            way = "are computed in the graph, which costs time on every call"
        ways.setdefault(way, []).append(letter)
    can_be_int8 = RECURRENT_OPERATORS[node.node.op_type].onnxruntime_quantizes
    for way, letters in ways.items():
        one, several = (
            f"; quantize_dynamic silently leaves {these} in float" * can_be_int8
            for these in ("this LSTM", "these LSTMs")
        )
        yield f"The weights {', '.join(letters)} of ", f"{way}{one}.", f"{way}{several}."


def _unread_inputs(flow: ValueFlow) -> Iterator[str]:
    """Inputs without effect, as where an exporter was given one tensor for two of them and took them for one."""
    for name in sorted(name for _, name in flow.unread_inputs()):
        yield f"No node reads the input {name}: what callers give for it has no effect."


def _state_defects(flow: ValueFlow) -> Iterator[str]:
    """States that no caller can carry from call to call."""
    states = node_states(flow)
    carries = any(state.is_carried for state in states)
    # A branch that starts from zeros beside one that takes a state is for callers that have none yet.
    return sentences(state for state in states if not (state.is_carried or (carries and state.in_branch)))


def _without_state(flow: ValueFlow) -> Iterator[str]:
    """Nodes without an input for the initial state; whether one has an effect is for the checks of outputs to see."""
    for node in flow.recurrent:
        if not all(node.input(FIRST_STATE + number) for number in range(len(node.states))):
            yield f"{node.label} has no initial state: it starts from zeros on every call."


def _frozen_defects(model: onnx.ModelProto, flow: ValueFlow) -> Iterator[str]:
    """Sizes that the graph fixes."""
    frozen = frozen_sizes(model, flow)
    dynamic = False
    for value in model.graph.input:
        shape, roles = _shape(value), frozen.inputs.get(value.name, [])
        dynamic |= any(isinstance(size, str) for size in shape) and (0, value.name) in flow.inputs
        if named := sorted({role for role in roles if role}):
            yield f"{_described(value)}: {' and '.join(named)} {'are' if len(named) > 1 else 'is'} frozen."
        elif roles and len(roles) == len(shape) > 1:
            yield f"{_described(value)}: all its sizes are frozen."
    if dynamic:
        yield from _of_alike(flow, partial(_frozen_inside, frozen))


def _frozen_inside(frozen: Frozen, node: RecurrentNode, _: ValueFlow) -> Iterator[Parts]:
    """Sizes of what a node reads that do not depend on those of the inputs."""
    steps, rows, state_rows = frozen.nodes[node.position]
    named = ((steps, "step"), (rows, "row"))
    reads = [f"{size} {unit}{'s'[: size != 1]}" for size, unit in named if isinstance(size, int)]
    if reads:
        words = f"{' and '.join(reads)} on every call, whatever the sizes of the inputs."
        yield "", f"reads {words}", f"read {words}"
    elif isinstance(state_rows, int):
        words = f"has {state_rows} row{'s'[: state_rows != 1]} on every call: no other batch runs."
        yield "The initial state of ", words, words


def _other_cells(flow: ValueFlow, contract: Signature) -> Iterator[str]:
    """Nodes of kinds that no recurrent module of the contract has."""
    kinds = {spec.cell.kind for spec in contract.recurrent}
    for node in flow.recurrent:
        cell = cell_of_node(node.node)
        if kinds and cell is not None and cell.kind not in kinds:
            yield f"{node.label} computes a cell of kind {cell.kind}; the contract has {', '.join(sorted(kinds))}."


def _other_shapes(model: onnx.ModelProto, contract: Signature) -> Iterator[str]:
    """Inputs whose shapes are not those of the contract; another name for an axis that is open changes nothing."""
    expected = {spec.name: spec.shape for spec in (*contract.inputs, *contract.state_inputs)}
    for value in model.graph.input:
        shape = _shape(value)
        if value.name not in expected:
            continue
        pairs = list(zip(expected[value.name], shape, strict=False))
        as_expected = all(isinstance(size, str) if isinstance(dim, str) else dim == size for dim, size in pairs)
        if len(shape) != len(expected[value.name]) or not as_expected:
            frozen = [
                f"{dim} is frozen at {size}" for dim, size in pairs if isinstance(dim, str) and isinstance(size, int)
            ]
            why = f" ({', '.join(frozen)})" if frozen else ""
            right = ", ".join(map(str, expected[value.name]))
            yield f"{_described(value)}, not [{right}] as the contract says{why}."


def _described(value: onnx.ValueInfoProto) -> str:
    return f"The input {value.name} has the shape [{', '.join(str(size or '?') for size in _shape(value))}]"


def _shape(value: onnx.ValueInfoProto) -> tuple[int | str, ...]:
    dims = value.type.tensor_type.shape.dim
    return tuple(dim.dim_value if dim.HasField("dim_value") else dim.dim_param for dim in dims)
