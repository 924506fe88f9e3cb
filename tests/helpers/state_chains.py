"""Calls of a lifted module in a chain, each with the state that the one before gave."""

import torch

from lstm_deploy.contract.signature import TensorSpec
from lstm_deploy.lifting.lifting import lift

CALLS, ROWS = 5, 3


def lifted_of(make, **options):
    torch.manual_seed(0)
    module = make().eval()
    return module, lift(module, [TensorSpec.parse(text, name) for name, text in module.inputs.items()], **options)


def inputs_of(signature, seed):
    """Sequences of other lengths at each call; a flag for each row is 0 or 1."""
    generator = torch.Generator().manual_seed(seed)
    sizes = {"batch": signature.fixed_size("batch") or ROWS, "seq": 1 + seed % 3}
    return [
        torch.randint(0, 2, spec.sized(sizes), generator=generator).float()
        if spec.shape == ("batch",)
        else torch.randn(spec.sized(sizes), generator=generator)
        for spec in signature.inputs
    ]


def carried(lifted):
    """The first output of some calls, each given the state that the one before gave."""
    signature = lifted.signature
    rows = signature.fixed_size("batch") or ROWS
    states = [torch.from_numpy(value) for value in signature.initial_state(rows).values()]
    for number in range(CALLS):
        outputs = lifted(*inputs_of(signature, number), *states)
        states = outputs[len(signature.outputs) :]
        yield outputs[0]


def same(a, b):
    return a.shape == b.shape and torch.allclose(a, b, rtol=1e-4, atol=1e-5)
