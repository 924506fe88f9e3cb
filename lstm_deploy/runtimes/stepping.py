"""A model called once for each step and fed with its own outputs: the reference of rollouts."""

import numpy as np

from lstm_deploy.contract import MIN_TEMPERATURE, Array, Feeds, Outputs, carries_state, layout_of, window_of
from lstm_deploy.runtimes.protocol import Runtime


class Stepper:
    """A model called on rows `[batch, seq, features]`, or tokens `[batch, seq]`, whatever its own layout is."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime, self._layout, signature = runtime, layout_of(runtime.signature), runtime.signature
        self._x, self._y = signature.inputs[0].name, signature.outputs[0].name
        self._dtype, self._lengths = signature.inputs[0].dtype, signature.inputs[1:]

    def __call__(self, rows: Array, state: Feeds) -> tuple[Array, Outputs]:
        """The output after the last row, `[batch, outputs]`, and the state."""
        if self._layout.one_step:
            for time in range(rows.shape[1] - 1):
                _, state = self._once(rows[:, time : time + 1], state)
            rows = rows[:, -1:]
        return self._once(rows, state)

    def _once(self, rows: Array, state: Feeds) -> tuple[Array, Outputs]:
        """One call of the model."""
        lengths = {spec.name: np.full(len(rows), rows.shape[1], spec.dtype) for spec in self._lengths}
        x = self._layout.inputs(rows).astype(self._dtype, copy=False)
        outputs = self._runtime.run({self._x: x, **lengths, **state})
        return self._layout.last(outputs[self._y]), self._runtime.signature.next_state(outputs)


def unroll(runtime: Runtime, feeds: Feeds) -> Outputs:
    """The outputs of a rollout, computed by one call of the model for each step."""
    signature = runtime.signature
    if "noise" in feeds:
        return _generate(runtime, feeds)
    step, rows, values = Stepper(runtime), feeds["x"], []
    if carries_state(signature):
        state: Feeds = {spec.name: feeds[spec.name] for spec in signature.state_inputs}
        for _ in range(int(feeds["steps"])):
            value, state = step(rows, state)
            values.append(value)
            rows = value[:, None]
        return {"y": np.stack(values, axis=1), **signature.outgoing_state(state)}
    rows, initial = rows[:, -window_of(signature) :], signature.initial_state(len(rows))
    for _ in range(int(feeds["steps"])):
        value, _ = step(rows, initial)
        values.append(value)
        rows = np.concatenate([rows[:, 1:], value[:, None]], axis=1)
    return {"y": np.stack(values, axis=1)}


def choose(logits: Array, noise: Array, temperature: float, top_k: int) -> Array:
    """The next token of each row, from logits `[batch, vocabulary]` and uniform noise `[batch]`; all in float32."""
    if np.float32(temperature) < np.float32(MIN_TEMPERATURE):
        return np.asarray(logits.argmax(-1))
    candidates = min(top_k, logits.shape[1]) if top_k > 0 else logits.shape[1]
    least = np.sort(logits, axis=-1)[:, -candidates][:, None]
    scaled = np.where(logits >= least, logits, np.float32(-np.inf)) / np.float32(temperature)
    weights = np.exp(scaled - scaled.max(axis=-1, keepdims=True))
    cumulative = np.cumsum(weights / weights.sum(axis=-1, keepdims=True), axis=-1, dtype=np.float32)
    total = cumulative[:, -1:]
    passed = (cumulative <= noise[:, None] * total).sum(axis=-1)
    return np.asarray(np.minimum(passed, (cumulative < total).sum(axis=-1)))


def _generate(runtime: Runtime, feeds: Feeds) -> Outputs:
    signature, step = runtime.signature, Stepper(runtime)
    x, lengths, noise, stop = feeds["x"], feeds["lengths"], feeds["noise"], int(feeds["stop"])
    temperature, top_k = float(feeds["temperature"]), int(feeds["top_k"])
    least = int(lengths.min())
    logits, state = step(x[:, :least], {spec.name: feeds[spec.name] for spec in signature.state_inputs})
    for time in range(least, int(lengths.max())):  # the rest of the longer prompts, while the shorter ones wait
        next_logits, after = step(x[:, time : time + 1], state)
        goes_on = time < lengths
        logits = np.where(goes_on[:, None], next_logits, logits)
        mask = np.expand_dims(goes_on, (0, 2) if signature.batch_axis_of_state else (1, 2))
        state = {name: np.where(mask, after[name], state[name]) for name in state}
    tokens = [choose(logits, noise[:, 0], temperature, top_k)]
    for column in noise.T[1:]:
        alive = tokens[-1] != stop
        if not alive.any():
            break
        logits, state = step(tokens[-1][:, None], state)
        tokens.append(np.where(alive, choose(logits, column, temperature, top_k), stop))
    return {"y": np.stack(tokens, axis=1), **signature.outgoing_state(state)}
