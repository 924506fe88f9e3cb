"""Graphs of any format held against each other: the same nodes, wiring, attributes and weights, up to names.

No number of examples shows what a graph does at one size or value alone. But exports are deterministic, so a graph that
is the one which `export` writes of the reference is right everywhere; and what differs can be named node by node.
"""

from collections import Counter, defaultdict
from collections.abc import Hashable, Iterator, Mapping, Sequence
from difflib import SequenceMatcher
from functools import partial
from hashlib import sha256
from typing import NamedTuple

import numpy as np

from lstm_deploy.contract import Array
from lstm_deploy.validation.tolerances import WEIGHT

MOST = 8
"""Differences that are named; the others are counted."""


class Node(NamedTuple):
    """One operation. What lies inside loops and branches stands before the node that they belong to."""

    kind: str
    name: str
    settings: tuple[tuple[str, Hashable], ...]
    inputs: tuple[str, ...]
    """Names of values and constants; empty where an optional input is left out."""
    outputs: tuple[str, ...]


class Graph(NamedTuple):
    """A graph in static single assignment: each name is written once."""

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    nodes: tuple[Node, ...]
    """In an order in which they can run."""
    constants: Mapping[str, Array]
    named_ports: bool
    """Whether inputs and outputs are known by their names, else by their places."""
    ordered: bool
    """Whether nodes may change values in place, so that their order counts."""


def differences(actual: Graph, right: Graph) -> list[str]:
    """One sentence for each difference of a graph from the right one; empty for the same graph, up to names."""
    numbers = _Numbers(right.constants)
    ours, theirs = numbers.of(right), numbers.of(actual)
    same_nodes = ours.nodes == theirs.nodes if right.ordered else Counter(ours.nodes) == Counter(theirs.nodes)
    if same_nodes and ours.outputs == theirs.outputs:
        return []
    sentences = list(_Comparison(actual, right, theirs, ours).sentences())
    more = len(sentences) - MOST
    named = sentences[:MOST] + ([f"{more} more nodes or wires differ."] if more > 0 else [])
    return named or ["The same nodes run in another order."]


class _Numbered(NamedTuple):
    """A graph in numbers: equal ones stand for what is computed in the same way from the same inputs."""

    values: dict[str, int]
    nodes: list[int]
    local: list[int]
    """Of each node without the values that it reads, but for constants."""
    outputs: list[tuple[str, int]]


class _Numbers:
    """Hands out the numbers, the same for both graphs; weights that differ by rounding alone have one number."""

    def __init__(self, right: Mapping[str, Array]) -> None:
        self._numbers: dict[Hashable, int] = {}
        self._alike: dict[tuple[str, tuple[int, ...]], list[Array]] = defaultdict(list)
        for value in right.values():
            self._alike[str(value.dtype), value.shape].append(value)
            self._number(*_content(value))

    def of(self, graph: Graph) -> _Numbered:
        ports = graph.inputs if graph.named_ports else range(len(graph.inputs))
        values = {name: self._number("input", port) for name, port in zip(graph.inputs, ports, strict=True)}
        values |= {name: self._constant(value) for name, value in graph.constants.items() if name not in values}
        values[""] = self._number("left out")
        nodes, local = [], []
        for node in graph.nodes:
            read = tuple(values.get(name, -1) for name in node.inputs)
            constant = tuple(values[name] if name in graph.constants or not name else -1 for name in node.inputs)
            local.append(self._number(node.kind, node.settings, constant, len(node.outputs)))
            number = self._number(node.kind, node.settings, read, len(node.outputs), "values")
            nodes.append(number)
            values |= {name: self._number(number, place) for place, name in enumerate(node.outputs) if name}
        ends = graph.outputs if graph.named_ports else [str(place) for place in range(len(graph.outputs))]
        outputs = [(end, values.get(name, -1)) for end, name in zip(ends, graph.outputs, strict=True)]
        return _Numbered(values, nodes, local, sorted(outputs))

    def _constant(self, value: Array) -> int:
        exact = _content(value)
        if exact not in self._numbers and value.dtype.kind == "f" and value.size > 1:  # a threshold is exact
            near = min(self._alike[str(value.dtype), value.shape], key=partial(_distance, value), default=None)
            if near is not None and _distance(value, near) <= WEIGHT.relative * float(np.abs(near).max()):
                exact = _content(near)
        return self._number(*exact)

    def _number(self, *key: Hashable) -> int:
        return self._numbers.setdefault(key, len(self._numbers))


def _content(value: Array) -> tuple[Hashable, ...]:
    return str(value.dtype), value.shape, sha256(value.tobytes()).digest()


def _distance(value: Array, other: Array) -> float:
    off = np.abs(value.astype(np.float64) - other)
    return float(np.where(np.isnan(off), np.inf, off).max())


