"""Why an artifact that failed computes something else: where it first differs, and the likely cause."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from lstm_deploy.artifacts import Check
from lstm_deploy.contract import Array, Feeds, Outputs, sample_inputs, sample_state, sizes_of
from lstm_deploy.errors import one_line
from lstm_deploy.runtimes import Runtime
from lstm_deploy.validation.cases import Reference, dynamic_axes
from lstm_deploy.validation.comparing import SECOND_CALL
from lstm_deploy.validation.tolerances import AFFINE_FIT, KNOWN_FAULT, OUTPUT_SIZE, STATE_SIZE, UNIT_FACTOR, sizes
from lstm_deploy.validation.wrong_wiring import suspects

_OVERFLOW = re.compile(r"-?(nan|inf) where -?\d")
"""How a check says that an output is not a number where the reference is one."""
BATCH, SEQ = 3, 5

Alterations = Callable[[], Iterator[str]]
"""Makes the reference wrong in one way after another, names each, and puts it right again at the end."""


def diagnose(
    failures: Sequence[Check],
    runtime: Runtime | None,
    against: Reference | None,
    buffers: Mapping[str, Array] | None = None,
    alterations: Alterations | None = None,
) -> tuple[str, str]:
    """The likely cause, and the first step, output, row and layer that differ.

    `runtime` runs the artifact, none if it crashes; `against` is the right model, none where only a trace is known.
    `buffers` are the model's constants and `alterations` make it wrong on purpose; only PyTorch models have them.
    """
    read = _read(failures, ("runs", "weights", "lint", "saturation", "contract"))
    if all(check.max_abs is None for check in failures):  # no number is wrong
        read = read or _read(failures, ("declared", "provider", "sha256"))
    if runtime is None:
        return read, ""
    if any(check.name == "repeatable" and SECOND_CALL in check.detail for check in failures):
        return "it remembers earlier calls or draws random numbers: the same call gives other bits", ""
    probe = _Probe(runtime, against, failures[0].precision)
    place = probe.place()
    if not read and any(_OVERFLOW.match(check.detail) for check in failures if check.name != "nonfinite"):
        return "it overflows: not a number or infinite where PyTorch is finite (float16 ends at 65504)", place
    cause = read or next(probe.causes(buffers or {}, alterations), "") or _by_failures(failures)
    return cause, place


class _Probe:
    """The artifact beside the right model, on small calls."""

    def __init__(self, runtime: Runtime, against: Reference | None, precision: str) -> None:
        self.runtime, self.against, self.near = runtime, against, KNOWN_FAULT[precision].relative
        self.signature = against.signature if against else runtime.signature

    def feeds(self, batch: int = BATCH, seq: int = SEQ, seed: int = 0) -> dict[str, Array]:
        rng = np.random.default_rng(seed)
        sizes = self.signature.clamp(sizes_of(self.signature.inputs, batch, seq))
        return {
            **sample_inputs(self.signature.inputs, sizes, rng),
            **sample_state(self.signature, sizes["batch"], rng),
        }

    def _run(self, feeds: Feeds) -> Outputs:
        """The artifact, its state in the type that it takes."""
        contract = self.runtime.signature
        types = {spec.name: spec.dtype for spec in (*contract.inputs, *contract.state_inputs)}
        return self.runtime.run({name: value.astype(types.get(name, value.dtype)) for name, value in feeds.items()})

    def causes(self, buffers: Mapping[str, Array], alterations: Alterations | None) -> Iterator[str]:
        """What explains all outputs, the simplest first."""
        feeds = self.feeds()
        try:
            got = self._run(feeds)
        except Exception as error:  # whatever a runtime raises
            yield self._frozen() or f"a call of batch {BATCH} and {SEQ} steps fails: {one_line(error)}"
            return
        if self.against is None:
            yield from self._dead(feeds, got)
            return
        right = self.against.run(feeds)
        if self._alike(got, right, right):
            yield from self._sometimes()
            return
        partly = []
        for what, outputs in suspects(self.signature, self._run_if_it_can(right), feeds, buffers):
            if self._alike(got, outputs, right) and not self._alike(outputs, right, right):
                yield what
            elif self._alike(*map(self._states, (got, outputs, right))) and not self._alike(
                *map(self._states, (outputs, right, right))
            ):
                partly.append(f"{what} (this explains the states, and not all of the output)")
        yield from self._dead(feeds, got)
        yield from self._mixed_rows(feeds, got, right)
        for what in alterations() if alterations else ():
            if self._alike(got, self._run_if_it_can(right)(feeds), right):
                yield what
        yield from self._sometimes()
        yield from self._affine(got, right)
        yield from partly

    def place(self) -> str:
        """The first step after which something differs, and what."""
        if self.against is None:
            return ""
        for seq in range(1, SEQ + 1):
            feeds = self.feeds(seq=seq)
            try:
                right = self.against.run(feeds)
                got = self._run(feeds)
            except Exception:
                continue
            for spec in (*self.signature.state_outputs, *self.signature.outputs):
                if got[spec.name].shape != right[spec.name].shape:
                    shapes = f"{list(got[spec.name].shape)}, not {list(right[spec.name].shape)}"
                    return f"in a call of {seq} step(s) {spec.name} has the shape {shapes}"
                off = np.abs(got[spec.name] - right[spec.name]) / self._size(spec.name, right)
                off = np.nan_to_num(off, nan=np.inf)
                if (off > self.near).any():
                    index = [int(i) for i in np.argwhere(off > self.near)[0]]
                    axes = [str(dim) if isinstance(dim, str) else "" for dim in spec.shape]
                    if spec in self.signature.state_outputs:
                        axes[1 - self.signature.batch_axis_of_state], axes[2] = "layer", "unit"
                    axes = ["row" if axis == "batch" else "step" if axis == "seq" else axis for axis in axes]
                    where = ", ".join(f"{axis or 'column'} {i}" for axis, i in zip(axes, index, strict=True))
                    return f"after step {seq}: {spec.name} at {where}"
        return ""

    def _run_if_it_can(self, right: Outputs) -> Callable[[Feeds], Outputs]:
        """The reference on suspect inputs, some of which it may refuse: then nothing is alike."""
        assert self.against is not None
        run = self.against.run

        def tried(feeds: Feeds) -> Outputs:
            try:
                return run(feeds)
            except Exception:  # what the user's forward raises on these sizes
                return {name: np.full_like(value, np.nan) for name, value in right.items()}

        return tried

    def _alike(self, got: Outputs, wanted: Outputs, right: Outputs) -> bool:
        return all(
            got[name].shape == wanted[name].shape
            and bool((np.abs(got[name] - wanted[name]) <= self.near * self._size(name, right)).all())
            for name in right
        )

    def _states(self, outputs: Outputs) -> Outputs:
        return {spec.name: outputs[spec.name] for spec in self.signature.state_outputs}

    def _size(self, name: str, right: Outputs) -> Array:
        spec = next(s for s in (*self.signature.outputs, *self.signature.state_outputs) if s.name == name)
        least = OUTPUT_SIZE if spec in self.signature.outputs else STATE_SIZE
        return np.maximum(sizes(right[name], dynamic_axes(spec)), least)

    def _dead(self, feeds: Feeds, got: Outputs) -> Iterator[str]:
        """Inputs that change nothing at all, though they should."""
        dead = []
        lengths = {spec.name for spec in self.signature.inputs if spec.is_lengths}
        for name in self.signature.input_names:
            other = {**feeds, name: _another(feeds[name])}
            if name in lengths:
                other[name] = np.maximum(other[name], 1)
            try:
                moved = any((got[output] != value).any() for output, value in self._run(other).items())
            except Exception:
                continue
            if not moved and self._should_move(feeds, other):
                dead.append(name)
        if not dead:
            return
        initial = {**feeds, **self.signature.initial_state(BATCH)}
        starts = {**feeds, **{name: initial[name] for name in dead if name in initial}}
        known = self.against is not None and self._alike(got, right := self.against.run(starts), right)
        start = "its initial value" if known else "something else"
        is_ = "is" if len(dead) == 1 else "are"
        yield f"{' and '.join(dead)} {is_} ignored: every call starts from {start}"

    def _should_move(self, feeds: Feeds, other: Feeds) -> bool:
        if self.against is None:
            return True
        right, moved = self.against.run(feeds), self.against.run(other)
        return not self._alike(moved, right, right)

    def _sometimes(self) -> Iterator[str]:
        """Sizes, or a start, at which it is wrong, while it is right at others."""
        verdicts = {}
        for batch, seq in ((1, 1), (1, 2), (2, 1), (2, 2), (1, 5), (3, 5), (5, 9), (17, 3)):
            verdicts[f"batch {batch}, seq {seq}"] = self._right(self.feeds(batch, seq))
        wrong = [size for size, right in verdicts.items() if right is False]
        if wrong and any(verdicts.values()):
            right = [size for size, right in verdicts.items() if right]
            yield f"it is wrong at some sizes only: at {'; '.join(wrong)}, and not at {'; '.join(right)}"
        feeds = self.feeds()
        if not wrong and self._right({**feeds, **self.signature.initial_state(BATCH)}) is False:
            yield "it is wrong from the initial state, and right from others"

    def _right(self, feeds: Feeds) -> bool | None:
        """Whether one call is right; none where the model refuses it or the artifact fails."""
        assert self.against is not None
        try:
            wanted = self.against.run(feeds)
            return self._alike(self._run(feeds), wanted, wanted)
        except Exception:  # whatever the two raise
            return None

    def _mixed_rows(self, feeds: Feeds, got: Outputs, right: Outputs) -> Iterator[str]:
        """Rows in another order, or that depend on each other."""
        axes = {
            spec.name: spec.shape.index("batch")
            for spec in (*self.signature.outputs, *self.signature.state_outputs)
            if "batch" in spec.shape
        }
        order = []
        for row in range(BATCH):
            mine = {name: got[name].take([row], axis) for name, axis in axes.items()}
            for other in range(BATCH):
                theirs = {name: right[name].take([other], axis) for name, axis in axes.items()}
                if all(np.allclose(mine[name], theirs[name], rtol=self.near, atol=self.near) for name in axes):
                    order.append(other)
                    break
        if len(order) == BATCH and order != sorted(order):
            yield f"rows are mixed: the outputs of rows 0, 1, 2 are those of rows {', '.join(map(str, order))}"
        for spec in (*self.signature.inputs, *self.signature.state_inputs):
            if "batch" not in spec.shape or spec.is_lengths:
                continue
            axis = spec.shape.index("batch")
            changed = feeds[spec.name].copy()
            np.moveaxis(changed, axis, 0)[1:] = np.moveaxis(_another(changed), axis, 0)[1:]
            moved = self._run({**feeds, spec.name: changed})
            for name, where in axes.items():
                # In int8 rows share the scale that they are rounded with.
                close = self.near if self.near > KNOWN_FAULT["float32"].relative else 0.0
                if not np.allclose(moved[name].take([0], where), got[name].take([0], where), rtol=close, atol=close):
                    yield f"rows are mixed: row 0 of {name} depends on other rows of {spec.name}"

    def _affine(self, got: Outputs, right: Outputs) -> Iterator[str]:
        """An output whose columns are a factor and an offset away, the states being right."""
        if not self._alike(*map(self._states, (got, right, right))):
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
                yield f"{spec.name} is off by a constant, {_listed(offsets)}: a bias or offset after the LSTM is wrong"
            elif close:
                yield (
                    f"{spec.name} is {_listed(factors)} times what it should be, plus {_listed(offsets)}: "
                    "a scaling after the LSTM is left out, applied twice, or another column's"
                )
        yield "the states are right and the output is not: something after the LSTM differs"

    def _frozen(self) -> str:
        """Sizes that the artifact insists on."""
        fixed = []
        known = (*self.signature.inputs, *self.signature.state_inputs)
        for spec, found in zip(known, self.runtime.declared() or (), strict=False):
            for ours, theirs in zip(spec.shape, found.shape, strict=False):
                if isinstance(ours, str) and isinstance(theirs, int):
                    fixed.append(f"{'time' if ours == 'seq' else ours} at {theirs}")
        if fixed:
            return f"the graph is frozen: {', '.join(dict.fromkeys(fixed))}, so calls of other sizes fail"
        works = []
        for batch, seq in ((1, 1), (1, SEQ), (BATCH, 1), (2, 6), (2, 2)):
            try:
                self._run(self.feeds(batch, seq))
                works.append(f"batch {batch} with {seq} step(s)")
            except Exception:
                continue
        return f"the graph is frozen: of several sizes it runs on {', '.join(works) or 'none'} only"


def _read(failures: Sequence[Check], names: Sequence[str]) -> str:
    """What the checks of these names say."""
    return " ".join(check.detail for name in names for check in failures if check.name == name)


def _by_failures(failures: Sequence[Check]) -> str:
    """What the checks that failed have in common, where no suspect explains them."""
    names = {check.name for check in failures}
    usual = {"shapes", "chunked", "liveness", "golden", "lengths"}
    calls = [check for check in failures if check.detail.startswith("the call failed")]
    if calls and all(check.detail.startswith("the call failed") for check in failures):
        return f"calls of some sizes fail ({calls[0].detail})"
    if not names & usual and names & {"values", "rows"}:
        return "it is right on usual values and wrong on large ones: something clips"
    if names == {"drift"}:
        return "it is right in each call, and the difference grows over carried steps"
    if names == {"nonfinite"}:
        return "NaN or infinity in one row spreads to others, or is lost, as it does not in PyTorch"
    worst = max(failures, key=lambda check: check.severity)
    what = " ".join(filter(None, (worst.name, worst.output)))
    return f"no known cause explains it; the worst is {what}: {worst.detail}"


def _another(value: Array) -> Any:
    """Another value for every entry, in the same range."""
    if value.dtype.kind == "f":
        return (np.flip(value, 0) * 0.7 + 0.3 * np.roll(value, 1)).astype(value.dtype) + value.dtype.type(0.05)
    return np.where(value > 0, value - 1, value + 1).astype(value.dtype)


def _listed(values: Any) -> str:
    shown = ", ".join(f"{value:.3g}" for value in np.ravel(values)[:4])
    return f"[{shown}, …]" if np.size(values) > 4 else shown if np.size(values) == 1 else f"[{shown}]"
