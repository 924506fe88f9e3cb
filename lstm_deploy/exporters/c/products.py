"""Matrix products: by weights as calls of the kernel of a dense layer, of two computed values as loops."""

import numpy as np
import onnx

from lstm_deploy.artifacts import dense_int8
from lstm_deploy.contract import Array
from lstm_deploy.exporters.c.sizes import ONE
from lstm_deploy.exporters.c.translator import Translator, attributes, input_name, refusal


def matmul(t: Translator, node: onnx.NodeProto) -> None:
    """A product, batched over the leading axes."""
    weight = t.constant(node.input[1])
    if weight is not None and weight.ndim == 2 and weight.dtype == np.float32:
        _dense(t, node, weight.T, None)
        return
    a, b, out = t.value(node.input[0]), t.value(node.input[1]), t.output(node.output[0])
    if len(a.shape) < 2 or len(b.shape) < 2:
        raise refusal(node, "multiplies a vector")
    a, b = (value.broadcast((*out.shape[:-2], *value.shape[-2:])) for value in (a, b))
    inner = a.shape[-1]
    k, loop = ("0", "") if inner == ONE else ("k", f"for (size_t k = 0; k < {inner}; k++) ")

    def body(indices: list[str]) -> str:
        added = f"sum += {a.at([*indices[:-1], k])} * {b.at([*indices[:-2], k, indices[-1]])};"
        return f"{{ float sum = 0; {loop}{added} {out.at(indices)} = sum; }}"

    t.loop(out.shape, body)


def gemm(t: Translator, node: onnx.NodeProto) -> None:
    """A product with weights, plus a bias."""
    given = attributes(node)
    weight = t.constant(node.input[1])
    bias = t.constant(node.input[2]) if input_name(node, 2) else np.zeros(1, np.float32)
    if weight is None or bias is None or given.get("transA"):
        raise refusal(node, "multiplies what is no weight")
    rows = (weight if given.get("transB") else weight.T) * np.float32(given.get("alpha", 1.0))
    if bias.size not in (1, len(rows)):
        raise refusal(node, "adds a matrix")
    _dense(t, node, rows, np.broadcast_to(bias.reshape(-1) * np.float32(given.get("beta", 1.0)), (len(rows),)))


def _dense(t: Translator, node: onnx.NodeProto, rows: Array, bias: Array | None) -> None:
    """`rows [outputs, inputs]` times each vector along the last axis of the first input."""
    label, rows = node.input[1], np.ascontiguousarray(rows, np.float32)
    out, x = t.output(node.output[0]), t.with_contiguous_rows(t.value(node.input[0]))
    if node.name in t.quantized:
        kernel, pointers = "dense_int8", t.weights.add_int8(label, dense_int8(rows, bias), rows.shape[1])
    else:
        added = t.weights.add(f"{label}_bias", np.ascontiguousarray(bias, np.float32)) if bias is not None else "NULL"
        kernel, pointers = "dense", f"{t.weights.add(label, rows)}, {added}"
    t.kernels.add(kernel)

    def body(indices: list[str]) -> str:
        source, target = (value.at([*indices, "0"]) for value in (x, out))
        return f"{kernel}({pointers}, {rows.shape[1]}, {rows.shape[0]}, &{source}, &{target});"

    t.loop(out.shape[:-1], body)
