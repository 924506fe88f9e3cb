"""The translation of a graph in progress: the values so far, and the statements, memory and weights that they need."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import onnx

from lstm_deploy.contract import C_TYPES, Array
from lstm_deploy.errors import InputError
from lstm_deploy.exporters.c.literals import literal
from lstm_deploy.exporters.c.shape_inference import ValueInfo
from lstm_deploy.exporters.c.sizes import ONE, ZERO, Size
from lstm_deploy.exporters.c.values import Value
from lstm_deploy.exporters.c.weights import Weights

Handler: TypeAlias = "Callable[[Translator, onnx.NodeProto], None]"
"""Adds what a node of one operator does; raises `InputError`, naming the node, where C cannot express it."""


class Translator:
    """What operators translate with; `lines`, `temporaries`, `kernels`, `helpers` and `weights` are the result."""

    infos: Mapping[str, ValueInfo]
    constants: Mapping[str, Array]
    quantized: frozenset[str]

    def __init__(self, infos: Mapping[str, ValueInfo], constants: Mapping[str, Array], quantized: frozenset[str]):
        """`quantized` names the nodes whose weights are to be int8."""
        self.infos, self.constants, self.quantized = infos, constants, quantized
        self.values: dict[str, Value] = {}
        self.lines: list[str] = []
        self.temporaries: list[Value] = []
        self.kernels: set[str] = set()
        self.helpers: set[str] = set()
        self.weights: Weights = Weights()

    def read_input(self, name: str, pointer: str) -> None:
        """Declare an input of the graph."""
        info = self.infos[name]
        self.values[name] = Value.array(info.shape, C_TYPES[info.dtype], pointer)

    def write_output(self, name: str, pointer: str) -> None:
        """Copy an output of the graph to where it belongs."""
        value = self.value(name)
        if value.is_contiguous:
            self.lines.append(f"memcpy({pointer}, {value.pointer}, {value.size} * sizeof({value.c_type}));")
        else:
            self.copy(value, Value.array(value.shape, value.c_type, pointer))

    def value(self, name: str) -> Value:
        """The value of a name, whether computed, a weight, or known before the model runs."""
        if name not in self.values:
            self.values[name] = self._constant_value(name)
        return self.values[name]

    def inputs(self, node: onnx.NodeProto) -> list[Value]:
        """The values of the inputs that a node has."""
        return [self.value(name) for name in node.input if name]

    def constant(self, name: str) -> Array | None:
        """The numbers of a name where they are the same for every input and number of steps."""
        if name in self.constants:
            return self.constants[name]
        return self.infos[name].constant if name in self.infos else None

    def integers(self, node: onnx.NodeProto, position: int, attribute: str = "") -> list[int] | None:
        """Constant integers that are an input or, in older operators, an attribute; none if they are not given."""
        given = attributes(node)
        if attribute and attribute in given:
            return [int(number) for number in np.atleast_1d(given[attribute])]
        if not (name := input_name(node, position)):
            return None
        if (constant := self.constant(name)) is None:
            raise refusal(node, f"takes {attribute or 'a parameter'} that is computed")
        return [int(number) for number in np.atleast_1d(constant)]

    def sizes(self, node: onnx.NodeProto, position: int) -> list[Size] | None:
        """Integers that may depend on the steps; none if they are not given."""
        if not (name := input_name(node, position)):
            return None
        if (constant := self.constant(name)) is not None:
            return [Size.of(int(number)) for number in np.atleast_1d(constant)]
        if name not in self.infos or (polynomials := self.infos[name].polynomials) is None:
            raise refusal(node, "takes a place or a size that is computed")
        return list(polynomials)

    def stored(self, name: str, array: Array) -> Value:
        """An array among the weights."""
        shape = tuple(Size.of(size) for size in array.shape)
        return Value.array(shape, C_TYPES[str(array.dtype)], self.weights.add(name, array))

    def output(self, name: str) -> Value:
        """A new array for an output of a node."""
        info = self.infos[name]
        self.values[name] = self.temporary(info.shape, _c_type(name, info.dtype))
        return self.values[name]

    def temporary(self, shape: tuple[Size, ...], c_type: str) -> Value:
        """A new array."""
        array = Value.array(shape, c_type, f"t{len(self.temporaries)}_")
        self.temporaries.append(array)
        return array

    def view(self, name: str, value: Value, strides: Sequence[Size], offset: Size = ZERO) -> None:
        """Let an output of a node be the memory of another value."""
        shape = self.infos[name].shape
        self.values[name] = value._replace(shape=shape, strides=tuple(strides), offset=value.offset + offset)

    def contiguous(self, value: Value) -> Value:
        """The same numbers without gaps."""
        if value.is_contiguous:
            return value
        array = self.temporary(value.shape, value.c_type)
        self.copy(value, array)
        return array

    def with_contiguous_rows(self, value: Value) -> Value:
        """The same numbers without gaps along the last axis, as kernels take them."""
        has_gaps = value.literal or (value.strides[-1] != ONE and value.shape[-1] != ONE)
        return self.contiguous(value) if has_gaps else value

    def copy(self, source: Value, target: Value) -> None:
        """Copy all entries of a value to another of its shape."""
        self.loop(source.shape, lambda i: f"{target.at(i)} = {source.at(i)};")

    def loop(self, shape: Sequence[Size], body: Callable[[list[str]], str]) -> None:
        """A statement for each entry of an array of this shape; `body` gets its indices."""
        indices, depth = [], 0
        for axis, size in enumerate(shape):
            if size == ONE:
                indices.append("0")
                continue
            index = f"i{axis}"
            self.lines.append(f"{'  ' * depth}for (size_t {index} = 0; {index} < {size}; {index}++)")
            indices.append(index)
            depth += 1
        self.lines.append("  " * depth + body(indices))

    def _constant_value(self, name: str) -> Value:
        array = self.constant(name)
        if array is None:
            info = self.infos[name]
            if info.polynomials is None or len(info.polynomials) != 1:
                raise InputError(f"C cannot express {name}, which depends on the steps; leave out --format c.")
            c_type = C_TYPES[info.dtype]
            return Value.constant(info.shape, c_type, f"({c_type}){info.polynomials[0]}")
        c_type = _c_type(name, str(array.dtype))
        if array.size and (array == array.flat[0]).all():
            return Value.constant(tuple(Size.of(size) for size in array.shape), c_type, literal(array.flat[0]))
        return self.stored(name, array)


def _c_type(name: str, dtype: str) -> str:
    if dtype not in C_TYPES:
        raise InputError(f"{name} is {dtype}, which is not written as C; leave out --format c.")
    return C_TYPES[dtype]


def attributes(node: onnx.NodeProto) -> dict[str, Any]:
    """The attributes of a node, texts as `str`."""
    values = {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}
    return {name: value.decode() if isinstance(value, bytes) else value for name, value in values.items()}


def input_name(node: onnx.NodeProto, position: int) -> str:
    """The name of an input, empty if the node does not have it."""
    return node.input[position] if len(node.input) > position else ""


def axis_of(node: onnx.NodeProto, rank: int, default: int = -1) -> int:
    """The axis that a node works on, from 0."""
    axis = int(attributes(node).get("axis", default))
    return axis + rank if axis < 0 else axis


def refusal(node: onnx.NodeProto, reason: str) -> InputError:
    """The error for a node that C cannot express."""
    name = f" ({node.name})" if node.name else ""
    return InputError(f"{node.op_type}{name} {reason}, so this model cannot be C; leave out --format c.")
