"""Copies of modules that share the memory of their weights."""

from copy import deepcopy
from typing import Any, TypeVar

from torch import nn

from lstm_deploy.errors import LiftingError, one_line

Module = TypeVar("Module", bound=nn.Module)


def shared_copy(module: Module) -> Module:
    """Copy code, attributes and buffers; the parameters are new objects in the same memory and need no gradient.

    A forward may change a buffer, as batch normalization does, but not a parameter.
    """
    memo: dict[int, Any] = {id(p): nn.Parameter(p.detach(), requires_grad=False) for p in module.parameters()}
    return deepcopy(module, memo)


def frozen_copy(module: Module) -> Module:
    """Copy in evaluation mode, in float32 on the CPU; weights that already are both share their memory.

    Raises `LiftingError` for a module that cannot be copied.
    """
    try:
        return shared_copy(module).cpu().float().eval()
    except Exception as error:  # tensors that are part of an autograd graph, modules that forbid copying
        raise LiftingError(
            f"The module cannot be copied ({one_line(error)}); make its weights plain parameters."
        ) from error
