"""Tables, read from CSV, Parquet, `.npy` and `.npz`. No PyTorch."""

import io
import json
import re
import shlex
import tokenize
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from lstm_deploy.artifacts import read_npz, read_text, require_file
from lstm_deploy.errors import InputError, one_line, require

_VALUE = re.compile(r"[+-]?\d[\d.:,/+\-TZeE ]*")
"""A number or a date, which are no names."""
_WHOLE = re.compile(r"[+-]?\d{1,3}(\.\d{3})*")
"""A whole number whose thousands are separated by points."""
_COMMA = re.compile(r"[+-]?(\d+|\d{1,3}(\.\d{3})+)(,\d+)?([eE][+-]?\d+)?")
"""A number with a decimal comma, or a whole one."""
_UNCLEAR = re.compile(r"[+-]?[1-9]\d{0,2}(,\d{3})?")
"""A comma of thousands or of decimals; or no comma."""


def read_table(path: Path, *, texts: bool = False) -> pd.DataFrame:
    """Read a table with at least one row; with `texts`, CSV cells stay strings, and "None" is a word.

    CSV (separated by comma, semicolon, tab or bar) with a header, between semicolons also with decimal commas;
    Parquet; `.npz` with one record array, or one-dimensional arrays of equal length; `.npy` with a record array, or
    numbers as `[rows]` or `[rows, columns]`, whose columns are called `c0`, `c1`, … Raises `InputError` for anything
    else.
    """
    require_file(path)
    reader = OTHERS.get(path.suffix.lower())
    table = reader(path) if reader else _read_csv(path, texts)
    if table.empty:
        raise InputError(f"{path} has no rows; give a file with a header and at least one row.")
    if twice := [str(name) for name in table.columns[table.columns.duplicated()]]:
        raise InputError(f"{path} has the column {twice[0]!r} twice; rename one of them.")
    return table


def filter_command(path: Path, column: str, value: str) -> str:
    """A command that writes those rows of a CSV that have this value; empty for other files."""
    if path.suffix.lower() in OTHERS:
        return ""
    name = "".join(letter if letter.isalnum() else "-" for letter in value)
    separator = _separator(read_text(path))
    option = "" if separator == "," else f", sep={_literal(separator)}"
    program = (
        f"import pandas; t = pandas.read_csv({_literal(path)}{option}, dtype=str, skipinitialspace=True); "
        f"t[t[{_literal(column)}] == {_literal(value)}].to_csv({_literal(f'{path.stem}-{name}.csv')}{option}, "
        "index=False)"
    )
    return f"python -c {shlex.quote(program)}"


def _literal(value: object) -> str:
    """A text in Python, in double quotes, so that a shell's single quotes can be around it."""
    return json.dumps(str(value), ensure_ascii=False)


def _separator(text: str) -> str:
    return max(",;\t|", key=text.lstrip().splitlines()[0].count)


def _read_csv(path: Path, texts: bool) -> pd.DataFrame:
    text = read_text(path)
    table = _parse(path, text, keep_default_na=not texts, dtype=str if texts else None)
    names = [str(name) for name in table.columns]
    if all(_VALUE.fullmatch(name.strip()) for name in names) and not _are_consecutive(names):
        header, separator = text.lstrip().splitlines()[0], _separator(text)
        line = separator.join(f"c{n}" for n in range(1, len(names) + 1))
        raise InputError(
            f"{path} has no header: its first line is {one_line(header, 60)!r}; put a line with a name for each column "
            f"above it, for example {one_line(line, 60)!r}."
        )
    if texts or _separator(text) != ";" or "," not in text:
        return table
    cells = _parse(path, text, dtype=str)
    return _with_decimal_commas(table, {str(name): cells[name].dropna().str.strip() for name in cells})


def _are_consecutive(names: list[str]) -> bool:
    """Whether names are 0, 1, … as pandas writes them, or 2019, 2020, …"""
    if not all(name.isdecimal() for name in names):
        return False
    first = int(names[0])
    return [int(name) for name in names] == list(range(first, first + len(names))) and (first == 0 or len(names) > 1)


def _parse(path: Path, text: str, **options: Any) -> pd.DataFrame:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)  # rows longer than the header
            table: pd.DataFrame = pd.read_csv(
                io.StringIO(text),
                sep=_separator(text),
                skipinitialspace=True,
                low_memory=False,
                index_col=False,
                **options,
            )
            return table
    except (pd.errors.ParserError, pd.errors.ParserWarning, pd.errors.EmptyDataError) as error:
        raise InputError(
            f"{path} is not a table, as {_why_no_table(str(error))}; give a file whose rows all have as many cells as "
            "its header."
        ) from error


