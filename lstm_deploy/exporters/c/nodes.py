"""The nodes of an ONNX graph as C statements, for one row of a batch.

A value is an array in memory with a stride for each axis, so that what only moves numbers (transposing, slicing,
broadcasting) costs nothing. Every other node becomes loops over its output; LSTM layers and matrices that are weights
become calls of the kernels.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import onnx

from lstm_deploy.artifacts import pack_dense_int8, pack_lstm, pack_lstm_int8, quantize_rows
from lstm_deploy.contract import C_TYPES, Array
from lstm_deploy.errors import InputError
from lstm_deploy.exporters.c.literals import literal
from lstm_deploy.exporters.c.shapes import Known, attributes
from lstm_deploy.exporters.c.sizes import ONE, ZERO, Size, product
from lstm_deploy.exporters.c.weights import Weights

ELEMENTWISE = {
    "Add": "{0} + {1}",
    "Sub": "{0} - {1}",
    "Mul": "{0} * {1}",
    "Div": "{0} / {1}",
    "Neg": "-{0}",
    "Reciprocal": "1 / {0}",
    "Abs": "({0} < 0 ? -{0} : {0})",
    "Sqrt": "sqrtf({0})",
    "Exp": "expf({0})",
    "Log": "logf({0})",
    "Sin": "sinf({0})",
    "Cos": "cosf({0})",
    "Erf": "erff({0})",
    "Tanh": "tanhf({0})",
    "Floor": "floorf({0})",
    "Ceil": "ceilf({0})",
    "Round": "rintf({0})",
    "Pow": "powf({0}, (float){1})",
    "Sigmoid": "1 / (1 + expf(-{0}))",
    "Relu": "({0} < 0 ? 0 : {0})",
    "LeakyRelu": "({0} < 0 ? {alpha} * {0} : {0})",
    "PRelu": "({0} < 0 ? {1} * {0} : {0})",
    "Elu": "({0} < 0 ? {alpha} * expm1f({0}) : {0})",
    "Selu": "({0} > 0 ? {gamma} * {0} : {gamma} * {alpha} * expm1f({0}))",
    "Celu": "({0} > 0 ? {0} : {alpha} * expm1f({0} / {alpha}))",
    "Softplus": "({0} > 0 ? {0} + log1pf(expf(-{0})) : log1pf(expf({0})))",
    "Softsign": "{0} / (1 + ({0} < 0 ? -{0} : {0}))",
    "HardSigmoid": "clipped({alpha} * {0} + {beta}, 0.0f, 1.0f)",
    "HardSwish": "{0} * clipped({0} / 6 + 0.5f, 0.0f, 1.0f)",
    "Mish": "{0} * tanhf({0} > 0 ? {0} + log1pf(expf(-{0})) : log1pf(expf({0})))",
    "Min": "({0} < {1} || {0} != {0} ? {0} : {1})",
    "Max": "({0} > {1} || {0} != {0} ? {0} : {1})",
    "Where": "({0} ? {1} : {2})",
    "Not": "!{0}",
    "And": "({0} && {1})",
    "Or": "({0} || {1})",
    "Equal": "({0} == {1})",
    "Less": "({0} < {1})",
    "LessOrEqual": "({0} <= {1})",
    "Greater": "({0} > {1})",
    "GreaterOrEqual": "({0} >= {1})",
    "IsNaN": "({0} != {0})",
    "Identity": "{0}",
}
"""What each operator makes of the entries of its inputs."""
DEFAULTS: dict[str, dict[str, float]] = {
    "LeakyRelu": {"alpha": 0.01},
    "Elu": {"alpha": 1.0},
    "Celu": {"alpha": 1.0},
    "Selu": {"alpha": 1.6732632423543772, "gamma": 1.0507009873554805},
    "HardSigmoid": {"alpha": 0.2, "beta": 0.5},
}
REDUCTIONS = {
    # What it begins with, what each entry does to it, and what becomes of it in the end.
    "ReduceSum": ("0", "sum += {x};", "sum"),
    "ReduceMean": ("0", "sum += {x};", "sum / {count}"),
    "ReduceSumSquare": ("0", "sum += {x} * {x};", "sum"),
    "ReduceL2": ("0", "sum += {x} * {x};", "sqrtf(sum)"),
    "ReduceL1": ("0", "sum += {x} < 0 ? -{x} : {x};", "sum"),
    "ReduceProd": ("1", "sum *= {x};", "sum"),
    "ReduceMax": ("-INFINITY", "if ({x} > sum || {x} != {x}) sum = {x};", "sum"),
    "ReduceMin": ("INFINITY", "if ({x} < sum || {x} != {x}) sum = {x};", "sum"),
}

WHOLE_REDUCTIONS = {
    "ReduceMax": ("INT64_MIN", "if ({x} > sum) sum = {x};"),
    "ReduceMin": ("INT64_MAX", "if ({x} < sum) sum = {x};"),
}
"""The same for whole numbers."""

READ = {"Reshape": 1, "Expand": 1, "Squeeze": 1, "Unsqueeze": 1, "Slice": 1, "Split": 1, "ConstantOfShape": 0}
"""How many inputs of an operator are values, and not what its shape is made of, where it is not all."""


class Value(NamedTuple):
    """An array, or a view of one: entry `[i, j]` is `buffer[offset + i * strides[0] + j * strides[1]]`."""

    shape: tuple[Size, ...]
    c_type: str
    buffer: str
    """The C expression of a pointer; empty for a `literal`."""
    strides: tuple[Size, ...]
    offset: Size = ZERO
    literal: str = ""
    """The C expression of what every entry is, in place of a buffer."""

    def at(self, indices: Sequence[str]) -> str:
        """The C expression of one entry."""
        if self.literal:
            return self.literal
        terms = [] if self.offset == ZERO else [str(self.offset)]
        for index, stride, size in zip(indices, self.strides, self.shape, strict=True):
            if index != "0" and stride != ZERO and size != ONE:
                terms.append(index if stride == ONE else f"{index} * {stride}")
        return f"{self.buffer}[{' + '.join(terms) or '0'}]"

    @property
    def pointer(self) -> str:
        """The C expression of the address of its first entry."""
        return self.buffer if self.offset == ZERO else f"{self.buffer} + {self.offset}"

    @property
    def is_contiguous(self) -> bool:
        wanted = contiguous(self.shape)
        return not self.literal and all(
            a == b or size == ONE for a, b, size in zip(self.strides, wanted, self.shape, strict=True)
        )


class Temporary(NamedTuple):
    """An array that the C code needs for the time of a call."""

    name: str
    c_type: str
    size: Size


class Translator:
    """Turns nodes into statements; `lines`, `temporaries`, `kernels` and `weights` are what comes of it."""

    def __init__(self, known: dict[str, Known], constants: dict[str, Array], quantized: frozenset[str]) -> None:
        """`quantized` names the nodes whose weights are to be int8."""
        self.known, self.constants, self.quantized = known, constants, quantized
        self.values: dict[str, Value] = {}
        self.lines: list[str] = []
        self.temporaries: list[Temporary] = []
        self.kernels: set[str] = set()
        self.helpers: set[str] = set()
        self.weights = Weights()

    def enter(self, name: str, pointer: str) -> None:
        """Declare an input of the graph."""
        known = self.known[name]
        c_type = C_TYPES[known.dtype]
        self.values[name] = Value(known.shape, c_type, pointer, contiguous(known.shape))

    def leave(self, name: str, pointer: str) -> None:
        """Copy an output of the graph to where it belongs."""
        value = self.value(name)
        target = Value(value.shape, value.c_type, pointer, contiguous(value.shape))
        if value.is_contiguous:
            size = product(value.shape)
            self.lines.append(f"memcpy({pointer}, {value.pointer}, {size} * sizeof({value.c_type}));")
        else:
            self.copy(value, target)

    def translate(self, node: onnx.NodeProto) -> None:
        """Add what a node does; raises `InputError`, naming it, where C cannot express it."""
        if all(self._is_known(name) for name in node.output if name):
            return
        handler = HANDLERS.get(node.op_type)
        if node.domain not in ("", "ai.onnx") or (handler is None and node.op_type not in ELEMENTWISE):
            raise refusal(node, "has no counterpart in C")
        if handler is not None:
            handler(self, node)
        else:
            self.elementwise(node, ELEMENTWISE[node.op_type])

    def value(self, name: str) -> Value:
        """The value of a name, whether computed, a weight, or known before."""
        if name not in self.values:
            self.values[name] = self._constant(name)
        return self.values[name]

    def constant(self, name: str) -> Array | None:
        """The numbers of a name where they are known and the same for every number of steps."""
        if name in self.constants:
            return self.constants[name]
        return self.known[name].constant if name in self.known else None

    def numbers(self, node: onnx.NodeProto, position: int, attribute: str = "") -> list[int] | None:
        """Whole numbers that are an input or, in older operators, an attribute; none if they are not given."""
        given = attributes(node)
        if attribute and attribute in given:
            return [int(number) for number in np.atleast_1d(given[attribute])]
        if len(node.input) <= position or not node.input[position]:
            return None
        constant = self.constant(node.input[position])
        if constant is None:
            raise refusal(node, f"takes {attribute or 'a parameter'} that is computed")
        return [int(number) for number in np.atleast_1d(constant)]

    def sizes(self, node: onnx.NodeProto, position: int) -> list[Size] | None:
        """Whole numbers that may depend on the steps; none if they are not given."""
        if len(node.input) <= position or not (name := node.input[position]):
            return None
        if (constant := self.constant(name)) is not None:
            return [Size.of(int(number)) for number in np.atleast_1d(constant)]
        affine = self.known[name].affine if name in self.known else None
        if affine is None:
            raise refusal(node, "takes a place or a size that is computed")
        return list(affine)

    def stored(self, name: str, array: Array) -> Value:
        """An array among the weights."""
        shape = tuple(Size.of(size) for size in array.shape)
        return Value(shape, C_TYPES[str(array.dtype)], self.weights.add(name, array), contiguous(shape))

    def result(self, name: str) -> Value:
        """A new array for an output of a node."""
        known = self.known[name]
        if known.dtype not in C_TYPES:
            raise InputError(f"{name} is {known.dtype}, which is not written as C; leave out --format c.")
        found = self.temporary(known.shape, C_TYPES[known.dtype])
        self.values[name] = found
        return found

    def temporary(self, shape: tuple[Size, ...], c_type: str) -> Value:
        name = f"t{len(self.temporaries)}_"
        self.temporaries.append(Temporary(name, c_type, product(shape)))
        return Value(shape, c_type, name, contiguous(shape))

    def view(self, name: str, value: Value, strides: Sequence[Size], offset: Size = ZERO) -> None:
        """Let an output of a node be the memory of another value."""
        shape = self.known[name].shape
        self.values[name] = value._replace(shape=shape, strides=tuple(strides), offset=value.offset + offset)

    def dense_copy(self, value: Value) -> Value:
        """The same numbers without gaps."""
        if value.is_contiguous:
            return value
        dense = self.temporary(value.shape, value.c_type)
        self.copy(value, dense)
        return dense

    def copy(self, source: Value, target: Value) -> None:
        """Copy all entries of a value to another of its shape."""
        self.loop(source.shape, lambda i: f"{target.at(i)} = {source.at(i)};")

    def loop(self, shape: Sequence[Size], body: Callable[[list[str]], str]) -> None:
        """A statement for each entry of an array of this shape; `body` gets its indices."""
        indices, depth = [], 0
        for number, size in enumerate(shape):
            if size == ONE:
                indices.append("0")
                continue
            index = f"i{number}"
            self.lines.append(f"{'  ' * depth}for (size_t {index} = 0; {index} < {size}; {index}++)")
            indices.append(index)
            depth += 1
        self.lines.append("  " * depth + body(indices))

    def elementwise(self, node: onnx.NodeProto, text: str) -> None:
        out = self.result(node.output[0])
        inputs = [broadcast(self.value(name), out.shape) for name in node.input if name]
        given = {**DEFAULTS.get(node.op_type, {}), **attributes(node)}
        named = {name: literal(np.float32(value)) for name, value in given.items() if isinstance(value, float)}
        if "clipped(" in text:
            self.helpers.add("clipped")
        whole = inputs[0].c_type != "float"
        if (node.op_type == "Div" and whole) or (node.op_type == "Pow" and whole):
            raise refusal(node, "works on whole numbers that are computed")
        if node.op_type in ("Min", "Max"):
            if len(inputs) != 2:
                raise refusal(node, f"has {len(inputs)} inputs")
            text = text if not whole else text.replace(" || {0} != {0}", "")

        def body(indices: list[str]) -> str:
            return f"{out.at(indices)} = {text.format(*(value.at(indices) for value in inputs), **named)};"

        self.loop(out.shape, body)

    def _is_known(self, name: str) -> bool:
        known = self.known.get(name)
        return known is not None and (known.constant is not None or known.affine is not None)

    def _constant(self, name: str) -> Value:
        array = self.constant(name)
        if array is None:
            known = self.known[name]
            if known.affine is None or len(known.affine) != 1:
                raise InputError(f"C cannot express {name}, which depends on the steps; leave out --format c.")
            c_type = C_TYPES[known.dtype]
            return Value(known.shape, c_type, "", (ZERO,) * len(known.shape), literal=f"({c_type}){known.affine[0]}")
        shape = tuple(Size.of(size) for size in array.shape)
        if (c_type := C_TYPES.get(str(array.dtype), "")) == "":
            raise InputError(f"{name} is {array.dtype}, which is not written as C; leave out --format c.")
        if array.size and (array == array.flat[0]).all():
            return Value(shape, c_type, "", (ZERO,) * array.ndim, literal=literal(array.flat[0]))
        return self.stored(name, array)


def needed(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    """The nodes whose values the outputs are made of, in order; what only tells a shape is known without them."""
    wanted = {value.name for value in model.graph.output}
    found = []
    for node in reversed(model.graph.node):
        if wanted & set(node.output):
            found.append(node)
            wanted |= set(node.input[: READ.get(node.op_type)])
    return found[::-1]


def contiguous(shape: Sequence[Size]) -> tuple[Size, ...]:
    """Strides of an array without gaps."""
    strides, step = [], ONE
    for size in reversed(shape):
        strides.append(step)
        step = step * size
    return tuple(reversed(strides))


def broadcast(value: Value, shape: Sequence[Size]) -> Value:
    """A value seen with the shape of an operation's output."""
    missing = len(shape) - len(value.shape)
    strides = [ZERO] * missing + [
        ZERO if size == ONE and wanted != ONE else stride
        for size, stride, wanted in zip(value.shape, value.strides, shape[missing:], strict=True)
    ]
    return value._replace(shape=tuple(shape), strides=tuple(strides))


