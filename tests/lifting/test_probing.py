import re

import modules
import packed_modules
import pytest
from lift_modules import lift_module
from torch import nn

from lstm_deploy.contract.signature import TensorSpec
from lstm_deploy.errors import LiftingError


def test_a_wrong_input_is_refused_with_the_models_own_words():
    with pytest.raises(LiftingError, match=r"x \[\d, 6, 4\].*Expected 3, got 4"):
        lift_module(modules.HidesState(), TensorSpec.parse("x:float32[batch,seq,4]"))


@pytest.mark.parametrize(
    ("make", "text", "example"),
    [
        (modules.HidesState, "x:float32[batch,3]", "x:float32[batch,seq,3]"),
        (modules.HidesState, "x:float32[3]", "x:float32[batch,seq,3]"),
        (packed_modules.CountsTokens, "x:int64[seq]", "x [6]"),
    ],
)
def test_an_axis_that_was_forgotten_is_named(make, text, example):
    with pytest.raises(LiftingError, match=re.escape(example)):
        lift_module(make(), TensorSpec.parse(text))


def test_a_learned_start_is_part_of_the_contract():
    module = modules.LearnedStart().eval()
    signature = lift_module(module).signature
    assert signature.recurrent[0].initial_h == ((1.0,) * 8,)
    assert (signature.initial_state(3)["h_in"] == 1).all()
    assert (signature.initial_state(3)["c_in"] == 0).all()


def test_fixed_sizes_are_reported_with_the_reason():
    def fixed(make, text):
        return {dim.name: (dim.size, dim.reason) for dim in lift_module(make(), TensorSpec.parse(text)).signature.fixed}

    assert fixed(modules.WindowNorm, "x:float32[batch,seq]")["seq"][0] == 10
    assert "one step a call" in fixed(modules.Cells, "x:float32[batch,seq,3]")["seq"][1]
    assert fixed(modules.Unbatched, "x:float32[seq,3]")["batch"][0] == 1


def test_axes_with_other_names_are_refused_with_the_names_to_use():
    with pytest.raises(LiftingError, match="call that axis `batch`"):
        lift_module(modules.HidesState(), TensorSpec.parse("x:float32[B,T,3]"))


@pytest.mark.parametrize(
    "spec",
    [
        TensorSpec(name="x", dtype="float32", shape=("batch", "seq", 10**15)),
        TensorSpec(name="x", dtype="float32", shape=("batch", "seq", 3), low=(1.0,), high=(0.0,)),
        TensorSpec(name="x", dtype="float32", shape=("batch", "seq", 3), low=(0.0, 0.0), high=(1.0, 1.0)),
        TensorSpec(name="x", dtype="int64", shape=("batch", "seq"), low=(0,), high=(-1,)),
    ],
    ids=["too large", "range upside down", "range of other features", "no tokens"],
)
def test_inputs_that_cannot_be_are_refused(spec):
    """As in a contract that was changed."""
    with pytest.raises(LiftingError, match="correct the specification"):
        lift_module(modules.HidesState(), spec)


def test_an_error_that_another_calling_convention_does_not_mend_changes_nothing():
    class NeedsThree(nn.Module):
        def __init__(self):
            super().__init__()
            self.lstm = nn.LSTM(3, 4, batch_first=True)

        def forward(self, x, state):
            y, state = self.lstm(x, state)
            if x.shape[1] < 3:
                raise RuntimeError("tuple index out of range")  # also what is said of a state given as a tuple
            return y[:, 2:], state

    assert lift_module(NeedsThree()).signature.least_seq == 3


@pytest.mark.parametrize("make", [modules.PlainLSTM, modules.TurnedLSTM])
def test_an_lstm_that_takes_the_rows_for_steps_is_refused(make):
    with pytest.raises(LiftingError, match="rows of a batch would be steps"):
        lift_module(make(), TensorSpec.parse("x:float32[batch,3]"))


class ReadsPictures(nn.Module):
    """A convolution over a picture of a line of text, whose columns are the steps; it halves them."""

    def __init__(self, kernel=3):
        super().__init__()
        self.conv, self.pool = nn.Conv2d(1, 2, kernel, padding=(kernel // 2, 1)), nn.AvgPool2d((4, 2))
        self.lstm = nn.LSTM(2 * 2, 4, batch_first=True)

    def forward(self, x):
        columns = self.pool(self.conv(x)).permute(0, 3, 1, 2).flatten(2)
        return self.lstm(columns)[0]


@pytest.mark.parametrize("kernel", [3, 11])
def test_an_axis_of_time_with_another_name_is_to_be_called_seq_and_then_its_fewest_steps_are_found(kernel):
    module = ReadsPictures(kernel)
    with pytest.raises(LiftingError, match=r"call its axis of time `seq`, as in x: float32\[batch, 1, 8, seq\]"):
        lift_module(module, TensorSpec.parse("x:float32[batch,1,8,width]"))
    signature = lift_module(module, TensorSpec.parse("x: float32[batch, 1, 8, seq]")).signature
    assert signature.least_seq == kernel - 1
