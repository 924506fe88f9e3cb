"""Products of 8-bit integers in an ONNX graph, from any exporter, that saturate on x86 CPUs without VNNI.

Such a CPU multiplies unsigned by signed bytes and adds the products of two neighbouring inputs in 16 bits, which
saturate (`vpmaddubsw`). The rules here are what onnxruntime was observed to do; the graph is read, not run.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
from onnx import numpy_helper
from onnx.reference import ReferenceEvaluator

from lstm_deploy.artifacts.onnx_graph import inlined
from lstm_deploy.contract import CELLS, Array
from lstm_deploy.errors import InputError, one_line

PAIR_LIMIT = 128
"""The largest sum of two neighbouring weights: 255 times 128 fits 16 bits, 255 times 129 does not."""
CPUS_KEY = "lstm_deploy.cpus"
"""Key in the `metadata_props` of an int8 file that is only for some CPUs."""
VNNI = "vnni"
"""Its value for weights that saturate on x86 CPUs without VNNI."""
VNNI_ONLY = "for CPUs with VNNI only, as the file says: its sums saturate on others"
QDQ_OPERATORS = ("MatMul", "Gemm", "Conv")
"""Operators that onnxruntime computes in integers if both factors come from `DequantizeLinear`."""
SIGNED_IN_32_BITS = ("MatMulInteger", "MatMulIntegerToFloat", "QLinearMatMul", "QGemm")
"""Operators that add in 32 bits if the activations are signed, too."""
_FIRST = ("MatMulInteger", "MatMulIntegerToFloat", "DynamicQuantizeMatMul", "QAttention", *QDQ_OPERATORS)
_THIRD = ("QLinearMatMul", "QGemm", "QLinearConv")
WEIGHTS: dict[str, tuple[int, ...]] = {
    **{cell.quantized_operator: (1, 2) for cell in CELLS.values()},
    **dict.fromkeys(_FIRST, (1,)),
    **dict.fromkeys(_THIRD, (3,)),
}
"""Operators that multiply by 8-bit weights, and the positions of these inputs. `ConvInteger` takes its weights where
others take the activations, so it does not saturate."""
MOVES = ("Identity", "Transpose", "Reshape", "Squeeze", "Unsqueeze", "Flatten")
"""Operators that move numbers without changing them."""


class _Scope(NamedTuple):
    """The names that are visible in a graph: its own, and those of the graphs around it."""

    constants: dict[str, onnx.TensorProto]
    producers: dict[str, onnx.NodeProto]
    types: dict[str, int]
    """Element types of the graph's inputs."""
    folder: Path
    """The folder of external weights."""

    def inside(self, graph: onnx.GraphProto) -> "_Scope":
        """The scope of a subgraph, whose names shadow those of this one."""
        return _Scope(
            self.constants | {tensor.name: tensor for tensor in graph.initializer},
            self.producers | {name: node for node in graph.node for name in node.output if name},
            self.types | {value.name: value.type.tensor_type.elem_type for value in graph.input},
            self.folder,
        )

    def value(self, name: str) -> Array | None:
        """A constant, possibly moved or quantized in the graph; None for anything else."""
        if name in self.constants:
            try:
                return np.asarray(numpy_helper.to_array(self.constants[name], str(self.folder)))
            except (OSError, ValueError, onnx.checker.ValidationError) as error:
                raise InputError(f"The weight {name} cannot be read ({one_line(error)}); check the file.") from error
        node = self.producers.get(name)
        if node is None or node.op_type not in (*MOVES, "Constant", "QuantizeLinear"):
            return None
        return self._computed(node, [self.value(other) for other in node.input])

    def integers(self, name: str) -> Array | None:
        """The integers of a constant that comes from `DequantizeLinear`; None for anything else."""
        node = self.producers.get(name)
        if node is not None and node.op_type == "DequantizeLinear":
            return self.value(node.input[0])
        if node is None or node.op_type not in MOVES:
            return None
        return self._computed(node, [self.integers(node.input[0]), *map(self.value, node.input[1:])])

    def source(self, name: str) -> onnx.NodeProto | None:
        """The node that computed a value, before any that only moved it."""
        node = self.producers.get(name)
        while node is not None and node.op_type in MOVES:
            node = self.producers.get(name := node.input[0])
        return node

    def is_signed(self, name: str) -> bool:
        """Whether an activation is known to be int8."""
        node = self.source(name)
        if node is None:
            while (mover := self.producers.get(name)) is not None:
                name = mover.input[0]
            return bool(self.types.get(name) == onnx.TensorProto.INT8)
        zero = self.value(node.input[2]) if node.op_type == "QuantizeLinear" and len(node.input) > 2 else None
        return zero is not None and bool(zero.dtype == np.int8)

    def _computed(self, node: onnx.NodeProto, inputs: list[Any]) -> Array | None:
        """The output of a node for constant inputs; None if one is not constant, or the node is malformed."""
        feeds = {name: value for name, value in zip(node.input, inputs, strict=True) if name}
        if any(value is None for value in feeds.values()):
            return None
        try:
            return np.asarray(ReferenceEvaluator(node).run(None, feeds)[0])
        except Exception:  # of any kind, for a node that no runtime accepts
            return None


