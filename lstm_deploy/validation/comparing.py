"""Proof that an artifact computes what the model computes: y, h and c apart, the state included."""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from msgspec.structs import replace

from lstm_deploy.artifacts import Check, Profile
from lstm_deploy.contract import Array, Feeds, Outputs, Signature, TensorSpec
from lstm_deploy.errors import one_line
from lstm_deploy.runtimes import Runtime
from lstm_deploy.validation.cases import Case
from lstm_deploy.validation.stream_checks import stream_problems
from lstm_deploy.validation.tolerances import INT8_DRIFT, Override, allowed, relative_tolerance

HISTOGRAM_FROM = -12
"""Power of ten at which the histogram of differences begins; its last bin begins at 1."""


FAR_OFF = 1e9
"""The largest relative difference of a profile: of an infinite one, JSON has no number, and no plot a place."""
SECOND_CALL = "differ in a second call on the same inputs"


class Verdict(NamedTuple):
    """All that was found of one artifact."""

    checks: list[Check]
    profiles: list[Profile]
    signature: Signature | None
    """The contract that it carries; none if it could not be opened."""


def prove(
    runtime: Runtime,
    artifact: str,
    precision: str,
    cases: Sequence[Case],
    overrides: Mapping[str, Override] | None = None,
) -> Verdict:
    """Hold an artifact against all cases, its contract, and itself.

    `artifact` and `precision` are what the report calls it; `overrides` are tolerances by output, `""` for all.
    """
    judge = Judge(runtime, artifact, precision, overrides or {})
    if precision == "int8":
        cases = [case for case in cases if case.for_int8]
    for name in dict.fromkeys(case.check for case in cases):
        judge.compare(name, [case for case in cases if case.check == name])
    if (declared := runtime.declared()) is not None:
        misdeclared = _misdeclared(runtime.signature, declared)
        judge.whole("declared", misdeclared, "names, types and shapes are as the contract says")
    judge.whole("provider", runtime.misplaced(), f"every node runs on {runtime.provider}")
    if (problems := _stream_problems(runtime)) is not None:
        judge.whole("stream", problems, "steps, saved states and rows of streams are as by plain calls")
    # The largest call, in which chance has the most to do.
    judge.repeat(max((case for case in cases if len(case.calls) == 1), key=_entries, default=cases[0]))
    return Verdict(judge.checks, judge.profiles(), runtime.signature)


