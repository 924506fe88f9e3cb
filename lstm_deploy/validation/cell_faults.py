"""Known faults in what a cell computes, as no changed weight does: functions of PyTorch with others in their place."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from lstm_deploy.contract import CellKind
from lstm_deploy.lifting import Lifted, cell_of


def cell_faults(lifted: Lifted) -> Iterator[str]:
    """Make all that PyTorch computes wrong in one way after another, and say which; it is right again at the end."""
    kinds = {cell_of(lifted.module.get_submodule(path)).kind for path in lifted.calls}
    for kind, fault, functions in FAULTS:
        if kind in kinds:
            with _Instead(functions):
                yield fault


class _Instead(TorchFunctionMode):
    """Within the block, other functions are called in the place of some, by name."""

    def __init__(self, functions: Mapping[str, Callable[..., Any]]) -> None:
        super().__init__()
        self.functions = functions

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        function = self.functions.get(getattr(func, "__name__", ""), func)
        return function(*args, **(kwargs or {}))


def _reset_first(*given: Any) -> Any:
    """`torch.gru` with `R (r ⊙ h)` where the new gate has `r ⊙ (R h)`."""
    x, h, weights, bias, layers, _, _, bidirectional, batch_first = given
    if not isinstance(bias, bool):  # packed sequences come with other parameters
        return torch.gru(*given)
    x = x.transpose(0, 1) if batch_first else x
    each = 4 if bias else 2
    directions = 2 if bidirectional else 1
    finals: list[Tensor] = []
    for _ in range(layers):
        outputs = []
        for direction in range(directions):
            own = weights[each * len(finals) : each * (len(finals) + 1)]
            state, steps = h[len(finals)], []
            for step in x.flip(0) if direction else x:
                state = _reset_first_step(step, state, *own)
                steps.append(state)
            finals.append(state)
            outputs.append(torch.stack(steps[::-1] if direction else steps))
        x = torch.cat(outputs, -1)
    return x.transpose(0, 1) if batch_first else x, torch.stack(finals)


def _reset_first_step(
    x: Tensor, h: Tensor, w: Tensor, r: Tensor, b: Tensor | None = None, d: Tensor | None = None
) -> Tensor:
    """One step of one layer, as `torch.gru_cell`."""
    b, d = (torch.zeros_like(w[:, 0]) if bias is None else bias for bias in (b, d))
    (reset_w, update_w, new_w), (reset_r, update_r, new_r) = w.chunk(3), r.chunk(3)
    (reset_b, update_b, new_b), (reset_d, update_d, new_d) = b.chunk(3), d.chunk(3)
    reset = torch.sigmoid(x @ reset_w.T + reset_b + h @ reset_r.T + reset_d)
    update = torch.sigmoid(x @ update_w.T + update_b + h @ update_r.T + update_d)
    new = torch.tanh(x @ new_w.T + new_b + (reset * h) @ new_r.T + new_d)
    return (1 - update) * new + update * h


FAULTS: tuple[tuple[CellKind, str, Mapping[str, Callable[..., Any]]], ...] = (
    (
        "GRU",
        "the reset gate of a GRU acts before the recurrent matrix, not after it (linear_before_reset in ONNX)",
        {"gru": _reset_first, "gru_cell": _reset_first_step},
    ),
    (
        "RNN_TANH",
        "an RNN has the nonlinearity relu, not tanh",
        {"rnn_tanh": torch.rnn_relu, "rnn_tanh_cell": torch.rnn_relu_cell},
    ),
    (
        "RNN_RELU",
        "an RNN has the nonlinearity tanh, not relu",
        {"rnn_relu": torch.rnn_tanh, "rnn_relu_cell": torch.rnn_tanh_cell},
    ),
)
"""For a kind of cell, a fault, and what is computed in the place of its functions."""
