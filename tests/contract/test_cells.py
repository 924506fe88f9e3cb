import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from lstm_deploy.contract.cells import CELLS, GRU, LSTM, RECURRENT_OPERATORS

KINDS = pytest.mark.parametrize("cell", CELLS.values(), ids=CELLS.keys())
HIDDEN = 5


def sequence_module(cell, **settings):
    given = {} if cell.nonlinearity is None else {"nonlinearity": cell.nonlinearity}
    return getattr(nn, cell.pytorch_modules[0])(3, HIDDEN, **given, **settings)


def test_gates_change_from_the_order_of_pytorch_to_that_of_onnx():
    assert "".join(LSTM.pytorch_gates) == "ifgo"
    assert [list(LSTM.pytorch_gates)[position] for position in LSTM.onnx_order] == ["i", "o", "f", "g"]
    assert [list(GRU.pytorch_gates)[position] for position in GRU.onnx_order] == ["z", "r", "n"]


@KINDS
def test_pytorch_has_the_modules_with_as_many_gates_and_states(cell):
    for name in cell.pytorch_modules:
        module = getattr(nn, name)(3, HIDDEN)
        (weight,) = [value for key, value in module.named_parameters() if key.startswith("weight_ih")]
        assert weight.shape == (len(cell.pytorch_gates) * HIDDEN, 3)
        returned = module(torch.zeros(2, 3))
        state = returned if name.endswith("Cell") else returned[1]
        assert (1 if isinstance(state, torch.Tensor) else len(state)) == len(cell.states)


@KINDS
def test_the_kind_is_the_mode_of_pytorch(cell):
    assert sequence_module(cell).mode == cell.kind


@KINDS
def test_the_operator_with_the_attributes_of_the_record_computes_what_pytorch_does(cell):
    torch.manual_seed(0)
    module = sequence_module(cell)
    x, state = torch.randn(4, 2, 3), [torch.randn(1, 2, HIDDEN) for _ in cell.states]

    def in_onnx_order(tensor):
        gates = tensor.detach().chunk(len(cell.onnx_order))
        return torch.cat([gates[position] for position in cell.onnx_order])

    weights = [in_onnx_order(module.weight_ih_l0), in_onnx_order(module.weight_hh_l0)]
    bias = torch.cat([in_onnx_order(module.bias_ih_l0), in_onnx_order(module.bias_hh_l0)])
    values = [x, *(weight[None] for weight in weights), bias[None], *state]
    names = ["x", "w", "r", "b", *(f"{each.name}_in" for each in cell.states)]
    attributes = dict(cell.onnx_attributes)
    if not cell.default_activations:
        attributes["activations"] = list(cell.onnx_activations)
    inputs = [*names[:4], "", *names[4:]]
    outputs = ["y", *(f"{each.name}_out" for each in cell.states)]
    node = onnx.helper.make_node(cell.onnx_operator, inputs, outputs, hidden_size=HIDDEN, **attributes)
    graph = onnx.helper.make_graph(
        [node],
        "layer",
        [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in names],
        [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in outputs],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=10)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    found = session.run(None, {name: value.numpy() for name, value in zip(names, values, strict=True)})
    y, final = module(x, state[0] if len(state) == 1 else tuple(state))
    expected = [y[:, None], *([final] if len(state) == 1 else final)]
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, theirs.detach().numpy(), atol=1e-6)


@KINDS
def test_outputs_are_bounded_as_the_record_says(cell):
    module = sequence_module(cell)
    with torch.no_grad():
        for value in module.parameters():
            value.fill_(2.0)
        _, final = module(torch.ones(30, 1, 3))
    for state, value in zip(cell.states, [final] if len(cell.states) == 1 else final, strict=True):
        assert (value.abs().max() <= 1) == state.bounded


def test_operators_lead_to_their_cells():
    assert {name: cell.kind for name, cell in RECURRENT_OPERATORS.items()} == {
        "RNN": "RNN_TANH",
        "GRU": "GRU",
        "LSTM": "LSTM",
        "DynamicQuantizeRNN": "RNN_TANH",
        "DynamicQuantizeGRU": "GRU",
        "DynamicQuantizeLSTM": "LSTM",
    }