def refusal(node: onnx.NodeProto, why: str) -> InputError:
    """The error for what cannot be expressed."""
    name = f" ({node.name})" if node.name else ""
    return InputError(f"{node.op_type}{name} {why}, so this model cannot be C; leave out --format c.")


def _axis(node: onnx.NodeProto, rank: int, default: int = -1) -> int:
    axis = int(attributes(node).get("axis", default))
    return axis + rank if axis < 0 else axis


class Layer(NamedTuple):
    """The weights of an LSTM node, by direction, in ONNX order."""

    w: Array
    r: Array
    bias: Array
    reversed: tuple[int, ...]
    """For each direction whether it goes through time backwards."""


def _lstm(t: Translator, node: onnx.NodeProto) -> None:
    """A layer, each direction by one call; `Y [seq, directions, 1, hidden]`, and the last state."""
    layer = _layer(t, node)
    directions, hidden = len(layer.w), layer.r.shape[2]
    x = t.value(node.input[0])
    if x.literal or (x.strides[2] != ONE and x.shape[2] != ONE):
        x = t.dense_copy(x)
    steps, row = x.shape[0], x.strides[0] if x.shape[0] != ONE else ZERO
    y = t.temporary((steps, Size.of(directions), ONE, Size.of(hidden)), "float")
    cell = t.temporary((Size.of(directions), ONE, Size.of(hidden)), "float")
    starts = [_start(t, node, position, directions * hidden) for position in (5, 6)]
    lengths = t.value(node.input[4]).at(["0"]) if len(node.input) > 4 and node.input[4] else ""
    count = f"count_of({lengths}, {steps})" if lengths else str(steps)
    if lengths:  # what lies beyond is 0
        t.helpers.add("count_of")
        t.lines.append(f"memset({y.buffer}, 0, {product(y.shape)} * sizeof(float));")
    for direction, backwards in enumerate(layer.reversed):
        place = Size.of(direction * hidden)
        start_h, start_c = (start._replace(offset=start.offset + place).pointer for start in starts)
        out, after = (value._replace(offset=place).pointer for value in (y, cell))
        label = f"{node.input[1]}{'_reverse' if direction else ''}"
        weights = layer.w[direction], layer.r[direction], layer.bias[direction]
        if node.name in t.quantized:
            kernel = "lstm_int8"
            given = t.weights.add_int8(label, pack_lstm_int8(*weights), max(layer.w.shape[2], hidden))
        else:
            kernel, given = "lstm", t.weights.add(label, pack_lstm(*weights))
        t.kernels.add(kernel)
        sizes = f"{layer.w.shape[2]}, {hidden}, {x.pointer}, {row}, {start_h}, {start_c}, {out}, {directions * hidden}"
        t.lines.append(f"{kernel}({given}, {sizes}, {after}, {count}, {backwards});")
    names = [*node.output, "", ""]
    if names[0]:
        t.values[names[0]] = y
    if names[2]:
        t.values[names[2]] = cell
    if names[1] and steps == ONE and not lengths:
        t.view(names[1], y, [Size.of(hidden), Size.of(hidden), ONE])
    elif names[1]:
        final = t.result(names[1])
        for direction, backwards in enumerate(layer.reversed):
            last = "0" if backwards else f"({count} - 1)"
            source = f"{y.buffer} + {last} * {directions * hidden} + {direction * hidden}"
            t.lines.append(f"memcpy({final.buffer} + {direction * hidden}, {source}, {hidden} * sizeof(float));")


