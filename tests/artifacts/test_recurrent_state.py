import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx_texts import parse_model

from lstm_deploy.artifacts.lint import lint, states
from lstm_deploy.artifacts.onnx_graph import load

HEAD = """<ir_version: 9, opset_import: ["": 18]>
    g (float[seq, batch, 3] x, float[1, batch, 2] h0, float[1, batch, 2] c0, float[2, 1, batch, 2] state)
    => (y, hn, cn)
    <float[1, 8, 3] W, float[1, 8, 2] R, float[2, 2] M, float[1, 1, 2] zeros = {0, 0}, float[1, 1, 2] ones = {1, 1},
     int64[1] first = {0}, int64[1] second = {1}, int64 at0 = {0}, int64 at1 = {1}>
    {"""
LSTM = "LSTM<hidden_size = 2>"


def state_of(body, outputs="y, hn, cn"):
    return states(parse_model(HEAD.replace("y, hn, cn", outputs) + body + "}"))


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (
            f"y, hn, cn = {LSTM}(x, W, R, , , h0, c0)",
            "carried: h starts from the input h0 and leaves in the output hn; "
            "c starts from the input c0 and leaves in the output cn.",
        ),
        (
            f"h = Gather<axis = 0>(state, at0) c = Gather<axis = 0>(state, at1) y, hn, cn = {LSTM}(x, W, R, , , h, c)",
            "carried: h starts from the input state and leaves in the output hn; "
            "c starts from the input state and leaves in the output cn.",
        ),
        (
            f"y, hn, cn = {LSTM}(x, W, R)",
            "zero at each call: h starts from zeros on every call and leaves in the output hn; "
            "c starts from zeros on every call and leaves in the output cn.",
        ),
        (
            f"y, a, b = {LSTM}(x, W, R, , , h0, c0) hn = Identity(y) cn = Identity(y)",
            "carried and not returned: h starts",
        ),
        (
            f"y, hn, b = {LSTM}(x, W, R, , , h0, zeros) cn = Identity(y)",
            "carried and hidden: h starts from the input h0",
        ),
        (
            f"y, a, b = {LSTM}(x, W, R, , , ones, ones) hn = Relu(a) cn = Relu(b)",
            "frozen: h starts from the same constant",
        ),
        (
            f"h = RandomNormalLike(h0) c = RandomNormalLike(h0) y, hn, cn = {LSTM}(x, W, R, , , h, c)",
            "random: h starts from random numbers",
        ),
        (
            f"h = MatMul(h0, M) y, hn, cn = {LSTM}(x, W, R, , , h, c0)",
            "carried: h starts from what is computed from the input h0",
        ),
        (
            f"y, a, b = {LSTM}(x, W, R, , , h0, c0) hn = Relu(a) cn = Relu(b)",
            "carried and not returned as it is: h starts from the input h0 and leaves in the output y; "
            "c starts from the input c0 and leaves only within what is computed for the output cn.",
        ),
    ],
)
def test_a_state_is_carried_hidden_zero_frozen_or_random(body, said):
    (sentence,) = state_of(body)
    assert sentence.startswith(f"The state of LSTM number 1 is {said}")


@pytest.mark.parametrize(
    "zeros",
    [
        "s = Shape<start = 1, end = 2>(x) n = Concat<axis = 0>(one, s, two) z = ConstantOfShape(n)",
        "s = Shape<start = 1, end = 2>(x) n = Concat<axis = 0>(one, s, two) z = Expand(zeros, n)",
        "z = Cast<to = 1>(whole)",
        "o = Identity(zeros) z = Concat<axis = 1>(o, zeros)",
    ],
)
def test_zeros_are_seen_however_they_are_made(zeros):
    head = HEAD.replace("int64 at0", "int64[1] one = {1}, int64[1] two = {2}, int64[1, 1, 2] whole = {0, 0}, int64 at0")
    body = f"{zeros} y, a, b = {LSTM}(x, W, R, , , z, z) hn = Identity(y) cn = Identity(y)"
    (sentence,) = states(parse_model(head + body + "}"))
    assert "c start" in sentence or "c starts from zeros on every call and no output returns it" in sentence
    assert "h starts from zeros on every call" in sentence or "h and c start from zeros on every call" in sentence


def test_layers_and_cells_that_follow_each_other_are_carried_together():
    """The first hands its state to the second: an encoder and its decoder, or one cell at two steps."""
    sentences = state_of(f"a, h, c = {LSTM}(x, W, R, , , h0, c0) y, hn, cn = {LSTM}(x, W, R, , , h, c)")
    assert "h starts from the input h0 and goes on to another recurrent node" in sentences[0]
    assert "h starts from what another recurrent node gives and leaves in the output hn" in sentences[1]
    assert all("is carried: " in sentence for sentence in sentences)


def test_nodes_that_are_alike_share_a_sentence():
    body = "".join(f"y{i}, a{i}, b{i} = {LSTM}(x, W, R) " for i in range(6))
    (sentence,) = state_of(body + "y = Sum(y0, y1, y2, y3, y4, y5) hn = Relu(y) cn = Relu(y)")
    assert "The state of LSTM number 1, LSTM number 2, LSTM number 3 and 3 more is hidden: h and c start" in sentence


