"""Lowering: every LSTM of a lifted module becomes one ONNX `LSTM` operator per layer.

`torch.onnx.export` by itself freezes time and packs the weights with nodes that hide them from the quantizer.
Here each layer is one call of a custom operator with weights already in ONNX order, and the exporter is told
that this operator is `LSTM`: https://onnx.ai/onnx/operators/onnx__LSTM.html
"""

from collections.abc import Callable
from typing import Any, cast

import torch
from onnxscript import opset18
from torch import Tensor, nn

from lstm_deploy.lifting import Lifted, StatefulLSTM

# It is only ever traced, never run: it has a shape and a translation, and no kernel.
torch.library.define(
    "lstm_deploy::lstm",
    "(Tensor x, Tensor w, Tensor r, Tensor b, Tensor h, Tensor c, str direction) -> (Tensor, Tensor, Tensor)",
)


@torch.library.register_fake("lstm_deploy::lstm")  # type: ignore[untyped-decorator]
def _shapes(
    x: Tensor, _w: Tensor, _r: Tensor, _b: Tensor, h: Tensor, c: Tensor, _direction: str
) -> tuple[Tensor, Tensor, Tensor]:
    """`x [seq, batch, in]`, `h, c [directions, batch, hidden]` → `y [seq, directions, batch, hidden]`, h, c."""
    return (
        x.new_empty(x.shape[0], h.shape[0], x.shape[1], h.shape[2]),
        torch.empty_like(h),
        torch.empty_like(c),
    )


def _onnx_lstm(x: Any, w: Any, r: Any, b: Any, h: Any, c: Any, direction: str) -> Any:
    return opset18.LSTM(x, w, r, b, None, h, c, hidden_size=r.shape[2], direction=direction)


TRANSLATIONS: dict[Callable[..., Any], Callable[..., Any]] = {torch.ops.lstm_deploy.lstm.default: _onnx_lstm}
"""`custom_translation_table` for `torch.onnx.export`."""


class LoweredLSTM(StatefulLSTM):
    """A stateful LSTM that is traced as one operator per layer, its weights held in ONNX order."""

    def compute(self, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        directions = 2 if self.bidirectional else 1
        if self.batch_first:
            x = x.transpose(0, 1)
        finals_h, finals_c = [], []
        for layer in range(self.num_layers):
            rows = slice(layer * directions, (layer + 1) * directions)
            one_layer = self.num_layers == 1
            y, final_h, final_c = torch.ops.lstm_deploy.lstm(
                x,
                *(self.get_buffer(f"{letter}_l{layer}") for letter in "WRB"),
                h if one_layer else h[rows],
                c if one_layer else c[rows],
                "bidirectional" if self.bidirectional else "forward",
            )
            # [seq, directions, batch, hidden] -> [seq, batch, directions * hidden]
            x = y.transpose(1, 2).flatten(2) if self.bidirectional else y.squeeze(1)
            finals_h.append(final_h)
            finals_c.append(final_c)
        if self.batch_first:
            x = x.transpose(0, 1)
        if self.num_layers == 1:
            return x, (finals_h[0], finals_c[0])
        return x, (torch.cat(finals_h), torch.cat(finals_c))


def lower(lifted: Lifted) -> None:
    """Make `torch.export` of `lifted` see one operator per LSTM layer; afterwards it can only be traced."""
    for lstm in lifted.lstms:
        _pack(lstm)
        lstm.__class__ = LoweredLSTM


def _pack(lstm: nn.LSTM) -> None:
    """Replace the parameters of `lstm` by buffers `W_l0`, `R_l0`, `B_l0`, … in ONNX order."""
    suffixes = ("", "_reverse") if lstm.bidirectional else ("",)
    packed: dict[str, Tensor] = {}
    for layer in range(lstm.num_layers):

        def gates(name: str, suffix: str, layer: int = layer) -> Tensor:
            """One weight or bias, its gates reordered from PyTorch's i, f, g, o to ONNX's i, o, f, c."""
            i, f, g, o = cast(Tensor, getattr(lstm, f"{name}_l{layer}{suffix}")).detach().chunk(4)
            return torch.cat([i, o, f, g])

        packed[f"W_l{layer}"] = torch.stack([gates("weight_ih", suffix) for suffix in suffixes])
        packed[f"R_l{layer}"] = torch.stack([gates("weight_hh", suffix) for suffix in suffixes])
        packed[f"B_l{layer}"] = torch.stack(
            [torch.cat([gates("bias_ih", suffix), gates("bias_hh", suffix)]) for suffix in suffixes]
        )
    for name in list(lstm._parameters):
        delattr(lstm, name)
    for name, value in packed.items():
        lstm.register_buffer(name, value)