def _layer(t: Translator, node: onnx.NodeProto) -> Layer:
    given = attributes(node)
    odd = [name for name in ("activations", "clip", "input_forget", "layout") if given.get(name)]
    if odd or (len(node.input) > 7 and node.input[7]):
        raise refusal(node, f"has {odd[0] if odd else 'peepholes'}")
    w, r = (t.constant(name) for name in node.input[1:3])
    if w is None or r is None:
        raise refusal(node, "has weights that are computed")
    bias: Array | None = np.zeros((len(w), 2 * w.shape[1]), np.float32)
    if len(node.input) > 3 and node.input[3]:
        bias = t.constant(node.input[3])
    if bias is None:
        raise refusal(node, "has a bias that is computed")
    return Layer(
        w, r, bias, {"forward": (0,), "reverse": (1,), "bidirectional": (0, 1)}[given.get("direction", "forward")]
    )


def _start(t: Translator, node: onnx.NodeProto, position: int, size: int) -> Value:
    """The state that a layer starts from, zeros where the node has none."""
    if len(node.input) > position and node.input[position]:
        return t.dense_copy(t.value(node.input[position]))
    return t.stored(f"{node.output[0]}_start", np.zeros(size, np.float32))


def _matmul(t: Translator, node: onnx.NodeProto) -> None:
    a, weight = t.value(node.input[0]), t.constant(node.input[1])
    if weight is not None and weight.ndim == 2 and weight.dtype == np.float32:
        _dense(t, node, a, weight.T, None, node.input[1])
        return
    b, out = t.value(node.input[1]), t.result(node.output[0])
    if len(a.shape) < 2 or len(b.shape) < 2:
        raise refusal(node, "multiplies a vector")
    lead = out.shape[:-2]
    a = broadcast(a, (*lead, *a.shape[-2:]))
    b = broadcast(b, (*lead, *b.shape[-2:]))
    inner = a.shape[-1]

    def body(indices: list[str]) -> str:
        first, second = a.at([*indices[:-1], "k"]), b.at([*indices[:-2], "k", indices[-1]])
        loop = f"for (size_t k = 0; k < {inner}; k++) sum += {first} * {second};"
        if inner == ONE:
            loop = f"sum += {a.at([*indices[:-1], '0'])} * {b.at([*indices[:-2], '0', indices[-1]])};"
        return f"{{ float sum = 0; {loop} {out.at(indices)} = sum; }}"

    t.loop(out.shape, body)