def test_a_gru_returns_its_state_with_its_steps():
    gru = "y, a = GRU<hidden_size = 2>(x, W, R, , , h0) hn = Relu(y) cn = Relu(y)"
    (sentence,) = state_of(gru)
    assert sentence.endswith("is carried: h starts from the input h0 and leaves in the output y.")


def branched(start_of_else):
    """A model that takes its state where a flag says so, in the way of files for voice activity detection."""

    def branch(start):
        ends = [f"h_{start}", f"c_{start}"]
        node = helper.make_node("LSTM", ["x", "W", "R", "", "", start, start], ["", *ends], hidden_size=2)
        infos = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ends]
        return helper.make_graph([node], start, [], infos)

    choice = helper.make_node("If", ["flag"], ["hn", "cn"], then_branch=branch("h0"), else_branch=branch(start_of_else))
    inputs = [
        helper.make_tensor_value_info("x", TensorProto.FLOAT, ["seq", "batch", 3]),
        helper.make_tensor_value_info("h0", TensorProto.FLOAT, [1, "batch", 2]),
        helper.make_tensor_value_info("flag", TensorProto.BOOL, []),
    ]
    outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("hn", "cn")]
    shapes = {"W": (1, 8, 3), "R": (1, 8, 2), "zeros": (1, 1, 2)}
    weights = [numpy_helper.from_array(np.zeros(shape, np.float32), name) for name, shape in shapes.items()]
    return helper.make_model(helper.make_graph([choice], "g", inputs, outputs, weights))


def test_branches_are_followed():
    taken, zero = sorted(states(branched("zeros")), key=lambda text: "the input h0" not in text)
    assert "(in a branch of an If) is carried: " in taken
    assert "h starts from the input h0 and leaves in the output hn" in taken
    assert "h starts from zeros on every call and leaves in the output hn" in zero


def test_a_branch_for_callers_without_a_state_is_no_defect():
    assert not [text for text in lint(branched("zeros")) if "The state" in text]


def test_a_loop_hands_its_state_on():
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["go"], ["go_on"]),
            helper.make_node("LSTM", ["x", "W", "R", "", "", "h", "c"], ["y", "h2", "c2"], hidden_size=2),
        ],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            *(helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in "hc"),
        ],
        [
            helper.make_tensor_value_info("go_on", TensorProto.BOOL, []),
            *(helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("h2", "c2")),
        ],
    )
    inputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("x", "h0", "c0")]
    outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("hn", "cn")]
    weights = [
        numpy_helper.from_array(np.zeros(shape, np.float32), n) for n, shape in (("W", (1, 8, 3)), ("R", (1, 8, 2)))
    ]
    loop = helper.make_node("Loop", ["", "", "h0", "c0"], ["hn", "cn"], body=body)
    (sentence,) = states(helper.make_model(helper.make_graph([loop], "g", inputs, outputs, weights)))
    assert "is carried: h starts from the input h0 and what another recurrent node gives" in sentence


def test_functions_of_the_file_are_followed():
    model = parse_model("""<ir_version: 9, opset_import: ["": 18, "local": 1]>
        g (float[seq, batch, 3] x, float[1, batch, 2] h0, float[1, batch, 2] c0) => (y, hn, cn)
        <float[1, 8, 3] W, float[1, 8, 2] R> { y, hn, cn = local.net(x, W, R, h0, c0) }
        <domain: "local", opset_import: ["": 18]>
        net (x, w, r, h, c) => (y, h2, c2) { y, h2, c2 = LSTM<hidden_size = 2>(x, w, r, , , h, c) }""")
    (sentence,) = states(model)
    assert "h starts from the input h0 and leaves in the output hn" in sentence
    assert lint(model) == []


@pytest.mark.parametrize(
    "way", ["hn = Add(a, none)", "hn = Add(none, a)", "hn = Sub(a, none)", "n = Mul(h0, zeros) hn = Add(a, n)"]
)
def test_a_state_to_which_zeros_are_added_is_returned_as_it_is(way):
    """As files do that make an input count as used: `state + 0 * rate`."""
    body = f"none = Identity(zeros) y, a, cn = {LSTM}(x, W, R, , , h0, c0) {way}"
    (sentence,) = state_of(body)
    assert "is carried: h starts from the input h0 and leaves in the output hn;" in sentence


def test_a_state_from_which_something_is_subtracted_is_not_returned_as_it_is():
    (sentence,) = state_of(f"y, a, cn = {LSTM}(x, W, R, , , h0, c0) hn = Sub(zeros, a)", "hn, cn")
    assert "h starts from the input h0 and leaves only within what is computed for the output hn" in sentence


def test_zeros_beside_the_file_are_zeros(tmp_path):
    """PyTorch's exporter writes the zeros of a fixed batch among the weights."""
    head = HEAD.replace("(y, hn, cn)", "(float[steps, 1, rows, 2] y, float[1, rows, 2] hn, float[1, rows, 2] cn)")
    model = parse_model(f"{head} y, hn, cn = {LSTM}(x, W, R, , , zeros, zeros) }}")
    onnx.save(model, tmp_path / "m.onnx", save_as_external_data=True, location="m.data", size_threshold=0)
    (sentence,) = states(load(tmp_path / "m.onnx"))
    assert sentence.startswith("The state of LSTM number 1 is zero at each call: h starts from zeros on every call")
