"""Workloads: what a benchmark can time, each as a call without arguments.

A workload also returns what its calls compute, so that variants whose outputs differ are noticed. Workloads that need
PyTorch are in `baselines`.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from msgspec import Struct
from msgspec.structs import replace
from onnx import helper

from lstm_deploy.contract import CONTRACT_KEY, Array, Feeds, Signature, rollout_contract, sample_inputs, sizes_of
from lstm_deploy.errors import InputError
from lstm_deploy.runtimes import Runtime, StateStream, unroll

END_TO_END = "end_to_end"
SCOPES = (END_TO_END, "resident")
"""`end_to_end`: from the caller's arrays to the caller's arrays; `resident`: all data stays where it is computed."""
SCENARIOS = ("stream", "sequence", "rollout")
CHECKED_STEPS = 20
"""Steps of a stream whose outputs are compared with the baseline's."""
PROMPT = 8
"""Tokens that a rollout continues."""


class BenchCase(Struct, frozen=True, kw_only=True):
    """The scenario, scope and sizes of one measurement, the same for all variants."""

    scenario: str
    scope: str
    batch: int
    seq_len: int
    """Steps of one call; in a rollout, the steps that it generates."""


class PreparedCall(NamedTuple):
    """A workload that is ready for a case."""

    call: Callable[[], object]
    """What is timed."""
    outputs: Callable[[], Array]
    """What the same calls compute from the initial state, on inputs that are the same for every workload."""


class Workload(Protocol):
    """Something that can be timed."""

    def prepare(self, case: BenchCase) -> PreparedCall:
        """Prepare a case; raises `InputError` where the model cannot run it."""

    def active(self) -> list[str]:
        """The providers or devices that are in use, and what does not run on the one that was requested."""


class ArtifactWorkload:
    """Any implementation of the runtime protocol, called as a user of `lstm_deploy` calls it."""

    def __init__(self, runtime: Runtime) -> None:
        self.runtime = runtime

    def active(self) -> list[str]:
        return [*self.runtime.active(), *self.runtime.misplaced()]

    def prepare(self, case: BenchCase) -> PreparedCall:
        signature = self.runtime.signature
        if case.scenario == "rollout":
            return self._rollout(case)
        if signature.rollout:
            raise InputError("A rollout makes many steps in a call; time it in the scenario rollout.")
        rows, name = inputs_of(signature, case), signature.outputs[0].name
        if case.scenario == "stream":
            return self._stream(case, rows)
        if case.scope == END_TO_END:
            run, feeds = self.runtime.run, {**rows[0], **signature.initial_state(case.batch)}
            return PreparedCall(lambda: run(feeds), lambda: run(feeds)[name])
        recurrence = self.runtime.recur(case.batch, case.seq_len)
        for spec in signature.inputs:
            recurrence.inputs[spec.name][...] = rows[0][spec.name]

        def outputs() -> Array:
            recurrence.set_state(signature.initial_state(case.batch))
            recurrence.step()
            return recurrence.outputs[name].copy()

        recurrence.step()  # puts the inputs where they stay
        return PreparedCall(recurrence.advance, outputs)

    def _stream(self, case: BenchCase, rows: Sequence[Feeds]) -> PreparedCall:
        check_streams(self.runtime.signature)
        stream = StateStream(self.runtime, case.batch)
        name = stream.signature.inputs[0].name
        steps = [row[name].reshape(stream.row_shape) for row in rows]

        def outputs() -> Array:
            stream.reset()
            return np.stack([stream.step(x) for x in steps])

        step, x = stream.step, steps[0]
        return PreparedCall((lambda: step(x)) if case.scope == END_TO_END else stream.recurrence.advance, outputs)

    def _rollout(self, case: BenchCase) -> PreparedCall:
        runtime = self.runtime.rollout or self.runtime
        if runtime.signature.rollout:
            feeds = rollout_feeds(runtime.signature, case)
            return PreparedCall(lambda: runtime.run(feeds), lambda: runtime.run(feeds)["y"])
        feeds = rollout_feeds(rollout_contract(runtime.signature), case)
        return PreparedCall(lambda: unroll(runtime, feeds), lambda: unroll(runtime, feeds)["y"])


