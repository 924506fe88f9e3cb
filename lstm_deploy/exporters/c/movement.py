"""Operators that move numbers: views where strides can express them, else copies."""

import numpy as np
import onnx

from lstm_deploy.artifacts import rows_int8
from lstm_deploy.contract import C_TYPES
from lstm_deploy.exporters.c.literals import literal
from lstm_deploy.exporters.c.sizes import ONE, ZERO, Size
from lstm_deploy.exporters.c.translator import Translator, attributes, axis_of, input_name, refusal
from lstm_deploy.exporters.c.values import Value, contiguous


def reshape(t: Translator, node: onnx.NodeProto) -> None:
    """Another shape, with the entries in the same order."""
    value, shape = t.value(node.input[0]), t.infos[node.output[0]].shape
    if value.literal:
        t.view(node.output[0], value, [ZERO] * len(shape))
        return
    if not value.is_contiguous:
        old = [(size, stride) for size, stride in zip(value.shape, value.strides, strict=True) if size != ONE]
        if [size for size, _ in old] == [size for size in shape if size != ONE]:
            strides = iter(stride for _, stride in old)
            t.view(node.output[0], value, [ZERO if size == ONE else next(strides) for size in shape])
            return
        value = t.contiguous(value)
    t.view(node.output[0], value, contiguous(shape))


def transpose(t: Translator, node: onnx.NodeProto) -> None:
    """The axes in another order."""
    value = t.value(node.input[0])
    order = attributes(node).get("perm", list(reversed(range(len(value.shape)))))
    t.view(node.output[0], value, [value.strides[axis] for axis in order])


def expand(t: Translator, node: onnx.NodeProto) -> None:
    """A larger shape, by broadcasting."""
    t.values[node.output[0]] = t.value(node.input[0]).broadcast(t.infos[node.output[0]].shape)


def slice_(t: Translator, node: onnx.NodeProto) -> None:
    """Every so many entries between two places, along some axes."""
    value = t.value(node.input[0])
    starts = t.sizes(node, 1) or []
    axes = t.integers(node, 3) or list(range(len(starts)))
    steps = t.integers(node, 4) or [1] * len(starts)
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


def split(t: Translator, node: onnx.NodeProto) -> None:
    """Consecutive parts along an axis."""
    value = t.value(node.input[0])
    axis, offset = axis_of(node, len(value.shape), 0), ZERO
    for name in node.output:
        t.view(name, value, value.strides, offset)
        offset = offset + t.infos[name].shape[axis] * value.strides[axis]


def concat(t: Translator, node: onnx.NodeProto) -> None:
    """Values one after the other along an axis."""
    out = t.output(node.output[0])
    axis, offset = axis_of(node, len(out.shape)), ZERO
    for part in t.inputs(node):
        t.copy(part, out._replace(shape=part.shape, offset=offset))
        offset = offset + part.shape[axis] * out.strides[axis]


def pad(t: Translator, node: onnx.NodeProto) -> None:
    """A constant around a value."""
    if attributes(node).get("mode", "constant") != "constant":
        raise refusal(node, "does not pad with a constant")
    value, out = t.value(node.input[0]), t.output(node.output[0])
    pads = t.integers(node, 1) or []
    fill = t.value(node.input[2]).at([]) if input_name(node, 2) else "0"
    axes = t.integers(node, 3) or list(range(len(value.shape)))
    offset = ZERO
    for before, after, axis in zip(pads, pads[len(axes) :], axes, strict=False):
        if before < 0 or after < 0:
            raise refusal(node, "cuts instead of padding")
        offset = offset + out.strides[axis] * before
    t.loop(out.shape, lambda i: f"{out.at(i)} = {fill};")
    t.copy(value, out._replace(shape=value.shape, offset=offset))


