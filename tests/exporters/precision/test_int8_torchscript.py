import warnings

import modules
import pytest
import torch
from torch import nn
from validation_cases import checks_of

from lstm_deploy.contract.signature import TensorSpec
from lstm_deploy.exporters.precision.int8_torchscript import quantized_copy
from lstm_deploy.exporters.torchscript import export_torchscript
from lstm_deploy.lifting.lifting import lift
from lstm_deploy.validation.case_inputs import Effort
from lstm_deploy.validation.pytorch_reference import PyTorchReference
from lstm_deploy.validation.reference_cases import make_cases

SMALL = Effort(50, ((1, 1), (3, 7), (2, 30)), 1, 1e9)
X = "x:float32[batch,seq,6]"


class Net(nn.Module):
    def __init__(self, **form):
        super().__init__()
        self.lstm = nn.LSTM(6, 16, batch_first=True, **form)
        self.fc = nn.Linear((form.get("proj_size") or 16) * (2 if form.get("bidirectional") else 1), 3)

    def forward(self, x):
        return self.fc(self.lstm(x)[0])


class Padded(Net):
    def forward(self, x, lengths):
        packed = nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        return self.fc(nn.utils.rnn.pad_packed_sequence(self.lstm(packed)[0], batch_first=True)[0])


class Loop(nn.Module):
    def __init__(self):
        super().__init__()
        self.cell = nn.LSTMCell(6, 16)

    def forward(self, x):
        h = c = torch.zeros(x.shape[0], 16)
        steps = []
        for step in range(x.shape[1]):
            h, c = self.cell(x[:, step], (h, c))
            steps.append(h)
        return torch.stack(steps, 1)


@pytest.mark.parametrize(
    ("module", "inputs", "layers"),
    [
        (Net(num_layers=2), [X], 2),
        (Net(bidirectional=True), [X], 1),
        (Net(bias=False), [X], 1),
        (Padded(), [X, "lengths:int64[batch]"], 1),
        (Loop(), [X], 1),
    ],
    ids=["two layers", "bidirectional", "no bias", "padded", "cell in a loop"],
)
def test_a_quantized_copy_is_proven_and_leaves_the_original(tmp_path, module, inputs, layers):
    torch.manual_seed(0)
    lifted = lift(module.eval(), [TensorSpec.parse(text) for text in inputs])
    before = {name: value.clone() for name, value in lifted.state_dict().items()}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        copy, done, total = quantized_copy(lifted)
    assert (done, total) == (layers, layers)
    export_torchscript(copy, tmp_path / "q.torchscript")
    assert list(before) == list(lifted.state_dict())
    assert all(torch.equal(value, before[name]) for name, value in lifted.state_dict().items())
    cases = make_cases(PyTorchReference(lifted), SMALL)
    checks = checks_of(tmp_path / "q.torchscript", "int8", cases)
    assert [check for check in checks if not check.passed] == []
    assert max(check.max_abs or 0 for check in checks if check.name == "shapes") > 1e-4  # it is int8 indeed


def test_an_lstm_with_a_projection_stays_in_float():
    lifted = lift(Net(proj_size=4).eval(), [TensorSpec.parse(X)])
    _, done, total = quantized_copy(lifted)
    assert (done, total) == (0, 1)


def test_several_lstms_are_all_quantized():
    lifted = lift(modules.TwoLSTMs().eval(), [TensorSpec.parse("x:float32[batch,seq,3]")])
    _, done, total = quantized_copy(lifted)
    assert done == total == len({spec.module for spec in lifted.signature.recurrent})
