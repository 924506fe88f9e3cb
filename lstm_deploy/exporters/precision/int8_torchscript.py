"""int8 TorchScript: the only module that uses PyTorch's dynamic quantization, whose removal PyTorch announces."""

import warnings
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.ao.quantization import quantize_dynamic

from lstm_deploy.lifting import (
    Lifted,
    State,
    StatefulCell,
    StatefulSequence,
    as_passed,
    cell_of,
    layers_of,
    shared_copy,
    specialize,
    state_of,
)

_HAVE_INT8 = (nn.LSTM, nn.GRU, nn.LSTMCell, nn.GRUCell, nn.RNNCell)
"""Recurrent classes that PyTorch has int8 kernels for."""


class QuantizedSequence(StatefulSequence):
    """A stateful module that computes with int8 weights."""

    quantized: Any

    def kernel(self, x: Any, state: State | None) -> Any:
        y, final = self.quantized(x, None if state is None else as_passed(state))
        return y, state_of(self, final)


class QuantizedCell(StatefulCell):
    """A stateful cell that computes with int8 weights."""

    quantized: Any

    def kernel(self, x: Tensor, state: State) -> Any:
        return state_of(self, self.quantized(x, as_passed(state)))


def quantized_copy(lifted: Lifted) -> tuple[Lifted, int, int]:
    """A copy in int8; how many recurrent layers are in int8, and how many there are.

    An LSTM with a projection and an `nn.RNN` stay in float: PyTorch has no int8 kernel for them.
    """
    copy = shared_copy(lifted)
    lowered = total = 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # quantize_dynamic is deprecated
        for path in copy.calls:
            module = copy.module.get_submodule(path)
            layers, _ = layers_of(module)
            total += layers
            if getattr(module, "proj_size", 0) or not isinstance(module, _HAVE_INT8):
                continue
            lowered += layers
            _quantize(module)
        quantize_dynamic(copy.module, {nn.Linear}, dtype=torch.qint8, inplace=True)  # type: ignore[no-untyped-call]
    return copy, lowered, total


def _quantize(module: nn.Module) -> None:
    """Replace the weights of one recurrent module by those of its int8 counterpart."""
    assert isinstance(module, StatefulSequence | StatefulCell)
    plain = _plain(module)
    zeros = {name: torch.zeros_like(value) for name, value in plain.named_parameters()}  # PyTorch insists on a bias
    plain.load_state_dict({**zeros, **dict(module.named_parameters())})
    (quantized,) = quantize_dynamic(nn.Sequential(plain.eval()), {type(plain)}, dtype=torch.qint8)  # type: ignore[no-untyped-call]
    for name in list(module._parameters):
        delattr(module, name)
    specialize(module, QuantizedSequence, QuantizedCell)
    module.quantized = quantized


def _plain(module: StatefulSequence | StatefulCell) -> nn.Module:
    """A module of PyTorch's own class and the same sizes."""
    cell, sizes = cell_of(module), (module.input_size, module.hidden_size)
    sequence, step = (getattr(nn, name) for name in cell.pytorch_modules)
    if isinstance(module, StatefulCell):
        return cast(nn.Module, step(*sizes, **cell.pytorch_options))
    options = {"batch_first": module.batch_first, "bidirectional": module.bidirectional}
    return cast(nn.Module, sequence(*sizes, module.num_layers, **cell.pytorch_options, **options))
