import modules
import pytest
import torch
from lift_modules import lift_module
from torch import nn

from lstm_deploy.contract.signature import TensorSpec
from lstm_deploy.lifting.lifting import lift


@pytest.mark.parametrize(
    ("make", "streaming", "reason"),
    [
        (modules.HidesState, "exact", ""),
        (modules.ReturnsState, "exact", ""),
        (modules.Attention, "state-only", "looks across time"),
        (modules.FlattensOutput, "exact", ""),
        (modules.FlattensTimeFirst, "exact", ""),
        (modules.FlattensRows, "exact", ""),
        (modules.FlattensWithoutMean, "state-only", "looks across time"),
        (modules.Convolved, "none", "looks across time"),
        (modules.LooksFarBack, "state-only", "looks across time"),
        (modules.AddsAnEcho, "state-only", "looks across time"),
        (lambda: modules.HidesState(bidirectional=True), "none", "bidirectional"),
    ],
)
def test_streaming_is_measured(make, streaming, reason):
    signature = lift_module(make()).signature
    assert signature.streaming == streaming
    assert reason in signature.streaming_reason


def test_pooling_is_seen_also_where_the_inputs_are_all_alike():
    class Mean(nn.Module):
        def __init__(self):
            super().__init__()
            self.lstm = nn.LSTM(3, 4, batch_first=True)

        def forward(self, x):
            return self.lstm(torch.zeros_like(x))[0].mean(1) + 1000

    assert lift_module(Mean()).signature.streaming == "state-only"


def test_a_model_of_one_fixed_length_does_not_stream():
    signature = lift_module(modules.HidesState(), TensorSpec.parse("x:float32[batch,10,3]")).signature
    assert (signature.streaming, signature.inputs[0].shape) == ("none", ("batch", 10, 3))


def test_cells_in_a_loop_stream_exactly():
    signature = lift_module(modules.Cells()).signature
    assert (signature.streaming, signature.one_step, signature.inputs[0].shape) == ("exact", True, ("batch", 1, 3))


@pytest.mark.parametrize(
    ("make", "x"),
    [
        (modules.StepCell, "float32[batch,3]"),
        (modules.StepCell, "float32[3]"),
        (modules.StepCell, "float32[4,3]"),
        (modules.StepCellApart, "float32[batch,3]"),
        (modules.StepCells, "float32[batch,3]"),
        (modules.StepLSTM, "float32[batch,3]"),
        (lambda: modules.StepLSTM(batch_first=True), "float32[batch,3]"),
        (modules.StepLSTM, "float32[3]"),
        (modules.PlainLSTM, "float32[1,batch,3]"),
        (lambda: modules.PlainLSTM(batch_first=True), "float32[batch,1,3]"),
        (modules.PlainLSTM, "float32[1,3]"),
        (modules.StepTokens, "int64[batch]"),
        (modules.StepFrame, "float32[batch,64]"),
        (modules.StepKeepsState, "float32[batch,3]"),
    ],
)
def test_a_network_of_one_step_a_call_streams(make, x):
    signature = lift_module(make(), TensorSpec.parse(f"x:{x}")).signature
    assert (signature.streaming, signature.streaming_reason, signature.one_step) == ("exact", "", True)


@pytest.mark.parametrize(
    ("make", "x"),
    [
        (lambda: modules.PlainLSTM(batch_first=True), "float32[batch,10,3]"),
        (lambda: modules.PlainLSTM(batch_first=True), "float32[batch,2,3]"),
        (modules.PlainLSTM, "float32[10,batch,3]"),
        (modules.Cells, "float32[batch,10,3]"),
        (modules.StepsInAFrame, "float32[batch,64]"),
        (modules.CellTwiceACall, "float32[batch,3]"),
        (modules.WindowNorm, "float32[batch,10]"),
    ],
)
def test_a_window_of_steps_is_not_one_step(make, x):
    signature = lift_module(make(), TensorSpec.parse(f"x:{x}")).signature
    assert (signature.streaming, signature.one_step) == ("none", False)
    assert "the number of steps is fixed" in signature.streaming_reason


def test_a_network_of_one_step_that_keeps_its_last_input_streams_with_that_as_a_state():
    signature = lift_module(modules.KeepsTheLastInput(), TensorSpec.parse("x:float32[batch,3]")).signature
    assert signature.streaming == "exact"
    assert [spec.name for spec in signature.state_inputs] == ["h_in", "c_in", "before_in"]
    assert signature.states[2].argument == "self.before"


def test_a_small_pool_upon_a_large_residual_is_seen_to_look_across_time():
    class UponAResidual(nn.Module):
        def __init__(self):
            super().__init__()
            self.lstm = nn.LSTM(3, 4, batch_first=True)

        def forward(self, x):
            return 60 * (1 + x) + 0.05 * self.lstm(x)[0][..., :3].mean(1, keepdim=True)

    assert lift_module(UponAResidual()).signature.streaming == "state-only"


def test_a_pool_whose_columns_differ_more_than_its_rows_is_seen_to_look_across_time():
    torch.manual_seed(533)

    class Pooled(nn.Module):
        def __init__(self):
            super().__init__()
            self.lstm = nn.LSTM(5, 2, 2, proj_size=1, batch_first=True)
            self.fc = nn.Linear(1, 5)

        def forward(self, x):
            return 2400 * torch.sigmoid(3 * self.fc(self.lstm(x)[0].mean(1)) - 4)

    contract = lift(Pooled().eval(), [TensorSpec.parse("x:float32[batch,seq,5]")]).signature
    assert contract.streaming == "state-only"


@pytest.mark.parametrize("gain", [1, 10, 30])
@pytest.mark.parametrize(("far", "streaming"), [(0, "exact"), (12, "state-only"), (50, "state-only")])
def test_how_an_lstm_rounds_does_not_hide_what_looks_across_time(gain, far, streaming):
    """With large recurrent weights no two runs are alike after a few steps."""

    class Echo(nn.Module):
        def __init__(self):
            super().__init__()
            self.lstm = nn.LSTM(3, 32, batch_first=True)
            with torch.no_grad():
                self.lstm.weight_hh_l0 *= gain

        def forward(self, x):
            y = self.lstm(x)[0]
            echo = torch.cat([torch.zeros_like(y[:, :far]), y], 1)
            return y + echo[:, : y.shape[1]] if far else y

    torch.manual_seed(0)
    module = Echo()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    assert lift_module(module).signature.streaming == streaming
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())


def test_an_axis_of_time_with_another_name_is_told_from_a_fixed_number_of_steps():
    signature = lift_module(nn.LSTM(3, 4, batch_first=True), TensorSpec.parse("x:float32[batch,frames,3]")).signature
    assert signature.streaming == "none"
    assert signature.streaming_reason == "no axis is called `seq`; call frames so if it is that of time"
    assert lift_module(nn.LSTM(3, 4, batch_first=True)).signature.streaming == "exact"
