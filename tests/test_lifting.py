import modules
import pytest
import torch
from torch import nn

from lstm_deploy.errors import LiftingError
from lstm_deploy.lifting import example, flatten, lift
from lstm_deploy.signature import TensorSpec

X = TensorSpec.parse("x:float32[batch,seq,3]")
SIZES = {"batch": 2, "seq": 7}


def lifted(module, spec=X, **options):
    torch.manual_seed(0)
    return lift(module.eval(), [spec], **options)


@pytest.mark.parametrize("make", [modules.HidesState, modules.ReturnsState, modules.Attention, modules.TwoLSTMs])
def test_from_zeros_it_computes_what_the_module_computes(make):
    module = make().eval()
    found = lifted(module)
    tensors = example(found.signature, **SIZES)
    with torch.no_grad():
        outputs = found(*tensors)[: len(found.signature.outputs)]
        wanted = [tensor for path, tensor in flatten(module(tensors[0])) if path[:1] != (1,)]
    for output, value in zip(outputs, wanted, strict=True):
        torch.testing.assert_close(output, value)


def test_given_states_enter_and_final_states_leave():
    module = modules.ReturnsState().eval()
    h, c = torch.randn(2, 2, 8), torch.randn(2, 2, 8)
    x = torch.randn(2, 7, 3)
    with torch.no_grad():
        wanted, (wanted_h, wanted_c) = module(x, (h, c))
        y, h_out, c_out = lifted(module)(x, h, c)
    for got, value in ((y, wanted), (h_out, wanted_h), (c_out, wanted_c)):
        torch.testing.assert_close(got, value)


def test_the_users_module_is_left_as_it_was():
    module = modules.HidesState().train()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    lifted(module)
    module.train()
    assert type(module.lstm) is nn.LSTM
    assert all(value.requires_grad for value in module.parameters())
    assert all(before[name].equal(value) for name, value in module.state_dict().items())


def test_a_returned_state_is_not_exported_twice():
    found = lifted(modules.ReturnsState()).signature
    assert found.output_names == ["y", "h_out", "c_out"]
    assert found.outputs[0].shape == ("batch", "seq", 2)


def test_keys_name_outputs_and_paths_name_states():
    found = lifted(modules.TwoLSTMs()).signature
    assert [str(spec) for spec in found.outputs] == ["low: float32[batch, seq, 4]", "top: float32[batch, seq, 5]"]
    assert found.input_names[1:] == ["low_h_in", "low_c_in", "top_lstm_h_in", "top_lstm_c_in"]


def test_positions_name_several_outputs():
    class Several(nn.Module):
        def __init__(self):
            super().__init__()
            self.lstm = nn.LSTM(3, 4, batch_first=True)

        def forward(self, x):
            out, _ = self.lstm(x)
            return out, [out[:, 0], out[:, -1]]

    assert lifted(Several()).signature.output_names[:3] == ["y0", "y1_0", "y1_1"]


def test_a_bare_lstm_is_lifted():
    found = lifted(nn.LSTM(3, 4, 2), TensorSpec.parse("x:float32[seq,batch,3]")).signature
    assert found.outputs[0].shape == ("seq", "batch", 4)
    assert found.state_inputs[0].shape == (2, "batch", 4)


def test_batch_first_state_is_the_same_state_in_another_order():
    module = modules.ReturnsState().eval()
    x, h, c = torch.randn(2, 7, 3), torch.randn(2, 2, 8), torch.randn(2, 2, 8)
    with torch.no_grad():
        y, h_out, _ = lifted(module)(x, h, c)
        found = lifted(module, state_layout="batch-first")
        other_y, other_h, _ = found(x, h.transpose(0, 1), c.transpose(0, 1))
    torch.testing.assert_close(other_y, y)
    torch.testing.assert_close(other_h, h_out.transpose(0, 1))
    assert found.signature.state_outputs[0].shape == ("batch", 2, 8)


@pytest.mark.parametrize(
    ("make", "streaming", "reason"),
    [
        (modules.HidesState, "exact", ""),
        (modules.ReturnsState, "exact", ""),
        (modules.Attention, "state-only", "looks across time"),
        (modules.Convolved, "none", "looks across time"),
        (lambda: modules.HidesState(bidirectional=True), "none", "bidirectional"),
    ],
)
def test_streaming_is_measured(make, streaming, reason):
    found = lifted(make()).signature
    assert found.streaming == streaming
    assert reason in found.streaming_reason


def test_a_model_of_one_fixed_length_does_not_stream():
    found = lifted(modules.HidesState(), TensorSpec.parse("x:float32[batch,10,3]")).signature
    assert (found.streaming, found.inputs[0].shape) == ("none", ("batch", 10, 3))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: nn.Linear(3, 3), "no nn.LSTM"),
        (modules.Gated, "GRU"),
        (modules.Subclassed, "subclass"),
    ],
)
def test_what_cannot_be_lifted_is_refused_with_the_reason(make, message):
    with pytest.raises(LiftingError, match=message):
        lifted(make())


def test_a_wrong_input_is_refused_with_the_models_own_words():
    with pytest.raises(LiftingError, match=r"x \[2, 6, 4\].*Expected 3, got 4"):
        lifted(modules.HidesState(), TensorSpec.parse("x:float32[batch,seq,4]"))


def test_half_and_double_weights_are_lifted_as_float32():
    for module in (modules.HidesState().double(), modules.HidesState().half()):
        found = lifted(module)
        assert all(value.dtype == torch.float32 for value in found.parameters())
