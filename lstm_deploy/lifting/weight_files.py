"""The weights in a file of PyTorch by their names, whoever wrote it, without running anything from the file."""

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from msgspec import Struct
from torch import Tensor

from lstm_deploy.artifacts import most_bytes
from lstm_deploy.errors import InputError, one_line
from lstm_deploy.lifting.file_contents import read_content
from lstm_deploy.lifting.flat_weights import by_name
from lstm_deploy.lifting.pickles import Stub
from lstm_deploy.lifting.stored_tensors import StoredTensor

StateDict = dict[str, Tensor]

WITHIN = ("_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module.")
"""What `torch.compile`, FSDP and activation checkpointing put into names, wherever a module is wrapped."""
TRAINING = re.compile(r"optimi[sz]er|(?:^|[._])(?:opt|optim|sched|schedulers?|rng|callbacks|loops)(?:[._]|$)", re.I)
"""In the names of entries that are the state of a training, not of a network."""
MOST_VALUES = 1_000_000
"""In a file; a hundred numbers or texts in a list count as one."""
DEEPEST = 100
"""How many containers may lie in one another."""
_QUANTIZED = ("torch.ao.nn.quantized.", "torch.nn.quantized.")
SETTINGS = re.compile(r"(hyper_?param(eter)?s|hparams|config|cfg|args|kwargs|(model|init)_(args|kwargs|config))$")
"""How files name what their networks were made with."""
MOST_SETTINGS = 50
_ARRAY = "a NumPy array"
_NUMPY = {"scalar": "a NumPy number", "_reconstruct": _ARRAY}


