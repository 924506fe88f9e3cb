"""LSTM layers, each direction as one call of a kernel."""

import numpy as np
import onnx

from lstm_deploy.artifacts import lstm_int8, packed_lstm
from lstm_deploy.contract import Array
from lstm_deploy.exporters.c.sizes import ONE, ZERO, Size
from lstm_deploy.exporters.c.translator import Translator, attributes, input_name, refusal
from lstm_deploy.exporters.c.values import Value

BACKWARDS = {"forward": (0,), "reverse": (1,), "bidirectional": (0, 1)}
"""For each direction of a node, whether it goes through time backwards."""


def lstm(t: Translator, node: onnx.NodeProto) -> None:
    """A layer of one direction or both: `Y [seq, directions, 1, hidden]`, and the last state."""
    w, r, bias = _weights(t, node)
    backwards = BACKWARDS[attributes(node).get("direction", "forward")]
    directions, hidden = len(w), r.shape[2]
    x = t.with_contiguous_rows(t.value(node.input[0]))
    steps, row = x.shape[0], x.strides[0] if x.shape[0] != ONE else ZERO
    y = t.temporary((steps, Size.of(directions), ONE, Size.of(hidden)), "float")
    cell = t.temporary((Size.of(directions), ONE, Size.of(hidden)), "float")
    starts = [_initial_state(t, node, position, directions * hidden) for position in (5, 6)]
    lengths = t.value(node.input[4]).at(["0"]) if input_name(node, 4) else ""
    count = f"count_of({lengths}, {steps})" if lengths else str(steps)
    if lengths:  # what lies beyond is 0
        t.helpers.add("count_of")
        t.lines.append(f"memset({y.buffer}, 0, {y.size} * sizeof(float));")
    for direction, is_backwards in enumerate(backwards):
        offset = Size.of(direction * hidden)
        h, c = (start._replace(offset=start.offset + offset).pointer for start in starts)
        out, c_out = (value._replace(offset=offset).pointer for value in (y, cell))
        kernel, weights = _kernel(t, node, direction, (w[direction], r[direction], bias[direction]))
        sizes = f"{w.shape[2]}, {hidden}, {x.pointer}, {row}, {h}, {c}, {out}, {directions * hidden}"
        t.lines.append(f"{kernel}({weights}, {sizes}, {c_out}, {count}, {is_backwards});")
    y_name, h_name, c_name = [*node.output, "", ""][:3]
    if y_name:
        t.values[y_name] = y
    if c_name:
        t.values[c_name] = cell
    if h_name and steps == ONE and not lengths:
        t.view(h_name, y, [Size.of(hidden), Size.of(hidden), ONE])
    elif h_name:
        final = t.output(h_name)
        for direction, is_backwards in enumerate(backwards):
            last = "0" if is_backwards else f"({count} - 1)"
            source = f"{y.buffer} + {last} * {directions * hidden} + {direction * hidden}"
            t.lines.append(f"memcpy({final.buffer} + {direction * hidden}, {source}, {hidden} * sizeof(float));")


def _kernel(
    t: Translator, node: onnx.NodeProto, direction: int, weights: tuple[Array, Array, Array]
) -> tuple[str, str]:
    """The name of the kernel for a direction, and the C arguments with its weights."""
    label = f"{node.input[1]}{'_reverse' if direction else ''}"
    if node.name in t.quantized:
        kernel = "lstm_int8"
        arguments = t.weights.add_int8(label, lstm_int8(*weights), max(weights[0].shape[1], weights[1].shape[1]))
    else:
        kernel, arguments = "lstm", t.weights.add(label, packed_lstm(*weights))
    t.kernels.add(kernel)
    return kernel, arguments


def _weights(t: Translator, node: onnx.NodeProto) -> tuple[Array, Array, Array]:
    """`W`, `R` and `B` of a node, by direction, in ONNX order."""
    given = attributes(node)
    unsupported = [name for name in ("activations", "clip", "input_forget", "layout") if given.get(name)]
    if unsupported or input_name(node, 7):
        raise refusal(node, f"has {unsupported[0] if unsupported else 'peepholes'}")
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
