"""Proof that an artifact computes what the model computes: y, h and c apart, the state included."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import count
from typing import NamedTuple, Protocol

import numpy as np

from lstm_deploy.checks import Check
from lstm_deploy.errors import InputError, one_line
from lstm_deploy.runtimes import Runtime
from lstm_deploy.sampling import sample_inputs, sample_state, sizes_of
from lstm_deploy.signature import Array, Feeds, Outputs, Signature, TensorSpec

TOLERANCES = {
    # Relative to max(1, largest |reference| of the tensor): cells of real models reach 30.
    ("float32", "cpu"): 1e-5,  # rounding of float32 over 1,000 steps stays below 3e-6
    ("float32", "cuda"): 1e-4,  # other summation orders, TF32 off
}
"""Allowed difference from a float64 reference, by precision and provider."""

SHAPES = ((1, 1), (3, 7), (2, 100), (1, 50), (17, 3), (64, 2), (1, 400))
"""Batch and sequence of the calls, none of which the export ever saw."""
CHUNKS = (5, 1, 9, 1, 1, 13)
"""How a sequence is cut for the check `chunked`."""
STEPS = 1000
"""Length of the sequence that the check `steps` feeds one step at a time."""
GOLDEN_CALLS = (4, 1, 1, 7)
"""Lengths of the chained calls of a golden trace."""

Trace = Mapping[str, Array]
ROUNDING = 10
"""How many times PyTorch's own rounding an artifact may differ, where that is more than the tolerance.

Published networks lose float32's precision within a hundred steps on inputs they were not made for: a right graph
then differs from float64 as PyTorch itself does.
"""
HORIZONS = (STEPS, 300, 100, 30, 10)
"""Lengths that `steps` is cut to, until PyTorch's own rounding is within `ROUNDING` tolerances."""
WORK = 5e9
"""Rows × steps × weights that one check may take: beyond, float64 takes minutes, and shorter calls prove as much."""


class Compared(NamedTuple):
    """What to hold against what."""

    where: str
    got: Outputs
    wanted: Feeds
    rounding: Mapping[str, float] = {}
    """For each output, by how much PyTorch's own float32 differs from float64."""


class Reference(Protocol):
    """What artifacts are held against: the PyTorch model."""

    signature: Signature

    def run(self, feeds: Feeds) -> Outputs:
        """In float64."""

    def run_float32(self, feeds: Feeds) -> Outputs:
        """In float32, to see what rounding alone does."""


def prove(judge: "Judge", reference: Reference) -> None:
    """Hold an artifact against a reference: on all shapes, in chunks, and in single steps."""
    judge.compare("shapes", _on_shapes(judge.runtime, reference))
    streaming = reference.signature.streaming
    if streaming != "none":
        judge.compare("chunked", _in_chunks(judge.runtime, reference, batch=3, chunks=CHUNKS))
        judge.compare("steps", _in_chunks(judge.runtime, reference, batch=1, chunks=(1,) * _horizon(reference)))


def replay(judge: "Judge", golden: Trace) -> None:
    """Hold an artifact against a recorded trace; needs nothing but the artifact's runtime."""
    judge.compare("golden", _replayed(judge.runtime, golden))


def record(reference: Reference) -> dict[str, Array]:
    """A golden trace: chained calls from the initial state, each with its inputs and all outputs.

    Keys are `CALL.NAME`. The first call also has its state inputs; later ones start from the state outputs
    of the call before. Outputs are in the reference's precision.
    """
    rng = np.random.default_rng(20)
    signature = reference.signature
    trace: dict[str, Array] = {}
    state: Feeds = {}
    for call, seq in enumerate(GOLDEN_CALLS):
        sizes = signature.clamp(sizes_of(signature.inputs, 2, seq))
        state = state or signature.initial_state(sizes["batch"])
        inputs = sample_inputs(signature.inputs, sizes, rng)
        outputs = reference.run({**inputs, **state})
        recorded = {**inputs, **(state if call == 0 else {}), **outputs}
        trace |= {f"{call}.{name}": value for name, value in recorded.items()}
        state = signature.next_state(outputs)
    return trace


