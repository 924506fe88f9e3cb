"""The calling convention of a user's `forward`: which of its parameters are inputs and which are states."""

import inspect
import re
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import fields, is_dataclass
from typing import Any

from msgspec import Struct
from torch import Tensor, nn

from lstm_deploy.contract import LSTM, TensorSpec
from lstm_deploy.errors import LiftingError
from lstm_deploy.lifting.execution import StayOnCPU

State = tuple[Tensor, ...]
"""Of one recurrent module, as it takes and returns it: `h` and `c` of an LSTM."""
RECURRENT_MODULES = tuple(getattr(nn, name) for name in LSTM.pytorch_modules)
"""The classes of PyTorch whose state can be made explicit."""
Path = tuple[str | int, ...]

_STATE_NAME = re.compile(r"^(h|c|hx|cx|hc)$|^[hc]_?(0|t|in|prev)|hidden|state|cell|memory|prev|carry")


class CallingConvention(Struct, frozen=True, kw_only=True):
    """How inputs and states become arguments of the user's `forward`."""

    input_parameters: tuple[str, ...] | None
    """Parameters that take the inputs; none to pass the inputs by position."""
    batch_names: tuple[str, ...] = ()
    """Names of the inputs in the one mapping or object that `input_parameters` takes; none for tensors as they are."""
    state_parameters: tuple[str, ...] = ()
    """Required parameters that take a state: one for the pair `(h, c)`, or one for each."""
    state_is_mapping: bool = False
    """Whether a single state parameter takes a mapping with `h` and `c`, not a pair."""
    hardcodes_device: bool = False
    """Whether `forward` names a device that this machine does not have."""
    mutates_inputs: bool = False
    """Whether `forward` changes its inputs in place."""

    def call(self, module: nn.Module, inputs: Sequence[Tensor], state: State | None) -> Any:
        """Call `module` and return what it returns."""
        arguments = self.state_arguments(state)
        if self.mutates_inputs:
            inputs = [x.clone() for x in inputs]
        if self.batch_names and self.input_parameters:
            arguments[self.input_parameters[0]] = Batch(zip(self.batch_names, inputs, strict=True))
            inputs = ()
        elif self.input_parameters is not None:
            arguments |= zip(self.input_parameters, inputs, strict=True)
            inputs = ()
        with StayOnCPU() if self.hardcodes_device else nullcontext():
            return module(*inputs, **arguments)

    def state_arguments(self, state: State | None) -> dict[str, Any]:
        """Keyword arguments for `state_parameters`."""
        if state is not None and len(self.state_parameters) == 1:
            return {self.state_parameters[0]: StateByKey(h=state[0], c=state[1]) if self.state_is_mapping else state}
        return {} if state is None else dict(zip(self.state_parameters, state, strict=False))


class Batch(dict[str, Tensor]):
    """Inputs in one argument, by name: as `batch["mels"]` or `batch.mels`."""

    def __getattr__(self, name: str) -> Tensor:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(f"the batch has no input {name!r}; describe it with --input") from None


class StateByKey(dict[str, Tensor]):
    """`h` and `c`, also under longer names such as `hidden` and `cell`: only the first letter counts."""

    def __missing__(self, key: str) -> Tensor:
        if key[:1].lower() not in self or len(key) == 1:
            raise KeyError(key)
        return self[key[:1].lower()]


def convention_of(module: nn.Module, inputs: Sequence[TensorSpec]) -> CallingConvention:
    """Match the parameters of `forward` with the inputs, and find those that require a state.

    Raises `LiftingError` if it takes fewer arguments than there are inputs, or requires others besides.
    """
    parameters = [p for p in inspect.signature(module.forward).parameters.values() if p.kind is not p.VAR_KEYWORD]
    if any(p.kind is p.VAR_POSITIONAL for p in parameters):
        return CallingConvention(input_parameters=None)
    names = [p.name for p in parameters]
    given = [spec.name for spec in inputs]
    if len(given) > len(names) == 1 and given != names:
        return CallingConvention(input_parameters=tuple(names), batch_names=tuple(given))
    if len(given) > len(names):
        raise LiftingError(f"forward takes {len(names)} argument(s), {', '.join(names)}; give as many inputs.")
    passed = given if set(given) <= set(names) else names[: len(given)]
    missing = [p.name for p in parameters if p.name not in passed and p.default is p.empty]
    no_state = [name for name in missing if not _STATE_NAME.search(name.lower())]
    recurrent = [child for child in module.modules() if isinstance(child, RECURRENT_MODULES)]
    if no_state or len(missing) > 2 or (missing and len(recurrent) != 1):
        raise LiftingError(
            f"forward also needs {', '.join(no_state or missing)}; describe every input with an --input of its own, "
            f"{names[0]} included, as in {(no_state or missing)[0]}:int64[batch] or …:float32[batch,seq,40]."
        )
    return CallingConvention(input_parameters=tuple(passed), state_parameters=tuple(missing))


def flatten(value: Any, path: Path = ()) -> list[tuple[Path, Tensor]]:
    """The tensors in nested tuples, lists, mappings and dataclasses, each with the keys that lead to it."""
    if isinstance(value, Tensor):
        return [(path, value)]
    if isinstance(value, Mapping):
        return [leaf for key, child in value.items() for leaf in flatten(child, (*path, str(key)))]
    if is_dataclass(value) and not isinstance(value, type):
        return [leaf for field in fields(value) for leaf in flatten(getattr(value, field.name), (*path, field.name))]
    if isinstance(value, tuple | list):
        return [leaf for index, child in enumerate(value) for leaf in flatten(child, (*path, index))]
    return []
