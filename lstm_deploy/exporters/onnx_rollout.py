"""The rollout of a model as one ONNX graph: its own graph, as a function, inside the loops of `rollout_programs`.

Functions are inlined, so each call of the model becomes a copy of its nodes; all copies share its weights. The loops
carry the state of each layer on its own, so that no iteration slices and concatenates the states of all layers.
"""

from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx
from msgspec.structs import replace
from onnx import helper, inliner, numpy_helper, parser

from lstm_deploy.artifacts import CPUS_KEY, onnx_graph
from lstm_deploy.contract import (
    CONTRACT_KEY,
    RECURRENT_OPERATORS,
    Array,
    Signature,
    TensorSpec,
    carries_state,
    rollout_contract,
)
from lstm_deploy.exporters.rollout_programs import Program


class Carried(NamedTuple):
    """One tensor that the loops carry: a state of the contract, or one layer of it."""

    spec: TensorSpec
    """Its name is that of the model function's input."""
    output: str
    """Of the model function."""
    initial: Array
    """`[1, 1, size]`, or as the contract has it."""


def export_rollout(model_path: Path, path: Path) -> None:
    """Write the rollout of an ONNX artifact of ours; both share weights in a file beside it.

    Raises `InputError` for a model that has none (see `contract.rollouts`).
    """
    model = onnx.load(model_path, load_external_data=False)
    signature = Signature.from_json(onnx_graph.contract_text(model) or "")
    contract = rollout_contract(signature)
    aliases = {initializer.name: f"weight_{number}" for number, initializer in enumerate(model.graph.initializer)}
    nodes = deepcopy(list(model.graph.node))
    states = split_states(nodes, signature, model)
    program = Program(signature, [state.spec for state in states], list(aliases.values()))
    rollout = parser.parse_model(program.main(contract, model))
    rollout.functions.extend(parser.parse_function(text) for text in program.functions())
    for name, body in (("model", nodes), ("model_of_one", _of_one_step(nodes, model))):
        onnx_graph.rename(body, aliases)
        inputs = [signature.inputs[0].name, *(state.spec.name for state in states), *aliases.values()]
        outputs = [*(spec.name for spec in signature.outputs), *(state.output for state in states)]
        rollout.functions.append(helper.make_function("local", name, inputs, outputs, body, model.opset_import))
    own = [(function.domain, function.name) for function in rollout.functions]
    rollout.functions.extend(model.functions)  # layers in int8, which stay calls
    rollout = inliner.inline_selected_functions(rollout, own)
    onnx_graph.rename(rollout.graph.node, {alias: name for name, alias in aliases.items()})
    used = {name for node in onnx_graph.nodes(rollout.graph) for name in node.input}  # not those of removed slices
    rollout.graph.initializer.extend(weight for weight in model.graph.initializer if weight.name in used)
    if not carries_state(signature):
        for number, state in enumerate(states):
            rollout.graph.initializer.append(numpy_helper.from_array(state.initial, f"initial_{number}"))
    del rollout.opset_import[:]
    rollout.opset_import.extend(model.opset_import)
    rollout.producer_name, rollout.producer_version = model.producer_name, model.producer_version
    cpus = {prop.key: prop.value for prop in model.metadata_props if prop.key == CPUS_KEY}
    helper.set_model_props(rollout, {CONTRACT_KEY: contract.to_json(), **cpus})
    path.write_bytes(rollout.SerializeToString())


def split_states(nodes: list[onnx.NodeProto], signature: Signature, model: onnx.ModelProto) -> list[Carried]:
    """Replace a state of all layers by one for each layer, if the graph only slices and concatenates it.

    Changes `nodes`; a state that is used otherwise stays whole.
    """
    carried: list[Carried] = []
    axis = 1 - signature.batch_axis_of_state
    initial = signature.initial_state(1)
    for spec, out in zip(signature.state_inputs, signature.state_outputs, strict=True):
        depth = int(spec.shape[axis])
        cuts = _cuts(nodes, spec.name, axis, model)
        joint = next((node for node in nodes if out.name in node.output), None)
        joins = joint is not None and joint.op_type == "Concat" and joint.attribute[0].i == axis
        joins &= not any(out.name in _reads(node) for node in nodes)
        if depth == 1 or set(cuts.values()) != set(range(depth)) or joint is None or not joins:
            carried.append(Carried(spec, out.name, initial[spec.name]))
            continue
        shape = (*spec.shape[:axis], 1, *spec.shape[axis + 1 :])
        layers = [replace(spec, name=f"{spec.name}.{layer}", shape=shape) for layer in range(depth)]
        onnx_graph.rename(nodes, {cut: layers[layer].name for cut, layer in cuts.items()})
        carried += map(Carried, layers, joint.input, np.split(initial[spec.name], depth, axis))
        nodes[:] = [node for node in nodes if node is not joint and not set(node.output) & set(cuts)]
    return carried


def _cuts(nodes: Sequence[onnx.NodeProto], state: str, axis: int, model: onnx.ModelProto) -> dict[str, int]:
    """The values that are one layer of a state, with its number; none if the state is also used otherwise."""
    constants = _constants(model)
    cuts = {}
    for node in nodes:
        if state not in _reads(node):
            continue
        start, *rest = (constants.get(name) for name in node.input[1:]) if node.op_type == "Slice" else [None]
        if start is None or rest not in ([start + 1, axis, 1], [start + 1, axis]):
            return {}
        cuts[node.output[0]] = start
    return cuts


def _constants(model: onnx.ModelProto) -> dict[str, int]:
    """The initializers that hold one integer: axes, and where slices begin and end."""
    return {
        tensor.name: int(numpy_helper.to_array(tensor)[0])
        for tensor in model.graph.initializer
        if list(tensor.dims) == [1] and tensor.data_type == onnx.TensorProto.INT64
    }


def _of_one_step(nodes: Sequence[onnx.NodeProto], model: onnx.ModelProto) -> list[onnx.NodeProto]:
    """Copies for calls of one step, in which `Y_h` of a forward LSTM takes the place of `Squeeze(Y)`.

    `Y` is `[1, directions, batch, size]` then, and `Y_h` `[directions, batch, size]`.
    """
    constants = _constants(model)
    whole = {node.output[0]: node.output[1] for node in nodes if node.op_type in RECURRENT_OPERATORS and _forward(node)}
    last = {
        node.output[0]: whole[node.input[0]]
        for node in nodes
        if node.op_type == "Squeeze" and node.input[0] in whole and constants.get(node.input[1]) == 1
    }
    kept = deepcopy([node for node in nodes if node.output[0] not in last])
    onnx_graph.rename(kept, last)
    return kept


def _forward(node: onnx.NodeProto) -> bool:
    """Whether an LSTM runs forward only, and `Y_h` has a name."""
    directions = [attribute.s for attribute in node.attribute if attribute.name == "direction"]
    return directions in ([], [b"forward"]) and len(node.output) > 1 and bool(node.output[1])


def _reads(node: onnx.NodeProto) -> set[str]:
    """The values that a node reads, in the graphs of loops and branches too."""
    return {
        *node.input,
        *(name for attribute in node.attribute for inner in attribute.g.node for name in _reads(inner)),
    }
