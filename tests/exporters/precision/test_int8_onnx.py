import re

import numpy as np
import onnx
import pytest
import torch
from hypothesis import HealthCheck, given, settings, strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from onnx import numpy_helper
from properties import examples
from torch import nn
from validation_cases import checks_of

from lstm_deploy.artifacts import environment
from lstm_deploy.artifacts.int8_saturation import needs_vnni, problems, saturating_nodes
from lstm_deploy.artifacts.onnx_weights import recurrent_layers
from lstm_deploy.contract.signature import CONTRACT_KEY, TensorSpec
from lstm_deploy.errors import InputError
from lstm_deploy.exporters.onnx import export_onnx
from lstm_deploy.exporters.precision.int8_onnx import (
    Settings,
    layer_counts,
    quantizable_nodes,
    quantize_onnx,
    quantize_weights,
)
from lstm_deploy.lifting import onnx_order
from lstm_deploy.lifting.lifting import lift
from lstm_deploy.runtimes.opening import open_runtime
from lstm_deploy.validation.case_inputs import Effort
from lstm_deploy.validation.pytorch_reference import PyTorchReference
from lstm_deploy.validation.reference_cases import make_cases
from lstm_deploy.validation.weights import layer_problems

SMALL = Effort(100, ((1, 1), (3, 7), (2, 30)), 1, 1e9)


class Net(nn.Module):
    def __init__(self, head=0, **form):
        super().__init__()
        self.lstm = nn.LSTM(6, 8, batch_first=True, **form)
        width = (form.get("proj_size") or 8) * (2 if form.get("bidirectional") else 1)
        self.fc = nn.Linear(width, head) if head else nn.Identity()

    def forward(self, x):
        return self.fc(self.lstm(x)[0])


def exported(folder, module, inputs=("x:float32[batch,seq,6]",)):
    torch.manual_seed(0)
    lifted = lift(module.eval(), [TensorSpec.parse(text) for text in inputs])
    export_onnx(lifted, folder / "m.onnx")
    return lifted, folder / "m.onnx"


@settings(max_examples=examples(6), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    num_layers=st.integers(1, 3),
    bidirectional=st.booleans(),
    bias=st.booleans(),
    proj_size=st.sampled_from([0, 0, 3]),
    per_channel=st.booleans(),
    weights=st.sampled_from(["paired", "unsigned"]),
)
def test_every_form_of_lstm_is_quantized_whole_and_proven(
    tmp_path, per_channel, weights, num_layers, bidirectional, bias, proj_size
):
    form = {"num_layers": num_layers, "bidirectional": bidirectional, "bias": bias, "proj_size": proj_size}
    lifted, path = exported(tmp_path, Net(5, **form))
    quantize_onnx(path, tmp_path / "q.onnx", Settings(per_channel=per_channel, weights=weights))
    model = onnx.load(tmp_path / "q.onnx")
    assert saturating_nodes(model, tmp_path) == {}
    assert layer_counts(model) == (num_layers, num_layers)
    assert len(recurrent_layers(model)) == num_layers
    assert layer_problems(recurrent_layers(model), onnx_order.layers(lifted)) == []
    cases = make_cases(PyTorchReference(lifted), SMALL)
    assert [check for check in checks_of(tmp_path / "q.onnx", "int8", cases) if not check.passed] == []


def test_unsigned_weights_are_the_same_numbers(tmp_path):
    _, path = exported(tmp_path, Net())
    for name, weights in {"s": "full", "u": "unsigned"}.items():
        quantize_onnx(path, tmp_path / f"{name}.onnx", Settings(weights=weights))
    signed, unsigned = (onnx.load(tmp_path / f"{name}.onnx") for name in "su")
    weights = {tensor.name: tensor for tensor in unsigned.graph.initializer}
    assert weights["module.lstm.W_l0_quantized"].data_type == onnx.TensorProto.UINT8
    for ours, theirs in zip(recurrent_layers(signed), recurrent_layers(unsigned), strict=True):
        np.testing.assert_array_equal(ours.w, theirs.w)
        np.testing.assert_array_equal(ours.r, theirs.r)


