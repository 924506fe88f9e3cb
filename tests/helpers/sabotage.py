"""Right artifacts, broken in every way that has shipped somewhere, and what `validate` must say of each."""

import re
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn


class Sabotage(NamedTuple):
    """One way to break a graph."""

    base: str
    """Which right model it is done to: a key of `MODELS`."""
    change: Callable[[onnx.ModelProto], None]
    cause: str
    """What the diagnosis must say, as a regular expression."""


class Plain(nn.Module):
    """An LSTM and a linear layer on every step."""

    def __init__(self, lstm: nn.LSTM, outputs: int = 0) -> None:
        super().__init__()
        self.lstm = lstm
        width = (lstm.proj_size or lstm.hidden_size) * (2 if lstm.bidirectional else 1)
        self.fc = nn.Linear(width, outputs) if outputs else nn.Identity()

    def forward(self, x):
        return self.fc(self.lstm(x)[0])


class LastStep(Plain):
    def forward(self, x):
        return self.fc(self.lstm(x)[0][:, -1])


class Packed(Plain):
    def forward(self, x, lengths):
        packed = nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        return nn.utils.rnn.pad_packed_sequence(self.lstm(packed)[0], batch_first=True)[0]


X8 = {"x": "float32[batch,seq,8]"}
MODELS: dict[str, tuple[Callable[[], nn.Module], dict[str, str]]] = {
    "two layers": (lambda: Plain(nn.LSTM(8, 8, 2, batch_first=True), 8), X8),
    "projected": (lambda: Plain(nn.LSTM(8, 6, proj_size=4, batch_first=True), 3), X8),
    "bidirectional": (lambda: Plain(nn.LSTM(8, 6, bidirectional=True, batch_first=True)), X8),
    "last step": (lambda: LastStep(nn.LSTM(8, 6, batch_first=True), 3), X8),
    "padded": (lambda: Packed(nn.LSTM(8, 6, batch_first=True)), {**X8, "lengths": "int64[batch]"}),
}
"""Beside `forecaster`, a checkpoint of ours with its scaling in the graph, and `int8`, quantized from `two layers`."""


def lstms(model):
    return [node for node in model.graph.node if node.op_type in ("LSTM", "DynamicQuantizeLSTM")]


def constant(model, name):
    return next(tensor for tensor in model.graph.initializer if tensor.name == name)


def edit(model, name, change):
    """Replace an initializer by `change` of its value."""
    tensor = constant(model, name)
    value = np.array(change(numpy_helper.to_array(tensor).copy()), order="C")
    tensor.CopyFrom(numpy_helper.from_array(value, name))


def weight(position, change, layer=0):
    """Change an input of an LSTM node: 1 is W, 2 R, 3 B; for quantized ones 8 to 11 are scales and zero points."""
    return lambda model: edit(model, lstms(model)[layer].input[position], change)


