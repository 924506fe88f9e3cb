"""ONNX graphs of PyTorch's recurrent modules, of every kind of cell, with their contract; and what PyTorch computes."""

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn
from torch.nn.utils import rnn

from lstm_deploy.contract.cells import CELLS
from lstm_deploy.contract.signature import CONTRACT_KEY, RecurrentSpec, Signature, TensorSpec


def module_of(kind, inputs, hidden, layers=1, seed=0, **options):
    """A module of a kind of cell, with random weights; its `mode` is that kind."""
    cell = CELLS[kind]
    torch.manual_seed(seed)
    named = {"nonlinearity": cell.nonlinearity} if cell.nonlinearity else {}
    return getattr(nn, cell.pytorch_modules[0])(inputs, hidden, layers, batch_first=True, **named, **options).eval()


def onnx_weights(module, layer):
    """`W`, `R` and `B` of a layer, in ONNX's order of gates; no `B` where it has no biases."""
    cell, directions = CELLS[module.mode], []
    for suffix in ("", "_reverse") if module.bidirectional else ("",):
        tensors = [
            getattr(module, f"{name}_l{layer}{suffix}").detach()
            for name in (*("weight_ih", "weight_hh"), *(("bias_ih", "bias_hh") if module.bias else ()))
        ]
        ordered = [torch.cat([tensor.chunk(len(cell.onnx_order))[k] for k in cell.onnx_order]) for tensor in tensors]
        directions.append([*ordered[:2], torch.cat(ordered[2:])] if module.bias else ordered)
    return [torch.stack(tensors).numpy() for tensors in zip(*directions, strict=True)]


def contract_of(module, *, lengths=False):
    """The contract of a module: `x`, with `lengths` perhaps, its state, and `y`."""
    directions = 1 + module.bidirectional
    spec = RecurrentSpec(
        module="",
        kind=module.mode,
        prefix="",
        input_size=module.input_size,
        hidden_size=module.hidden_size,
        proj_size=0,
        num_layers=module.num_layers,
        num_directions=directions,
    )
    inputs = [TensorSpec(name="x", dtype="float32", shape=("batch", "seq", module.input_size))]
    if lengths:
        inputs.append(TensorSpec(name="lengths", dtype="int64", shape=("batch",), is_lengths=True))
    y = TensorSpec(name="y", dtype="float32", shape=("batch", "seq", directions * module.hidden_size))
    streams = not (module.bidirectional or lengths)
    return Signature(
        inputs=tuple(inputs),
        outputs=(y,),
        recurrent=(spec,),
        streaming="exact" if streams else "none",
        streaming_reason="" if streams else "-",
    )


def graph_of(module, *, lengths=False, **attributes):
    """The graph of a module; `attributes` are added to its recurrent nodes, which are called `layer_N`."""
    cell, signature = CELLS[module.mode], contract_of(module, lengths=lengths)
    directions, nodes, constants = 1 + module.bidirectional, [], {"joined": np.array([0, 0, -1])}

    def node(operator, inputs, outputs, **given):
        nodes.append(helper.make_node(operator, inputs, outputs, **given))

    node("Transpose", ["x"], ["x_0"], perm=[1, 0, 2])
    if lengths:
        node("Cast", ["lengths"], ["lengths_32"], to=TensorProto.INT32)
    states = [state.name for state in cell.states]
    given = {"hidden_size": module.hidden_size, "direction": "bidirectional" if module.bidirectional else "forward"}
    given |= dict(cell.onnx_attributes)
    if not cell.default_activations:
        given["activations"] = list(cell.onnx_activations) * directions
    for layer in range(module.num_layers):
        weights = dict(zip("WRB", onnx_weights(module, layer), strict=False))
        constants |= {f"module.{letter}_l{layer}": value for letter, value in weights.items()}
        names = [f"module.{letter}_l{layer}" if letter in weights else "" for letter in "WRB"]
        names = [f"x_{layer}", *names, "lengths_32" if lengths else "", *(f"{name}_in_{layer}" for name in states)]
        after = [f"y_{layer}", *(f"{name}_out_{layer}" for name in states)]
        node(cell.onnx_operator, names, after, name=f"layer_{layer}", **(given | attributes))
        node("Transpose", [f"y_{layer}"], [f"yt_{layer}"], perm=[0, 2, 1, 3])
        node("Reshape", [f"yt_{layer}", "joined"], [f"x_{layer + 1}"])
    for name in states:
        parts = [[f"{name}_{way}_{layer}" for layer in range(module.num_layers)] for way in ("in", "out")]
        split = helper.make_node("Split", [f"{name}_in"], parts[0], axis=0, num_outputs=module.num_layers)
        nodes.insert(0, split)
        node("Concat", parts[1], [f"{name}_out"], axis=0)
    node("Transpose", [f"x_{module.num_layers}"], ["y"], perm=[1, 0, 2])
    types = {"float32": TensorProto.FLOAT, "int64": TensorProto.INT64}
    before, after = (
        [helper.make_tensor_value_info(spec.name, types[spec.dtype], spec.shape) for spec in specs]
        for specs in (
            (*signature.inputs, *signature.state_inputs),
            (*signature.outputs, *signature.state_outputs),
        )
    )
    initializers = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    model = helper.make_model(
        helper.make_graph(nodes, "net", before, after, initializers),
        opset_imports=[helper.make_opsetid("", 18)],
        ir_version=9,
    )
    helper.set_model_props(model, {CONTRACT_KEY: signature.to_json()})
    return model


def write_graph(module, path, *, lengths=False, **attributes):
    """Write the graph of a module, and return the names of its recurrent nodes."""
    onnx.save(graph_of(module, lengths=lengths, **attributes), path)
    return [f"layer_{layer}" for layer in range(module.num_layers)]


def pytorch_outputs(module, feeds):
    """What a module computes of the inputs of its graph, in float64; its weights stay float32's."""
    exact = type(module)(*_sizes(module), batch_first=True, bias=module.bias, bidirectional=module.bidirectional)
    exact.mode = module.mode
    exact = exact.double().eval()
    exact.load_state_dict({name: value.double() for name, value in module.state_dict().items()})
    states = [state.name for state in CELLS[module.mode].states]
    x, *before = (torch.from_numpy(feeds[name]).double() for name in ("x", *(f"{name}_in" for name in states)))
    if "lengths" in feeds:
        x = rnn.pack_padded_sequence(x, torch.from_numpy(feeds["lengths"]), batch_first=True, enforce_sorted=False)
    with torch.no_grad():
        y, after = exact(x, tuple(before) if len(states) > 1 else before[0])
    if "lengths" in feeds:
        y, _ = rnn.pad_packed_sequence(y, batch_first=True, total_length=feeds["x"].shape[1])
    after = after if len(states) > 1 else (after,)
    outputs = {"y": y, **{f"{name}_out": value for name, value in zip(states, after, strict=True)}}
    return {name: value.numpy().astype(np.float32) for name, value in outputs.items()}


def _sizes(module):
    return module.input_size, module.hidden_size, module.num_layers
