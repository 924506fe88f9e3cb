"""Series, read from tables or generated. No PyTorch."""

import re
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from msgspec import Struct
from numpy.typing import NDArray

from lstm_deploy.errors import InputError, did_you_mean
from lstm_deploy.training.data.table_files import filter_command, read_table
from lstm_deploy.training.recipe import Generator, Missing

Values = NDArray[np.float64]
LARGEST = 1e37
"""Larger values overflow float32 when they are scaled."""
ROWS: dict[Generator, int] = {"sine": 1000, "sines": 5000}
"""Of a generated series, by default."""

SAME_DATES = 0.1
"""A table with a smaller share of rows that repeat a date holds one series, as where a clock is set back."""
MOST_SERIES = 0.5
"""Texts that tell series apart have fewer values than this share of the rows."""

HOW_TO_WRITE = "write numbers as 1234.5"
_LIKE_A_NUMBER = re.compile(r"[^\w\s]?\s?[+-]?\d[\d.,'\s\u2019]*\s?[^\w\s]?")
"""Digits with separators of any kind, and one sign or currency before or after."""
_DATE = re.compile(
    r"\s*(\d{4}[-/.]\d{1,2}|\d{1,2}[-/.]\d{1,2}[-/.]\d{2,4}|\d{1,2}[ -]?[A-Za-z]{3}|[A-Za-z]{3,9} \d{1,2})"
)
"""The beginning of a date; does not match a number with thousands separators."""


class Series(Struct, frozen=True, kw_only=True):
    """A regular series: one row per time step, oldest first, no gaps."""

    columns: tuple[str, ...]
    values: Values
    """`[rows, columns]`, finite."""
    labels: tuple[str, ...]
    """The date of each row, or its number."""
    filled: int = 0
    """Missing values that were replaced."""
    dropped: int = 0
    """Rows that were dropped: before every column had a value, or with missing values on request."""
    same_dates: int = 0
    """Rows that repeat the date of another."""
    left_out: tuple[str, ...] = ()
    """Columns that are not used; of all, those that are constant or not numeric."""
    unread: dict[str, str] = {}
    """Of those left out, the ones that look like numbers and cannot be read as such, with the first such cell."""
    noiseless: Values | None = None
    """Of a generated series: its values without the noise."""


def read_series(
    path: Path, columns: Sequence[str] | None = None, missing: Missing = "previous", *, fixed: bool = False
) -> Series:
    """Read the named columns (default: all numeric ones) of a table (see `read_table`), oldest row first.

    Missing values are filled with the `previous` value or by linear interpolation (`interpolate`), or their rows are
    dropped (`drop`), or they are an error (`refuse`). Rows before every column has a value are dropped. Raises
    `InputError` for a file that is not such a table; where the columns are `fixed`, as a model needs them, it does not
    offer to choose others.
    """
    table, labels, same_dates = _split_dates(read_table(path), path)
    chosen = list(columns) if columns else [str(name) for name in table.columns if _has_information(table[name])]
    if not chosen:
        if unread := _unread(table):
            name, cell = next(iter(unread.items()))
            raise InputError(f"{path} has no column of numbers: {name!r} holds {cell!r}; {HOW_TO_WRITE}.")
        raise InputError(f"{path} has no column of numbers; check the separator and the header.")
    values = pd.DataFrame({name: _numbers(table, name, path, fixed) for name in chosen})
    gaps = values.isna()
    if empty := [name for name in chosen if gaps[name].all()]:
        remedy = "give a file with values in it" if fixed else "exclude it with --features"
        raise InputError(f"Column {empty[0]!r} of {path} has no value; {remedy}.")
    if missing == "refuse" and gaps.to_numpy().any():
        name = next(name for name in chosen if gaps[name].any())
        raise InputError(
            f"Column {name!r} of {path} has {gaps[name].sum()} missing value(s); choose another --missing."
        )
    if missing == "interpolate":
        values = values.interpolate(limit_direction="forward")
    elif missing != "drop":
        values = values.ffill()
    kept = np.flatnonzero(values.notna().all(axis=1))
    if not kept.size:
        remedy = "complete some" if fixed else "choose other --features or --missing"
        raise InputError(f"No row of {path} has a value in every column; {remedy}.")
    left_out = [str(name) for name in table.columns if name not in chosen]
    return Series(
        columns=tuple(chosen),
        values=values.to_numpy(dtype=np.float64)[kept],
        labels=tuple(labels[row] for row in kept),
        filled=int(gaps.to_numpy()[kept].sum()),
        dropped=len(values) - kept.size,
        same_dates=same_dates,
        left_out=tuple(left_out),
        unread=_unread(table[left_out]),
    )


def generate(name: Generator, rows: int | None = None, seed: int = 0) -> Series:
    """A series of one column, `y`, with and without its noise (`Series.noiseless`).

    `sine`: sin x + N(0, 0.1²) at `rows` points from 0 to 20 π. `sines`: 3 sin t + cos 5 t + 6 + N(0, 1) at
    t = 0, 1, 2, …
    """
    rows = rows or ROWS[name]
    if name == "sine":
        noiseless, deviation = np.sin(np.linspace(0, 20 * np.pi, rows)), 0.1
    else:
        time = np.arange(rows)
        noiseless, deviation = 3 * np.sin(time) + np.cos(5 * time) + 6, 1.0
    values = noiseless + deviation * np.random.default_rng(seed).standard_normal(rows)
    labels = tuple(map(str, range(rows)))
    return Series(columns=("y",), values=values[:, None], noiseless=noiseless[:, None], labels=labels)


