"""The structure of a TorchScript file: its graph with all calls inlined, and the tensors that it reads."""

import hashlib
import pickle
import re
import warnings
from collections import Counter
from collections.abc import Hashable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lstm_deploy.contract import Array
from lstm_deploy.errors import InputError
from lstm_deploy.validation.structure import Graph, Node

_NUMBERED = re.compile(r"\.___torch_mangle_\d+")


def torchscript_structure(path: Path) -> Graph:
    """The structure of the file at `path`, whose code is loaded and not run; raises `InputError` for hooks."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # all of torch.jit warns that it is deprecated
        module = torch.jit.load(str(path), map_location="cpu")  # type: ignore[no-untyped-call]
    if any(child._c._get_forward_hooks() or child._c._get_forward_pre_hooks() for child in module.modules()):
        raise InputError("It has hooks, which run beside its graph.")
    graph = module.inlined_graph
    own, *inputs = (value.debugName() for value in graph.inputs())
    reader = _Reader({own: module})
    nodes = _without_slicing(list(reader.nodes(graph, "")), reader.constants)
    (result,) = (value.debugName() for value in graph.outputs())
    outputs = reader.tuples.get(result, (result,))
    return Graph(tuple(inputs), outputs, nodes, reader.constants, named_ports=False, ordered=True)


def _without_slicing(nodes: Sequence[Node], constants: dict[str, Array]) -> tuple[Node, ...]:
    """The nodes but for those that slice weights off one tensor; the weights become constants.

    So a file has the same structure whether its LSTMs have one tensor of weights or several.
    """
    numbers = {name: int(value) for name, value in constants.items() if value.dtype == int and value.ndim == 0}
    lists = {
        node.outputs[0]: [numbers[name] for name in node.inputs]
        for node in nodes
        if node.kind == "prim::ListConstruct" and numbers.keys() >= set(node.inputs)
    }
    pieces: dict[str, list[Array]] = {}
    weights: dict[str, Array] = {}
    slicing = []
    for node in nodes:
        first, sizes = node.inputs[:1], [lists[name] for name in node.inputs[1:2] if name in lists]
        if node.kind == "aten::split_with_sizes" and sizes and first[0] in constants:
            flat = constants[first[0]]
            if flat.shape == (sum(sizes[0]),):
                pieces[node.outputs[0]] = np.split(flat, np.cumsum(sizes[0])[:-1])
                slicing.append(node)
        elif node.kind == "prim::ListUnpack" and first[0] in pieces:
            weights |= zip(node.outputs, pieces[first[0]], strict=True)
            slicing.append(node)
        elif node.kind == "aten::view" and sizes and first[0] in weights:
            weights[node.outputs[0]] = weights[first[0]].reshape(sizes[0])
            slicing.append(node)
    constants |= weights
    dropped = set(slicing)
    left = [node for node in nodes if node not in dropped]
    read = {name for node in left for name in node.inputs}
    spare = {name for node in slicing for name in node.inputs if name in lists} - read
    return tuple(node for node in left if node.outputs[:1] not in {(name,) for name in spare})


class _Reader:
    """Turns nodes of TorchScript into ours; what modules hold are constants, and tuples are what is in them."""

    def __init__(self, modules: dict[str, Any]) -> None:
        self.modules = modules
        self.constants: dict[str, Array] = {}
        self.tuples: dict[str, tuple[str, ...]] = {}
        self._same: dict[str, str] = {}
        """What a value that was unpacked from a tuple was called before."""
        self._counts: Counter[str] = Counter()

    def nodes(self, block: Any, place: str) -> Iterator[Node]:
        for node in block.nodes():
            outputs = tuple(value.debugName() for value in node.outputs())
            inputs = tuple(self._named(value) for value in node.inputs())
            kind = node.kind()
            if kind == "prim::TupleConstruct":
                self.tuples[outputs[0]] = inputs
                continue
            if kind == "prim::TupleUnpack" and inputs[0] in self.tuples:
                self._same |= zip(outputs, self.tuples[inputs[0]], strict=True)
                continue
            if kind == "prim::GetAttr" and inputs[0] in self.modules:
                self._keep(outputs[0], getattr(self.modules[inputs[0]], node.s("name")))
                continue
            if kind == "prim::Constant":
                self._keep(outputs[0], node.output().toIValue())
                continue
            inside: list[str] = []
            for number, inner in enumerate(node.blocks()):
                where = f"{place}{kind} {number}: "
                given = tuple(value.debugName() for value in inner.inputs())
                if given:
                    yield Node(f"{where}inputs", "", (), (), given)
                yield from self.nodes(inner, where)
                inside += [self._named(value) for value in inner.outputs()]
            settings = tuple((name, _setting(node, name)) for name in sorted(node.attributeNames()))
            name = kind.rpartition("::")[2]
            yield Node(place + kind, f"{name}_{self._counts[name]}", settings, (*inputs, *inside), outputs)
            self._counts[name] += 1

    def _named(self, value: Any) -> str:
        name: str = value.debugName()
        return self._same.get(name, name)

    def _keep(self, name: str, value: Any) -> None:
        """What a name stands for: a module, or a constant."""
        if isinstance(value, torch.nn.Module):
            self.modules[name] = value
        elif isinstance(value, torch.Tensor) and value.layout == torch.strided and not value.is_quantized:
            value = value.detach().float() if value.dtype == torch.bfloat16 else value.detach()
            self.constants[name] = value.cpu().numpy()
        elif isinstance(value, bool | int | float):
            self.constants[name] = np.asarray(value)
        else:
            self.constants[name] = np.asarray(_text(value))


def _text(value: Any) -> str:
    """A text that is equal for equal values alone."""
    if isinstance(value, torch.Tensor | torch.ScriptObject | list | tuple | dict):
        return hashlib.sha256(pickle.dumps(_plain(value))).hexdigest()
    return str(_NUMBERED.sub("", repr(value)))


def _plain(value: Any) -> Any:
    """The same as numbers, bytes and texts alone; raises `InputError` for an object that does not say what it holds."""
    if isinstance(value, torch.Tensor):
        numbers = value.int_repr() if value.is_quantized else value
        steps = _steps(value) if value.is_quantized else ""
        return str(value.dtype), tuple(value.shape), steps, numbers.detach().contiguous().numpy().tobytes()
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return [(str(key), _plain(item)) for key, item in value.items()]
    if isinstance(value, torch.ScriptObject):
        try:
            return _plain(value.__getstate__())
        except RuntimeError as error:
            raise InputError("It holds an object of its own, whose numbers cannot be read.") from error
    return _NUMBERED.sub("", repr(value))


def _steps(value: torch.Tensor) -> str:
    """The scale of a quantized tensor, or one for each channel."""
    return str(value.q_scale() if "tensor" in str(value.qscheme()) else value.q_per_channel_scales().tolist())


def _setting(node: Any, name: str) -> Hashable:
    kind = node.kindOf(name)
    value = getattr(node, kind)(name)
    return value if isinstance(value, int | float | str) else str(_NUMBERED.sub("", str(value)))
