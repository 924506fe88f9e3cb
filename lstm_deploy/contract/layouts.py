"""How the rows of a task lie in a model's tensors, so that callers use one layout whatever the model's own is."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from lstm_deploy.contract.signature import Array, Signature
from lstm_deploy.contract.tasks import Forecast, widths
from lstm_deploy.errors import InputError


class Layout(NamedTuple):
    """Where batch, time and features lie in the only input and the first output of a model."""

    batch_axis: int
    time_axis: int | None
    """None if a call is one step and `x` has no axis for it."""
    width: int
    """Numbers in one row of `x`: features, or entries of the vocabulary."""
    one_hot: bool
    """Whether the model takes tokens as one-hot rows."""
    has_features: bool
    """Whether `x` has an axis for the features."""
    window: int | None
    """The number of steps that the model must be given, if it takes no other; None if it takes any."""
    y_time_axis: int | None
    """None if `y` is only of the last step."""
    y_has_features: bool
    one_step: bool
    """Whether a call is one step, so that rows of several are several calls."""

    def inputs(self, rows: Array) -> Array:
        """Lay out `[batch, seq, features]` values or `[batch, seq]` tokens as a call of the model takes them."""
        if self.one_hot:
            rows = (rows[..., None] == np.arange(self.width)).astype(np.float32)
        elif rows.ndim == 3 and not self.has_features:
            rows = rows[..., 0]
        if self.time_axis is None:
            return np.ascontiguousarray(rows[:, 0])
        return np.ascontiguousarray(np.swapaxes(rows, 0, 1) if self.batch_axis else rows)

    def last(self, y: Array) -> Array:
        """The output after the last row: `[batch, outputs]`."""
        y = y if self.y_time_axis is None else np.take(y, -1, axis=self.y_time_axis)
        return y if self.y_has_features else y[:, None]


def pad_sequences(rows: Sequence[Sequence[int]]) -> tuple[Array, Array]:
    """Tokens of unequal length as `[rows, longest]`, padded with 0, and their lengths."""
    lengths = np.array([len(row) for row in rows])
    x = np.zeros((len(rows), lengths.max()), np.int64)
    for padded, row in zip(x, rows, strict=True):
        padded[: len(row)] = row
    return x, lengths


def layout_of(signature: Signature) -> Layout:
    """The layout of a model that has a task.

    Raises `InputError` if it has none, or if its tensors do not fit the task.
    """
    task = signature.task
    if task is None:
        raise InputError("This model has no task; export it with --task, or call it from Python with lstm_deploy.open.")
    x, y = signature.inputs[0], signature.outputs[0]
    if not all(spec.is_lengths for spec in signature.inputs[1:]):
        raise InputError(f"A model with a task takes one input, not {len(signature.inputs)}; export it without --task.")
    inputs, outputs = widths(task)
    tokens = not isinstance(task, Forecast)
    if (
        "batch" not in x.shape[:2]
        or len(x.shape) not in ((1, 2, 3) if signature.one_step else (2, 3))
        or not {dim for dim in x.shape if isinstance(dim, str)} <= {"batch", "seq"}
    ):
        raise InputError(f"{x} is not a batch of sequences, so the model cannot have a task; export it without --task.")
    batch_axis = x.shape.index("batch")
    time_axis = signature.time_axis(x)
    if time_axis is None and not signature.one_step:
        time_axis = 1 - batch_axis  # of a fixed window
    has_features, is_integer = len(x.shape) == (2 if time_axis is None else 3), x.dtype.startswith("int")
    if tokens:
        fits = not has_features if is_integer else x.shape[-1] == inputs
    else:
        fits = not is_integer and inputs == (x.shape[-1] if has_features else 1)
    if time_axis == 2 or (time_axis is None and batch_axis) or not fits:
        noun, check = ("tokens", "the vocabulary") if tokens else ("features", "the features")
        raise InputError(f"{x} does not take the {inputs} {noun} of its task; check {check}.")
    y_dims = list(y.shape)
    y_time_axis = None
    if "seq" in y_dims or signature.one_step:
        y_time_axis = signature.time_axis(y)
    elif time_axis is not None and len(y_dims) == 3 and y_dims[time_axis] in (1, x.shape[time_axis]):
        y_time_axis = time_axis
    if y_time_axis is not None:
        del y_dims[y_time_axis]
    if y_dims != ["batch", outputs] and not (y_dims == ["batch"] and outputs == 1):
        raise InputError(f"{y} is not the {outputs} outputs of its task, as y[batch,{outputs}]; check the task.")
    size = None if time_axis is None or signature.one_step else x.shape[time_axis]
    window = size if isinstance(size, int) else None
    if isinstance(task, Forecast) and window not in (None, task.window):
        raise InputError(f"A call takes {window} steps, and its task says {task.window}; make them equal.")
    return Layout(
        batch_axis=batch_axis,
        time_axis=time_axis,
        width=inputs,
        one_hot=tokens and not is_integer,
        has_features=has_features,
        window=window,
        y_time_axis=y_time_axis,
        y_has_features=len(y_dims) == 2,
        one_step=signature.one_step,
    )
