import re

import numpy as np
import pytest
import torch

from lstm_deploy.contract.sampling import sample_inputs
from lstm_deploy.errors import InputError, ProviderError
from lstm_deploy.lifting import sources
from lstm_deploy.runtimes.onnxrt import DeviceRecurrence
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
        wanted = runtime.run({"x": x, **state})
        state = fed_back(runtime, wanted)
        recurrence.inputs["x"][...] = x
        recurrence.step()
        np.testing.assert_array_equal(recurrence.outputs["y"], wanted["y"])
        for name, value in recurrence.get_state().items():
            np.testing.assert_array_equal(value, state[name])


def test_advancing_is_a_step_on_the_same_inputs(runtime):
    recurrence = runtime.recur(2, 1)
    recurrence.inputs["x"][...] = 150
    recurrence.step()
    before = recurrence.get_state()
    wanted = fed_back(runtime, runtime.run({"x": recurrence.inputs["x"], **before}))
    recurrence.advance()
    for name, value in recurrence.get_state().items():
        np.testing.assert_array_equal(value, wanted[name])


def test_buffers_of_a_device_are_copied_there_and_back(forecast_bundle):
    """On the CPU in place of a GPU: the same calls, with buffers that are not the caller's memory."""
    runtime = open_runtime(forecast_bundle / "model.onnx")
    device, bound = DeviceRecurrence(runtime, 2, 1), runtime.recur(2, 1)
    rng = np.random.default_rng(0)
    for _ in range(3):
        x = rng.uniform(100, 200, device.inputs["x"].shape)
        for recurrence in (device, bound):
            recurrence.inputs["x"][...] = x
            recurrence.step()
            recurrence.advance()
        for name, value in bound.get_state().items():
            np.testing.assert_array_equal(device.get_state()[name], value)
        device.step()
        bound.step()
        np.testing.assert_array_equal(device.outputs["y"], bound.outputs["y"])
        device.set_state(bound.get_state())


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
        wanted = plain.run({"x": x, **state})
        state = fed_back(plain, wanted)
        np.testing.assert_allclose(recurrence.outputs["y"], wanted["y"], rtol=1e-4)
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


def test_unknown_providers_and_files_are_refused(forecast_bundle, tmp_path):
    with pytest.raises(InputError, match="'tpu' is not an execution provider"):
        open_runtime(forecast_bundle / "model.onnx", "tpu")
    with pytest.raises(InputError, match="does not exist"):
        open_runtime(tmp_path / "none.onnx")
    (tmp_path / "x.txt").touch()
    with pytest.raises(InputError, match=r"none of \.onnx, \.torchscript, \.c"):
        open_runtime(tmp_path / "x.txt")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
@pytest.mark.parametrize("name", ["model.onnx", "model.torchscript"])
def test_cuda_without_a_gpu_is_an_error_with_its_remedy(forecast_bundle, name, capfd):
    with pytest.raises(ProviderError, match="--provider cpu"):
        open_runtime(forecast_bundle / name, "cuda")
    assert capfd.readouterr() == ("", "")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU and onnxruntime-gpu[cuda,cudnn]")
@pytest.mark.parametrize("name", ["model.onnx", "model.torchscript"])
def test_cuda_computes_what_the_cpu_computes(forecast_bundle, name):
    cpu, cuda = (open_runtime(forecast_bundle / name, provider) for provider in ("cpu", "cuda"))
    x = sample_inputs(cpu.signature.inputs, {"batch": 2, "seq": 9}, np.random.default_rng(0))["x"]
    feeds = {"x": x, **cpu.signature.initial_state(2)}
    for name_, value in cuda.run(feeds).items():
        np.testing.assert_allclose(value, cpu.run(feeds)[name_], rtol=1e-4, atol=1e-4)


def test_openvino_computes_in_the_precision_that_is_asked_for(forecast_bundle):
    pytest.importorskip("openvino", reason='OpenVINO is not installed; pip install "lstm-deploy[openvino]"')
    ours = open_runtime(forecast_bundle / "model.onnx")
    feeds = {**sample_inputs(ours.signature.inputs, {"batch": 2, "seq": 5}, np.random.default_rng(0))}
    feeds |= ours.signature.initial_state(2)
    wanted = ours.run(feeds)["h_out"]
    exact = OpenVinoRuntime(forecast_bundle / "model.onnx", 1).run(feeds)["h_out"]
    rounded = OpenVinoRuntime(forecast_bundle / "model.onnx", 1, bf16=True)
    np.testing.assert_allclose(exact, wanted, atol=1e-5)
    try:
        found = rounded.run(feeds)["h_out"]
    except InputError as error:
        assert re.search(r"cannot compile the model in bf16 on this CPU .* leave out its baselines", str(error))
        return
    np.testing.assert_allclose(found, wanted, atol=0.1)
    if rounded.active() == ["CPU bf16"]:  # older CPUs have no such arithmetic
        assert np.abs(found - wanted).max() > 1e-5


def test_openvino_that_is_not_there_is_told(forecast_bundle, monkeypatch):
    monkeypatch.setattr("lstm_deploy.runtimes.openvino.find_spec", lambda _: None)
    with pytest.raises(ProviderError, match=r"lstm-deploy\[openvino\]"):
        OpenVinoRuntime(forecast_bundle / "model.onnx")


def test_openvino_refuses_what_is_no_model(tmp_path):
    pytest.importorskip("openvino", reason='OpenVINO is not installed; pip install "lstm-deploy[openvino]"')
    (tmp_path / "m.onnx").write_bytes(b"garbage")
    with pytest.raises(InputError, match="OpenVINO cannot read"):
        OpenVinoRuntime(tmp_path / "m.onnx")
