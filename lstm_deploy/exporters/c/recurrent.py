"""Recurrent layers, each direction as one call of the kernel of its cell."""

import numpy as np
import onnx

from lstm_deploy.artifacts import FIRST_STATE, cell_of_node, differing_attributes, pack_layer, pack_layer_int8
from lstm_deploy.contract import Array, Cell
from lstm_deploy.exporters.c.kernels import kernel_name
from lstm_deploy.exporters.c.sizes import ONE, ZERO, Size
from lstm_deploy.exporters.c.translator import Translator, attributes, input_name, refusal
from lstm_deploy.exporters.c.values import Value

BACKWARDS: dict[str, tuple[int, ...]] = {"forward": (0,), "reverse": (1,), "bidirectional": (0, 1)}
"""For each direction of a node, whether it goes through time backwards."""


def recurrent(t: Translator, node: onnx.NodeProto) -> None:
    """A layer of one direction or both: `Y [seq, directions, 1, hidden]`, and the last state."""
    cell = _cell(node)
    w, r, bias = _weights(t, node, cell)
    backwards = BACKWARDS[attributes(node).get("direction", "forward")]
    directions, hidden = len(w), r.shape[2]
    x = t.with_contiguous_rows(t.value(node.input[0]))
    steps, row = x.shape[0], x.strides[0] if x.shape[0] != ONE else ZERO
    y = t.temporary((steps, Size.of(directions), ONE, Size.of(hidden)), "float")
    # Of the states, the first is the output; the others have memory of their own.
    further = [t.temporary((Size.of(directions), ONE, Size.of(hidden)), "float") for _ in cell.states[1:]]
    starts = [_initial_state(t, node, FIRST_STATE + k, directions * hidden) for k in range(len(cell.states))]
    lengths = t.value(node.input[4]).at(["0"]) if input_name(node, 4) else ""
    count = f"count_of({lengths}, {steps})" if lengths else str(steps)
    if lengths:  # what lies beyond is 0
        t.helpers.add("count_of")
        t.lines.append(f"memset({y.buffer}, 0, {y.size} * sizeof(float));")
    for direction, is_backwards in enumerate(backwards):
        offset = Size.of(direction * hidden)
        before = [start._replace(offset=start.offset + offset).pointer for start in starts]
        out, *after = (value._replace(offset=offset).pointer for value in (y, *further))
        kernel, weights = _kernel(t, node, cell, direction, (w[direction], r[direction], bias[direction]))
        arguments = [weights, w.shape[2], hidden, x.pointer, row, *before, out, directions * hidden, *after]
        t.lines.append(f"{kernel}({', '.join(map(str, arguments))}, {count}, {is_backwards});")
    y_name, h_name, *names = [*node.output, "", ""][: 1 + len(cell.states)]
    if y_name:
        t.values[y_name] = y
    t.values |= {name: value for name, value in zip(names, further, strict=True) if name}
    if h_name and steps == ONE and not lengths:
        t.view(h_name, y, [Size.of(hidden), Size.of(hidden), ONE])
    elif h_name:
        final = t.output(h_name)
        for direction, is_backwards in enumerate(backwards):
            last = "0" if is_backwards else f"({count} - 1)"
            source = f"{y.buffer} + {last} * {directions * hidden} + {direction * hidden}"
            t.lines.append(f"memcpy({final.buffer} + {direction * hidden}, {source}, {hidden} * sizeof(float));")


def _cell(node: onnx.NodeProto) -> Cell:
    """The kind of cell that a node computes; raises `InputError` where it is none that we know."""
    cell = cell_of_node(node)
    if cell is None:
        raise refusal(node, f"has the attributes {', '.join(differing_attributes(node))}, which no cell of PyTorch has")
    return cell


def _kernel(
    t: Translator, node: onnx.NodeProto, cell: Cell, direction: int, weights: tuple[Array, Array, Array]
) -> tuple[str, str]:
    """The name of the kernel for a direction, and the C arguments with its weights."""
    label = f"{node.input[1]}{'_reverse' if direction else ''}"
    int8 = node.name in t.quantized
    if int8:
        longest = max(weights[0].shape[1], weights[1].shape[1])
        arguments = t.weights.add_int8(label, pack_layer_int8(cell, *weights), longest)
    else:
        arguments = t.weights.add(label, pack_layer(cell, *weights))
    kernel = kernel_name(cell, int8=int8)
    t.kernels.add(kernel)
    return kernel, arguments


def _weights(t: Translator, node: onnx.NodeProto, cell: Cell) -> tuple[Array, Array, Array]:
    """`W`, `R` and `B` of a node, by direction, in ONNX order."""
    given = attributes(node)
    if given.get("layout") or input_name(node, FIRST_STATE + len(cell.states)):
        raise refusal(node, f"has {'layout' if given.get('layout') else 'peepholes'}")
    w, r = (t.constant(name) for name in node.input[1:3])
    if w is None or r is None:
        raise refusal(node, "has weights that are computed")
    bias: Array | None = np.zeros((len(w), 2 * w.shape[1]), np.float32)
    if input_name(node, 3):
        bias = t.constant(node.input[3])
    if bias is None:
        raise refusal(node, "has a bias that is computed")
    return w, r, bias


def _initial_state(t: Translator, node: onnx.NodeProto, position: int, size: int) -> Value:
    """The state that a layer starts from, zeros where the node has none."""
    if name := input_name(node, position):
        return t.contiguous(t.value(name))
    return t.stored(f"{node.output[0]}_start", np.zeros(size, np.float32))
