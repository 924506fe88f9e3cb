"""Reading series and text from files. No PyTorch: `run` reads its input here too."""

import json
import re
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from msgspec import Struct
from numpy.typing import NDArray

from lstm_deploy.artifacts import read_text
from lstm_deploy.errors import InputError
from lstm_deploy.training.data.tables import read_table
from lstm_deploy.training.recipe import Missing

Values = NDArray[np.float64]
LARGEST = 1e37
"""Beyond it, float32 overflows when values are scaled."""

UNKNOWN = ("<unk>", "<UNK>", "[UNK]")
"""Entries of vocabularies that stand for what these lack."""

_DATE = re.compile(
    r"\s*(\d{4}[-/.]\d{1,2}|\d{1,2}[-/.]\d{1,2}[-/.]\d{2,4}|\d{1,2}[ -]?[A-Za-z]{3}|[A-Za-z]{3,9} \d{1,2})"
)
"""How a date may begin; a number with a separator of thousands does not."""


class Series(Struct, frozen=True, kw_only=True):
    """A regular series: one row for each step, oldest first, no gaps."""

    columns: tuple[str, ...]
    values: Values
    """`[rows, columns]`, finite."""
    labels: tuple[str, ...]
    """What each row is called: its date, or its number."""
    filled: int
    """How many missing values were replaced."""
    dropped: int
    """How many rows were left out: at the start, where some column had no value yet, or as was asked for."""
    left_out: tuple[str, ...]
    """Columns that nobody asked for and that hold no numbers, or one number only."""
    noiseless: Values | None = None
    """The values without their noise, where these were generated."""


def read_series(path: Path, columns: Sequence[str] | None = None, missing: Missing = "previous") -> Series:
    """Read the named columns (default: all numeric ones) of a table (see `read_table`), oldest row first.

    Missing values take the `previous` value, or one on the line to the next (`interpolate`), or their rows are left out
    (`drop`), or they are refused (`refuse`). Rows before every column has a value are left out. Raises `InputError` for
    what is not such a table.
    """
    table = read_table(path)
    table, labels = _split_dates(table, path)
    chosen = list(columns) if columns else [str(name) for name in table.columns if _has_information(table[name])]
    if not chosen:
        raise InputError(f"{path} has no column of numbers; check the separator and the header.")
    values = pd.DataFrame({name: _numbers(table, name, path) for name in chosen})
    gaps = values.isna()
    if empty := [name for name in chosen if gaps[name].all()]:
        raise InputError(f"Column {empty[0]!r} of {path} has no value; leave it out with --features.")
    if missing == "refuse" and gaps.to_numpy().any():
        name = next(name for name in chosen if gaps[name].any())
        raise InputError(f"Column {name!r} of {path} lacks {gaps[name].sum()} value(s); choose another --missing.")
    if missing == "interpolate":
        values = values.interpolate(limit_direction="forward")
    elif missing != "drop":
        values = values.ffill()
    kept = np.flatnonzero(values.notna().all(axis=1))
    if not kept.size:
        raise InputError(f"No row of {path} has a value in every column; choose other --features or --missing.")
    return Series(
        columns=tuple(chosen),
        values=values.to_numpy(dtype=np.float64)[kept],
        labels=tuple(labels[row] for row in kept),
        filled=int(gaps.to_numpy()[kept].sum()),
        dropped=len(values) - kept.size,
        left_out=() if columns else tuple(str(name) for name in table.columns if name not in chosen),
    )


def held_out_from(rows: int, part: float, horizon: int) -> int:
    """The first row of the end of a series that training keeps for the metrics."""
    return rows - max(horizon, round(part * rows))


