"""How a user's module is run: on copies that share its weights, on the CPU, in float64, with seeded random numbers."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from lstm_deploy.artifacts import fitting_threads
from lstm_deploy.errors import LiftingError, one_line
from lstm_deploy.lifting.derived_weights import remove_parametrizations

Module = TypeVar("Module", bound=nn.Module)


def shared_copy(module: Module) -> Module:
    """Copy code, attributes and buffers; the parameters are new objects in the same memory and need no gradient.

    A forward may change a buffer, as batch normalization does, but not a parameter.
    """
    memo: dict[int, Any] = {id(p): nn.Parameter(p.detach(), requires_grad=False) for p in module.parameters()}
    computed = [tensor for child in module.modules() for tensor in _tensors(vars(child)) if tensor.grad_fn is not None]
    memo |= {id(tensor): tensor.detach() for tensor in computed}  # deepcopy refuses them
    return deepcopy(module, memo)


def _tensors(value: Any) -> Iterator[Tensor]:
    """The tensors among attributes, and in their lists, tuples and mappings."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, list | tuple | Mapping):
        for child in value.values() if isinstance(value, Mapping) else value:
            yield from _tensors(child)


def frozen_copy(module: Module) -> Module:
    """Copy in evaluation mode, in float32 on the CPU; weights that already are both share their memory.

    Weights that a parametrization computes become plain parameters.
    Raises `LiftingError` for a module that cannot be copied.
    """
    try:
        copy = shared_copy(module).cpu().float().eval()
        remove_parametrizations(copy)
        return copy
    except Exception as error:  # tensors that are part of an autograd graph, modules that forbid copying
        raise LiftingError(f"The module cannot be copied ({one_line(error)}); use plain parameters.") from error


class StayOnCPU(TorchFunctionMode):
    """Replaces every device that the user's code names by the CPU."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if kwargs.get("device") is not None:
            kwargs["device"] = "cpu"
        if func is Tensor.cuda:
            return args[0]
        if func is Tensor.to:
            args = tuple("cpu" if isinstance(arg, str | torch.device) else arg for arg in args)
        return func(*args, **kwargs)


class InFloat64(TorchFunctionMode):
    """Replaces float32 by float64 wherever the user's code names it."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if kwargs.get("dtype") is torch.float32:
            kwargs["dtype"] = torch.float64
        if func is Tensor.float:
            func = Tensor.double
        if func is Tensor.to or func is Tensor.type:
            args = tuple(torch.float64 if arg is torch.float32 else arg for arg in args)
        return func(*args, **kwargs)


@contextmanager
def in_float64() -> Iterator[None]:
    """Run code written for float32 in float64; its weights must be float64 already."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with InFloat64():
            yield
    finally:
        torch.set_default_dtype(before)


@contextmanager
def threads_for(module: nn.Module) -> Iterator[None]:
    """Run PyTorch within the block on as many threads as the module is worth."""
    before = torch.get_num_threads()
    computing = [child for child in module.modules() if not isinstance(child, nn.Embedding)]
    threads = fitting_threads(sum(weight.nbytes for child in computing for weight in child.parameters(recurse=False)))
    del module, computing  # so that large weights are not kept within the block
    try:
        torch.set_num_threads(threads or before)
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed PyTorch's random numbers within the block, and restore the generator's state afterwards."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield
