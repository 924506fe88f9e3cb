"""TorchScript that is wrong, by what is wrong with it, and what the diagnosis must say."""

from typing import Any, Tuple  # noqa: UP035 - as PyTorch demands it of hooks

import torch
from torch import Tensor, nn


class Wrong(nn.Module):
    """A lifted module of `two layers` with something done around it, to be traced."""

    def __init__(self, lifted: Any) -> None:
        super().__init__()
        self.lifted = lifted


class Remembering(Wrong):
    """Keeps something inside, beside the state that it is given."""

    def __init__(self, lifted: Any) -> None:
        super().__init__(lifted)
        self.register_buffer("kept", torch.zeros(1))

    def forward(self, x, h, c):
        y, h, c = self.lifted(x, h, c)
        self.kept += 1.0
        return y + self.kept * 0.01, h, c


class Dropping(Wrong):
    def forward(self, x, h, c):
        y, h, c = self.lifted(x, h, c)
        return nn.functional.dropout(y, 0.1, training=True), h, c


class Swapping(Wrong):
    def forward(self, x, h, c):
        return self.lifted(x, c, h)


class StaleState(Wrong):
    def forward(self, x, h, c):
        y, new_h, _ = self.lifted(x, h, c)
        return y, new_h, c


class Frozen(Wrong):
    def forward(self, x, h, c):
        return self.lifted(x.reshape(2, 6, 8), h, c)


class OtherWeight(Wrong):
    def __init__(self, lifted: Any) -> None:
        super().__init__(lifted)
        with torch.no_grad():
            lifted.module.lstm.bias_hh_l1[9] += 0.01

    def forward(self, x, h, c):
        return self.lifted(x, h, c)


class RememberingGru(Remembering):
    def forward(self, x, h):
        y, h = self.lifted(x, h)
        self.kept += 1.0
        return y + self.kept * 0.01, h


class StaleGru(Wrong):
    def forward(self, x, h):
        return self.lifted(x, h)[0], h


class FrozenGru(Wrong):
    def forward(self, x, h):
        return self.lifted(x.reshape(2, 6, 8), h)


class Changed(Wrong):
    """Has a recurrent module that was changed."""

    def __init__(self, lifted: Any) -> None:
        super().__init__(lifted)
        with torch.no_grad():
            self.change(lifted.module.lstm)

    def change(self, recurrent: Any) -> None:
        raise NotImplementedError

    def forward(self, x, h):
        return self.lifted(x, h)


class OtherBias(Changed):
    def change(self, recurrent):
        recurrent.bias_hh_l1[9] += 0.01


class GatesExchanged(Changed):
    def change(self, recurrent):
        for value in recurrent.parameters():
            value.copy_(torch.cat([value.chunk(3)[gate] for gate in (1, 0, 2)]))


class BiasesExchanged(Changed):
    def change(self, recurrent):
        for layer in "01":
            ih, hh = (getattr(recurrent, f"bias_{which}_l{layer}") for which in ("ih", "hh"))
            kept = ih.clone()
            ih.copy_(hh)
            hh.copy_(kept)


class WithoutBias(Changed):
    def change(self, recurrent):
        recurrent.bias = False
        recurrent._flat_weights = [weight for weight in recurrent._flat_weights if weight.dim() == 2]
        recurrent._flat_weights_names = [name for name in recurrent._flat_weights_names if "weight" in name]
        recurrent._all_weights = [[name for name in names if "weight" in name] for names in recurrent._all_weights]


class OtherNonlinearity(Changed):
    def change(self, recurrent):
        recurrent.mode = "RNN_RELU" if recurrent.mode == "RNN_TANH" else "RNN_TANH"


class ResetFirst(Wrong):
    """A GRU of another library, step by step."""

    def forward(self, x, h):
        recurrent, scripted = self.lifted.module.lstm, torch.jit.script(_reset_first)
        finals = []
        for layer in range(2):
            names = (f"{name}_l{layer}" for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"))
            x, final = scripted(x, h[layer], *(getattr(recurrent, name) for name in names))
            finals.append(final)
        return self.lifted.module.fc(x), torch.stack(finals)


def _reset_first(x: Tensor, h: Tensor, w: Tensor, r: Tensor, b: Tensor, d: Tensor) -> Tuple[Tensor, Tensor]:  # noqa: UP006
    size = h.shape[1]
    steps = []
    for step in x.unbind(1):
        inputs = step @ w.T + b + d
        gates = torch.sigmoid(inputs[:, : 2 * size] + h @ r[: 2 * size].T)
        reset, update = gates[:, :size], gates[:, size:]
        new = torch.tanh(inputs[:, 2 * size :] + (reset * h) @ r[2 * size :].T)
        h = (1 - update) * new + update * h
        steps.append(h)
    return torch.stack(steps, 1), h


WRONG_CELLS: dict[str, tuple[str, type[Wrong], str]] = {
    "TorchScript: memory inside a GRU": ("GRU", RememberingGru, "remembers earlier calls"),
    "TorchScript: the old state of a GRU handed out": ("GRU", StaleGru, "h_out is the state that came in"),
    "TorchScript: sizes of a GRU frozen": ("GRU", FrozenGru, "frozen"),
    "TorchScript: one bias of a GRU off by 0.01": (
        "GRU", OtherBias, r"bias_hh_l1: 1 of 24 entries differ, the most by \+0.01"),
    "TorchScript: gates of a GRU exchanged": ("GRU", GatesExchanged, "weight_hh_l0: .* entries differ"),
    "TorchScript: biases of a GRU exchanged": ("GRU", BiasesExchanged, "bias_hh_l0: .* entries differ"),
    "TorchScript: a GRU without its biases": ("GRU", WithoutBias, "bias of lstm is left out"),
    "TorchScript: the reset before the matrix": (
        "GRU", ResetFirst, "the reset gate of a GRU acts before the recurrent matrix"),
    "TorchScript: relu in the place of tanh": ("RNN", OtherNonlinearity, "the nonlinearity relu, not tanh"),
    "TorchScript: tanh in the place of relu": ("RNN with ReLU", OtherNonlinearity, "the nonlinearity tanh, not relu"),
}  # fmt: skip
"""The same for other cells: a right model, what is done to it, and what the diagnosis must say."""
WRONG_TORCHSCRIPT: dict[str, tuple[type[Wrong], str]] = {
    "TorchScript: memory inside": (Remembering, "remembers earlier calls"),
    "TorchScript: dropout left on": (Dropping, "draws random numbers"),
    "TorchScript: h and c swapped": (Swapping, "h_in and c_in are swapped on the way in"),
    "TorchScript: the old c handed out": (StaleState, "c_out is the state that came in"),
    "TorchScript: sizes frozen": (Frozen, "frozen"),
    "TorchScript: one bias off by 0.01": (OtherWeight, r"bias_hh_l1: 1 of 32 entries differ, the most by \+0.01"),
}


def doubled(self, input: Tuple[Tensor, Tensor, Tensor]) -> Tuple[Tensor, Tensor, Tensor]:  # noqa: A002, UP006
    x, h, c = input
    return x * 2.0, h, c


class Wrapped(nn.Module):
    """Calls a scripted module."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor, h: Tensor, c: Tensor):
        return self.model(x, h, c)


def hooked(model: Any) -> nn.Module:
    """A module whose inputs a hook changes, which is saved with it and is in no graph of it."""
    module = Wrapped(model)
    module.register_forward_pre_hook(doubled)
    return module
