"""Splits of data into a part to fit, one to validate and one held out for the metrics. No PyTorch."""

from collections.abc import Sequence
from typing import Generic, Literal, NamedTuple, TypeVar

import numpy as np

from lstm_deploy.contract import Array
from lstm_deploy.errors import InputError

MIN_EXAMPLES = 3
"""Per label: one in each part."""
Part = Literal["fit", "validation", "test"]
Rows = TypeVar("Rows")


class Split(NamedTuple, Generic[Rows]):
    """The rows of each part: slices of a sequence that is split in time, or arrays of row numbers."""

    fit: Rows
    validation: Rows
    test: Rows


def split_series(rows: int, horizon: int, test: float, validation: float) -> Split[slice]:
    """Split a series; no part after the first is shorter than `horizon`."""
    return _split_in_time(rows, rows - max(horizon, round(test * rows)), validation, horizon)


def split_tokens(tokens: int, minimum: int, test: float, validation: float) -> Split[slice]:
    """Split a text; the validation part has at least `minimum` tokens."""
    return _split_in_time(tokens, round((1 - test) * tokens), validation, minimum)


def _split_in_time(rows: int, test_start: int, validation: float, minimum: int) -> Split[slice]:
    fit_end = test_start - (max(minimum, round(validation * test_start)) if validation else 0)
    return Split(slice(0, fit_end), slice(fit_end, test_start), slice(test_start, rows))


def split_by_label(labels: Sequence[str], test: float, validation: float, seed: int) -> Split[Array]:
    """Draw rows at random, the same fraction of each label; deterministic for a given seed.

    Raises `InputError` for a label with fewer than `MIN_EXAMPLES` rows.
    """
    rng = np.random.default_rng(seed)
    label_of_row = np.array(labels)
    splits = []
    for label in sorted(set(labels)):
        rows = rng.permutation(np.flatnonzero(label_of_row == label))
        if len(rows) < MIN_EXAMPLES:
            raise InputError(
                f"Label {label!r} has {len(rows)} row(s) and needs {MIN_EXAMPLES}; add some, or remove it."
            )
        # Every part gets at least one row; `validation` is a fraction of what is not held out.
        test_rows = min(max(1, round(test * len(rows))), len(rows) - (2 if validation else 1))
        rest = len(rows) - test_rows
        validation_rows = min(max(1, round(validation * rest)), rest - 1) if validation else 0
        splits.append(np.split(rows, [test_rows, test_rows + validation_rows]))
    held_out, validate, fit = (rng.permutation(np.concatenate(part)) for part in zip(*splits, strict=True))
    return Split(fit, validate, held_out)


def parallel_streams(tokens: Array, streams: int, steps: int) -> tuple[Array, Array]:
    """Cut a text into equal streams to read side by side: tokens and the token after each, `[streams, length]`.

    There are fewer streams where they would be shorter than `steps`; the remainder of the text is dropped.
    """
    streams = max(1, min(streams, (len(tokens) - 1) // steps))
    length = (len(tokens) - 1) // streams
    end = streams * length
    return tokens[:end].reshape(streams, length), tokens[1 : end + 1].reshape(streams, length)
