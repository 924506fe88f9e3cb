"""The structure in which an author holds a state: tensors in nested tuples, lists, mappings and dataclasses."""

import dataclasses
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from msgspec import Struct
from torch import Tensor

from lstm_deploy.contract import Dim

Path = tuple[str | int, ...]
"""Keys that lead to a tensor in nested values."""

_H = re.compile(r"h|hx|h_?[0nt]|h_?in|h_?prev|h_state|hiddens?|hidden_state|hidden_h")
_C = re.compile(r"c|cx|c_?[0nt]|c_?in|c_?prev|c_state|cells?|cell_state|hidden_c")


class Leaf(Struct, frozen=True):
    """Stands for a tensor of the state in a structure; `dims` is its shape, with `batch` where its rows lie."""

    dims: tuple[Dim, ...]

    def sized(self, batch: int) -> tuple[int, ...]:
        """The shape for this many rows."""
        return tuple(batch if isinstance(dim, str) else dim for dim in self.dims)


class StatePair(tuple[Any, ...]):
    """`h` and `c` as a tuple that is read like a mapping or a named tuple, too: `state["h"]`, `state.cell`."""

    __slots__ = ()  # so that code that sets an attribute fails, whose new state would not be seen

    def __getitem__(self, key: Any) -> Any:
        if not isinstance(key, str):
            return super().__getitem__(key)
        position = self.position(key)
        if position is None:
            raise KeyError(key)
        return super().__getitem__(position)

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None

    def __contains__(self, key: object) -> bool:
        return isinstance(key, str) and self.position(key) is not None

    @staticmethod
    def position(key: str) -> int | None:
        """Which of the two goes by this name; none if neither does."""
        return next((place for place, names in enumerate((_H, _C)) if names.fullmatch(key.lower())), None)


class StateList(list[Any]):
    """States as a list that is read like a mapping or an object, too: `states.actor`, `state["lstm_h"]`.

    Names count in the order in which they are first used, in a structure and in all that are filled from it.
    """

    __slots__ = ("_names",)

    def __init__(self, states: Iterable[Any], names: list[str] | None = None) -> None:
        super().__init__(states)
        self._names: list[str] = [] if names is None else names

    def __getitem__(self, key: Any) -> Any:
        if not isinstance(key, str):
            return super().__getitem__(key)
        if key not in self._names:
            if len(self._names) == len(self):
                raise KeyError(key)
            self._names.append(key)
        return super().__getitem__(self._names.index(key))

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or hasattr(Tensor, name):
            raise AttributeError(name)
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None

    def position(self, name: str) -> int | None:
        """Which of the states is read by this name; none if none is."""
        return self._names.index(name) if name in self._names else None

    def rebuilt(self, states: Iterable[Any]) -> "StateList":
        """With other states under the same names."""
        return StateList(states, self._names)

    def as_mapping(self) -> Any:
        """The mapping that the author's code has in its place, as far as the names were used; else itself."""
        return dict(zip(self._names, self, strict=True)) if len(self._names) == len(self) else self


def leaves_of(structure: Any, path: Path = ()) -> list[tuple[Path, Leaf]]:
    """The leaves of a structure, each with the keys that lead to it."""
    if isinstance(structure, Leaf):
        return [(path, structure)]
    return [leaf for key, child in children_of(structure) for leaf in leaves_of(child, (*path, key))]


def mapped(structure: Any, change: Callable[[Leaf], Any]) -> Any:
    """The structure with `change` of each leaf in its place."""
    if isinstance(structure, Leaf):
        return change(structure)
    children = children_of(structure)
    return _rebuilt(structure, [mapped(child, change) for _, child in children]) if children else structure


def filled(structure: Any, tensors: Iterator[Tensor]) -> Any:
    """The structure with the next of `tensors` in the place of each leaf."""
    return mapped(structure, lambda _: next(tensors))


def cloned(value: Any) -> Any:
    """A copy of a nested value with copies of its tensors."""
    if isinstance(value, Tensor):
        return value.clone()
    children = children_of(value)
    if children or isinstance(value, dict | list):
        return _rebuilt(value, [cloned(child) for _, child in children])
    return value


def structure_of(value: Any, wider: Any, batch: int) -> Any:
    """The structure of a state that the author's code made for `batch` rows and, as `wider`, for more.

    Raises `ValueError` where the two differ in more than that, and where there is no tensor of floats in them.
    """
    if isinstance(value, Tensor):
        if not isinstance(wider, Tensor) or value.dim() != wider.dim() or not value.is_floating_point():
            raise ValueError("not a tensor of the state")
        varied = [axis for axis, pair in enumerate(zip(value.shape, wider.shape, strict=True)) if pair[0] != pair[1]]
        if len(varied) > 1 or any(value.shape[axis] != batch for axis in varied):
            raise ValueError("more than the number of rows varies")
        return Leaf(tuple("batch" if axis in varied else size for axis, size in enumerate(value.shape)))
    children, others = children_of(value), children_of(wider)
    if not children and not isinstance(value, bool | int | float | str | tuple | list | Mapping | None):
        raise ValueError("an object of a class of its own")
    if [key for key, _ in children] != [key for key, _ in others] or (not children and value != wider):
        raise ValueError("the structure varies")
    inner = [structure_of(child, other, batch) for (_, child), (_, other) in zip(children, others, strict=True)]
    return _rebuilt(value, inner) if inner else value


def matched(structure: Any, value: Any, path: Path = (), *, by_name: bool = False) -> list[Path] | None:
    """The paths of the tensors in a value that stand where the leaves of a structure do, in the order of those.

    None if the value is built otherwise. Tuples and lists are alike, and mappings in any order of their keys; with
    `by_name` so are the fields of named tuples, where the structure was read by these names.
    """
    if isinstance(structure, Leaf):
        return [path] if isinstance(value, Tensor) else None
    ours, theirs = dict(children_of(structure)), dict(children_of(value))
    keys: dict[Any, Any] = {key: key for key in theirs}
    names: dict[str, str | int] = {key: key for key in theirs if isinstance(key, str)}
    if by_name and hasattr(value, "_fields"):
        names |= {name: place for place, name in enumerate(value._fields)}
    if isinstance(structure, StatePair | StateList) and names and (by_name or isinstance(structure, StatePair)):
        keys = {structure.position(name): key for name, key in names.items()}
    if not ours or len(ours) != len(theirs) or ours.keys() != keys.keys():
        return None
    found = [matched(child, theirs[keys[key]], (*path, keys[key]), by_name=by_name) for key, child in ours.items()]
    return None if None in found else [place for places in found for place in places or ()]


def written(root: str, path: Path) -> str:
    """How an author would write the place of a tensor, as in `state[0]` or `state["h"]`."""
    return root + "".join(f"[{key}]" if isinstance(key, int) else f'["{key}"]' for key in path)


def children_of(value: Any) -> list[tuple[str | int, Any]]:
    """The parts of a nested value, each with its key; none for a tensor."""
    if isinstance(value, Mapping):
        return [(str(key), child) for key, child in value.items()]
    if isinstance(value, tuple | list):
        return list(enumerate(value))
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return [(field.name, getattr(value, field.name)) for field in dataclasses.fields(value)]
    return []


def _rebuilt(value: Any, children: list[Any]) -> Any:
    if isinstance(value, Mapping):
        return dict(zip(value, children, strict=True))
    if isinstance(value, StateList):
        return value.rebuilt(children)
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*children)
    if isinstance(value, tuple | list):
        return type(value)(children)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.replace(
            value, **dict(zip((f.name for f in dataclasses.fields(value)), children, strict=True))
        )
    return value
