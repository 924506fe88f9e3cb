"""Lowering: every LSTM of a lifted module becomes one ONNX `LSTM` operator per layer.

`torch.onnx.export` by itself freezes time and packs the weights with nodes that hide them from the quantizer.
Here each layer is one call of a custom operator with weights already in ONNX order, which the exporter translates
to `LSTM`: https://onnx.ai/onnx/operators/onnx__LSTM.html
"""

from collections.abc import Callable
from typing import Any

import onnx
import torch
from onnxscript import opset18
from torch import Tensor, nn

from lstm_deploy.lifting import Lifted, State, StatefulCell, StatefulLSTM, to_onnx_order

# It is only traced, never run, so it has a shape and a translation, and no kernel.
torch.library.define(
    "lstm_deploy::lstm",
    "(Tensor x, Tensor w, Tensor r, Tensor b, Tensor? lengths, Tensor h, Tensor c, str direction)"
    " -> (Tensor, Tensor, Tensor)",
)


@torch.library.register_fake("lstm_deploy::lstm")  # type: ignore[untyped-decorator]
def _shapes(
    x: Tensor, _w: Tensor, _r: Tensor, _b: Tensor, _lengths: Tensor | None, h: Tensor, c: Tensor, _direction: str
) -> tuple[Tensor, Tensor, Tensor]:
    """`x [seq, batch, in]`, `h, c [directions, batch, hidden]` → `y [seq, directions, batch, hidden]`, h, c."""
    return x.new_empty(x.shape[0], h.shape[0], x.shape[1], h.shape[2]), torch.empty_like(h), torch.empty_like(c)


def _onnx_lstm(x: Any, w: Any, r: Any, b: Any, lengths: Any, h: Any, c: Any, direction: str) -> Any:
    if lengths is not None:  # ONNX takes them in no other type
        lengths = opset18.Cast(lengths, to=onnx.TensorProto.INT32)
    return opset18.LSTM(x, w, r, b, lengths, h, c, hidden_size=r.shape[2], direction=direction)


TRANSLATIONS: dict[Callable[..., Any], Callable[..., Any]] = {torch.ops.lstm_deploy.lstm.default: _onnx_lstm}
"""`custom_translation_table` for `torch.onnx.export`."""


class LoweredLSTM(StatefulLSTM):
    """A stateful LSTM that is traced as one operator per layer, its weights held in ONNX order."""

    def compute(self, x: Tensor, h: Tensor, c: Tensor, lengths: Tensor | None) -> tuple[Tensor, State]:
        directions = 2 if self.bidirectional else 1
        batch_first = lengths is None and self.batch_first
        x = x.transpose(0, 1) if batch_first else x
        finals = []
        for layer in range(self.num_layers):
            rows = slice(layer * directions, (layer + 1) * directions)
            first = (h, c) if self.num_layers == 1 else (h[rows], c[rows])
            y, final = _layer(self, layer, x, first, lengths)
            # [seq, directions, batch, size] -> [seq, batch, directions * size]
            x = y.transpose(1, 2).flatten(2) if self.bidirectional else y.squeeze(1)
            finals.append(final)
        x = x.transpose(0, 1) if batch_first else x
        if self.num_layers == 1:
            return x, finals[0]
        return x, (torch.cat([final[0] for final in finals]), torch.cat([final[1] for final in finals]))


class LoweredCell(StatefulCell):
    """A stateful cell that is traced as one operator on a sequence of one step."""

    def compute(self, x: Tensor, h: Tensor, c: Tensor) -> State:
        return _layer(self, 0, x.unsqueeze(0), (h, c), None)[1]


def _layer(module: nn.Module, layer: int, x: Tensor, first: State, lengths: Tensor | None) -> tuple[Tensor, State]:
    """One layer: `y [seq, directions, batch, size]` and the final state.

    The operator knows no projection `h = P m`, `m = o * tanh(c)`. But the gates see h only through
    `R h = (R P) m`, so the operator runs on m with `R P` as its recurrent weights, and h is `P m` outside it.
    The first m is `pinv(P) h_in`, exact because P has full row rank: then `P pinv(P) = I`.
    """
    h, c = first
    projected = f"P_l{layer}" in module._buffers
    if projected:
        h = h @ module.get_buffer(f"P_inverse_l{layer}")
    direction = "bidirectional" if getattr(module, "bidirectional", False) else "forward"
    weights = (module.get_buffer(f"{letter}_l{layer}") for letter in "WRB")
    y, h, c = torch.ops.lstm_deploy.lstm(x, *weights, lengths, h, c, direction)
    if projected:
        projection = module.get_buffer(f"P_l{layer}")
        y, h = y @ projection, h @ projection
    return y, (h, c)


def lower(lifted: Lifted) -> None:
    """Replace each LSTM layer of `lifted` by one operator; afterwards it can only be traced."""
    for path in lifted.calls:
        module = lifted.module.get_submodule(path)
        weights = to_onnx_order(module, path)
        for name, value in weights.items():
            module.register_buffer(name, value)
        module.__class__ = LoweredLSTM if isinstance(module, nn.LSTM) else LoweredCell
