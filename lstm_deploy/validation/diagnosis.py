"""The diagnosis of an artifact that failed: where it first differs from the model, and the likely cause."""

import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any

import numpy as np

from lstm_deploy.artifacts import Check, Diagnosis, lint, onnx_graph
from lstm_deploy.contract import Array, Feeds, Outputs, TensorSpec
from lstm_deploy.errors import one_line
from lstm_deploy.runtimes import Runtime
from lstm_deploy.validation.case_inputs import single_call
from lstm_deploy.validation.checks import SECOND_CALL, Subject
from lstm_deploy.validation.judging import CheckResults, open_emulating
from lstm_deploy.validation.parity_case import output_sizes, typed_feeds
from lstm_deploy.validation.reference import Reference
from lstm_deploy.validation.tolerances import AFFINE_FIT, KNOWN_FAULT, UNIT_FACTOR
from lstm_deploy.validation.wiring_faults import Run, are, wiring_faults

_OVERFLOW = re.compile(r"-?(nan|inf) where -?\d")
"""The detail of a check whose output is not a number where the reference is one."""
BATCH, SEQ = 3, 5


def explain(subject: Subject, results: CheckResults, reference: Reference | None, provider: str = "cpu") -> Diagnosis:
    """The diagnosis of an artifact that failed; `reference` is none where only the golden trace is known."""
    failures = [check for check in results.checks if not check.passed]
    if subject.model is not None:
        details = "; ".join(dict.fromkeys(f"{check.name}: {check.detail}" for check in failures))
        cause = f"{subject.model.name}, called once for each step, gives something else ({details})"
        return Diagnosis(artifact=subject.name, cause=cause)
    try:
        runtime = None if results.contract is None else open_emulating(subject.path, subject.precision, provider)
        cause, place = diagnose(failures, runtime, reference)
        if (structure := _details(failures, "structure")) and structure not in cause:
            cause = f"{cause.rstrip('.')}. {structure}"
        if subject.path.suffix == ".onnx" and (nodes := lint.value_changing_nodes(onnx_graph.load(subject.path))):
            cause = f"{cause} (look at these nodes first: {nodes})"
    except Exception as error:  # a wrong artifact may fail in any way; that it is wrong is known already
        cause, place = f"it is unknown, since a call of the artifact fails ({one_line(error)})", ""
    return Diagnosis(artifact=subject.name, cause=cause, place=place)


def diagnose(failures: Sequence[Check], runtime: Runtime | None, reference: Reference | None) -> tuple[str, str]:
    """The likely cause, and the first step, output, row and layer that differ; `runtime` is none if it crashes."""
    stated = _details(failures, "runs", "weights", "lint", "saturation", "contract")
    structure = _details(failures, "structure")
    if structure and {check.name for check in failures} <= {"structure", "sha256"}:
        return structure, ""
    if all(check.max_abs is None for check in failures):  # no number is wrong
        stated = stated or _details(failures, "declared", "provider", "sha256")
    if runtime is None:
        return stated, ""
    if any(check.name == "repeatable" and SECOND_CALL in check.detail for check in failures):
        return "it remembers earlier calls or draws random numbers: the same call gives other bits", ""
    experiments = _Experiments(runtime, reference, failures[0].precision)
    place = experiments.place()
    if not stated and any(_OVERFLOW.match(check.detail) for check in failures if check.name != "nonfinite"):
        return "it overflows: not a number or infinite where PyTorch is finite (float16 ends at 65504)", place
    return stated or next(experiments.causes(), "") or _common_cause(failures), place


