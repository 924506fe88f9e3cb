"""ONNX graphs of PyTorch's recurrent modules, of every kind of cell, with their contract; and what PyTorch computes.

A graph may be of several modules, which all read `x`: compiling the kernels takes long, layers do not.
"""

import copy

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn
from torch.nn.utils import rnn

from lstm_deploy.contract.cells import CELLS
from lstm_deploy.contract.signature import CONTRACT_KEY, RecurrentSpec, Signature, TensorSpec

TYPES = {"float32": TensorProto.FLOAT, "int64": TensorProto.INT64}


def module_of(kind, inputs, hidden, layers=1, *, seed=0, **options):
    """A module of a kind of cell, with random weights; its `mode` is that kind."""
    cell = CELLS[kind]
    torch.manual_seed(seed)
    named = {"nonlinearity": cell.nonlinearity} if cell.nonlinearity else {}
    return getattr(nn, cell.pytorch_modules[0])(inputs, hidden, layers, batch_first=True, **named, **options).eval()


def onnx_weights(module, layer):
    """`W`, `R` and `B` of a layer, in ONNX's order of gates; no `B` where it has no biases."""
    cell, directions = CELLS[module.mode], []
    names = ["weight_ih", "weight_hh", *(["bias_ih", "bias_hh"] if module.bias else [])]
    for suffix in ("", "_reverse")[: 1 + module.bidirectional]:
        tensors = [getattr(module, f"{name}_l{layer}{suffix}").detach() for name in names]
        ordered = [torch.cat([tensor.chunk(len(cell.onnx_order))[k] for k in cell.onnx_order]) for tensor in tensors]
        directions.append([*ordered[:2], torch.cat(ordered[2:])] if module.bias else ordered)
    return [torch.stack(tensors).numpy() for tensors in zip(*directions, strict=True)]


def contract_of(modules, *, lengths=False):
    """The contract of modules: `x`, `lengths` perhaps, the state of each, and `y_N` of the N-th."""
    inputs = [TensorSpec(name="x", dtype="float32", shape=("batch", "seq", modules[0].input_size))]
    if lengths:
        inputs.append(TensorSpec(name="lengths", dtype="int64", shape=("batch",), is_lengths=True))
    specs, outputs = [], []
    for number, module in enumerate(modules):
        directions = 1 + module.bidirectional
        shape = ("batch", "seq", directions * module.hidden_size)
        outputs.append(TensorSpec(name=f"y_{number}", dtype="float32", shape=shape))
        specs.append(
            RecurrentSpec(
                module=f"m{number}",
                kind=module.mode,
                prefix=f"m{number}_",
                input_size=module.input_size,
                hidden_size=module.hidden_size,
                proj_size=0,
                num_layers=module.num_layers,
                num_directions=directions,
            )
        )
    streams = not lengths and not any(module.bidirectional for module in modules)
    return Signature(
        inputs=tuple(inputs),
        outputs=tuple(outputs),
        recurrent=tuple(specs),
        streaming="exact" if streams else "none",
        streaming_reason="" if streams else "-",
    )


def _layers(module, prefix, y, with_lengths, attributes):
    """The nodes of a module, and the constants that they need, by name."""
    cell, directions, constants = CELLS[module.mode], 1 + module.bidirectional, {}
    states = [f"{prefix}{state.name}" for state in cell.states]
    given = {"hidden_size": module.hidden_size, "direction": "bidirectional" if module.bidirectional else "forward"}
    given |= dict(cell.onnx_attributes)
    if not cell.default_activations:
        given["activations"] = list(cell.onnx_activations) * directions
    parts = {way: [[f"{name}_{way}_{k}" for name in states] for k in range(module.num_layers)] for way in ("in", "out")}
    nodes = [
        helper.make_node("Split", [f"{name}_in"], names, axis=0, num_outputs=module.num_layers)
        for name, names in zip(states, zip(*parts["in"], strict=True), strict=True)
    ]
    x = "x_by_steps"
    for layer in range(module.num_layers):
        weights = {
            f"{prefix}{letter}_l{layer}": value
            for letter, value in zip("WRB", onnx_weights(module, layer), strict=False)
        }
        constants |= weights
        inputs = [x, *weights, *([] if module.bias else [""]), "lengths_32" if with_lengths else ""]
        by_direction, by_row, joined = (f"{prefix}{name}_{layer}" for name in ("by_direction", "by_row", "joined"))
        name, outputs = f"{prefix}layer_{layer}", [by_direction, *parts["out"][layer]]
        nodes += [
            helper.make_node(cell.onnx_operator, [*inputs, *parts["in"][layer]], outputs, name, **(given | attributes)),
            helper.make_node("Transpose", [by_direction], [by_row], perm=[0, 2, 1, 3]),
            helper.make_node("Reshape", [by_row, "joined_shape"], [joined]),
        ]
        x = joined
    nodes.append(helper.make_node("Transpose", [x], [y], perm=[1, 0, 2]))
    for name, names in zip(states, zip(*parts["out"], strict=True), strict=True):
        nodes.append(helper.make_node("Concat", names, [f"{name}_out"], axis=0))
    return nodes, constants


def write_graph(modules, path, *, lengths=False, **attributes):
    """Write the graph of modules, and return the names of its recurrent nodes, which have these `attributes` too."""
    signature, constants = contract_of(modules, lengths=lengths), {"joined_shape": np.array([0, 0, -1])}
    nodes = [helper.make_node("Transpose", ["x"], ["x_by_steps"], perm=[1, 0, 2])]
    if lengths:
        nodes.append(helper.make_node("Cast", ["lengths"], ["lengths_32"], to=TensorProto.INT32))
    for number, module in enumerate(modules):
        more, weights = _layers(module, f"m{number}_", f"y_{number}", lengths, attributes)
        nodes += more
        constants |= weights
    before, after = (
        [helper.make_tensor_value_info(spec.name, TYPES[spec.dtype], spec.shape) for spec in specs]
        for specs in (
            (*signature.inputs, *signature.state_inputs),
            (*signature.outputs, *signature.state_outputs),
        )
    )
    initializers = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "net", before, after, initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    helper.set_model_props(model, {CONTRACT_KEY: signature.to_json()})
    onnx.save(model, path)
    return [node.name for node in nodes if node.name]


def pytorch_outputs(modules, feeds):
    """What modules compute of the inputs of their graph, in float64 of the same weights."""
    outputs = {}
    for number, module in enumerate(modules):
        names = [f"m{number}_{state.name}" for state in CELLS[module.mode].states]
        x, *before = (torch.from_numpy(feeds[name]).double() for name in ("x", *(f"{name}_in" for name in names)))
        if "lengths" in feeds:
            lengths = torch.from_numpy(feeds["lengths"])
            x = rnn.pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        with torch.no_grad():
            y, after = copy.deepcopy(module).double()(x, tuple(before) if len(names) > 1 else before[0])
        if "lengths" in feeds:
            y, _ = rnn.pad_packed_sequence(y, batch_first=True, total_length=feeds["x"].shape[1])
        outputs[f"y_{number}"] = y
        outputs |= zip((f"{name}_out" for name in names), after if len(names) > 1 else [after], strict=True)
    return {name: value.numpy().astype(np.float32) for name, value in outputs.items()}
