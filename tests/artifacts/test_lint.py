import onnx
import pytest
import torch
from msgspec.structs import replace
from onnx import TensorProto, helper
from onnx_texts import parse_model
from torch import nn

from lstm_deploy.artifacts.bundle import Bundle
from lstm_deploy.artifacts.lint import lint
from lstm_deploy.artifacts.onnx_graph import load, operator_counts
from lstm_deploy.contract import Signature, TensorSpec
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
    assert "no LSTM, GRU or RNN node" in lint(graph([helper.make_node("Relu", ["x"], ["y"])]))[0]
    weights = [helper.make_tensor(name, TensorProto.FLOAT, [1, 4, 3], [0.0] * 12) for name in "WR"]
    stateless = graph([helper.make_node("LSTM", ["x", "W", "R"], ["y"], hidden_size=1)], weights)
    assert [text for text in lint(stateless) if "from zeros on every call" in text]
    signature = Signature(inputs=(), outputs=(), recurrent=())
    assert [text for text in lint(stateless, signature) if "no initial state" in text]


@pytest.mark.parametrize(
    ("maker", "words"),
    [
        ("W = Identity(raw)", "weights W of rnn are put together from constants"),
        ("W = Constant<value_floats=[1.0]>()", "weights W of rnn are put together from constants"),
        ("W = Mul(raw, total)", "weights W of rnn are computed in the graph"),
        ("W = DequantizeLinear(small, one, zero)", "weights W of rnn are computed in the graph"),
    ],
)
def test_weights_that_are_no_constants_are_reported_as_what_they_are(maker, words):
    """As other exporters write them: the quantizer then skips the LSTM."""
    if "total" in maker:
        maker = f"total = ReduceSum<keepdims=0>(x) {maker}"
    model = parse_model(f"""<ir_version: 9, opset_import: ["": 18]> g (float[seq, batch, 3] x) => (y)
        <float[1, 4, 3] raw, float[1, 4, 1] R, int8[1, 4, 3] small, float one = {{0.1}}, int8 zero = {{0}}>
        {{ {maker} y, hn = LSTM<hidden_size = 1>(x, W, R) }}""")
    model.graph.node[-1].name = "rnn"
    found = [text for text in lint(model) if "weights" in text]
    assert len(found) == 1
    assert words in found[0]
    assert "quantize_dynamic silently leaves this LSTM in float" in found[0]


def test_weights_that_are_inputs_are_no_frozen_data():
    """As ONNX's own backend tests have them."""
    model = parse_model("""<ir_version: 9, opset_import: ["": 18]>
        g (float[seq, batch, 3] x, float[1, 4, 3] W, float[1, 4, 1] R, float[1, 8] B) => (y)
        { y, hn = LSTM<hidden_size = 1>(x, W, R, B) }""")
    found = lint(model)
    assert any("weights W, R, B of LSTM number 1 are inputs of the graph" in text for text in found)
    assert not any("frozen" in text or "computed" in text for text in found)


def test_constants_that_an_old_file_lists_as_inputs_are_constants():
    weights = [helper.make_tensor(name, TensorProto.FLOAT, [1, 4, 3], [1.0] * 12) for name in "WR"]
    model = graph([helper.make_node("LSTM", ["x", "W", "R"], ["y"], hidden_size=1)], weights)
    model.graph.input.extend(helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 4, 3]) for name in "WR")
    assert not [text for text in lint(model) if "weights" in text or "frozen" in text]


def test_an_old_file_need_not_list_its_constants_as_inputs(tmp_path):
    """onnxruntime opens such files, and has one among its own examples."""
    weights = [helper.make_tensor(name, TensorProto.FLOAT, [1, 4, 3], [1.0] * 12) for name in "WR"]
    model = graph([helper.make_node("LSTM", ["x", "W", "R"], ["y"], hidden_size=1)], weights)
    model.graph.output[0].CopyFrom(helper.make_tensor_value_info("y", TensorProto.FLOAT, ["seq", 1, "batch", 1]))
    model.ir_version = 3
    onnx.save(model, tmp_path / "m.onnx")
    assert operator_counts(load(tmp_path / "m.onnx")) == {"LSTM": 1}


def test_a_layout_that_no_runtime_knows_is_reported():
    weights = [helper.make_tensor(name, TensorProto.FLOAT, [1, 4, 3], [1.0] * 12) for name in "WR"]
    model = graph([helper.make_node("LSTM", ["x", "W", "R"], ["y"], name="rnn", hidden_size=1, layout=1)], weights)
    assert any("rnn has the attribute layout=1" in text for text in lint(model))


