"""The result of a validation: the JSON of `validate --json` and of the parity fields of a manifest."""

from msgspec import Struct

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
    def severity(self) -> float:
        """The difference as a multiple of its tolerance; above 1 fails."""
        if self.max_abs is None or not self.tolerance:
            return 0.0 if self.passed else float("inf")
        return self.max_abs / self.tolerance


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
        return tuple(check for check in self.checks if not check.passed)
