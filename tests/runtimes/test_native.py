import ctypes
from concurrent.futures import ThreadPoolExecutor

import modules
import numpy as np
import pytest
from c_programs import NEEDS_CC, Linear, feeds_of, opened, written

from lstm_deploy.contract.signature import TensorSpec
from lstm_deploy.errors import InputError, ProviderError
from lstm_deploy.runtimes import c_compiler
from lstm_deploy.runtimes.opening import cannot_run, open_runtime

pytestmark = NEEDS_CC


@pytest.mark.parametrize(
    "content", [b"", b"int main(void) { return 0; }", b"\xff\xfe", b"/* lstm_deploy.contract\n{}\n*/"]
)
def test_a_file_that_is_no_artifact_is_refused(content, tmp_path):
    (tmp_path / "model.c").write_bytes(content)
    with pytest.raises(InputError):
        open_runtime(tmp_path / "model.c")


def test_it_runs_on_the_cpu_alone(stock):
    with pytest.raises(ProviderError, match="C runs on cpu, not on cuda; use --provider cpu, or the ONNX artifact"):
        open_runtime(stock, provider="cuda")
    assert "C runs on cpu, not on tensorrt" in cannot_run("c", "int8", "tensorrt")


@pytest.mark.parametrize(
    ("changed", "shape"), [("x", (2, 5, 3)), ("x", (2, 0, 4)), ("x", (2, 4)), ("h_in", (2, 3, 32))]
)
def test_shapes_that_do_not_fit_are_refused(changed, shape, stock):
    runtime = open_runtime(stock)
    feeds = {**feeds_of(runtime.signature, 2, 5), changed: np.zeros(shape, np.float32)}
    with pytest.raises(InputError, match=f"{changed} has the shape"):
        runtime.run(feeds)


def test_a_window_takes_its_own_number_of_steps(tmp_path):
    _, path = written(modules.WindowNorm(), tmp_path, "x:float32[batch,seq]")
    runtime = opened(path)
    with pytest.raises(InputError, match=r"x has the shape \[2, 9\]; feed x: float32\[batch, 10\]"):
        runtime.run({**feeds_of(runtime.signature, 2, 10), "x": np.zeros((2, 9), np.float32)})


def test_a_recurrence_carries_its_state_and_overwrites_its_outputs(stock):
    runtime = open_runtime(stock)
    feeds = feeds_of(runtime.signature, 3, 6)
    whole = runtime.run(feeds)
    recurrence = runtime.recur(3, 1)
    recurrence.set_state({name: feeds[name] for name in ("h_in", "c_in")})
    for step in range(6):
        recurrence.inputs["x"][:, 0] = feeds["x"][:, step]
        recurrence.step()
        np.testing.assert_array_equal(recurrence.outputs["y"][:, 0], whole["y"][:, step])
    np.testing.assert_array_equal(recurrence.get_state()["c_in"], whole["c_out"])


def test_threads_share_a_runtime(stock):
    runtime = open_runtime(stock)
    feeds = [feeds_of(runtime.signature, 1 + seed % 3, 20, seed) for seed in range(16)]
    alone = [runtime.run(each) for each in feeds]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(5):
            for got, expected in zip(pool.map(runtime.run, feeds), alone, strict=True):
                np.testing.assert_array_equal(got["y"], expected["y"])


def test_outputs_are_the_callers_own(stock):
    runtime = open_runtime(stock)
    first = runtime.run(feeds_of(runtime.signature, 1, 4, 0))
    kept = {name: value.copy() for name, value in first.items()}
    runtime.run(feeds_of(runtime.signature, 1, 4, 1))
    for name, value in first.items():
        np.testing.assert_array_equal(value, kept[name])


def test_time_major_arrays_and_states_with_the_batch_first(tmp_path):
    class TimeMajor(Linear):
        def __init__(self):
            super().__init__(3, 8, 2)
            self.lstm.batch_first = False

    onnx, path = written(TimeMajor(), tmp_path, "x:float32[seq,batch,3]", state_layout="batch-first")
    runtime = opened(path)
    feeds = feeds_of(runtime.signature, 3, 5)
    assert feeds["h_in"].shape == (3, 2, 8)
    expected = onnx.run(feeds)
    for name, value in runtime.run(feeds).items():
        np.testing.assert_allclose(value, expected[name], atol=1e-6)


def test_state_is_plain_floats(stock):
    runtime = open_runtime(stock)
    size = ctypes.CDLL(str(c_compiler.built_library(stock))).glue_state_bytes()
    assert size == sum(
        np.prod([dim for dim in spec.shape if isinstance(dim, int)]) * 4 for spec in runtime.signature.state_inputs
    )
    assert isinstance(runtime.signature.state_inputs[0], TensorSpec)