class _Experiments:
    """Small calls of the artifact beside the reference, whose outputs are the right ones."""

    def __init__(self, runtime: Runtime, reference: Reference | None, precision: str) -> None:
        self.runtime, self.reference, self.near = runtime, reference, KNOWN_FAULT[precision].relative
        self.signature = (reference or runtime).signature
        self.specs = (*self.signature.state_outputs, *self.signature.outputs)
        self.states = [spec.name for spec in self.signature.state_outputs]
        self.lifted = reference.lifted if reference else None

    def causes(self) -> Iterator[str]:
        """Explanations of all outputs, the simplest first."""
        feeds = self._feeds()
        try:
            got = self._run(feeds)
        except Exception:  # whatever a runtime raises
            yield self._frozen_sizes()
            return
        reference = self.reference
        if reference is None:
            yield from self._ignored_inputs(feeds, got)
            return
        right = reference.run(feeds)
        if self._agree(got, right, right):
            yield from self._wrong_sizes(reference)
            return

        def run(faulty: Feeds) -> Outputs:
            try:
                return reference.run(faulty)
            except Exception:  # what the user's forward raises on these sizes: NaN agrees with nothing
                return {name: np.full_like(value, np.nan) for name, value in right.items()}

        yield from self._known_wiring(run, feeds, got, right)
        yield from self._ignored_inputs(feeds, got, right)
        yield from self._mixed_rows(feeds, got, right)
        if self.lifted is not None:
            from lstm_deploy.validation.cell_faults import cell_faults
            from lstm_deploy.validation.weight_faults import weight_faults

            for faults in (weight_faults, cell_faults):
                yield from (fault for fault in faults(self.lifted) if self._agree(got, run(feeds), right))
        yield from self._wrong_sizes(reference)
        yield from self._scaled_states(got, right)
        yield from self._affine(got, right)
        for fault in self._known_wiring(run, feeds, got, right, self.states):
            yield f"{fault} (this explains the states, and not all of the output)"

    def place(self) -> str:
        """The first step after which an output or state differs, and the first entry that does."""
        if self.reference is None:
            return ""
        for seq in range(1, SEQ + 1):
            feeds = self._feeds(seq=seq)
            try:
                right, got = self.reference.run(feeds), self._run(feeds)
            except Exception:
                continue
            sizes = output_sizes(self.signature, [right])
            for spec in self.specs:
                value, expected = got[spec.name], right[spec.name]
                if value.shape != expected.shape:
                    shapes = f"{list(value.shape)}, not {list(expected.shape)}"
                    return f"in a call of {seq} step(s) {spec.name} has the shape {shapes}"
                off = np.nan_to_num(np.abs(value - expected) / sizes[spec.name], nan=np.inf)
                if (off > self.near).any():
                    index = [int(i) for i in np.argwhere(off > self.near)[0]]
                    named = {"batch": "row", "seq": "step"}
                    axes = [named.get(dim, dim) if isinstance(dim, str) else "column" for dim in spec.shape]
                    if spec.name in self.states:
                        axes[1 - self.signature.batch_axis_of_state], axes[2] = "layer", "unit"
                    where = ", ".join(f"{axis} {i}" for axis, i in zip(axes, index, strict=True))
                    return f"after step {seq}: {spec.name} at {where}"
        return ""

    def _known_wiring(
        self, run: Run, feeds: Feeds, got: Outputs, right: Outputs, names: Sequence[str] | None = None
    ) -> Iterator[str]:
        """The faults in wiring that explain the named outputs, by default all."""
        weights = self.lifted.state_dict() if self.lifted is not None else {}
        constants = {
            name.removeprefix("module."): value.double().numpy()
            for name, value in weights.items()
            if value.dim() == 1 and value.is_floating_point()  # what could be part of a scaling
        }
        for fault, outputs in wiring_faults(self.signature, run, feeds, constants):
            if self._agree(got, outputs, right, names) and not self._agree(outputs, right, right, names):
                yield fault

    def _ignored_inputs(self, feeds: Feeds, got: Outputs, right: Outputs | None = None) -> Iterator[str]:
        """Inputs that change nothing at all, though they should."""
        ignored: list[TensorSpec] = []
        for spec in (*self.signature.inputs, *self.signature.state_inputs):
            other = _perturbed(feeds[spec.name])
            changed = {**feeds, spec.name: np.maximum(other, 1) if spec.is_lengths else other}
            try:
                moved = any((got[output] != value).any() for output, value in self._run(changed).items())
            except Exception:
                continue
            if not moved and not (right and self.reference and self._agree(self.reference.run(changed), right, right)):
                ignored.append(spec)
        if not ignored:
            return
        initial = self.signature.initial_state(BATCH)
        starts = {**feeds, **{spec.name: initial[spec.name] for spec in ignored if spec.name in initial}}
        known = self.reference is not None and self._agree(got, fresh := self.reference.run(starts), fresh)
        start = "its initial value" if known else "something else"
        yield f"{are(ignored)} ignored: every call starts from {start}"

    def _wrong_sizes(self, reference: Reference) -> Iterator[str]:
        """Sizes, or the initial state, at which alone the artifact is wrong."""

        def is_right(feeds: Feeds) -> bool | None:
            try:
                expected = reference.run(feeds)
                return self._agree(self._run(feeds), expected, expected)
            except Exception:  # the model refuses this call, or the artifact fails
                return None

        sizes = ((1, 1), (1, 2), (2, 1), (2, 2), (1, 5), (3, 5), (5, 9), (17, 3))
        outcomes = {f"batch {batch}, seq {seq}": is_right(self._feeds(batch, seq)) for batch, seq in sizes}
        wrong = [size for size, right in outcomes.items() if right is False]
        if wrong and any(outcomes.values()):
            right = [size for size, right in outcomes.items() if right]
            yield f"it is wrong at some sizes only: at {'; '.join(wrong)}, and not at {'; '.join(right)}"
        if not wrong and is_right({**self._feeds(), **self.signature.initial_state(BATCH)}) is False:
            yield "it is wrong from the initial state, and right from others"

    def _mixed_rows(self, feeds: Feeds, got: Outputs, right: Outputs) -> Iterator[str]:
        """Rows in another order, or that depend on each other."""
        axes = {spec.name: spec.shape.index("batch") for spec in self.specs if "batch" in spec.shape}

        def same_row(a: Outputs, i: int, b: Outputs, j: int, near: float, names: Sequence[str]) -> bool:
            pairs = ((a[name].take(i, axes[name]), b[name].take(j, axes[name])) for name in names)
            return all(np.allclose(x, y, rtol=near, atol=near) for x, y in pairs)

        rows = range(BATCH)
        order = [next((j for j in rows if same_row(got, i, right, j, self.near, [*axes])), -1) for i in rows]
        if -1 not in order and order != sorted(order):
            yield f"rows are mixed: the outputs of rows 0, 1, 2 are those of rows {', '.join(map(str, order))}"
        # In int8, rows share the scale that they are rounded with.
        near = self.near if self.near > KNOWN_FAULT["float32"].relative else 0.0
        for spec in (*self.signature.inputs, *self.signature.state_inputs):
            if "batch" in spec.shape and not spec.is_lengths:
                axis = spec.shape.index("batch")
                changed = feeds[spec.name].copy()
                np.moveaxis(changed, axis, 0)[1:] = np.moveaxis(_perturbed(changed), axis, 0)[1:]
                moved = self._run({**feeds, spec.name: changed})
                for name in axes:
                    if not same_row(moved, 0, got, 0, near, [name]):
                        yield f"rows are mixed: row 0 of {name} depends on other rows of {spec.name}"

    def _scaled_states(self, got: Outputs, right: Outputs) -> Iterator[str]:
        """A state that is all of it a factor away."""
        for spec in self.signature.state_outputs:
            a, b = right[spec.name], got[spec.name].astype(np.float64)
            if a.shape != b.shape or not a.any():
                continue
            factor = float((a * b).sum() / (a * a).sum())
            off = np.abs(b - a).max()
            if off > self.near and np.abs(b - factor * a).max() <= AFFINE_FIT * off:
                yield f"{spec.name} is {factor:.4g} times what it should be"

    def _affine(self, got: Outputs, right: Outputs) -> Iterator[str]:
        """An output whose columns are a factor and an offset away, the states being right."""
        if not self._agree(got, right, right, self.states):
            return
        for spec in self.signature.outputs:
            a, b = right[spec.name], got[spec.name].astype(np.float64)
            if a.ndim == 0 or a.shape != b.shape:
                continue
            a, b = a.reshape(-1, a.shape[-1]), b.reshape(-1, a.shape[-1])
            fits = [np.polyfit(a[:, column], b[:, column], 1) for column in range(a.shape[-1]) if np.ptp(a[:, column])]
            if not fits:
                continue
            factors, offsets = np.transpose(fits)
            off = b - a
            left = np.abs(off - (a * (factors - 1) + offsets)) if len(fits) == a.shape[-1] else off
            close = np.abs(left).max() <= AFFINE_FIT * np.abs(off).max()
            if close and np.allclose(factors, 1, atol=UNIT_FACTOR):
                yield (
                    f"{spec.name} is off by a constant, {_listed(offsets)}: "
                    "a bias or offset after the recurrent layers is wrong"
                )
            elif close:
                yield (
                    f"{spec.name} is {_listed(factors)} times what it should be, plus {_listed(offsets)}: "
                    "a scaling after the recurrent layers is left out, applied twice, or another column's"
                )
        yield "the states are right and the output is not: something after the recurrent layers differs"

    def _frozen_sizes(self) -> str:
        """The sizes at which alone the artifact runs."""
        works = []
        for batch, seq in ((1, 1), (1, SEQ), (BATCH, 1), (2, 6), (2, 2)):
            with suppress(Exception):
                self._run(self._feeds(batch, seq))
                works.append(f"batch {batch} with {seq} step(s)")
        return f"the graph is frozen: of several sizes it runs on {', '.join(works) or 'none'} only"

    def _feeds(self, batch: int = BATCH, seq: int = SEQ) -> dict[str, Array]:
        return single_call(self.signature, batch, seq, np.random.default_rng(0)).feeds

    def _run(self, feeds: Feeds) -> Outputs:
        return self.runtime.run(typed_feeds(self.runtime.signature, feeds))

    def _agree(self, got: Outputs, expected: Outputs, right: Outputs, names: Sequence[str] | None = None) -> bool:
        """Whether the named outputs, by default all, agree within `KNOWN_FAULT`, relative to the size of `right`."""
        sizes = output_sizes(self.signature, [right])
        return all(
            got[name].shape == expected[name].shape
            and bool((np.abs(got[name] - expected[name]) <= self.near * sizes[name]).all())
            for name in (right if names is None else names)
        )


