import numpy as np
import pytest

from lstm_deploy.contract.sampling import sample_inputs
from lstm_deploy.errors import InputError
from lstm_deploy.runtimes import onnxrt, providers
from lstm_deploy.runtimes.onnxrt import BoundRecurrence, DeviceRecurrence, OnnxRuntime, probe_providers
from lstm_deploy.runtimes.providers import PROVIDERS, Provider, find_provider
from lstm_deploy.validation.tolerances import TOLERANCES


def test_an_unknown_provider_is_refused_with_those_there_are():
    with pytest.raises(
        InputError, match="'tpu' is not an execution provider; did you mean 'cpu'. Choose from cpu, cuda"
    ):
        find_provider("tpu")


def test_every_precision_has_a_tolerance_or_a_reason_on_every_provider():
    for name, provider in PROVIDERS.items():
        assert ("float32", name) in TOLERANCES
        for precision in ("float16", "int8"):
            assert ((precision, name) in TOLERANCES) or precision in provider.no_kernel


def test_settings_that_are_not_asked_for_are_turned_off():
    assert PROVIDERS["cuda"].options(()) == {"use_tf32": "0", "enable_cuda_graph": "0"}
    assert PROVIDERS["cuda"].options(("graph",)) == {"use_tf32": "0", "enable_cuda_graph": "1"}
    assert PROVIDERS["cpu"].options(("graph",)) == {}


def test_tensorrt_leaves_nodes_to_cuda_without_tf32(forecast_bundle, monkeypatch):
    monkeypatch.setattr(onnxrt, "_preload_cuda", lambda: None)
    asked = {}

    class Session:
        def __init__(self, model, options, *, providers, **more):
            asked["providers"] = providers

        def get_providers(self):
            return [name for name, _ in asked["providers"]]

    monkeypatch.setattr(onnxrt.ort, "get_available_providers", lambda: ["TensorrtExecutionProvider"])
    monkeypatch.setattr(onnxrt.ort, "InferenceSession", Session)
    onnxrt.open_session(forecast_bundle / "model.onnx", "tensorrt")
    assert asked["providers"] == [
        ("TensorrtExecutionProvider", {}),
        ("CUDAExecutionProvider", {"use_tf32": "0", "enable_cuda_graph": "0"}),
        ("CPUExecutionProvider", {}),
    ]


@pytest.mark.parametrize(("device", "kind"), [("cpu", BoundRecurrence), ("cuda", DeviceRecurrence)])
def test_one_record_is_a_provider_on_its_own_device(forecast_bundle, monkeypatch, device, kind):
    """No provider is taken for CUDA but those whose arrays lie there."""
    made_for = []

    class Recurrence(kind):
        def __init__(self, runtime, batch, seq, *, device="cpu", graphs=None):
            made_for.append(device)
            super().__init__(runtime, batch, seq)  # with buffers on the CPU, as there is no such device

    monkeypatch.setattr(onnxrt, kind.__name__, Recurrence)
    monkeypatch.setattr(onnxrt, "_preload_cuda", lambda: made_for.append("CUDA's libraries"))
    record = Provider(
        name="npu",
        onnxruntime=("CPUExecutionProvider",),
        device=device,
    )
    monkeypatch.setitem(providers.PROVIDERS, "npu", record)
    runtime, cpu = (OnnxRuntime(forecast_bundle / "model.onnx", name) for name in ("npu", "cpu"))
    assert runtime.misplaced() == []
    x = sample_inputs(cpu.signature.inputs, {"batch": 2, "seq": 1}, np.random.default_rng(0))["x"]
    recurrence = runtime.recur(2, 1)
    assert made_for == (["CUDA's libraries", "cuda"] if device == "cuda" else ["cpu"])
    recurrence.inputs["x"][...] = x
    recurrence.step()
    np.testing.assert_array_equal(recurrence.outputs["y"], cpu.run({"x": x, **cpu.signature.initial_state(2)})["y"])


def test_probing_reports_which_providers_load(capfd):
    status = probe_providers()
    assert status["CPUExecutionProvider"] == "loads"
    assert set(status) == {provider.onnxruntime[0] for provider in PROVIDERS.values()}
    assert capfd.readouterr() == ("", "")
