"""Where the values of an ONNX graph come from and where they go, through branches, loops and scans."""

from collections import ChainMap, defaultdict
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import onnx
from onnx import numpy_helper

from lstm_deploy.contract import RECURRENT_OPERATORS

Value = tuple[int, str]
"""A value: the number of the graph or subgraph that makes it, 0 for the graph itself, and its name there."""
Names = ChainMap[str, Value]
"""The values that can be named in a graph: its own, then those of the graphs around it."""

FIRST_STATE = 5
"""The position of the first initial state among the inputs of a recurrent operator."""
MOVED_BY: dict[str, slice] = {
    **dict.fromkeys(("Concat", "Identity", "SequenceConstruct"), slice(None)),
    **dict.fromkeys(("Slice", "Squeeze", "Unsqueeze", "Split", "Transpose", "Reshape", "Flatten"), slice(1)),
    **dict.fromkeys(("Gather", "GatherElements", "GatherND", "Expand", "Tile", "Pad", "Cast", "Dropout"), slice(1)),
    **dict.fromkeys(("SplitToSequence", "ConcatFromSequence", "SequenceAt"), slice(1)),
    **dict.fromkeys(("ScatterND", "ScatterElements"), slice(0, 3, 2)),
    "Where": slice(1, 3),
}
"""Operators whose outputs hold numbers of these of their inputs as they are; the other inputs say which or where."""
SIZES = ("Shape", "Size", "ConstantOfShape")
"""Operators whose outputs do not depend on the numbers in their inputs, only on their sizes, or on sizes alone."""
RANDOM = ("RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Bernoulli", "Multinomial")


class Source(NamedTuple):
    """Something that a value is made from."""

    kind: str
    """`input`, `zeros`, `constant`, `random`, or `recurrent` for an output of a recurrent node."""
    name: str
    """Of the graph's input; else of the operator."""
    moved: bool
    """Whether the value holds numbers of it as they are, not only what is computed from them."""


class RecurrentNode(NamedTuple):
    """A recurrent node, wherever it lies."""

    node: onnx.NodeProto
    names: Names
    """What its inputs and outputs are."""
    position: int
    in_branch: bool
    """Whether it lies in a branch of an `If`, so that it may not run."""

    @property
    def label(self) -> str:
        """Its name, as messages say it."""
        return self.node.name or f"{self.node.op_type} number {self.position + 1}"

    @property
    def states(self) -> str:
        """Letters, in the order of inputs (from `FIRST_STATE`) and of outputs (from the second)."""
        return "".join(state.name for state in RECURRENT_OPERATORS[self.node.op_type].states)

    def input(self, position: int) -> Value | None:
        """One of its inputs; None where it is left out."""
        name = self.node.input[position] if position < len(self.node.input) else ""
        return self.names.get(name) if name else None

    def output(self, position: int) -> Value | None:
        """One of its outputs; None where it is left out."""
        name = self.node.output[position] if position < len(self.node.output) else ""
        return self.names.get(name) if name else None

    def attribute(self, name: str, default: object = None) -> object:
        """The value of an attribute."""
        found = (onnx.helper.get_attribute_value(item) for item in self.node.attribute if item.name == name)
        return next(found, default)


