"""Weights that a module computes anew in each forward, made once: of norms, parametrizations, pruning and weight drop.

In evaluation mode they are constants. An artifact should hold them as plain weights, as if they had been trained so.
"""

from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from lstm_deploy.errors import LiftingError

Weights = Mapping[str, Tensor]
"""Of one recurrent module, by PyTorch's names, as one call used them."""


def remove_parametrizations(module: nn.Module) -> None:
    """Replace all parametrizations (`torch.nn.utils.parametrize`) in `module` by what they compute now."""
    for child in [child for child in module.modules() if parametrize.is_parametrized(child)]:
        names = list(child.parametrizations)  # type: ignore[arg-type]
        with torch.no_grad():
            values = {name: getattr(child, name).detach().clone() for name in names}
        child.__class__ = type(child).__bases__[0]  # the class that it had before it was parametrized
        del child._modules["parametrizations"]
        for name, value in values.items():
            child.register_parameter(name, nn.Parameter(value, requires_grad=value.is_floating_point()))
        if isinstance(child, nn.RNNBase):
            child._init_flat_weights()


def weights_in_use(module: nn.Module) -> Weights:
    """The weights that a call of a recurrent module computes with."""
    if isinstance(module, nn.RNNBase):
        module._update_flat_weights()
        pairs = zip(module._flat_weights_names, module._flat_weights, strict=True)
        return {name: weight.detach() for name, weight in pairs if weight is not None}
    names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    return {name: weight.detach() for name in names if (weight := getattr(module, name)) is not None}


def check_constant(path: str, first: Weights, other: Weights) -> None:
    """Raise `LiftingError` if two calls of one recurrent module, on different inputs, computed with other weights."""
    for name, weight in first.items():
        if weight.data_ptr() != other[name].data_ptr() and not torch.equal(weight, other[name]):
            raise LiftingError(
                f"{name} of {path or 'the module'} is another tensor in each call, and an artifact has constant "
                "weights; compute them in __init__, or once before the export."
            )


def keep_weights(module: nn.Module, weights: Weights) -> None:
    """Give a recurrent module these weights as its own parameters, for good.

    Its own stay where they share memory with them. What computes the others may go on, without any effect.
    """
    derived = {
        name: weight
        for name, weight in weights.items()
        if (own := module._parameters.get(name)) is None or own.data_ptr() != weight.data_ptr()
    }
    for name, weight in derived.items():
        vars(module).pop(name, None)
        module._parameters.pop(name, None)
        module.register_parameter(name, nn.Parameter(weight.clone(), requires_grad=False))
    if derived:
        cast(KeepsWeights, module).kept_weights = frozenset(weights)
        if isinstance(module, nn.RNNBase):
            module._init_flat_weights()


class KeepsWeights(nn.Module):
    """A recurrent module that user code cannot give other weights once it has those of `keep_weights`."""

    kept_weights: frozenset[str] = frozenset()

    def __setattr__(self, name: str, value: object) -> None:
        if name not in self.kept_weights:
            super().__setattr__(name, value)  # type: ignore[arg-type]
