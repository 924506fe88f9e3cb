"""What is timed, and how it is called: artifacts, files of other exporters, and a model that does nothing.

Each is a call of no arguments, prepared for one case, and can tell what it computes, so that nothing is timed that
computes something else. Baselines that need PyTorch are in `baselines`.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from msgspec import Struct
from msgspec.structs import replace
from onnx import TensorProto, helper

from lstm_deploy.contract import CONTRACT_KEY, Array, Feeds, Signature, rollout_contract, sample_inputs, sizes_of
from lstm_deploy.errors import InputError
from lstm_deploy.runtimes import Runtime, StateStream, unroll

RESIDENT, END_TO_END = "resident", "end_to_end"
SCOPES = (END_TO_END, RESIDENT)
"""`end_to_end`: from the caller's arrays to the caller's arrays; `resident`: everything is where it is computed."""
SCENARIOS = ("stream", "sequence", "rollout")
CHECKED_STEPS = 20
"""Steps of a stream whose outputs are compared with the baseline's."""
PROMPT = 8
"""Tokens that a rollout goes on from."""


class Case(Struct, frozen=True, kw_only=True):
    """One size to time everything at."""

    scenario: str
    scope: str
    batch: int
    seq_len: int
    """Steps of one call; of a rollout, the steps that it makes."""


class Prepared(NamedTuple):
    """A contender that is ready for a case."""

    call: Callable[[], object]
    """What is timed."""
    outputs: Callable[[], Array]
    """What the same calls compute from the initial state, on inputs that are the same for every contender."""


class Contender(Protocol):
    """One thing that can be timed."""

    def prepare(self, case: Case) -> Prepared:
        """Get ready for a case; raises `InputError` where the model cannot do it."""

    def active(self) -> list[str]:
        """Where it really computes: the providers that loaded, and what is not done on the one asked for."""


class ArtifactContender:
    """Whatever is behind the protocol of runtimes, called as a user of `lstm_deploy` calls it."""

    def __init__(self, runtime: Runtime) -> None:
        self.runtime = runtime

    def active(self) -> list[str]:
        return [*self.runtime.active(), *self.runtime.misplaced()]

    def prepare(self, case: Case) -> Prepared:
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
            return Prepared(lambda: run(feeds), lambda: run(feeds)[name])
        recurrence = self.runtime.recur(case.batch, case.seq_len)
        for spec in signature.inputs:
            recurrence.inputs[spec.name][...] = rows[0][spec.name]

        def outputs() -> Array:
            recurrence.set_state(signature.initial_state(case.batch))
            recurrence.step()
            return recurrence.outputs[name].copy()

        recurrence.step()  # puts the inputs where they stay
        return Prepared(recurrence.advance, outputs)

    def _stream(self, case: Case, rows: Sequence[Feeds]) -> Prepared:
        check_streams(self.runtime.signature)
        stream = StateStream(self.runtime, case.batch)
        name = stream.signature.inputs[0].name
        steps = [row[name].squeeze(stream.time_axis) for row in rows]

        def outputs() -> Array:
            stream.reset()
            return np.stack([stream.step(x) for x in steps])

        step, x = stream.step, steps[0]
        return (
            Prepared(lambda: step(x), outputs)
            if case.scope == END_TO_END
            else Prepared(stream.recurrence.advance, outputs)
        )

    def _rollout(self, case: Case) -> Prepared:
        runtime = self.runtime.rollout or self.runtime
        contract = runtime.signature if runtime.signature.rollout else rollout_contract(runtime.signature)
        feeds = rollout_feeds(contract, case)
        if runtime.signature.rollout:
            return Prepared(lambda: runtime.run(feeds), lambda: runtime.run(feeds)["y"])
        return Prepared(lambda: unroll(runtime, feeds), lambda: unroll(runtime, feeds)["y"])


