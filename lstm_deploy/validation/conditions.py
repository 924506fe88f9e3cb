"""Nodes of an ONNX graph that treat some sizes or values in another way, and the numbers at which they begin to."""

import math
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import onnx
from onnx import numpy_helper

from lstm_deploy.artifacts import Value, ValueFlow, onnx_graph

CONDITIONAL = (
    *("Equal", "Less", "LessOrEqual", "Greater", "GreaterOrEqual", "Where", "If", "IsNaN", "IsInf", "NonZero"),
    *("Clip", "Min", "Max", "Mod", "Sign", "Round", "Floor", "Ceil", "Hardmax", "OneHot", "ThresholdedRelu", "Shrink"),
)
"""Operators that compare, choose or clip."""
BENT = ("Relu", "LeakyRelu", "PRelu", "Elu", "Selu", "Celu", "Abs", "HardSigmoid", "HardSwish")
"""Operators that are activations, but begin at a number if one is added to what they get."""
SIZES = "sizes"
"""What a condition looks at that depends on the sizes of inputs alone."""
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
    flow = ValueFlow(onnx_graph.inlined(model, layers=True))
    found = []
    shifted: dict[Value, list[float]] = {}
    """The number by which a sum is another value, by the value of the sum."""
    for node, names in flow.nodes:
        if node.domain:
            continue
        read = [names[name] for name in node.input if name in names]
        numbers = [number for value in read for number in _numbers(flow, value)]
        of = sorted({name for value in read for name in _looks_at(flow, value)})
        if node.op_type in ("Add", "Sub") and len(numbers) == 1:
            sign = -1 if node.op_type == "Add" else 1
            shifted |= {names[name]: [sign * number for number in numbers] for name in node.output if name in names}
        if node.op_type in BENT:
            numbers = [number for value in read for number in shifted.get(value, ())]
        elif node.op_type == "Div":  # of sizes, which are whole: it changes at each multiple
            numbers = numbers if of == [SIZES] else []
        elif node.op_type in CONDITIONAL:
            numbers += sorted(_settings(node))
        else:
            continue
        if numbers or node.op_type in CONDITIONAL:
            found.append(Condition(node.op_type, node.name, tuple(dict.fromkeys(numbers)), ", ".join(of[:3])))
    return found


def numbers_of(found: Iterable[Condition]) -> list[float]:
    """The numbers at which something may change, at most `MOST`, in order."""
    numbers = {number for condition in found for number in condition.numbers if abs(number) <= LARGEST}
    return sorted(sorted(numbers, key=abs)[:MOST])


def _numbers(flow: ValueFlow, value: Value | None) -> list[float]:
    """The numbers of a constant that is a few, those that only change their type or shape included."""
    if value is None:
        return []
    if (tensor := flow.constant(value)) is not None:
        if math.prod(tensor.dims) > FEW or tensor.data_location == onnx.TensorProto.EXTERNAL:
            return []
        array = numpy_helper.to_array(tensor)
        return [float(number) for number in array.ravel()] if array.dtype.kind in "fiu" else []
    operator, before = flow.first_of(value)
    if operator == "Neg":
        return [-number for number in _numbers(flow, before)]
    return _numbers(flow, before) if operator in KEEPING else []


def _looks_at(flow: ValueFlow, value: Value) -> Iterator[str]:
    """Inputs of the graph that a value is computed from, and `sizes` where it depends on their sizes alone."""
    for source in flow.sources(value):
        if source.kind == "input":
            yield source.name
        elif source.name in ("Shape", "Size"):
            yield SIZES


def _settings(node: onnx.NodeProto) -> Iterator[float]:
    """Bounds that are attributes: of `Clip` in old files, and of a few others."""
    for attribute in node.attribute:
        if attribute.name in ("min", "max", "alpha", "lambd"):
            yield float(attribute.f)
