"""Each operator as C gives what onnxruntime gives."""

import numpy as np
import onnx
import pytest
from c_programs import NEEDS_CC, assert_equal, feeds_of, opened
from onnx import helper, parser

from lstm_deploy.contract.signature import CONTRACT_KEY, RecurrentSpec, Signature, TensorSpec
from lstm_deploy.errors import InputError
from lstm_deploy.exporters.c.writer import export_c
from lstm_deploy.runtimes.onnxrt import OnnxRuntime

pytestmark = NEEDS_CC

ELEMENTWISE = [
    *("Neg", "Abs", "Exp", "Sin", "Cos", "Erf", "Tanh", "Floor", "Ceil", "Round", "Sigmoid", "Relu", "Softplus"),
    *("Softsign", "HardSwish", "Elu", "Selu", "Celu", "LeakyRelu", "HardSigmoid", "Mish", "Identity", "Reciprocal"),
    *("Elu <alpha = 0.5>", "LeakyRelu <alpha = 0.3>", "HardSigmoid <alpha = 0.3, beta = 0.4>"),
]
REDUCED = ["ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceL1", "ReduceL2", "ReduceSumSquare"]
# What becomes of `x [batch, seq, 3]`; the last line makes `y [batch, seq, 3]`, or what stands before `|`.
GRAPHS = {
    **{name: f"y = {name} (x)" for name in ELEMENTWISE},
    **{
        f"{name} over {what}": f"a = Constant <value_ints = [{axis}]> ()\nr = {name} <keepdims = {keep}> (x, a)\n{tail}"
        for name in REDUCED
        for what, axis, keep, tail in (
            ("time", 1, 1, "y = Add (r, x)"),
            ("features", -1, 1, "y = Sub (x, r)"),
            ("time, dropped", 1, 0, "u = Constant <value_ints = [1]> ()\nv = Unsqueeze (r, u)\ny = Mul (v, x)"),
        )
    },
    "Sqrt": "a = Abs (x)\ny = Sqrt (a)",
    "Log": "a = Abs (x)\ny = Log (a)",
    "Pow": "a = Abs (x)\np = Constant <value_float = 1.7> ()\ny = Pow (a, p)",
    "Div": "c = Constant <value_floats = [2.0, -3.0, 0.5]> ()\ny = Div (x, c)",
    "Min, Max": "c = Constant <value_floats = [0.2, -0.3, 0.5]> ()\na = Min (x, c)\nb = Max (x, c)\ny = Sub (a, b)",
    "Clip": "l = Constant <value_float = -0.5> ()\nh = Constant <value_float = 0.7> ()\ny = Clip (x, l, h)",
    "Clip, one bound": "l = Constant <value_float = -0.5> ()\ny = Clip (x, l)",
    "PRelu": "c = Constant <value_floats = [0.1, 0.2, 0.3]> ()\ny = PRelu (x, c)",
    "Where and comparisons": (
        "z = Constant <value_float = 0.1> ()\na = Less (x, z)\nb = GreaterOrEqual (x, z)\nc = Not (a)\nd = And (b, c)\n"
        "e = Or (d, a)\nn = Neg (x)\nf = Where (a, n, x)\ng = Where (e, f, z)\nh = Equal (x, f)\ny = Where (h, g, z)"
    ),
    "Cast": (
        "i = Cast <to = 7> (x)\nf = Cast <to = 1> (i)\nb = Cast <to = 9> (f)\nc = Cast <to = 1> (b)\ny = Add (c, f)"
    ),
    "Softmax": "y = Softmax <axis = -1> (x)",
    "Softmax over time": "y = Softmax <axis = 1> (x)",
    "LogSoftmax over time": "y = LogSoftmax <axis = 1> (x)",
    "LayerNormalization": (
        "s = Constant <value_floats = [1.0, 2.0, 0.5]> ()\nb = Constant <value_floats = [0.1, 0.2, 0.3]> ()\n"
        "y = LayerNormalization <axis = -1, epsilon = 1e-3> (x, s, b)"
    ),
    "LayerNormalization over time, too": (
        "s = Constant <value_float = 2.0> ()\ny = LayerNormalization <axis = 1> (x, s)"
    ),
    "BatchNormalization": (
        "t = Transpose <perm = [0, 2, 1]> (x)\ns = Constant <value_floats = [1.0, 2.0, 0.5]> ()\n"
        "b = Constant <value_floats = [0.1, 0.2, 0.3]> ()\nm = Constant <value_floats = [0.3, 0.2, 0.1]> ()\n"
        "v = Constant <value_floats = [1.5, 0.2, 2.0]> ()\nn = BatchNormalization (t, s, b, m, v)\n"
        "y = Transpose <perm = [0, 2, 1]> (n)"
    ),
    "MatMul of weights": (
        "w = Constant <value = float[3, 3] {1.0, -2.0, 0.5, 0.1, 0.2, 0.3, -1.0, 0.7, 0.4}> ()\ny = MatMul (x, w)"
    ),
    "MatMul of two values": "t = Transpose <perm = [0, 2, 1]> (x)\ns = MatMul (x, t)\ny = MatMul (s, x)",
    "MatMul of one column": (
        "c = Constant <value_ints = [1]> ()\nz = Constant <value_ints = [0]> ()\na = Constant <value_ints = [2]> ()\n"
        "k = Slice (x, z, c, a)\nt = Transpose <perm = [0, 2, 1]> (k)\ns = MatMul (k, t)\ny = MatMul (s, x)"
    ),
    "Slice to the last": (
        "s = Constant <value_ints = [-1]> ()\ne = Constant <value_ints = [9223372036854775807]> ()\n"
        "a = Constant <value_ints = [1]> ()\nl = Slice (x, s, e, a)\ny = Add (x, l)"
    ),
    "Slice backwards": (
        "s = Constant <value_ints = [-1]> ()\ne = Constant <value_ints = [-9223372036854775807]> ()\n"
        "a = Constant <value_ints = [1]> ()\nr = Slice (x, s, e, a, s)\ny = Sub (x, r)"
    ),
    "Slice backwards over features": (
        "s = Constant <value_ints = [-1]> ()\ne = Constant <value_ints = [-9223372036854775807]> ()\n"
        "a = Constant <value_ints = [2]> ()\nr = Slice (x, s, e, a, s)\ny = Sub (x, r)"
    ),
    "Slice of every second": (
        "z = Constant <value_ints = [0]> ()\ne = Constant <value_ints = [3]> ()\na = Constant <value_ints = [2]> ()\n"
        "t = Constant <value_ints = [2]> ()\nr = Slice (x, z, e, a, t)\nm = Constant <value_ints = [2]> ()\n"
        "w = ReduceSum <keepdims = 1> (r, m)\ny = Add (x, w)"
    ),
    "Gather the last": "i = Constant <value_int = -1> ()\nl = Gather <axis = 1> (x, i)\n"
    "a = Constant <value_ints = [1]> ()\nu = Unsqueeze (l, a)\ny = Add (x, u)",
    "Gather several": "i = Constant <value_ints = [2, 0, -2]> ()\ny = Gather <axis = 2> (x, i)",
    "GatherElements": (
        "z = Constant <value_float = 0.0> ()\nb = Less (x, z)\ni = Cast <to = 7> (b)\n"
        "y = GatherElements <axis = 2> (x, i)"
    ),
    "Split and Concat": "a, b, c = Split <axis = 2, num_outputs = 3> (x)\ny = Concat <axis = 2> (c, a, b)",
    "Concat over time": (
        "d = Concat <axis = 1> (x, x)\ns = Constant <value_ints = [1]> ()\nr = ReduceMean <keepdims = 1> (d, s)\n"
        "y = Mul (x, r)"
    ),
    "Pad": (
        "p = Constant <value_ints = [0, 1, 0, 0, 0, 0]> ()\nv = Constant <value_float = 7.0> ()\nd = Pad (x, p, v)\n"
        "z = Constant <value_ints = [0]> ()\ne = Constant <value_ints = [-1]> ()\na = Constant <value_ints = [1]> ()\n"
        "y = Slice (d, z, e, a)"
    ),
    "Expand": ("s = Shape (x)\nc = Constant <value_floats = [1.0, 2.0, 3.0]> ()\nb = Expand (c, s)\ny = Mul (x, b)"),
    "Range and ConstantOfShape": (
        "n = Shape <start = 1, end = 2> (x)\na = Constant <value_ints = [0]> ()\nl = Squeeze (n, a)\n"
        "z = Constant <value_int = 0> ()\no = Constant <value_int = 1> ()\nr = Range (z, l, o)\nf = Cast <to = 1> (r)\n"
        "u = Constant <value_ints = [1]> ()\nv = Unsqueeze (f, u)\nk = ConstantOfShape (n)\nw = Unsqueeze (k, u)\n"
        "p = Mul (x, v)\nq = Add (p, w)\nm = Cast <to = 1> (l)\ny = Div (q, m)"
    ),
    "Reshape and Flatten": (
        "s = Constant <value_ints = [0, -1]> ()\nf = Reshape (x, s)\ng = Flatten <axis = 1> (f)\nh = Shape (x)\n"
        "y = Reshape (g, h)"
    ),
    "Reshape of what lies otherwise": (
        "t = Transpose <perm = [2, 1, 0]> (x)\ns = Constant <value_ints = [-1]> ()\nf = Reshape (t, s)\n"
        "q = Sin (f)\nh = Shape (t)\ng = Reshape (q, h)\ny = Transpose <perm = [2, 1, 0]> (g)"
    ),
    "ArgMax": "i = ArgMax <axis = 2, keepdims = 1> (x)\nf = Cast <to = 1> (i)\ny = Add (x, f)",
    "ArgMin, dropped": (
        "i = ArgMin <axis = 2, keepdims = 0> (x)\nf = Cast <to = 1> (i)\na = Constant <value_ints = [2]> ()\n"
        "u = Unsqueeze (f, a)\ny = Add (x, u)"
    ),
    "OneHot": (
        "i = ArgMax <axis = 2, keepdims = 0> (x)\nd = Constant <value_int = 3> ()\n"
        "v = Constant <value_floats = [0.25, 2.0]> ()\ny = OneHot <axis = -1> (i, d, v)"
    ),
    "negative numbers after a minus": (
        "c = Constant <value_float = -1.5> ()\na = Neg (c)\nb = Sigmoid (c)\nd = Sub (x, c)\n"
        "e = Mul (d, a)\ny = Add (e, b)"
    ),
    "whole numbers": (
        "s = Constant <value_float = 10.0> ()\nv = Mul (x, s)\ni = Cast <to = 7> (v)\n"
        "a = Constant <value_ints = [2]> ()\nm = ReduceMax <keepdims = 1> (i, a)\nn = ReduceMin <keepdims = 1> (i, a)\n"
        "l = Constant <value_int = -3> ()\nh = Constant <value_int = 4> ()\nc = Clip (i, l, h)\nd = Max (c, n)\n"
        "e = Min (d, m)\nf = Add (e, i)\ny = Cast <to = 1> (f)"
    ),
    "IsNaN": "b = IsNaN (x)\nf = Cast <to = 1> (b)\ny = Add (x, f)",
}
REFUSED = {
    "CumSum": "a = Constant <value_int = 1> ()\ny = CumSum (x, a)",
    "TopK": "k = Constant <value_ints = [3]> ()\ny, i = TopK <axis = -1> (x, k)",
    "Slice": "s = Shape <start = 1, end = 2> (x)\ni = Cast <to = 7> (x)\nm = Constant <value_ints = [2]> ()\n"
    "f = ReduceMin <keepdims = 0> (i)\nz = Constant <value_ints = [0]> ()\ng = Mul (f, z)\n"
    "a = Constant <value_ints = [1]> ()\ny = Slice (x, g, s, a)",
    "Pad": "p = Constant <value_ints = [0, 0, 1, 0, 0, -1]> ()\nv = Constant <value_float = 7.0> ()\ny = Pad (x, p, v)",
}