class SessionContender:
    """An ONNX file of another exporter, called as its documentation says: `session.run`, with arrays in and out."""

    def __init__(self, opened: Callable[[Case], Any], signature: Signature) -> None:
        """`opened` gives the session for a case; a stock export is good for one size."""
        self.opened, self.signature = opened, signature
        self.session: Any = None

    def active(self) -> list[str]:
        return list(self.session.get_providers()) if self.session else []

    def prepare(self, case: Case) -> Prepared:
        signature, rows = self.signature, inputs_of(self.signature, case)
        self.session = self.opened(case)
        run, names, initial = self.session.run, signature.output_names, signature.initial_state(case.batch)
        feeds: dict[str, Array] = {**rows[0], **initial}
        if case.scenario == "sequence":
            return Prepared(lambda: run(names, feeds), lambda: np.asarray(run(names, feeds)[0]))
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
            made = []
            for row in rows:
                feeds.update(row)
                made.append(call())
            feeds.update(rows[0])
            return np.stack(made)

        return Prepared(call, outputs)


def check_streams(signature: Signature) -> None:
    """Raise `InputError` for a model that cannot carry its state: the same one, whatever it would run on."""
    if signature.streaming == "none":
        raise InputError(f"This model cannot be streamed ({signature.streaming_reason}).")
    if len(signature.inputs) > 1:
        raise InputError(f"A stream takes one input, and this model has {len(signature.inputs)}.")


def inputs_of(signature: Signature, case: Case) -> list[dict[str, Array]]:
    """The inputs that outputs are compared on: one call of a sequence, several of a stream. The first is timed.

    Raises `InputError` where the model fixes a size to another than the case's.
    """
    sizes = signature.clamp(sizes_of(signature.inputs, case.batch, case.seq_len))
    for name, asked in (("batch", case.batch), ("seq", case.seq_len)):
        if sizes[name] != asked:
            raise InputError(f"A call of this model has {name} {sizes[name]}, not {asked}; ask for that.")
    shape = signature.inputs[0].shape
    fixed = "seq" not in {dim for spec in signature.inputs for dim in spec.shape}
    if case.scenario == "sequence" and fixed and case.seq_len not in shape:
        raise InputError(
            f"A call of this model takes x {list(shape)}, not {case.seq_len} step(s); ask for its own number."
        )
    rng = np.random.default_rng(0)
    calls = CHECKED_STEPS if case.scenario == "stream" else 1
    return [sample_inputs(signature.inputs, sizes, rng) for _ in range(calls)]


def rollout_feeds(contract: Signature, case: Case) -> dict[str, Array]:
    """A rollout of so many steps, the likeliest token at each."""
    rng, steps = np.random.default_rng(0), case.seq_len
    given: dict[str, Array] = sample_inputs(
        contract.inputs, {"batch": case.batch, "seq": max(PROMPT, contract.least_seq), "steps": steps}, rng
    )
    if "noise" in given:
        given |= {
            "lengths": np.full(case.batch, PROMPT),
            "temperature": np.array(0, np.float32),
            "top_k": np.array(0),
            "stop": np.array(-1),
        }
    else:
        given["steps"] = np.array(steps)
    return {**given, **contract.initial_state(case.batch)}


def floor_model(signature: Signature) -> bytes:
    """An ONNX model with the inputs, state and contract of another that hands everything through.

    What a step of it takes is what the runtime takes to be called at all.
    """
    x, opset = signature.inputs[0], 18
    contract = replace(signature, outputs=(replace(x, name=signature.outputs[0].name),))
    specs = (*contract.inputs, *contract.state_inputs), (*contract.outputs, *contract.state_outputs)
    inputs, outputs = (
        [
            helper.make_tensor_value_info(spec.name, TensorProto.DataType.Value(_PROTO[spec.dtype]), list(spec.shape))
            for spec in side
        ]
        for side in specs
    )
    pairs = [(x.name, contract.outputs[0].name)]
    pairs += [(a.name, b.name) for a, b in zip(contract.state_inputs, contract.state_outputs, strict=True)]
    nodes = [helper.make_node("Identity", [before], [after]) for before, after in pairs]
    graph = helper.make_graph(nodes, "floor", inputs, outputs)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)
    helper.set_model_props(model, {CONTRACT_KEY: contract.to_json()})
    data: bytes = model.SerializeToString()
    return data


_PROTO = {
    "float32": "FLOAT",
    "float64": "DOUBLE",
    "float16": "FLOAT16",
    "int64": "INT64",
    "int32": "INT32",
    "bool": "BOOL",
}


def sized_file(path: Path, case: Case) -> Path:
    """The file of a stock export that is good for the size of a case alone."""
    return path.with_name(f"{path.stem}.{case.batch}x{case.seq_len}{path.suffix}")
