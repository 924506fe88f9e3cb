"""int8 TorchScript: the only module that uses PyTorch's dynamic quantization, whose removal PyTorch announces."""

import warnings
from typing import Any

import torch
from torch import Tensor, nn
from torch.ao.quantization import quantize_dynamic

from lstm_deploy.lifting import Lifted, State, StatefulCell, StatefulLSTM, shared_copy


class QuantizedLSTM(StatefulLSTM):
    """A stateful LSTM that computes with int8 weights."""

    quantized: Any

    def kernel(self, x: Any, state: State) -> Any:
        return self.quantized(x, state)


class QuantizedCell(StatefulCell):
    """A stateful cell that computes with int8 weights."""

    quantized: Any

    def kernel(self, x: Tensor, state: State) -> Any:
        return self.quantized(x, state)


def quantized_copy(lifted: Lifted) -> tuple[Lifted, int, int]:
    """A copy with its LSTMs and linear layers in int8; how many LSTM layers are in int8, and how many there are.

    An LSTM with a projection stays in float: PyTorch has no int8 kernel for it.
    """
    copy = shared_copy(lifted)
    lowered = total = 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # quantize_dynamic is deprecated
        for path in copy.calls:
            module = copy.module.get_submodule(path)
            layers = module.num_layers if isinstance(module, nn.LSTM) else 1
            total += layers
            if isinstance(module, nn.LSTM) and module.proj_size:
                continue
            lowered += layers
            _quantize(module)
        quantize_dynamic(copy.module, {nn.Linear}, dtype=torch.qint8, inplace=True)  # type: ignore[no-untyped-call]
    return copy, lowered, total


def _quantize(module: nn.Module) -> None:
    """Replace the weights of one LSTM or cell by those of its int8 counterpart."""
    assert isinstance(module, nn.LSTM | nn.LSTMCell)
    sizes = module.input_size, module.hidden_size
    plain: nn.Module
    if isinstance(module, nn.LSTM):
        plain = nn.LSTM(*sizes, module.num_layers, batch_first=module.batch_first, bidirectional=module.bidirectional)
    else:
        plain = nn.LSTMCell(*sizes)
    zeros = {name: torch.zeros_like(value) for name, value in plain.named_parameters()}  # PyTorch insists on a bias
    plain.load_state_dict({**zeros, **dict(module.named_parameters())})
    (quantized,) = quantize_dynamic(nn.Sequential(plain.eval()), {type(plain)}, dtype=torch.qint8)  # type: ignore[no-untyped-call]
    for name in list(module._parameters):
        delattr(module, name)
    module.__class__ = QuantizedLSTM if isinstance(module, nn.LSTM) else QuantizedCell
    module.quantized = quantized
