"""The least time that a call can take: what it must compute and read, at the peak rates of the machine.

The roofline model of Williams, Waterman and Patterson (2009): a call takes at least its operations over the peak
rate, and at least its bytes over the bandwidth of the memory that holds them. A step of a recurrent layer reads every
weight once and uses it once for each row of the batch (two operations, a product and a sum); in a sequence the
input's weights and those of a head can serve all steps at once, but the recurrent weights are read again at each.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from msgspec import Struct
from msgspec.structs import replace

from lstm_deploy.artifacts import onnx_graph
from lstm_deploy.contract import RECURRENT_OPERATORS, Signature

BYTES = {"float32": 4, "tf32": 4, "float16": 2, "int8": 1}
"""Of one weight."""
_PRECISIONS = {
    onnx.TensorProto.FLOAT16: "float16",
    onnx.TensorProto.INT8: "int8",
    onnx.TensorProto.UINT8: "int8",
}
_DENSE = ("MatMul", "Gemm", "MatMulInteger", "DynamicQuantizeMatMul", "MatMulIntegerToFloat")


class Weights(Struct, frozen=True):
    """Numbers of weights of one precision, by their use."""

    inputs: int = 0
    """Of recurrent layers, applied to their inputs."""
    recurrent: int = 0
    """Of recurrent layers, applied to their state."""
    dense: int = 0
    """Of linear layers."""


class Work(Struct, frozen=True):
    """The computation and data of a model."""

    weights: dict[str, Weights]
    """By precision."""
    state_bytes: int
    """Read and written at each step, for each row."""
    every_step: bool
    """Whether linear layers are applied at each step; else once in a call."""

    @property
    def weight_bytes(self) -> int:
        return sum((w.inputs + w.recurrent + w.dense) * BYTES[name] for name, w in self.weights.items())


class Limit(Struct, frozen=True):
    """The least time of a call on a machine."""

    us: float
    name: str
    """`compute`, or the memory that the weights come from."""
    operations: float
    bytes: float


def work_of(model: onnx.ModelProto) -> Work | None:
    """Count the work of a graph; none if it has no contract, or a recurrent layer whose weights are not constants."""
    text = onnx_graph.contract_text(model)
    if text is None:
        return None
    signature = Signature.from_json(text)
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    all_counts: dict[str, dict[str, int]] = {}
    for node in model.graph.node:
        if node.op_type in RECURRENT_OPERATORS:
            names, roles = list(node.input[1:3]), ["inputs", "recurrent"]
            if any(name not in constants for name in names):
                return None
        elif node.op_type in _DENSE:
            names = [name for name in node.input if name in constants and len(constants[name].dims) > 1]
            roles = ["dense"] * len(names)
        else:
            continue
        for name, role in zip(names, roles, strict=True):
            counts = all_counts.setdefault(_PRECISIONS.get(constants[name].data_type, "float32"), {})
            counts[role] = counts.get(role, 0) + math.prod(constants[name].dims)
    if not any("recurrent" in counts for counts in all_counts.values()):
        return None
    state = sum(math.prod(dim for dim in spec.shape if isinstance(dim, int)) for spec in signature.state_inputs)
    return Work(
        weights={name: Weights(**counts) for name, counts in all_counts.items()},
        state_bytes=2 * 4 * state,
        every_step="seq" in signature.outputs[0].shape,
    )


def in_precision(work: Work, precision: str) -> Work:
    """The same work with all weights in another precision."""
    all_weights = work.weights.values()
    total = Weights(*(sum(getattr(w, role) for w in all_weights) for role in ("inputs", "recurrent", "dense")))
    return replace(work, weights={precision: total})


def limit_of(work: Work, peaks: Mapping[str, Any], *, batch: int, seq_len: int, chained: bool) -> Limit | None:
    """The limit of a call of `[batch, seq_len]`; in `chained` calls each step depends on the output of the last.

    `peaks` is the result of `peaks.measure`; none where it has no rate for a precision.
    """
    if any(name not in peaks["operations_per_s"] for name in work.weights):
        return None
    dense_steps = seq_len if work.every_step else 1
    reads = seq_len if chained else 1  # of weights that could serve all steps at once
    seconds = operations = 0.0
    read = float(work.state_bytes * batch * seq_len)
    for name, weights in work.weights.items():
        own = 2.0 * batch * (seq_len * (weights.inputs + weights.recurrent) + dense_steps * weights.dense)
        operations += own
        seconds += own / peaks["operations_per_s"][name]
        dense_reads = reads if work.every_step else 1
        read += BYTES[name] * (reads * weights.inputs + seq_len * weights.recurrent + dense_reads * weights.dense)
    working_set = work.weight_bytes + work.state_bytes * batch
    waiting = read / bandwidth(working_set, peaks["memory"])
    level = next((name for name, size in peaks["caches"] if working_set <= size), peaks["memory"][-1]["name"])
    return Limit(1e6 * max(seconds, waiting), "compute" if seconds >= waiting else level, operations, read)


def bandwidth(working_set: int, memory: Sequence[Mapping[str, Any]]) -> float:
    """Bytes per second of a working set, interpolated between those measured, in logarithms of size and rate."""
    measured = [math.log(point["working_set"]) for point in memory]
    rates = [math.log(point["bytes_per_s"]) for point in memory]
    return math.exp(float(np.interp(math.log(max(working_set, 1)), measured, rates)))
