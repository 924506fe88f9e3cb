"""int8 ONNX: every LSTM layer becomes `DynamicQuantizeLSTM`, large matrices and embeddings become integers.

onnxruntime has no such operator for other cells. Of these, large layers become functions that `int8_functions` writes.

x86 CPUs without VNNI multiply activations of 0 to 255 by signed weights in pairs, and add each pair in 16 bits, which
saturate (the instruction is `vpmaddubsw`). So a scale here leaves two neighbouring weights of one sign no more than
`int8_saturation.PAIR_LIMIT` together: the sums are the same integers on every CPU, at the speed of signed weights.
"""

import math
import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
from msgspec import Struct
from onnx import helper, numpy_helper

from lstm_deploy.artifacts import (
    EXTERNAL_ABOVE,
    cell_of_node,
    int8_functions,
    int8_saturation,
    onnx_graph,
    weights_file,
)
from lstm_deploy.contract import RECURRENT_OPERATORS, Array
from lstm_deploy.errors import InputError

FLOAT = onnx.TensorProto.FLOAT
LEAST_HIDDEN = 384
"""The hidden size from which layers were seen to be faster than in float32 (`docs/precision.md`): a `Scan` starts up to
a dozen nodes for each step, which takes longer than all of a small float32 layer."""
LEAST_SHARE = 0.05
"""The share of all weights below which a matrix or an embedding stays in float: quantizing its input would cost more
time than it saves bytes."""
LEVELS = 127
"""The largest weight, so that zero is exact and both signs have the same steps. Two weights that are `LEVELS` together
before they are rounded are at most one more afterwards, which is `int8_saturation.PAIR_LIMIT`."""
UNSIGNED_ZERO = 128
MICROSOFT = "com.microsoft"
SUFFIXES = ("_quantized", "_scale", "_zero_point")
"""Suffixes of the names of a quantized value, its scale and its zero point."""

WeightRange = Literal["paired", "full", "unsigned"]
"""`paired`: signed, scaled so that no pair saturates. `full`: signed with all 8 bits, for CPUs with VNNI alone.
`unsigned`: all 8 bits as bytes from 0 to 255, which every CPU adds exactly, those without VNNI more slowly."""


class Settings(Struct, frozen=True, kw_only=True):
    """How weights are rounded."""

    weights: WeightRange = "paired"
    per_channel: bool = True
    """A scale for each row of a gate, not one for the whole matrix: one large weight then costs only its own row."""

    @classmethod
    def of(cls, described: Mapping[str, Any]) -> "Settings":
        """The settings that `described` names so."""
        signed: WeightRange = "full" if described["cpus"] == "with VNNI" else "paired"
        weights: WeightRange = "unsigned" if described["weights"] == "uint8" else signed
        return cls(weights=weights, per_channel=described["scales"] == "per channel")

    def described(self) -> dict[str, Any]:
        """The settings as messages and the manifest name them."""
        return {
            "weights": "uint8" if self.weights == "unsigned" else "int8",
            "scales": "per channel" if self.per_channel else "per tensor",
            "cpus": "with VNNI" if self.weights == "full" else "any",
        }


def quantizable_nodes(model: onnx.ModelProto, format_: str) -> dict[str, onnx.NodeProto]:
    """The recurrent layers, large matrices and embeddings in the graph's order, by a label that a user understands.

    Those that an artifact of `format_` can have in int8. Raises `InputError` for a graph that cannot be quantized as a
    whole: quantized already, in float16, with layers whose weights are computed, or without any.
    """
    if (precision := onnx_graph.precision(model)) != "float32":
        raise InputError(f"The model is in {precision} already; quantize the float32 model that it was made from.")
    if not any(node.op_type in RECURRENT_OPERATORS for node in model.graph.node):
        raise InputError(
            "The graph has no LSTM, GRU or RNN node, so there is none to quantize; export the model with lstm-deploy."
        )
    constants = {tensor.name for tensor in model.graph.initializer}
    shapes = {tensor.name: list(tensor.dims) for tensor in model.graph.initializer if tensor.data_type == FLOAT}
    least = LEAST_SHARE * sum(map(math.prod, shapes.values()))
    labelled: dict[str, onnx.NodeProto] = {}
    for node in model.graph.node:
        if node.op_type in RECURRENT_OPERATORS:
            if format_ == "onnx" and float_reason(node, shapes):
                continue
            if not constants >= set(node.input[1:3]):
                raise InputError(
                    f"The weights of {node.name or f'the {node.op_type}'} are computed in the graph, so it would stay "
                    "in float; export the model with lstm-deploy, which writes them as constants."
                )
            labelled[_unique(_label(node), labelled)] = node
        elif node.op_type in ("MatMul", "Gather"):
            weight, kind = (node.input[1], "matrix") if node.op_type == "MatMul" else (node.input[0], "embedding")
            shape = shapes.get(weight, [])
            # What brings a projected state back is inverted at every step: an error there would add up.
            if len(shape) == 2 and math.prod(shape) >= least and "P_inverse_l" not in weight:
                labelled[_unique(f"the {kind} {shape}", labelled)] = node
    return labelled


