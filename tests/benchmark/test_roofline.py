import numpy as np
import onnx
import pytest
from documents import PEAKS
from hypothesis import given, strategies as st
from onnx import TensorProto, helper, numpy_helper

from lstm_deploy.benchmark.roofline import BYTES, Weights, Work, bandwidth, in_precision, limit_of, work_of
from lstm_deploy.contract.signature import CONTRACT_KEY, RecurrentSpec, Signature, TensorSpec


def graph(inputs, hidden, outputs, dtype=np.float32, kind="LSTM", every_step=True):
    """One LSTM layer and a linear layer, as exporters write them."""
    arrays = {
        "w": np.zeros((1, 4 * hidden, inputs), dtype),
        "r": np.zeros((1, 4 * hidden, hidden), dtype),
        "b": np.zeros((1, 8 * hidden), np.float32),
        "fc": np.zeros((hidden, outputs), np.float32),
    }
    nodes = [helper.make_node(kind, ["x", "w", "r", "b"], ["h"]), helper.make_node("MatMul", ["h", "fc"], ["y"])]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", "seq", inputs])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", "seq", outputs])
    initializers = [numpy_helper.from_array(array, name) for name, array in arrays.items()]
    model = helper.make_model(helper.make_graph(nodes, "g", [x], [y], initializers))
    contract = Signature(
        inputs=(TensorSpec(name="x", dtype="float32", shape=("batch", "seq", inputs)),),
        outputs=(
            TensorSpec(
                name="y", dtype="float32", shape=("batch", "seq", outputs) if every_step else ("batch", outputs)
            ),
        ),
        recurrent=(
            RecurrentSpec(
                module="lstm",
                prefix="",
                input_size=inputs,
                hidden_size=hidden,
                proj_size=0,
                num_layers=1,
                num_directions=1,
            ),
        ),
        streaming="exact",
    )
    helper.set_model_props(model, {CONTRACT_KEY: contract.to_json()})
    return model


@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 40))
def test_every_weight_is_counted_by_what_it_is_used_for(inputs, hidden, outputs):
    work = work_of(graph(inputs, hidden, outputs))
    assert work.weights == {"float32": Weights(4 * hidden * inputs, 4 * hidden * hidden, hidden * outputs)}
    assert work.state_bytes == 2 * 4 * 2 * hidden
    assert work.every_step


def test_an_exported_model_has_the_weights_of_its_pytorch_model(forecast_bundle):
    work = work_of(onnx.load(forecast_bundle / "model.onnx"))
    assert work.weights["float32"] == Weights(4 * 8 * (4 + 8), 2 * 4 * 8 * 8, 8 * 4)


def test_quantized_weights_are_bytes():
    work = work_of(graph(3, 5, 2, np.int8, "DynamicQuantizeLSTM"))
    assert work.weights == {"int8": Weights(60, 100), "float32": Weights(dense=10)}
    assert work.weight_bytes == 160 + 40


def test_weights_computed_in_the_graph_have_no_work():
    model = graph(3, 5, 2)
    model.graph.node[0].input[1] = "computed"
    assert work_of(model) is None
    assert work_of(onnx.ModelProto()) is None


def test_a_step_of_one_row_waits_for_the_weights():
    work = Work({"float32": Weights(1000, 3000, 96)}, 64, True)
    limit = limit_of(work, PEAKS, batch=1, seq_len=1, chained=False)
    assert limit.name == "L1"
    assert limit.bytes == 4 * 4096 + 64
    assert limit.us == pytest.approx(1e6 * limit.bytes / 1e11, rel=0.01)
    assert limit.operations == 2 * 4096


def test_many_rows_compute_more_than_they_read():
    work = Work({"float32": Weights(1000, 3000, 96)}, 64, True)
    limit = limit_of(work, PEAKS, batch=1000, seq_len=1, chained=False)
    assert limit.name == "compute"
    assert limit.us == pytest.approx(1e6 * 2 * 4096 * 1000 / 1e11)


def test_a_sequence_reads_recurrent_weights_at_each_step_and_the_others_once():
    work = Work({"float32": Weights(1000, 3000, 96)}, 0, True)
    assert limit_of(work, PEAKS, batch=1, seq_len=10, chained=False).bytes == 4 * (1000 + 96 + 10 * 3000)
    assert limit_of(work, PEAKS, batch=1, seq_len=10, chained=True).bytes == 4 * 10 * 4096


def test_a_head_of_the_last_step_is_computed_once():
    work = Work({"float32": Weights(1000, 3000, 96)}, 0, False)
    assert limit_of(work, PEAKS, batch=2, seq_len=10, chained=False).operations == 2 * 2 * (10 * 4000 + 96)


def test_a_precision_whose_rate_is_unknown_has_no_limit():
    assert limit_of(Work({"float16": Weights(1, 1, 1)}, 0, True), PEAKS, batch=1, seq_len=1, chained=False) is None


def test_another_precision_keeps_the_counts():
    work = in_precision(Work({"float32": Weights(1, 2, 3), "int8": Weights(10, 20, 30)}, 5, True), "tf32")
    assert work.weights == {"tf32": Weights(11, 22, 33)}
    assert work.weight_bytes == 66 * BYTES["tf32"]


@given(st.integers(1, 1 << 30))
def test_bandwidth_lies_within_the_measured_range(working_set):
    rate = bandwidth(working_set, PEAKS["memory"])
    assert 1e10 * 0.999 <= rate <= 1e11 * 1.001


def test_bandwidth_at_a_measured_size_is_the_measured_one():
    for point in PEAKS["memory"]:
        assert bandwidth(point["working_set"], PEAKS["memory"]) == pytest.approx(point["bytes_per_s"])
