"""The cases of the check `rollout`: a rollout is compared with its own model, called once for each step.

The model is compared with PyTorch, so a rollout that equals it step by step is right, too.
"""

from collections.abc import Iterator

import numpy as np

from lstm_deploy.contract import NO_STOP, Feeds, LanguageModel, Signature, rollout_contract, sample_inputs, sample_state
from lstm_deploy.runtimes import Runtime, Stepper, unroll
from lstm_deploy.validation.parity_case import ParityCase, output_sizes
from lstm_deploy.validation.tolerances import ROLLOUT, Override

AS_MODEL = {"": Override(relative=ROLLOUT.relative)}
"""How far all outputs of a rollout may be from its model's."""


def make_rollout_cases(runtime: Runtime, steps: int) -> list[ParityCase]:
    """Cases of up to `steps` steps for the rollout of the model that a runtime has loaded."""
    contract = rollout_contract(runtime.signature)
    inputs_of = _texts if isinstance(contract.task, LanguageModel) else _forecasts
    cases = []
    for where, inputs, state in inputs_of(runtime, contract, steps):
        expected = unroll(runtime, {**inputs, **state})
        cases.append(ParityCase("rollout", where, state, (inputs,), (expected,), output_sizes(contract, [expected])))
    return cases


def _forecasts(_: Runtime, contract: Signature, steps: int) -> Iterator[tuple[str, Feeds, Feeds]]:
    rng = np.random.default_rng(3)
    for batch, more, length in ((1, 8, steps), (3, 3, 7), (2, 0, 1), (5, 1, 2)):
        seq = contract.least_seq + more
        inputs = sample_inputs(contract.inputs[:1], {"batch": batch, "seq": seq}, rng)
        where = f"batch {batch}, seq {seq}, {length} steps"
        yield where, {**inputs, "steps": np.array(length)}, sample_state(contract, batch, rng)


def _texts(runtime: Runtime, contract: Signature, steps: int) -> Iterator[tuple[str, Feeds, Feeds]]:
    rng = np.random.default_rng(4)

    def text(batch: int, seq: int, temperature: float, top_k: int, length: int = steps) -> tuple[Feeds, Feeds]:
        inputs = {
            **sample_inputs(contract.inputs[:1], {"batch": batch, "seq": seq}, rng),
            "lengths": np.resize([seq, 1, max(1, seq - 2)], batch).astype(np.int64),
            "noise": rng.random((batch, length), np.float32),
            "temperature": np.array(temperature, np.float32),
            "top_k": np.array(top_k),
            "stop": np.array(NO_STOP),
        }
        return inputs, sample_state(contract, batch, rng)

    # A temperature as large as the spread of the logits, so that other tokens than the likeliest are drawn, too.
    inputs, state = text(4, 9, 0.0, 0)
    logits = Stepper(runtime)(inputs["x"], state)[0]
    hot = 2 * float(np.std(logits[np.isfinite(logits)])) + 1e-3
    yield "the likeliest tokens", *text(1, 5, 0.0, 0)
    yield "prompts of several lengths", *text(4, 7, 0.0, 0)
    yield "drawn from the 5 likeliest", *text(3, 4, 0.8, 5)
    yield "drawn from the 2 likeliest", *text(2, 4, hot, 2)
    yield "drawn from all", *text(2, 6, hot, 0)
    yield "drawn when it is cold", *text(2, 6, hot / 20, 0)
    inputs, state = text(2, 6, hot, 0)
    yield "drawn with the least noise", {**inputs, "noise": np.zeros_like(inputs["noise"])}, state
    yield "until the first token of all comes", {**inputs, "stop": np.array(0)}, state
    yield "drawn from more than there are", *text(2, 3, 1.0, 10**6, 9)
    yield "one token", *text(2, 3, 1.0, 0, 1)

    def stopped(inputs: Feeds, state: Feeds) -> Feeds:
        """Ended by the token that comes a third of the way into the first row, and perhaps not into the others."""
        drawn = unroll(runtime, {**inputs, **state})["y"]
        return {**inputs, "stop": np.array(drawn[0, drawn.shape[1] // 3])}

    inputs, state = text(3, 4, hot, 0)
    yield "until a token comes", stopped(inputs, state), state
    one = {name: value[:1] if value.ndim else value for name, value in inputs.items()}
    one["lengths"] = np.array([one["x"].shape[1]])
    alone = {name: np.take(value, [0], axis=contract.batch_axis_of_state) for name, value in state.items()}
    yield "until a token ends it", stopped(one, alone), alone
