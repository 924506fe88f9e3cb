import pytest
import torch
from torch import nn

from lstm_deploy.contract.cells import LSTM


def test_gates_change_from_the_order_of_pytorch_to_that_of_onnx():
    assert "".join(LSTM.pytorch_gates) == "ifgo"
    assert [list(LSTM.pytorch_gates)[position] for position in LSTM.onnx_order] == ["i", "o", "f", "g"]


@pytest.mark.parametrize("name", LSTM.pytorch_modules)
def test_pytorch_has_the_modules_with_as_many_gates_and_states(name):
    module = getattr(nn, name)(3, 5)
    (weight,) = [value for key, value in module.named_parameters() if key.startswith("weight_ih")]
    assert weight.shape == (len(LSTM.pytorch_gates) * 5, 3)
    returned = module(torch.zeros(2, 3))
    assert len(returned if name == "LSTMCell" else returned[1]) == len(LSTM.states)
