"""Training data ready for use, and where it came from. No PyTorch."""

from pathlib import Path
from typing import Any

from msgspec import Struct

from lstm_deploy.artifacts import read_text, relative_path, sha256
from lstm_deploy.errors import InputError, did_you_mean
from lstm_deploy.training.data.labelled_texts import LabelledTexts, read_labelled_texts
from lstm_deploy.training.data.series import HOW_TO_WRITE, Series, generate, read_series
from lstm_deploy.training.data.word_vectors import WordVectors, read_word_vectors
from lstm_deploy.training.recipe import Generator, Missing


class TrainingData(Struct, frozen=True, kw_only=True):
    """A series to forecast, a text for a language model, or labelled texts for a classifier."""

    content: Series | str | LabelledTexts
    targets: tuple[str, ...] = ()
    """Of a series: the columns to predict."""
    vectors: WordVectors | None = None
    """Of labelled texts: pretrained vectors that the embedding starts from."""
    origin: dict[str, Any] = {}
    """Stored in the checkpoint, so that the held-out part can be found again."""
    remarks: tuple[str, ...] = ()
    """Notes for the user, one sentence each."""


def load_series(
    path: Path, features: tuple[str, ...] | None, target: tuple[str, ...] | None, missing: Missing
) -> TrainingData:
    """Load a series as `read_series` does; raises `InputError` if it does, or if it is unclear what to predict."""
    series = read_series(path, features, missing)
    remarks = []
    _check_targets(path, series, target or ())
    if series.left_out and not features:
        cells = {name: f" (it holds {cell!r}; {HOW_TO_WRITE})" for name, cell in series.unread.items()}
        listed = (name + cells.get(name, "") for name in series.left_out)
        remarks.append(f"Ignored columns that are constant or not numeric: {', '.join(listed)}.")
    if series.same_dates:
        remarks.append(
            f"{series.same_dates} row(s) repeat the date of another; each counts as a step of its own, so make sure "
            "that the file holds one series."
        )
    if series.dropped:
        remarks.append(f"{series.dropped} row(s) with missing values are left out.")
    if series.filled:
        how = "lie on the line to the next one" if missing == "interpolate" else "take the latest value before them"
        remarks.append(f"{series.filled} missing value(s) {how}.")
    targets = target or series.columns
    if not target and len(targets) > 1:
        raise InputError(f"There are several columns to predict; name some with --target: {', '.join(targets)}.")
    return TrainingData(content=series, targets=targets, origin={"missing": missing}, remarks=tuple(remarks))


def _check_targets(path: Path, series: Series, targets: tuple[str, ...]) -> None:
    """Raise `InputError` for a target that the file does not have."""
    if unknown := [name for name in targets if name not in (*series.columns, *series.left_out)]:
        raise InputError(f"{path} has no column {unknown[0]!r}; {did_you_mean(unknown[0], series.columns)}")


def generate_series(name: Generator, rows: int | None, seed: int) -> TrainingData:
    """Generate a series as `generate` does, to predict its only column."""
    series = generate(name, rows, seed)
    origin = {"generator": name, "rows": len(series.values), "seed": seed}
    return TrainingData(content=series, targets=series.columns, origin=origin)


def load_text(path: Path) -> TrainingData:
    """Load a UTF-8 text."""
    return TrainingData(content=read_text(path))


def load_labelled_texts(
    path: Path, text_column: str | None, label_column: str | None, vectors: Path | None
) -> TrainingData:
    """Load labelled texts from a table, and word vectors from another file."""
    content = read_labelled_texts(path, text_column, label_column)
    remarks = (f"{content.dropped} row(s) without a text or a label are left out.",) if content.dropped else ()
    return TrainingData(
        content=content,
        vectors=read_word_vectors(vectors) if vectors else None,
        origin={"text_column": text_column, "label_column": label_column},
        remarks=remarks,
    )


def origin_of(file: Path, checkpoint: Path) -> dict[str, str]:
    """The path of a data file relative to the checkpoint's folder, and its SHA-256."""
    return {"path": relative_path(file, checkpoint.resolve().parent), "sha256": sha256(file)}
