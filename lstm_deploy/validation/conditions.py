"""Nodes of an ONNX graph that treat some sizes or values in another way, and the numbers at which they begin to."""

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

import numpy as np
import onnx
from onnx import numpy_helper

from lstm_deploy.artifacts import onnx_graph
from lstm_deploy.contract import Array

CONDITIONAL = (
    *("Equal", "Less", "LessOrEqual", "Greater", "GreaterOrEqual", "Where", "If", "IsNaN", "IsInf", "NonZero"),
    *("Clip", "Min", "Max", "Mod", "Sign", "Round", "Floor", "Ceil", "Hardmax", "OneHot", "ThresholdedRelu", "Shrink"),
)
"""Operators that compare, choose or clip."""
SIZES = ("Shape", "Size")
KEEPING = ("Cast", "Identity", "Squeeze", "Unsqueeze", "Reshape", "Expand", "Flatten")
"""Operators behind which a constant is still the same number."""
FEW = 16
"""Numbers in a constant that is no weight."""
MOST = 24
"""Numbers that are tried."""
LARGEST = 1e6
"""The largest of them: beyond, sums in float32 lose what would be compared."""


class Condition(NamedTuple):
    """One such node."""

    operator: str
    name: str
    numbers: tuple[float, ...]
    """That it compares with, or clips at."""
    of: str
    """What it looks at: `sizes`, or inputs and states by name; empty if that is unknown."""

    def __str__(self) -> str:
        numbers = f" at {', '.join(f'{number:g}' for number in self.numbers[:4])}" if self.numbers else ""
        return f"{self.operator}{f' ({self.name})' if self.name else ''}{numbers}{f' of {self.of}' if self.of else ''}"


def conditions(model: onnx.ModelProto) -> list[Condition]:
    """All such nodes of a graph and its subgraphs, in order."""
    nodes = list(onnx_graph.nodes(model.graph))
    for function in model.functions:
        nodes += function.node
    constants = _constants(model, nodes)
    sources = _sources(model, nodes)
    found = []
    for node in nodes:
        if node.op_type in CONDITIONAL and not node.domain:
            numbers = [*_numbers(constants[name] for name in node.input if name in constants), *sorted(_settings(node))]
            of = sorted({source for name in node.input for source in sources.get(name, ())})
            found.append(Condition(node.op_type, node.name, tuple(dict.fromkeys(numbers)), ", ".join(of[:3])))
    return found


def numbers_of(found: Iterable[Condition]) -> list[float]:
    """The numbers at which something may change, at most `MOST`, in order."""
    numbers = {number for condition in found for number in condition.numbers if abs(number) <= LARGEST}
    return sorted(sorted(numbers, key=abs)[:MOST])


def _constants(model: onnx.ModelProto, nodes: Iterable[onnx.NodeProto]) -> dict[str, Array]:
    """Constants that are a few numbers, by name, those that only change their type or shape included."""
    tensors = [*model.graph.initializer]
    for node in nodes:
        for attribute in node.attribute:
            tensors += attribute.g.initializer
    constants = {t.name: numpy_helper.to_array(t) for t in tensors if math.prod(t.dims) <= FEW and not t.external_data}
    for node in nodes:
        if node.op_type == "Constant":
            value = onnx.helper.get_attribute_value(node.attribute[0])
            array = numpy_helper.to_array(value) if isinstance(value, onnx.TensorProto) else np.asarray(value)
            if array.size <= FEW:
                constants[node.output[0]] = array
        elif node.op_type in KEEPING and node.input[0] in constants:
            constants[node.output[0]] = constants[node.input[0]]
        elif node.op_type == "Neg" and node.input[0] in constants:
            constants[node.output[0]] = -constants[node.input[0]]
    return constants


def _numbers(arrays: Iterable[Array]) -> Iterator[float]:
    for array in arrays:
        if array.dtype.kind in "fiu":
            yield from (float(number) for number in array.ravel())


def _settings(node: onnx.NodeProto) -> Iterator[float]:
    """Bounds that are attributes: of `Clip` in old files, and of a few others."""
    for attribute in node.attribute:
        if attribute.name in ("min", "max", "alpha", "lambd"):
            yield float(attribute.f)


def _sources(model: onnx.ModelProto, nodes: Iterable[onnx.NodeProto]) -> Mapping[str, frozenset[str]]:
    """What each value is computed from: `sizes` where a shape was read on the way, else inputs of the graph."""
    constants = {tensor.name for tensor in model.graph.initializer}
    inputs = [value.name for value in model.graph.input if value.name not in constants]
    sources = {name: frozenset([name]) for name in inputs}
    for node in nodes:
        read = frozenset().union(*(sources.get(name, frozenset()) for name in node.input))
        if node.op_type in SIZES:
            read = frozenset(["sizes"])
        for name in node.output:
            sources[name] = read
    return sources
