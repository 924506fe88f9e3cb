"""The data that lower precisions are evaluated on: the user's, held-out training data, or random. No PyTorch."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
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
from lstm_deploy.training import (
    LabelledTexts,
    Series,
    generate,
    parallel_streams,
    read_labelled_texts,
    read_series,
    split_by_label,
    split_series,
    split_tokens,
)

STREAMS, STEPS = 32, 100
"""Streams of a text, and steps of a call, if the training does not give them."""
LARGEST_BATCH = 256
LARGEST_ONE_HOT = 50_000_000
"""Largest number of entries in the one-hot rows of a text; longer texts are cut off."""
DRAWN_ROWS, DRAWN_CALLS, DRAWN_STEPS = 8, 4, 64


class EvaluationData(NamedTuple):
    """Calls of a model, and the ground truth of their outputs where it is known."""

    description: str
    metric: str
    """`rmse`, `bits_per_character` or `accuracy`; empty without truth."""
    calls: tuple[Feeds, ...]
    truth: tuple[Array, ...]
    """For each call, in the shape that the metric takes; empty where it is not known."""
    carries_state: bool
    """Whether each call starts from the state that the one before left."""


def evaluation_data(
    signature: Signature, path: Path | None, training: Mapping[str, Any] = MappingProxyType({}), folder: Path = Path()
) -> EvaluationData:
    """The file at `path`; else the held-out part of the training data, if that is still there; else random inputs.

    A series for a forecaster, a text for a language model, a table of texts and labels for a classifier; for other
    models an `.npz` with an array for each input by its name and `y`, the expected first output: of the same shape, or
    its classes as integers. `training` is what the training reported; of the file that it names, relative to `folder`,
    only the held-out part is used. Raises `InputError` for a file that does not fit.
    """
    trained_on, options = (training.get(key) or {} for key in ("data", "options"))
    held_out = options if "test" in options else {}
    if path is None and "generator" in trained_on and isinstance(signature.task, Forecast):
        series = generate(trained_on["generator"], trained_on["rows"], trained_on["seed"])
        return _series(signature, signature.task, series, trained_on["generator"], held_out)
    file = path or folder / trained_on.get("path", "")
    is_training_data = file.is_file() and sha256(file) == trained_on.get("sha256")
    if path is None and not is_training_data:
        return _drawn(signature)
    held_out = held_out if is_training_data else {}
    match signature.task:
        case Forecast() as task:
            options = trained_on if held_out else {}
            series = read_series(file, task.features, options.get("missing", "previous"), fixed=True)
            return _series(signature, task, series, file.name, held_out)
        case LanguageModel() as task:
            return _text(signature, task, file, held_out)
        case Classify() as task if file.suffix != ".npz" or signature.inputs[0].name not in read_npz(file):
            labelled = read_labelled_texts(file, trained_on.get("text_column"), trained_on.get("label_column"))
            return _labelled(signature, task, labelled, file.name, held_out)
    return _arrays(signature, file)


def _series(
    signature: Signature, task: Forecast, series: Series, name: str, held_out: Mapping[str, Any]
) -> EvaluationData:
    """Windows of a series and the rows after each, as in training."""
    rows = series.values.astype(np.float32)
    first = task.window
    if held_out:
        first = split_series(len(rows), task.horizon, held_out["test"], held_out["validation"]).test.start
    if first < task.window or first + task.horizon > len(rows):
        raise InputError(f"{name} has {len(rows)} rows, too few for windows of {task.window}; give a longer one.")
    columns = [task.features.index(target) for target in task.targets]
    layout, x = layout_of(signature), signature.inputs[0].name
    if layout.one_step:
        inputs, truth = _series_by_steps(rows, task, first, carries_state=signature.state_policy == "carry")
        calls = tuple({x: layout.inputs(values)} for values in inputs)
        truth = [values[..., columns].reshape(len(values), -1) for values in truth]
        return EvaluationData(_description(name, held_out), "rmse", calls, tuple(truth), carries_state=True)
    carries_state = signature.state_policy == "carry" and task.horizon == 1 and layout.y_time_axis is not None
    if carries_state:
        cuts = _cuts(first - task.window, len(rows) - 1, STEPS)
        inputs = [rows[None, cut] for cut in cuts]
        truth = [rows[None, cut.start + 1 : cut.stop + 1, columns] for cut in cuts]
    else:
        ends = np.arange(first, len(rows) - task.horizon + 1)
        batches = np.split(ends, range(LARGEST_BATCH, len(ends), LARGEST_BATCH))
        ahead, window = np.arange(task.horizon), np.arange(-task.window, 0)
        inputs = [rows[batch[:, None] + window] for batch in batches]
        truth = [rows[batch[:, None] + ahead][:, :, columns].reshape(len(batch), -1) for batch in batches]
    calls = tuple({x: layout.inputs(values)} for values in inputs)
    return EvaluationData(_description(name, held_out), "rmse", calls, tuple(truth), carries_state)


def _series_by_steps(
    rows: Array, task: Forecast, first: int, *, carries_state: bool
) -> tuple[list[Array], list[Array]]:
    """Rows `[windows, 1, features]` for calls of one step, and those after them, `[windows, horizon, features]`.

    Where the state is carried, all that is left of the series is one window; else windows are those of training, of
    which some are read side by side.
    """
    ends, ahead = np.arange(first, len(rows) - task.horizon + 1), np.arange(1, task.horizon + 1)
    starts = (ends[:1] if carries_state else ends[:: -(-len(ends) // LARGEST_BATCH)]) - task.window
    places = [starts + step for step in range(ends[-1] - starts[0] if carries_state else task.window)]
    return [rows[at[:, None]] for at in places], [rows[at[:, None] + ahead] for at in places]


def _text(signature: Signature, task: LanguageModel, path: Path, held_out: Mapping[str, Any]) -> EvaluationData:
    """A text cut into equal streams that are read side by side, as in training."""
    layout = layout_of(signature)
    if layout.y_time_axis is None and not layout.one_step:
        raise InputError(
            "This model predicts only what follows the last character of a call, so a text would take a call for each "
            "character; leave out --data."
        )
    streams, steps = held_out.get("batch_size", STREAMS), held_out.get("window", STEPS)
    tokens = np.array(task.encode(read_text(path)), np.int64)
    if held_out:
        tokens = tokens[split_tokens(len(tokens), 0, held_out["test"], held_out["validation"]).test]
    tokens = tokens[: LARGEST_ONE_HOT // layout.width] if layout.one_hot else tokens
    if len(tokens) < 3:
        raise InputError(f"{path} has {len(tokens)} {task.unit}s, too few to predict; give a longer text.")
    x, y = parallel_streams(tokens, streams, steps)
    cuts = _cuts(0, x.shape[1], 1 if layout.one_step else steps)
    calls = tuple({signature.inputs[0].name: layout.inputs(x[:, cut])} for cut in cuts)
    truth = tuple(y[:, cut].T if layout.y_time_axis == 0 else y[:, cut] for cut in cuts)
    if layout.y_time_axis is None:
        truth = tuple(tokens[:, 0] for tokens in truth)
    return EvaluationData(_description(path.name, held_out), "bits_per_character", calls, truth, carries_state=True)


def _labelled(
    signature: Signature, task: Classify, labelled: LabelledTexts, name: str, held_out: Mapping[str, Any]
) -> EvaluationData:
    """Texts as tokens, padded where the model takes lengths, else one in each call, and their labels."""
    if unknown := sorted(set(labelled.labels) - set(task.labels)):
        raise InputError(f"{name} has the label {unknown[0]!r}, which the model has never seen; leave it out.")
    rows = np.arange(len(labelled.texts))
    if held_out:
        rows = split_by_label(labelled.labels, held_out["test"], held_out["validation"], held_out["seed"]).test
    layout, x, lengths = layout_of(signature), signature.inputs[0], signature.inputs[1:]
    if layout.one_step:
        raise InputError("A call of this model is one step, and a text takes one for each token; leave out --data.")
    calls, truth = [], []
    for cut in _cuts(0, len(rows), LARGEST_BATCH if lengths else 1):
        tokens, counts = pad_sequences(
            [task.encode(labelled.texts[row])[: held_out.get("window")] for row in rows[cut]]
        )
        feeds = {spec.name: counts.astype(spec.dtype) for spec in lengths}
        calls.append({x.name: layout.inputs(tokens).astype(x.dtype, copy=False), **feeds})
        truth.append(np.array([task.labels.index(labelled.labels[row]) for row in rows[cut]]))
    return EvaluationData(_description(name, held_out), "accuracy", tuple(calls), tuple(truth), carries_state=False)


def _cuts(start: int, stop: int, length: int) -> list[slice]:
    """A range in pieces of at most `length`."""
    return [slice(first, min(first + length, stop)) for first in range(start, stop, length)]


def _description(name: str, held_out: Mapping[str, Any]) -> str:
    return f"the held-out part of {name}" if held_out else name


def _arrays(signature: Signature, path: Path) -> EvaluationData:
    """Inputs and truth by name."""
    names = [spec.name for spec in signature.inputs]
    if path.suffix != ".npz":
        raise InputError(
            f"{path} is not an .npz file; for this model give one with the arrays {', '.join(names)} and y."
        )
    arrays = read_npz(path)
    if missing := [name for name in (*names, "y") if name not in arrays]:
        raise InputError(f"{path} has no array {missing[0]!r}; it has {', '.join(arrays) or 'none'}.")
    sizes: dict[str, int] = {}
    inputs, output, truth = signature.inputs, signature.outputs[0], arrays["y"]
    by_steps = signature.one_step and not _fits(arrays[names[0]], inputs[0])
    if by_steps:
        inputs, output = tuple(map(signature.over_time, inputs)), signature.over_time(output)
    feeds = {spec.name: _checked(arrays[spec.name], spec, sizes, path) for spec in inputs}
    last = output.shape[-1]
    lacks_axis = truth.ndim == len(output.shape) - 1
    is_classes = truth.dtype.kind in "iu" and lacks_axis and last != 1
    if is_classes:
        truth = _checked(truth, TensorSpec(name="y", dtype="int64", shape=output.shape[:-1]), sizes, path)
        if isinstance(last, int) and (truth.min() < 0 or truth.max() >= last):
            raise InputError(
                f"y in {path} has classes from {truth.min()} to {truth.max()}; the model knows 0 to {last - 1}."
            )
    else:
        truth = truth[..., None] if lacks_axis and last == 1 else truth
        truth = _checked(truth, TensorSpec(name="y", dtype="float64", shape=output.shape), sizes, path)
    if by_steps:
        steps, truths = tuple(_steps(signature, feeds)), tuple(np.moveaxis(truth, output.shape.index("seq"), 0))
        return EvaluationData(path.name, "accuracy" if is_classes else "rmse", steps, truths, carries_state=True)
    cuts = _cuts(0, sizes.get("batch", 1), LARGEST_BATCH)
    calls = tuple({s.name: _rows(feeds[s.name], s.shape, cut) for s in signature.inputs} for cut in cuts)
    truths = tuple(_rows(truth, output.shape, cut) for cut in cuts)
    return EvaluationData(path.name, "accuracy" if is_classes else "rmse", calls, truths, carries_state=False)


def _steps(signature: Signature, feeds: Feeds) -> Iterator[Feeds]:
    """The inputs of each call of a model whose call is one step, from those of several steps."""
    steps = {s.name: np.moveaxis(feeds[s.name], signature.over_time(s).shape.index("seq"), 0) for s in signature.inputs}
    axes = {spec.name: signature.time_axis(spec) for spec in signature.inputs}
    for values in zip(*steps.values(), strict=True):
        yield {
            name: np.ascontiguousarray(x) if axis is None else np.expand_dims(x, axis)
            for (name, axis), x in zip(axes.items(), values, strict=True)
        }


def _fits(value: Array, spec: TensorSpec) -> bool:
    """Whether an array has the axes of its specification."""
    pairs = zip(value.shape, spec.shape, strict=False)
    return value.ndim == len(spec.shape) and all(isinstance(dim, str) or size == dim for size, dim in pairs)


def _checked(value: Array, spec: TensorSpec, sizes: dict[str, int], path: Path) -> Array:
    """An array of the file in the type of its specification; adds the sizes of dynamic axes, which must agree."""
    shape = tuple(sizes.get(dim, dim) if isinstance(dim, str) else dim for dim in spec.shape)
    fits = value.ndim == len(shape) and all(
        size == dim if isinstance(dim, int) else size > 0 for size, dim in zip(value.shape, shape, strict=True)
    )
    if not fits or not np.can_cast(value.dtype, spec.dtype, "same_kind"):
        raise InputError(
            f"{spec.name} in {path} is {value.dtype}[{', '.join(map(str, value.shape))}]; give "
            f"{spec.dtype}[{', '.join(map(str, shape))}]" + (", or classes as integers." if spec.name == "y" else ".")
        )
    sizes |= {dim: size for dim, size in zip(spec.shape, value.shape, strict=True) if isinstance(dim, str)}
    with np.errstate(over="ignore"):
        cast = value.astype(spec.dtype)
    if not np.isfinite(cast).all():
        raise InputError(
            f"{spec.name} in {path} has values that are NaN, infinite or beyond {spec.dtype}; leave them out."
        )
    return cast


def _rows(value: Array, shape: Sequence[Any], cut: slice) -> Array:
    """Some rows of a batch, along its axis."""
    if "batch" not in shape:
        return value
    return np.ascontiguousarray(value[(slice(None),) * list(shape).index("batch") + (cut,)])


def _drawn(signature: Signature) -> EvaluationData:
    """Inputs as the contract describes them, chained where the state can be carried."""
    rng = np.random.default_rng(7)
    sizes = signature.clamp(sizes_of(signature.inputs, DRAWN_ROWS, DRAWN_STEPS))
    count = DRAWN_CALLS * (DRAWN_STEPS if signature.one_step else 1)
    calls = tuple(sample_inputs(signature.inputs, sizes, rng) for _ in range(count))
    return EvaluationData("inputs drawn at random", "", calls, (), carries_state=signature.streaming != "none")
