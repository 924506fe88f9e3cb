"""The result of a validation: the JSON of `validate --json` and of the parity fields of a manifest."""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from msgspec import Struct, to_builtins

from lstm_deploy.artifacts.report_style import html_lines, html_table
from lstm_deploy.errors import ParityError

if TYPE_CHECKING:
    from pandas import DataFrame

SCHEMA_VERSION = 1


class Check(Struct, frozen=True, kw_only=True):
    """One comparison with a tolerance, for one output of one artifact."""

    name: str
    """As in the registry `validation.checks`."""
    artifact: str
    precision: str = "float32"
    provider: str
    output: str
    """The output that was checked; empty for a check of the whole artifact."""
    passed: bool
    max_abs: float | None
    """The difference that is largest relative to its tolerance, in the output's own units; None if nothing numeric
    was compared."""
    tolerance: float | None
    detail: str
    """Where the worst difference is, or what is wrong."""
    worst_index: tuple[int, ...] | None = None
    """The index of the worst difference in the output."""

    @property
    def is_measured(self) -> bool:
        """Whether numbers were compared, with a tolerance."""
        return self.max_abs is not None and bool(self.tolerance)

    @property
    def severity(self) -> float:
        """The difference as a multiple of its tolerance; above 1 fails."""
        if self.max_abs is None or not self.tolerance:
            return 0.0 if self.passed else float("inf")
        return self.max_abs / self.tolerance


def worst_check(checks: Iterable[Check]) -> Check | None:
    """The check whose difference comes nearest to its tolerance, or goes farthest beyond; None if none was measured."""
    return max((check for check in checks if check.is_measured), key=lambda check: check.severity, default=None)


class Profile(Struct, frozen=True, kw_only=True):
    """The distribution of the differences of one output of one artifact."""

    artifact: str
    output: str
    steps: tuple[int, ...] = ()
    """Numbers of carried steps after which the difference was measured."""
    errors: tuple[float, ...] = ()
    """The largest difference up to each of these, relative to the output's size."""
    histogram: tuple[int, ...] = ()
    """Number of entries whose relative difference is 10^-12 to 10^-11, …; the last bin is 1 and more."""


class Diagnosis(Struct, frozen=True, kw_only=True):
    """Where a failed artifact goes wrong, and the most likely cause."""

    artifact: str
    cause: str
    """One sentence."""
    place: str = ""
    """The first step, output, row and layer that differ."""


class ParityReport(Struct, frozen=True, kw_only=True):
    """All checks of one run of `validate`."""

    schema_version: int = SCHEMA_VERSION
    passed: bool
    reference: str
    checks: tuple[Check, ...]
    profiles: tuple[Profile, ...] = ()
    diagnoses: tuple[Diagnosis, ...] = ()
    left_out: tuple[str, ...] = ()
    """Artifacts that cannot run on this provider, each with the reason."""

    @property
    def failures(self) -> tuple[Check, ...]:
        """The checks that failed."""
        return tuple(check for check in self.checks if not check.passed)

    @property
    def by_artifact(self) -> dict[str, list[Check]]:
        """The checks of each artifact."""
        found: dict[str, list[Check]] = {}
        for check in self.checks:
            found.setdefault(check.artifact, []).append(check)
        return found

    @property
    def verdict(self) -> str:
        """How many checks passed or failed, and against what, in a few words."""
        failed = len(self.failures)
        outcome = f"{failed} of {len(self.checks)} checks FAILED" if failed else f"{len(self.checks)} checks passed"
        return f"{outcome}, against {self.reference}."

    def explain_failures(self) -> list[str]:
        """The likely cause and the first difference of each artifact that failed, then a line for each failed check."""
        lines = []
        for diagnosis in self.diagnoses:
            lines.append(f"{diagnosis.artifact}: likely cause: {diagnosis.cause}")
            if diagnosis.place:
                lines.append(f"{diagnosis.artifact}: first difference: {diagnosis.place}")
        return lines + [
            " ".join(filter(None, (check.artifact, check.name, check.output))) + f": {check.detail}"
            for check in self.failures
        ]

    def assert_passed(self) -> None:
        """Raise `ParityError`, with every failure in its text, unless all checks passed."""
        if not self.passed:
            raise ParityError("\n".join((self.verdict, *self.explain_failures())))

    def to_pandas(self) -> "DataFrame":
        """A row for each check, with the fields of `Check` as columns; needs pandas."""
        from pandas import DataFrame

        return DataFrame([to_builtins(check) for check in self.checks], columns=list(Check.__struct_fields__))

    def __repr__(self) -> str:
        return f"<ParityReport: {self.verdict}>"

    def _repr_html_(self) -> str:
        """The verdict and a row for each artifact, for notebooks."""
        headings = ("artifact", "checks", "largest difference", "verdict")
        rows = [_row(artifact, checks) for artifact, checks in self.by_artifact.items()]
        notes = (*self.explain_failures(), *(f"left out: {reason}" for reason in self.left_out))
        return html_lines(self.verdict) + html_table(headings, rows) + html_lines(*notes)


def _row(artifact: str, checks: Sequence[Check]) -> tuple[str, str, str, str]:
    """The artifact, how many checks, how near the worst of them came to its tolerance, and whether it passed."""
    failed, most = sum(not check.passed for check in checks), worst_check(checks)
    figure = "" if most is None else f"{most.severity:.1%} of its tolerance ({most.name} {most.output})"
    return artifact, str(len(checks)), figure, f"{failed} FAILED" if failed else "passed"
