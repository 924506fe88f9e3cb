import pytest
import torch
from onnx import TensorProto, helper
from torch import nn

from lstm_deploy.artifacts.lint import lint
from lstm_deploy.artifacts.onnx_graph import load, operator_counts
from lstm_deploy.errors import InputError


def test_our_own_graphs_are_clean(forecast_bundle, lm_bundle):
    assert lint(load(forecast_bundle / "model.onnx")) == []
    assert lint(load(lm_bundle / "model.onnx")) == []


def graph(nodes, initializers=()):
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["seq", "batch", 3])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    return helper.make_model(
        helper.make_graph(nodes, "g", [x], [y], initializers), opset_imports=[helper.make_opsetid("", 18)]
    )


def test_a_missing_lstm_and_a_missing_state_are_reported():
    assert "no LSTM node" in lint(graph([helper.make_node("Relu", ["x"], ["y"])]))[0]
    weights = [helper.make_tensor(name, TensorProto.FLOAT, [1, 4, 3], [0.0] * 12) for name in "WR"]
    stateless = graph([helper.make_node("LSTM", ["x", "W", "R"], ["y"], hidden_size=1)], weights)
    assert [text for text in lint(stateless) if "no initial state" in text]


def test_computed_weights_are_reported():
    """As the stock exporter writes them: the quantizer then skips the LSTM."""
    weights = [helper.make_tensor(name, TensorProto.FLOAT, [1, 4, 3], [0.0] * 12) for name in ("raw", "R")]
    packing = helper.make_node("Identity", ["raw"], ["W"])
    model = graph([packing, helper.make_node("LSTM", ["x", "W", "R"], ["y"], name="rnn", hidden_size=1)], weights)
    assert any("weights W of rnn are computed" in text and "quantize_dynamic" in text for text in lint(model))


@pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")  # the stock exporter's own, of some versions
@pytest.mark.filterwarnings("ignore:.*were assigned during export:UserWarning")
def test_frozen_axes_of_the_stock_exporter_are_reported(tmp_path):
    module = nn.Sequential(nn.LSTM(3, 8, 2, batch_first=True)).eval()
    torch.onnx.export(module, (torch.zeros(2, 5, 3),), tmp_path / "m.onnx", dynamo=True, verbose=False)
    assert any("shape [2, 5, 3]: batch and time are frozen" in text for text in lint(load(tmp_path / "m.onnx")))


def test_nodes_inside_control_flow_are_counted():
    inner = helper.make_graph([helper.make_node("LSTM", ["x", "W", "R"], ["z"])], "inner", [], [])
    model = graph([helper.make_node("If", ["x"], ["y"], then_branch=inner, else_branch=inner)])
    assert operator_counts(model) == {"If": 1, "LSTM": 2}
    assert any("1 If" in text for text in lint(model))


@pytest.mark.parametrize("content", [b"", b"garbage" * 9, b"\x08\x07"])
def test_an_invalid_onnx_file_is_refused(tmp_path, content):
    (tmp_path / "m.onnx").write_bytes(content)
    with pytest.raises(InputError, match="not a valid ONNX model"):
        load(tmp_path / "m.onnx")
