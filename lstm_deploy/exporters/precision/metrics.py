"""The metric of an artifact on evaluation data, and how far its outputs are from another's. No PyTorch."""

import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from lstm_deploy.contract import Array, Feeds, Forecast, Signature, TensorSpec, layout_of
from lstm_deploy.errors import InputError
from lstm_deploy.exporters.precision.evaluation_data import EvaluationData
from lstm_deploy.runtimes import Runtime, complete_feeds


class Measured(NamedTuple):
    """The metric of an artifact, None without ground truth, and its outputs."""

    metric: float | None
    outputs: dict[str, Array]
    """Every output over all calls, `[entries, columns]`."""


def measure(runtime: Runtime, data: EvaluationData) -> Measured:
    """Run an artifact on evaluation data; raises `InputError` where it does not run on it."""
    signature = runtime.signature
    outputs: dict[str, list[Array]] = {spec.name: [] for spec in signature.outputs}
    state: Feeds = {}
    total, count = 0.0, 0
    for number, feeds in enumerate(data.calls):
        results = runtime.run(complete_feeds(signature, {**feeds, **state}, allow_nan=True))
        state = signature.next_state(results) if data.carries_state else {}
        for spec in signature.outputs:
            outputs[spec.name].append(_entries(results[spec.name], spec))
        if data.truth:
            total += _score(signature, data, results[signature.outputs[0].name], data.truth[number])
            count += data.truth[number].size
    mean = total / max(count, 1)
    metric = math.sqrt(mean) if data.metric == "rmse" else mean
    return Measured(metric if data.truth else None, {name: np.concatenate(parts) for name, parts in outputs.items()})


def loss(metric: str, value: float, expected: float) -> float:
    """How much worse a metric is than `expected`, relative to that; negative if it is better."""
    if not (math.isfinite(value) and math.isfinite(expected)):
        return math.inf
    worse = expected - value if metric == "accuracy" else value - expected
    return worse / expected if expected else (0.0 if worse <= 0 else math.inf)


def difference(outputs: Mapping[str, Array], expected: Mapping[str, Array]) -> tuple[float, float]:
    """RMS of the difference relative to the columns' standard deviation, and cosine, of the output that differs most.

    A difference of a tenth means a cosine of 0.995 or more, where columns vary about 0; where they lie far from 0, a
    cosine says nothing.
    """
    return max(_difference(outputs[name], expected[name]) for name in expected)


def decisions_changed(
    signature: Signature, outputs: Mapping[str, Array], expected: Mapping[str, Array]
) -> float | None:
    """The part of all entries in which another column of the first output is the largest: a class, or the next token.

    None where no column stands for a choice: for a forecast, and for a single column.
    """
    spec = signature.outputs[0]
    columns = spec.shape[-2:-1] if spec.shape[-1:] == ("seq",) else spec.shape[-1:]
    is_choice = all(isinstance(size, int) and size > 1 for size in columns) and spec.dtype.startswith("float")
    if not columns or not is_choice or isinstance(signature.task, Forecast):
        return None
    return float(np.mean(outputs[spec.name].argmax(-1) != expected[spec.name].argmax(-1)))


def _difference(outputs: Array, expected: Array) -> tuple[float, float]:
    ours, theirs = outputs.astype(np.float64), expected.astype(np.float64)
    if not (np.isfinite(ours).all() and np.isfinite(theirs).all()):
        return math.inf, 0.0
    error, spread = float(np.linalg.norm(ours - theirs)), float(np.linalg.norm(theirs - theirs.mean(0)))
    norms = float(np.linalg.norm(ours) * np.linalg.norm(theirs))
    cosine = float(np.vdot(ours, theirs)) / norms if norms else float(not error)
    return error / spread if spread else (math.inf if error else 0.0), min(cosine, 1.0)


def _entries(value: Array, spec: TensorSpec) -> Array:
    """An output as `[entries, columns]`, wherever its axis of time lies."""
    if spec.shape[-1:] == ("seq",) and value.ndim > 2:
        value = np.swapaxes(value, -1, -2)
    return np.reshape(value, (-1, value.shape[-1] if value.ndim > 1 else 1))


def _score(signature: Signature, data: EvaluationData, y: Array, truth: Array) -> float:
    """The sum over a call of squared errors, of bits or of correct answers, by the metric.

    Raises `InputError` for values in another shape than the output's.
    """
    if data.metric == "accuracy":
        return float(np.count_nonzero(y.argmax(-1) == truth))
    if data.metric == "bits_per_character":
        return _bits(np.swapaxes(y, 1, 2) if layout_of(signature).y_time_axis == 2 else y, truth)
    shape = signature.outputs[0].shape
    if not data.carries_state and isinstance(signature.task, Forecast):
        y = layout_of(signature).last(y)
    elif not data.carries_state and "seq" in shape and truth.ndim == y.ndim - 1:
        y = np.take(y, -1, axis=shape.index("seq"))
    if y.size != truth.size:
        raise InputError(
            f"The truth is {list(truth.shape)} where the model gives {list(y.shape)}; give the same shape."
        )
    return float(np.sum(np.square(y.reshape(truth.shape).astype(np.float64) - truth)))


def _bits(logits: Array, tokens: Array) -> float:
    """The sum of -log2 softmax(logits)[token]."""
    wide = logits.astype(np.float64)
    wide -= wide.max(-1, keepdims=True)
    chosen = np.take_along_axis(wide, tokens[..., None], -1)[..., 0]
    return float(np.sum(np.log(np.exp(wide).sum(-1)) - chosen)) / math.log(2)