def _why_no_table(message: str) -> str:
    """What pandas found, in our words."""
    if found := re.search(r"Expected (\d+) fields in line (\d+), saw (\d+)", message):
        return "line {1} has {2} cell(s) and those before it have {0}".format(*found.groups())
    if found := re.search(r"EOF inside string starting at row (\d+)", message):
        return f"a quotation mark in row {found[1]} has no other one"
    return "a row has more cells than the header" if message.startswith("Length of header") else one_line(message)


def _with_decimal_commas(table: pd.DataFrame, cells: "dict[str, pd.Series[str]]") -> pd.DataFrame:
    """The table with numbers for cells such as `1.469,13`, in columns of which most are written like that.

    As 1,250 may be twelve hundred and fifty, a file of which no number can only have a decimal comma stays as it is.
    """
    commas = {}
    for name, column in cells.items():
        like = column[column.str.fullmatch(_COMMA)]
        if len(like) > len(column) / 2 and like.str.contains(",", regex=False).any():
            commas[name] = like
    if all(like.str.fullmatch(_UNCLEAR).all() for like in commas.values()):
        return table
    for name, column in cells.items():
        if len(column) and column.str.contains(".", regex=False).any() and column.str.fullmatch(_WHOLE).all():
            commas[name] = column
    for name, like in commas.items():
        numbers = like.str.replace(".", "", regex=False).str.replace(",", ".", regex=False).astype(float)
        table[name] = table[name].astype(object)
        table.loc[like.index, name] = numbers
        table[name] = table[name].infer_objects()
    return table


def _read_parquet(path: Path) -> pd.DataFrame:
    require("pyarrow")
    try:
        table = pd.read_parquet(path, engine="pyarrow")
    except Exception as error:  # pyarrow raises many kinds
        raise InputError(f"{path} is not a Parquet file ({one_line(error)}); write it again.") from error
    if not isinstance(table.index, pd.RangeIndex):
        table = table.reset_index()  # as dates often are
    return table.rename(columns=str)


def _read_npz(path: Path) -> pd.DataFrame:
    arrays = read_npz(path)
    records = [array for array in arrays.values() if array.dtype.names]
    if len(arrays) == 1 and records:
        arrays = {name: records[0][name] for name in records[0].dtype.names or ()}
    shapes = {array.shape for array in arrays.values()}
    if len(shapes) != 1 or len(next(iter(shapes))) != 1:
        raise InputError(
            f"{path} must hold one record array, or one one-dimensional array per column, all of equal length; "
            f"it has {', '.join(f'{name}{list(array.shape)}' for name, array in arrays.items()) or 'none'}."
        )
    return pd.DataFrame({name: _native(array) for name, array in arrays.items()})


def _read_npy(path: Path) -> pd.DataFrame:
    try:
        array: NDArray[Any] = np.load(path, allow_pickle=False)
        if not isinstance(array, np.ndarray):
            raise ValueError("it holds several arrays")
    except (ValueError, EOFError, OSError, MemoryError, SyntaxError, tokenize.TokenError) as error:
        raise InputError(f"{path} is not a .npy file of one plain array ({one_line(error)}); save it again.") from error
    if array.dtype.names and array.ndim == 1 and all(not array.dtype[name].shape for name in array.dtype.names):
        return pd.DataFrame({name: _native(array[name]) for name in array.dtype.names})
    if array.dtype.kind not in "biuf":
        raise InputError(f"{path} holds {array.dtype}{list(array.shape)}; give numbers, or records of single ones.")
    if array.ndim not in (1, 2):
        raise InputError(f"{path} holds an array of shape {list(array.shape)}; give [rows] or [rows, columns].")
    columns = _native(array[:, None] if array.ndim == 1 else array)
    return pd.DataFrame(columns, columns=[f"c{index}" for index in range(columns.shape[1])])


def _native(array: NDArray[Any]) -> NDArray[Any]:
    """In this machine's byte order, which pandas requires."""
    return array.astype(array.dtype.newbyteorder("="), copy=False)


OTHERS = {".npz": _read_npz, ".npy": _read_npy, ".parquet": _read_parquet, ".pq": _read_parquet}
"""What reads a file, by the end of its name; all else is CSV."""
