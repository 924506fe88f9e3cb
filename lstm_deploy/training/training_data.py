"""What a training learns from, read and ready, with where it came from. No PyTorch."""

from pathlib import Path
from typing import Any

from msgspec import Struct

from lstm_deploy.artifacts import read_text, relative_path, sha256
from lstm_deploy.errors import InputError
from lstm_deploy.training.data import synthetic
from lstm_deploy.training.data.labelled_texts import Labelled, Vectors, read_labelled, read_vectors
from lstm_deploy.training.data.series import Series, read_series
from lstm_deploy.training.recipe import Generator, Missing


class Material(Struct, frozen=True, kw_only=True):
    """A series for a forecast, a text for a language model, or labelled texts for a classifier."""

    content: Series | str | Labelled
    targets: tuple[str, ...] = ()
    """Of a series: the columns to predict."""
    vectors: Vectors | None = None
    """Of labelled texts: word vectors to begin with."""
    origin: dict[str, Any] = {}
    """What a checkpoint tells of it, so that `metrics.examples` can find what was held out again."""
    remarks: tuple[str, ...] = ()
    """What the user should know of it, one sentence each."""


def series(path: Path, features: tuple[str, ...] | None, target: tuple[str, ...] | None, missing: Missing) -> Material:
    """A series from a file; raises `InputError` as `data.read_series` does, or where the target is not said."""
    found = read_series(path, features, missing)
    remarks = []
    if found.left_out:
        remarks.append(f"Left out, of no numbers or of one only: {', '.join(found.left_out)}.")
    if found.dropped:
        remarks.append(f"{found.dropped} row(s) with missing values are left out.")
    if found.filled:
        how = "lie on the line to the next one" if missing == "interpolate" else "take the latest value before them"
        remarks.append(f"{found.filled} missing value(s) {how}.")
    return Material(
        content=found, targets=_targets(target, found.columns), origin={"missing": missing}, remarks=tuple(remarks)
    )


def generated(name: Generator, rows: int | None, seed: int) -> Material:
    """A series of a generator."""
    content = synthetic.generate(name, rows, seed)
    origin = {"generator": name, "rows": len(content.values), "seed": seed}
    return Material(content=content, targets=content.columns, origin=origin)


def text(path: Path) -> Material:
    """A text from a file."""
    return Material(content=read_text(path))


def labelled(path: Path, text_column: str | None, label_column: str | None, vectors: Path | None) -> Material:
    """Labelled texts from a file, and word vectors from another; raises `InputError` for what is neither."""
    found = read_labelled(path, text_column, label_column)
    remarks = (f"{found.dropped} row(s) lack a text or a label and are left out.",) if found.dropped else ()
    return Material(
        content=found,
        vectors=read_vectors(vectors) if vectors else None,
        origin={"text_column": text_column, "label_column": label_column},
        remarks=remarks,
    )


def origin_of(file: Path, checkpoint: Path) -> dict[str, str]:
    """Where a file lies, from where the checkpoint lies, and its SHA-256."""
    return {"path": relative_path(file, checkpoint.resolve().parent), "sha256": sha256(file)}


def _targets(given: tuple[str, ...] | None, columns: tuple[str, ...]) -> tuple[str, ...]:
    """The columns to predict: those that are named, or the only one."""
    if given:
        return given
    if len(columns) == 1:
        return columns
    raise InputError(f"Which column is to be predicted? Name it with --target; there are {', '.join(columns)}.")