@settings(max_examples=50, deadline=None)
@given(
    values=arrays(
        np.float32,
        array_shapes(min_dims=2, max_dims=3, min_side=1, max_side=9),
        elements=st.floats(-1e3, 1e3, width=32, allow_subnormal=True),
    ),
    per_channel=st.booleans(),
)
def test_no_pair_of_weights_overflows_16_bits_and_each_is_within_half_a_step(values, per_channel):
    number, scale, zero = quantize_weights(values, Settings(per_channel=per_channel))
    step = scale[..., None, :] if per_channel else scale[..., None, None]
    assert not zero.any()
    assert (np.abs(number * step.astype(np.float64) - values) <= 0.5001 * step).all()
    products = 255 * number[..., : values.shape[-2] // 2 * 2, :].astype(np.int64)
    sums = products[..., 0::2, :] + products[..., 1::2, :]
    assert ((sums >= -(2**15)) & (sums < 2**15)).all()


def test_weights_for_vnni_alone_say_so_in_the_file_and_are_seen_to_saturate(tmp_path, monkeypatch):
    _, path = exported(tmp_path, Net())
    quantize_onnx(path, tmp_path / "q.onnx", Settings(weights="full"))
    model = onnx.load(tmp_path / "q.onnx")
    assert needs_vnni(model)
    (sentence,) = problems(model, tmp_path)
    assert re.search(r"saturates on CPUs without VNNI, in [1-9]\d* of 64 rows", sentence)
    monkeypatch.setattr(environment, "lacks_vnni", lambda: True)
    with pytest.raises(InputError, match="for CPUs with VNNI, which this one has not"):
        open_runtime(tmp_path / "q.onnx")


def test_the_contract_stays_and_the_quantizer_leaves_no_notes(tmp_path):
    lifted, path = exported(tmp_path, Net())
    quantize_onnx(path, tmp_path / "q.onnx")
    model = onnx.load(tmp_path / "q.onnx")
    assert [prop.key for prop in model.metadata_props] == [CONTRACT_KEY]
    assert model.producer_name == "lstm-deploy"
    assert open_runtime(tmp_path / "q.onnx").signature == lifted.signature
    assert sorted(file.name for file in tmp_path.iterdir()) == ["m.onnx", "q.onnx"]


def test_layers_are_named_as_in_pytorch_and_can_stay_in_float(tmp_path):
    _, path = exported(tmp_path, Net(num_layers=2))
    assert list(quantizable_nodes(onnx.load(path), "onnx")) == ["lstm, layer 0", "lstm, layer 1"]
    quantize_onnx(path, tmp_path / "q.onnx", kept=["lstm, layer 0"])
    model = onnx.load(tmp_path / "q.onnx")
    assert layer_counts(model) == (1, 2)
    assert [node.input[1] for node in model.graph.node if node.op_type == "LSTM"] == ["module.lstm.W_l0"]


def test_heads_and_embeddings_are_quantized_where_they_are_large(tmp_path):
    class Text(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding = nn.Embedding(300, 6)
            self.lstm = nn.LSTM(6, 8, batch_first=True)
            self.fc = nn.Linear(8, 200)

        def forward(self, tokens):
            return self.fc(self.lstm(self.embedding(tokens))[0])

    _, path = exported(tmp_path, Text(), ["tokens:int64[batch,seq]"])
    assert list(quantizable_nodes(onnx.load(path), "onnx")) == [
        "the embedding [300, 6]",
        "lstm, layer 0",
        "the matrix [8, 200]",
    ]
    quantize_onnx(path, tmp_path / "q.onnx")
    operators = {node.op_type for node in onnx.load(tmp_path / "q.onnx").graph.node}
    assert {"MatMulInteger", "DynamicQuantizeLSTM"} <= operators
    _, path = exported(tmp_path, Net(2))
    assert list(quantizable_nodes(onnx.load(path), "onnx")) == [
        "lstm, layer 0"
    ]  # a head of 16 weights costs more than it saves


def test_what_inverts_a_projection_stays_in_float(tmp_path):
    _, path = exported(tmp_path, Net(proj_size=7))
    labels = list(quantizable_nodes(onnx.load(path), "onnx"))
    assert labels[0] == "lstm, layer 0"
    quantize_onnx(path, tmp_path / "q.onnx")
    kept = [t.name for t in onnx.load(tmp_path / "q.onnx").graph.initializer if t.data_type == onnx.TensorProto.FLOAT]
    assert any("P_inverse" in name for name in kept)


def test_a_quantized_model_is_refused(tmp_path):
    _, path = exported(tmp_path, Net())
    quantize_onnx(path, tmp_path / "q.onnx")
    with pytest.raises(InputError, match="in int8 already; quantize the float32 model"):
        quantize_onnx(tmp_path / "q.onnx", tmp_path / "qq.onnx")
    assert not (tmp_path / "qq.onnx").exists()


def test_weights_that_are_computed_in_the_graph_are_refused(tmp_path):
    _, path = exported(tmp_path, Net())
    model = onnx.load(path)
    (lstm,) = [node for node in model.graph.node if node.op_type == "LSTM"]
    model.graph.node.insert(0, onnx.helper.make_node("Identity", [lstm.input[1]], ["computed"], "i"))
    lstm.input[1] = "computed"
    onnx.save(model, path)
    with pytest.raises(InputError, match="are computed in the graph, so it would stay in float"):
        quantize_onnx(path, tmp_path / "q.onnx")


def test_a_graph_without_an_lstm_is_refused(tmp_path):
    x, y = (onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1]) for name in "xy")
    graph = onnx.helper.make_graph([onnx.helper.make_node("Identity", ["x"], ["y"])], "g", [x], [y])
    onnx.save(onnx.helper.make_model(graph), tmp_path / "g.onnx")
    with pytest.raises(InputError, match="no LSTM, GRU or RNN node"):
        quantize_onnx(tmp_path / "g.onnx", tmp_path / "q.onnx")