def _gemm(t: Translator, node: onnx.NodeProto) -> None:
    given = attributes(node)
    weight = t.constant(node.input[1])
    bias = t.constant(node.input[2]) if len(node.input) > 2 and node.input[2] else np.zeros(1, np.float32)
    if weight is None or bias is None or given.get("transA"):
        raise refusal(node, "multiplies what is no weight")
    rows = (weight if given.get("transB") else weight.T) * np.float32(given.get("alpha", 1.0))
    if bias.size not in (1, len(rows)):
        raise refusal(node, "adds a matrix")
    added = np.broadcast_to(bias.reshape(-1) * np.float32(given.get("beta", 1.0)), (len(rows),))
    _dense(t, node, t.value(node.input[0]), rows, added, node.input[1])


def _dense(t: Translator, node: onnx.NodeProto, x: Value, rows: Array, bias: Array | None, label: str) -> None:
    """`rows [outputs, inputs]` times each vector along the last axis of `x`."""
    rows = np.ascontiguousarray(rows, np.float32)
    out = t.result(node.output[0])
    if x.literal or (x.strides[-1] != ONE and x.shape[-1] != ONE):
        x = t.dense_copy(x)
    if node.name in t.quantized:
        kernel, pointers = "dense_int8", t.weights.add_int8(label, pack_dense_int8(rows, bias), rows.shape[1])
    else:
        added = t.weights.add(f"{label}_bias", np.ascontiguousarray(bias, np.float32)) if bias is not None else "NULL"
        kernel, pointers = "dense", f"{t.weights.add(label, rows)}, {added}"
    t.kernels.add(kernel)

    def body(indices: list[str]) -> str:
        source, target = (value.at([*indices, "0"]) for value in (x, out))
        return f"{kernel}({pointers}, {rows.shape[1]}, {rows.shape[0]}, &{source}, &{target});"

    t.loop(out.shape[:-1], body)