def float_reason(node: onnx.NodeProto, shapes: Mapping[str, Sequence[int]]) -> str:
    """Why a recurrent node has to stay in float32 in ONNX, by the shapes of its weights; empty if it has not."""
    cell = RECURRENT_OPERATORS[node.op_type]
    if cell.onnxruntime_quantizes:
        return ""
    recurrent = shapes.get(node.input[2], ())
    if recurrent and recurrent[2] < LEAST_HIDDEN:
        reason = f"is slower than float32's where the hidden size is below {LEAST_HIDDEN}"
    elif len(node.input) > 4 and node.input[4]:
        reason = "takes no lengths of rows"
    else:
        return ""
    return f"onnxruntime has no int8 {cell.title}, and lstm-deploy's {reason}"


def quantize_onnx(source: Path, target: Path, settings: Settings | None = None, kept: Collection[str] = ()) -> None:
    """Write the float32 graph at `source` in int8 to `target`, but for the `quantizable_nodes` with labels in `kept`.

    Raises `InputError` as `quantizable_nodes` does.
    """
    settings = settings or Settings()
    nodes = quantizable_nodes(onnx_graph.load(source), "onnx")
    lowered = {node.output[0] for label, node in nodes.items() if label not in kept}
    model = onnx.load(source)  # with the weights that lie beside it
    graph = model.graph
    rewriter = _Rewriter(graph, settings)
    rewritten = [
        new for node in graph.node for new in (rewriter.rewrite(node) if node.output[0] in lowered else [node])
    ]
    graph.initializer.extend(rewriter.constants.values())
    onnx_graph.replace_nodes(graph, rewritten)
    model.functions.extend(rewriter.functions.values())
    for domain in (MICROSOFT, *rewriter.functions):
        if all(item.domain != domain for item in model.opset_import):
            model.opset_import.append(helper.make_opsetid(domain, 1))
    if settings.weights == "full":
        model.metadata_props.add(key=int8_saturation.CPUS_KEY, value=int8_saturation.VNNI)
    weights_file(target).unlink(missing_ok=True)
    if sum(len(tensor.raw_data) for tensor in graph.initializer) > EXTERNAL_ABOVE:
        raise InputError("The model is beyond 2 GB in int8 too, which is not supported; export it in float32.")
    onnx.save_model(model, target)


