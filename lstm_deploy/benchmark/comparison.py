"""Two benchmarks of the same artifacts on the same machine: the rows that became slower.

The two were not measured side by side, so the machine itself may have been slower the second time. A row counts as
slower only if it is so in microseconds and also relative to its baseline, which was timed with it: a slower machine
shows in the first alone, and a faster baseline in the second alone.
"""

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from msgspec import Struct
from msgspec.structs import asdict

from lstm_deploy.artifacts import environment, format_value, html_lines, html_table
from lstm_deploy.benchmark.bench_report import read
from lstm_deploy.benchmark.statistics import NO_DIFFERENCE, holm, slower_by
from lstm_deploy.benchmark.tables import KEY, SCHEMA_VERSION, Row
from lstm_deploy.errors import InputError, check_not_negative

if TYPE_CHECKING:
    from pandas import DataFrame

Key = tuple[Any, ...]
RELATIVE, CHANCE = "÷ baseline", "chance"
"""Headings of the change relative to the baseline, and of its probability by chance."""


class Change(Struct, frozen=True, kw_only=True):
    """The change of one row."""

    row: dict[str, Any]
    """The entries of `KEY`."""
    old_us: float
    new_us: float
    times: float
    """The new median over the old one, in microseconds or relative to the baseline, whichever changed less."""
    relative: float | None = None
    """The new time over the old one, each as a part of its baseline's; None where there is no common baseline."""
    probability: float
    """Of a change as large by chance, in its direction; the larger of the two tests'."""
    verdict: str
    """`slower`, `faster` or `no difference`."""


class Comparison(Struct, frozen=True, kw_only=True):
    """The document of `compare --json`, which notebooks show as a table."""

    schema_version: int = SCHEMA_VERSION
    allowed: float
    """Fraction by which a row may be slower."""
    changes: list[Change]
    missing: list[str]
    """Rows of the old document that the new one lacks."""
    notes: list[str]

    @property
    def regressions(self) -> list[Change]:
        """The rows that became slower."""
        return [change for change in self.changes if change.verdict == "slower"]

    @property
    def passed(self) -> bool:
        """Whether none did."""
        return not self.regressions

    def __repr__(self) -> str:
        return (
            f"<Comparison: {len(self.regressions)} of {len(self.changes)} rows slower by more than {self.allowed:.0%}>"
        )

    def to_pandas(self) -> "DataFrame":
        """A row for each change: the entries of its row, and how it changed; needs pandas."""
        from pandas import DataFrame

        return DataFrame([{**change.row, **asdict(change)} for change in self.changes]).drop(columns="row")

    def _repr_html_(self) -> str:
        """The table of `compare`, for notebooks."""
        return html_table(*table(self)) + html_lines(
            *self.notes, *(f"not measured again: {row}" for row in self.missing)
        )


def compare(
    old: Mapping[str, Any] | str | os.PathLike[str],
    new: Mapping[str, Any] | str | os.PathLike[str],
    *,
    allowed: float = 0.05,
    force: bool = False,
) -> Comparison:
    """Compare each artifact's row of `old` with the row of `new` of the same variant and case (`KEY`).

    Each is what `bench` returned, a file that `bench --json` wrote, or a bundle that keeps its latest benchmark.

    A row is `slower` (or `faster`) if it changed by more than `allowed` and more than the noise floors, and if the
    change is significant: by rank tests of its rounds, at 5 % for all rows together (Holm's correction). Raises
    `InputError` for documents of different machines, or of models that do not compute the same, unless with `force`,
    and for documents that have no row in common.
    """
    check_not_negative("allowed", allowed, "give how much slower a row may be, as a fraction such as 0.05")
    old, new = read(old), read(new)
    notes = _differences(old, new, force=force)
    before, after = _rows(old), _rows(new)
    expected = [key for key, row in before.items() if row["artifact"]]
    common = [key for key in expected if key in after]
    if not common:
        raise InputError("The two have no row in common; measure the same artifacts and sizes.")
    if not force:
        _check_models(common, before, after)
    tests = [_test(before[key], after[key], before, after) for key in common]
    significant = holm([probability for _, _, probability, _ in tests])
    changes = []
    for key, (times, slower, probability, relative), is_significant in zip(common, tests, significant, strict=True):
        verdict = NO_DIFFERENCE
        least = 1 + max(allowed, before[key]["noise_floor"] or 0, after[key]["noise_floor"] or 0)
        if is_significant and (times > least if slower else times < 1 / least):
            verdict = "slower" if slower else "faster"
        changes.append(
            Change(
                row=dict(zip(KEY, key, strict=True)),
                old_us=before[key]["p50_us"],
                new_us=after[key]["p50_us"],
                times=times,
                relative=relative,
                probability=probability,
                verdict=verdict,
            )
        )
    missing = [" ".join(map(str, key)) for key in expected if key not in after]
    return Comparison(allowed=allowed, changes=changes, missing=missing, notes=notes)