def _softmax(t: Translator, node: onnx.NodeProto) -> None:
    x, out = t.value(node.input[0]), t.result(node.output[0])
    axis, log = _axis(node, len(x.shape)), node.op_type == "LogSoftmax"
    shape = [ONE if number == axis else size for number, size in enumerate(x.shape)]

    def body(indices: list[str]) -> str:
        places = [*indices[:axis], "k", *indices[axis + 1 :]]
        source, target = x.at(places), out.at(places)
        each = f"for (size_t k = 0; k < {x.shape[axis]}; k++)"
        last = f"{target} = {source} - most - logf(sum)" if log else f"{target} /= sum"
        power = f"expf({source} - most)"
        return (
            f"{{ float most = -INFINITY, sum = 0; {each} if ({source} > most) most = {source}; "
            f"{each} {f'sum += {power}' if log else f'sum += {target} = {power}'}; {each} {last}; }}"
        )

    t.loop(shape, body)


def _layer_norm(t: Translator, node: onnx.NodeProto) -> None:
    x, out = t.value(node.input[0]), t.result(node.output[0])
    rank = len(x.shape)
    axis = _axis(node, rank)
    if any(node.output[1:]):
        raise refusal(node, "also gives its mean")
    scale = broadcast(t.value(node.input[1]), x.shape)
    bias = broadcast(t.value(node.input[2]), x.shape) if len(node.input) > 2 and node.input[2] else None
    epsilon = literal(np.float32(attributes(node).get("epsilon", 1e-5)))
    inner = x.shape[axis:]
    count = f"(float){product(inner)}"

    def body(indices: list[str]) -> str:
        places = [*indices[:axis], *("0" if size == ONE else f"k{number}" for number, size in enumerate(inner))]
        each = " ".join(
            f"for (size_t k{number} = 0; k{number} < {size}; k{number}++)"
            for number, size in enumerate(inner)
            if size != ONE
        )
        value = f"({x.at(places)} - mean) * scale * {scale.at(places)}" + (f" + {bias.at(places)}" if bias else "")
        return (
            f"{{ float mean = 0, scale = 0; {each} mean += {x.at(places)}; mean /= {count}; "
            f"{each} scale += ({x.at(places)} - mean) * ({x.at(places)} - mean); "
            f"scale = 1 / sqrtf(scale / {count} + {epsilon}); {each} {out.at(places)} = {value}; }}"
        )

    t.loop((*x.shape[:axis], *[ONE] * (rank - axis)), lambda indices: body(indices[:axis]))


