"""What a comparison found: the shape of `validate --json` and of the parity part of a manifest."""

from msgspec import Struct

SCHEMA_VERSION = 1


class Check(Struct, frozen=True, kw_only=True):
    """One figure held against one tolerance, for one output of one artifact."""

    name: str
    """What was tried: `shapes`, `chunked`, `steps`, `golden`, `contract`, `lint`, …"""
    artifact: str
    provider: str
    output: str
    """The output that was judged; empty for a check of the artifact as a whole."""
    passed: bool
    max_abs: float | None
    """Largest absolute difference, in the output's own units; none where nothing numeric was compared."""
    tolerance: float | None
    detail: str
    """Where the worst difference lies, or what is wrong."""

    @property
    def severity(self) -> float:
        """The difference as a multiple of what is allowed; above 1 fails."""
        if self.max_abs is None or not self.tolerance:
            return 0.0 if self.passed else float("inf")
        return self.max_abs / self.tolerance


class ParityReport(Struct, frozen=True, kw_only=True):
    """All checks of one run of `validate`."""

    schema_version: int = SCHEMA_VERSION
    passed: bool
    reference: str
    """What the artifacts were held against."""
    checks: tuple[Check, ...]

    @property
    def failures(self) -> tuple[Check, ...]:
        return tuple(check for check in self.checks if not check.passed)