class Judge:
    """Compares the outputs of one artifact with the reference and keeps the checks."""

    def __init__(self, artifact: str, precision: str, runtime: Runtime) -> None:
        self.artifact, self.runtime = artifact, runtime
        if (precision, runtime.provider) not in TOLERANCES:
            raise InputError(
                f"No tolerance is known for {precision} on {runtime.provider}; {artifact} cannot be judged."
            )
        self.relative = TOLERANCES[precision, runtime.provider]
        signature = runtime.signature
        self.dtypes = {spec.name: spec.dtype for spec in (*signature.outputs, *signature.state_outputs)}
        self.checks: list[Check] = []

    def compare(self, name: str, calls: Iterable[Compared]) -> None:
        """One check for each output, over all calls: its worst."""
        worst: dict[str, Check] = {}
        try:
            for call in calls:
                for output in call.wanted:
                    check = self._check(name, output, call)
                    if output not in worst or check.severity > worst[output].severity:
                        worst[output] = check
        except Exception as error:  # whatever a runtime raises: a call that fails is a check that fails
            reason = f"the call failed: {one_line(error)}"
            worst[""] = self._new(name, "", False, None, None, reason)
        self.checks += worst.values()

    def whole(self, name: str, problems: Sequence[str], fine: str) -> None:
        """One check of the artifact as a whole."""
        detail = " ".join(problems) or fine
        self.checks.append(self._new(name, "", not problems, None, None, detail))

    def _check(self, name: str, output: str, call: Compared) -> Check:
        where, got, wanted = call.where, call.got.get(output), call.wanted[output]
        if got is None or got.shape != wanted.shape:
            there = "is missing" if got is None else f"has shape {list(got.shape)}"
            return self._new(name, output, False, None, None, f"{there}, not {list(wanted.shape)}, {where}")
        declared = self.dtypes.get(output, str(got.dtype))
        if str(got.dtype) != declared:
            return self._new(name, output, False, None, None, f"is {got.dtype}, not {declared}, {where}")
        difference = np.abs(got.astype(np.float64) - wanted)
        if not np.isfinite(difference).all():
            return self._new(name, output, False, None, None, f"not a number or infinite, {where}")
        index = np.unravel_index(int(difference.argmax()), difference.shape)
        largest = float(difference[index])
        tolerance = self.relative * max(1.0, float(np.abs(wanted).max()))
        tolerance = max(tolerance, ROUNDING * call.rounding.get(output, 0.0))
        detail = f"worst at {[int(i) for i in index]}, {where}"
        return self._new(name, output, largest <= tolerance, largest, tolerance, detail)

    def _new(
        self,
        name: str,
        output: str,
        passed: bool,
        max_abs: float | None,
        tolerance: float | None,
        detail: str,
    ) -> Check:
        return Check(
            name=name,
            artifact=self.artifact,
            provider=self.runtime.provider,
            output=output,
            passed=passed,
            max_abs=max_abs,
            tolerance=tolerance,
            detail=detail,
        )


def _on_shapes(runtime: Runtime, reference: Reference) -> Iterator[Compared]:
    rng = np.random.default_rng(1)
    signature = reference.signature
    weights = weights_of(signature)
    for batch, seq in SHAPES:
        if batch * seq > 21 and batch * seq * weights > WORK:
            continue
        sizes = signature.clamp(sizes_of(signature.inputs, batch, seq))
        feeds = {**sample_inputs(signature.inputs, sizes, rng), **sample_state(signature, sizes["batch"], rng)}
        wanted, rounding = _reference(reference, feeds)
        yield Compared(f"batch {sizes['batch']}, seq {sizes['seq']}", runtime.run(feeds), wanted, rounding)