def _batch_norm(t: Translator, node: onnx.NodeProto) -> None:
    given = [t.constant(name) for name in node.input[1:5]]
    if any(value is None for value in given):
        raise refusal(node, "has parameters that are computed")
    scale, bias, mean, variance = (np.asarray(value, np.float64) for value in given)
    factor = scale / np.sqrt(variance + attributes(node).get("epsilon", 1e-5))
    offset = bias - mean * factor
    x, out = t.value(node.input[0]), t.result(node.output[0])
    a = t.stored(f"{node.input[1]}_factor", factor.astype(np.float32))
    b = t.stored(f"{node.input[1]}_offset", offset.astype(np.float32))
    t.loop(x.shape, lambda i: f"{out.at(i)} = {x.at(i)} * {a.at([i[1]])} + {b.at([i[1]])};")


def _clip(t: Translator, node: onnx.NodeProto) -> None:
    x, out = t.value(node.input[0]), t.result(node.output[0])
    bounds = [
        t.value(node.input[position]).at([]) if len(node.input) > position and node.input[position] else default
        for position, default in ((1, "-INFINITY"), (2, "INFINITY"))
    ]
    least, most = bounds
    t.loop(
        out.shape, lambda i: f"{out.at(i)} = {x.at(i)} < {least} ? {least} : {x.at(i)} > {most} ? {most} : {x.at(i)};"
    )


def _cast(t: Translator, node: onnx.NodeProto) -> None:
    x, out = t.value(node.input[0]), t.result(node.output[0])
    wanted = "{} != 0" if t.known[node.output[0]].dtype == "bool" else f"({out.c_type}){{}}"
    t.loop(out.shape, lambda i: f"{out.at(i)} = {wanted.format(x.at(i))};")


def _gather(t: Translator, node: onnx.NodeProto) -> None:
    table, places = t.constant(node.input[0]), t.constant(node.input[1])
    axis = _axis(node, table.ndim if table is not None else len(t.value(node.input[0]).shape), 0)
    known = t.known[node.output[0]].shape
    if places is None and node.input[1] in t.known and (affine := t.known[node.input[1]].affine) and len(affine) == 1:
        index: Size | None = affine[0]
    else:
        index = Size.of(int(places)) if places is not None and places.ndim == 0 else None
    if index is not None:  # one place that is known: a view
        data = t.value(node.input[0])
        if index.number is not None and index.number < 0:
            index = data.shape[axis] + index
        strides = [stride for number, stride in enumerate(data.strides) if number != axis]
        t.view(node.output[0], data, strides, index * data.strides[axis])
        return
    indices, out = t.value(node.input[1]), t.result(node.output[0])
    width = len(indices.shape)
    rows = table if table is not None and table.ndim == 2 and axis == 0 else None
    if rows is not None and np.array_equal(rows, np.eye(len(rows))):  # a row of the identity is one-hot
        t.loop(known, lambda i: f"{out.at(i)} = {indices.at(i[:-1])} == (int64_t){i[-1]};")
        return
    scale: Value | None = None
    if rows is not None and node.name in t.quantized:
        rounded, scales = quantize_rows(rows)
        data, scale = t.stored(f"{node.input[0]}_bytes", rounded), t.stored(f"{node.input[0]}_scales", scales)
    else:
        data = t.value(node.input[0])
    if not data.literal:
        t.helpers.add("place_of")

    def body(found: list[str]) -> str:
        place = f"place_of({indices.at(found[axis : axis + width])}, {data.shape[axis]})"
        factor = f" * {scale.at([place])}" if scale else ""
        return f"{out.at(found)} = {data.at([*found[:axis], place, *found[axis + width :]])}{factor};"

    t.loop(known, body)


