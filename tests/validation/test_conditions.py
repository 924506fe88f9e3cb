"""What a graph of another program does at some sizes or values only is read from its nodes."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from lstm_deploy.validation.conditions import conditions, numbers_of


def graph(*nodes, opset=18, **constants):
    """A model of `x` and `h`, whose nodes may read constants by name."""
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["a", "b"]) for name in ("x", "h", "y")]
    tensors = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    made = helper.make_graph(list(nodes), "g", ports[:2], ports[2:], tensors)
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", opset)])


node = helper.make_node


@pytest.mark.parametrize(
    ("model", "described", "numbers"),
    [
        (graph(node("Clip", ["h", "lo", "hi"], ["y"], "clip"), lo=np.float32(-1), hi=np.float32(2)),
         ["Clip (clip) at -1, 2 of h"], [-1, 2]),
        (graph(node("Clip", ["x"], ["y"], "old", min=-3.0, max=4.0), opset=6), ["Clip (old) at -3, 4 of x"], [-3, 4]),
        (graph(node("Shape", ["x"], ["s"]), node("Gather", ["s", "zero"], ["n"]), node("Equal", ["n", "k"], ["e"]),
               node("Where", ["e", "x", "h"], ["y"]), zero=0, k=np.int64(4)),
         ["Equal at 4 of sizes", "Where of h, sizes, x"], [4]),
        (graph(node("Constant", [], ["k"], value_float=0.5), node("Cast", ["k"], ["k2"], to=TensorProto.FLOAT),
               node("Neg", ["k2"], ["k3"]), node("Greater", ["x", "k3"], ["g"], "greater"),
               node("Where", ["g", "x", "h"], ["y"], "where")),
         ["Greater (greater) at -0.5 of x", "Where (where) of h, x"], [-0.5]),
        (graph(node("IsNaN", ["x"], ["n"], "nan"), node("Where", ["n", "h", "x"], ["y"], "w")),
         ["IsNaN (nan) of x", "Where (w) of h, x"], []),
        (graph(node("Max", ["x", "least"], ["y"], "max"), least=np.float32(-3e38)), ["Max (max) at -3e+38 of x"], []),
        (graph(node("Add", ["x", "h"], ["y"], "add")), [], []),
        (graph(node("Sub", ["x", "k"], ["s"]), node("Relu", ["s"], ["y"], "relu"), k=np.float32(5000)),
         ["Relu (relu) at 5000 of x"], [5000]),
        (graph(node("Add", ["x", "k"], ["s"]), node("Abs", ["s"], ["y"], "abs"), k=np.float32(3)),
         ["Abs (abs) at -3 of x"], [-3]),
        (graph(node("Relu", ["x"], ["y"], "relu")), [], []),
        (graph(node("Shape", ["x"], ["s"]), node("Gather", ["s", "zero"], ["n"]), node("Div", ["n", "k"], ["d"], "div"),
               node("Cast", ["d"], ["f"], to=TensorProto.FLOAT), node("Add", ["x", "f"], ["y"]),
               zero=0, k=np.int64(300)),
         ["Div (div) at 300 of sizes"], [300]),
        (graph(node("Div", ["x", "k"], ["y"], "div"), k=np.float32(8)), [], []),
    ],
)  # fmt: skip
def test_nodes_that_compare_choose_or_clip_are_found_with_their_numbers(model, described, numbers):
    found = conditions(model)
    assert list(map(str, found)) == described
    assert numbers_of(found) == numbers


def test_nodes_inside_branches_are_found():
    value = helper.make_tensor_value_info("z", TensorProto.FLOAT, None)
    inner = helper.make_graph(
        [node("Clip", ["x", "lo"], ["z"], "inner")], "then", [], [value], [numpy_helper.from_array(np.float32(7), "lo")]
    )
    other = helper.make_graph(
        [node("Identity", ["h"], ["z2"])], "else", [], [helper.make_tensor_value_info("z2", 1, None)]
    )
    model = graph(node("If", ["on"], ["y"], "if", then_branch=inner, else_branch=other), on=np.array(True))
    assert numbers_of(conditions(model)) == [7]
    assert {condition.operator for condition in conditions(model)} == {"If", "Clip"}


def test_a_large_constant_is_a_weight_and_no_number():
    model = graph(node("Max", ["x", "w"], ["y"], "max"), w=np.arange(100, dtype=np.float32))
    assert numbers_of(conditions(model)) == []
    assert isinstance(model, onnx.ModelProto)


def test_a_function_with_the_domain_of_int8_layers_is_looked_into():
    model = graph(helper.make_node("Layer", ["x"], ["y"], domain="lstm_deploy.GRU.forward"))
    body = [node("Constant", [], ["k"], value_float=5.0), node("Greater", ["a", "k"], ["g"], "greater"),
            node("Where", ["g", "a", "k"], ["b"], "where")]  # fmt: skip
    opset = [helper.make_opsetid("", 18)]
    model.functions.append(helper.make_function("lstm_deploy.GRU.forward", "Layer", ["a"], ["b"], body, opset))
    model.opset_import.append(helper.make_opsetid("lstm_deploy.GRU.forward", 1))
    assert conditions(model)[0].numbers == (5.0,)