class _Rewriter:
    """Turns nodes into nodes that compute with integers; a weight or an input that several share is rounded once."""

    def __init__(self, graph: onnx.GraphProto, settings: Settings) -> None:
        self.settings = settings
        self.constants: dict[str, onnx.TensorProto] = {}
        """The initializers that the new nodes need, by name."""
        self.functions: dict[str, onnx.FunctionProto] = {}
        """The functions that they call, by domain."""
        self._floats = {tensor.name: tensor for tensor in graph.initializer}
        self._taken = {value.name for value in (*graph.input, *graph.output, *graph.initializer)}
        self._taken |= {name for node in onnx_graph.nodes(graph) for name in (*node.input, *node.output)}
        self._weights: dict[tuple[str, bool], list[str]] = {}
        """Names of a quantized weight, its scale and zero point, by its own name and whether it is an embedding."""
        self._inputs: dict[str, list[str]] = {}
        """The same for an activation."""

    def rewrite(self, node: onnx.NodeProto) -> list[onnx.NodeProto]:
        """The nodes that replace one of the `quantizable_nodes`."""
        if node.op_type == "MatMul":
            return self._matmul(node)
        return self._gather(node) if node.op_type == "Gather" else [self._recurrent(node)]

    def _recurrent(self, node: onnx.NodeProto) -> onnx.NodeProto:
        inputs = [*node.input, *[""] * (8 - len(node.input))]
        scales = []
        for position in (1, 2):  # W and R, which this operator has transposed: [directions, inputs, gates * hidden]
            inputs[position], *names = self._constant(inputs[position], transposed=True)
            scales += names
        cell, domain = cell_of_node(node) or RECURRENT_OPERATORS[node.op_type], MICROSOFT
        if not cell.onnxruntime_quantizes:
            function = int8_functions.of_layer(cell, self._floats[node.input[2]].dims[0])
            domain = function.domain
            self.functions[domain] = function
        new = helper.make_node(cell.quantized_operator, [*inputs, *scales], node.output, node.name, domain=domain)
        new.attribute.extend(item for item in node.attribute if item.name != "layout")  # 0, all that onnxruntime knows
        return new

    def _matmul(self, node: onnx.NodeProto) -> list[onnx.NodeProto]:
        """The nodes that onnxruntime fuses into one product of integers."""
        x, matrix = node.input
        nodes = []
        weights, scale, zero = self._constant(matrix)
        if x not in self._inputs:
            self._inputs[x] = self._free(x, *SUFFIXES)
            nodes.append(helper.make_node("DynamicQuantizeLinear", [x], self._inputs[x]))
        activations, x_scale, x_zero = self._inputs[x]
        sums, cast, step = self._free(node.output[0], "_sums", "_cast", "_step")
        return [
            *nodes,
            helper.make_node("MatMulInteger", [activations, weights, x_zero, zero], [sums], node.name),
            helper.make_node("Cast", [sums], [cast], to=FLOAT),
            helper.make_node("Mul", [x_scale, scale], [step]),
            helper.make_node("Mul", [cast, step], node.output),
        ]

    def _gather(self, node: onnx.NodeProto) -> list[onnx.NodeProto]:
        """An embedding: nothing is added up, so all 8 bits can be used, with one scale."""
        table, *rest = node.input
        names = self._constant(table, is_embedding=True)
        (gathered,) = self._free(node.output[0], "_gathered")
        new = helper.make_node("Gather", [names[0], *rest], [gathered], node.name)
        new.attribute.extend(node.attribute)
        return [new, helper.make_node("DequantizeLinear", [gathered, *names[1:]], node.output)]

    def _constant(self, name: str, *, transposed: bool = False, is_embedding: bool = False) -> list[str]:
        """The names of a rounded weight, its scale and its zero point."""
        if (name, is_embedding) not in self._weights:
            value: Array = numpy_helper.to_array(self._floats[name])
            settings = Settings(weights="full", per_channel=False) if is_embedding else self.settings
            names = self._free(name, *SUFFIXES)
            arrays = quantize_weights(value.swapaxes(1, 2) if transposed else value, settings)
            self.constants |= {
                key: numpy_helper.from_array(array, key) for key, array in zip(names, arrays, strict=True)
            }
            self._weights[name, is_embedding] = names
        return self._weights[name, is_embedding]

    def _free(self, base: str, *suffixes: str) -> list[str]:
        """Names that begin with `base` and that nothing in the graph has."""
        while any(base + suffix in self._taken for suffix in suffixes):
            base += "_"
        names = [base + suffix for suffix in suffixes]
        self._taken.update(names)
        return names


def quantize_weights(weights: Array, settings: Settings) -> tuple[Array, Array, Array]:
    """Weights `[…, inputs, outputs]` as integers of the same shape, with their scale and zero point.

    `[…, outputs]` of these, or `[…]` where the scale is not per channel: a weight is `(integer - zero point) * scale`.
    Raises `InputError` for weights that are not finite.
    """
    exact = weights.astype(np.float64)
    if not np.isfinite(exact).all():
        raise InputError("A weight is NaN or infinite, which no integer represents; repair the model.")
    largest = np.abs(exact).max(axis=-2)
    if settings.weights == "paired":
        padded = np.concatenate([exact, np.zeros_like(exact[..., : exact.shape[-2] % 2, :])], axis=-2)
        pairs = padded[..., 0::2, :] + padded[..., 1::2, :]  # with different signs, never larger than one of them
        largest = np.maximum(largest, np.abs(pairs).max(axis=-2))
    if not settings.per_channel:
        largest = largest.max(axis=-1)
    normal = largest > LEVELS * np.finfo(np.float32).tiny  # below, a scale would be 0
    scale = (np.where(normal, largest, 1.0) / LEVELS).astype(np.float32)
    integers = np.rint(exact / (scale[..., None, :] if settings.per_channel else scale[..., None, None]))
    offset = UNSIGNED_ZERO if settings.weights == "unsigned" else 0
    dtype = np.uint8 if offset else np.int8
    return (integers + offset).astype(dtype), scale, np.full_like(scale, offset, dtype)


def layer_counts(model: onnx.ModelProto) -> tuple[int, int]:
    """How many recurrent nodes are quantized, and how many there are."""
    count = onnx_graph.operator_counts(model)
    quantized = sum(count[name] for name, cell in RECURRENT_OPERATORS.items() if name == cell.quantized_operator)
    return quantized, sum(count[name] for name in RECURRENT_OPERATORS)


def _label(node: onnx.NodeProto) -> str:
    """`lstm, layer 0` for a layer that `export` wrote; else the node's own name."""
    match = re.fullmatch(r"module\.(?:(.+)\.)?W_l(\d+)", node.input[1])
    return f"{match[1] or f'the {node.op_type}'}, layer {match[2]}" if match else node.name


def _unique(label: str, taken: Collection[str]) -> str:
    number = sum(other == label or other.startswith(f"{label} (") for other in taken)
    return f"{label} ({number + 1})" if number else label
