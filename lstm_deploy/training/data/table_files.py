"""Tables, read from CSV, Parquet, `.npy` and `.npz`. No PyTorch."""

import io
import json
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


def read_table(path: Path, *, texts: bool = False) -> pd.DataFrame:
    """Read a table with at least one row; with `texts`, CSV cells stay strings, and "None" is a word.

    CSV (separated by comma, semicolon, tab or bar) with a header; Parquet; `.npz` with one record array, or
    one-dimensional arrays of equal length; `.npy` with a record array, or numbers as `[rows]` or `[rows, columns]`,
    whose columns are called `c0`, `c1`, … Raises `InputError` for anything else.
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
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)  # rows longer than the header
            return pd.read_csv(
                io.StringIO(text),
                sep=_separator(text),
                skipinitialspace=True,
                low_memory=False,
                index_col=False,
                dtype=str if texts else None,
                keep_default_na=not texts,
            )
    except (pd.errors.ParserError, pd.errors.ParserWarning, pd.errors.EmptyDataError) as error:
        raise InputError(f"{path} is not a table ({one_line(error)}); check its rows.") from error


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