def halved_head(model):
    (node,) = (node for node in model.graph.node if node.op_type == "MatMulInteger")
    edit(model, node.input[1], lambda matrix: matrix // 2)


def at(index, by):
    def change(value):
        value[index] = by(value[index])
        return value

    return change


def gates(order):
    def change(value):
        blocks = np.split(value, value.shape[1] // (value.shape[1] // 4), axis=1)
        if value.ndim == 2:  # biases: twice four
            blocks = np.split(value, 8, axis=1)
            return np.concatenate([blocks[start + index] for start in (0, 4) for index in order], 1)
        return np.concatenate([blocks[index] for index in order], 1)

    return change


def all_gates(order):
    def change(model):
        for node in lstms(model):
            for position in (1, 2, 3):
                edit(model, node.input[position], gates(order))

    return change


def swap_states_in(model):
    for node in lstms(model):
        node.input[5], node.input[6] = node.input[6], node.input[5]


def rename_outputs(names):
    def change(model):
        for node in model.graph.node:
            for position, name in enumerate(node.output):
                node.output[position] = names.get(name, name)

    return change


swap_states_out = rename_outputs({"h_out": "c_out", "c_out": "h_out"})


def swap_both(model):
    swap_states_in(model)
    swap_states_out(model)


def drop_states(*positions, layer=None):
    def change(model):
        for number, node in enumerate(lstms(model)):
            if layer in (None, number):
                for position in positions:
                    node.input[position] = ""

    return change


def insert(model, value, nodes, before=None, constants=()):
    """Put nodes in front of all users of `value`, whose input becomes the last node's output; `IN` stands for it."""
    for node in nodes:
        for position, name in enumerate(node.input):
            node.input[position] = value if name == "IN" else name
    made = nodes[-1].output[0]
    for node in model.graph.node:
        if before is None or node.op_type == before:
            for position, name in enumerate(node.input):
                node.input[position] = made if name == value else name
    for node in reversed(nodes):
        model.graph.node.insert(0, node)
    model.graph.initializer.extend(numpy_helper.from_array(np.asarray(array), name) for name, array in constants)


def on_input(name, *nodes, constants=()):
    return lambda model: insert(model, name, [helper.make_node(*node) for node in nodes], constants=constants)


def on_output(name, *nodes, constants=()):
    """Nodes between what makes an output and the output itself; `IN` stands for what was made."""

    def change(model):
        rename_outputs({name: f"{name}_right"})(model)
        for node in nodes:
            made = helper.make_node(*node)
            for position, value in enumerate(made.input):
                made.input[position] = f"{name}_right" if value == "IN" else value
            model.graph.node.append(made)
        model.graph.initializer.extend(numpy_helper.from_array(np.asarray(array), key) for key, array in constants)

    return change


def replaced_output(name, *nodes, constants=()):
    """An output computed from something else altogether."""

    def change(model):
        rename_outputs({name: f"{name}_unused"})(model)
        model.graph.node.extend(helper.make_node(*node) for node in nodes)
        model.graph.initializer.extend(numpy_helper.from_array(np.asarray(array), key) for key, array in constants)

    return change


def same_layer_twice(model):
    """The second layer starts from the state of the first."""
    first, second = lstms(model)
    second.input[5], second.input[6] = first.input[5], first.input[6]


def layers_exchanged(model):
    first, second = lstms(model)
    for position in (1, 2, 3):
        first.input[position], second.input[position] = second.input[position], first.input[position]


def concatenated_backwards(model):
    for node in model.graph.node:
        if node.op_type == "Concat" and node.output[0] in ("h_out", "c_out"):
            names = list(node.input)
            node.input[:] = names[::-1]


def attribute(**values):
    def change(model):
        for node in lstms(model):
            for name, value in values.items():
                kept = [old for old in node.attribute if old.name != name]
                del node.attribute[:]
                node.attribute.extend([*kept, helper.make_attribute(name, value)])

    return change


def state_before_the_last_step(model):
    """h of the step before, as one gets it from the sequence of outputs."""
    node = lstms(model)[0]
    model.graph.initializer.append(numpy_helper.from_array(np.array(-2), "before_last"))
    made = helper.make_node("Gather", [node.output[0], "before_last"], ["h_out"], axis=0)
    rename_outputs({"h_out": "unused"})(model)
    model.graph.node.append(made)


def frozen(axis, size):
    """As the stock exporter declares it."""

    def change(model):
        model.graph.input[0].type.tensor_type.shape.dim[axis].dim_value = size

    return change


def frozen_inside(model):
    """The declared shapes are dynamic, and a Reshape is not."""
    insert(model, "x", [helper.make_node("Reshape", ["IN", "size"], ["x_sized"])], constants=[("size", [2, 6, 8])])


def another_step(model):
    """The last step but one."""
    for node in model.graph.node:
        if node.op_type == "Gather" and not node.output[0].startswith(("h_", "c_")):
            edit(model, node.input[1], lambda value: value - 1)


def no_bias(model):
    """The Add after the last MatMul, left out."""
    add = [node for node in model.graph.node if node.op_type == "Add"][-1]
    matmul = next(name for name in add.input if name not in {tensor.name for tensor in model.graph.initializer})
    model.graph.node.remove(add)
    rename_outputs({matmul: add.output[0]})(model)


def lengths_ignored(model):
    lstms(model)[0].input[4] = ""


def skip(operator, number=0):
    """Leave out one node of an operator, of which the first input goes on."""

    def change(model):
        node = [node for node in model.graph.node if node.op_type == operator][number]
        for other in model.graph.node:
            for position, name in enumerate(other.input):
                if name == node.output[0]:
                    other.input[position] = node.input[0]
        if node.output[0] == "y":
            rename_outputs({node.input[0]: "y"})(model)
        model.graph.node.remove(node)

    return change


def no_scaling(model):
    skip("Sub")(model)
    skip("Mul")(model)


def scaled_twice(model):
    sub = next(node for node in model.graph.node if node.op_type == "Sub")
    mul = next(node for node in model.graph.node if node.op_type == "Mul")
    again = [
        helper.make_node("Sub", ["IN", sub.input[1]], ["again_sub"]),
        helper.make_node("Mul", ["again_sub", mul.input[1]], ["again_mul"]),
    ]
    insert(model, "x", again)


def column_scaled_as_another(model):
    for operator in ("Sub", "Mul"):
        node = next(node for node in model.graph.node if node.op_type == operator)
        model.graph.initializer.append(
            numpy_helper.from_array(
                np.roll(numpy_helper.to_array(constant(model, node.input[1])), 1), f"{operator}_rolled"
            )
        )
        node.input[1] = f"{operator}_rolled"


def no_output_scaling(model):
    div = [node for node in model.graph.node if node.op_type == "Div"][-1]
    add = [node for node in model.graph.node if node.op_type == "Add"][-1]
    kept = div.input[0]
    model.graph.node.remove(div)
    model.graph.node.remove(add)
    rename_outputs({kept: "y"})(model)


def metadata(**changes):
    """A contract that does not say what the graph does."""

    def change(model):
        for prop in model.metadata_props:
            for old, new in changes.values():
                assert old in prop.value
                prop.value = prop.value.replace(old, new)

    return change


def overflowing_float16(model):
    rename_outputs({"y": "y_right"})(model)
    model.graph.initializer.append(numpy_helper.from_array(np.float32(1e6), "large"))
    model.graph.node.extend(
        [
            helper.make_node("Mul", ["y_right", "large"], ["y_large"]),
            helper.make_node("Cast", ["y_large"], ["y_half"], to=TensorProto.FLOAT16),
            helper.make_node("Cast", ["y_half"], ["y_single"], to=TensorProto.FLOAT),
            helper.make_node("Div", ["y_single", "large"], ["y"]),
        ]
    )


def random_input(model):
    nodes = [
        helper.make_node("RandomNormalLike", ["IN"], ["noise"], scale=0.01),
        helper.make_node("Add", ["IN", "noise"], ["x_noisy"]),
    ]
    insert(model, "x", nodes)


def delayed(model):
    """y one step late."""
    on_output(
        "y",
        ("Slice", ["IN", "zero", "minus_one", "one"], ["y_early"]),
        ("Slice", ["IN", "minus_one", "end", "one"], ["y_last"]),
        constants=[("zero", [0]), ("one", [1]), ("minus_one", [-1]), ("end", [2**31 - 1])],
    )(model)
    model.graph.node.append(helper.make_node("Concat", ["y_last", "y_early"], ["y"], axis=1))


def reversed_time(model):
    node = helper.make_node("Slice", ["IN", "from", "to", "axis", "step"], ["x_reversed"])
    insert(model, "x", [node], constants=[("from", [-1]), ("to", [-(2**31)]), ("axis", [1]), ("step", [-1])])


def columns_exchanged(model):
    node = helper.make_node("Gather", ["IN", "order"], ["x_ordered"], axis=2)
    insert(model, "x", [node], constants=[("order", [1, 0, 2, 3, 4, 5, 6, 7])])


def rows_reversed(model):
    """The first row starts from the last row's h, and so on."""
    node = helper.make_node("Slice", ["IN", "from", "to", "axis", "step"], ["reversed"])
    insert(model, "h_in", [node], constants=[("from", [-1]), ("to", [-(2**31)]), ("axis", [1]), ("step", [-1])])


def mixed_with_mean(part):
    def change(model):
        nodes = [
            helper.make_node("ReduceMean", ["IN", "axes"], ["x_mean"], keepdims=1),
            helper.make_node("Mul", ["x_mean", "part"], ["x_part"]),
            helper.make_node("Add", ["IN", "x_part"], ["x_mixed"]),
        ]
        insert(model, "x", nodes, constants=[("axes", [0]), ("part", np.float32(part))])

    return change


def exchange_directions(model):
    node = lstms(model)[0]
    for position in (1, 2, 3):
        edit(model, node.input[position], lambda value: value[::-1])


PYTORCH_ORDER = (0, 2, 3, 1)
"""PyTorch's i, f, g, o, taken from ONNX's i, o, f, c."""
FORGET = 2
"""The third block of ONNX's gates."""
SABOTAGE: dict[str, Sabotage] = {
    "gates of one weight in PyTorch's order": Sabotage(
        "two layers", weight(2, gates(PYTORCH_ORDER)), "layer 0: weight_hh: the gates stand in the order i f c o"
    ),
    "all gates in PyTorch's order": Sabotage(
        "two layers", all_gates(PYTORCH_ORDER), "the gates stand in the order i f c o"
    ),
    "h and c swapped on the way in": Sabotage("two layers", swap_states_in, "h_in and c_in are swapped on the way in"),
    "h and c swapped on the way out": Sabotage(
        "two layers", swap_states_out, "h_out and c_out are swapped on the way out"
    ),
    "h and c swapped both ways": Sabotage(
        "two layers", swap_both, "swapped on the way in and .* swapped on the way out"
    ),
    "all states ignored": Sabotage("two layers", drop_states(5, 6), "no initial state|h_in and c_in are ignored"),
    "the cell state of one layer ignored": Sabotage("two layers", drop_states(6, layer=1), "no initial state"),
    "h_in folded to zeros": Sabotage(
        "two layers", on_input("h_in", ("Sub", ["IN", "IN"], ["h_zero"])), "h_in is ignored: .* its initial value"
    ),
    "the initial state folded to a constant": Sabotage(
        "two layers",
        on_input(
            "c_in",
            ("Sub", ["IN", "IN"], ["c_zero"]),
            ("Add", ["c_zero", "half"], ["c_half"]),
            constants=[("half", np.float32(0.5))],
        ),
        "c_in is ignored: every call starts from something else",
    ),
    "the second layer starts from the first one's state": Sabotage(
        "two layers", same_layer_twice, "layer 1 has the state of layer 0 on the way in"
    ),
    "layers in the wrong order": Sabotage(
        "two layers", layers_exchanged, "layers 0 and 1 of lstm have each other's weights"
    ),
    "states of the layers handed out in the wrong order": Sabotage(
        "two layers", concatenated_backwards, "the states of layers 0 and 1 are exchanged on the way out"
    ),
    "directions exchanged": Sabotage("bidirectional", exchange_directions, "directions are exchanged"),
    "a layer that runs backwards": Sabotage("last step", attribute(direction=b"reverse"), "backwards"),
    "bias_ih left out": Sabotage(
        "two layers", weight(3, at((slice(None), slice(0, 32)), lambda b: 0 * b)), "layer 0: .*bias_ih is left out"
    ),
    "all biases left out": Sabotage(
        "two layers", weight(3, lambda b: 0 * b, layer=1), "layer 1: .*both biases are left out"
    ),
    "one forget bias off by 0.01": Sabotage(
        "two layers",
        weight(3, at((0, FORGET * 8 + 3), lambda b: b + 0.01)),
        r"layer 0: bias.*forget gate: 1 of 64 .*\+0.01",
    ),
    "one weight off by 1 %": Sabotage(
        "two layers", weight(1, at((0, 9, 2), lambda w: w * 1.01)), "layer 0: weight_ih, output gate: 1 of 256 .*1.00%"
    ),
    "one recurrent weight off by 1e-4": Sabotage(
        "two layers",
        weight(2, at((0, 17, 5), lambda w: w + 1e-4), layer=1),
        "layer 1: weight_hh, forget gate: 1 of 256",
    ),
    "recurrent weights transposed": Sabotage(
        "two layers",
        weight(2, lambda r: np.concatenate([block.swapaxes(1, 2) for block in np.split(r, 4, axis=1)], 1)),
        "layer 0: weight_hh: transposed",
    ),
    "the output of the last step but one": Sabotage("last step", another_step, "the output is that after step 4 of 5"),
    "the state before the last step": Sabotage("last step", state_before_the_last_step, "h_out|state"),
    "the old state handed out": Sabotage(
        "two layers", replaced_output("c_out", ("Identity", ["c_in"], ["c_out"])), "c_out is the state that came in"
    ),
    "zeros handed out": Sabotage("two layers", on_output("h_out", ("Sub", ["IN", "IN"], ["h_out"])), "h_out is zeros"),
    "batch frozen": Sabotage("two layers", frozen(0, 2), "batch at 2|input x has the shape"),
    "time frozen": Sabotage("two layers", frozen(1, 6), "time at 6|input x has the shape"),
    "sizes frozen by a Reshape": Sabotage("two layers", frozen_inside, "frozen"),
    "rows of the state in another order": Sabotage("two layers", rows_reversed, "rows are mixed"),
    "rows mixed with their mean": Sabotage("two layers", mixed_with_mean(0.01), "rows are mixed"),
    "NaN of one row spread to all": Sabotage("two layers", mixed_with_mean(0.0), "NaN or infinity in one row spreads"),
    "a projection transposed": Sabotage(
        "projected",
        lambda model: edit(
            model, next(t.name for t in model.graph.initializer if "P_l0" in t.name), lambda p: p.T.reshape(p.shape)
        ),
        "weight_hr.*transposed",
    ),
    "scaling left out": Sabotage("forecaster", no_scaling, "the scaling of x .*is left out"),
    "only the offset of the scaling left out": Sabotage("forecaster", skip("Sub"), "the offset of x .*is left out"),
    "scaling applied twice": Sabotage("forecaster", scaled_twice, "the scaling of x .*is applied twice"),
    "scaling with another column's range": Sabotage(
        "forecaster", column_scaled_as_another, "the scaling of x .*another column's"
    ),
    "output not scaled back": Sabotage("forecaster", no_output_scaling, "y is .* times what it should be"),
    "columns exchanged": Sabotage("two layers", columns_exchanged, "columns 0 and 1 of x are exchanged"),
    "a zero point off by one": Sabotage(
        "int8", weight(9, lambda z: z + np.ones_like(z)), "weight_ih: the zero point is off by 1"
    ),
    "a scale off by 5 %": Sabotage("int8", weight(10, lambda s: s * np.float32(1.05)), "weight_hh: scaled by 1.05"),
    "one gate of an int8 weight negated": Sabotage(
        "int8",
        weight(2, at((slice(None), slice(None), slice(16, 24)), lambda r: -r)),
        "weight_hh, forget gate: 6[0-9] of 256",
    ),
    "the bias of an int8 model's head off by 0.2": Sabotage(
        "int8",
        lambda model: edit(model, "module.fc.bias", lambda bias: bias + np.float32(0.2)),
        "fc.bias: 8 of 8 entries differ",
    ),
    "an int8 head halved": Sabotage("int8", halved_head, "fc.weight: no matrix in the artifact is it"),
    "random noise": Sabotage("two layers", random_input, "draws random numbers"),
    "a contract that says another state policy": Sabotage(
        "two layers",
        metadata(policy=('"state_policy":"reset"', '"state_policy":"carry"')),
        "state_policy is 'carry', not 'reset'",
    ),
    "a contract of other sizes": Sabotage(
        "two layers", metadata(size=('"hidden_size":8', '"hidden_size":9')), "recurrent is"
    ),
    "float16 overflows": Sabotage("two layers", overflowing_float16, "overflows"),
    "a bias after the LSTM left out": Sabotage("two layers", no_bias, "fc.bias is left out|off by a constant"),
    "padding counted as steps": Sabotage("padded", lengths_ignored, "lengths is ignored"),
    "gates clipped": Sabotage("two layers", attribute(clip=3.0), "has the attribute clip"),
    "other activations": Sabotage(
        "two layers", attribute(activations=[b"HardSigmoid", b"Tanh", b"Tanh"]), "has the attribute activations"
    ),
    "input and forget gate coupled": Sabotage(
        "two layers", attribute(input_forget=1), "has the attribute input_forget"
    ),
    "inputs clipped beyond the usual": Sabotage(
        "two layers",
        on_input(
            "x",
            ("Clip", ["IN", "low", "high"], ["x_clipped"]),
            constants=[("low", np.float32(-6)), ("high", np.float32(6))],
        ),
        "right on usual values and wrong on large ones",
    ),
    "cells clipped at 60": Sabotage(
        "two layers",
        on_output(
            "c_out",
            ("Clip", ["IN", "low", "high"], ["c_out"]),
            constants=[("low", np.float32(-60)), ("high", np.float32(60))],
        ),
        "right on usual values and wrong on large ones",
    ),
    "time reversed": Sabotage("two layers", reversed_time, "backwards in time"),
    "outputs one step late": Sabotage("two layers", delayed, "y is one step late"),
    "a state that decays": Sabotage(
        "two layers",
        on_output("c_out", ("Mul", ["IN", "decay"], ["c_out"]), constants=[("decay", np.float32(0.999))]),
        "c_out",
    ),
}


class Wrong(nn.Module):
    """A lifted module of `two layers` with something done around it, to be traced."""

    def __init__(self, lifted: Any) -> None:
        super().__init__()
        self.lifted = lifted


class Remembering(Wrong):
    """Keeps something inside, beside the state that it is given."""

    def __init__(self, lifted: Any) -> None:
        super().__init__(lifted)
        self.register_buffer("kept", torch.zeros(1))

    def forward(self, x, h, c):
        y, h, c = self.lifted(x, h, c)
        self.kept += 1.0
        return y + self.kept * 0.01, h, c


class Dropping(Wrong):
    def forward(self, x, h, c):
        y, h, c = self.lifted(x, h, c)
        return nn.functional.dropout(y, 0.1, training=True), h, c


class Swapping(Wrong):
    def forward(self, x, h, c):
        return self.lifted(x, c, h)


class StaleState(Wrong):
    def forward(self, x, h, c):
        y, new_h, _ = self.lifted(x, h, c)
        return y, new_h, c


class Frozen(Wrong):
    def forward(self, x, h, c):
        return self.lifted(x.reshape(2, 6, 8), h, c)


class OtherWeight(Wrong):
    def __init__(self, lifted: Any) -> None:
        super().__init__(lifted)
        with torch.no_grad():
            lifted.module.lstm.bias_hh_l1[9] += 0.01

    def forward(self, x, h, c):
        return self.lifted(x, h, c)


WRONG_TORCHSCRIPT: dict[str, tuple[type[Wrong], str]] = {
    "TorchScript: memory inside": (Remembering, "remembers earlier calls"),
    "TorchScript: dropout left on": (Dropping, "draws random numbers"),
    "TorchScript: h and c swapped": (Swapping, "h_in and c_in are swapped on the way in"),
    "TorchScript: the old c handed out": (StaleState, "c_out is the state that came in"),
    "TorchScript: sizes frozen": (Frozen, "frozen"),
    "TorchScript: one bias off by 0.01": (OtherWeight, r"bias_hh_l1: 1 of 32 entries differ, the most by \+0.01"),
}


def replaced(*pairs: tuple[str, str]) -> Callable[[str], str]:
    """Change the text of a C file; each pattern must be there."""

    def change(text: str) -> str:
        for old, new in pairs:
            text, count = re.subn(old, new, text)
            assert count, old
        return text

    return change


def gates_exchanged(text: str) -> str:
    """The kernels of every instruction set take the input gate for the forget gate."""
    names = {"i": "f", "f": "i"}
    text = re.sub(r"sigmoid_(\w+)\(([if])(\d)\)", lambda m: f"sigmoid_{m[1]}({names[m[2]]}{m[3]})", text)
    return replaced((r"= f \* c\[unit \+ j\] \+ i \* g", "= i * c[unit + j] + f * g"))(text)


def around_sequence(before: str, after: str) -> Callable[[str], str]:
    """Do something before and after all steps of a call; `was` is the state that it began with."""
    return replaced(
        (
            r"  size_t t;\n  for \(t = 0; t < steps; t\+\+\) \{\n    net_step",
            "  const net_state was = *state;\n  size_t t;\n  "
            + before
            + r"\n  for (t = 0; t < steps; t++) {\n    net_step",
        ),
        (r"(net_step\(state, x.*\n  \})", r"\1\n  (void)was; " + after),
    )


WRONG_C: dict[str, tuple[str, Callable[[str], str], str]] = {
    "C: input and forget gate exchanged": ("two layers", gates_exchanged, "gates .*i and f|gate"),
    "C: h and c swapped on the way in": (
        "two layers",
        around_sequence("memcpy(state->h, was.c, sizeof was.h); memcpy(state->c, was.h, sizeof was.c);", ""),
        "h_in and c_in are swapped on the way in",
    ),
    "C: the old state kept": ("two layers", around_sequence("", "*state = was;"), "are the state that came in"),
    "C: the old c kept": (
        "two layers",
        around_sequence("", "memcpy(state->c, was.c, sizeof was.c);"),
        "c_out is the state that came in",
    ),
    "C: the state never used": ("two layers", around_sequence("net_init(state);", ""), "h_in and c_in are ignored"),
    "C: memory beside the state": (
        "two layers",
        around_sequence("static float kept; kept += 0.01f;", "y[0] += kept;"),
        "remembers earlier calls",
    ),
    "C: the scaling left out": (
        "forecaster",
        replaced((r"\w+\[i2\] \* w_scaling_scale\[i2\]", "x[i2]")),
        "the scaling of x .*is left out",
    ),
    "C: one weight off by 1e-4": (
        "two layers",
        replaced((r"(w_lstm_W_l0\[\d+\] ALIGNED = \{\n[^,]*, )[^,]*", r"\g<1>0.1234")),
        "bias_ih . bias_hh|weight",
    ),
    "C: a scale of int8 off": (
        "int8",
        replaced((r"(w_lstm_W_l0_numbers\[\d+\] ALIGNED = \{\n(?:[^,]*,){70})[^,]*", r"\g<1> 0.01")),
        "weight_ih",
    ),
    "C: a byte of int8 off": (
        "int8",
        replaced((r"(w_lstm_W_l0\[\d+\] ALIGNED = \{\n(?:[^,]*,){5})[^,]*", r"\g<1> 99")),
        "weight_ih",
    ),
}
"""Ways to break the text of a C file: the right model, what is done, and what the diagnosis must say."""