def contract(streaming):
    spec = TensorSpec(name="x", dtype="float32", shape=("batch", "seq", 3))
    state = RecurrentSpec(
        module="lstm", prefix="", input_size=3, hidden_size=2, proj_size=0, num_layers=1, num_directions=1
    )
    y = TensorSpec(name="y", dtype="float32", shape=("batch", "seq", 3))
    return Signature(inputs=(spec,), outputs=(y,), recurrent=(state,), streaming=streaming, streaming_reason="-")


def write(body, path, streaming="none"):
    """A graph whose state is handed through."""
    model = parser.parse_model(
        '<ir_version: 9, opset_import: ["": 18]>\n'
        "net (float[batch, seq, 3] x, float[1, batch, 2] h_in, float[1, batch, 2] c_in)\n"
        "=> (float[batch, seq, 3] y, float[1, batch, 2] h_out, float[1, batch, 2] c_out)\n{\n"
        f"{body}\nh_out = Identity (h_in)\nc_out = Identity (c_in)\n}}"
    )
    helper.set_model_props(model, {CONTRACT_KEY: contract(streaming).to_json()})
    onnx.save(model, path)


@pytest.fixture
def strict(monkeypatch):
    """Whatever a compiler warns of is an error."""
    monkeypatch.setenv("CC", "cc -Wall -Wextra -Werror")


