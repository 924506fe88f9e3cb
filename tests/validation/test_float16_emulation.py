import numpy as np
import onnx
import pytest
import torch
from torch import nn

from lstm_deploy.contract.signature import TensorSpec
from lstm_deploy.errors import InputError
from lstm_deploy.exporters.onnx import export_onnx
from lstm_deploy.exporters.precision.float16_onnx import export_float16
from lstm_deploy.lifting.lifting import lift
from lstm_deploy.runtimes.onnxrt import OnnxRuntime
from lstm_deploy.validation.float16_emulation import in_float32


@pytest.fixture(scope="module")
def halved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("half")
    torch.manual_seed(0)
    export_onnx(
        lift(nn.LSTM(3, 4, 2, batch_first=True), [TensorSpec.parse("x:float32[batch,seq,3]")]), folder / "m.onnx"
    )
    export_float16(folder / "m.onnx", folder / "h.onnx")
    return folder


def test_an_emulated_graph_keeps_the_rounded_weights_and_the_types_of_its_ports(halved):
    half, wide = onnx.load(halved / "h.onnx"), onnx.load_from_string(in_float32(halved / "h.onnx"))
    onnx.checker.check_model(wide)
    rounded = {t.name: onnx.numpy_helper.to_array(t) for t in half.graph.initializer}
    for tensor in wide.graph.initializer:
        assert tensor.data_type != onnx.TensorProto.FLOAT16
        np.testing.assert_array_equal(onnx.numpy_helper.to_array(tensor), rounded[tensor.name])
    kept = {node.op_type for node in wide.graph.node} - {"Cast"}
    assert kept == {node.op_type for node in half.graph.node} - {"Cast"}
    types = [[value.type.tensor_type.elem_type for value in (*m.graph.input, *m.graph.output)] for m in (half, wide)]
    assert types[0] == types[1]


def test_an_emulated_graph_computes_what_the_float32_one_does_up_to_the_rounding(halved):
    wide, right = OnnxRuntime(in_float32(halved / "h.onnx")), OnnxRuntime(halved / "m.onnx")
    x = np.random.default_rng(0).standard_normal((2, 5, 3)).astype(np.float32)
    got = wide.run({"x": x, **wide.signature.initial_state(2)})
    expected = right.run({"x": x, **right.signature.initial_state(2)})
    for name, value in expected.items():
        assert 0 < np.abs(got[name] - value).max() < 1e-3


def test_a_float16_lstm_is_detected_wherever_its_weights_are(halved, tmp_path):
    model = onnx.load(halved / "h.onnx")
    (tensor,) = (tensor for tensor in model.graph.initializer if "W_l0" in tensor.name)
    model.graph.node.insert(0, onnx.helper.make_node("Constant", [], [tensor.name], value=tensor))
    model.graph.initializer.remove(tensor)
    onnx.save(model, tmp_path / "constant.onnx")
    with pytest.raises(InputError, match="the CPU has no float16 recurrent layers"):
        OnnxRuntime(tmp_path / "constant.onnx", "cpu")


def test_the_cpu_refuses_a_float16_lstm_before_onnxruntime_crashes_on_it(halved):
    with pytest.raises(
        InputError, match="the CPU has no float16 recurrent layers; use --provider cuda, or the float32 artifact"
    ):
        OnnxRuntime(halved / "h.onnx", "cpu")
