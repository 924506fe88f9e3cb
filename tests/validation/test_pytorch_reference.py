"""The reference where `forward` takes and returns a state: the author's own code, untouched by lifting."""

import pytest
import state_forms
import torch
from validation_cases import SMALL, checks_of

from lstm_deploy.contract.signature import TensorSpec
from lstm_deploy.exporters.onnx import export_onnx
from lstm_deploy.lifting.lifting import lift
from lstm_deploy.lifting.recurrent import Lifted
from lstm_deploy.validation.pytorch_reference import PyTorchReference
from lstm_deploy.validation.reference_cases import make_cases


def lifted_of(make):
    torch.manual_seed(0)
    return lift(make().eval(), [TensorSpec.parse(text, name) for name, text in make.inputs.items()])


class DropsWhatActsOnTheState(Lifted):
    """A lifting that is wrong: the state enters at the LSTM, and leaves it there, whatever forward does to it."""

    def forward(self, *tensors):
        count = len(self.signature.inputs)
        for calls in self.calls.values():
            calls.restart()
        self.ports[0].given = tensors[count:]
        y = self.convention.call(self.module, tensors[:count], self.flow.leaves(tensors[count:]))[0]
        return y, *self.ports[0].final


@pytest.mark.parametrize("make", [state_forms.ResetsRows, state_forms.ClipsReturned, state_forms.ScalesGiven])
def test_a_lifting_that_drops_what_acts_on_the_state_is_not_proven(tmp_path, make):
    lifted = lifted_of(make)
    export_onnx(lifted, tmp_path / "model.onnx")
    lifted.__class__ = DropsWhatActsOnTheState
    export_onnx(lifted, tmp_path / "wrong.onnx")
    cases = make_cases(PyTorchReference(lifted), SMALL)
    assert all(check.passed for check in checks_of(tmp_path / "model.onnx", "float32", cases))
    failed = {check.name for check in checks_of(tmp_path / "wrong.onnx", "float32", cases) if not check.passed}
    assert {"shapes", "drift"} <= failed


def test_the_authors_module_is_called_in_float64_with_the_weights_of_the_lifted_one():
    lifted = lifted_of(state_forms.ClipsReturned)
    reference = PyTorchReference(lifted)
    feeds = {"x": torch.randn(2, 3, 3).numpy(), **lifted.signature.initial_state(2)}
    rounded, exact = reference.run_float32(feeds), reference.run(feeds)
    assert exact["y"].dtype == "float64"
    assert 0 < abs(rounded["y"] - exact["y"]).max() < 1e-5
    weights = dict(lifted.module.named_parameters())
    own = dict(reference._author.module.named_parameters())
    assert all(own[name] is value for name, value in weights.items())
