"""Two benchmarks of the same things on the same machine: what became slower.

The two were not measured side by side, so the machine itself may have been slower the second time. A row counts as
slower only if it is so in microseconds and also beside its baseline, which was timed with it: what slows down
everything shows in the first alone, and a baseline that became faster in the second alone.
"""

from collections.abc import Mapping
from typing import Any

from msgspec import Struct

from lstm_deploy.artifacts import environment, format_value
from lstm_deploy.benchmark.statistics import NO_DIFFERENCE, holm, slower_by
from lstm_deploy.benchmark.tables import KEY, SCHEMA_VERSION
from lstm_deploy.errors import InputError


class Change(Struct, frozen=True, kw_only=True):
    """How one row changed."""

    row: dict[str, Any]
    """The entries of `KEY`."""
    old_us: float
    new_us: float
    times: float
    """The new median over the old one: the smaller of that in microseconds and that beside the baseline."""
    probability: float
    """Of a change as large by chance, slower or faster, whichever it is; the larger of the two tests'."""
    verdict: str
    """`slower`, `faster` or `no difference`."""


class Comparison(Struct, frozen=True, kw_only=True):
    """What `compare --json` prints."""

    schema_version: int = SCHEMA_VERSION
    allowed: float
    """Part by which a row may be slower."""
    changes: list[Change]
    missing: list[str]
    """Rows of the old document that the new one has not."""
    notes: list[str]

    @property
    def regressions(self) -> list[Change]:
        return [change for change in self.changes if change.verdict == "slower"]


def compare(
    old: Mapping[str, Any], new: Mapping[str, Any], *, allowed: float = 0.05, force: bool = False
) -> Comparison:
    """Hold each artifact's row of `new` against the row of `old` with the same `KEY`.

    A row is `slower` (or `faster`) if it is so by more than `allowed` and more than its baselines differed from
    themselves, and if the rounds do not differ by chance: by rank tests of its rounds, at 5 % for all rows together
    (Holm's correction). Raises `InputError` for documents of different machines, or of models that have not the same
    to compute, unless with `force`, and for documents that have no row in common.
    """
    notes = _differences(old, new, force=force)
    before, after = _rows(old), _rows(new)
    asked = [key for key, row in before.items() if row["artifact"]]
    common = [key for key in asked if key in after]
    if not common:
        raise InputError("The two have no row in common; measure the same artifacts and sizes.")
    if not force and (key := next((key for key in common if _differ(before[key], after[key])), None)):
        raise InputError(
            f"{key[0]} has to compute {before[key]['operations']:,.0f} operations in the first and "
            f"{after[key]['operations']:,.0f} in the second, so they are of different models; compare measurements of "
            "one model, or use --force."
        )
    found = [_change(before[key], after[key], before, after) for key in common]
    real = holm([probability for _, _, probability in found])
    changes = []
    for key, (times, slower, probability), is_real in zip(common, found, real, strict=True):
        verdict = NO_DIFFERENCE
        least = 1 + max(allowed, before[key]["noise_floor"] or 0, after[key]["noise_floor"] or 0)
        if is_real and slower and times > least:
            verdict = "slower"
        elif is_real and not slower and times < 1 / least:
            verdict = "faster"
        changes.append(
            Change(
                row=dict(zip(KEY, key, strict=True)),
                old_us=before[key]["p50_us"],
                new_us=after[key]["p50_us"],
                times=times,
                probability=probability,
                verdict=verdict,
            )
        )
    missing = [" ".join(map(str, key)) for key in asked if key not in after]
    return Comparison(allowed=allowed, changes=changes, missing=missing, notes=notes)


def table(found: Comparison) -> tuple[list[str], list[list[str]]]:
    """Headings and rows, with only the columns that vary, what became slower first."""
    order = {"slower": 0, "faster": 1, NO_DIFFERENCE: 2}
    changes = sorted(found.changes, key=lambda change: order[change.verdict])
    shown = [name for name in KEY if name == "variant" or len({str(change.row[name]) for change in changes}) > 1]
    rows = [
        [
            *(format_value(change.row[name]) for name in shown),
            format_value(change.old_us),
            format_value(change.new_us),
            f"{change.times:.3f}",
            f"{change.probability:.2g}",
            change.verdict,
        ]
        for change in changes
    ]
    return [*shown, "old µs", "new µs", "times", "chance", "verdict"], rows


Key = tuple[Any, ...]


def _rows(document: Mapping[str, Any]) -> dict[Key, dict[str, Any]]:
    """By `KEY`; of those without an artifact, the baselines, nothing is asked."""
    return {tuple(row[name] for name in KEY): row for row in document["results"] if not row.get("again")}


def _change(
    old: Mapping[str, Any],
    new: Mapping[str, Any],
    before: Mapping[Key, Mapping[str, Any]],
    after: Mapping[Key, Mapping[str, Any]],
) -> tuple[float, bool, float]:
    """By how many times it is slower (or faster), whether it is slower, and the probability of that by chance.

    In microseconds and beside the baseline, whichever says less; where they disagree on the direction, nothing.
    """
    pairs = [(new["round_medians_us"], old["round_medians_us"])]
    baselines = [_baseline(row, rows) for row, rows in ((new, after), (old, before))]
    if old["baseline"] == new["baseline"] != old["variant"] and all(baselines):
        beside = [
            [mine / its for mine, its in zip(row["round_medians_us"], baseline["round_medians_us"], strict=False)]
            for row, baseline in zip((new, old), baselines, strict=True)
            if baseline
        ]
        pairs.append((beside[0], beside[1]))
    slower = [slower_by(a, b) for a, b in pairs]
    faster = [slower_by(b, a) for a, b in pairs]
    if all(times > 1 for times, _ in slower):
        return min(times for times, _ in slower), True, max(chance for _, chance in slower)
    if all(times > 1 for times, _ in faster):
        return 1 / min(times for times, _ in faster), False, max(chance for _, chance in faster)
    return 1.0, False, 1.0


def _differ(old: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
    """Whether two rows are of models that have not the same to compute."""
    return None not in (old["operations"], new["operations"]) and old["operations"] != new["operations"]


def _baseline(row: Mapping[str, Any], rows: Mapping[Key, Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """The row of its baseline, in the same case."""
    case = [name for name in KEY if name not in ("variant", "precision")]
    return next(
        (
            other
            for other in rows.values()
            if other["variant"] == row["baseline"] and all(other[name] == row[name] for name in case)
        ),
        None,
    )


def _differences(old: Mapping[str, Any], new: Mapping[str, Any], *, force: bool) -> list[str]:
    """What is not equal in the two and may explain a change; raises `InputError` for different machines."""
    machines = [environment.machine(document["environment"]) for document in (old, new)]
    different = [
        f"{name} {value} and {machines[1][name]}" for name, value in machines[0].items() if value != machines[1][name]
    ]
    if different and not force:
        raise InputError(
            f"The two were measured on different machines ({'; '.join(different)}); compare measurements of one "
            "machine, or use --force."
        )
    versions = [document["environment"]["versions"] for document in (old, new)]
    names = sorted(set(versions[0]) | set(versions[1]))
    return [f"different machines: {each}" for each in different] + [
        f"{name} {versions[0].get(name, 'not installed')} and then {versions[1].get(name, 'not installed')}"
        for name in names
        if versions[0].get(name) != versions[1].get(name)
    ]
