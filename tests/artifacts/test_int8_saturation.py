import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from lstm_deploy.artifacts.int8_saturation import saturating_nodes
from lstm_deploy.errors import InputError


def graph(nodes, initializers=(), kind=TensorProto.UINT8):
    x = helper.make_tensor_value_info("x", kind, None)
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    return helper.make_model(
        helper.make_graph(nodes, "g", [x], [y], initializers), opset_imports=[helper.make_opsetid("", 18)]
    )


def test_saturation_is_detected_in_int8_products_of_every_kind(tmp_path):
    """Each operator has the rows of its weights along other axes; one row has a pair that is too large."""
    bad, rows = np.zeros((4, 6), np.int8), 6  # [inputs, outputs]
    bad[2:, 1] = 100
    kernel = np.zeros((6, 2, 1, 3), np.int8)  # [outputs, channels, height, width]: neighbours across the channels
    kernel[1, :, 0, 1] = 100
    products = {
        "MatMulInteger": (["x", "w"], bad, {}),
        "QLinearMatMul": (["x", "s", "z", "w"], bad, {}),
        "QGemm": (["x", "s", "z", "w"], bad.T, {"transB": 1}),
        "QLinearConv": (["x", "s", "z", "w"], kernel, {}),
    }
    for name, (inputs, weights, options) in products.items():
        node = helper.make_node(name, inputs, ["y"], name="product", **options)
        assert saturating_nodes(graph([node], [numpy_helper.from_array(weights, "w")]), tmp_path) == {
            "product": (1, rows)
        }
        apart = weights.copy()
        apart[apart == 100] = 64  # which is all that 16 bits hold
        assert saturating_nodes(graph([node], [numpy_helper.from_array(apart, "w")]), tmp_path) == {}
        unsigned = numpy_helper.from_array(weights.view(np.uint8), "w")  # which every CPU adds in 32 bits
        assert saturating_nodes(graph([node], [unsigned]), tmp_path) == {}


def test_dequantized_products_saturate_if_both_factors_are_dequantized(tmp_path):
    weights = [numpy_helper.from_array(np.full((4, 6), 100, np.int8), "w")]
    half = [helper.make_node("DequantizeLinear", ["w", "s"], ["W"]), helper.make_node("MatMul", ["x", "W"], ["y"])]
    assert saturating_nodes(graph(half, weights), tmp_path) == {}
    half[1].input[0] = "dequantized"
    whole = [helper.make_node("DequantizeLinear", ["x", "s"], ["dequantized"]), *half]
    assert saturating_nodes(graph(whole, weights), tmp_path) == {"MatMul 2": (6, 6)}


LARGE = np.full((4, 6), 100, np.int8)
PRODUCT = helper.make_node("MatMulInteger", ["x", "w"], ["y"], name="product")


def constant(name, value):
    return helper.make_node("Constant", [], [name], value=numpy_helper.from_array(value, name))


@pytest.mark.parametrize(
    "nodes",
    [
        [constant("w", LARGE)],
        [constant("a", LARGE), helper.make_node("Identity", ["a"], ["w"])],
        [constant("a", LARGE.T), helper.make_node("Transpose", ["a"], ["w"], perm=[1, 0])],
        [constant("a", LARGE.ravel()), constant("b", np.array([4, 6])), helper.make_node("Reshape", ["a", "b"], ["w"])],
        [
            constant("a", LARGE / np.float32(100)),
            constant("b", np.float32(0.01)),
            constant("c", np.int8(0)),
            helper.make_node("QuantizeLinear", ["a", "b", "c"], ["w"]),
        ],
    ],
    ids=["constant", "identity", "transposed", "reshaped", "rounded in the graph"],
)
def test_weights_are_found_however_they_are_stored_in_the_graph(tmp_path, nodes):
    assert saturating_nodes(graph([*nodes, PRODUCT]), tmp_path) == {"product": (6, 6)}


def test_moved_weights_and_activations_of_a_dequantized_product_are_found(tmp_path):
    nodes = [
        helper.make_node("DequantizeLinear", ["x", "s"], ["a"]),
        helper.make_node("Identity", ["a"], ["b"]),
        helper.make_node("DequantizeLinear", ["w", "s"], ["c"]),
        helper.make_node("Transpose", ["c"], ["d"], perm=[1, 0]),
        helper.make_node("MatMul", ["b", "d"], ["y"], name="product"),
    ]
    weights = [numpy_helper.from_array(np.ascontiguousarray(LARGE.T), "w")]
    assert saturating_nodes(graph(nodes, weights), tmp_path) == {"product": (6, 6)}


