"""The check `stream`: streams against plain calls. Steps, a state saved and set again, rows reset and alone."""

from collections.abc import Sequence

import numpy as np
from msgspec.structs import replace

from lstm_deploy.contract import Array, Feeds, Forecast, Outputs, layout_of, sample_inputs, sample_state, sizes_of
from lstm_deploy.runtimes import Runtime, StateStream, Stepper, Stream, WindowStream
from lstm_deploy.validation.parity_case import typed_feeds
from lstm_deploy.validation.tolerances import STREAM, STREAM_SIZE

ROWS, STEPS, SAVED = 3, 12, 6


def stream_problems(runtime: Runtime) -> list[str] | None:
    """The problems of streams on an artifact, one sentence each; none where it has no streams."""
    signature = runtime.signature
    if len(signature.inputs) != 1:
        return None
    if signature.streaming != "none":
        return _state_stream(runtime)
    has_rows = signature.fixed_size("batch") is None
    return _window_stream(runtime) if has_rows and isinstance(signature.task, Forecast) else None


def _state_stream(runtime: Runtime) -> list[str]:
    """Problems of a stream that carries its state."""
    signature, rng = runtime.signature, np.random.default_rng(5)
    (x,) = signature.inputs
    sizes = signature.clamp(sizes_of(signature.inputs, ROWS, 1))
    inputs = [sample_inputs(signature.inputs, sizes, rng)[x.name] for _ in range(STEPS)]
    first = state = sample_state(signature, sizes["batch"], rng)
    expected: list[Array] = []
    for value in inputs:
        outputs = runtime.run(typed_feeds(signature, {x.name: value, **state}))
        expected.append(outputs[signature.outputs[0].name])
        state = signature.next_state(outputs)

    stream = StateStream(runtime, sizes["batch"])
    rows = [value.reshape(stream.row_shape) for value in inputs]
    stream.state = first
    problems = _steps(stream, rows[:SAVED], expected[:SAVED], "A step")
    saved = stream.state
    problems += _steps(stream, rows[SAVED:], expected[SAVED:], "A step")
    problems += _states(stream.state, state, "after steps")
    stream.state = saved
    problems += _steps(stream, rows[SAVED:], expected[SAVED:], "A step from a state that was saved")
    if signature.fixed_size("batch") is not None:  # whose rows are not for several callers
        return problems
    return problems + _rows(stream, rows[0])


def _window_stream(runtime: Runtime) -> list[str]:
    """Problems of a stream that sees the latest rows."""
    stream, step, rng = WindowStream(runtime, ROWS), Stepper(runtime), np.random.default_rng(5)
    shape = (ROWS, stream.window + 3, layout_of(runtime.signature).width)
    x = replace(runtime.signature.inputs[0], dtype="float32", shape=shape)
    rows = sample_inputs([x], {}, rng)[x.name]
    initial = runtime.signature.initial_state(ROWS)
    expected = [step(rows[:, start : start + stream.window], initial)[0] for start in range(4)]
    until_full = [np.full_like(expected[0], np.nan)] * (stream.window - 1)
    problems = _steps(stream, list(np.moveaxis(rows, 1, 0)), [*until_full, *expected], "A step")
    return problems + _rows(stream, rows[:, 0])


def _rows(stream: Stream, x: Array) -> list[str]:
    """Problems of rows that are reset, and of rows that go on alone."""
    stream.reset(rows=[1])
    start, kept = stream.state, stream.get_rows([0, 2])
    problems = _states(stream.get_rows([1]), stream.initial_state(1), "of a row that was reset")
    stream.step(x[[1]], rows=[1])
    problems += _states(stream.get_rows([0, 2]), kept, "of rows that sat out")
    alone = stream.get_rows([1])
    stream.state = start
    stream.step(np.repeat(x[[1]], ROWS, axis=0))  # the very call: rows of int8 move each other by its rounding
    return problems + _states(alone, stream.get_rows([1]), "of a row that went on alone")


def _steps(stream: Stream, rows: Sequence[Array], expected: Sequence[Array], what: str) -> list[str]:
    for number, (row, y) in enumerate(zip(rows, expected, strict=True), 1):
        if not _close(stream.step(row), y):
            return [f"{what} of a stream gives something else than a plain call, at step {number}."]
    return []


def _states(got: Outputs, expected: Feeds, which: str) -> list[str]:
    wrong = [name for name, value in got.items() if not _close(value, np.asarray(expected[name]))]
    return [f"The state {which} is not what plain calls give ({', '.join(wrong)})."] if wrong else []


def _close(got: Array, expected: Array) -> bool:
    size = max(float(np.abs(np.nan_to_num(expected)).max(initial=0.0)), STREAM_SIZE)
    return got.size == expected.size and np.allclose(
        got, expected.reshape(got.shape), rtol=0, atol=STREAM.relative * size, equal_nan=True
    )