@pytest.mark.parametrize("name", GRAPHS)
def test_an_operator_gives_what_onnxruntime_gives(name, strict, tmp_path):
    write(GRAPHS[name], tmp_path / "net.onnx")
    export_c(tmp_path / "net.onnx", tmp_path / "net.c", "net")
    onnx_runtime, runtime = OnnxRuntime(tmp_path / "net.onnx"), opened(tmp_path / "net.c")
    for batch, seq in ((1, 1), (2, 5)):
        feeds = feeds_of(runtime.signature, batch, seq)
        got, wanted = runtime.run(feeds), onnx_runtime.run(feeds)
        assert_equal(got, wanted, 2e-6)
        if "Cast" not in GRAPHS[name] and "Arg" not in name and "GatherEl" not in name:  # NaN is no whole number
            feeds["x"] = feeds["x"].copy()
            feeds["x"][-1, 0, 1] = np.nan
            finite = np.isfinite(runtime.run(feeds)["y"])
            if not ({"Sigmoid", "Tanh", "Erf", "Softplus"} & set(name.split())):  # onnxruntime's own lose it
                np.testing.assert_array_equal(finite[:-1], np.isfinite(onnx_runtime.run(feeds)["y"])[:-1])


@pytest.mark.parametrize("name", REFUSED)
def test_what_has_no_counterpart_is_refused_by_name(name, tmp_path):
    write(REFUSED[name], tmp_path / "net.onnx")
    with pytest.raises(InputError, match=f"{name}.*leave out --format c"):
        export_c(tmp_path / "net.onnx", tmp_path / "net.c", "net")
    assert not (tmp_path / "net.c").exists()