def test_per_channel_keeps_small_rows_beside_a_large_one(tmp_path):
    net = Net()
    with torch.no_grad():
        net.lstm.weight_hh_l0[0] *= 1000
    _, path = exported(tmp_path, net)
    right = numpy_helper.to_array(next(t for t in onnx.load(path).graph.initializer if t.name.endswith("R_l0")))
    off = {}
    for per_channel in (True, False):
        quantize_onnx(path, tmp_path / "q.onnx", Settings(per_channel=per_channel))
        (layer,) = recurrent_layers(onnx.load(tmp_path / "q.onnx"))
        off[per_channel] = np.abs(layer.r - right)[:, 1:].max()
    assert off[True] < 0.01 < off[False]


def test_weights_that_two_lstms_share_are_quantized_in_both(tmp_path):
    class Shared(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.LSTM(6, 6, batch_first=True)
            self.b = nn.LSTM(6, 6, batch_first=True)
            for name, _ in list(self.a.named_parameters()):
                setattr(self.b, name, getattr(self.a, name))

        def forward(self, x):
            return self.b(self.a(x)[0])[0]

    lifted, path = exported(tmp_path, Shared())
    assert len(quantizable_nodes(onnx.load(path), "onnx")) == 2
    quantize_onnx(path, tmp_path / "q.onnx")
    assert layer_counts(onnx.load(tmp_path / "q.onnx")) == (2, 2)
    cases = make_cases(PyTorchReference(lifted), SMALL)
    assert all(check.passed for check in checks_of(tmp_path / "q.onnx", "int8", cases))


def test_matrices_of_one_shape_are_all_quantized(tmp_path):
    class Heads(nn.Module):
        def __init__(self):
            super().__init__()
            self.lstm = nn.LSTM(6, 8, batch_first=True)
            self.one, self.two = nn.Linear(8, 30), nn.Linear(8, 30)

        def forward(self, x):
            y = self.lstm(x)[0]
            return {"one": self.one(y), "two": self.two(y)}

    _, path = exported(tmp_path, Heads())
    assert list(quantizable_nodes(onnx.load(path), "onnx"))[1:] == ["the matrix [8, 30]", "the matrix [8, 30] (2)"]
    quantize_onnx(path, tmp_path / "q.onnx")
    assert not [node for node in onnx.load(tmp_path / "q.onnx").graph.node if node.op_type == "MatMul"]


class Row(nn.Module):
    """Quantized layers follow one another, and names derived from theirs would collide."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(40, 8)
        self.first, self.second = nn.Linear(8, 20, bias=False), nn.Linear(20, 6, bias=False)
        self.lstm = nn.LSTM(6, 8, batch_first=True)
        self.loc, self.scale = nn.Linear(8, 20, bias=False), nn.Linear(8, 20, bias=False)

    def forward(self, tokens):
        y = self.lstm(self.second(self.first(self.embedding(tokens))))[0]
        return {"y": self.loc(y), "y_scale": self.scale(y), "y_step": y, "table": self.embedding.weight}


class Scaled(nn.Module):
    """A parameter has the name that the scale of another would get."""

    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(6, 8, batch_first=True)
        self.w, self.w_scale = nn.Parameter(torch.randn(8, 9)), nn.Parameter(torch.full((9,), 3.0))

    def forward(self, x):
        return self.lstm(x)[0] @ self.w * self.w_scale


@pytest.mark.parametrize(
    ("module", "inputs"),
    [(Row(), "tokens:int64[batch,seq]"), (Scaled(), "x:float32[batch,seq,6]")],
    ids=["row", "scaled"],
)
def test_quantized_values_get_unused_names_and_weights_that_are_also_read_elsewhere_stay(tmp_path, module, inputs):
    lifted, path = exported(tmp_path, module, [inputs])
    for weights in ("paired", "unsigned"):
        quantize_onnx(path, tmp_path / "q.onnx", Settings(weights=weights))
        model = onnx.load(tmp_path / "q.onnx")
        onnx.checker.check_model(model, full_check=True)
        assert not [node for node in model.graph.node if node.op_type in ("MatMul", "LSTM")]
        cases = make_cases(PyTorchReference(lifted), SMALL)
        assert all(check.passed for check in checks_of(tmp_path / "q.onnx", "int8", cases))


def test_weights_that_are_not_finite_are_refused():
    with pytest.raises(InputError, match="A weight is NaN or infinite"):
        quantize_weights(np.full((2, 2), np.nan, np.float32), Settings())
