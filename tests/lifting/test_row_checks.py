import modules
import packed_modules
import pytest
import torch
from lift_modules import X

from lstm_deploy.contract.signature import TensorSpec
from lstm_deploy.errors import LiftingError
from lstm_deploy.lifting.lifting import lift

SPECS = [X, TensorSpec.parse("lengths:int64[batch]")]


class MixesRows(packed_modules.Sorted):
    """The first row is the longest, says whoever wrote it."""

    def forward(self, x, lengths):
        return super().forward(x, lengths) / lengths[0]


class Flips(packed_modules.Packed):
    """Rows in another order than the inputs, by no sort."""

    def forward(self, x, lengths):
        return super().forward(x.flip(0), lengths.flip(0)).flip(0)


class FlipsTimeMajor(packed_modules.Packed):
    batch_first = False

    def forward(self, x, lengths):
        packed = torch.nn.utils.rnn.pack_padded_sequence(x.flip(1), lengths.flip(0), enforce_sorted=False)
        return torch.nn.utils.rnn.pad_packed_sequence(self.lstm(packed)[0])[0].flip(1)


class AddsInput(packed_modules.Packed):
    """Does not run unless a row fills the time axis."""

    def forward(self, x, lengths):
        return super().forward(x, lengths)[..., :3] + x


class ChecksOrder(packed_modules.Packed):
    def forward(self, x, lengths):
        assert (lengths[:-1] >= lengths[1:]).all(), "sort your rows"
        return super().forward(x, lengths)


@pytest.mark.parametrize("make", [modules.PoolsPadding, AddsInput])
def test_outputs_that_depend_on_padding_are_noted(make):
    assert "must fill the time axis" in lift(make().eval(), SPECS).notes[0]
    assert lift(modules.Packs().eval(), SPECS).notes == ()


def test_rows_that_must_be_sorted_are_noted():
    assert lift(MixesRows().eval(), SPECS).notes[0] == "the rows of a batch must be sorted by falling length"


def test_what_is_padding_is_noted():
    lifted = lift(packed_modules.CountsTokens().eval(), [TensorSpec.parse("tokens:int64[batch,seq]")])
    assert lifted.notes == ("tokens is 0 where a row has ended, and something else before, in one step at least",)


@pytest.mark.parametrize(("make", "x"), [(Flips, X), (FlipsTimeMajor, TensorSpec.parse("x:float32[seq,batch,3]"))])
def test_a_state_of_another_row_is_refused(make, x):
    with pytest.raises(LiftingError, match="enforce_sorted=False"):
        lift(make().eval(), [x, SPECS[1]])


def test_a_forward_that_checks_the_order_itself_is_refused_with_its_line():
    with pytest.raises(LiftingError, match=r"sort your rows.*, at .*test_row_checks\.py:\d+.*leave that to"):
        lift(ChecksOrder().eval(), SPECS)