def _gather_elements(t: Translator, node: onnx.NodeProto) -> None:
    data, indices, out = t.value(node.input[0]), t.value(node.input[1]), t.result(node.output[0])
    axis = _axis(node, len(data.shape), 0)
    t.helpers.add("place_of")

    def body(found: list[str]) -> str:
        where = [*found[:axis], f"place_of({indices.at(found)}, {data.shape[axis]})", *found[axis + 1 :]]
        return f"{out.at(found)} = {data.at(where)};"

    t.loop(out.shape, body)


def _reshape(t: Translator, node: onnx.NodeProto) -> None:
    """Whatever keeps the order of the entries."""
    value, shape = t.value(node.input[0]), t.known[node.output[0]].shape
    if value.literal:
        t.view(node.output[0], value, [ZERO] * len(shape))
        return
    if not value.is_contiguous:
        old = [(size, stride) for size, stride in zip(value.shape, value.strides, strict=True) if size != ONE]
        if [size for size, _ in old] == [size for size in shape if size != ONE]:
            strides = iter(stride for _, stride in old)
            t.view(node.output[0], value, [ZERO if size == ONE else next(strides) for size in shape])
            return
        value = t.dense_copy(value)
    t.view(node.output[0], value, contiguous(shape))


def _transpose(t: Translator, node: onnx.NodeProto) -> None:
    value = t.value(node.input[0])
    order = attributes(node).get("perm", list(reversed(range(len(value.shape)))))
    t.view(node.output[0], value, [value.strides[axis] for axis in order])


def _slice(t: Translator, node: onnx.NodeProto) -> None:
    value = t.value(node.input[0])
    starts = t.sizes(node, 1) or []
    axes = t.numbers(node, 3) or list(range(len(starts)))
    steps = t.numbers(node, 4) or [1] * len(starts)
    strides, offset = list(value.strides), ZERO
    for start, axis, step in zip(starts, axes, steps, strict=True):
        size = value.shape[axis]
        if start.number is not None and start.number < 0:
            start = size + start  # noqa: PLW2901 - from the end
        if size.number is not None and start.number is not None:
            start = Size.of(min(max(start.number, 0), size.number if step > 0 else size.number - 1))  # noqa: PLW2901
        elif start.number is not None and start.number >= 2**31:  # as far as there is
            start = size - 1  # noqa: PLW2901
        offset = offset + start * value.strides[axis]
        strides[axis] = value.strides[axis] * step
    t.view(node.output[0], value, strides, offset)


def _split(t: Translator, node: onnx.NodeProto) -> None:
    value = t.value(node.input[0])
    axis, offset = _axis(node, len(value.shape), 0), ZERO
    for name in node.output:
        t.view(name, value, value.strides, offset)
        offset = offset + t.known[name].shape[axis] * value.strides[axis]


def _concat(t: Translator, node: onnx.NodeProto) -> None:
    out = t.result(node.output[0])
    axis, offset = _axis(node, len(out.shape)), ZERO
    for name in node.input:
        part = t.value(name)
        target = out._replace(shape=part.shape, offset=offset)
        t.copy(part, target)
        offset = offset + part.shape[axis] * out.strides[axis]


def _expand(t: Translator, node: onnx.NodeProto) -> None:
    value = broadcast(t.value(node.input[0]), t.known[node.output[0]].shape)
    t.values[node.output[0]] = value


def _pad(t: Translator, node: onnx.NodeProto) -> None:
    if attributes(node).get("mode", "constant") != "constant":
        raise refusal(node, "does not pad with a constant")
    value, out = t.value(node.input[0]), t.result(node.output[0])
    pads = t.numbers(node, 1) or []
    filled = t.value(node.input[2]).at([]) if len(node.input) > 2 and node.input[2] else "0"
    axes = t.numbers(node, 3) or list(range(len(value.shape)))
    offset = ZERO
    for before, after, axis in zip(pads, pads[len(axes) :], axes, strict=False):
        if before < 0 or after < 0:
            raise refusal(node, "cuts instead of padding")
        offset = offset + out.strides[axis] * before
    t.loop(out.shape, lambda i: f"{out.at(i)} = {filled};")
    t.copy(value, out._replace(shape=value.shape, offset=offset))


