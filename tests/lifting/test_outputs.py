import modules
import pytest
import refused_modules
import torch
from lift_modules import lift_module
from torch import nn

from lstm_deploy.contract.signature import TensorSpec
from lstm_deploy.errors import LiftingError
from lstm_deploy.lifting.outputs import many_steps


def test_a_returned_state_is_not_exported_twice():
    signature = lift_module(modules.ReturnsState()).signature
    assert signature.output_names == ["y", "h_out", "c_out"]
    assert signature.outputs[0].shape == ("batch", "seq", 2)


def test_keys_name_outputs_and_paths_name_states():
    signature = lift_module(modules.TwoLSTMs()).signature
    assert [str(spec) for spec in signature.outputs] == ["low: float32[batch, seq, 4]", "top: float32[batch, seq, 5]"]
    assert signature.input_names[1:] == ["low_h_in", "low_c_in", "top_lstm_h_in", "top_lstm_c_in"]


def test_gaps_between_numbered_outputs_are_explained():
    class Reordered(modules.OneLSTM):
        def forward(self, x, state=None):
            y, state = self.lstm(x, state)
            return y[..., :2], state, y[..., 2:]

    class Nested(Reordered):
        def forward(self, x, state=None):
            y, state = self.lstm(x, state)
            return (y[..., :2], state, y[..., 2:]), y.mean(-1)

    class Named(Reordered):
        def forward(self, x, state=None):
            y, state = self.lstm(x, state)
            return {"y0": y[..., :2], "state": state, "y2": y[..., 2:]}

    class First(Reordered):
        def forward(self, x, state=None):
            y, state = self.lstm(x, state)
            return y[..., :2], y[..., 2:], state

    lifted = lift_module(Reordered())
    assert [spec.name for spec in lifted.signature.outputs] == ["y0", "y2"]
    assert lifted.notes == (
        "the outputs y0, y2 are numbered by their places in what forward returns; the other places hold states",
    )
    assert "the outputs y0_0, y0_2, y1 are numbered" in lift_module(Nested()).notes[0]
    assert lift_module(Named()).notes == lift_module(First()).notes == ()


def test_positions_name_several_outputs():
    class Several(nn.Module):
        def __init__(self):
            super().__init__()
            self.lstm = nn.LSTM(3, 4, batch_first=True)

        def forward(self, x):
            out, _ = self.lstm(x)
            return out, [out[:, 0], out[:, -1]]

    assert lift_module(Several()).signature.output_names[:3] == ["y0", "y1_0", "y1_1"]


@pytest.mark.parametrize(
    ("argument", "returned", "inputs", "outputs"),
    [
        ("y", "out", ["y", "h_in", "c_in"], ["y_out"]),
        (
            "x",
            "{'x': out, 'h_out': out + 1, 'x_out': out + 2}",
            ["x", "h_in", "c_in"],
            ["x_out_out", "h_out_out", "x_out"],
        ),
        ("x", "{'a_b': out, 'a': {'b': out + 1}}", ["x", "h_in", "c_in"], ["a_b", "a_b_out"]),
        ("x", "{'class prob': out, '': out + 1, 0: out + 2}", ["x", "h_in", "c_in"], ["class_prob", "y", "y0"]),
        ("h_in", "out", ["h_in", "lstm_h_in", "lstm_c_in"], ["y"]),
        ("c_out", "out", ["c_out", "lstm_h_in", "lstm_c_in"], ["y"]),
        ("lstm_h_in", "out", ["lstm_h_in", "h_in", "c_in"], ["y"]),
    ],
)
def test_inputs_keep_their_names_and_what_would_be_called_alike_gets_another(argument, returned, inputs, outputs):
    signature = lift_module(
        modules.named(argument, returned), TensorSpec.parse(f"{argument}:float32[batch,seq,3]")
    ).signature
    assert signature.input_names == inputs
    assert [spec.name for spec in signature.outputs] == outputs


def test_outputs_may_be_true_or_false():
    class Above(modules.HidesState):
        def forward(self, x):
            return super().forward(x) > 0

    assert lift_module(Above()).signature.outputs[0].dtype == "bool"


def test_the_state_of_a_cell_is_not_exported_twice_either():
    class Step(nn.Module):
        """As a published voice detector is written: one step a call, the state returned as it came."""

        def __init__(self):
            super().__init__()
            self.cell = nn.LSTMCell(3, 4)

        def forward(self, x, state=None):
            h, c = self.cell(x, state)
            return h.relu(), (h, c)

    signature = lift_module(Step(), TensorSpec.parse("x:float32[batch,3]")).signature
    assert signature.output_names == ["y", "h_out", "c_out"]


@pytest.mark.parametrize(("make", "least", "shape"), [(modules.PoolsTime, 2, 4), (modules.Subsamples, 7, 4)])
def test_the_fewest_steps_that_it_runs_on_are_found(make, least, shape):
    signature = lift_module(make()).signature
    assert (signature.least_seq, signature.fixed) == (least, ())
    assert signature.outputs[0].shape == ("batch", "seq_1", shape)
    assert signature.streaming == "none"
    assert signature.clamp({"batch": 1, "seq": 1}) == {"batch": 1, "seq": least}


def test_an_axis_whose_size_seldom_changes_is_dynamic():
    signature = lift_module(modules.Strided()).signature
    assert [spec.shape for spec in signature.outputs] == [("batch", "seq_1", 4)]


def test_an_axis_that_vanishes_where_its_size_is_one_is_refused():
    with pytest.raises(LiftingError, match=r"batch 1 the output y has the shape \[4\].*squeeze\(-1\)"):
        lift_module(refused_modules.Squeezes())
    assert lift_module(refused_modules.Squeezes(), TensorSpec.parse("x:float32[1,seq,3]")).signature.outputs[
        0
    ].shape == (4,)


def test_many_steps_are_fewer_where_weights_are_many():
    small = lift_module(modules.HidesState())
    assert many_steps(small) == 200
    small.register_parameter("large", nn.Parameter(torch.empty(10**9, device="meta")))
    assert many_steps(small) == 24


def test_a_forward_that_returns_nothing_is_refused():
    with pytest.raises(LiftingError, match="returns no tensor"):
        lift_module(modules.named("x", "None"))


def test_an_lstm_whose_rows_are_not_those_of_the_batch_is_refused():
    with pytest.raises(LiftingError, match="lstm computes 30 rows where the batch has 5"):
        lift_module(refused_modules.RunsOnBands(), TensorSpec.parse("x:float32[batch,6,seq,3]"))


def test_fields_of_a_dataclass_name_outputs():
    assert lift_module(modules.TakesBatch("batch['{}']", ("x",))).signature.output_names[0] == "scores"
