"""Right graphs of GRUs and RNNs, broken in every way that is known of them, and what `validate` must say of each."""

from itertools import permutations

import numpy as np
from graph_edits import (
    all_gates,
    another_step,
    at,
    attribute,
    concatenated_backwards,
    drop_states,
    edit,
    exchange_directions,
    gates,
    gates_of,
    layers,
    layers_exchanged,
    lengths_ignored,
    on_input,
    on_output,
    replaced_output,
    same_layer_twice,
    state_before_the_last_step,
    transposed,
    weight,
)
from sabotage import X8, LastStep, Packed, Plain, Sabotage
from torch import nn

CELL_MODELS = {
    "GRU": (lambda: Plain(nn.GRU(8, 8, 2, batch_first=True), 8), X8),
    "bidirectional GRU": (lambda: Plain(nn.GRU(8, 6, bidirectional=True, batch_first=True)), X8),
    "last step of a GRU": (lambda: LastStep(nn.GRU(8, 6, batch_first=True), 3), X8),
    "padded GRU": (lambda: Packed(nn.GRU(8, 6, batch_first=True)), {**X8, "lengths": "int64[batch]"}),
    "RNN": (lambda: Plain(nn.RNN(8, 8, 2, batch_first=True), 8), X8),
    "RNN with ReLU": (lambda: Plain(nn.RNN(8, 8, 2, batch_first=True, nonlinearity="relu"), 8), X8),
    "bidirectional RNN": (lambda: Plain(nn.RNN(8, 6, bidirectional=True, batch_first=True)), X8),
    "padded RNN": (lambda: Packed(nn.RNN(8, 6, batch_first=True)), {**X8, "lengths": "int64[batch]"}),
}


def halves(change):
    """Biases with other halves: `change` of those of the input and the recurrent ones."""
    return lambda value: np.concatenate(change(*np.split(value, 2, axis=1)), 1)


def negated(gate):
    """All weights and biases of one gate with the other sign, in every layer."""

    def change(model):
        count = gates_of(model)
        for node in layers(model):
            for position in (1, 2, 3):
                edit(model, node.input[position], lambda value: _negated(value, gate, count))

    return change


def _negated(value, gate, count):
    blocks = np.split(value, (2 if value.ndim == 2 else 1) * count, axis=1)
    return np.concatenate([-block if number % count == gate else block for number, block in enumerate(blocks)], 1)


def as_rnn(model):
    """The first layer as an RNN with the new gate of a GRU."""
    node = layers(model)[0]
    node.op_type = "RNN"
    for position, parts in ((1, 3), (2, 3), (3, 6)):
        edit(model, node.input[position], lambda value, parts=parts: np.concatenate(np.split(value, parts, 1)[2::3], 1))
    kept = [item for item in node.attribute if item.name != "linear_before_reset"]
    del node.attribute[:]
    node.attribute.extend(kept)


def without(*names):
    """Attributes left out."""

    def change(model):
        for node in layers(model):
            kept = [item for item in node.attribute if item.name not in names]
            del node.attribute[:]
            node.attribute.extend(kept)

    return change


def summed_in(half):
    """Both biases in the place of one, as is right where a gate uses their sum alone."""
    return halves(lambda ih, hh: [ih + hh, 0 * hh] if half == 0 else [0 * ih, ih + hh])


def _orders():
    """GRUs with their gates in each wrong order, and what is said of it."""
    right = ("z", "r", "h")
    for order in permutations(right):
        if order != right:
            positions = [right.index(gate) for gate in order]
            names = " ".join(order)
            yield (
                f"GRU: gates in the order {names}",
                Sabotage("GRU", all_gates(positions), f"the gates stand in the order {names}, not z r h"),
            )


