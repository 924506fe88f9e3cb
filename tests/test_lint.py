import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from lstm_deploy.errors import InputError
from lstm_deploy.lint import lint, load, operators, saturating


def test_our_own_graphs_are_clean(forecast_bundle, lm_bundle):
    assert lint(load(forecast_bundle / "model.onnx")) == []
    assert lint(load(lm_bundle / "model.onnx")) == []


def graph(nodes, initializers=()):
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["seq", "batch", 3])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    return helper.make_model(
        helper.make_graph(nodes, "g", [x], [y], initializers), opset_imports=[helper.make_opsetid("", 18)]
    )


def test_no_lstm_and_no_state_are_told():
    assert "no LSTM node" in lint(graph([helper.make_node("Relu", ["x"], ["y"])]))[0]
    weights = [helper.make_tensor(name, TensorProto.FLOAT, [1, 4, 3], [0.0] * 12) for name in "WR"]
    stateless = graph([helper.make_node("LSTM", ["x", "W", "R"], ["y"], hidden_size=1)], weights)
    assert [text for text in lint(stateless) if "no initial state" in text]


def test_weights_that_are_computed_are_told():
    """As the stock exporter leaves them: the quantizer then passes over the LSTM."""
    weights = [helper.make_tensor(name, TensorProto.FLOAT, [1, 4, 3], [0.0] * 12) for name in ("raw", "R")]
    packing = helper.make_node("Identity", ["raw"], ["W"])
    model = graph([packing, helper.make_node("LSTM", ["x", "W", "R"], ["y"], name="rnn", hidden_size=1)], weights)
    assert any("weights W of rnn are computed" in text and "quantize_dynamic" in text for text in lint(model))


@pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")  # the stock exporter's own, of some versions
@pytest.mark.filterwarnings("ignore:.*were assigned during export:UserWarning")
def test_the_stock_exporters_frozen_axes_are_told(tmp_path):
    module = nn.Sequential(nn.LSTM(3, 8, 2, batch_first=True)).eval()
    torch.onnx.export(module, (torch.zeros(2, 5, 3),), tmp_path / "m.onnx", dynamo=True, verbose=False)
    assert any("shape [2, 5, 3]: batch and time are frozen" in text for text in lint(load(tmp_path / "m.onnx")))


def test_nodes_inside_control_flow_are_counted():
    inner = helper.make_graph([helper.make_node("LSTM", ["x", "W", "R"], ["z"])], "inner", [], [])
    model = graph([helper.make_node("If", ["x"], ["y"], then_branch=inner, else_branch=inner)])
    assert operators(model) == {"If": 1, "LSTM": 2}
    assert any("1 If" in text for text in lint(model))


@pytest.mark.parametrize("content", [b"", b"garbage" * 9, b"\x08\x07"])
def test_what_is_no_onnx_file_is_refused(tmp_path, content):
    (tmp_path / "m.onnx").write_bytes(content)
    with pytest.raises(InputError, match="not a valid ONNX model"):
        load(tmp_path / "m.onnx")


def test_int8_products_of_every_kind_are_seen_to_saturate(tmp_path):
    """Rows of weights lie along other axes in each operator; the pair that is too large is in one of them."""
    bad, rows = np.zeros((4, 6), np.int8), 6  # [inputs, outputs]
    bad[2:, 1] = 100
    kernel = np.zeros((6, 2, 1, 3), np.int8)  # [outputs, channels, height, width]: neighbours across the channels
    kernel[1, :, 0, 1] = 100
    products = {
        "MatMulInteger": (["x", "w"], bad, {}),
        "QLinearMatMul": (["x", "s", "z", "w"], bad, {}),
        "QGemm": (["x", "s", "z", "w"], bad.T, {"transB": 1}),
        "QLinearConv": (["x", "s", "z", "w"], kernel, {}),
        "ConvInteger": (["x", "w"], kernel, {}),
    }
    for name, (inputs, weights, options) in products.items():
        node = helper.make_node(name, inputs, ["y"], name="product", **options)
        assert saturating(graph([node], [numpy_helper.from_array(weights, "w")]), tmp_path) == {"product": (1, rows)}
        apart = weights.copy()
        apart[apart == 100] = 64  # which is all that 16 bits hold
        assert saturating(graph([node], [numpy_helper.from_array(apart, "w")]), tmp_path) == {}
        unsigned = numpy_helper.from_array(weights.view(np.uint8), "w")  # which every CPU adds in 32 bits
        assert saturating(graph([node], [unsigned]), tmp_path) == {}


def test_floats_of_integers_saturate_where_both_factors_are(tmp_path):
    weights = [numpy_helper.from_array(np.full((4, 6), 100, np.int8), "w")]
    half = [helper.make_node("DequantizeLinear", ["w", "s"], ["W"]), helper.make_node("MatMul", ["x", "W"], ["y"])]
    assert saturating(graph(half, weights), tmp_path) == {}
    whole = [helper.make_node("DequantizeLinear", ["q", "s"], ["x"]), *half]
    assert saturating(graph(whole, weights), tmp_path) == {"MatMul 2": (6, 6)}


@pytest.mark.filterwarnings("ignore")  # the quantizer's own
def test_what_onnxruntime_quantizes_by_itself_saturates_and_with_a_reduced_range_does_not(tmp_path):
    from onnxruntime.quantization import QuantType, quantize_dynamic

    values = np.full((1, 32, 4), 0.5, np.float32), np.full((1, 32, 8), 0.5, np.float32)
    weights = [numpy_helper.from_array(value, name) for name, value in zip("WR", values, strict=True)]
    model = graph([helper.make_node("LSTM", ["x", "W", "R"], ["y"], name="rnn", hidden_size=8)], weights)
    onnx.save(model, tmp_path / "m.onnx")
    for reduced, found in ((False, {"rnn_quant": (64, 64)}), (True, {})):
        quantize_dynamic(tmp_path / "m.onnx", tmp_path / "q.onnx", weight_type=QuantType.QInt8, reduce_range=reduced)
        assert saturating(onnx.load(tmp_path / "q.onnx"), tmp_path) == found
