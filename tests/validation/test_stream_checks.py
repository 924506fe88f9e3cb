"""Whatever goes wrong in a stream is reported."""

import numpy as np
import pytest
from feeding import feeders
from modules import StepCell

import lstm_deploy
from lstm_deploy.runtimes import streams
from lstm_deploy.runtimes.opening import open_runtime
from lstm_deploy.validation.stream_checks import stream_problems


@pytest.fixture(scope="module")
def runtime(forecast_bundle):
    return open_runtime(forecast_bundle / "model.onnx")


@pytest.fixture(scope="module")
def window(tmp_path_factory):
    feeder = feeders()["fixed window"]
    bundle = lstm_deploy.export(
        feeder.module.eval(), tmp_path_factory.mktemp("w") / "b", inputs=feeder.inputs, task=feeder.task
    )
    return open_runtime(bundle.path / "model.onnx")


@pytest.fixture(scope="module", params=["float32[batch,3]", "float32[3]"])
def one_step(request, tmp_path_factory):
    path = tmp_path_factory.mktemp("s") / "b"
    return open_runtime(lstm_deploy.export(StepCell().eval(), path, inputs={"x": request.param}).path / "model.onnx")


def test_streams_of_one_step_a_call_are_checked(one_step, monkeypatch):
    assert stream_problems(one_step) == []
    step = streams.StateStream.step

    def forgets(self, x, **more):
        y = step(self, x, **more)
        self.reset()
        return y

    monkeypatch.setattr(streams.StateStream, "step", forgets)
    assert any("at step 2" in problem for problem in stream_problems(one_step))


def test_right_streams_have_no_problems(runtime, window, lm_bundle):
    assert stream_problems(runtime) == []
    assert stream_problems(window) == []
    assert stream_problems(open_runtime(lm_bundle / "model.torchscript")) == []


def test_a_state_that_is_not_carried_is_reported(runtime, monkeypatch):
    step = streams.StateStream.step

    def forgets(self, x, **more):
        y = step(self, x, **more)
        self.state = self.initial_state(self.batch)
        return y

    monkeypatch.setattr(streams.StateStream, "step", forgets)
    assert any("A step of a stream" in problem and "at step 2" in problem for problem in stream_problems(runtime))


def test_a_saved_state_that_is_not_set_is_reported(runtime, monkeypatch):
    state = streams.StateStream.state
    calls = []

    def refuses(self, value):
        calls.append(1)
        if len(calls) == 1:  # the first is where it starts
            state.fset(self, value)

    monkeypatch.setattr(streams.StateStream, "state", property(state.fget, refuses))
    assert any("saved" in problem for problem in stream_problems(runtime))


@pytest.mark.parametrize("which", ["runtime", "window"])
def test_rows_that_do_not_keep_their_state_are_reported(which, request, monkeypatch):
    opened = request.getfixturevalue(which)  # before anything is broken
    monkeypatch.setattr(
        streams.Stream,
        "_step_rows",
        lambda self, x, rows, out: self.step(np.repeat(np.asarray(x), self.batch, 0))[rows],
    )
    problems = stream_problems(opened)
    assert any("rows that sat out" in problem for problem in problems)


@pytest.mark.parametrize("which", ["runtime", "window"])
def test_rows_that_are_not_reset_are_reported(which, request, monkeypatch):
    opened = request.getfixturevalue(which)
    reset = streams.Stream.reset
    monkeypatch.setattr(streams.Stream, "reset", lambda self, rows=None: reset(self) if rows is None else None)
    problems = stream_problems(opened)
    assert any("row that was reset" in problem for problem in problems)


def test_a_window_that_slides_too_far_is_reported(window, monkeypatch):
    step = streams.WindowStream.step
    monkeypatch.setattr(
        streams.WindowStream, "step", lambda self, x, **more: (step(self, x, **more), step(self, x, **more))[1]
    )
    assert stream_problems(window)
