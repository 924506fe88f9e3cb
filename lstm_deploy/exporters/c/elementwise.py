"""Operators that compute each entry of their output from the same entry of their inputs."""

import re

import numpy as np
import onnx

from lstm_deploy.exporters.c.literals import literal
from lstm_deploy.exporters.c.translator import Handler, Translator, attributes, input_name, refusal


def elementwise(expression: str, *, integers: str | None = None, **defaults: float) -> Handler:
    """An operator as a C `expression` of the entries of its inputs, `{0}`, `{1}` and so on.

    `integers` replaces it for integers; if it is empty, they are refused. Attributes that are floats are available as
    `{name}`; `defaults` are the values of those that a node does not have.
    """
    arity = 1 + max(int(operand) for operand in re.findall(r"\{(\d)\}", expression))

    def translate(t: Translator, node: onnx.NodeProto) -> None:
        out = t.output(node.output[0])
        inputs = [value.broadcast(out.shape) for value in t.inputs(node)]
        if len(inputs) != arity:
            raise refusal(node, f"has {len(inputs)} inputs")
        text = expression if inputs[0].c_type == "float" or integers is None else integers
        if not text:
            raise refusal(node, "works on whole numbers that are computed")
        if "clipped(" in text:
            t.helpers.add("clipped")
        given = {**defaults, **attributes(node)}
        floats = {name: literal(np.float32(value)) for name, value in given.items() if isinstance(value, float)}
        t.loop(out.shape, lambda i: f"{out.at(i)} = {text.format(*(value.at(i) for value in inputs), **floats)};")

    return translate


def clip(t: Translator, node: onnx.NodeProto) -> None:
    """Values between two bounds, either of which may be absent."""
    x, out = t.value(node.input[0]), t.output(node.output[0])
    least, most = (
        t.value(name).at([]) if (name := input_name(node, position)) else unbounded
        for position, unbounded in ((1, "-INFINITY"), (2, "INFINITY"))
    )
    t.loop(
        out.shape, lambda i: f"{out.at(i)} = {x.at(i)} < {least} ? {least} : {x.at(i)} > {most} ? {most} : {x.at(i)};"
    )


def cast(t: Translator, node: onnx.NodeProto) -> None:
    """The same values in another type."""
    x, out = t.value(node.input[0]), t.output(node.output[0])
    converted = "{} != 0" if t.infos[node.output[0]].dtype == "bool" else f"({out.c_type}){{}}"
    t.loop(out.shape, lambda i: f"{out.at(i)} = {converted.format(x.at(i))};")


def batch_normalization(t: Translator, node: onnx.NodeProto) -> None:
    """Each channel, the second axis, times a factor plus an offset."""
    parameters = [t.constant(name) for name in node.input[1:5]]
    if any(value is None for value in parameters):
        raise refusal(node, "has parameters that are computed")
    scale, bias, mean, variance = (np.asarray(value, np.float64) for value in parameters)
    factor = scale / np.sqrt(variance + attributes(node).get("epsilon", 1e-5))
    x, out = t.value(node.input[0]), t.output(node.output[0])
    a = t.stored(f"{node.input[1]}_factor", factor.astype(np.float32))
    b = t.stored(f"{node.input[1]}_offset", (bias - mean * factor).astype(np.float32))
    t.loop(x.shape, lambda i: f"{out.at(i)} = {x.at(i)} * {a.at([i[1]])} + {b.at([i[1]])};")
