import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx_texts import parse_model

from lstm_deploy.artifacts import onnx_graph
from lstm_deploy.errors import InputError


def adding(dtype, place):
    """A model that adds a constant of a type, which lies in one of the places of a file that hold one."""
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    tensor = numpy_helper.from_array(np.ones(3, dtype), "w")
    x, y = (helper.make_tensor_value_info(name, kind, [3]) for name in "xy")
    constant = helper.make_node("Constant", [], ["w"], value=tensor)
    add = helper.make_node("Add", ["x", "w"], ["y"])
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("own", 1)]
    if place == "initializer":
        graph = helper.make_graph([add], "g", [x], [y], [tensor])
    elif place == "node":
        graph = helper.make_graph([constant, add], "g", [x], [y])
    elif place == "branch":
        body = helper.make_graph([add], "b", [], [y], [tensor])
        flag = helper.make_tensor_value_info("flag", TensorProto.BOOL, [])
        graph = helper.make_graph([helper.make_node("If", ["flag"], ["y"], then_branch=body, else_branch=body)],
                                  "g", [x, flag], [y])  # fmt: skip
    else:
        graph = helper.make_graph([helper.make_node("net", ["x"], ["y"], domain="own")], "g", [x], [y])
        function = helper.make_function("own", "net", ["x"], ["y"], [constant, add], opsets[:1])
        return helper.make_model(graph, functions=[function], opset_imports=opsets)
    return helper.make_model(graph, opset_imports=opsets)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("place", ["initializer", "node", "branch", "function"])
def test_the_precision_is_that_of_the_weights_wherever_they_lie(dtype, place):
    assert onnx_graph.precision(adding(dtype, place)) == dtype


@pytest.mark.parametrize(
    ("body", "precision"),
    [
        ("q = QuantizeLinear(x, s, z) d = DequantizeLinear(q, s, z) y = Relu(d)", "int8"),
        ("q = QuantizeLinear(x, s, z) r = QLinearMatMul(q, s, z, q, s, z, s, z) y = DequantizeLinear(r, s, z)", "int8"),
        ("q, t, u = DynamicQuantizeLinear(x) r = MatMulInteger(q, q, u, u) y = Cast<to = 1>(r)", "int8"),
        ("w = DequantizeLinear(z, s, z) y = Mul(x, w)", "float32"),
        ("y = Relu(x)", "float32"),
    ],
)
def test_a_graph_that_rounds_what_it_computes_is_int8(body, precision):
    model = parse_model(f"""<ir_version: 9, opset_import: ["": 18]> g (float[3, 3] x) => (y)
        <float s = {{0.1}}, uint8 z = {{0}}> {{ {body} }}""")
    assert onnx_graph.precision(model) == precision


def test_weights_beside_a_file_that_are_missing_are_named(tmp_path):
    model = adding("float32", "initializer")
    onnx.save(model, tmp_path / "m.onnx", save_as_external_data=True, location="m.data", size_threshold=0)
    assert not onnx_graph.files_beside(onnx_graph.load(tmp_path / "m.onnx"))  # so small that they are read
    (tmp_path / "m.data").unlink()
    with pytest.raises(InputError, match=r"has weights in m\.data, which is not beside it"):
        onnx_graph.load(tmp_path / "m.onnx")


@pytest.mark.parametrize(("limit", "files"), [(4000, {"m.onnx"}), (3000, {"m.onnx", "m.onnx.data"})])
def test_weights_that_are_too_many_for_a_file_are_saved_beside_it(tmp_path, monkeypatch, limit, files):
    monkeypatch.setattr(onnx_graph, "EXTERNAL_ABOVE", limit)
    weights = np.arange(900, dtype=np.float32)
    model = adding("float32", "initializer")
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(weights, "w"))
    onnx_graph.save(model, tmp_path / "m.onnx", tmp_path / "m.onnx.data")
    assert {path.name for path in tmp_path.iterdir()} == files
    assert np.array_equal(numpy_helper.to_array(onnx.load(tmp_path / "m.onnx").graph.initializer[0]), weights)
