"""Checks of the arrays that callers feed, before a runtime sees them."""

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
from numpy import ndarray
from numpy.typing import ArrayLike

from lstm_deploy.contract import Array, Feeds, Outputs, Signature, TensorSpec
from lstm_deploy.errors import InputError, one_line

TINY = 1e-30
"""The largest float32 times this, a million times over, is still finite."""


def complete_feeds(signature: Signature, feeds: Feeds, *, allow_nan: bool = False) -> Outputs:
    """All inputs of a call, checked; state that is not given is the initial state.

    Raises `InputError` for what is missing, unknown, of another shape or type, and, unless allowed, for NaN and
    infinities.
    """
    if not isinstance(feeds, Mapping):
        raise InputError(f"Feeds are a mapping of arrays by name; there is {', '.join(signature.input_names)}.")
    arrays = dict(feeds)
    for spec in signature.inputs:
        if spec.name not in arrays:
            raise InputError(f"The input {spec.name!r} is missing; feed {spec}.")
        arrays[spec.name] = checked(arrays[spec.name], spec, allow_nan=allow_nan)
    batched = (spec for spec in signature.inputs if "batch" in spec.shape)
    batch = next((arrays[spec.name].shape[spec.shape.index("batch")] for spec in batched), 1)
    for spec in signature.state_inputs:
        if spec.name in arrays:
            arrays[spec.name] = checked(arrays[spec.name], spec, {"batch": batch}, allow_nan=allow_nan)
    if unknown := [name for name in arrays if name not in signature.input_names]:
        raise InputError(f"There is no input {unknown[0]!r}; feed {', '.join(signature.input_names)}.")
    return {**signature.initial_state(batch), **arrays}


def checked(
    value: ArrayLike, spec: TensorSpec, sizes: Mapping[str, int] | None = None, *, allow_nan: bool = True
) -> Array:
    """The value as an array of the type of its specification; raises `InputError` where it is not one.

    `sizes` are those that its dynamic dimensions must have.
    """
    array, sizes = as_array(value), sizes or {}
    expected = [sizes.get(dim, dim) if isinstance(dim, str) else dim for dim in spec.shape]
    fits = array.ndim == len(expected) and all(
        size == dim if isinstance(dim, int) else size > 0 for size, dim in zip(array.shape, expected, strict=True)
    )
    if not fits or not np.can_cast(array.dtype, spec.dtype, "same_kind"):
        at = "".join(f" with {name} {size}" for name, size in sizes.items())
        raise InputError(f"{spec.name} is {array.dtype}{list(array.shape)}; feed {spec}{at}.")
    _check_tokens(array, spec)
    with np.errstate(all="ignore"):  # what float32 cannot hold becomes infinite, and is refused as that
        converted = array.astype(spec.dtype, copy=False)
    if converted.dtype.kind == "i" and converted is not array and (converted != array).any():
        raise InputError(f"{spec.name} holds {array[converted != array][0]}, which is no {spec.dtype}; feed {spec}.")
    if not allow_nan:
        _check_finite(converted, spec)
    return converted


def check_finite(signature: Signature, feeds: Feeds) -> None:
    """Raise `InputError` for NaN and infinities in complete feeds."""
    for spec in (*signature.inputs, *signature.state_inputs):
        _check_finite(feeds[spec.name], spec)


def as_array(value: ArrayLike) -> Array:
    """An array; raises `InputError` for what is none, and for masked entries, which NumPy would take for numbers."""
    if _has_masked(value):
        raise InputError("Entries of a masked array are masked; put numbers in their place, as with x.filled(0).")
    try:
        return np.asarray(value)
    except MemoryError:
        raise
    except Exception as error:  # whatever the object's own conversion raises; ValueError where its rows differ in shape
        raise InputError(f"An input is no array of numbers ({one_line(error)}); feed one array.") from error


def _has_masked(value: object) -> bool:
    if isinstance(value, np.ma.MaskedArray):
        return bool(np.ma.is_masked(value))
    return isinstance(value, list | tuple) and any(map(_has_masked, value))


def check_values(array: Array, spec: TensorSpec) -> None:
    """Raise `InputError` for NaN, infinities, and tokens that are not in the vocabulary."""
    _check_finite(array, spec)
    _check_tokens(array, spec)


def range_check(buffer: Array, spec: TensorSpec, allow_nan: bool) -> tuple[Callable[[], Any], float, float]:
    """A cheap test of a flat buffer: it is finite, or holds tokens of the vocabulary, if `low < reduce() < high`.

    Returns `reduce`, `low` and `high`.
    """
    if buffer.dtype.kind == "f" and not allow_nan:
        if buffer.size == 1:
            return buffer.item, -math.inf, math.inf
        # One call in place of two: a weighted sum is finite where all numbers are, as the weights are tiny.
        return partial(buffer.dot, np.full_like(buffer, TINY)), -math.inf, math.inf
    if buffer.dtype.kind == "i" and spec.high is not None:
        unsigned = buffer.view(f"u{buffer.itemsize}")  # what is below 0 is beyond all tokens
        return unsigned.item if buffer.size == 1 else unsigned.max, -1, int(spec.high[0]) + 1
    return lambda: 0, -1, 1


def check_batch(batch: int) -> int:
    """A number of rows; raises `InputError` for anything but a positive integer."""
    if isinstance(batch, bool) or not isinstance(batch, int | np.integer) or batch < 1:
        raise InputError(f"A stream cannot have {batch!r} rows; give a batch of 1 or more.")
    return int(batch)


def check_out(out: object, shape: tuple[int, ...], dtype: Any) -> None:
    """Raise `InputError` unless a result can be written to `out` as it is."""
    if not isinstance(out, ndarray) or out.shape != shape or out.dtype != dtype or not out.flags.writeable:
        actual = f"has shape {list(out.shape)}, {out.dtype}" if isinstance(out, ndarray) else f"is {out!r}"
        raise InputError(f"out {actual}; give a writable array of {list(shape)}, {dtype}.")


def _check_finite(array: Array, spec: TensorSpec) -> None:
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        value = array[~np.isfinite(array)][0]
        raise InputError(
            f"{spec.name} holds {value}, which would spoil all results from there on; leave the step out, or put a "
            "number in its place."
        )


def _check_tokens(array: Array, spec: TensorSpec) -> None:
    if spec.high is not None and array.dtype.kind in "iu" and spec.dtype.startswith("int"):
        outside = (array < 0) | (array > spec.high[0])
        if outside.any():
            raise InputError(f"The token {array[outside][0]} is not in the vocabulary; feed 0 to {spec.high[0]:.0f}.")
