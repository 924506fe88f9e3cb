"""Comparing the outputs of an artifact with those expected: each output and each state apart."""

from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np
from msgspec.structs import replace

from lstm_deploy.artifacts import Check, Profile
from lstm_deploy.contract import Array, Outputs
from lstm_deploy.errors import one_line
from lstm_deploy.runtimes import Runtime
from lstm_deploy.validation.parity_case import ParityCase, run_case
from lstm_deploy.validation.tolerances import INT8_DRIFT, Override, allowed, relative_tolerance

HISTOGRAM_FROM = -12
"""Power of ten at which the histogram of differences begins; its last bin begins at 1."""
MAX_DIFFERENCE = 1e9
"""The largest relative difference of a profile: JSON has no number for infinity, and a plot no place."""


class Comparison:
    """Runs an artifact on parity cases, and gathers how far its outputs are off."""

    runtime: Runtime
    artifact: str
    precision: str

    def __init__(
        self, runtime: Runtime, artifact: str, precision: str, overrides: Mapping[str, Override] | None = None
    ) -> None:
        """Overrides are by output, `""` for all; raises `InputError` where no tolerance is known for the artifact."""
        self.runtime, self.artifact, self.precision = runtime, artifact, precision
        self.relative: float = relative_tolerance(precision, runtime.provider)
        self.overrides: Mapping[str, Override] = overrides or {}
        self._specs = {spec.name: spec for spec in (*runtime.signature.outputs, *runtime.signature.state_outputs)}
        self._worst: dict[str, float] = {}
        self._curves: dict[str, dict[int, float]] = {}
        self._histograms: dict[str, Array] = {}

    def compare(self, name: str, cases: Sequence[ParityCase]) -> list[Check]:
        """One check for each output, of those cases that belong to the check `name`: the worst of all calls."""
        worst: dict[str, Check] = {}
        for case in (case for case in cases if case.check == name):
            calls = zip(run_case(self.runtime, case), case.expected, strict=True)
            try:
                for number, (got, expected) in enumerate(calls, 1):
                    for output in expected:
                        check = self._compare_output(output, case, number, got, expected[output])
                        if output not in worst or check.severity > worst[output].severity:
                            worst[output] = check
            except Exception as error:  # whatever a runtime raises: a call that fails is a check that fails
                failure = self._failure(case, "", f"the call failed: {one_line(error)}, {case.where}")
                worst.setdefault("", failure)
        swallowed = self.runtime.swallows_nan and (name == "nonfinite" or self._without_number(name, cases))
        note = "; what NaN reaches is not judged: this runtime gives numbers there" if swallowed else ""
        return [replace(check, detail=check.detail + note) if check.passed else check for check in worst.values()]

    def profiles(self) -> list[Profile]:
        """For each output, its differences over carried steps and how they are distributed."""
        return [
            Profile(
                artifact=self.artifact,
                output=output,
                steps=tuple(self._curves.get(output, {})),
                errors=tuple(self._curves.get(output, {}).values()),
                histogram=tuple(int(count) for count in self._histograms.get(output, ())),
            )
            for output in self._specs
        ]

    def _compare_output(self, output: str, case: ParityCase, call: int, outputs: Outputs, expected: Array) -> Check:
        where = case.where if len(case.calls) == 1 else f"{case.where}, call {call}"
        got, failure = outputs.get(output), partial(self._failure, case, output)
        if got is None or got.shape != expected.shape:
            actual = "is missing" if got is None else f"has shape {list(got.shape)}"
            return failure(f"{actual}, not {list(expected.shape)}, {where}")
        if str(got.dtype) != self._specs[output].dtype:
            return failure(f"is {got.dtype}, not {self._specs[output].dtype}, {where}")
        comparable = np.isfinite(expected)
        same_pattern = comparable | (np.isnan(got) & np.isnan(expected)) | (got == expected)  # of NaN and infinities
        is_float, shape = got.dtype.kind == "f", self._specs[output].shape
        # Runtimes need not agree on the index of a NaN, nor on whether it is large.
        if case.check == "nonfinite" and (self.runtime.swallows_nan or not is_float):
            poisoned = ~comparable if is_float or "batch" in shape else np.ones_like(comparable)
            if "batch" in shape:
                np.moveaxis(poisoned, shape.index("batch"), 0)[0] = True
            comparable, same_pattern = comparable & ~poisoned, same_pattern | poisoned
        elif self.runtime.swallows_nan:  # the model itself has no number there, as of a row that is masked as a whole
            same_pattern |= np.isnan(expected)
        if not same_pattern.all():
            index = tuple(int(i) for i in np.argwhere(~same_pattern)[0])
            return failure(f"{got[index]} where {expected[index]} is right, at {list(index)}, {where}")
        with np.errstate(invalid="ignore", over="ignore"):
            difference = np.where(comparable, np.abs(got.astype(np.float64) - expected), 0.0)
        difference[np.isnan(difference)] = np.inf
        tolerance = np.broadcast_to(self._tolerance(output, case), got.shape)
        excess = difference / np.maximum(tolerance, 1e-300)
        index = tuple(int(i) for i in np.unravel_index(int(excess.argmax()), excess.shape))
        self._profile(case, call, output, difference / case.sizes[output])
        worst, limit = float(difference[index]), float(tolerance[index])
        if not np.isfinite(worst):
            return failure(f"{got[index]} where {expected[index]:.3g} is right, at {list(index)}, {where}", index)
        compared = failure(f"worst at {list(index)}, {where}", index)
        return replace(compared, passed=worst <= limit, max_abs=worst, tolerance=limit)

    @staticmethod
    def _without_number(name: str, cases: Sequence[ParityCase]) -> bool:
        """Whether the model itself gives NaN in some case of a check."""
        calls = (call for case in cases if case.check == name for call in case.expected)
        return any(bool(np.isnan(value).any()) for call in calls for value in call.values())

    def _tolerance(self, output: str, case: ParityCase) -> Array:
        slack = case.slack
        if self.precision == "int8":  # whose tolerance leaves room for what `slack` is for
            slack = INT8_DRIFT if case.check == "drift" else 1.0
        override = self.overrides.get(output, self.overrides.get(""))
        rounding = case.rounding.get(output, 0.0) * slack
        return allowed(case.sizes[output], self.relative * slack, rounding, override, self.precision)

    def _failure(self, case: ParityCase, output: str, detail: str, index: tuple[int, ...] | None = None) -> Check:
        """A check that fails because no number could be compared."""
        return Check(
            name=case.check,
            artifact=self.artifact,
            precision=self.precision,
            provider=self.runtime.provider,
            output=output,
            passed=False,
            max_abs=None,
            tolerance=None,
            detail=detail,
            worst_index=index,
        )

    def _profile(self, case: ParityCase, call: int, output: str, relative: Array) -> None:
        relative = np.minimum(relative, MAX_DIFFERENCE)
        if case.check == "drift":
            self._worst[output] = max(float(relative.max(initial=0.0)), self._worst.get(output, 0.0))
            if self.runtime.signature.state_outputs[0].name in case.expected[call - 1]:
                self._curves.setdefault(output, {})[call] = self._worst[output]
        elif case.check in ("shapes", "golden"):
            powers = np.floor(np.log10(np.maximum(relative, 10.0**HISTOGRAM_FROM))).clip(HISTOGRAM_FROM, 0)
            counts = np.bincount((powers - HISTOGRAM_FROM).astype(int).ravel(), minlength=1 - HISTOGRAM_FROM)
            self._histograms[output] = self._histograms.get(output, 0) + counts
