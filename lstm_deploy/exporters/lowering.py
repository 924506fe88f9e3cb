"""Lowering: every recurrent module of a lifted module becomes one ONNX operator per layer.

`torch.onnx.export` by itself freezes time and packs the weights with nodes that hide them from the quantizer.
Here each layer is one call of a custom operator with weights already in ONNX order, which the exporter translates
to `LSTM`, `GRU` or `RNN`: https://onnx.ai/onnx/operators/onnx__LSTM.html
"""

from collections.abc import Callable, Sequence
from typing import Any

import onnx
import torch
from onnxscript import opset18
from torch import Tensor, nn

from lstm_deploy.contract import CELLS, Cell
from lstm_deploy.lifting import Lifted, State, StatefulCell, StatefulSequence, cell_of, specialize, to_onnx_order


def _define(cell: Cell) -> tuple[Any, Callable[..., Any]]:
    """A custom operator for a layer of a kind of cell, and its translation.

    It is only traced, never run, so it has a shape and a translation, and no kernel.
    """
    name = f"lstm_deploy::{cell.kind.lower()}"
    states = "".join(f", Tensor {state.name}" for state in cell.states)
    tensors = ", ".join(["Tensor"] * (1 + len(cell.states)))
    torch.library.define(
        name, f"(Tensor x, Tensor w, Tensor r, Tensor b, Tensor? lengths{states}, str direction) -> ({tensors})"
    )
    torch.library.register_fake(name, _shapes)
    return getattr(torch.ops.lstm_deploy, cell.kind.lower()).default, _translation(cell)


def _shapes(x: Tensor, _w: Tensor, _r: Tensor, _b: Tensor, _lengths: Tensor | None, *rest: Any) -> tuple[Tensor, ...]:
    """`x [seq, batch, in]`, states `[directions, batch, size]` → `y [seq, directions, batch, hidden]`, states."""
    *states, _direction = rest
    h = states[0]
    return x.new_empty(x.shape[0], h.shape[0], x.shape[1], h.shape[2]), *map(torch.empty_like, states)


def _translation(cell: Cell) -> Callable[..., Any]:
    """The ONNX operator of a layer."""
    operator = getattr(opset18, cell.onnx_operator)

    def translated(x: Any, w: Any, r: Any, b: Any, lengths: Any, states: Sequence[Any], direction: str) -> Any:
        if lengths is not None:  # ONNX takes them in no other type
            lengths = opset18.Cast(lengths, to=onnx.TensorProto.INT32)
        attributes: dict[str, Any] = dict(cell.onnx_attributes)
        if cell.nonlinearity is not None:  # the library would write two for a single direction
            attributes["activations"] = list(cell.onnx_activations) * (2 if direction == "bidirectional" else 1)
        return operator(x, w, r, b, lengths, *states, hidden_size=r.shape[2], direction=direction, **attributes)

    def of_one(x: Any, w: Any, r: Any, b: Any, lengths: Any, h: Any, direction: str) -> Any:
        return translated(x, w, r, b, lengths, (h,), direction)

    def of_two(x: Any, w: Any, r: Any, b: Any, lengths: Any, h: Any, c: Any, direction: str) -> Any:
        return translated(x, w, r, b, lengths, (h, c), direction)

    return (of_one, of_two)[len(cell.states) - 1]  # the exporter matches parameters by their names


TRANSLATIONS: dict[Callable[..., Any], Callable[..., Any]] = dict(map(_define, CELLS.values()))
"""`custom_translation_table` for `torch.onnx.export`."""


class LoweredSequence(StatefulSequence):
    """A stateful module that is traced as one operator per layer, its weights held in ONNX order."""

    def compute(self, x: Tensor, state: State, lengths: Tensor | None) -> tuple[Tensor, State]:
        directions = 2 if self.bidirectional else 1
        batch_first = lengths is None and self.batch_first
        x = x.transpose(0, 1) if batch_first else x
        finals = []
        for layer in range(self.num_layers):
            rows = slice(layer * directions, (layer + 1) * directions)
            first = state if self.num_layers == 1 else tuple(value[rows] for value in state)
            y, final = _layer(self, layer, x, first, lengths)
            # [seq, directions, batch, size] -> [seq, batch, directions * size]
            x = y.transpose(1, 2).flatten(2) if self.bidirectional else y.squeeze(1)
            finals.append(final)
        x = x.transpose(0, 1) if batch_first else x
        if self.num_layers == 1:
            return x, finals[0]
        return x, tuple(torch.cat(values) for values in zip(*finals, strict=True))


class LoweredCell(StatefulCell):
    """A stateful cell that is traced as one operator on a sequence of one step."""

    def compute(self, x: Tensor, state: State) -> State:
        return _layer(self, 0, x.unsqueeze(0), state, None)[1]


def _layer(module: nn.Module, layer: int, x: Tensor, first: State, lengths: Tensor | None) -> tuple[Tensor, State]:
    """One layer: `y [seq, directions, batch, size]` and the final state.

    The operator knows no projection `h = P m`, `m = o * tanh(c)`. But the gates see h only through
    `R h = (R P) m`, so the operator runs on m with `R P` as its recurrent weights, and h is `P m` outside it.
    The first m is `pinv(P) h_in`, exact because P has full row rank: then `P pinv(P) = I`.
    """
    projected = f"P_l{layer}" in module._buffers
    if projected:
        first = (first[0] @ module.get_buffer(f"P_inverse_l{layer}"), *first[1:])
    direction = "bidirectional" if getattr(module, "bidirectional", False) else "forward"
    weights = (module.get_buffer(f"{letter}_l{layer}") for letter in "WRB")
    operator = getattr(torch.ops.lstm_deploy, cell_of(module).kind.lower())
    y, *final = operator(x, *weights, lengths, *first, direction)
    if projected:
        projection = module.get_buffer(f"P_l{layer}")
        y, final[0] = y @ projection, final[0] @ projection
    return y, tuple(final)


def lower(lifted: Lifted) -> None:
    """Replace each recurrent layer of `lifted` by one operator; afterwards it can only be traced."""
    for path in lifted.calls:
        module = lifted.module.get_submodule(path)
        weights = to_onnx_order(module, path)
        for name, value in weights.items():
            module.register_buffer(name, value)
        specialize(module, LoweredSequence, LoweredCell)
