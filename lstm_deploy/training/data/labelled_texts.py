"""Labelled texts, read from tables. No PyTorch."""

from pathlib import Path

import pandas as pd
from msgspec import Struct

from lstm_deploy.errors import InputError, did_you_mean
from lstm_deploy.training.data.table_files import read_table


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
    texts = _column(table, text or "text", "--text-column", path)
    labels = _column(table, label or "label", "--label-column", path)
    complete = (texts.str.strip() != "") & texts.notna() & labels.notna() & (labels != "")
    if not complete.any():
        raise InputError(f"No row of {path} has both a text and a label; check --text-column and --label-column.")
    dropped = int(len(table) - complete.sum())
    return LabelledTexts(texts=tuple(texts[complete]), labels=tuple(labels[complete]), dropped=dropped)


def _column(table: pd.DataFrame, name: str, option: str, path: Path) -> "pd.Series[str]":
    if name not in table.columns:
        raise InputError(f"{path} has no column {name!r}, which {option} names; {did_you_mean(name, table.columns)}")
    return table[name].convert_dtypes().astype("string")
