"""Padded sequences of unequal length, which stay padded while a lifted module runs.

`pack_padded_sequence` makes tensors whose sizes depend on the data, which no exporter can trace. While a lifted
module runs, its own calls of it and of `pad_packed_sequence` go to stand-ins, which keep the padded tensor beside
its lengths; the LSTM then takes both.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from torch.nn.utils import rnn

# PyTorch's own functions: while a module runs, `rnn` has the stand-ins under these names.
pack_padded_sequence = rnn.pack_padded_sequence
pad_packed_sequence = rnn.pad_packed_sequence


class PaddedSequence:
    """Stand-in for a `PackedSequence`: `data` `[seq, batch, …]` and `lengths` `[batch]`."""

    def __init__(self, data: Tensor, lengths: Tensor) -> None:
        self.data, self.lengths = data, lengths


def _pack(input: Tensor, lengths: Tensor, batch_first: bool = False, enforce_sorted: bool = True) -> PaddedSequence:  # noqa: A002, ARG001
    return PaddedSequence(input.transpose(0, 1) if batch_first else input, lengths)


def _unpack(
    sequence: PaddedSequence,
    batch_first: bool = False,
    padding_value: float = 0.0,  # noqa: ARG001 - the LSTM's padded outputs are 0
    total_length: int | None = None,  # noqa: ARG001 - always the length of the input, the longest there is
) -> tuple[Tensor, Tensor]:
    return sequence.data.transpose(0, 1) if batch_first else sequence.data, sequence.lengths


def namespaces_of(module: nn.Module) -> list[dict[str, Any]]:
    """The global names of the code of a module and its children, PyTorch's and ours left out; each once."""
    found: list[dict[str, Any]] = []
    for child in module.modules():
        home = type(child).__module__
        if home in sys.modules and not home.startswith(("torch.", "lstm_deploy.")):
            found.append(vars(sys.modules[home]))
        if hasattr(child.forward, "__func__") and home.partition(".")[0] != "lstm_deploy":
            found.append(child.forward.__func__.__globals__)
    return list({id(names): names for names in found}.values())


@contextmanager
def kept_padded(module: nn.Module) -> Iterator[None]:
    """Within the block, `module` and its children pack and unpack with the stand-ins, whatever name they call."""
    stand_ins = {id(pack_padded_sequence): _pack, id(pad_packed_sequence): _unpack}
    namespaces = [vars(rnn), *namespaces_of(module)]
    replaced = [(names, key, value) for names in namespaces for key, value in names.items() if id(value) in stand_ins]
    for names, key, value in replaced:
        names[key] = stand_ins[id(value)]
    try:
        yield
    finally:
        for names, key, value in replaced:
            names[key] = value