def test_attributes_that_change_nothing_are_no_defects():
    """Parameters of activations that take none, activations in another case, and peepholes of zeros."""
    weights = [helper.make_tensor(name, TensorProto.FLOAT, [1, 4, 3], [1.0] * 12) for name in "WR"]
    weights.append(helper.make_tensor("P", TensorProto.FLOAT, [1, 3], [0.0] * 3))
    usual = {"activations": ["sigmoid", "tanh", "TANH"], "activation_alpha": [0.2, 0.0, 0.0], "input_forget": 0}
    node = helper.make_node("LSTM", ["x", "W", "R", "", "", "", "", "P"], ["y"], hidden_size=1, **usual)
    assert not [text for text in lint(graph([node], weights)) if "attribute" in text or "peephole" in text]
    unusual = helper.make_node(
        "LSTM", ["x", "W", "R"], ["y"], hidden_size=1, activations=["HardSigmoid", "Tanh", "Tanh"]
    )
    assert [text for text in lint(graph([unusual], weights)) if "attribute activations" in text]


SIZES = """<ir_version: 9, opset_import: ["": 18]> g (float[{shape}] x) => (y)
    <float[1, 4, 3] W, float[1, 4, 1] R, int64[3] to = {{5, 2, 3}}, float[1, 2, 1] h>
    {{ t = {to_time_first}(x) y, hn = LSTM<hidden_size = 1>(t, W, R{start}) }}"""


@pytest.mark.parametrize(
    ("shape", "words"),
    [
        ("batch, seq, 3", ""),
        ("batch, 5, 3", "[batch, 5, 3]: time is frozen"),
        ("2, seq, 3", "[2, seq, 3]: batch is frozen"),
        ("2, 5, 3", "[2, 5, 3]: batch and time are frozen"),
    ],
)
def test_half_frozen_inputs_say_which_half(shape, words):
    text = SIZES.format(shape=shape, to_time_first="Transpose<perm = [1, 0, 2]>", start="")
    found = [text for text in lint(parse_model(text)) if "frozen" in text]
    assert len(found) == bool(words)
    assert all(words in text for text in found)


def test_sizes_that_are_frozen_inside_are_reported():
    text = SIZES.format(shape="batch, seq, 3", to_time_first="Identity", start="")
    reshaped = parse_model(text.replace("Identity(x)", "Reshape(x, to)"))
    assert any("LSTM number 1 reads 5 steps and 2 rows on every call" in text for text in lint(reshaped))
    assert not any("reads" in text for text in lint(parse_model(text)))
    text = SIZES.format(shape="seq, batch, 3", to_time_first="Identity", start=", , , h, h")
    assert any("LSTM number 1 has 2 rows on every call" in text for text in lint(parse_model(text)))


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


def test_an_input_that_no_node_reads_is_reported():
    """As PyTorch's exporter leaves one where it was given the same tensor twice, as zeros for h and c."""
    model = parse_model("""<ir_version: 9, opset_import: ["": 18]>
        g (float[seq, batch, 3] x, float[1, batch, 2] h0, float[1, batch, 2] c0, bool flag, float[1] z)
        => (y, hn, cn, z)
        <float[1, 8, 3] W, float[1, 8, 2] R> {
            y, hn, cn = LSTM<hidden_size = 2>(x, W, R, , , c0, c0)
            none = If(flag) <then_branch = t () => (a) { a = Constant<value_float = 1.0>() },
                             else_branch = e () => (b) { b = Constant<value_float = 2.0>() }>
        }""")
    found = [text for text in lint(model) if "No node reads" in text]
    assert found == ["No node reads the input h0: what callers give for it has no effect."]


def test_open_axes_may_have_other_names_than_in_the_contract():
    signature = Signature(inputs=(TensorSpec.parse("x:float32[batch,seq,3]"),), outputs=(), recurrent=())
    for shape, is_defect in ((["b", "s", 3], False), ([None, None, 3], False), (["b", 6, 3], True), (["b", "s"], True)):
        x = helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)
        y = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
        model = helper.make_model(helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", [x], [y]))
        assert any("as the contract says" in text for text in lint(model, signature)) == is_defect


def test_a_contract_of_another_kind_of_cell_is_a_defect(forecast_bundle):
    model = load(forecast_bundle / "model.onnx")
    contract = Bundle(forecast_bundle).signature
    other = replace(contract, recurrent=tuple(replace(spec, kind="GRU") for spec in contract.recurrent))
    found = lint(model, other)
    assert len(found) == sum(node.op_type == "LSTM" for node in model.graph.node)
    assert all(text.endswith("computes a cell of kind LSTM; the contract has GRU.") for text in found)
