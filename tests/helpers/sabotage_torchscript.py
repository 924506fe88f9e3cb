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
