"""Operators that combine the entries along an axis or several."""

import numpy as np
import onnx

from lstm_deploy.exporters.c.literals import literal
from lstm_deploy.exporters.c.sizes import ONE, product
from lstm_deploy.exporters.c.translator import Handler, Translator, attributes, axis_of, input_name, refusal


def reduction(start: str, update: str, result: str = "sum", *, integers: tuple[str, str] | None = None) -> Handler:
    """An operator that updates `sum`, which begins at `start`, with each entry `{x}`, `{count}` of them.

    `integers` replaces `start` and `update` for integers.
    """

    def translate(t: Translator, node: onnx.NodeProto) -> None:
        x, out = t.value(node.input[0]), t.output(node.output[0])
        given, rank = attributes(node), len(x.shape)
        axes = t.integers(node, 1, "axes")
        if not axes and given.get("noop_with_empty_axes"):
            raise refusal(node, "reduces nothing")
        axes = sorted(axis % rank for axis in axes or range(rank))
        c_type, (begin, step) = "float", (start, update)
        if x.c_type != "float":
            c_type, (begin, step) = "int64_t", integers or (start, update)
        loops = "".join(f"for (size_t k{axis} = 0; k{axis} < {x.shape[axis]}; k{axis}++) " for axis in axes)
        keeps_axes = given.get("keepdims", 1)
        count = f"({x.c_type}){product([x.shape[axis] for axis in axes])}"

        def body(indices: list[str]) -> str:
            rest = iter(index for axis, index in enumerate(indices) if not keeps_axes or axis not in axes)
            entry = x.at([f"k{axis}" if axis in axes else next(rest) for axis in range(rank)])
            stored = f"{out.at(indices)} = ({out.c_type})({result.format(count=count)});"
            return f"{{ {c_type} sum = {begin}; {loops}{step.format(x=entry)} {stored} }}"

        t.loop(out.shape, body)

    return translate


def arg_extremum(comparison: str) -> Handler:
    """The place of the first entry along an axis that no other one exceeds by `comparison`, `>` or `<`."""

    def translate(t: Translator, node: onnx.NodeProto) -> None:
        x, out = t.value(node.input[0]), t.output(node.output[0])
        given, axis = attributes(node), axis_of(node, len(x.shape), 0)
        if given.get("select_last_index"):
            raise refusal(node, "wants the last of equal numbers")

        def body(indices: list[str]) -> str:
            rest = [*indices[:axis], *indices[axis + (1 if given.get("keepdims", 1) else 0) :]]
            entry, best = (x.at([*rest[:axis], index, *rest[axis:]]) for index in ("k", "best"))
            loop = f"for (size_t k = 1; k < {x.shape[axis]}; k++) if ({entry} {comparison} {best}) best = k;"
            return f"{{ size_t best = 0; {loop} {out.at(indices)} = (int64_t)best; }}"

        t.loop(out.shape, body)

    return translate


def softmax(t: Translator, node: onnx.NodeProto) -> None:
    """Softmax or LogSoftmax along an axis."""
    x, out = t.value(node.input[0]), t.output(node.output[0])
    axis, log = axis_of(node, len(x.shape)), node.op_type == "LogSoftmax"

    def body(indices: list[str]) -> str:
        entry = [*indices[:axis], "k", *indices[axis + 1 :]]
        source, target = x.at(entry), out.at(entry)
        loop = f"for (size_t k = 0; k < {x.shape[axis]}; k++)"
        power = f"expf({source} - most)"
        summed = f"sum += {power}" if log else f"sum += {target} = {power}"
        last = f"{target} = {source} - most - logf(sum)" if log else f"{target} /= sum"
        return (
            f"{{ float most = -INFINITY, sum = 0; {loop} if ({source} > most) most = {source}; "
            f"{loop} {summed}; {loop} {last}; }}"
        )

    t.loop([*x.shape[:axis], ONE, *x.shape[axis + 1 :]], body)


def layer_normalization(t: Translator, node: onnx.NodeProto) -> None:
    """Mean 0 and variance 1 over the last axes, then a scale and a bias."""
    x, out = t.value(node.input[0]), t.output(node.output[0])
    axis = axis_of(node, len(x.shape))
    if any(node.output[1:]):
        raise refusal(node, "also gives its mean")
    scale = t.value(node.input[1]).broadcast(x.shape)
    bias = t.value(node.input[2]).broadcast(x.shape) if input_name(node, 2) else None
    epsilon = literal(np.float32(attributes(node).get("epsilon", 1e-5)))
    inner = x.shape[axis:]
    count = f"(float){product(inner)}"
    inner_indices = ["0" if size == ONE else f"k{number}" for number, size in enumerate(inner)]
    loops = " ".join(
        f"for (size_t {k} = 0; {k} < {size}; {k}++)" for k, size in zip(inner_indices, inner, strict=True) if k != "0"
    )

    def body(indices: list[str]) -> str:
        entry = [*indices[:axis], *inner_indices]
        value = f"({x.at(entry)} - mean) * scale * {scale.at(entry)}" + (f" + {bias.at(entry)}" if bias else "")
        return (
            f"{{ float mean = 0, scale = 0; {loops} mean += {x.at(entry)}; mean /= {count}; "
            f"{loops} scale += ({x.at(entry)} - mean) * ({x.at(entry)} - mean); "
            f"scale = 1 / sqrtf(scale / {count} + {epsilon}); {loops} {out.at(entry)} = {value}; }}"
        )

    t.loop((*x.shape[:axis], *[ONE] * len(inner)), body)
