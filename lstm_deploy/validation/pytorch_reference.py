"""The PyTorch model as the reference: first in float32, to see what rounding does, then in float64."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from lstm_deploy.contract import Feeds, Outputs
from lstm_deploy.lifting import Lifted, in_float64
from lstm_deploy.runtimes import EagerRuntime
from lstm_deploy.validation.tolerances import ACTIVATION_ERROR, SHAKE


class PyTorchReference(EagerRuntime):
    """A lifted module as the reference of all its artifacts."""

    lifted: Lifted | None

    def __init__(self, lifted: Lifted) -> None:
        """Take over `lifted`: the first `run` converts it to float64."""
        super().__init__(lifted)
        self.lifted = lifted
        self._author = lifted.author

    def run_float32(self, feeds: Feeds) -> Outputs:
        """Raises `RuntimeError` after the first `run`: large weights are not kept twice."""
        if self.dtype is torch.float64:
            raise RuntimeError("The reference is in float64 already.")
        with CoarseActivations():
            return super().run(feeds)

    def run(self, feeds: Feeds) -> Outputs:
        if self.dtype is not torch.float64:
            self.module.double()
            self.dtype: torch.dtype = torch.float64
            if self.lifted is not None and self.lifted.author is not None:
                self._author = self.lifted.author.sharing(self.lifted)
        with in_float64():
            return super().run(feeds)

    @contextmanager
    def shaken(self) -> Iterator[None]:
        """Within the block, `run` computes with weights of the LSTMs that are off by `SHAKE`, each by its own part."""
        assert self.lifted is not None
        modules = (self.lifted.module.get_submodule(path) for path in self.lifted.calls)
        weights = {id(weight): weight for module in modules for weight in module.parameters()}
        kept = [(weight, weight.detach().clone()) for weight in weights.values()]
        generator = torch.Generator().manual_seed(0)
        try:
            with torch.no_grad():
                for weight, _ in kept:
                    weight.mul_(1 + SHAKE * (2 * torch.rand(weight.shape, generator=generator, dtype=weight.dtype) - 1))
            yield
        finally:
            with torch.no_grad():
                for weight, value in kept:
                    weight.copy_(value)

    def call(self, tensors: list[torch.Tensor]) -> tuple[torch.Tensor, ...]:
        """Where the author's own `forward` takes and returns the state, that is called, untouched by lifting."""
        if self._author is None:
            return super().call(tensors)
        with torch.inference_mode():
            return self._author(*tensors)


class CoarseActivations(TorchFunctionMode):
    """Within the block, activations of the user's code are as far off as the faster ones of runtimes.

    An activation of 1e-4 that is off by 1e-7 is right for a runtime, and a thousand times further off than PyTorch's.
    """

    FUNCTIONS = ("sigmoid", "softmax", "tanh", "log_softmax", "gelu", "silu", "hardsigmoid", "elu", "softplus")

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if getattr(func, "__name__", "") in self.FUNCTIONS and isinstance(result, torch.Tensor):
            alternating = torch.arange(result.numel()).reshape(result.shape) % 2 * 2 - 1
            result = result + alternating.to(result) * ACTIVATION_ERROR
        return result