def _in_chunks(runtime: Runtime, reference: Reference, *, batch: int, chunks: Sequence[int]) -> Iterator[Compared]:
    """The artifact on the chunks of a sequence, its own state carried, against the reference on the whole.

    Where one call takes a fixed number of steps, the reference is called as often as the artifact.
    """
    rng = np.random.default_rng(2)
    signature = reference.signature
    fixed = {dim.name: dim.size for dim in signature.fixed}
    chunks = [fixed.get("seq", length) for length in chunks]
    whole_sizes = {**sizes_of(signature.inputs, batch, sum(chunks)), **fixed}
    state: Feeds = sample_state(signature, whole_sizes["batch"], rng)
    parts: list[Outputs] = []
    if "seq" in fixed:
        wanted_state, wanted_parts = state, []
        for _ in chunks:
            inputs = sample_inputs(signature.inputs, whole_sizes, rng)
            parts.append(runtime.run({**inputs, **state}))
            wanted_parts.append(reference.run({**inputs, **wanted_state}))
            state, wanted_state = signature.next_state(parts[-1]), signature.next_state(wanted_parts[-1])
        yield Compared(f"batch {whole_sizes['batch']}, call {len(chunks)}", parts[-1], wanted_parts[-1])
        return
    whole = sample_inputs(signature.inputs, whole_sizes, rng)
    for spec in signature.inputs:
        if spec.is_lengths:
            whole[spec.name][...] = sum(chunks)
    wanted, rounding = _reference(reference, {**whole, **state})
    start = 0
    for length in chunks:
        cut = {spec.name: _cut(whole[spec.name], spec, start, length) for spec in signature.inputs}
        parts.append(runtime.run({**cut, **state}))
        state = signature.next_state(parts[-1])
        start += length
    got = dict(parts[-1])
    for spec in signature.outputs:
        if "seq" in spec.shape:
            got[spec.name] = np.concatenate([part[spec.name] for part in parts], spec.shape.index("seq"))
        if signature.streaming != "exact":
            del got[spec.name], wanted[spec.name]
    yield Compared(f"batch {batch}, {len(chunks)} chunks of {sum(chunks)} steps", got, wanted, rounding)


def _horizon(reference: Reference) -> int:
    """How many carried steps the network can be judged on: as many as its own rounding leaves a meaning to."""
    rng = np.random.default_rng(2)
    weights = weights_of(reference.signature)
    for steps in HORIZONS[:-1]:
        if steps * weights > WORK:
            continue
        sizes = reference.signature.clamp(sizes_of(reference.signature.inputs, 1, steps))
        feeds = sample_inputs(reference.signature.inputs, sizes, rng)
        wanted, rounding = _reference(reference, {**feeds, **sample_state(reference.signature, sizes["batch"], rng)})
        base = TOLERANCES["float32", "cpu"]
        if all(rounding[name] <= ROUNDING * base * max(1.0, np.abs(wanted[name]).max()) for name in wanted):
            return steps
    return HORIZONS[-1]


def weights_of(signature: Signature) -> int:
    """How many weights the LSTMs of a contract have: what a step of one row costs."""
    return sum(
        4 * spec.hidden_size * spec.num_directions * (spec.input_size + (2 * spec.num_layers - 1) * spec.output_size)
        for spec in signature.recurrent
    )


def _reference(reference: Reference, feeds: Feeds) -> tuple[Outputs, dict[str, float]]:
    """What should come out, and by how much PyTorch's own float32 misses it."""
    wanted, single = reference.run(feeds), reference.run_float32(feeds)
    return wanted, {name: float(np.abs(single[name] - wanted[name]).max()) for name in wanted}


def _replayed(runtime: Runtime, golden: Trace) -> Iterator[Compared]:
    signature = runtime.signature
    state: Feeds = {spec.name: golden[f"0.{spec.name}"] for spec in signature.state_inputs}
    for call in count():
        names = [spec.name for spec in signature.inputs]
        if f"{call}.{names[0]}" not in golden:
            return
        outputs = runtime.run({**{name: golden[f"{call}.{name}"] for name in names}, **state})
        yield Compared(f"call {call}", outputs, {name: golden[f"{call}.{name}"] for name in signature.output_names})
        state = signature.next_state(outputs)


def _cut(value: Array, spec: TensorSpec, start: int, length: int) -> Array:
    if spec.is_lengths:
        return np.full_like(value, length)
    if "seq" not in spec.shape:
        return value
    return value.take(range(start, start + length), axis=spec.shape.index("seq"))