def gather(t: Translator, node: onnx.NodeProto) -> None:
    """Entries at given places of an axis: a view for one place known before, else a lookup."""
    table = t.constant(node.input[0])
    axis = axis_of(node, table.ndim if table is not None else len(t.value(node.input[0]).shape), 0)
    if (index := _known_index(t, node.input[1])) is not None:
        data = t.value(node.input[0])
        if index.number is not None and index.number < 0:
            index = data.shape[axis] + index
        strides = [stride for number, stride in enumerate(data.strides) if number != axis]
        t.view(node.output[0], data, strides, index * data.strides[axis])
        return
    indices, out = t.value(node.input[1]), t.output(node.output[0])
    width = len(indices.shape)
    rows = table if table is not None and table.ndim == 2 and axis == 0 else None
    if rows is not None and np.array_equal(rows, np.eye(len(rows))):  # a row of the identity is one-hot
        t.loop(out.shape, lambda i: f"{out.at(i)} = {indices.at(i[:-1])} == (int64_t){i[-1]};")
        return
    scale: Value | None = None
    if rows is not None and node.name in t.quantized:
        rounded, scales = rows_int8(rows)
        data, scale = t.stored(f"{node.input[0]}_bytes", rounded), t.stored(f"{node.input[0]}_scales", scales)
    else:
        data = t.value(node.input[0])
    if not data.literal:
        t.helpers.add("place_of")

    def body(i: list[str]) -> str:
        place = f"place_of({indices.at(i[axis : axis + width])}, {data.shape[axis]})"
        factor = f" * {scale.at([place])}" if scale else ""
        return f"{out.at(i)} = {data.at([*i[:axis], place, *i[axis + width :]])}{factor};"

    t.loop(out.shape, body)


def _known_index(t: Translator, name: str) -> Size | None:
    """The one place that `name` holds, if it is one and known before the model runs."""
    places = t.constant(name)
    if places is not None:
        return Size.of(int(places)) if places.ndim == 0 else None
    polynomials = t.infos[name].polynomials if name in t.infos else None
    return polynomials[0] if polynomials and len(polynomials) == 1 else None


def gather_elements(t: Translator, node: onnx.NodeProto) -> None:
    """Along an axis, the entry at the place that the indices hold at the same entry."""
    data, indices, out = t.value(node.input[0]), t.value(node.input[1]), t.output(node.output[0])
    axis = axis_of(node, len(data.shape), 0)
    t.helpers.add("place_of")

    def body(i: list[str]) -> str:
        place = f"place_of({indices.at(i)}, {data.shape[axis]})"
        return f"{out.at(i)} = {data.at([*i[:axis], place, *i[axis + 1 :]])};"

    t.loop(out.shape, body)


def one_hot(t: Translator, node: onnx.NodeProto) -> None:
    """A constant at given places, another elsewhere."""
    indices, values, out = t.value(node.input[0]), t.constant(node.input[2]), t.output(node.output[0])
    axis = axis_of(node, len(out.shape))
    if values is None:
        raise refusal(node, "has values that are computed")
    off, on = (literal(number) for number in values)

    def body(i: list[str]) -> str:
        place = indices.at([*i[:axis], *i[axis + 1 :]])
        return f"{out.at(i)} = {place} == (int64_t){i[axis]} ? {on} : {off};"

    t.loop(out.shape, body)


def range_(t: Translator, node: onnx.NodeProto) -> None:
    """Numbers from a start, a step apart."""
    start, step = t.value(node.input[0]), t.value(node.input[2])
    out = t.output(node.output[0])
    t.loop(out.shape, lambda i: f"{out.at(i)} = {start.at([])} + ({out.c_type}){i[0]} * {step.at([])};")


def constant_of_shape(t: Translator, node: onnx.NodeProto) -> None:
    """One number in all entries."""
    info, value = t.infos[node.output[0]], attributes(node).get("value")
    number = onnx.numpy_helper.to_array(value).flat[0] if value is not None else np.float32(0)
    t.values[node.output[0]] = Value.constant(info.shape, C_TYPES[info.dtype], literal(number))