def table(comparison: Comparison) -> tuple[list[str], list[list[str]]]:
    """Headings and rows, with only the columns that vary, regressions first."""
    order = {"slower": 0, "faster": 1, NO_DIFFERENCE: 2}
    changes = sorted(comparison.changes, key=lambda change: order[change.verdict])
    shown = [name for name in KEY if name == "variant" or len({str(change.row[name]) for change in changes}) > 1]
    rows = [
        [
            *(format_value(change.row[name]).replace("_", " ") for name in shown),
            format_value(change.old_us),
            format_value(change.new_us),
            _percent(change.new_us / change.old_us),
            _percent(change.relative),
            f"{change.probability:.2g}",
            change.verdict,
        ]
        for change in changes
    ]
    return [*shown, "old µs", "new µs", "change", RELATIVE, CHANCE, "verdict"], rows


def _percent(times: float | None) -> str:
    return "–" if times is None else f"{times - 1:+.1%}"


def _rows(document: Mapping[str, Any]) -> dict[Key, dict[str, Any]]:
    """The rows by `KEY`, without those of the A/A control."""
    return {tuple(row[name] for name in KEY): row for row in document["results"] if not row.get("again")}


def _check_models(common: list[Key], before: Mapping[Key, Row], after: Mapping[Key, Row]) -> None:
    """Raise `InputError` for rows whose numbers of operations are known and differ."""
    for key in common:
        old, new = before[key]["operations"], after[key]["operations"]
        if None not in (old, new) and old != new:
            raise InputError(
                f"{key[0]} has to compute {old:,.0f} operations in the first and {new:,.0f} in the second, so they "
                "are of different models; compare measurements of one model, or use --force."
            )


def _test(
    old: Row, new: Row, before: Mapping[Key, Row], after: Mapping[Key, Row]
) -> tuple[float, bool, float, float | None]:
    """The change of the median as a factor, whether the row is slower, and the probability of that by chance.

    In microseconds and relative to the baseline, whichever changed less; 1 where they disagree on the direction. Last,
    the change relative to the baseline by itself.
    """
    pairs = [(new["round_medians_us"], old["round_medians_us"])]
    baselines = _baseline(new, after), _baseline(old, before)
    relative = None
    if old["baseline"] == new["baseline"] != old["variant"] and baselines[0] and baselines[1]:
        pairs.append((_relative(new, baselines[0]), _relative(old, baselines[1])))
        relative = slower_by(*pairs[-1])[0]
    slower, chances = zip(*(slower_by(a, b) for a, b in pairs), strict=True)
    if min(slower) > 1:
        return min(slower), True, max(chances), relative
    faster, chances = zip(*(slower_by(b, a) for a, b in pairs), strict=True)
    if min(faster) > 1:
        return 1 / min(faster), False, max(chances), relative
    return 1.0, False, 1.0, relative


def _relative(row: Row, baseline: Row) -> list[float]:
    """The medians of a row's rounds over its baseline's in the same rounds."""
    return [a / b for a, b in zip(row["round_medians_us"], baseline["round_medians_us"], strict=False)]


def _baseline(row: Row, rows: Mapping[Key, Row]) -> Row | None:
    """The row of its baseline, in the same case."""
    case = [name for name in KEY if name not in ("variant", "precision")]
    candidates = (other for other in rows.values() if other["variant"] == row["baseline"])
    return next((other for other in candidates if all(other[name] == row[name] for name in case)), None)


def _differences(old: Mapping[str, Any], new: Mapping[str, Any], *, force: bool) -> list[str]:
    """Differences of the environments that may explain a change; raises `InputError` for different machines."""
    machines = [environment.machine(document["environment"]) for document in (old, new)]
    different = [
        f"{name} {value} and {machines[1][name]}" for name, value in machines[0].items() if value != machines[1][name]
    ]
    if different and not force:
        raise InputError(f"The machines differ ({'; '.join(different)}); compare measurements of one, or use --force.")
    versions = [document["environment"]["versions"] for document in (old, new)]
    names = sorted({*versions[0], *versions[1]})
    pairs = {name: [installed.get(name, "not installed") for installed in versions] for name in names}
    return [f"different machines: {difference}" for difference in different] + [
        f"{name} {first} and then {second}" for name, (first, second) in pairs.items() if first != second
    ]