class ValueFlow:
    """The values of a graph, each with those that it is made from and those that are made from it."""

    def __init__(self, model: onnx.ModelProto) -> None:
        """`model` has no functions of its own (see `onnx_graph.inlined`)."""
        self.nodes: list[tuple[onnx.NodeProto, Names]] = []
        """All nodes, subgraphs included, each with what its inputs and outputs are."""
        self.recurrent: list[RecurrentNode] = []
        self._before: dict[Value, list[tuple[Value, bool]]] = defaultdict(list)
        self._after: dict[Value, list[tuple[Value, bool]]] = defaultdict(list)
        self._constants: dict[Value, onnx.TensorProto] = {}
        self._producers: dict[Value, onnx.NodeProto] = {}
        self._starts: set[Value] = set()
        self._scopes = self._branches = 0
        names = self._enter(model.graph, ChainMap())
        self.inputs: set[tuple[int, str]] = {names[value.name] for value in model.graph.input} - set(self._constants)
        """Those of the graph, but for initializers that old files list among them."""
        self.outputs: dict[tuple[int, str], Any] = {
            names[value.name]: value.name for value in model.graph.output if value.name in names
        }

    def sources(self, value: Value) -> set[Source]:
        """What a value is made from, back to inputs of the graph, constants and outputs of recurrent nodes.

        Constants that only take part in a computation with something else are left out.
        """
        found: set[Source] = set()
        seen: set[tuple[Value, bool]] = set()
        pending = [(value, True)]
        while pending:
            value, moved = pending.pop()
            if (value, moved) in seen:
                continue
            seen.add((value, moved))
            producer = self._producers.get(value)
            if producer is not None and producer.op_type in RECURRENT_OPERATORS:
                found.add(Source("recurrent", producer.op_type, moved))
            elif producer is not None and producer.op_type in RANDOM:
                found.add(Source("random", producer.op_type, moved))
            elif value in self._before:
                pending += [(before, moved and as_it_is) for before, as_it_is in self._before[value]]
            elif value in self.inputs:
                found.add(Source("input", value[1], moved))
            else:
                kind = "zeros" if self.is_zero(value) else "constant"
                found.add(Source(kind, producer.op_type if producer else "", moved))
        told = {(source.kind, source.name) for source in found if source.moved}
        found = {source for source in found if source.moved or (source.kind, source.name) not in told}
        varying = {source for source in found if source.kind in ("input", "recurrent", "random")}
        return varying or {source for source in found if source.moved} or found

    def ends(self, value: Value) -> dict[str, bool]:
        """The outputs of the graph that a value reaches, and whether as it is; `""` stands for the state of a node."""
        found: dict[str, bool] = {}
        seen: set[tuple[Value, bool]] = set()
        pending = [(value, True)]
        while pending:
            value, moved = pending.pop()
            if (value, moved) in seen:
                continue
            seen.add((value, moved))
            for name in [self.outputs[value]] if value in self.outputs else []:
                found[name] = found.get(name, False) or moved
            if value in self._starts:
                found[""] = True
            pending += [(after, moved and as_it_is) for after, as_it_is in self._after[value]]
        return found

    def unread_inputs(self) -> set[Value]:
        """The inputs of the graph that no node reads, and that are no outputs either."""
        read = {names.get(name) for node, names in self.nodes for name in node.input}
        return self.inputs - read - self.outputs.keys() - self._after.keys()

    def operators(self, value: Value) -> set[str]:
        """The operators that a value is made by, back to inputs and constants of the graph."""
        found, seen, pending = set(), set(), [value]
        while pending:
            value = pending.pop()
            if value not in seen:
                seen.add(value)
                found |= {self._producers[value].op_type} if value in self._producers else set()
                pending += [before for before, _ in self._before.get(value, ())]
        return found

    def constant(self, value: Value) -> onnx.TensorProto | None:
        """The tensor of a constant, or the number that one is filled with; None for what is computed."""
        return self._constants.get(value)

    def first_of(self, value: Value) -> tuple[str, Value | None]:
        """The operator that a value is made by, empty if there is none, and the first value that it reads."""
        producer, before = self._producers.get(value), self._before.get(value)
        return producer.op_type if producer else "", before[0][0] if before else None

    def is_constant(self, value: Value) -> bool:
        """Whether a value is an initializer."""
        return value in self._constants and value not in self._producers

    def is_zero(self, value: Value, within: frozenset[Value] = frozenset()) -> bool:
        """Whether a value is zeros on every call, as far as the graph shows it."""
        if value in within:
            return True  # what a loop hands to itself
        if value in self._constants:
            return _is_zeros(self._constants[value])
        producer = self._producers.get(value)
        if producer is not None and (producer.op_type in RECURRENT_OPERATORS or producer.op_type in SIZES):
            return False  # a ConstantOfShape that fills with zeros is among the constants
        if producer is not None and producer.op_type == "Mul":
            factors = (self._constants.get(before) for before, _ in self._before[value])
            return any(factor is not None and _is_zeros(factor) for factor in factors)
        moved = [before for before, as_it_is in self._before.get(value, ()) if as_it_is]
        return bool(moved) and all(self.is_zero(before, within | {value}) for before in moved)

    def _enter(self, graph: onnx.GraphProto, outer: Names) -> Names:
        """Add the values of a graph; `outer` are those that its nodes may name besides."""
        scope, names = self._scopes, outer.new_child()
        self._scopes += 1
        for value in (*graph.input, *graph.initializer):
            names[value.name] = (scope, value.name)
        for tensor in graph.initializer:
            self._constants[scope, tensor.name] = tensor
        for sparse in graph.sparse_initializer:
            names[sparse.values.name] = (scope, sparse.values.name)
        for node in graph.node:
            for name in filter(None, node.output):
                names[name] = (scope, name)
                self._producers[scope, name] = node
        for node in graph.node:
            self._add(node, names)
        return names

    def _add(self, node: onnx.NodeProto, names: Names) -> None:
        self.nodes.append((node, names))
        inputs = [names.get(name) for name in node.input]
        outputs = [names[name] for name in node.output if name]
        if node.op_type in BODIES:
            self._add_bodies(node, names)
        elif node.op_type in RECURRENT_OPERATORS:
            recurrent = RecurrentNode(node, names, len(self.recurrent), self._branches > 0)
            self.recurrent.append(recurrent)
            self._starts |= {start for start in map(recurrent.input, _state_positions(node)) if start}
            self._connect(inputs, outputs, moved=False)
        elif node.op_type == "Constant":
            value = onnx.helper.get_attribute_value(node.attribute[0])
            tensor = value if isinstance(value, onnx.TensorProto) else _as_tensor(value)
            self._constants[outputs[0]] = tensor
        elif node.op_type == "ConstantOfShape":
            fills = [onnx.helper.get_attribute_value(item) for item in node.attribute if item.name == "value"]
            self._constants[outputs[0]] = fills[0] if fills else numpy_helper.from_array(np.zeros(1, np.float32))
        elif node.op_type not in SIZES:
            moved = self._moved(node.op_type, inputs)
            for position, value in enumerate(inputs):
                self._connect([value], outputs, moved=position in moved)

    def _moved(self, kind: str, inputs: Sequence[Value | None]) -> Sequence[int]:
        """Which inputs a node hands on as they are: those of moves, and what zeros are added to."""
        if kind in ("Add", "Sub") and len(inputs) == 2:
            others = [(0, inputs[1]), (1, inputs[0])][: 2 if kind == "Add" else 1]
            return [position for position, other in others if other is not None and self.is_zero(other)]
        return range(len(inputs))[MOVED_BY.get(kind, slice(0))]

    def _add_bodies(self, node: onnx.NodeProto, names: Names) -> None:
        """Connect the graphs inside a node with its inputs and outputs."""
        inputs = [names.get(name) for name in node.input]
        self._branches += node.op_type == "If"
        bodies = [item.g for item in node.attribute if item.HasField("g")]
        for body in bodies:
            inner = self._enter(body, names)
            results = [inner.get(value.name) for value in body.output]
            takes = [inner[value.name] for value in body.input]
            if node.op_type == "Loop":
                results, takes, inputs = results[1:], takes[2:], inputs[2:]
            carried = len(takes)
            if node.op_type == "Scan":
                carried -= next((item.i for item in node.attribute if item.name == "num_scan_inputs"), 0)
            for start, take in zip(inputs, takes, strict=False):
                self._connect([start], [take], moved=True)
            for again, take in zip(results, takes[:carried], strict=False):
                self._connect([again], [take], moved=True)
            for result, name in zip(results, node.output, strict=False):
                if name:
                    self._connect([result], [names[name]], moved=True)
        self._branches -= node.op_type == "If"

    def _connect(self, inputs: list[Value | None], outputs: list[Value], *, moved: bool) -> None:
        for before in inputs:
            for after in outputs if before is not None else ():
                self._before[after].append((before, moved))  # type: ignore[arg-type]
                self._after[before].append((after, moved))  # type: ignore[index]


BODIES = ("If", "Loop", "Scan", "SequenceMap")
"""Operators with graphs inside."""


def _state_positions(node: onnx.NodeProto) -> range:
    return range(FIRST_STATE, FIRST_STATE + len(RECURRENT_OPERATORS[node.op_type].states))


def _as_tensor(value: object) -> onnx.TensorProto:
    """A constant that an attribute holds as plain numbers; texts and sparse tensors become a one."""
    numbers = isinstance(value, int | float) or (isinstance(value, list | tuple) and not any(map(_is_text, value)))
    return numpy_helper.from_array(np.asarray(value if numbers else 1))


def _is_text(value: object) -> bool:
    return isinstance(value, bytes | str)


def _is_zeros(tensor: onnx.TensorProto) -> bool:
    """Whether a constant is zeros; no where its numbers lie beside the file."""
    if tensor.data_location == onnx.TensorProto.EXTERNAL or tensor.data_type == onnx.TensorProto.STRING:
        return False
    return not numpy_helper.to_array(tensor).any()
