import inspect

import packed_modules
import pytest
import torch
from lift_packed import FALLING, LENGTHS, UNSORTED, assert_same, lift_packed, padded

from lstm_deploy.contract.signature import TensorSpec
from lstm_deploy.errors import LiftingError
from lstm_deploy.lifting.probing import example_inputs
from lstm_deploy.lifting.tracing import trace, wrong_sizes


@pytest.mark.parametrize(
    "make",
    [
        packed_modules.Packed,
        packed_modules.Filled,
        packed_modules.Largest,
        packed_modules.TotalLength,
        packed_modules.TimeMajorAfterwards,
        packed_modules.PadsOnly,
        packed_modules.AsList,
        packed_modules.AsTuple,
        packed_modules.AsNumbers,
        packed_modules.AsItems,
        packed_modules.AsArray,
        packed_modules.AllFull,
        packed_modules.ThroughLinear,
        packed_modules.Residual,
        packed_modules.PacksTokens,
        packed_modules.RowsOfPacked,
        packed_modules.LastStep,
        packed_modules.SortsByLength,
        packed_modules.SortsByIndices,
    ],
)
def test_rows_of_any_length_and_order_are_what_the_module_makes_of_them(make):
    module, lifted = lift_packed(make)
    for lengths in (FALLING, UNSORTED):
        assert_same(module, lifted, padded(lengths)[0], torch.tensor(lengths))
    assert wrong_sizes(trace(lifted), lifted) == []


@pytest.mark.parametrize("kind", ["GRU", "RNN_RELU"])
@pytest.mark.parametrize(
    "make",
    [
        packed_modules.Sorted,
        packed_modules.Largest,
        packed_modules.AsNumbers,
        packed_modules.ThroughLinear,
        packed_modules.Residual,
        packed_modules.LastStep,
        packed_modules.SortsByLength,
        packed_modules.SumsDirections,
    ],
)
def test_rows_of_any_length_are_so_for_every_kind_of_cell(make, kind):
    module, lifted = lift_packed(type(make.__name__, (make,), {"kind": kind}))
    for lengths in (FALLING, UNSORTED) if make is not packed_modules.Sorted else (FALLING,):
        assert_same(module, lifted, padded(lengths)[0], torch.tensor(lengths))
    assert wrong_sizes(trace(lifted), lifted) == []


@pytest.mark.parametrize(
    "make", [packed_modules.Sorted, packed_modules.SortedAndLast, packed_modules.ThroughLinearSorted]
)
def test_rows_that_the_module_wants_sorted_may_come_in_any_order(make):
    """Each row is what it is among sorted ones, which the module itself demands."""
    module, lifted = lift_packed(make)
    x, lengths = padded(FALLING)[0], torch.tensor(FALLING)
    assert_same(module, lifted, x, lengths)
    with pytest.raises(RuntimeError, match="sorted in decreasing order"):
        module(x.flip(0), lengths.flip(0))
    with torch.no_grad():
        states = [torch.from_numpy(state) for state in lifted.signature.initial_state(4).values()]
        turned = lifted(x.flip(0), lengths.flip(0), *states)
        torch.testing.assert_close(turned[0].flip(0), module(x, lengths))
    assert wrong_sizes(trace(lifted), lifted) == []
    assert lifted.notes == ()


def test_the_total_length_may_be_a_number():
    class Ten(packed_modules.Packed):
        def forward(self, x, lengths):
            return packed_modules.unpack(self.lstm(packed_modules.pack(x, lengths))[0], total_length=10)

    module, lifted = lift_packed(Ten, TensorSpec.parse("x:float32[batch,7,3]"), LENGTHS)
    assert lifted.signature.outputs[0].shape == ("batch", 10, 4)
    assert_same(module, lifted, padded(UNSORTED)[0], torch.tensor(UNSORTED))
    with pytest.raises(LiftingError, match=r"total_length=10.*give a number"):
        lift_packed(Ten)


def test_helpers_of_other_modules_and_partial_functions_pack_too(tmp_path, monkeypatch):
    (tmp_path / "padding_helpers.py").write_text(
        "from torch.nn.utils.rnn import pack_padded_sequence as p, pad_packed_sequence as u\n"
        "def run(lstm, x, n): return u(lstm(p(x, n, True, False))[0], True)[0]\n"
    )
    monkeypatch.syspath_prepend(tmp_path)

    class Helped(packed_modules.Packed):
        def forward(self, x, lengths):
            from padding_helpers import run

            return run(self.lstm, x, lengths)

    module, lifted = lift_packed(Helped)
    assert_same(module, lifted, padded(UNSORTED)[0], torch.tensor(UNSORTED))


def test_pytorchs_functions_are_as_they_were_afterwards():
    before = [torch.nn.utils.rnn.pack_padded_sequence.__code__, torch.nn.utils.rnn.unpack_sequence.__code__]
    lift_packed(packed_modules.ThroughLinear)
    after = [torch.nn.utils.rnn.pack_padded_sequence.__code__, torch.nn.utils.rnn.unpack_sequence.__code__]
    assert all(a is b for a, b in zip(before, after, strict=True))


def test_the_state_of_a_row_is_its_own_where_forward_sorts_rows():
    module, lifted = lift_packed(packed_modules.SortsByLength)
    x, lengths = padded(UNSORTED)[0], torch.tensor(UNSORTED)
    h, c = torch.randn(1, 4, 4), torch.randn(1, 4, 4)
    with torch.no_grad():
        _, h_out, c_out = lifted(x, lengths, h, c)
        for row, length in enumerate(UNSORTED):
            state = (h[:, row : row + 1].contiguous(), c[:, row : row + 1].contiguous())
            _, (expected_h, expected_c) = module.lstm(x[row : row + 1, :length], state)
            torch.testing.assert_close(h_out[:, row], expected_h[:, 0])
            torch.testing.assert_close(c_out[:, row], expected_c[:, 0])


@pytest.mark.parametrize(
    ("make", "message", "line"),
    [
        (packed_modules.KeepsSorted, "do not sort rows", None),
        (packed_modules.SortsAnArray, "do not sort rows", None),
        (packed_modules.SortsNumbers, "computes with lengths as numbers", "sorted("),
        (packed_modules.MeanOfPacked, "must be the same for each step alone", None),
        (packed_modules.ReturnsPacked, "returns a PackedSequence", None),
        (packed_modules.SumsBatchSizes, "reads the batch_sizes", "torch.sum("),
        (packed_modules.LoopsOverBatchSizes, "reads the batch_sizes", "sum(p."),
        (packed_modules.PacksRows, "of a list of rows", "pack_sequence(rows"),
        (packed_modules.UnpacksRows, "makes a list of rows", "unpack_sequence("),
    ],
)
def test_what_depends_on_lengths_as_numbers_is_refused_with_its_line(make, message, line):
    with pytest.raises(LiftingError, match=message) as caught:
        lift_packed(make)
    if line:
        source, first = inspect.getsourcelines(make)
        number = next(first + index for index, text in enumerate(source) if line in text)
        assert f"packed_modules.py:{number}" in str(caught.value)


def test_lifted_rows_leave_no_trace_of_flattening(tmp_path):
    """Where a forward leaves the data alone, a graph holds padded tensors and nothing else."""
    _, lifted = lift_packed(packed_modules.Packed)
    script = trace(lifted).script
    assert "flatten" not in str(script.inlined_graph)
    assert example_inputs(lifted.signature)[1].shape == (2,)
