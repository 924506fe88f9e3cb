"""Recurrent operators of TorchScript are told apart by their kind, their flags and their weights."""

import copy
import warnings

import pytest
import torch
from torch import nn

from lstm_deploy.contract.signature import TensorSpec
from lstm_deploy.exporters.torchscript import export_torchscript
from lstm_deploy.lifting import flat_weights
from lstm_deploy.lifting.lifting import lift
from lstm_deploy.validation.structure import differences
from lstm_deploy.validation.torchscript_structure import torchscript_structure


def rnn(nonlinearity="tanh", **settings):
    torch.manual_seed(0)
    return nn.RNN(3, 4, nonlinearity=nonlinearity, **{"batch_first": True, **settings}).eval()


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """The structure of a module."""
    folder = tmp_path_factory.mktemp("structure")

    def write(module, name="net"):
        export_torchscript(lift(module, [TensorSpec.parse("x:float32[batch,seq,3]")]), folder / f"{name}.torchscript")
        return torchscript_structure(folder / f"{name}.torchscript")

    return write


OTHERS = {
    "relu": (lambda: rnn("relu"), "aten::rnn_relu"),
    "GRU": (lambda: nn.GRU(3, 4, batch_first=True), "aten::gru"),
    "LSTM": (lambda: nn.LSTM(3, 4, batch_first=True), "aten::lstm"),
    "without biases": (lambda: rnn(bias=False), "rnn_tanh_0"),
    "bidirectional": (lambda: rnn(bidirectional=True), "rnn_tanh_0"),
}


@pytest.mark.parametrize("name", OTHERS)
def test_kinds_and_flags_are_told_apart(written, name):
    build, named = OTHERS[name]
    different = differences(written(build()), written(rnn()))
    assert different
    assert named in " ".join(different)


def test_one_weight_inside_the_flat_one_is_seen(written, tmp_path):
    module = nn.GRU(3, 4, 2, batch_first=True)
    right = written(copy.deepcopy(module), "gru")
    path = tmp_path / "gru.torchscript"
    export_torchscript(lift(module, [TensorSpec.parse("x:float32[batch,seq,3]")]), path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        traced = torch.jit.load(str(path))
        (flat,) = (value for name, value in traced.named_parameters() if name.endswith(flat_weights.FLAT))
        flat.data[100] += 0.01
        torch.jit.save(traced, str(path))
    assert "other numbers in" in " ".join(differences(torchscript_structure(path), right))
