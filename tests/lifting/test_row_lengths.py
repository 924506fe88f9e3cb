import packed_modules
import pytest
import torch
from lift_packed import UNSORTED, assert_same, lift_packed, padded
from msgspec import UNSET

from lstm_deploy.contract.signature import TensorSpec
from lstm_deploy.lifting.packing import Packing
from lstm_deploy.lifting.tracing import trace, wrong_sizes

VALID = padded(UNSORTED)[1]
TOKENS = torch.randint(2, 9, (4, 7), generator=torch.Generator().manual_seed(0))
CASES = [
    (packed_modules.CountsTokens, "tokens:int64[batch,seq]", 0, TOKENS * VALID),
    (packed_modules.CountsTokens, "tokens:int32[batch,seq]", 0, (TOKENS * VALID).int()),
    (packed_modules.CountsTokensTimeMajor, "tokens:int64[seq,batch]", 1, torch.where(VALID, TOKENS, 1).T.contiguous()),
    (packed_modules.CountsMask, "mask:bool[batch,seq]", 0, VALID),
    (packed_modules.CountsMask, "mask:int64[batch,seq]", 0, VALID.long()),
    (packed_modules.CountsMask, "mask:float32[batch,seq]", 0, VALID.float()),
    (packed_modules.CountsPadding, "mask:bool[batch,seq]", 1, ~VALID),
    (packed_modules.CountsRows, "x:float32[batch,seq,3]", 0, None),
]


@pytest.mark.parametrize(("make", "text", "padding", "value"), CASES)
def test_lengths_are_counted_by_padding(make, text, padding, value):
    """Which input tells them, and by which value, is seen by what is packed."""
    spec = TensorSpec.parse(text)
    x = [] if spec.name in ("tokens", "x") else [TensorSpec.parse("x:float32[batch,seq,3]")]
    module, lifted = lift_packed(make, *x, spec)
    assert lifted.signature.inputs[-1].padding == padding
    assert lifted.signature.least_seq == 1
    rows = padded(UNSORTED)[0]
    assert_same(module, lifted, *[rows for _ in x], rows if value is None else value)
    assert wrong_sizes(trace(lifted), lifted) == []


def test_lengths_may_have_any_name_and_number():
    class Named(packed_modules.Packed):
        def forward(self, x, n):
            return packed_modules.unpack(self.lstm(packed_modules.pack(x, n))[0])

    module, lifted = lift_packed(Named, TensorSpec.parse("x:float32[4,seq,3]"), TensorSpec.parse("n:int64[4]"))
    assert lifted.signature.inputs[1].is_lengths
    assert_same(module, lifted, padded(UNSORTED)[0], torch.tensor(UNSORTED))


@pytest.mark.parametrize(
    ("make", "packing"),
    [
        (packed_modules.Packed, Packing()),
        (packed_modules.Sorted, Packing(demands_sorted=True)),
        (packed_modules.AsList, Packing(takes_numbers=True)),
        (packed_modules.SortsByLength, Packing(sorts_rows=True)),
        (packed_modules.SortsByIndices, Packing(sorts_rows=True, takes_numbers=True)),
    ],
)
def test_how_a_module_packs_is_seen(make, packing):
    _, lifted = lift_packed(make)
    assert lifted.packing == packing
    assert all(spec.padding is UNSET for spec in lifted.signature.inputs)
