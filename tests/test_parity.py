"""The proof must catch wrong graphs: each sabotage here is one that has shipped somewhere."""

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

from lstm_deploy import sources
from lstm_deploy.errors import ProviderError
from lstm_deploy.exporters.onnx import export_onnx
from lstm_deploy.lifting import lift
from lstm_deploy.parity import Compared, Judge, prove, record, replay
from lstm_deploy.runtimes import open_runtime
from lstm_deploy.signature import TensorSpec


@pytest.fixture(scope="module")
def correct(forecaster, tmp_path_factory):
    """A right graph and its reference."""
    path = tmp_path_factory.mktemp("parity") / "model.onnx"
    lifted = sources.load(sources.Origin(path=forecaster)).lifted
    export_onnx(lifted, path)
    return path, sources.reference(lifted)


def judged(path, reference):
    judge = Judge(path.name, "float32", open_runtime(path))
    prove(judge, reference)
    return judge.checks


def swap_gates(model):
    for tensor in model.graph.initializer:
        if tensor.name.endswith("R_l0"):
            value = numpy_helper.to_array(tensor).copy()
            hidden = value.shape[2]
            value[:, :hidden], value[:, hidden : 2 * hidden] = (
                value[:, hidden : 2 * hidden].copy(),
                value[:, :hidden].copy(),
            )
            tensor.CopyFrom(numpy_helper.from_array(value, tensor.name))


def nudge(suffix, index, amount):
    def change(model):
        for tensor in model.graph.initializer:
            if tensor.name.endswith(suffix):
                value = numpy_helper.to_array(tensor).copy()
                value.flat[index] += amount
                tensor.CopyFrom(numpy_helper.from_array(value, tensor.name))

    return change


def lstms(model):
    return [node for node in model.graph.node if node.op_type == "LSTM"]


def swap_h_and_c_in(model):
    for node in lstms(model):
        node.input[5], node.input[6] = node.input[6], node.input[5]


def swap_h_and_c_out(model):
    names = [value.name for value in model.graph.output]
    h, c = names.index("h_out"), names.index("c_out")
    for node in model.graph.node:
        for position, name in enumerate(node.output):
            node.output[position] = {names[h]: names[c], names[c]: names[h]}.get(name, name)


def ignore_state(model):
    for node in lstms(model):
        node.input[5] = node.input[6] = ""


def forget_state_of_one_layer(model):
    lstms(model)[1].input[6] = ""


def return_given_state(model):
    """The state that came in goes out again: chunks would repeat themselves."""
    for node in model.graph.node:
        for position, name in enumerate(node.output):
            if name == "c_out":
                node.output[position] = "unused"
    model.graph.node.append(onnx.helper.make_node("Identity", ["c_in"], ["c_out"]))


def leave_out_scaling(model):
    first = next(node for node in model.graph.node if node.op_type == "Sub")
    for node in model.graph.node:
        for position, name in enumerate(node.input):
            if name == first.output[0]:
                node.input[position] = "x"


SABOTAGE = {
    "gates in another order": (swap_gates, {"y", "h_out", "c_out"}),
    "a weight off by 0.001": (nudge("W_l1", 3, 1e-3), {"h_out", "c_out"}),
    "a forget bias off by 0.01": (nudge("B_l0", 2 * 8, 1e-2), {"h_out", "c_out"}),
    "h and c swapped on the way in": (swap_h_and_c_in, {"h_out", "c_out"}),
    "h and c swapped on the way out": (swap_h_and_c_out, {"h_out", "c_out"}),
    "state ignored": (ignore_state, {"h_out", "c_out"}),
    "state of one layer ignored": (forget_state_of_one_layer, {"h_out", "c_out"}),
    "old state returned": (return_given_state, {"c_out"}),
    "scaling left out": (leave_out_scaling, {"y", "h_out", "c_out"}),
}


def test_a_right_graph_passes(correct):
    checks = judged(*correct)
    assert [(check.name, check.output) for check in checks] == [
        (name, output) for name in ("shapes", "chunked", "steps") for output in ("y", "h_out", "c_out")
    ]
    assert all(check.passed for check in checks)
    assert all(0 < check.max_abs < check.tolerance for check in checks)


@pytest.mark.parametrize("name", SABOTAGE)
def test_a_wrong_graph_fails_in_the_outputs_it_gets_wrong(correct, tmp_path, name):
    path, reference = correct
    change, outputs = SABOTAGE[name]
    model = onnx.load(path)
    change(model)
    onnx.save(model, tmp_path / "wrong.onnx")
    failed = {check.output for check in judged(tmp_path / "wrong.onnx", reference) if not check.passed}
    assert outputs <= failed


