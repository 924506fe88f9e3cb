"""Texts with a label each, from tables; the vocabulary of texts; word vectors that others trained. No PyTorch."""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from msgspec import Struct
from numpy.typing import NDArray

from lstm_deploy.artifacts import read_npz, read_text, require_file
from lstm_deploy.contract import Array, Unit, split_text
from lstm_deploy.errors import InputError, one_line
from lstm_deploy.training.data.tables import read_table

_BLANK = re.compile(r"[ \t]+")
UNKNOWN = "<unk>"
"""The entry of our vocabularies that stands for what they lack; its token is 0."""
LEAST_EXAMPLES = 3
"""Of each label: one to learn from, one to choose the best epoch by, one to measure on."""


class Labelled(Struct, frozen=True, kw_only=True):
    """Texts, none of them empty, and what each is."""

    texts: tuple[str, ...]
    labels: tuple[str, ...]
    dropped: int = 0
    """Rows that had no text or no label."""


class Vectors(Struct, frozen=True, kw_only=True):
    """A vector for each of some words."""

    index: dict[str, int]
    """The row of each word."""
    values: NDArray[np.float32]
    """`[words, width]`."""


class Split(Struct, frozen=True, kw_only=True):
    """Rows to learn from, to choose the best epoch by, and to measure on."""

    fit: Array
    validate: Array
    test: Array


def read_labelled(path: Path, text: str | None = None, label: str | None = None) -> Labelled:
    """Texts and labels from two columns of a table (see `read_table`), called `text` and `label` if not said otherwise.

    Raises `InputError` for what is not such a table.
    """
    table = read_table(path, texts=True)
    words = _column(table, text or "text", "--text-column", path)
    names = _column(table, label or "label", "--label-column", path)
    there = (words.str.strip() != "") & words.notna() & names.notna() & (names != "")
    if not there.any():
        raise InputError(f"No row of {path} has both a text and a label; check --text-column and --label-column.")
    dropped = int(len(table) - there.sum())
    return Labelled(texts=tuple(words[there]), labels=tuple(names[there]), dropped=dropped)


def split(labels: Sequence[str], test: float, validation: float, seed: int) -> Split:
    """Rows drawn at random, the same part of each label; raises `InputError` for a label with too few rows.

    The same arguments give the same rows, so what was held out in training can be found again.
    """
    rng = np.random.default_rng(seed)
    every = np.array(labels)
    parts: tuple[list[Array], ...] = ([], [], [])
    for label in sorted(set(labels)):
        rows = rng.permutation(np.flatnonzero(every == label))
        if len(rows) < LEAST_EXAMPLES:
            raise InputError(
                f"Label {label!r} has {len(rows)} row(s), too few to learn from and to measure on; give "
                f"{LEAST_EXAMPLES} or more, or leave it out."
            )
        # At least one row for each part, and of what is not held out the part that validates.
        first = min(max(1, round(test * len(rows))), len(rows) - (2 if validation else 1))
        rest = len(rows) - first
        second = first + (min(max(1, round(validation * rest)), rest - 1) if validation else 0)
        for part, chosen in zip(parts, np.split(rows, [first, second]), strict=True):
            part.append(chosen)
    held_out, validate, fit = (rng.permutation(np.concatenate(part)) for part in parts)
    return Split(fit=fit, validate=validate, test=held_out)


def vocabulary_of(texts: Iterable[str], unit: Unit, largest: int, least_count: int) -> tuple[str, ...]:
    """`UNKNOWN`, then what occurs in the texts at least so many times, the most frequent first, so many at most.

    Raises `InputError` if nothing does.
    """
    counts = Counter(piece for text in texts for piece in split_text(text, unit))
    counts.pop(UNKNOWN, None)
    ordered = sorted(counts, key=lambda piece: (-counts[piece], piece))
    chosen = [piece for piece in ordered[: largest - 1] if counts[piece] >= least_count]
    if not chosen:
        raise InputError(f"No {unit} occurs {least_count} times in the texts; give more, or a smaller --least-count.")
    return (UNKNOWN, *chosen)


