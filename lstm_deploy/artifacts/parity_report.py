"""What a comparison found: the shape of `validate --json` and of the parity part of a manifest."""

from msgspec import Struct

SCHEMA_VERSION = 1


class Check(Struct, frozen=True, kw_only=True):
    """One figure held against one tolerance, for one output of one artifact."""

    name: str
    """As in the registry, `validation.checks`."""
    artifact: str
    precision: str = "float32"
    provider: str
    output: str
    """The output that was judged; empty for a check of the artifact as a whole."""
    passed: bool
    max_abs: float | None
    """The difference that is the largest part of what is allowed, in the output's own units; none where nothing
    numeric was compared."""
    tolerance: float | None
    """What is allowed at that place."""
    detail: str
    """Where the worst difference lies, or what is wrong."""
    worst_index: tuple[int, ...] | None = None
    """Its index in the output."""

    @property
    def severity(self) -> float:
        """The difference as a multiple of what is allowed; above 1 fails."""
        if self.max_abs is None or not self.tolerance:
            return 0.0 if self.passed else float("inf")
        return self.max_abs / self.tolerance


class Profile(Struct, frozen=True, kw_only=True):
    """How the differences of one output of one artifact are distributed."""

    artifact: str
    output: str
    steps: tuple[int, ...] = ()
    """Carried steps after which the difference was measured."""
    errors: tuple[float, ...] = ()
    """The largest difference up to each of them, relative to the output's size."""
    histogram: tuple[int, ...] = ()
    """How many entries differ by 10^-12 to 10^-11 of their size, …; the last bin is 1 and more."""


class Diagnosis(Struct, frozen=True, kw_only=True):
    """Where an artifact that failed goes wrong, and why in all likelihood."""

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
    """What the artifacts were held against."""
    checks: tuple[Check, ...]
    profiles: tuple[Profile, ...] = ()
    diagnoses: tuple[Diagnosis, ...] = ()
    left_out: tuple[str, ...] = ()
    """Artifacts that cannot run on this provider, and why."""

    @property
    def failures(self) -> tuple[Check, ...]:
        return tuple(check for check in self.checks if not check.passed)
