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

from lstm_deploy.calling import State
from lstm_deploy.errors import LiftingError
from lstm_deploy.graph_weights import Layer
from lstm_deploy.stateful import Lifted, StatefulCell, StatefulLSTM

# It is only ever traced, never run: it has a shape and a translation, and no kernel.
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
    if lengths is not None:
        lengths = opset18.Cast(lengths, to=INT32)
    return opset18.LSTM(x, w, r, b, lengths, h, c, hidden_size=r.shape[2], direction=direction)


INT32 = 6
"""`onnx.TensorProto.INT32`: ONNX takes lengths in no other type."""
TRANSLATIONS: dict[Callable[..., Any], Callable[..., Any]] = {torch.ops.lstm_deploy.lstm.default: _onnx_lstm}
"""`custom_translation_table` for `torch.onnx.export`."""


class LoweredLSTM(StatefulLSTM):
    """A stateful LSTM that is traced as one operator per layer, its weights held in ONNX order."""

    def compute(self, x: Tensor, h: Tensor, c: Tensor, lengths: Tensor | None) -> tuple[Tensor, State]:
        directions = 2 if self.bidirectional else 1
        swapped = lengths is None and self.batch_first
        if swapped:
            x = x.transpose(0, 1)
        finals = []
        for layer in range(self.num_layers):
            rows = slice(layer * directions, (layer + 1) * directions)
            first = (h, c) if self.num_layers == 1 else (h[rows], c[rows])
            y, final = _layer(self, layer, x, first, lengths)
            # [seq, directions, batch, size] -> [seq, batch, directions * size]
            x = y.transpose(1, 2).flatten(2) if self.bidirectional else y.squeeze(1)
            finals.append(final)
        if swapped:
            x = x.transpose(0, 1)
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
    """Make `torch.export` of `lifted` see one operator per LSTM layer; afterwards it can only be traced."""
    for path in lifted.calls:
        module = lifted.module.get_submodule(path)
        packed = _pack(module, path)
        for name in list(module._parameters):
            delattr(module, name)
        for name, value in packed.items():
            module.register_buffer(name, value)
        module.__class__ = LoweredLSTM if isinstance(module, nn.LSTM) else LoweredCell


def _pack(module: nn.Module, path: str) -> dict[str, Tensor]:
    """The weights of an LSTM or a cell as buffers `W_l0`, `R_l0`, `B_l0`, … in ONNX order, stacked by direction."""
    lstm = module if isinstance(module, nn.LSTM) else None
    suffixes = ("", "_reverse") if lstm and lstm.bidirectional else ("",)
    packed: dict[str, Tensor] = {}
    for layer in range(lstm.num_layers if lstm else 1):

        def weights(name: str, layer: int = layer) -> list[Tensor]:
            names = [f"{name}_l{layer}{suffix}" for suffix in suffixes] if lstm else [name]
            return [cast(Tensor, getattr(module, each)).detach() for each in names]

        recurrent = weights("weight_hh")
        if lstm and lstm.proj_size:
            projections = [projection.double() for projection in weights("weight_hr")]
            if any(torch.linalg.matrix_rank(projection) < lstm.proj_size for projection in projections):
                raise LiftingError(
                    f"The projection of layer {layer} of {path or 'the LSTM'} has linearly dependent rows, so ONNX "
                    "cannot express it exactly; export it with --format torchscript only."
                )
            recurrent = [(r.double() @ p).float() for r, p in zip(recurrent, projections, strict=True)]
            packed[f"P_l{layer}"] = torch.stack([p.T for p in projections]).float()
            packed[f"P_inverse_l{layer}"] = torch.stack([torch.linalg.pinv(p).T for p in projections]).float()
        packed[f"W_l{layer}"] = _reordered(weights("weight_ih"))
        packed[f"R_l{layer}"] = _reordered(recurrent)
        if module.bias:
            biases = [_reordered(weights(name)) for name in ("bias_ih", "bias_hh")]
            packed[f"B_l{layer}"] = torch.cat(biases, 1)
        else:
            packed[f"B_l{layer}"] = torch.zeros(len(suffixes), 8 * cast(int, module.hidden_size))
    return packed


def _reordered(directions: list[Tensor]) -> Tensor:
    """The weight or bias of each direction, stacked, with gates as ONNX has them (i, o, f, c), not i, f, g, o."""
    stacked = directions[0][None] if len(directions) == 1 else torch.stack(directions)
    i, f, g, o = stacked.chunk(4, 1)
    return torch.cat([i, o, f, g], 1)


def layers(lifted: Lifted) -> list[Layer]:
    """The weights of every LSTM layer as they should stand in a graph."""
    found = []
    for path in lifted.calls:
        packed = {name: value.numpy() for name, value in _pack(lifted.module.get_submodule(path), path).items()}
        count = sum(name.startswith("W_") for name in packed)
        for layer in range(count):
            label = ", ".join(filter(None, (path, f"layer {layer}" if count > 1 else ""))) or "the LSTM"
            found.append(Layer(label, *(packed[f"{letter}_l{layer}"] for letter in "WRB")))
    return found