def read_vectors(path: Path) -> Vectors:
    """Word vectors: `.npz` with `words` `[n]` and `vectors` `[n, width]`, or a text of lines `word number number …`.

    A first line of two whole numbers, as word2vec writes it, is skipped. Raises `InputError` for anything else.
    """
    if path.suffix.lower() == ".npz":
        words, values = _vectors_of_npz(path)
    else:
        words, values = _vectors_of_text(path)
    if not np.isfinite(values).all():
        raise InputError(f"{path} has vectors that are not finite numbers; leave these words out.")
    return Vectors(index={word: row for row, word in enumerate(words)}, values=values)


def embed(vocabulary: Sequence[str], vectors: Vectors, seed: int) -> tuple[NDArray[np.float32], int]:
    """A vector for each entry of a vocabulary `[entries, width]`, and how many the file had.

    What the file has not is drawn from a normal distribution as wide as its vectors; `UNKNOWN` gets their mean.
    """
    rows = [vectors.index.get(entry) for entry in vocabulary]
    found = [row for row in rows if row is not None]
    known = vectors.values[found] if found else vectors.values
    rng = np.random.default_rng(seed)
    made = rng.normal(known.mean(), known.std(), (len(rows), vectors.values.shape[1])).astype(np.float32)
    for place, row in enumerate(rows):
        if row is not None:
            made[place] = vectors.values[row]
        elif vocabulary[place] == UNKNOWN:
            made[place] = known.mean(0)
    return made, len(found)


def _column(table: pd.DataFrame, name: str, option: str, path: Path) -> "pd.Series[str]":
    if name not in table.columns:
        there = ", ".join(map(str, table.columns))
        raise InputError(f"{path} has no column {name!r}; name one with {option}: {there}.")
    return table[name].convert_dtypes().astype("string")


def _vectors_of_npz(path: Path) -> tuple[list[str], NDArray[np.float32]]:
    require_file(path)
    arrays = read_npz(path)
    words, values = arrays.get("words"), arrays.get("vectors")
    if words is None or values is None or words.dtype.kind != "U" or values.dtype.kind not in "fiu":
        raise InputError(f"{path} needs the arrays words (of texts) and vectors (of numbers); save them again.")
    if words.ndim != 1 or values.ndim != 2 or len(words) != len(values) or not values.size:
        raise InputError(
            f"words in {path} is {list(words.shape)} and vectors {list(values.shape)}; give [n] and [n, width]."
        )
    with np.errstate(over="ignore"):
        return words.tolist(), values.astype(np.float32)


def _vectors_of_text(path: Path) -> tuple[list[str], NDArray[np.float32]]:
    lines = [line for line in read_text(path).split("\n") if line.strip()]
    if len(lines) > 1 and len(first := lines[0].split()) == 2 and all(cell.isdecimal() for cell in first):
        lines = lines[1:]
    cells = lines[0].split()
    width = min(next((n for n, cell in enumerate(reversed(cells)) if not _is_number(cell)), len(cells)), len(cells) - 1)
    if width < 1:
        raise InputError(f"Line 1 of {path} holds no vector; each line is a word and its numbers.")
    words, values = [], np.empty((len(lines), width), np.float32)
    for row, line in enumerate(lines):
        cells = _BLANK.split(line.strip(" \t\r"))
        cells = [" ".join(cells[:-width]), *cells[-width:]]  # some files have words with spaces in them
        try:
            if len(cells) != width + 1 or not cells[0]:
                raise ValueError(f"it has fewer numbers than the {width} of the first line")
            with np.errstate(over="ignore"):  # what overflows is infinite, and refused as such
                values[row] = np.array(cells[1:], np.float64)
        except ValueError as error:
            raise InputError(f"{line[:40]!r} in {path} is no word with its vector ({one_line(error)}).") from error
        words.append(cells[0])
    return words, values


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True
