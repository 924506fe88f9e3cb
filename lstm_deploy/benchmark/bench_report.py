"""The result of a benchmark: the document of `bench --json`, which notebooks show as a table."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from lstm_deploy.artifacts import Bundle, as_path, environment, html_lines, html_table
from lstm_deploy.benchmark import tables
from lstm_deploy.errors import InputError

if TYPE_CHECKING:
    from pandas import DataFrame

NOTEBOOK = ("p50_us", "steps_per_s", "ratio_to_baseline")
"""The columns of figures in a notebook; all are in `to_pandas`."""
SAMPLES = ("samples_us", "round_medians_us")
"""The fields of a row that hold one number for each call or round."""


class BenchReport(dict[str, Any]):
    """The document of `bench --json`: a dict, with `results` for its rows; `compare` holds two against each other."""

    @property
    def results(self) -> list[dict[str, Any]]:
        """A row for each variant in each case, times in microseconds."""
        rows: list[dict[str, Any]] = self["results"]
        return rows

    def to_pandas(self) -> "DataFrame":
        """A row for each variant in each case, without the single calls and rounds; needs pandas."""
        from pandas import DataFrame

        return DataFrame([{key: row[key] for key in row if key not in SAMPLES} for row in self.results])

    def without_samples(self) -> "BenchReport":
        """The same without the time of each call, as a bundle keeps it."""
        rows = [{key: row[key] for key in row if key != "samples_us"} for row in self.results]
        return BenchReport({**self, "results": rows})

    def __repr__(self) -> str:
        return f"<BenchReport of {', '.join(self['plan']['targets'])}: {len(self.results)} rows>"

    def _repr_html_(self) -> str:
        """The medians and ratios, for notebooks; the columns of the case only where they vary."""
        rows = [row for row in self.results if not row["again"]]
        varying = [key for key in tables.VARYING if len({row[key] for row in rows}) > 1]
        columns = [tables.COLUMNS[key] for key in ("variant", *varying, *NOTEBOOK)]
        notes = (*tables.fastest(self), *(f"left out: {reason}." for reason in self["left_out"]))
        return html_table(
            [heading for heading, _ in columns], [[text(row) for _, text in columns] for row in rows]
        ) + html_lines(*notes, *tables.warnings(self))


def read(given: Mapping[str, Any] | str | os.PathLike[str]) -> BenchReport:
    """What `bench` returned, or `bench --json` wrote to a file, or a bundle keeps of its latest benchmark.

    Raises `InputError` for anything else.
    """
    if isinstance(given, Mapping):
        return _checked(given, "This mapping")
    path = as_path(given)
    try:
        return _checked(_measurements(path) if path.is_dir() else msgspec.json.decode(path.read_bytes()), str(path))
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}); check the path.") from error
    except (RecursionError, msgspec.DecodeError) as error:
        raise _no_result(str(path)) from error


def _checked(document: Any, what: str) -> BenchReport:
    """The document, as far as it is looked at; raises `InputError`, about `what`, for one that is no result."""
    try:
        version, rows = document["schema_version"], document["results"]
        if version != tables.SCHEMA_VERSION:
            raise InputError(f"{what} has the schema version {version}, not {tables.SCHEMA_VERSION}; measure it again.")
        if not rows or not all(row["round_medians_us"] and len(row["round_medians_us"]) > 1 for row in rows):
            raise KeyError("results")
        if not all(median > 0 for row in rows for median in row["round_medians_us"]):
            raise ValueError("times")
        environment.machine(document["environment"])
        [tuple(row[name] for name in tables.KEY) for row in rows]
        tables.table(document)
    except (KeyError, TypeError, ValueError) as error:
        raise _no_result(what) from error
    return BenchReport(document)


def _no_result(what: str) -> InputError:
    return InputError(f"{what} is no result of lstm-deploy bench --json; write one with that.")


def _measurements(path: Path) -> dict[str, Any]:
    """The latest benchmark in a bundle; raises `InputError` where it has none."""
    if (found := Bundle(path).manifest.measurements) is None:
        raise InputError(f"{path} has no benchmark in it; measure it with lstm-deploy bench {path}.")
    return found