class WeightFile(Struct, frozen=True, kw_only=True):
    """All tensors of a file, wherever in it they are."""

    path: Path
    tensors: dict[str, Tensor | StoredTensor]
    """By their place in the file: keys and attributes with dots between them, as `state_dict.lstm.weight_ih_l0`."""
    homes: dict[str, str]
    """For each tensor, the place of the dict or the module that it is an entry of: `state_dict`, or empty."""
    objects: dict[str, str]
    """Objects that are left out, by their place: the class of each."""
    modules: dict[str, str]
    """Whole modules, by their place: the class of each."""
    entries: tuple[str, ...]
    """What the file holds at its top."""
    settings: dict[str, str | int | float]
    """Numbers and texts that the network was made with, by their place, as `hyper_parameters.hidden`."""

    def under(self, key: str | None) -> "WeightFile":
        """The part of the file below a place; raises `InputError` if no tensor is there."""
        if key is None:
            return self
        below = _without_wrappers(f"{key}.")
        tensors = {name.removeprefix(below): value for name, value in self.tensors.items() if name.startswith(below)}
        if not tensors:
            what = f"no entry {key!r}"
            if key in self.entries or key in self.objects:
                what = f"no weights in the entry {key!r} ({self.objects.get(key, 'no tensor')})"
            there = dict.fromkeys(name.partition(".")[0] for name in self.tensors if not is_training(self.homes[name]))
            raise InputError(f"{self.path} has {what}; there is {listed(list(there)) or 'none'}.")
        homes = {name: self.homes[below + name] for name in tensors}
        modules = {place.removeprefix(below): kind for place, kind in self.modules.items() if place.startswith(below)}
        for place, kind in self.modules.items():
            if not place or below.startswith(f"{place}."):
                modules[""] = kind
        return WeightFile(
            path=self.path,
            tensors=tensors,
            homes={name: home.removeprefix(below) if home.startswith(below) else "" for name, home in homes.items()},
            objects={},
            modules=modules,
            entries=self.entries,
            settings=self.settings,
        )

    def load(self, names: Mapping[str, str]) -> StateDict:
        """The weights of some names in the file, each under the name that it shall have, as `clean` leaves them.

        Raises `InputError` for tensors that are damaged or no plain numbers.
        """
        loaded = {}
        shard = "ds_version" in self.entries
        for place, name in names.items():
            value = self.tensors[place]
            if shard and 0 in value.shape:
                raise InputError(self.nothing())
            if isinstance(value, StoredTensor):
                if self.is_quantized(place):
                    raise InputError(quantized(self.path, place))
                if value.kind:
                    raise InputError(f"{place} in {self.path} is not a plain tensor of numbers; save plain weights.")
                try:
                    value = value.load()
                except Exception as error:  # sizes that contradict each other raise anything
                    reason = one_line(error, 100)
                    raise InputError(f"{place} in {self.path} is damaged ({reason}); copy the file again.") from error
            loaded[name] = value
        return clean(loaded, self.path)

    def unused(self, taken: Iterable[str]) -> list[str]:
        """The places with no tensor of `taken` and no state of a training, each as short as it can be.

        Another name of a tensor that is taken, as that of a tied weight, is no place of its own.
        """
        places = map(_without_wrappers, taken)
        same = {_identity(self.tensors[place]) for place in places}
        known = {name for name, value in self.tensors.items() if _identity(value) in same}
        within = {name[:end] for name in known for end in _ends(name)}
        found: dict[str, None] = {}
        for name, value in self.tensors.items():
            training = is_training(self.homes[name]) or ("." not in name and is_training(name))
            empty = 0 in value.shape and not getattr(value, "kind", "")
            if name not in known and not training and not empty:
                found[next((name[:end] for end in _ends(name) if name[:end] not in within), name)] = None
        return list(found)

    def is_quantized(self, place: str) -> bool:
        """Whether the tensor at a place is in PyTorch's quantized form."""
        value = self.tensors[place]
        return value.kind == "quantized" if isinstance(value, StoredTensor) else value.is_quantized

    def quantized_within(self, home: str) -> str | None:
        """The first place of quantized weights, or of a quantized module, at or below a home, if any."""
        classes = (self.objects | self.modules).items()
        places = (
            *filter(self.is_quantized, self.tensors),
            *(place for place, kind in classes if kind.startswith(_QUANTIZED)),
        )
        return next((place for place in places if not home or f"{place}.".startswith(f"{home}.")), None)

    @property
    def is_without_network(self) -> bool:
        """Whether the file has no weights, or those of an optimizer alone."""
        return not self.tensors or set(self.entries) == {"state", "param_groups"}

    def nothing(self) -> str:
        """What to say of a file without weights."""
        if "ds_version" in self.entries:
            return (
                f"{self.path} is one of several files of a DeepSpeed checkpoint, without the weights; join them with "
                "zero_to_fp32.py in its folder, and give the result."
            )
        if self.tensors and self.is_without_network:
            return f"{self.path} holds the state of an optimizer, without the weights; give the file that has them."
        if any(kind.startswith("__torch__.") for kind in self.objects.values()):
            return (
                f"{self.path} is a TorchScript archive whose weights, if it has any, are constants without names (as "
                "torch.jit.freeze leaves them); give the weights that it was made from."
            )
        if _ARRAY in self.objects.values():
            return f"{self.path} holds NumPy arrays, not tensors; save them with torch.save, as a dict of tensors."
        return (
            f"{self.path} holds no weights ({', '.join(self.entries)[:300] or 'nothing'}); give the file that has them."
        )

    def made_with(self) -> str:
        """The settings, as the end of a message: `; the file has hyper_parameters: hidden 64`; empty if none."""
        by_home: dict[str, list[str]] = {}
        for place, value in self.settings.items():
            home, _, name = place.rpartition(".")
            by_home.setdefault(home, []).append(f"{name} {value}")
        return "".join(f"; the file has {home}: {', '.join(listed)}" for home, listed in by_home.items())

    def left_out(self) -> str:
        """A sentence on the objects that are left out; empty if there are none."""
        found = [f"{place} ({kind})" for place, kind in self.objects.items() if not is_training(place)]
        return f"what else is in the file is no tensor, so it was not opened: {listed(found)}" if found else ""


def open_weights(path: Path) -> WeightFile:
    """All tensors of a `.safetensors` file, a TorchScript archive, a pickle, or an archive with one of these in it.

    Raises `InputError` for a file that is none of these, or that would run code.
    """
    content = read_content(path)
    walk = _Walk(path)
    walk.visit(content, "", "")
    nbytes = sum(value.nbytes for value in walk.tensors.values())
    if nbytes > most_bytes(path.stat().st_size):
        raise InputError(f"The tensors in {path} are {nbytes:,} bytes, more than the file can hold; check it.")
    tensors = by_name(walk.tensors, path)
    entries: Any = content if isinstance(content, Mapping) else ()
    if isinstance(content, list | tuple):
        entries = range(len(content))
    return WeightFile(
        path=path,
        tensors=tensors,
        homes={name: walk.homes.get(name, "") for name in tensors},
        objects=dict(walk.objects),
        modules=walk.modules,
        entries=tuple(map(str, entries)) or (type_name(content),),
        settings=walk.settings,
    )


def clean(weights: Mapping[str, Tensor], where: Path | str) -> StateDict:
    """Convert to float32 (integers stay); raises `InputError` for weights that are no plain or no finite numbers."""
    for name, value in weights.items():
        if value.is_quantized:
            raise InputError(quantized(where, name))
        if value.layout is not torch.strided or value.is_meta or value.is_complex():
            raise InputError(f"{name} in {where} is not a plain tensor of numbers; save plain weights.")
        if value.is_floating_point() and not torch.isfinite(value).all():
            raise InputError(f"The weight {name} in {where} is not a number or infinite; train again.")
    return {name: value.detach().float() if value.is_floating_point() else value for name, value in weights.items()}


