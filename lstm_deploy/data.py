"""Reading series and text from files. No PyTorch: `run` reads its input here too."""

import io
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

from lstm_deploy.errors import InputError
from lstm_deploy.files import read_npz

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
    """How many missing values were replaced by the latest one before them."""
    dropped: int
    """How many rows at the start were left out, where some column had no value yet."""
    left_out: tuple[str, ...]
    """Columns that nobody asked for and that hold no numbers, or one number only."""


def read_series(path: Path, columns: Sequence[str] | None = None) -> Series:
    """Read the named columns (default: all numeric ones) of a table, oldest row first.

    CSV (comma, semicolon, tab or bar) with a header, or `.npz` with a record array or one-dimensional
    arrays of one length. Missing values take the latest value before them; rows before every column
    has a value are left out. Raises `InputError` for what is not such a table.
    """
    table = _read_npz(path) if path.suffix == ".npz" else _read_csv(path)
    if table.empty:
        raise InputError(f"{path} has no rows; give a file with a header and one row for each step.")
    table, labels = _split_dates(table, path)
    chosen = list(columns) if columns else [str(name) for name in table.columns if _has_information(table[name])]
    if not chosen:
        raise InputError(f"{path} has no column of numbers; check the separator and the header.")
    values = np.column_stack([_numbers(table, name, path) for name in chosen])
    missing = np.isnan(values)
    started = ~np.isnan(pd.DataFrame(values).ffill().to_numpy())
    complete = np.flatnonzero(started.all(axis=1))
    if not complete.size:
        empty = next(name for name, has in zip(chosen, started.any(axis=0), strict=True) if not has)
        raise InputError(f"Column {empty!r} of {path} has no value; leave it out with --features.")
    first = int(complete[0])
    return Series(
        columns=tuple(chosen),
        values=pd.DataFrame(values).ffill().to_numpy(dtype=np.float64)[first:],
        labels=tuple(labels[first:]),
        filled=int(missing[first:].sum()),
        dropped=first,
        left_out=() if columns else tuple(str(name) for name in table.columns if name not in chosen),
    )


def read_text(path: Path) -> str:
    """Read a UTF-8 text; raises `InputError` if it is empty or something else."""
    _require_file(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 text ({error.reason}); convert it first.") from error
    if not text.strip():
        raise InputError(f"{path} is empty; give a file with text in it.")
    return text


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


def _read_csv(path: Path) -> pd.DataFrame:
    text = read_text(path)
    header = text.lstrip().splitlines()[0]
    separator = max(",;\t|", key=header.count)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)  # rows longer than the header
            return pd.read_csv(
                io.StringIO(text), sep=separator, skipinitialspace=True, low_memory=False, index_col=False
            )
    except (pd.errors.ParserError, pd.errors.ParserWarning, pd.errors.EmptyDataError) as error:
        raise InputError(f"{path} is not a table ({str(error).strip()}); check its rows.") from error


def _read_npz(path: Path) -> pd.DataFrame:
    _require_file(path)
    arrays = read_npz(path)
    records = [array for array in arrays.values() if array.dtype.names]
    if len(arrays) == 1 and records:
        arrays = {name: records[0][name] for name in records[0].dtype.names or ()}
    shapes = {array.shape for array in arrays.values()}
    if len(shapes) != 1 or len(next(iter(shapes))) != 1:
        raise InputError(
            f"{path} must hold one record array or one-dimensional arrays of one length, one for each column; "
            f"it has {', '.join(f'{name}{list(array.shape)}' for name, array in arrays.items()) or 'none'}."
        )
    return pd.DataFrame(arrays)


def _require_file(path: Path) -> None:
    if path.is_dir():
        raise InputError(f"{path} is a directory; give a file.")
    if not path.exists():
        raise InputError(f"{path} does not exist; check the path.")


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
    numbers = pd.to_numeric(column, errors="coerce").dropna()
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