def _split_dates(table: pd.DataFrame, path: Path) -> tuple[pd.DataFrame, list[str], int]:
    """Turn the first column of dates, if there is one, into row labels, and count the rows that repeat a date.

    Raises `InputError` if the dates are not in order, or if they are those of several series.
    """
    for name in table.columns:
        readings = _as_dates(table[name], str(name))
        if not readings:
            continue
        dates = next((dates for dates in readings if dates.is_monotonic_increasing), None)
        for reading in readings if dates is None else [dates]:
            _refuse_several_series(table, str(name), reading, path)
        if dates is None:
            raise InputError(f"The dates in column {name!r} of {path} are out of order; sort the rows by it.")
        labels = [str(label).removesuffix(" 00:00:00") for label in table[name]]
        return table.drop(columns=[name]), labels, int(dates.duplicated().sum())
    return table, [str(row) for row in range(len(table))], 0


def _refuse_several_series(table: pd.DataFrame, name: str, dates: "pd.Series[Any]", path: Path) -> None:
    """Raise `InputError` if many rows repeat a date, and another column tells apart the series that they are of."""
    if dates.duplicated().mean() < SAME_DATES:
        return
    times = int(dates.value_counts().max())
    for other in map(str, table.columns.drop(name)):
        column = table[other]
        groups = column.nunique()
        if (
            not 2 <= groups < _most_series(column, times)
            or pd.DataFrame({"date": dates, "series": column}).duplicated().any()
        ):
            continue
        values = [str(value) for value in column.dropna().drop_duplicates()]
        listed = ", ".join(values[:3]) + (", …" if groups > 3 else "")
        command = filter_command(path, other, values[0])
        raise InputError(
            f"{path} holds several series: it has each date up to {times} times in column {name!r}, once for each "
            f"{other!r} ({listed}); keep one of them{f' (for example: {command})' if command else ''}."
        )


def _most_series(column: "pd.Series[Any]", times: int) -> float:
    """How many series a column may tell apart, of which up to `times` have the same date; 0 for one of measurements."""
    if pd.api.types.is_integer_dtype(column):
        return 2 * times + 1  # counts have more values
    return MOST_SERIES * len(column) if column.dtype == object or isinstance(column.dtype, pd.StringDtype) else 0


def _as_dates(column: "pd.Series[Any]", name: str) -> "list[pd.Series[Any]]":
    """The column as dates, once per possible reading (month first, day first); empty if it does not hold dates."""
    if pd.api.types.is_datetime64_any_dtype(column):
        return [column]
    text = column.astype("string")
    if name.strip().lower() in ("date", "day", "datetime") and text.str.fullmatch(r"(19|20)\d{6}").all():
        return [pd.to_datetime(text, format="%Y%m%d", errors="coerce")]
    if pd.api.types.is_numeric_dtype(column) or not text.str.match(_DATE).all():
        return []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pandas warns when it cannot infer one format for all rows
        readings = [
            pd.to_datetime(text, errors="coerce", utc=True, dayfirst=dayfirst, format="mixed")
            for dayfirst in (False, True)
        ]
    return [dates for dates in readings if dates.notna().all()]


def _has_information(column: "pd.Series[Any]") -> bool:
    """Whether a column is numeric (a few bad cells are reported later) and not constant."""
    if pd.api.types.is_bool_dtype(column):
        return False
    try:
        numbers = pd.to_numeric(column, errors="coerce").dropna()
    except OverflowError:
        return True  # reported when it is read
    return len(numbers) > len(column.dropna()) / 2 and (len(column) == 1 or numbers.nunique() > 1)


def _unread(table: pd.DataFrame) -> dict[str, str]:
    """The columns of texts that mostly look like numbers, and the first such text of each."""
    found = {}
    for name in table.columns:
        if pd.api.types.is_numeric_dtype(table[name]) or _as_dates(table[name], str(name)):
            continue
        cells = table[name].dropna().astype("string")
        alike = cells[cells.str.fullmatch(_LIKE_A_NUMBER) & pd.to_numeric(cells, errors="coerce").isna()]
        if len(alike) > len(cells) / 2:
            found[str(name)] = str(alike.iloc[0])
    return found


def _numbers(table: pd.DataFrame, name: str, path: Path, fixed: bool) -> Values:
    if name not in table.columns:
        raise InputError(f"{path} has no column {name!r}; {did_you_mean(name, table.columns)}")
    column = table[name]
    try:
        numbers = pd.to_numeric(column, errors="coerce").to_numpy(dtype=np.float64)
    except (OverflowError, ValueError) as error:
        raise InputError(f"Column {name!r} of {path} has a value that does not fit in float32; correct it.") from error
    bad = np.isnan(numbers) & column.notna().to_numpy()
    if bad.any():
        row = int(np.flatnonzero(bad)[0])
        remedy = HOW_TO_WRITE if name in _unread(table[[name]]) else "correct it"
        raise InputError(
            f"Row {row + 1} of column {name!r} in {path}, not counting the header, is {str(column.iloc[row])!r}, not a "
            f"number; {remedy}{'' if fixed else ', or exclude the column with --features'}."
        )
    if (np.abs(numbers) > LARGEST).any():
        raise InputError(f"Column {name!r} of {path} has a value that is infinite or beyond float32; correct it.")
    return numbers