def test_products_in_branches_and_functions_are_found(tmp_path):
    weights = [numpy_helper.from_array(LARGE, "w")]
    branch = helper.make_graph([PRODUCT], "branch", [], [helper.make_tensor_value_info("y", 6, None)], weights)
    node = helper.make_node("If", ["x"], ["z"], then_branch=branch, else_branch=branch)
    assert saturating_nodes(graph([node]), tmp_path) == {"product": (12, 12)}
    model = graph([helper.make_node("of_ours", ["x"], ["y"], domain="local")])
    opset = [helper.make_opsetid("", 18)]
    body = [constant("w", LARGE), PRODUCT]
    model.functions.append(helper.make_function("local", "of_ours", ["x"], ["y"], body, opset))
    model.opset_import.append(helper.make_opsetid("local", 1))
    assert list(saturating_nodes(model, tmp_path).values()) == [(6, 6)]


@pytest.mark.parametrize(
    ("node", "weights"),
    [
        (helper.make_node("ConvInteger", ["x", "w"], ["y"]), np.full((6, 2, 3), 100, np.int8)),
        (helper.make_node("QLinearConv", ["x", "s", "z", "w"], ["y"], group=6), np.full((6, 1, 4), 100, np.int8)),
    ],
    ids=["weights in the place of activations", "one channel for each output"],
)
def test_convolutions_that_add_in_32_bits_do_not_saturate(tmp_path, node, weights):
    assert saturating_nodes(graph([node], [numpy_helper.from_array(weights, "w")]), tmp_path) == {}


def test_products_of_signed_activations_add_in_32_bits(tmp_path):
    weights = [numpy_helper.from_array(LARGE, "w"), numpy_helper.from_array(np.int8(0), "z")]
    assert saturating_nodes(graph([PRODUCT], weights, TensorProto.INT8), tmp_path) == {}
    rounding = helper.make_node("QuantizeLinear", ["x", "s", "z"], ["a"])
    product = helper.make_node("MatMulInteger", ["a", "w"], ["y"])
    assert saturating_nodes(graph([rounding, product], weights, TensorProto.FLOAT), tmp_path) == {}


@pytest.mark.parametrize("shape", [(), (0, 6), (4, 0)])
def test_empty_weights_do_not_saturate(tmp_path, shape):
    assert saturating_nodes(graph([PRODUCT], [numpy_helper.from_array(np.zeros(shape, np.int8), "w")]), tmp_path) == {}


def test_malformed_nodes_and_files_cause_no_traceback(tmp_path):
    assert saturating_nodes(graph([helper.make_node("DynamicQuantizeLSTM", ["x"], ["y"])]), tmp_path) == {}
    broken = [constant("b", np.array([5, 5])), helper.make_node("Reshape", ["a", "b"], ["w"]), PRODUCT]
    assert saturating_nodes(graph(broken, [numpy_helper.from_array(LARGE, "a")]), tmp_path) == {}
    onnx.save(
        graph([PRODUCT], [numpy_helper.from_array(LARGE, "w")]),
        tmp_path / "m.onnx",
        save_as_external_data=True,
        location="w.bin",
        size_threshold=0,
    )
    (tmp_path / "w.bin").write_bytes(b"12")
    with pytest.raises(InputError, match="The weight w cannot be read"):
        saturating_nodes(onnx.load(tmp_path / "m.onnx", load_external_data=False), tmp_path)


@pytest.mark.filterwarnings("ignore")  # the quantizer's own
def test_a_model_quantized_by_onnxruntime_saturates_unless_its_range_is_reduced(tmp_path):
    from onnxruntime.quantization import QuantType, quantize_dynamic

    values = np.full((1, 32, 4), 0.5, np.float32), np.full((1, 32, 8), 0.5, np.float32)
    weights = [numpy_helper.from_array(value, name) for name, value in zip("WR", values, strict=True)]
    model = graph(
        [helper.make_node("LSTM", ["x", "W", "R"], ["y"], name="rnn", hidden_size=8)], weights, TensorProto.FLOAT
    )
    onnx.save(model, tmp_path / "m.onnx")
    for reduced, found in ((False, {"rnn_quant": (64, 64)}), (True, {})):
        quantize_dynamic(tmp_path / "m.onnx", tmp_path / "q.onnx", weight_type=QuantType.QInt8, reduce_range=reduced)
        assert saturating_nodes(onnx.load(tmp_path / "q.onnx"), tmp_path) == found
