"""The calling convention of a user's `forward`: which of its parameters are inputs and which are states."""

import inspect
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from copy import deepcopy
from functools import reduce
from typing import Any, NamedTuple

from msgspec import Struct
from torch import Tensor, nn

from lstm_deploy.contract import TensorSpec
from lstm_deploy.errors import LiftingError
from lstm_deploy.lifting.execution import StayOnCPU
from lstm_deploy.lifting.state_structure import Leaf, Path, children_of, cloned, filled, leaves_of

KEPT_NUMBERS = bool | int | float | str | None
"""What a module may keep beside a state, and that is no state itself."""
KEPT = "(kept)"
"""First key of what a module keeps as an attribute, beside what it returns."""

_STATE_NAME = re.compile(
    r"^(h|c|hx|cx|hc)$|^[hc]_?(\d+|t|in|init|prev)(?![a-z])|hidden|state|cell|memory|^mems?$|prev|carry|cache|history|past|^last|ema$"
)


class StateArgument(Struct, frozen=True, kw_only=True):
    """Where the author's code takes a state: a parameter of `forward`, or an attribute that it keeps between calls."""

    parameter: str = ""
    attribute: str = ""
    """In place of a parameter: its path from the module, as in `encoder.hidden`."""
    structure: Any
    """The state, with a `Leaf` in the place of each tensor."""
    is_written: bool = False
    """Whether `forward` changes the parameter's value in place, so that it holds the new state after a call."""

    @property
    def root(self) -> str:
        """The place as the author would write it."""
        return self.parameter.removeprefix("*") or f"self.{self.attribute}"


class KeptNumber(Struct, frozen=True, kw_only=True):
    """A number, flag or text that the author's code keeps beside a state, and that is the same after every call.

    Or an object that holds a state, where there is none before the first call. Until it is so, as before the first
    call, the code makes its state anew.
    """

    attribute: str
    """Its path from the module."""
    value: Any
    """What it is after a call; the number of rows if `is_rows`."""
    is_rows: bool = False

    @property
    def is_object(self) -> bool:
        """Whether it holds a state."""
        return not isinstance(self.value, KEPT_NUMBERS)


def state_leaves(arguments: Sequence[StateArgument]) -> list[tuple[StateArgument, Path, Leaf]]:
    """The tensors of the state in their order, each with its argument and the keys that lead to it there."""
    return [(argument, path, leaf) for argument in arguments for path, leaf in leaves_of(argument.structure)]


def numbered(arguments: Sequence[StateArgument]) -> list[tuple[StateArgument, range]]:
    """Each argument with the numbers of its tensors among `state_leaves(arguments)`."""
    pairs: list[tuple[StateArgument, range]] = []
    for argument in arguments:
        first = pairs[-1][1].stop if pairs else 0
        pairs.append((argument, range(first, first + len(leaves_of(argument.structure)))))
    return pairs


class CallingConvention(Struct, frozen=True, kw_only=True):
    """How inputs and states become arguments of the user's `forward`."""

    input_parameters: tuple[str, ...] | None
    """Parameters that take the inputs; none to pass the inputs by position."""
    batch_names: tuple[str, ...] = ()
    """Names of the inputs in the one mapping or object that `input_parameters` takes; none for tensors as they are."""
    missing: tuple[str, ...] = ()
    """Required parameters that are no inputs: they take a state, or nothing can be called."""
    optional: tuple[str, ...] = ()
    """Other parameters that are no inputs, and may take a state."""
    state: tuple[StateArgument, ...] = ()
    """Where `forward` takes a state, once that is known."""
    numbers: tuple[KeptNumber, ...] = ()
    """What else is set on the module where it keeps its state in attributes."""
    hardcodes_device: bool = False
    """Whether `forward` names a device that this machine does not have."""
    mutates_inputs: bool = False
    """Whether `forward` changes its inputs in place."""

    def call(self, module: nn.Module, inputs: Sequence[Tensor], state: Sequence[Tensor] | None = None) -> Any:
        """Call `module` and return what it returns; with attributes that keep a state, `Kept` with their new values.

        `state` fills the leaves of the structures of `self.state`, in order; None leaves out the state.
        """
        arguments, attributes = self._placed(state)
        rest = next((arguments.pop(name) for name in tuple(arguments) if name.startswith("*")), ())
        changed = {
            argument.root: cloned(arguments[argument.parameter])
            for argument in self.state
            if argument.is_written and argument.parameter in arguments
        }
        arguments |= changed
        if self.mutates_inputs:
            inputs = [x.clone() for x in inputs]
        if self.batch_names and self.input_parameters:
            arguments[self.input_parameters[0]] = Batch(zip(self.batch_names, inputs, strict=True))
            inputs = ()
        elif self.input_parameters is not None:
            arguments |= zip(self.input_parameters, inputs, strict=True)
            inputs = ()
        with StayOnCPU() if self.hardcodes_device else nullcontext():
            if not attributes and not changed:
                return module(*inputs, *rest, **arguments)
            with attributes_set(module, self._numbers(module, attributes, state) | attributes) as kept:
                returned = module(*inputs, *rest, **arguments)
                return Kept(returned, changed | {f"self.{path}": kept(path) for path in attributes})

    def arguments(self, state: Sequence[Tensor]) -> dict[str, Any]:
        """Keyword arguments for the parameters of `forward` that take a state."""
        return self._placed(state)[0]

    def _placed(self, state: Sequence[Tensor] | None) -> tuple[dict[str, Any], dict[str, Any]]:
        """The values of parameters and of attributes."""
        if state is None:
            return {}, {}
        leaves = iter(state)
        values = [(argument, filled(argument.structure, leaves)) for argument in self.state]
        return (
            {argument.parameter: value for argument, value in values if argument.parameter},
            {argument.attribute: value for argument, value in values if argument.attribute},
        )

    def _numbers(
        self, module: nn.Module, attributes: Mapping[str, Any], state: Sequence[Tensor] | None
    ) -> dict[str, Any]:
        """The values of `self.numbers`, where a state is put into attributes, but for objects that are there."""
        if not attributes or state is None:
            return {}
        pairs = zip(state_leaves(self.state), state, strict=True)
        rows = next((x.shape[leaf.dims.index("batch")] for (*_, leaf), x in pairs if "batch" in leaf.dims), None)
        return {
            number.attribute: rows if number.is_rows else deepcopy(number.value)
            for number in self.numbers
            if not number.is_object or value_at(module, number.attribute) is None
        }