def test_the_worst_index_is_told(correct):
    path, _ = correct
    judge = Judge(path.name, "float32", open_runtime(path))
    wanted = {"y": np.zeros((2, 3))}
    got = {"y": np.zeros((2, 3), np.float32)}
    got["y"][1, 2] = 0.5
    judge.compare(
        "here", [Compared("first", {"y": np.zeros((2, 3), np.float32)}, wanted), Compared("second", got, wanted)]
    )
    (check,) = judge.checks
    assert (check.passed, check.max_abs, check.detail) == (False, 0.5, "worst at [1, 2], second")


@pytest.mark.parametrize(
    ("got", "detail"),
    [
        ({}, "missing"),
        ({"y": np.zeros((3, 2), np.float32)}, "shape"),
        ({"y": np.full((2, 3), np.nan, np.float32)}, "not a number"),
        ({"y": np.zeros((2, 3))}, "float64, not float32"),
    ],
)
def test_missing_misshapen_and_nan_outputs_fail(correct, got, detail):
    judge = Judge("m", "float32", open_runtime(correct[0]))
    judge.compare("here", [Compared("there", got, {"y": np.zeros((2, 3))})])
    assert not judge.checks[0].passed
    assert detail in judge.checks[0].detail


def test_a_runtime_that_raises_is_a_failed_check(correct):
    class Broken:
        provider = "cpu"
        signature = correct[1].signature

        def run(self, feeds):
            raise RuntimeError("boom")

    judge = Judge("m", "float32", Broken())
    prove(judge, correct[1])
    assert len(judge.checks) == 3
    assert all(not check.passed and "boom" in check.detail for check in judge.checks)


def test_the_tolerance_follows_the_size_of_the_reference(correct):
    judge = Judge("m", "float32", open_runtime(correct[0]))
    judge.compare("large", [Compared("", {"y": np.array([1000.0], np.float32)}, {"y": np.array([1000.0])})])
    judge.compare("small", [Compared("", {"y": np.array([1e-3], np.float32)}, {"y": np.array([1e-3])})])
    assert [check.tolerance for check in judge.checks] == [pytest.approx(1e-2), pytest.approx(1e-5)]


def test_a_right_graph_of_a_chaotic_network_passes(tmp_path):
    """Weights so large that PyTorch's own float32 loses every digit within a hundred steps."""
    torch.manual_seed(0)
    module = torch.nn.LSTM(4, 64)
    with torch.no_grad():
        for weight in module.parameters():
            weight.mul_(8)
    lifted = lift(module, [TensorSpec.parse("x:float32[seq,batch,4]")])
    export_onnx(lifted, tmp_path / "m.onnx")
    reference = sources.reference(lifted)
    assert all(check.passed for check in judged(tmp_path / "m.onnx", reference))
    model = onnx.load(tmp_path / "m.onnx")
    swap_h_and_c_in(model)
    onnx.save(model, tmp_path / "wrong.onnx")
    assert not all(check.passed for check in judged(tmp_path / "wrong.onnx", reference))


def test_a_golden_trace_is_a_chain_of_calls(correct):
    trace = record(correct[1])
    names = {"x", "y", "h_out", "c_out"}
    assert set(trace) == {f"{call}.{name}" for call in range(4) for name in names} | {"0.h_in", "0.c_in"}
    assert trace["2.c_out"].dtype == np.float64
    state = {name: trace[f"1.{name.replace('_in', '_out')}"] for name in ("h_in", "c_in")}
    again = correct[1].run({"x": trace["2.x"], **state})
    np.testing.assert_array_equal(again["h_out"], trace["2.h_out"])


def test_a_replay_catches_what_differs(correct, tmp_path):
    path, reference = correct
    trace = record(reference)
    model = onnx.load(path)
    swap_h_and_c_in(model)
    onnx.save(model, tmp_path / "wrong.onnx")
    for file, passes in ((path, True), (tmp_path / "wrong.onnx", False)):
        judge = Judge(file.name, "float32", open_runtime(file))
        replay(judge, trace)
        assert all(check.passed for check in judge.checks) is passes
        assert len(judge.checks) == 3


def test_no_provider_is_replaced_by_another_without_a_word(correct):
    try:
        runtime = open_runtime(correct[0], "cuda")
    except ProviderError:
        return
    assert "CUDAExecutionProvider" in runtime.session.get_providers()