class SessionWorkload:
    """An ONNX file of another exporter, called as its documentation says: `session.run`, with arrays in and out."""

    session_for: Callable[[BenchCase], Any]
    signature: Signature

    def __init__(self, session_for: Callable[[BenchCase], Any], signature: Signature) -> None:
        """`session_for` opens the session for a case, since a stock export is valid for one size only."""
        self.session_for, self.signature = session_for, signature
        self.session: Any = None

    def active(self) -> list[str]:
        return list(self.session.get_providers()) if self.session else []

    def prepare(self, case: BenchCase) -> PreparedCall:
        signature, rows = self.signature, inputs_of(self.signature, case)
        self.session = self.session_for(case)
        run, names, initial = self.session.run, signature.output_names, signature.initial_state(case.batch)
        feeds: dict[str, Array] = {**rows[0], **initial}
        if case.scenario == "sequence":
            return PreparedCall(lambda: run(names, feeds), lambda: np.asarray(run(names, feeds)[0]))
        check_streams(signature)
        carried = [(spec.name, index) for index, spec in enumerate(signature.state_inputs, len(signature.outputs))]

        def call() -> Array:
            results = run(names, feeds)
            for name, index in carried:
                feeds[name] = results[index]
            y: Array = results[0]
            return y

        def outputs() -> Array:
            feeds.update(initial)
            steps = []
            for row in rows:
                feeds.update(row)
                steps.append(call())
            feeds.update(rows[0])
            return np.stack(steps)

        return PreparedCall(call, outputs)


def check_streams(signature: Signature) -> None:
    """Raise `InputError` for a model that cannot carry its state, with the same reason on every runtime."""
    if signature.streaming == "none":
        raise InputError(f"This model cannot be streamed ({signature.streaming_reason}).")
    if len(signature.inputs) > 1:
        raise InputError(f"A stream takes one input, and this model has {len(signature.inputs)}.")


def inputs_of(signature: Signature, case: BenchCase) -> list[dict[str, Array]]:
    """The inputs of the calls whose outputs are compared: several steps of a stream, else one call.

    The first is also timed. Raises `InputError` where the model fixes a size to another than the case's.
    """
    sizes = signature.clamp(sizes_of(signature.inputs, case.batch, case.seq_len))
    for name, requested in (("batch", case.batch), ("seq", case.seq_len)):
        if sizes[name] != requested:
            raise InputError(f"A call of this model has {name} {sizes[name]}, not {requested}; ask for that.")
    shape = signature.inputs[0].shape
    fixed = not signature.one_step and "seq" not in {dim for spec in signature.inputs for dim in spec.shape}
    if case.scenario == "sequence" and fixed and case.seq_len not in shape:
        raise InputError(f"A call of this model takes x {list(shape)}, not {case.seq_len} step(s); ask for its number.")
    rng = np.random.default_rng(0)
    calls = CHECKED_STEPS if case.scenario == "stream" else 1
    return [sample_inputs(signature.inputs, sizes, rng) for _ in range(calls)]


def rollout_feeds(contract: Signature, case: BenchCase) -> dict[str, Array]:
    """The inputs of a rollout of `case.seq_len` steps that takes the most likely token at each."""
    sizes = {"batch": case.batch, "seq": max(PROMPT, contract.least_seq), "steps": case.seq_len}
    feeds: dict[str, Array] = sample_inputs(contract.inputs, sizes, np.random.default_rng(0))
    if "noise" in feeds:
        feeds |= {
            "lengths": np.full(case.batch, PROMPT),
            "temperature": np.array(0, np.float32),
            "top_k": np.array(0),
            "stop": np.array(-1),
        }
    else:
        feeds["steps"] = np.array(case.seq_len)
    return {**feeds, **contract.initial_state(case.batch)}


def null_model(signature: Signature) -> bytes:
    """The null model: an ONNX model with the inputs, state and contract of another that passes everything through.

    Its time is what calling the runtime costs by itself.
    """
    x = signature.inputs[0]
    contract = replace(signature, outputs=(replace(x, name=signature.outputs[0].name),))
    element_type = helper.np_dtype_to_tensor_dtype
    inputs, outputs = (
        [helper.make_tensor_value_info(spec.name, element_type(np.dtype(spec.dtype)), spec.shape) for spec in side]
        for side in ((*contract.inputs, *contract.state_inputs), (*contract.outputs, *contract.state_outputs))
    )
    pairs = [(x, contract.outputs[0]), *zip(contract.state_inputs, contract.state_outputs, strict=True)]
    nodes = [helper.make_node("Identity", [before.name], [after.name]) for before, after in pairs]
    graph = helper.make_graph(nodes, "floor", inputs, outputs)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    helper.set_model_props(model, {CONTRACT_KEY: contract.to_json()})
    return bytes(model.SerializeToString())


def sized_file(path: Path, case: BenchCase) -> Path:
    """The file of a stock export that is valid for the size of one case."""
    return path.with_name(f"{path.stem}.{case.batch}x{case.seq_len}{path.suffix}")