class Judge:
    """Compares the outputs of one artifact with what should come out and keeps the checks."""

    def __init__(
        self, runtime: Runtime, artifact: str, precision: str, overrides: Mapping[str, Override] | None = None
    ) -> None:
        """Raises `InputError` where no tolerance is known for this precision and provider."""
        self.runtime, self.artifact, self.precision = runtime, artifact, precision
        self.relative = relative_tolerance(precision, runtime.provider)
        self.overrides = overrides or {}
        self.checks: list[Check] = []
        self._specs = {spec.name: spec for spec in (*runtime.signature.outputs, *runtime.signature.state_outputs)}
        self._worst: dict[str, float] = {}
        self._curves: dict[str, dict[int, float]] = {}
        self._histograms: dict[str, Array] = {}

    def compare(self, name: str, cases: Sequence[Case]) -> None:
        """One check for each output, over all cases: its worst."""
        worst: dict[str, Check] = {}
        notes: set[str] = set()
        for case in cases:
            try:
                for number, (got, wanted) in enumerate(zip(run_case(self.runtime, case), case.wanted, strict=True), 1):
                    for output in wanted:
                        check = self._check(name, output, case, number, got, wanted, notes)
                        if output not in worst or check.severity > worst[output].severity:
                            worst[output] = check
            except Exception as error:  # whatever a runtime raises: a call that fails is a check that fails
                reason = f"the call failed: {one_line(error)}"
                worst.setdefault("", self._new(name, "", f"{reason}, {case.where}"))
        note = "".join(f"; {note}" for note in sorted(notes))
        self.checks += [_noted(check, note) for check in worst.values()]

    def whole(self, name: str, problems: Sequence[str], fine: str) -> None:
        """One check of the artifact as a whole."""
        self.checks.append(self._new(name, "", " ".join(problems) or fine, passed=not problems))

    def repeat(self, case: Case) -> None:
        """The same call twice, another one in between, gives the same bits: nothing is remembered or drawn."""
        types = {
            spec.name: spec.dtype for spec in (*self.runtime.signature.inputs, *self.runtime.signature.state_inputs)
        }
        feeds = {name: value.astype(types[name]) for name, value in {**case.calls[0], **case.state}.items()}
        others = {name: _other(value) for name, value in feeds.items()}
        try:
            first = {name: value.copy() for name, value in self.runtime.run(feeds).items()}
            self.runtime.run(others)
            second = self.runtime.run(feeds)
        except Exception as error:  # as above
            self.whole("repeatable", [f"The call failed: {one_line(error)}."], "")
            return
        changed = [name for name in first if first[name].tobytes() != second[name].tobytes()]
        problems = [f"{', '.join(changed)} {SECOND_CALL}."] if changed else []
        self.whole("repeatable", problems, "the same call gives the same bits, another one in between")

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

    def _check(
        self, name: str, output: str, case: Case, call: int, got: Outputs, wanted: Outputs, notes: set[str]
    ) -> Check:
        where = case.where if len(case.calls) == 1 else f"{case.where}, call {call}"
        value, right = got.get(output), wanted[output]
        if value is None or value.shape != right.shape:
            there = "is missing" if value is None else f"has shape {list(value.shape)}"
            return self._new(name, output, f"{there}, not {list(right.shape)}, {where}")
        if str(value.dtype) != self._specs[output].dtype:
            return self._new(name, output, f"is {value.dtype}, not {self._specs[output].dtype}, {where}")
        size = case.sizes[output]
        slack = case.slack
        if self.precision == "int8":  # whose tolerance leaves room for what `slack` is for
            slack = INT8_DRIFT if name == "drift" else 1.0
        override = self.overrides.get(output, self.overrides.get(""))
        tolerance = np.broadcast_to(
            allowed(size, self.relative * slack, case.rounding.get(output, 0.0), override), value.shape
        )
        comparable = np.isfinite(right)
        pattern = _same_pattern(value, right) | comparable
        if case.check == "nonfinite" and self.runtime.swallows_nan:
            notes.add("what NaN reaches is not judged: this runtime's LSTM gives numbers there")
            poisoned = ~comparable
            if "batch" in self._specs[output].shape:
                np.moveaxis(poisoned, self._specs[output].shape.index("batch"), 0)[0] = True
            comparable, pattern = comparable & ~poisoned, pattern | poisoned
        if not pattern.all():
            index = tuple(int(i) for i in np.argwhere(~pattern)[0])
            return self._new(name, output, f"{value[index]} where {right[index]} is right, at {list(index)}, {where}")
        with np.errstate(invalid="ignore", over="ignore"):
            difference = np.where(comparable, np.abs(value.astype(np.float64) - right), 0.0)
        difference[np.isnan(difference)] = np.inf
        excess = difference / np.maximum(tolerance, 1e-300)
        index = tuple(int(i) for i in np.unravel_index(int(excess.argmax()), excess.shape))
        self._profile(case, call, output, difference / size)
        worst = float(difference[index])
        if not np.isfinite(worst):
            detail = f"{value[index]} where {right[index]:.3g} is right, at {list(index)}, {where}"
            return self._new(name, output, detail, index=index)
        return Check(
            name=name,
            artifact=self.artifact,
            precision=self.precision,
            provider=self.runtime.provider,
            output=output,
            passed=worst <= float(tolerance[index]),
            max_abs=worst,
            tolerance=float(tolerance[index]),
            detail=f"worst at {list(index)}, {where}",
            worst_index=index,
        )

    def _profile(self, case: Case, call: int, output: str, relative: Array) -> None:
        relative = np.minimum(relative, FAR_OFF)
        if case.check == "drift":
            self._worst[output] = max(float(relative.max(initial=0.0)), self._worst.get(output, 0.0))
            if self.runtime.signature.state_outputs[0].name in case.wanted[call - 1]:
                self._curves.setdefault(output, {})[call] = self._worst[output]
        elif case.check in ("shapes", "golden"):
            powers = np.floor(np.log10(np.maximum(relative, 10.0**HISTOGRAM_FROM))).clip(HISTOGRAM_FROM, 0)
            counts = np.bincount((powers - HISTOGRAM_FROM).astype(int).ravel(), minlength=1 - HISTOGRAM_FROM)
            self._histograms[output] = self._histograms.get(output, 0) + counts

    def _new(
        self, name: str, output: str, detail: str, *, passed: bool = False, index: tuple[int, ...] | None = None
    ) -> Check:
        return Check(
            name=name,
            artifact=self.artifact,
            precision=self.precision,
            provider=self.runtime.provider,
            output=output,
            passed=passed,
            max_abs=None,
            tolerance=None,
            detail=detail,
            worst_index=index,
        )


