"""Lifts modules that pack padded rows, and compares them with what their authors wrote."""

import torch
from lift_modules import X

from lstm_deploy.contract.signature import TensorSpec
from lstm_deploy.lifting.lifting import lift

LENGTHS = TensorSpec.parse("lengths:int64[batch]")
FALLING, UNSORTED = [7, 5, 5, 1], [2, 7, 1, 6]


def lift_packed(make, *specs):
    torch.manual_seed(0)
    module = make().eval()
    return module, lift(module, specs or [X, LENGTHS])


def padded(lengths, make=torch.randn):
    """Rows `[rows, longest, 3]`, zero where they have ended."""
    valid = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    return make(len(lengths), max(lengths), 3) * valid[..., None], valid


def assert_same(module, lifted, *inputs):
    states = lifted.signature.initial_state(4).values()
    with torch.no_grad():
        expected = module(*inputs)
        actual = lifted(*inputs, *map(torch.from_numpy, states))[: len(lifted.signature.outputs)]
    for a, b in zip(actual, expected if isinstance(expected, tuple) else (expected,), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)
