"""Labelled texts, read from tables. No PyTorch."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from msgspec import Struct

from lstm_deploy.errors import InputError, did_you_mean
from lstm_deploy.training.data.table_files import read_table

NO_NUMBERS = (
    "--task classify learns from texts; for windows of numbers, train a PyTorch module of your own and export it as in "
    "docs/guides/cpp.md"
)
"""Why numbers are not classified, and what to do with them."""


class LabelledTexts(Struct, frozen=True, kw_only=True):
    """Texts, none of them empty, and the label of each."""

    texts: tuple[str, ...]
    labels: tuple[str, ...]
    dropped: int = 0
    """Rows without a text or without a label."""


def read_labelled_texts(path: Path, text: str | None, label: str | None) -> LabelledTexts:
    """Texts and labels from two columns of a table (see `read_table`), by default those called `text` and `label`.

    Raises `InputError` for a file that is not such a table.
    """
    table = read_table(path, texts=True)
    label = label or "label"
    texts = _column(table, text or "text", "--text-column", path, [name for name in _of_texts(table) if name != label])
    labels = _column(table, label, "--label-column", path, list(table.columns))
    if texts.name not in _of_texts(table):
        raise InputError(f"Column {texts.name!r} of {path} holds numbers, and {NO_NUMBERS}.")
    complete = (texts.str.strip() != "") & texts.notna() & labels.notna() & (labels != "")
    if not complete.any():
        raise InputError(f"No row of {path} has both a text and a label; check --text-column and --label-column.")
    dropped = int(len(table) - complete.sum())
    return LabelledTexts(texts=tuple(texts[complete]), labels=tuple(labels[complete]), dropped=dropped)


def texts_of(path: Path, column: str) -> list[str] | None:
    """The texts in a column of a CSV; None where the file is no table with that column."""
    try:
        table = read_table(path, texts=True)
    except InputError:
        return None
    return [str(cell) for cell in table[column].fillna("")] if column in table.columns else None


def _of_texts(table: pd.DataFrame) -> list[str]:
    """The columns that hold more than numbers."""
    filled = {name: table[name].dropna().astype("string").loc[lambda cells: cells != ""] for name in table.columns}
    return [
        name for name, cells in filled.items() if not len(cells) or pd.to_numeric(cells, errors="coerce").isna().any()
    ]


def _column(table: pd.DataFrame, name: str, option: str, path: Path, choices: Sequence[str]) -> "pd.Series[str]":
    if name in table.columns:
        return table[name].convert_dtypes().astype("string")
    if not choices:
        raise InputError(f"{path} has no column of texts, and {NO_NUMBERS}.")
    raise InputError(f"{path} has no column {name!r}, which {option} names; {did_you_mean(name, choices)}")