def read_vocabulary(path: Path, *, characters: bool) -> tuple[tuple[str, ...], int | None]:
    """The entries of a vocabulary in the order of their tokens, and the token of what it lacks, if it has one.

    JSON: a list of entries, or an object of tokens by entry; one called `<unk>`, `[UNK]` or `<UNK>` stands for all
    others. Else a text: of words, between white space; of characters, any text, whose characters in the order of their
    code points are the vocabulary. Raises `InputError` for anything else.
    """
    text = read_text(path)
    if path.suffix != ".json":
        entries = sorted(set(text)) if characters else text.split()
    else:
        try:
            given = json.loads(text)
        except json.JSONDecodeError as error:
            raise InputError(f"{path} is not JSON ({error}); give a list of entries.") from error
        if isinstance(given, dict):
            by_token = {token: entry for entry, token in given.items() if isinstance(token, int)}
            if sorted(by_token) != list(range(len(given))):
                raise InputError(f"{path} does not give the tokens 0 to {len(given) - 1}, each once; correct it.")
            given = [by_token[token] for token in range(len(given))]
        if not isinstance(given, list) or not all(isinstance(entry, str) and entry for entry in given):
            raise InputError(f'{path} is no list of entries; write it as ["a", "b"].')
        entries = given
    if len(set(entries)) != len(entries):
        raise InputError(f"{path} has an entry twice; each token stands for one.")
    if characters and (long := [entry for entry in entries if len(entry) > 1 and entry not in UNKNOWN]):
        raise InputError(f"{path} has the entry {long[0]!r}, which is no character; correct it.")
    unknown = next((token for token, entry in enumerate(entries) if entry in UNKNOWN), None)
    return tuple(entries), unknown


def _split_dates(table: pd.DataFrame, path: Path) -> tuple[pd.DataFrame, list[str]]:
    """Take out the first column of dates, if there is one, and check that it rises."""
    for name in table.columns:
        readings = _as_dates(table[name], str(name))
        if not readings:
            continue
        if not any(dates.is_monotonic_increasing for dates in readings):
            raise InputError(f"The dates in column {name!r} of {path} are out of order; sort the rows by it.")
        return table.drop(columns=[name]), [str(label).removesuffix(" 00:00:00") for label in table[name]]
    return table, [str(row) for row in range(len(table))]


def _as_dates(column: "pd.Series[Any]", name: str) -> "list[pd.Series[Any]]":
    """The column read as dates, in each way that it can be read (month or day first); empty if it holds none."""
    if pd.api.types.is_datetime64_any_dtype(column):
        return [column]
    text = column.astype("string")
    if name.strip().lower() in ("date", "day", "datetime") and text.str.fullmatch(r"(19|20)\d{6}").all():
        return [pd.to_datetime(text, format="%Y%m%d", errors="coerce")]
    if _is_numeric(column) or not text.str.match(_DATE).all():
        return []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pandas says so when it cannot infer one format for all
        readings = [
            pd.to_datetime(text, errors="coerce", utc=True, dayfirst=dayfirst, format="mixed")
            for dayfirst in (False, True)
        ]
    return [dates for dates in readings if dates.notna().all()]


def _has_information(column: "pd.Series[Any]") -> bool:
    """Whether it is of numbers (a few bad cells are told later) that are not all the same."""
    if pd.api.types.is_bool_dtype(column):
        return False
    try:
        numbers = pd.to_numeric(column, errors="coerce").dropna()
    except OverflowError:
        return True  # told when it is read
    return len(numbers) > len(column.dropna()) / 2 and (len(column) == 1 or numbers.nunique() > 1)


def _is_numeric(column: "pd.Series[float]") -> bool:
    return pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column)


def _numbers(table: pd.DataFrame, name: str, path: Path) -> Values:
    if name not in table.columns:
        there = ", ".join(map(str, table.columns))
        raise InputError(f"{path} has no column {name!r}; choose from {there}.")
    column = table[name]
    try:
        numbers = pd.to_numeric(column, errors="coerce").to_numpy(dtype=np.float64)
    except (OverflowError, ValueError) as error:
        raise InputError(f"Column {name!r} of {path} has a value that is no number for float32; correct it.") from error
    bad = np.isnan(numbers) & column.notna().to_numpy()
    if bad.any():
        row = int(np.flatnonzero(bad)[0])
        raise InputError(
            f"Row {row + 1} of column {name!r} in {path} is {str(column.iloc[row])!r}, not a number; "
            "correct it or leave the column out with --features."
        )
    if (np.abs(numbers) > LARGEST).any():
        raise InputError(f"Column {name!r} of {path} has a value that is infinite or beyond float32; correct it.")
    return numbers
