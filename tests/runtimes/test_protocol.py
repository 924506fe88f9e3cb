import numpy as np
import pytest
import torch

from lstm_deploy.contract.sampling import sample_inputs
from lstm_deploy.lifting import sources
from lstm_deploy.runtimes.opening import open_runtime
from lstm_deploy.runtimes.openvino import OpenVinoRuntime
from lstm_deploy.runtimes.torchrt import EagerRuntime


@pytest.fixture(params=["onnx", "torchscript", "eager", "openvino"])
def runtime(request, forecast_bundle, forecaster):
    if request.param == "openvino":
        pytest.importorskip("openvino", reason='OpenVINO is not installed; pip install "lstm-deploy[openvino]"')
        return OpenVinoRuntime(forecast_bundle / "model.onnx", 1)
    if request.param == "eager":
        return EagerRuntime(sources.load(sources.Origin(path=forecaster)).lifted)
    return open_runtime(forecast_bundle / f"model.{request.param}")


def fed_back(runtime, outputs):
    signature = runtime.signature
    pairs = zip(signature.state_inputs, signature.state_outputs, strict=True)
    return {before.name: outputs[after.name] for before, after in pairs}


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("seq", [1, 4])
def test_a_recurrence_is_a_chain_of_runs(runtime, batch, seq):
    rng = np.random.default_rng(0)
    recurrence = runtime.recur(batch, seq)
    state = runtime.signature.initial_state(batch)
    for _ in range(5):
        x = sample_inputs(runtime.signature.inputs, {"batch": batch, "seq": seq}, rng)["x"]
        expected = runtime.run({"x": x, **state})
        state = fed_back(runtime, expected)
        recurrence.inputs["x"][...] = x
        recurrence.step()
        np.testing.assert_array_equal(recurrence.outputs["y"], expected["y"])
        for name, value in recurrence.get_state().items():
            np.testing.assert_array_equal(value, state[name])


def test_advancing_is_a_step_on_the_same_inputs(runtime):
    recurrence = runtime.recur(2, 1)
    recurrence.inputs["x"][...] = 150
    recurrence.step()
    before = recurrence.get_state()
    expected = fed_back(runtime, runtime.run({"x": recurrence.inputs["x"], **before}))
    recurrence.advance()
    for name, value in recurrence.get_state().items():
        np.testing.assert_array_equal(value, expected[name])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU and onnxruntime-gpu[cuda,cudnn]")
@pytest.mark.parametrize("settings", [(), ("graph",)], ids=str)
@pytest.mark.parametrize("suffix", ["onnx", "torchscript"])
def test_a_recurrence_on_cuda_is_a_chain_of_runs(forecast_bundle, suffix, settings):
    runtime = open_runtime(forecast_bundle / f"model.{suffix}", "cuda", settings=settings)
    plain = open_runtime(forecast_bundle / f"model.{suffix}", "cuda")
    recurrence, state = runtime.recur(2, 3), plain.signature.initial_state(2)
    rng = np.random.default_rng(0)
    for _ in range(5):
        x = sample_inputs(plain.signature.inputs, {"batch": 2, "seq": 3}, rng)["x"]
        recurrence.inputs["x"][...] = x
        recurrence.step()
        expected = plain.run({"x": x, **state})
        state = fed_back(plain, expected)
        np.testing.assert_allclose(recurrence.outputs["y"], expected["y"], rtol=1e-4)
        recurrence.advance()
        again = plain.run({"x": x, **state})
        state = fed_back(plain, again)
        for name, value in recurrence.get_state().items():
            np.testing.assert_allclose(value, state[name], atol=1e-4)


def test_a_runtime_says_where_it_computes(runtime):
    recurrence = runtime.recur(1, 1)
    recurrence.step()
    assert runtime.active() in (["cpu"], ["CPUExecutionProvider"], ["CPU f32"])


def test_a_saved_state_is_a_copy_and_can_be_set_again(runtime):
    recurrence = runtime.recur(1, 1)
    recurrence.inputs["x"][...] = 150
    recurrence.step()
    saved = recurrence.get_state()
    kept = {name: value.copy() for name, value in saved.items()}
    recurrence.step()
    first = recurrence.outputs["y"].copy()
    recurrence.step()
    assert all(np.array_equal(saved[name], kept[name]) for name in saved)
    recurrence.set_state(saved)
    recurrence.step()
    np.testing.assert_array_equal(recurrence.outputs["y"], first)


def test_a_state_set_is_not_tied_to_the_callers_arrays(runtime):
    recurrence = runtime.recur(1, 1)
    state = {name: value + 0.5 for name, value in recurrence.get_state().items()}
    recurrence.set_state(state)
    for value in state.values():
        value[...] = 99
    assert all((value == 0.5).all() for value in recurrence.get_state().values())


def test_two_recurrences_of_one_runtime_are_independent(runtime):
    one, other = runtime.recur(1, 1), runtime.recur(1, 1)
    one.inputs["x"][...] = 150
    one.step()
    assert all((value == 0).all() for value in other.get_state().values())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU and onnxruntime-gpu[cuda,cudnn]")
@pytest.mark.parametrize("name", ["model.onnx", "model.torchscript"])
def test_cuda_computes_what_the_cpu_computes(forecast_bundle, name):
    cpu, cuda = (open_runtime(forecast_bundle / name, provider) for provider in ("cpu", "cuda"))
    x = sample_inputs(cpu.signature.inputs, {"batch": 2, "seq": 9}, np.random.default_rng(0))["x"]
    feeds = {"x": x, **cpu.signature.initial_state(2)}
    for name_, value in cuda.run(feeds).items():
        np.testing.assert_allclose(value, cpu.run(feeds)[name_], rtol=1e-4, atol=1e-4)