class Batch(dict[str, Tensor]):
    """Inputs in one argument, by name: as `batch["mels"]` or `batch.mels`."""

    def __getattr__(self, name: str) -> Tensor:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(f"the batch has no input {name!r}; describe it with --input") from None


class Kept(NamedTuple):
    """What a module returned, and what it keeps for its next call."""

    returned: Any
    kept: dict[str, Any]
    """By the place as the author would write it: an attribute, or a parameter that is changed in place."""


@contextmanager
def attributes_set(module: nn.Module, values: Mapping[str, Any]) -> Iterator[Callable[[str], Any]]:
    """Within the block, attributes of `module` (by path) have these values; yields a function that reads one.

    An object comes before what it holds.
    """

    def place(path: str) -> tuple[Any, str]:
        *owners, name = path.split(".")
        return reduce(getattr, owners, module), name

    before = []
    try:
        for path, value in values.items():
            owner, name = place(path)
            before.append((owner, name, getattr(owner, name, None)))
            setattr(owner, name, cloned(value))  # as the module may write into it
        yield lambda path: getattr(*place(path))  # the module may have another object there by then
    finally:
        for owner, name, value in reversed(before):
            setattr(owner, name, value)


def value_at(module: nn.Module, path: str) -> Any:
    """What lies at the path of an attribute; None if nothing does."""
    value: Any = module
    for name in path.split("."):
        value = getattr(value, name, None)
    return value


def convention_of(module: nn.Module, inputs: Sequence[TensorSpec]) -> CallingConvention:
    """Match the parameters of `forward` with the inputs; those left over may take a state.

    Raises `LiftingError` if it takes fewer arguments than there are inputs.
    """
    every = list(inspect.signature(module.forward).parameters.values())
    parameters = [p for p in every if p.kind is not p.VAR_KEYWORD]
    if starred := [f"*{p.name}" for p in parameters if p.kind is p.VAR_POSITIONAL]:
        return CallingConvention(input_parameters=None, optional=tuple(starred))
    names = [p.name for p in parameters]
    given = [spec.name for spec in inputs]
    takes_batch = len(given) > 1 and not set(given) & set(names) and all(map(named_like_state, names[1:]))
    free = (name for name in names if name not in given)
    passed = names[:1] if takes_batch else [name if name in names else next(free, "") for name in given]
    if len(given) > len(names) and not takes_batch:
        raise LiftingError(f"forward takes {len(names)} argument(s), {', '.join(names)}; give as many inputs.")
    rest = [p for p in parameters if p.name not in passed]
    return CallingConvention(
        input_parameters=tuple(passed),
        batch_names=tuple(given) if takes_batch else (),
        missing=tuple(p.name for p in rest if p.default is p.empty),
        optional=(
            *(p.name for p in rest if _is_nothing(p.default)),
            *(_states_read_by_name(module, names) if len(parameters) < len(every) else ()),
        ),
    )


def _states_read_by_name(module: nn.Module, names: Sequence[str]) -> list[str]:
    """Names of states that a forward with `**kwargs` may read from these, as in `kwargs.get("state")`."""
    code = getattr(inspect.unwrap(type(module).forward), "__code__", None)
    constants = [text for text in getattr(code, "co_consts", ()) if isinstance(text, str) and text.isidentifier()]
    return [text for text in constants if text not in names and named_like_state(text)]


def _is_nothing(default: Any) -> bool:
    """Whether the default of a parameter stands for no state: `None`, or an empty tuple, list, mapping or tensor."""
    if isinstance(default, Tensor):
        return default.numel() == 0
    return default is None or (isinstance(default, tuple | list | Mapping) and not default)


def named_like_state(parameter: str) -> bool:
    """Whether a parameter is called as states usually are."""
    return bool(_STATE_NAME.search(parameter.lower()))


def flatten(value: Any, path: Path = ()) -> list[tuple[Path, Tensor]]:
    """The tensors in nested tuples, lists, mappings and dataclasses, each with the keys that lead to it.

    Those that a module keeps have `KEPT` as their first key, and the place as the second.
    """
    if isinstance(value, Tensor):
        return [(path, value)]
    if isinstance(value, Kept):
        kept = [leaf for name, child in value.kept.items() for leaf in flatten(child, (KEPT, name))]
        return [*flatten(value.returned, path), *kept]
    return [leaf for key, child in children_of(value) for leaf in flatten(child, (*path, key))]