def saturating_nodes(model: onnx.ModelProto, folder: Path) -> dict[str, tuple[int, int]]:
    """Nodes whose sums may saturate, each with the numbers of saturating and of all rows of its weights.

    `folder` holds external weights. Raises `InputError` if they cannot be read.
    """
    model = inlined(model)
    totals: dict[str, tuple[int, int]] = {}
    for number, (node, scope) in enumerate(_nodes(model.graph, _Scope({}, {}, {}, folder))):
        counts = [_count(node, scope, position) for position in WEIGHTS.get(node.op_type, ())]
        if any(saturating for saturating, _ in counts):
            label = node.name or f"{node.op_type} {number}"
            saturating, rows = map(sum, zip(*counts, totals.get(label, (0, 0)), strict=True))
            totals[label] = saturating, rows
    return totals


def problems(model: onnx.ModelProto, folder: Path) -> list[str]:
    """One sentence for each of `saturating_nodes`."""
    return [
        f"{name} saturates on CPUs without VNNI, in {count} of {rows} rows: two neighbouring weights are more than "
        f"{PAIR_LIMIT} together; quantize the float32 model with reduce_range=True, or export its PyTorch weights with "
        "lstm-deploy."
        for name, (count, rows) in saturating_nodes(model, folder).items()
    ]


def needs_vnni(model: onnx.ModelProto) -> bool:
    """Whether the metadata of a file say that it is only for CPUs with VNNI."""
    return any((prop.key, prop.value) == (CPUS_KEY, VNNI) for prop in model.metadata_props)


def _nodes(graph: onnx.GraphProto, around: _Scope) -> Iterator[tuple[onnx.NodeProto, _Scope]]:
    scope = around.inside(graph)
    for node in graph.node:
        yield node, scope
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs) if attribute.HasField("g") else attribute.graphs:
                yield from _nodes(inner, scope)


def _count(node: onnx.NodeProto, scope: _Scope, position: int) -> tuple[int, int]:
    """The numbers of saturating and of all rows of one weight of a node."""
    if len(node.input) <= position:
        return 0, 0
    if node.op_type in QDQ_OPERATORS:
        source = scope.source(node.input[0])
        if source is None or source.op_type != "DequantizeLinear":
            return 0, 0
        weights = scope.integers(node.input[position])
    elif node.op_type in SIGNED_IN_32_BITS and scope.is_signed(node.input[0]):
        return 0, 0
    else:
        weights = scope.value(node.input[position])
    if weights is None or weights.dtype != np.int8 or not weights.size:
        return 0, 0
    return max((_over(rows) for rows in _rows(node, weights)), default=(0, 0))


def _rows(node: onnx.NodeProto, weights: Array) -> Iterator[Array]:
    """Weights as `[outputs, inputs]`, in each order in which a kernel may read the inputs."""
    if node.op_type in ("Conv", "QLinearConv"):
        if weights.ndim < 3 or weights.shape[1] == 1:  # one channel for each output has a kernel that adds in 32 bits
            return
        yield weights.reshape(len(weights), -1)
        yield np.moveaxis(weights, 1, -1).reshape(len(weights), -1)
    elif weights.ndim < 2:
        yield weights.reshape(1, -1)
    elif any(item.name == "transB" and item.i for item in node.attribute):
        yield weights
    else:
        yield np.moveaxis(weights, -2, -1).reshape(-1, weights.shape[-2])


def _over(rows: Array) -> tuple[int, int]:
    """The number of rows with a pair of weights beyond `PAIR_LIMIT`, and the number of all rows."""
    padded = np.pad(rows.astype(np.int16), ((0, 0), (0, rows.shape[1] % 2)))
    pairs = np.abs(padded[:, 0::2] + padded[:, 1::2])  # of different signs, they never exceed the larger one
    return int((pairs > PAIR_LIMIT).any(axis=1).sum()), len(rows)
