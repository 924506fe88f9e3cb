import numpy as np
import onnx
import pytest
from onnx import parser

import lstm_deploy
from lstm_deploy.errors import InputError
from lstm_deploy.runtimes.onnxrt import DeviceRecurrence, open_session
from lstm_deploy.runtimes.opening import open_runtime


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


def test_a_file_of_countless_weights_is_not_opened(forecast_bundle, tmp_path, capfd):
    model = onnx.load(forecast_bundle / "model.onnx")
    model.graph.initializer.extend(
        onnx.TensorProto(name=f"t{number}", data_type=onnx.TensorProto.FLOAT, dims=[0]) for number in range(50_001)
    )
    onnx.save(model, tmp_path / "many.onnx")
    with pytest.raises(InputError, match=r"has 50,0\d\d tensors of weights"):
        lstm_deploy.open(tmp_path / "many.onnx").stream()
    assert capfd.readouterr() == ("", "")


def test_a_file_without_a_contract_is_told_how_to_get_one(forecast_bundle, tmp_path):
    model = onnx.load(forecast_bundle / "model.onnx")
    del model.metadata_props[:]
    onnx.save(model, tmp_path / "m.onnx")
    with pytest.raises(
        InputError, match=r"m\.onnx carries no contract, .* --reference WEIGHTS -o FILE, or export the w"
    ):
        lstm_deploy.open(tmp_path / "m.onnx").stream()


def test_recurrent_nodes_of_another_layout_are_refused_in_our_words(forecast_bundle, tmp_path, capfd):
    model = onnx.load(forecast_bundle / "model.onnx")
    for attribute in (item for node in model.graph.node for item in node.attribute if item.name == "layout"):
        attribute.i = 1
    onnx.save(model, tmp_path / "m.onnx")
    with pytest.raises(InputError, match=r"layout=1 \(batch first\), which onnxruntime does not run; write them with"):
        lstm_deploy.open(tmp_path / "m.onnx").stream()
    assert capfd.readouterr() == ("", "")


def test_a_call_that_fails_inside_a_node_is_told_by_its_error_alone(tmp_path, capfd):
    """Which onnxruntime also logs."""
    text = """<ir_version: 9, opset_import: ["": 18]> g (float[n] x) => (float[m] y)
        <int64[1] shape = {7}> { y = Reshape(x, shape) }"""
    onnx.save(parser.parse_model(text), tmp_path / "m.onnx")
    with pytest.raises(Exception, match="Reshape"):
        open_session(tmp_path / "m.onnx").run(None, {"x": np.ones(3, np.float32)})
    assert capfd.readouterr() == ("", "")