def quantized(where: Path | str, name: str) -> str:
    """What to say of quantized weights."""
    return (
        f"{where} holds quantized weights ({name}); export the float32 weights that they were made from, and add "
        "--quantize int8."
    )


def is_training(place: str) -> bool:
    """Whether a place in a file is that of an optimizer, a scheduler and the like."""
    return TRAINING.search(place) is not None


def type_name(value: Any) -> str:
    """The class of an object of a file, in words for the user."""
    if isinstance(value, Stub) or (isinstance(value, type) and issubclass(value, Stub)):
        module, _, name = value.kind.rpartition(".")
        return _NUMPY.get(name, value.kind) if module.startswith("numpy") else value.kind.removeprefix("builtins.")
    return type(value).__name__


def listed(names: list[str]) -> str:
    """The first eight of some names, and how many more there are."""
    more = f" and {len(names) - 8} more" if len(names) > 8 else ""
    return ", ".join(names[:8]) + more


class _Walk:
    """Visits all that is in the content of a file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.tensors: dict[str, Tensor | StoredTensor] = {}
        self.homes: dict[str, str] = {}
        self.objects: list[tuple[str, str]] = []
        self.modules: dict[str, str] = {}
        self.settings: dict[str, str | int | float] = {}
        self.visited = 0
        self.around: set[int] = set()
        """The containers that are being visited: objects refer back to those that hold them."""

    def visit(self, value: Any, place: str, home: str, depth: int = 0) -> None:
        """Visit a value at a place; `home` is that of the dict or of the outermost module around it."""
        if isinstance(value, Tensor | StoredTensor):
            if place in self.tensors:
                raise InputError(f"{self.path} holds two tensors called {place}; save them under other names.")
            self.tensors[place], self.homes[place] = value, home
        elif isinstance(value, type) and issubclass(value, Stub):
            self.objects.append((place, type_name(value)))
        elif isinstance(value, Mapping | list | tuple):
            self._visit_children(value, place, place, depth)
        elif isinstance(value, Stub):
            self._visit_stub(value, place, home, depth)

    def _visit_stub(self, stub: Stub, place: str, home: str, depth: int) -> None:
        tensors, objects = len(self.tensors), len(self.objects)
        if "_parameters" in stub.content:
            within = any(not outer or place.startswith(f"{outer}.") for outer in self.modules)
            self.modules.setdefault(place, stub.kind)
            self._visit_children(_of_module(stub.content), place, home if within else place, depth)
        else:
            scripted = stub.kind.startswith("__torch__.")
            self._visit_children(stub.content, place, home if scripted else place, depth)
        if len(self.tensors) == tensors:
            self.objects[objects:] = [(place, type_name(stub))]  # in place of the objects within it

    def _visit_children(self, value: Any, place: str, home: str, depth: int) -> None:
        if depth == DEEPEST:
            raise InputError(f"{self.path} is nested too deeply for a file of weights; check it.")
        if id(value) in self.around:
            return
        self.around.add(id(value))
        self.visited += 1 + len(value) // 100
        if self.visited > MOST_VALUES:
            raise InputError(f"{self.path} holds more values than a file of weights; check it.")
        is_settings = SETTINGS.match(place) is not None
        for key, child in value.items() if isinstance(value, Mapping) else enumerate(value):
            if is_settings and isinstance(child, str | int | float) and len(self.settings) < MOST_SETTINGS:
                self.settings[f"{place}.{key}"] = child
            if not isinstance(child, str | int | float | bytes | None):
                name = _without_wrappers(f"{place}.{key}." if place else f"{key}.")
                self.visit(child, name.removesuffix("."), home, depth + 1)
        self.around.remove(id(value))


def _identity(value: Tensor | StoredTensor) -> tuple[Any, ...]:
    """Equal for two names of the same numbers."""
    if isinstance(value, StoredTensor):
        return (id(value.storage), value.offset, value.shape, value.stride)
    return (id(value),)


def _of_module(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters, buffers and children of a module, by name."""
    found: dict[str, Any] = {}
    for kind in ("_parameters", "_buffers", "_modules"):
        part = attributes.get(kind)
        found |= part if isinstance(part, dict) else {}
    return found


def _without_wrappers(name: str) -> str:
    for part in WITHIN:
        name = name.replace(part, "")
    return name


def _ends(name: str) -> Iterator[int]:
    """Where the parts of a name end: the places of its dots, and its length."""
    return (index for index in range(1, len(name) + 1) if index == len(name) or name[index] == ".")
