"""How a user's `forward` is called, and what comes back from it."""

import inspect
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from copy import deepcopy
from typing import Any, TypeVar

import torch
from msgspec import Struct
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from lstm_deploy.contract import LSTM, TensorSpec
from lstm_deploy.errors import LiftingError, one_line

State = tuple[Tensor, ...]
"""Of one recurrent module, as it takes and returns it: `h` and `c` of an LSTM."""
RECURRENT_MODULES = tuple(getattr(nn, name) for name in LSTM.pytorch_modules)
"""The classes of PyTorch whose state can be made explicit."""
Path = tuple[str | int, ...]
Module = TypeVar("Module", bound=nn.Module)

_STATE = re.compile(r"^(h|c|hx|cx|hc)$|^[hc]_?(0|t|in|prev)|hidden|state|cell|memory|prev|carry")
"""How people name an argument that is a state."""


class Convention(Struct, frozen=True, kw_only=True):
    """How inputs and states become arguments of the user's `forward`."""

    names: tuple[str, ...] | None
    """Parameters that the inputs are passed as; none to pass them by position."""
    states: tuple[str, ...] = ()
    """Parameters that demand a state: one for the pair `(h, c)`, or one for each."""
    by_key: bool = False
    """Whether the one state that is demanded is a mapping with `h` and `c`."""
    names_device: bool = False
    """Whether it names a device which is not there."""
    writes_inputs: bool = False
    """Whether it changes its inputs in place."""

    def call(self, module: nn.Module, inputs: Sequence[Tensor], state: State | None) -> Any:
        """What `module` returns."""
        demanded = self.demanded(state)
        if self.writes_inputs:
            inputs = [x.clone() for x in inputs]
        with StayOnCPU() if self.names_device else nullcontext():
            if self.names is None:
                return module(*inputs, **demanded)
            return module(**dict(zip(self.names, inputs, strict=True)), **demanded)

    def demanded(self, state: State | None) -> dict[str, Any]:
        """The arguments that demand a state."""
        if state is not None and len(self.states) == 1:
            return {self.states[0]: StateByKey(h=state[0], c=state[1]) if self.by_key else state}
        return {} if state is None else dict(zip(self.states, state, strict=False))


class StateByKey(dict[str, Tensor]):
    """`h` and `c` for code that calls them by names of its own, as `hidden` and `cell`: the first letter counts."""

    def __missing__(self, key: str) -> Tensor:
        if key[:1].lower() not in self or len(key) == 1:
            raise KeyError(key)
        return self[key[:1].lower()]


class StayOnCPU(TorchFunctionMode):
    """Within the block, devices that the user's code names are the CPU."""

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
    """Within the block, what the user's code makes or casts to float32 is float64."""

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
    """Within the block, code that was written for float32 computes in float64, its weights being that already."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with InFloat64():
            yield
    finally:
        torch.set_default_dtype(before)


def convention_of(module: nn.Module, inputs: Sequence[TensorSpec]) -> Convention:
    """Which parameters of `forward` the inputs are, and which demand a state.

    Raises `LiftingError` if it takes fewer arguments, or others besides.
    """
    parameters = inspect.signature(module.forward).parameters.values()
    if any(parameter.kind is parameter.VAR_POSITIONAL for parameter in parameters):
        return Convention(names=None)
    names = [parameter.name for parameter in parameters if parameter.kind is not parameter.VAR_KEYWORD]
    given = [spec.name for spec in inputs]
    if len(given) > len(names):
        raise LiftingError(f"forward takes {len(names)} argument(s), {', '.join(names)}; give as many inputs.")
    passed = given if set(given) <= set(names) else names[: len(given)]
    missing = [
        p.name for p in parameters if p.name not in passed and p.default is p.empty and p.kind is not p.VAR_KEYWORD
    ]
    recurrent = [child for child in module.modules() if isinstance(child, RECURRENT_MODULES)]
    no_state = [name for name in missing if not _STATE.search(name.lower())]
    if no_state or len(missing) > 2 or (missing and len(recurrent) != 1):
        raise LiftingError(
            f"forward also needs {', '.join(no_state or missing)}; describe each of its inputs with an --input of its "
            f"own, {names[0]} included, as in {(no_state or missing)[0]}:int64[batch] or …:float32[batch,seq,40]."
        )
    return Convention(names=tuple(passed), states=tuple(missing))


def flatten(value: Any, path: Path = ()) -> list[tuple[Path, Tensor]]:
    """The tensors in nested tuples, lists and mappings, each with the keys that lead to it."""
    if isinstance(value, Tensor):
        return [(path, value)]
    if isinstance(value, Mapping):
        return [leaf for key, child in value.items() for leaf in flatten(child, (*path, str(key)))]
    if isinstance(value, tuple | list):
        return [leaf for index, child in enumerate(value) for leaf in flatten(child, (*path, index))]
    return []


def shared_copy(module: Module) -> Module:
    """A copy whose parameters are those of `module`; its code, its attributes and its buffers are its own.

    Forwards may change a buffer, as batch normalisation does, but not a parameter.
    """
    return deepcopy(module, {id(parameter): parameter for parameter in module.parameters()})


def frozen_copy(module: Module) -> Module:
    """A copy in evaluation mode and float32 on the CPU, whose weights are the memory of `module` where they are both.

    Raises `LiftingError` for a module that cannot be copied.
    """
    try:
        memo = {id(parameter): _frozen(parameter) for parameter in module.parameters()}
        return deepcopy(module, memo).cpu().float().eval().requires_grad_(False)
    except Exception as error:  # tensors that hang on a graph, modules that forbid it
        raise LiftingError(
            f"The module cannot be copied ({one_line(error)}); make plain parameters of its weights."
        ) from error


def _frozen(parameter: nn.Parameter) -> nn.Parameter:
    """The same numbers, and the same memory where nothing changes, but an object of its own: `.float()` acts on it."""
    value = parameter.detach().cpu()
    return nn.Parameter(value.float() if value.is_floating_point() else value, requires_grad=False)
