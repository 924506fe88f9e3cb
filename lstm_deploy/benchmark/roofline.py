"""How fast a call could be at best: what it must compute and read, against what the machine can do.

The roofline of Williams, Waterman and Patterson (2009): a call takes at least its operations over the peak rate, and
at least its bytes over the bandwidth of the memory that holds them. A step of an LSTM reads every weight once and uses
it once for each row of the batch (two operations, a product and a sum); in a sequence the input's weights and those
of a head can serve all steps at once, but the recurrent weights are read again at each.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from msgspec import Struct
from msgspec.structs import replace

from lstm_deploy.contract import CONTRACT_KEY, LSTM, Signature

BYTES = {"float32": 4, "tf32": 4, "float16": 2, "int8": 1}
"""Of one weight."""
_PRECISIONS = {
    onnx.TensorProto.FLOAT: "float32",
    onnx.TensorProto.FLOAT16: "float16",
    onnx.TensorProto.INT8: "int8",
    onnx.TensorProto.UINT8: "int8",
}
_DENSE = ("MatMul", "Gemm", "MatMulInteger", "DynamicQuantizeMatMul", "MatMulIntegerToFloat")


class Weights(Struct, frozen=True):
    """Numbers of weights of one precision, by what they are used for."""

    inputs: int = 0
    """Of LSTMs, applied to their inputs."""
    recurrent: int = 0
    """Of LSTMs, applied to their state."""
    dense: int = 0
    """Of linear layers around them."""


class Work(Struct, frozen=True):
    """What a model has to compute and read."""

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
    """The least that a call can take on a machine."""

    us: float
    name: str
    """`compute`, or the memory that the weights come from."""
    operations: float
    bytes: float


def work_of(model: onnx.ModelProto) -> Work | None:
    """Counted in a graph and its contract; none where there is none, or an LSTM whose weights are no constants."""
    text = next((entry.value for entry in model.metadata_props if entry.key == CONTRACT_KEY), None)
    if text is None:
        return None
    signature = Signature.from_json(text)
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    found: dict[str, dict[str, int]] = {}
    for node in model.graph.node:
        if node.op_type in LSTM.operators:
            roles: Sequence[str] = ("inputs", "recurrent")
            if any(name not in constants for name in node.input[1:3]):
                return None
            names = node.input[1:3]
        elif node.op_type in _DENSE:
            names = [name for name in node.input if name in constants and len(constants[name].dims) > 1]
            roles = ("dense",) * len(names)
        else:
            continue
        for name, role in zip(names, roles, strict=True):
            tensor, size = constants[name], 1
            for dim in tensor.dims:
                size *= dim
            counts = found.setdefault(_PRECISIONS.get(tensor.data_type, "float32"), {})
            counts[role] = counts.get(role, 0) + size
    if not any("recurrent" in counts for counts in found.values()):
        return None
    state = sum(_size(spec.shape) for spec in signature.state_inputs)
    return Work(
        weights={name: Weights(**counts) for name, counts in found.items()},
        state_bytes=2 * 4 * state,
        every_step="seq" in signature.outputs[0].shape,
    )


def in_precision(work: Work, precision: str) -> Work:
    """The same work with all numbers in another precision."""
    all_weights = work.weights.values()
    total = Weights(*(sum(getattr(w, role) for w in all_weights) for role in ("inputs", "recurrent", "dense")))
    return replace(work, weights={precision: total})


def limit_of(work: Work, peaks: Mapping[str, Any], *, batch: int, seq_len: int, chained: bool) -> Limit | None:
    """The least that a call of `[batch, seq_len]` takes; `chained` calls depend on their own outputs, step by step.

    `peaks` is what `peaks.measure` found; none where it knows no rate for a precision.
    """
    if any(name not in peaks["operations_per_s"] for name in work.weights):
        return None
    dense_steps = seq_len if work.every_step else 1
    at_once = 1 if not chained else seq_len  # how often weights are read that could serve all steps at once
    seconds = operations = 0.0
    read = float(work.state_bytes * batch * seq_len)
    for name, weights in work.weights.items():
        own = 2.0 * batch * (seq_len * (weights.inputs + weights.recurrent) + dense_steps * weights.dense)
        operations += own
        seconds += own / peaks["operations_per_s"][name]
        dense_reads = at_once if work.every_step else 1
        read += BYTES[name] * (at_once * weights.inputs + seq_len * weights.recurrent + dense_reads * weights.dense)
    working_set = work.weight_bytes + work.state_bytes * batch
    waiting = read / bandwidth(working_set, peaks["memory"])
    level = next((name for name, size in peaks["caches"] if working_set <= size), peaks["memory"][-1]["name"])
    return Limit(1e6 * max(seconds, waiting), "compute" if seconds >= waiting else level, operations, read)


def bandwidth(working_set: int, memory: Sequence[Mapping[str, Any]]) -> float:
    """Bytes per second of a working set, between those that were measured (by logarithms, which sizes go by)."""
    measured = [math.log(point["working_set"]) for point in memory]
    rates = [math.log(point["bytes_per_s"]) for point in memory]
    return math.exp(float(np.interp(math.log(max(working_set, 1)), measured, rates)))


def _size(shape: Sequence[int | str]) -> int:
    """Entries for one row of a batch."""
    size = 1
    for dim in shape:
        size *= dim if isinstance(dim, int) else 1
    return size
