"""What an artifact is worth on data: the metric of its task, and how far its outputs are from another's. No PyTorch."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lstm_deploy.artifacts import read_npz, read_text, sha256
from lstm_deploy.contract import (
    Array,
    Classify,
    Feeds,
    Forecast,
    LanguageModel,
    Signature,
    TensorSpec,
    layout_of,
    pad_sequences,
    sample_inputs,
    sizes_of,
)
from lstm_deploy.errors import InputError
from lstm_deploy.runtimes import Runtime
from lstm_deploy.training import (
    LabelledTexts,
    Series,
    generate,
    parallel_streams,
    read_labelled_texts,
    read_series,
    split_by_label,
    split_series,
    split_text,
)

ROWS, STEPS = 32, 100
"""Streams of a text, and steps of a call, where the training does not tell."""
WINDOWS = 256
"""Rows of one call."""
LARGEST_ONE_HOT = 50_000_000
"""Numbers that a text may take as one-hot rows; longer ones are cut."""
DRAWN_ROWS, DRAWN_CALLS, DRAWN_STEPS = 8, 4, 64


class Examples(NamedTuple):
    """Calls, and the truth where it is known."""

    described: str
    metric: str
    """`rmse`, `bits_per_character` or `accuracy`; empty where there is no truth."""
    calls: tuple[Feeds, ...]
    truth: tuple[Array, ...]
    """What each call should give, in the shape that its metric takes; empty where it is not known."""
    carry: bool
    """Whether each call starts from the state that the one before left."""


class Measured(NamedTuple):
    """What an artifact made of examples."""

    metric: float | None
    outputs: dict[str, Array]
    """Every output over all calls, `[entries, columns]`."""


def examples(signature: Signature, data: Path | None, training: Mapping[str, Any] | None = None) -> Examples:
    """What to measure on: the data, the part of the training's file that was held out, or inputs that are drawn.

    A series for a forecast, a text for a language model, a table of texts and labels for a classifier; for other models
    an `.npz` with an array for each input by its name and `y`, what the first output should be: of the same shape, or
    its classes as integers. `training` is what the training reported; of the data that it names only the part is used
    that it never saw. Raises `InputError` for a file that does not fit.
    """
    known = (training or {}).get("data") or {}
    options = (training or {}).get("options") or {}
    options = options if "test" in options else {}
    held_out = options if data is None else {}
    if data is None and "generator" in known and isinstance(signature.task, Forecast):
        series = generate(known["generator"], known["rows"], known["seed"])
        return _series(signature, signature.task, series, known["generator"], held_out)
    if data is None:
        data = Path(known.get("path") or "")
        if not data.is_file() or sha256(data) != known.get("sha256"):
            return _drawn(signature)
    elif data.is_file() and sha256(data) == known.get("sha256"):
        held_out = options
    match signature.task:
        case Forecast() as task:
            series = read_series(data, task.features, known.get("missing", "previous") if held_out else "previous")
            return _series(signature, task, series, data.name, held_out)
        case LanguageModel() as task:
            return _text(signature, task, data, held_out)
        case Classify() as task if data.suffix != ".npz" or signature.inputs[0].name not in read_npz(data):
            given = read_labelled_texts(data, known.get("text_column"), known.get("label_column"))
            return _labelled(signature, task, given, data.name, held_out)
    return _arrays(signature, data)


def measure(runtime: Runtime, given: Examples) -> Measured:
    """Run an artifact on examples. Raises `InputError` where it does not run on them."""
    signature = runtime.signature
    name, last_step = signature.outputs[0].name, given.metric == "rmse" and not given.carry
    found: dict[str, list[Array]] = {spec.name: [] for spec in signature.outputs}
    state: Feeds = {}
    squared, bits, right, count = 0.0, 0.0, 0, 0
    for number, feeds in enumerate(given.calls):
        if not state or not given.carry:
            state = signature.initial_state(_rows(signature, feeds))
        results = runtime.run({**feeds, **state})
        state = signature.next_state(results)
        y = results[name]
        for spec in signature.outputs:
            found[spec.name].append(_entries(results[spec.name], spec))
        if not given.truth:
            continue
        truth = given.truth[number]
        if last_step and isinstance(signature.task, Forecast):
            y = layout_of(signature).last(y)
        elif last_step and "seq" in signature.outputs[0].shape and truth.ndim == y.ndim - 1:
            y = np.take(y, -1, axis=signature.outputs[0].shape.index("seq"))
        if given.metric == "rmse":
            squared += float(np.sum(np.square(_alike(y, truth).astype(np.float64) - truth)))
        elif given.metric == "accuracy":
            right += int(np.count_nonzero(y.argmax(-1) == truth))
        else:
            bits += _bits(y if layout_of(signature).y_time_axis != 2 else np.swapaxes(y, 1, 2), truth)
        count += truth.size
    metric = {"rmse": math.sqrt(squared / max(count, 1)), "accuracy": right / max(count, 1)}
    metric["bits_per_character"] = bits / max(count, 1)
    outputs = {key: np.concatenate(values) for key, values in found.items()}
    return Measured(metric[given.metric] if given.truth else None, outputs)


def loss(metric: str, value: float, wanted: float) -> float:
    """How much worse a metric became, as a part of what it was; below 0 where it became better."""
    if not (math.isfinite(value) and math.isfinite(wanted)):
        return math.inf
    worse = wanted - value if metric == "accuracy" else value - wanted
    return worse / wanted if wanted else (0.0 if worse <= 0 else math.inf)


def difference(outputs: Mapping[str, Array], wanted: Mapping[str, Array]) -> tuple[float, float]:
    """RMS of the difference as a part of how much the columns vary, and the cosine, of the output that is off most.

    A difference of a tenth means a cosine of 0.995 or more, where columns vary about 0; where they lie far from 0, a
    cosine says nothing.
    """
    return max(_difference(outputs[name], wanted[name]) for name in wanted)


def _difference(got: Array, wanted: Array) -> tuple[float, float]:
    ours, theirs = got.astype(np.float64), wanted.astype(np.float64)
    if not (np.isfinite(ours).all() and np.isfinite(theirs).all()):
        return math.inf, 0.0
    off, spread = float(np.linalg.norm(ours - theirs)), float(np.linalg.norm(theirs - theirs.mean(0)))
    lengths = float(np.linalg.norm(ours) * np.linalg.norm(theirs))
    cosine = float(np.vdot(ours, theirs)) / lengths if lengths else float(not off)
    return off / spread if spread else (math.inf if off else 0.0), min(cosine, 1.0)


def _series(signature: Signature, task: Forecast, series: Series, name: str, held_out: Mapping[str, Any]) -> Examples:
    """Windows of a series and the rows after each, as in training."""
    rows = series.values.astype(np.float32)
    first = task.window
    if held_out:
        first = split_series(len(rows), task.horizon, held_out["test"], held_out["validation"]).test.start
    if first < task.window or first + task.horizon > len(rows):
        raise InputError(f"{name} has {len(rows)} rows, too few for windows of {task.window}; give a longer one.")
    columns = [task.features.index(name) for name in task.targets]
    layout = layout_of(signature)
    described = _described(name, held_out)
    (x,) = (spec.name for spec in signature.inputs)
    if signature.state_policy == "carry" and task.horizon == 1 and layout.y_time_axis is not None:
        parts = [
            (start, min(start + STEPS, len(rows) - 1)) for start in range(first - task.window, len(rows) - 1, STEPS)
        ]
        calls = tuple({x: layout.inputs(rows[None, start:stop])} for start, stop in parts)
        return Examples(
            described, "rmse", calls, tuple(rows[None, a + 1 : b + 1, columns] for a, b in parts), carry=True
        )
    ends = np.arange(first, len(rows) - task.horizon + 1)
    batches = np.split(ends, range(WINDOWS, len(ends), WINDOWS))
    ahead = np.arange(task.horizon)
    truths = [rows[batch[:, None] + ahead][:, :, columns].reshape(len(batch), -1) for batch in batches]
    windows = tuple({x: layout.inputs(rows[batch[:, None] + np.arange(-task.window, 0)])} for batch in batches)
    return Examples(described, "rmse", windows, tuple(truths), carry=False)


def _text(signature: Signature, task: LanguageModel, path: Path, held_out: Mapping[str, Any]) -> Examples:
    """A text cut into equal streams that are read side by side, as in training."""
    layout = layout_of(signature)
    if layout.y_time_axis is None:
        raise InputError(
            "This model tells only what follows the last character of a call, so a text would take a call for each; "
            "leave out --data."
        )
    streams, steps = held_out.get("batch_size", ROWS), held_out.get("window", STEPS)
    tokens = np.array(task.encode(read_text(path)), np.int64)
    if held_out:
        tokens = tokens[split_text(len(tokens), 0, held_out["test"], held_out["validation"]).test]
    tokens = tokens[: LARGEST_ONE_HOT // layout.width] if layout.one_hot else tokens
    if len(tokens) < 3:
        raise InputError(f"{path} has {len(tokens)} {task.unit}s, too few to predict; give a longer text.")
    x, y = parallel_streams(tokens, streams, steps)
    cuts = [slice(start, start + steps) for start in range(0, x.shape[1], steps)]
    described = _described(path.name, held_out)
    name = signature.inputs[0].name
    calls = tuple({name: layout.inputs(x[:, cut])} for cut in cuts)
    truth = tuple(y[:, cut].T if layout.y_time_axis == 0 else y[:, cut] for cut in cuts)
    return Examples(described, "bits_per_character", calls, truth, carry=True)


def _described(name: str, held_out: Mapping[str, Any]) -> str:
    return f"the held-out part of {name}" if held_out else name


def _labelled(
    signature: Signature, task: Classify, given: LabelledTexts, name: str, held_out: Mapping[str, Any]
) -> Examples:
    """Texts as tokens, padded where the model takes lengths, else one in each call, and their labels."""
    if unknown := sorted(set(given.labels) - set(task.labels)):
        raise InputError(f"{name} has the label {unknown[0]!r}, which the model has never seen; leave it out.")
    rows = np.arange(len(given.texts))
    if held_out:
        rows = split_by_label(given.labels, held_out["test"], held_out["validation"], held_out["seed"]).test
    layout, x, lengths = layout_of(signature), signature.inputs[0], signature.inputs[1:]
    calls, truths = [], []
    size = WINDOWS if lengths else 1
    for batch in (rows[start : start + size] for start in range(0, len(rows), size)):
        tokens, counts = pad_sequences([task.encode(given.texts[row])[: held_out.get("window")] for row in batch])
        feeds = {spec.name: counts.astype(spec.dtype) for spec in lengths}
        calls.append({x.name: layout.inputs(tokens).astype(x.dtype, copy=False), **feeds})
        truths.append(np.array([task.labels.index(given.labels[row]) for row in batch]))
    described = _described(name, held_out)
    return Examples(described, "accuracy", tuple(calls), tuple(truths), carry=False)


def _arrays(signature: Signature, path: Path) -> Examples:
    """Inputs and truth by name."""
    names = [spec.name for spec in signature.inputs]
    if path.suffix != ".npz":
        raise InputError(
            f"{path} is not an .npz file; for this model give one with the arrays {', '.join(names)} and y."
        )
    if not path.is_file():
        raise InputError(f"{path} does not exist; check the path.")
    arrays = read_npz(path)
    if missing := [name for name in (*names, "y") if name not in arrays]:
        raise InputError(f"{path} has no array {missing[0]!r}; it has {', '.join(arrays) or 'none'}.")
    sizes: dict[str, int] = {}
    feeds = {spec.name: _fitting(arrays[spec.name], spec.name, spec, sizes, path) for spec in signature.inputs}
    output, truth = signature.outputs[0], arrays["y"]
    last = output.shape[-1]
    classes = truth.dtype.kind in "iu" and truth.ndim == len(output.shape) - 1 and last != 1
    if classes:
        wanted = TensorSpec(name="y", dtype="int64", shape=output.shape[:-1])
        truth = _fitting(truth, "y", wanted, sizes, path)
        if isinstance(last, int) and (truth.min() < 0 or truth.max() >= last):
            raise InputError(
                f"y in {path} has classes from {truth.min()} to {truth.max()}; the model knows 0 to {last - 1}."
            )
    else:
        truth = truth[..., None] if truth.ndim == len(output.shape) - 1 and last == 1 else truth
        truth = _fitting(truth, "y", TensorSpec(name="y", dtype="float64", shape=output.shape), sizes, path)
    starts = range(0, sizes.get("batch", 1), WINDOWS)
    calls = tuple({s.name: _rows_from(feeds[s.name], s.shape, start) for s in signature.inputs} for start in starts)
    truths = tuple(_rows_from(truth, output.shape, start) for start in starts)
    return Examples(path.name, "accuracy" if classes else "rmse", calls, truths, carry=False)


def _fitting(value: Array, name: str, spec: TensorSpec, sizes: dict[str, int], path: Path) -> Array:
    """An array of the file in the type of its specification; `sizes` of dynamic axes are known so far, or added."""
    known = tuple(sizes.get(dim, dim) if isinstance(dim, str) else dim for dim in spec.shape)
    fits = value.ndim == len(known) and all(
        size == dim if isinstance(dim, int) else size > 0 for size, dim in zip(value.shape, known, strict=True)
    )
    if not fits or value.dtype.kind not in "iufb" or not np.can_cast(value.dtype, spec.dtype, "same_kind"):
        raise InputError(
            f"{name} in {path} is {value.dtype}[{', '.join(map(str, value.shape))}]; give "
            f"{spec.dtype}[{', '.join(map(str, known))}]" + (", or classes as integers." if name == "y" else ".")
        )
    sizes |= {dim: size for dim, size in zip(spec.shape, value.shape, strict=True) if isinstance(dim, str)}
    with np.errstate(over="ignore"):
        cast = value.astype(spec.dtype)
    if not np.isfinite(cast).all():
        raise InputError(f"{name} in {path} has values that are NaN, infinite or beyond {spec.dtype}; leave them out.")
    return cast


def _drawn(signature: Signature) -> Examples:
    """Inputs as the contract describes them, chained where the state can be carried."""
    rng = np.random.default_rng(7)
    sizes = signature.clamp(sizes_of(signature.inputs, DRAWN_ROWS, DRAWN_STEPS))
    calls = tuple(sample_inputs(signature.inputs, sizes, rng) for _ in range(DRAWN_CALLS))
    return Examples("inputs drawn at random", "", calls, (), carry=signature.streaming != "none")


def _entries(value: Array, spec: TensorSpec) -> Array:
    """An output as `[entries, columns]`, wherever its axis of time lies."""
    if spec.shape[-1:] == ("seq",) and value.ndim > 2:
        value = np.swapaxes(value, -1, -2)
    return np.reshape(value, (-1, value.shape[-1] if value.ndim > 1 else 1))


def _rows(signature: Signature, feeds: Feeds) -> int:
    return next((feeds[s.name].shape[s.shape.index("batch")] for s in signature.inputs if "batch" in s.shape), 1)


def _rows_from(value: Array, shape: Sequence[Any], start: int) -> Array:
    """The next rows of a batch, along its axis."""
    if "batch" not in shape:
        return value
    index = [slice(None)] * value.ndim
    index[list(shape).index("batch")] = slice(start, start + WINDOWS)
    return np.ascontiguousarray(value[tuple(index)])


def _alike(y: Array, truth: Array) -> Array:
    """The output in the shape of the truth; raises `InputError` if it has another size."""
    if y.size != truth.size:
        raise InputError(
            f"The truth is {list(truth.shape)} where the model gives {list(y.shape)}; give the same shape."
        )
    return y.reshape(truth.shape)


def _bits(logits: Array, tokens: Array) -> float:
    """The sum of -log2 softmax(logits)[token]."""
    wide = logits.astype(np.float64)
    wide -= wide.max(-1, keepdims=True)
    chosen = np.take_along_axis(wide, tokens[..., None], -1)[..., 0]
    return float(np.sum(np.log(np.exp(wide).sum(-1)) - chosen)) / math.log(2)