class _Comparison:
    """Finds which node stands for which, and says what is left."""

    def __init__(self, actual: Graph, right: Graph, theirs: _Numbered, ours: _Numbered) -> None:
        self.actual, self.right, self.theirs, self.ours = actual, right, theirs, ours
        self.pairs = dict(self._pairs())
        """From the place of a node of the actual graph to that of the right one."""
        self.stands_for = dict(zip(actual.inputs, right.inputs, strict=False))
        if actual.named_ports:
            self.stands_for = {name: name for name in actual.inputs}
        for place, other in self.pairs.items():
            self.stands_for |= zip(actual.nodes[place].outputs, right.nodes[other].outputs, strict=False)
        self.writers = {name: node for node in actual.nodes for name in node.outputs}
        self.right_writers = {name: node for node in right.nodes for name in node.outputs}
        self.readers = {name: node for node in reversed(actual.nodes) for name in node.inputs}
        unpaired = (node for place, node in enumerate(actual.nodes) if place not in self.pairs)
        self.explained = {name for node in unpaired for name in node.outputs}
        """Values of nodes that are named already."""

    def _pairs(self) -> Iterator[tuple[int, int]]:
        free = defaultdict(list)
        for place, number in enumerate(self.ours.nodes):
            free[number].append(place)
        left, taken = [], set()
        for place, number in enumerate(self.theirs.nodes):
            if free[number]:
                taken.add(free[number][0])
                yield place, free[number].pop(0)
            else:
                left.append(place)
        rest = [place for place in range(len(self.ours.nodes)) if place not in taken]
        keys = [self.theirs.local[place] for place in left], [self.ours.local[place] for place in rest]
        for tag, a, b, c, d in SequenceMatcher(None, *keys).get_opcodes():
            if tag == "equal":
                yield from zip(left[a:b], rest[c:d], strict=True)
            elif tag == "replace":  # a node of the same kind has other settings or weights
                others = rest[c:d]
                for place in left[a:b]:
                    kind = self.actual.nodes[place].kind
                    if (other := next((o for o in others if self.right.nodes[o].kind == kind), None)) is not None:
                        del others[: others.index(other) + 1]
                        yield place, other

    def sentences(self) -> Iterator[str]:
        for place, node in enumerate(self.actual.nodes):
            if place not in self.pairs:
                yield f"{_an(_described(node, self.actual))} {self._where(node)} that no lowering writes."
        found = set(self.pairs.values())
        for place, node in enumerate(self.right.nodes):
            if place not in found:
                yield f"The {_described(node, self.right)} is missing."
        for place, other in self.pairs.items():
            yield from self._changes(self.actual.nodes[place], self.right.nodes[other])
        names = self.actual.outputs if self.actual.named_ports else [str(n) for n in range(len(self.actual.outputs))]
        for end, value, wanted in zip(names, self.actual.outputs, self._wanted_outputs(), strict=False):
            if self._is_other(value, wanted):
                yield f"The output {end} is {self._origin(value)}, not {self._origin(wanted, right=True)}."
        if len(self.actual.outputs) != len(self.right.outputs):
            yield f"It has {len(self.actual.outputs)} outputs, not {len(self.right.outputs)}."

    def _wanted_outputs(self) -> Sequence[str]:
        if not self.actual.named_ports:
            return self.right.outputs
        return [name if name in self.right.outputs else "" for name in self.actual.outputs]

    def _changes(self, node: Node, wanted: Node) -> Iterator[str]:
        """What a node and the one that it stands for do not have in common."""
        label = _label(node)
        settings, right = dict(node.settings), dict(wanted.settings)
        for name in sorted({*settings, *right}):
            if settings.get(name) != right.get(name):
                yield f"{label} has {name} {settings.get(name, 'by default')}, not {right.get(name, 'by default')}."
        for place, value in enumerate(node.inputs):
            expected = wanted.inputs[place] if place < len(wanted.inputs) else ""
            constant, other = self.actual.constants.get(value), self.right.constants.get(expected)
            if constant is not None and other is not None:
                if self.theirs.values[value] != self.ours.values[expected]:
                    yield f"{label} has {_constant_change(value, constant, other)}."
            elif self._is_other(value, expected):
                yield f"{label} reads {self._origin(value)} where it should read {self._origin(expected, right=True)}."
        for expected in wanted.inputs[len(node.inputs) :]:
            if expected:
                yield f"{label} reads nothing where it should read {self._origin(expected, right=True)}."

    def _is_other(self, value: str, expected: str) -> bool:
        """Whether a value is not the expected one, and that is not explained yet."""
        return value not in self.explained and self.stands_for.get(value, value) != expected

    def _origin(self, value: str, *, right: bool = False) -> str:
        """Where a value comes from, by the names of the right graph, which name what both graphs compute."""
        value = value if right else self.stands_for.get(value, value)
        if not value or value in self.right.inputs:
            return value or "nothing"
        if (node := self.right_writers.get(value)) is None:
            return value
        place = node.outputs.index(value)
        return f"{f'output {place} of ' if place else ''}{_label(node)}"

    def _where(self, node: Node) -> str:
        """What a node comes after, or before."""
        for name in node.inputs:
            if name and name not in self.actual.constants:
                return f"after {_label(self.writers[name]) if name in self.writers else name}"
        reader = next((self.readers[name] for name in node.outputs if name in self.readers), None)
        return f"before {_label(reader)}" if reader else f"for {', '.join(node.outputs)}"


def _described(node: Node, graph: Graph) -> str:
    """The kind of a node, its name, and the single numbers that it reads."""
    read = [graph.constants[name] for name in node.inputs if name in graph.constants]
    single = [value for value in read if value.size == 1 and value.dtype.kind in "fiub"]
    numbers = ", ".join(f"{value.item():g}" for value in single)
    return f"{node.kind}{f' ({node.name})' if node.name else ''}{f' with {numbers}' if numbers else ''}"


def _label(node: Node) -> str:
    return node.name or f"the {node.kind}"


def _an(text: str) -> str:
    return f"{'An' if text.startswith((*'AEIOaeio', 'LSTM', 'RNN', 'Unsqueeze', 'Upsample')) else 'A'} {text}"


def _constant_change(name: str, value: Array, right: Array) -> str:
    if value.shape != right.shape or value.dtype != right.dtype:
        return f"{name} of {value.dtype} {list(value.shape)}, not {right.dtype} {list(right.shape)}"
    if value.size == 1:
        return f"{name} {value.item()}, not {right.item()}"
    same = np.isclose(value, right, rtol=0, atol=0, equal_nan=True) if value.dtype.kind == "f" else value == right
    return f"other numbers in {name}: {np.count_nonzero(~same)} of {value.size} differ"