def _stream_problems(runtime: Runtime) -> list[str] | None:
    try:
        return stream_problems(runtime)
    except Exception as error:  # whatever a runtime raises
        return [f"A stream does not run: {one_line(error)}."]


def run_case(runtime: Runtime, case: Case) -> Iterator[Outputs]:
    """The outputs of each call of a case, the artifact's own state carried; steps go through the bound buffers."""
    signature = runtime.signature
    state: Feeds = {spec.name: case.state[spec.name].astype(spec.dtype, copy=False) for spec in signature.state_inputs}
    if case.check != "drift" or len(signature.inputs) != 1:
        for inputs in case.calls:
            outputs = runtime.run({**inputs, **state})
            yield outputs
            state = signature.next_state(outputs)
        return
    recurrence = runtime.recur(1, 1)
    recurrence.set_state(state)
    (name,) = recurrence.inputs
    pairs = list(zip(signature.state_inputs, signature.state_outputs, strict=True))
    for inputs, wanted in zip(case.calls, case.wanted, strict=True):
        recurrence.inputs[name][...] = inputs[name]
        recurrence.step()
        if pairs[0][1].name in wanted:  # reading the state costs more than the step
            state = recurrence.get_state()
            yield {**recurrence.outputs, **{after.name: state[before.name] for before, after in pairs}}
        else:
            yield recurrence.outputs


def _entries(case: Case) -> int:
    return sum(value.size for value in case.calls[0].values())


def _other(value: Array) -> Array:
    """Another value that the same input could have."""
    other = value + np.asarray(0.5, value.dtype) if value.dtype.kind == "f" else np.flip(value)
    return np.array(other)  # one number is no array any more


def _same_pattern(value: Array, right: Array) -> Array:
    """Where both are NaN, or the same infinity."""
    return np.asarray((np.isnan(value) & np.isnan(right)) | (value == right))


def _noted(check: Check, note: str) -> Check:
    return replace(check, detail=check.detail + note) if check.passed else check


def _misdeclared(signature: Signature, declared: Sequence[TensorSpec]) -> list[str]:
    """What a graph says of its inputs and outputs that is not what the contract says."""
    problems = []
    wanted = (*signature.inputs, *signature.state_inputs, *signature.outputs, *signature.state_outputs)
    for spec, found in zip(wanted, declared, strict=False):
        same_dims = len(spec.shape) == len(found.shape) and all(
            isinstance(b, str) if isinstance(a, str) else a == b for a, b in zip(spec.shape, found.shape, strict=True)
        )
        if (found.name, found.dtype) != (spec.name, spec.dtype) or not same_dims:
            frozen = [
                a for a, b in zip(spec.shape, found.shape, strict=False) if isinstance(a, str) and isinstance(b, int)
            ]
            why = f" ({', '.join(map(str, frozen))} frozen)" if frozen else ""
            problems.append(f"The graph declares {found}, not {spec} as the contract does{why}.")
    if len(declared) != len(wanted):
        problems.append(f"The graph has {len(declared)} inputs and outputs, not {len(wanted)} as the contract.")
    return problems