def _of_both():
    """What can be wrong with the state and the weights of any cell with one state."""
    for base in ("GRU", "RNN"):
        faults = {
            "all states ignored": (drop_states(5), "no initial state|h_in is ignored"),
            "the state of one layer ignored": (drop_states(5, layer=1), "no initial state"),
            "the state folded to zeros": (
                on_input("h_in", ("Sub", ["IN", "IN"], ["h_zero"])), "h_in is ignored: .* its initial value"),
            "the second layer starts from the first one's state": (
                same_layer_twice, "layer 1 has the state of layer 0 on the way in"),
            "layers in the wrong order": (layers_exchanged, "layers 0 and 1 of lstm have each other's weights"),
            "states of the layers handed out in the wrong order": (
                concatenated_backwards, "the states of layers 0 and 1 are exchanged on the way out"),
            "the old state handed out": (
                replaced_output("h_out", ("Identity", ["h_in"], ["h_out"])), "h_out is the state that came in"),
            "zeros handed out": (on_output("h_out", ("Sub", ["IN", "IN"], ["h_out"])), "h_out is zeros"),
            "bias_ih left out": (
                weight(3, halves(lambda ih, hh: [0 * ih, hh])), "layer 0: .*bias_ih is left out"),
            "bias_hh left out": (
                weight(3, halves(lambda ih, hh: [ih, 0 * hh])), "layer 0: .*bias_hh is left out"),
            "all biases left out": (weight(3, lambda b: 0 * b, layer=1), "layer 1: .*both biases are left out"),
            "recurrent weights transposed": (transposed, "layer 0: weight_hh: transposed"),
            "one weight off by 1 %": (
                weight(1, at((0, 3, 2), lambda w: w * 1.01)), r"layer 0: weight_ih, \w+ gate: 1 of .*1.00%"),
            "one recurrent weight off by 1e-4": (
                weight(2, at((0, 5, 5), lambda w: w + 1e-4), layer=1), r"layer 1: weight_hh, \w+ gate: 1 of "),
            "one bias off by 0.01": (
                weight(3, at((0, 3), lambda b: b + 0.01)), r"layer 0: bias.* gate: 1 of .*\+0.01"),
            "values clipped": (attribute(clip=3.0), "has the attribute clip"),
            "a state that decays": (
                on_output("h_out", ("Mul", ["IN", "decay"], ["h_out"]), constants=[("decay", np.float32(0.999))]),
                "h_out is 0.999 times"),
        }  # fmt: skip
        yield from ((f"{base}: {name}", Sabotage(base, *fault)) for name, fault in faults.items())
        yield (
            f"{base}: directions exchanged",
            Sabotage(f"bidirectional {base}", exchange_directions, "directions are exchanged"),
        )
        yield f"{base}: padding counted as steps", Sabotage(f"padded {base}", lengths_ignored, "lengths is ignored")


APART = "where the new gate uses them apart"
CELL_SABOTAGE: dict[str, Sabotage] = {
    **dict(_orders()),
    **dict(_of_both()),
    "GRU: gates of one weight in PyTorch's order": Sabotage(
        "GRU", weight(2, gates((1, 0, 2))), "layer 0: weight_hh: the gates stand in the order r z h"
    ),
    "GRU: the reset before the matrix": Sabotage(
        "GRU", attribute(linear_before_reset=0), "has the attribute linear_before_reset"
    ),
    "GRU: the reset before the matrix, by default": Sabotage(
        "GRU", without("linear_before_reset"), "lacks the attribute linear_before_reset"
    ),
    "GRU: old and new state exchanged": Sabotage("GRU", negated(0), "the update gate has the other sign"),
    "GRU: biases in each other's place": Sabotage(
        "GRU", weight(3, halves(lambda ih, hh: [hh, ih])), "bias_ih and bias_hh stand in each other's place"
    ),
    "GRU: the recurrent bias outside the reset": Sabotage(
        "GRU", weight(3, summed_in(0)), f"bias_hh is added to bias_ih, {APART}"
    ),
    "GRU: the input's bias inside the reset": Sabotage(
        "GRU", weight(3, summed_in(1)), f"bias_ih is added to bias_hh, {APART}"
    ),
    "GRU: other activations": Sabotage(
        "GRU", attribute(activations=[b"HardSigmoid", b"Tanh"]), "has the attribute activations"
    ),
    "GRU: a layer that is an RNN": Sabotage("GRU", as_rnn, "of the kind RNN_TANH, where the model has GRU"),
    "GRU: the output of the last step but one": Sabotage(
        "last step of a GRU", another_step, "the output is that after step 4 of 5"
    ),
    "GRU: the state before the last step": Sabotage("last step of a GRU", state_before_the_last_step, "h_out|state"),
    "GRU: a layer that runs backwards": Sabotage("last step of a GRU", attribute(direction=b"reverse"), "backwards"),
    "RNN: relu in the place of tanh": Sabotage(
        "RNN", attribute(activations=[b"Relu"]), "of the kind RNN_RELU, where the model has RNN_TANH"
    ),
    "RNN: tanh in the place of relu": Sabotage(
        "RNN with ReLU", attribute(activations=[b"Tanh"]), "of the kind RNN_TANH, where the model has RNN_RELU"
    ),
    "RNN: tanh in the place of relu, by default": Sabotage(
        "RNN with ReLU", without("activations"), "of the kind RNN_TANH, where the model has RNN_RELU"
    ),
    "RNN: an activation that PyTorch has not": Sabotage(
        "RNN with ReLU", attribute(activations=[b"LeakyRelu"], activation_alpha=[0.1]), "has the attribute activations"
    ),
}
