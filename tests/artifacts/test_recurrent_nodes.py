"""Which cell a node computes is seen from its operator and attributes."""

import pytest
from onnx import helper

from lstm_deploy.artifacts.recurrent_nodes import cell_of_node, differing_attributes
from lstm_deploy.contract.cells import GRU, LSTM, RNN_RELU, RNN_TANH


def node(operator, **attributes):
    return helper.make_node(operator, ["x", "w", "r"], ["y"], hidden_size=4, **attributes)


@pytest.mark.parametrize(
    ("operator", "attributes", "cell"),
    [
        ("LSTM", {}, LSTM),
        ("DynamicQuantizeLSTM", {}, LSTM),
        ("LSTM", {"activations": ["sigmoid", "tanh", "tanh"]}, LSTM),
        ("GRU", {"linear_before_reset": 1}, GRU),
        ("GRU", {"linear_before_reset": 1, "activations": ["Sigmoid", "Tanh"] * 2, "clip": 0.0}, GRU),
        ("RNN", {}, RNN_TANH),
        ("RNN", {"activations": ["Tanh"]}, RNN_TANH),
        ("RNN", {"activations": ["Relu", "Relu"]}, RNN_RELU),
    ],
)
def test_a_node_computes_a_cell(operator, attributes, cell):
    assert cell_of_node(node(operator, **attributes)) is cell
    assert differing_attributes(node(operator, **attributes)) == []


@pytest.mark.parametrize(
    ("operator", "attributes", "named"),
    [
        ("GRU", {}, ["linear_before_reset"]),
        ("GRU", {"linear_before_reset": 1, "clip": 3.0}, ["clip"]),
        ("GRU", {"linear_before_reset": 1, "activations": ["HardSigmoid", "Tanh"]}, ["activations"]),
        ("RNN", {"activations": ["Tanh", "Relu"]}, ["activations"]),
        ("RNN", {"activations": ["Sigmoid"]}, ["activations"]),
        ("RNN", {"clip": 1.0}, ["clip"]),
        ("LSTM", {"input_forget": 1}, ["input_forget"]),
    ],
)
def test_what_no_cell_of_pytorch_does_is_named(operator, attributes, named):
    assert cell_of_node(node(operator, **attributes)) is None
    assert differing_attributes(node(operator, **attributes)) == named
