"""Pretrained word vectors, read from files, and the embedding that starts from them. No PyTorch."""

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from lstm_deploy.artifacts import read_npz, read_text, require_file
from lstm_deploy.errors import InputError, one_line
from lstm_deploy.training.data.vocabularies import UNKNOWN

_BLANK = re.compile(r"[ \t]+")


class WordVectors(Struct, frozen=True, kw_only=True):
    """One vector per word."""

    index: dict[str, int]
    """The row of each word."""
    values: NDArray[np.float32]
    """`[words, width]`."""


def read_word_vectors(path: Path) -> WordVectors:
    """Read `.npz` with `words` `[n]` and `vectors` `[n, width]`, or a text of lines `word number number …`.

    A first line of two whole numbers, as word2vec writes it, is skipped. Raises `InputError` for anything else.
    """
    words, values = _from_npz(path) if path.suffix.lower() == ".npz" else _from_text(path)
    if not np.isfinite(values).all():
        raise InputError(f"{path} has vectors that are not finite numbers; remove their words.")
    return WordVectors(index={word: row for row, word in enumerate(words)}, values=values)


def initial_embedding(vocabulary: Sequence[str], vectors: WordVectors, seed: int) -> tuple[NDArray[np.float32], int]:
    """A vector for each entry of a vocabulary that has `UNKNOWN`, `[entries, width]`, and how many have a vector.

    Entries without a vector are drawn from a normal distribution with the mean and deviation of the others; `UNKNOWN`
    gets the mean vector.
    """
    rows = np.array([vectors.index.get(entry, -1) for entry in vocabulary])
    has_vector = rows >= 0
    pretrained = vectors.values[rows[has_vector]] if has_vector.any() else vectors.values
    rng = np.random.default_rng(seed)
    matrix = rng.normal(pretrained.mean(), pretrained.std(), (len(rows), vectors.values.shape[1])).astype(np.float32)
    matrix[has_vector] = vectors.values[rows[has_vector]]
    if UNKNOWN not in vectors.index:
        matrix[vocabulary.index(UNKNOWN)] = pretrained.mean(0)
    return matrix, int(has_vector.sum())


def _from_npz(path: Path) -> tuple[list[str], NDArray[np.float32]]:
    require_file(path)
    arrays = read_npz(path)
    words, values = arrays.get("words"), arrays.get("vectors")
    if words is None or values is None or words.dtype.kind != "U" or values.dtype.kind not in "fiu":
        raise InputError(f"{path} needs the arrays words (of strings) and vectors (of numbers); save it again.")
    if words.ndim != 1 or values.ndim != 2 or len(words) != len(values) or not values.size:
        raise InputError(f"words in {path} is {[*words.shape]} and vectors {[*values.shape]}; give [n] and [n, width].")
    with np.errstate(over="ignore"):
        return words.tolist(), values.astype(np.float32)


def _from_text(path: Path) -> tuple[list[str], NDArray[np.float32]]:
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
        word, numbers = " ".join(cells[:-width]), cells[-width:]  # some files have words that contain spaces
        try:
            if not word:
                raise ValueError(f"it has fewer numbers than the {width} of the first line")
            with np.errstate(over="ignore"):  # an overflow becomes infinite, which the caller refuses
                values[row] = np.array(numbers, np.float64)
        except ValueError as error:
            raise InputError(f"{line[:40]!r} in {path} is not a word and its vector ({one_line(error)}).") from error
        words.append(word)
    return words, values


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True
