"""Right artifacts, broken in every way that has shipped somewhere, and what `validate` must say of each."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import onnx
from graph_edits import (
    all_gates,
    another_step,
    at,
    attribute,
    column_scaled_as_another,
    columns_exchanged,
    concatenated_backwards,
    delayed,
    drop_states,
    edit,
    exchange_directions,
    frozen,
    frozen_inside,
    gates,
    halved_head,
    layers_exchanged,
    lengths_ignored,
    metadata,
    mixed_with_mean,
    no_bias,
    no_output_scaling,
    no_scaling,
    on_input,
    on_output,
    overflowing_float16,
    random_input,
    replaced_output,
    reversed_time,
    rows_reversed,
    same_layer_twice,
    scaled_twice,
    skip,
    state_before_the_last_step,
    swap_both,
    swap_states_in,
    swap_states_out,
    transposed,
    weight,
)
from torch import nn


class Sabotage(NamedTuple):
    """One way to break a graph."""

    base: str
    """Which right model it is done to: a key of `MODELS`."""
    change: Callable[[onnx.ModelProto], None]
    cause: str
    """What the diagnosis must say, as a regular expression."""


class Plain(nn.Module):
    """A recurrent module and a linear layer on every step."""

    def __init__(self, lstm: nn.RNNBase, outputs: int = 0) -> None:
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
        transposed,
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
        "weight_hh: the forget gate has the other sign",
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
        "two layers", metadata(size=('"hidden_size":8', '"hidden_size":9')), "hidden_size is 9, not 8"
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
