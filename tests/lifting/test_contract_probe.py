import modules
import pytest
import torch
from torch import nn

from lstm_deploy.contract.signature import TensorSpec
from lstm_deploy.errors import LiftingError
from lstm_deploy.lifting.contract_probe import _many
from lstm_deploy.lifting.lifting import lift

X = TensorSpec.parse("x:float32[batch,seq,3]")


def lifted(module, spec=X, **options):
    torch.manual_seed(0)
    return lift(module.eval(), [spec], **options)


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


@pytest.mark.parametrize(
    ("make", "streaming", "reason"),
    [
        (modules.HidesState, "exact", ""),
        (modules.ReturnsState, "exact", ""),
        (modules.Attention, "state-only", "looks across time"),
        (modules.Convolved, "none", "looks across time"),
        (modules.LooksFarBack, "state-only", "looks across time"),
        (modules.AddsAnEcho, "state-only", "looks across time"),
        (lambda: modules.HidesState(bidirectional=True), "none", "bidirectional"),
    ],
)
def test_streaming_is_measured(make, streaming, reason):
    found = lifted(make()).signature
    assert found.streaming == streaming
    assert reason in found.streaming_reason


def test_outputs_may_be_true_or_false():
    class Above(modules.HidesState):
        def forward(self, x):
            return super().forward(x) > 0

    assert lifted(Above()).signature.outputs[0].dtype == "bool"


def test_pooling_is_seen_also_where_the_inputs_are_all_alike():
    class Mean(nn.Module):
        def __init__(self):
            super().__init__()
            self.lstm = nn.LSTM(3, 4, batch_first=True)

        def forward(self, x):
            return self.lstm(torch.zeros_like(x))[0].mean(1) + 1000

    assert lifted(Mean()).signature.streaming == "state-only"


def test_a_model_of_one_fixed_length_does_not_stream():
    found = lifted(modules.HidesState(), TensorSpec.parse("x:float32[batch,10,3]")).signature
    assert (found.streaming, found.inputs[0].shape) == ("none", ("batch", 10, 3))


def test_outputs_that_look_at_padding_are_told():
    specs = [X, TensorSpec.parse("lengths:int64[batch]")]
    assert "must fill the time axis" in lift(modules.PoolsPadding().eval(), specs).notes[0]
    assert lift(modules.Packs().eval(), specs).notes == ()


def test_the_state_of_a_cell_is_not_exported_twice_either():
    class Step(nn.Module):
        """As a published voice detector is written: one step a call, the state returned as it came."""

        def __init__(self):
            super().__init__()
            self.cell = nn.LSTMCell(3, 4)

        def forward(self, x, state=None):
            h, c = self.cell(x, state)
            return h.relu(), (h, c)

    found = lifted(Step(), TensorSpec.parse("x:float32[batch,3]")).signature
    assert found.output_names == ["y", "h_out", "c_out"]


def test_cells_in_a_loop_stream_exactly():
    assert lifted(modules.Cells()).signature.streaming == "exact"


@pytest.mark.parametrize(("make", "least", "shape"), [(modules.PoolsTime, 2, 4), (modules.Subsamples, 7, 4)])
def test_the_fewest_steps_that_it_runs_on_are_found(make, least, shape):
    found = lifted(make()).signature
    assert (found.least_seq, found.fixed) == (least, ())
    assert found.outputs[0].shape == ("batch", "seq_1", shape)
    assert found.streaming == "none"
    assert found.clamp({"batch": 1, "seq": 1}) == {"batch": 1, "seq": least}


def test_an_axis_that_vanishes_where_its_size_is_one_is_refused():
    with pytest.raises(LiftingError, match=r"batch 1 the output y has the shape \[4\].*squeeze\(-1\)"):
        lifted(modules.Squeezes())
    assert lifted(modules.Squeezes(), TensorSpec.parse("x:float32[1,seq,3]")).signature.outputs[0].shape == (4,)


def test_rows_that_are_sorted_before_the_lstm_are_refused():
    """Its state would be another row's, whatever the ties."""
    lengths = TensorSpec.parse("lengths:int64[batch]")
    with pytest.raises(LiftingError, match="enforce_sorted=False"):
        lift(modules.SortsByLength().eval(), [X, lengths])


def test_many_steps_are_fewer_where_weights_are_many():
    small = lifted(modules.HidesState())
    assert _many(small) == 200
    small.register_parameter("large", nn.Parameter(torch.empty(10**9, device="meta")))
    assert _many(small) == 24


def test_a_small_pool_upon_a_large_residual_is_seen_to_look_across_time():
    class UponAResidual(nn.Module):
        def __init__(self):
            super().__init__()
            self.lstm = nn.LSTM(3, 4, batch_first=True)

        def forward(self, x):
            return 60 * (1 + x) + 0.05 * self.lstm(x)[0][..., :3].mean(1, keepdim=True)

    assert lifted(UponAResidual()).signature.streaming == "state-only"


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
    assert lifted(module).signature.streaming == streaming
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
