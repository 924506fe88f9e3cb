"""Holding the streams of `streaming` against plain calls: steps, a state saved and set again, rows reset and alone."""

from collections.abc import Sequence

import numpy as np

from lstm_deploy.contract import Array, Feeds, Forecast, Outputs, layout_of, sample_inputs, sample_state, sizes_of
from lstm_deploy.runtimes import Runtime, StateStream, Stepper, Stream, WindowStream
from lstm_deploy.validation.tolerances import STREAM, STREAM_SIZE

ROWS, STEPS, SAVED = 3, 12, 6


def stream_problems(runtime: Runtime) -> list[str] | None:
    """What is wrong with streams on an artifact, one sentence each; none where it has no streams."""
    signature = runtime.signature
    if len(signature.inputs) != 1 or any(dim.name == "batch" for dim in signature.fixed):
        return None
    if signature.streaming != "none":
        return _of_state(runtime)
    return _of_window(runtime) if isinstance(signature.task, Forecast) else None


def _of_state(runtime: Runtime) -> list[str]:
    """A stream that carries its state."""
    signature, rng = runtime.signature, np.random.default_rng(5)
    (spec,) = signature.inputs
    output = signature.outputs[0].name
    one_step = signature.clamp(sizes_of(signature.inputs, ROWS, 1))
    xs = [sample_inputs(signature.inputs, one_step, rng)[spec.name] for _ in range(STEPS)]
    states: list[Feeds] = [sample_state(signature, ROWS, rng)]
    wanted: list[Array] = []
    for x in xs:
        outputs = runtime.run({spec.name: x, **_typed(runtime, states[-1])})
        wanted.append(outputs[output])
        states.append(signature.next_state(outputs))

    stream = StateStream(runtime, ROWS)
    rows = [x.squeeze(stream.time_axis) for x in xs]
    stream.state = states[0]
    problems = _steps(stream, rows[:SAVED], wanted[:SAVED], "a step")
    saved = stream.state
    problems += _steps(stream, rows[SAVED:], wanted[SAVED:], "a step")
    problems += _states(stream.state, states[-1], "the state after steps")
    stream.state = saved
    problems += _steps(stream, rows[SAVED:], wanted[SAVED:], "a step from a state that was saved")
    return problems + _rows(stream, rows[0])


def _of_window(runtime: Runtime) -> list[str]:
    """A stream that sees the latest rows."""
    layout = layout_of(runtime.signature)
    stream, step, rng = WindowStream(runtime, ROWS), Stepper(runtime), np.random.default_rng(5)
    x = runtime.signature.inputs[0]
    shape = (ROWS, stream.window + 3, layout.width)
    values = rng.standard_normal(shape) if x.low is None or x.high is None else rng.uniform(x.low, x.high, shape)
    rows = values.astype(np.float32)
    initial = runtime.signature.initial_state(ROWS)
    wanted = [step(rows[:, start : start + stream.window], initial)[0] for start in range(4)]
    first = [np.full_like(wanted[0], np.nan)] * (stream.window - 1)
    problems = _steps(stream, list(np.moveaxis(rows, 1, 0)), [*first, *wanted], "a step")
    return problems + _rows(stream, rows[:, 0])


def _rows(stream: Stream, x: Array) -> list[str]:
    """Rows that are reset, and that go on alone."""
    stream.reset(rows=[1])
    start, kept = stream.state, stream.get_rows([0, 2])
    problems = _states(stream.get_rows([1]), stream.initial_state(1), "the state of a row that was reset")
    stream.step(x[[1]], rows=[1])
    problems += _states(stream.get_rows([0, 2]), kept, "the state of rows that sat out")
    alone = stream.get_rows([1])
    stream.state = start
    stream.step(np.repeat(x[[1]], ROWS, axis=0))  # the very call: rows of int8 move each other by its rounding
    return problems + _states(alone, stream.get_rows([1]), "the state of a row that went on alone")


def _steps(stream: Stream, rows: Sequence[Array], wanted: Sequence[Array], what: str) -> list[str]:
    for number, (row, right) in enumerate(zip(rows, wanted, strict=True), 1):
        if not _close(stream.step(row), right):
            return [f"{what.capitalize()} of a stream gives something else than a plain call, at step {number}."]
    return []


def _states(got: Outputs, wanted: Feeds, what: str) -> list[str]:
    wrong = [name for name, value in got.items() if not _close(value, np.asarray(wanted[name]))]
    return [f"{what.capitalize()} is not what plain calls give ({', '.join(wrong)})."] if wrong else []


def _close(got: Array, right: Array) -> bool:
    right = right.reshape(got.shape) if right.size == got.size else right
    size = max(float(np.abs(np.nan_to_num(right)).max(initial=0.0)), STREAM_SIZE)
    return got.shape == right.shape and np.allclose(got, right, rtol=0, atol=STREAM.relative * size, equal_nan=True)


def _typed(runtime: Runtime, state: Feeds) -> Outputs:
    types = {spec.name: spec.dtype for spec in runtime.signature.state_inputs}
    return {name: value.astype(types[name], copy=False) for name, value in state.items()}