def _details(failures: Sequence[Check], *names: str) -> str:
    """The details of these checks, which name the cause themselves."""
    return " ".join(check.detail for name in names for check in failures if check.name == name)


def _common_cause(failures: Sequence[Check]) -> str:
    """A cause that the failed checks have in common, where no known fault explains them."""
    failures = [check for check in failures if check.name != "structure"] or failures  # which is told besides
    names = {check.name for check in failures}
    usual = {"shapes", "chunked", "liveness", "golden", "lengths"}
    if all(check.detail.startswith("the call failed") for check in failures):
        return f"calls of some sizes fail ({failures[0].detail})"
    if not names & usual and "thresholds" in names:
        worst = max((check for check in failures if check.name == "thresholds"), key=lambda check: check.severity)
        return f"it is wrong around a number that its graph compares with or clips at ({worst.output}: {worst.detail})"
    if not names & usual and names & {"values", "rows"}:
        return "it is right on usual values and wrong on large ones: something clips"
    if names == {"drift"}:
        return "it is right in each call, and the difference grows over carried steps"
    if names == {"nonfinite"}:
        return "NaN or infinity in one row spreads to others, or is lost, as it does not in PyTorch"
    worst = max(failures, key=lambda check: check.severity)
    what = " ".join(filter(None, (worst.name, worst.output)))
    return f"no known cause explains it; the worst is {what}: {worst.detail}"


def _perturbed(value: Array) -> Any:
    """Another value for every entry, in the same range."""
    if value.dtype.kind == "f":
        return (np.flip(value, 0) * 0.7 + 0.3 * np.roll(value, 1)).astype(value.dtype) + value.dtype.type(0.05)
    return np.where(value > 0, value - 1, value + 1).astype(value.dtype)


def _listed(values: Any) -> str:
    shown = ", ".join(f"{value:.3g}" for value in np.ravel(values)[:4])
    return f"[{shown}, …]" if np.size(values) > 4 else shown if np.size(values) == 1 else f"[{shown}]"