def _range(t: Translator, node: onnx.NodeProto) -> None:
    start, step = t.value(node.input[0]), t.value(node.input[2])
    out = t.result(node.output[0])
    t.loop(out.shape, lambda i: f"{out.at(i)} = {start.at([])} + ({out.c_type}){i[0]} * {step.at([])};")


def _constant_of_shape(t: Translator, node: onnx.NodeProto) -> None:
    shape = t.known[node.output[0]].shape
    value = attributes(node).get("value")
    number = onnx.numpy_helper.to_array(value).flat[0] if value is not None else np.float32(0)
    c_type = C_TYPES[t.known[node.output[0]].dtype]
    t.values[node.output[0]] = Value(shape, c_type, "", (ZERO,) * len(shape), literal=literal(number))


def _reduce(t: Translator, node: onnx.NodeProto) -> None:
    x, out = t.value(node.input[0]), t.result(node.output[0])
    given, rank = attributes(node), len(x.shape)
    axes = t.numbers(node, 1, "axes")
    if not axes:
        if given.get("noop_with_empty_axes"):
            raise refusal(node, "reduces nothing")
        axes = list(range(rank))
    axes = sorted(axis % rank for axis in axes)
    begin, each, end = REDUCTIONS[node.op_type]
    if x.c_type != "float":
        begin, each = WHOLE_REDUCTIONS.get(node.op_type, (begin, each))
    loops = "".join(f"for (size_t k{axis} = 0; k{axis} < {x.shape[axis]}; k{axis}++) " for axis in axes)
    kept = given.get("keepdims", 1)
    count = f"({x.c_type}){product([x.shape[axis] for axis in axes])}"

    def body(indices: list[str]) -> str:
        rest = iter(index for number, index in enumerate(indices) if not kept or number not in axes)
        entry = x.at([f"k{axis}" if axis in axes else next(rest) for axis in range(rank)])
        added = each.format(x=entry)
        result = f"{out.at(indices)} = ({out.c_type})({end.format(count=count)});"
        return f"{{ {'float' if x.c_type == 'float' else 'int64_t'} sum = {begin}; {loops}{added} {result} }}"

    t.loop(out.shape, body)


def _arg_max(t: Translator, node: onnx.NodeProto) -> None:
    x, out = t.value(node.input[0]), t.result(node.output[0])
    given, axis = attributes(node), _axis(node, len(x.shape), 0)
    if given.get("select_last_index"):
        raise refusal(node, "wants the last of equal numbers")
    sign = ">" if node.op_type == "ArgMax" else "<"

    def body(indices: list[str]) -> str:
        rest = [*indices[:axis], *indices[axis + (1 if given.get("keepdims", 1) else 0) :]]
        now, best = (x.at([*rest[:axis], place, *rest[axis:]]) for place in ("k", "best"))
        loop = f"for (size_t k = 1; k < {x.shape[axis]}; k++) if ({now} {sign} {best}) best = k;"
        return f"{{ size_t best = 0; {loop} {out.at(indices)} = (int64_t)best; }}"

    t.loop(out.shape, body)


def _one_hot(t: Translator, node: onnx.NodeProto) -> None:
    indices, values, out = t.value(node.input[0]), t.constant(node.input[2]), t.result(node.output[0])
    axis = _axis(node, len(out.shape))
    if values is None:
        raise refusal(node, "has values that are computed")
    off, on = (literal(number) for number in values)

    def body(found: list[str]) -> str:
        entry = indices.at([*found[:axis], *found[axis + 1 :]])
        return f"{out.at(found)} = {entry} == (int64_t){found[axis]} ? {on} : {off};"

    t.loop(out.shape, body)


HANDLERS: dict[str, Callable[[Translator, onnx.NodeProto], None]] = {
    "LSTM": _lstm,
    "MatMul": _matmul,
    "Gemm": _gemm,
    "Softmax": _softmax,
    "LogSoftmax": _softmax,
    "LayerNormalization": _layer_norm,
    "BatchNormalization": _batch_norm,
    "Clip": _clip,
    "Cast": _cast,
    "Gather": _gather,
    "GatherElements": _gather_elements,
    **dict.fromkeys(("Reshape", "Squeeze", "Unsqueeze", "Flatten", "Dropout"), _reshape),
    "Transpose": _transpose,
    "Slice": _slice,
    "Split": _split,
    "Concat": _concat,
    "Expand": _expand,
    "Pad": _pad,
    "Range": _range,
    "ConstantOfShape": _constant_of_shape,
    **dict.fromkeys(REDUCTIONS, _reduce),
    "ArgMax": _arg_max,
    "ArgMin": _arg_max,
    "OneHot": _one_hot,
}
"""Operators that are more than one expression for each entry."""
