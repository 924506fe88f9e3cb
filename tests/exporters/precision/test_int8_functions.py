"""GRUs and RNNs in int8 ONNX: layers that are functions with a `Scan` inside."""

import numpy as np
import onnx
import pytest
import torch
from hypothesis import HealthCheck, given, settings, strategies as st
from onnx import numpy_helper
from properties import examples
from torch import nn
from validation_cases import SMALL, checks_of, reference_of

import lstm_deploy
from lstm_deploy.artifacts import onnx_graph
from lstm_deploy.artifacts.int8_saturation import saturating_nodes
from lstm_deploy.artifacts.lint import lint, states
from lstm_deploy.artifacts.onnx_weights import recurrent_layers
from lstm_deploy.benchmark.roofline import work_of
from lstm_deploy.contract.cells import CELLS
from lstm_deploy.contract.tasks import LanguageModel
from lstm_deploy.errors import InputError, ParityError
from lstm_deploy.exporters import pipeline
from lstm_deploy.exporters.onnx import export_onnx
from lstm_deploy.exporters.precision import int8_onnx, selection
from lstm_deploy.exporters.precision.int8_onnx import Settings, layer_counts, quantizable_nodes, quantize_onnx
from lstm_deploy.lifting import onnx_order
from lstm_deploy.runtimes.opening import open_runtime
from lstm_deploy.runtimes.stepping import unroll
from lstm_deploy.validation.case_inputs import QUICK
from lstm_deploy.validation.reference_cases import make_cases
from lstm_deploy.validation.weights import layer_problems, weight_problems


class Net(nn.Module):
    def __init__(self, kind="GRU", hidden=8, **form):
        super().__init__()
        torch.manual_seed(0)
        cell = CELLS[kind]
        form |= {"nonlinearity": cell.nonlinearity} if cell.nonlinearity else {}
        self.rnn = getattr(nn, cell.title)(6, hidden, batch_first=True, **form)
        self.fc = nn.Linear(hidden * (2 if form.get("bidirectional") else 1), 5)

    def forward(self, x):
        return self.fc(self.rnn(x)[0])


class Text(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.embedding = nn.Embedding(12, 8)
        self.rnn = nn.GRU(8, 8, 2, batch_first=True)
        self.fc = nn.Linear(8, 12)

    def forward(self, x):
        return self.fc(self.rnn(self.embedding(x))[0])


@pytest.fixture
def of_any_size(monkeypatch):
    """Layers of all sizes become integers."""
    monkeypatch.setattr(int8_onnx, "LEAST_HIDDEN", 1)
    monkeypatch.setattr(pipeline, "LOWERED", QUICK._replace(steps=100))
    monkeypatch.setattr(selection, "times", lambda paths, _: {})


def quantized(folder, module, settings=None, inputs="x:float32[batch,seq,6]"):
    """The reference of a module, and its int8 file."""
    reference = reference_of(module.eval(), inputs)
    export_onnx(reference.lifted, folder / "m.onnx")
    quantize_onnx(folder / "m.onnx", folder / "q.onnx", settings)
    return reference, folder / "q.onnx"


@settings(max_examples=examples(6), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    kind=st.sampled_from(["GRU", "RNN_TANH", "RNN_RELU"]),
    num_layers=st.integers(1, 2),
    bidirectional=st.booleans(),
    bias=st.booleans(),
    per_channel=st.booleans(),
    weights=st.sampled_from(["paired", "unsigned"]),
)
def test_every_form_is_quantized_whole_and_proven(tmp_path, of_any_size, weights, per_channel, **form):
    reference, path = quantized(tmp_path, Net(**form), Settings(weights=weights, per_channel=per_channel))
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    assert saturating_nodes(model, tmp_path) == {}
    assert layer_counts(model) == (form["num_layers"], form["num_layers"])
    assert len(recurrent_layers(model)) == form["num_layers"]
    assert layer_problems(recurrent_layers(model), onnx_order.layers(reference.lifted)) == []
    assert lint(model, reference.signature) == []
    assert "carried: h starts from the input h_in and leaves in the output h_out" in states(model)[0]
    assert [check for check in checks_of(path, "int8", make_cases(reference, SMALL)) if not check.passed] == []


@pytest.mark.parametrize("kind", ["GRU", "RNN_RELU"])
def test_a_wrong_weight_or_another_step_is_caught(tmp_path, of_any_size, kind):
    reference, path = quantized(tmp_path, Net(kind))
    cases = make_cases(reference, SMALL)
    right = onnx.load(path)
    assert weight_problems(path, reference.lifted) == []
    wrong = onnx.ModelProto.FromString(right.SerializeToString())
    (weights,) = [tensor for tensor in wrong.graph.initializer if tensor.name.endswith("R_l0_quantized")]
    values = numpy_helper.to_array(weights).copy()
    values[0, 3, 2] += 2
    weights.CopyFrom(numpy_helper.from_array(values, weights.name))
    onnx.save(wrong, path)
    (problem,) = weight_problems(path, reference.lifted)
    assert "rnn: weight_hh" in problem
    (function,) = right.functions
    (scan,) = [node for node in function.node if node.op_type == "Scan"]
    body = next(item.g for item in scan.attribute if item.name == "body")
    (last,) = [node for node in body.node if "next" in node.output]
    last.op_type = {"Add": "Sub", "Relu": "Tanh"}[last.op_type]
    onnx.save(right, path)
    assert not all(check.passed for check in checks_of(path, "int8", cases))


@pytest.mark.parametrize("name", ["lstm_deploy.GRU.forward", "lstm_deploy.GRU.backward", "lstm_deploy.Other"])
def test_a_function_under_the_name_of_a_layer_that_is_none_is_a_defect_of_the_graph(tmp_path, of_any_size, name):
    _, path = quantized(tmp_path, Net("GRU"))
    model = onnx.load(path)
    assert not [defect for defect in lint(model) if "int8 layer" in defect]
    (function,) = model.functions
    (layer,) = [node for node in model.graph.node if node.domain == function.domain]
    bias = next(node for node in function.node if node.op_type == "Add")
    bias.op_type = "Sub"  # too small a change for what int8 may differ by
    function.domain = layer.domain = name
    model.opset_import.append(onnx.helper.make_opsetid(name, 1))
    assert any("int8 layer" in defect for defect in lint(model))


def test_weights_that_saturate_are_seen_by_the_name_of_their_layer(tmp_path, of_any_size):
    _, path = quantized(tmp_path, Net(num_layers=2), Settings(weights="full"))
    assert saturating_nodes(onnx.load(path), tmp_path).keys() == {"node_gru__1", "node_gru_1__1"}


def test_cuda_is_refused_and_the_work_is_counted(tmp_path, of_any_size):
    _, path = quantized(tmp_path, Net())
    work = work_of(onnx.load(path))
    assert (work.weights["int8"].inputs, work.weights["int8"].recurrent) == (3 * 8 * 6, 3 * 8 * 8)
    with pytest.raises(InputError, match="CUDA has no int8 LSTM, GRU or RNN"):
        open_runtime(path, provider="cuda")


def test_a_bundle_and_its_rollout_hold_such_layers(tmp_path, of_any_size):
    bundle = lstm_deploy.export(
        module := Text().eval(),
        tmp_path / "b",
        inputs={"x": "int64[batch,seq]"},
        task=LanguageModel(vocabulary=tuple("abcdefghijkl")),
        formats=["onnx"],
        quantize="int8",
    )
    evidence = bundle.find("onnx", "int8").evidence
    assert (evidence.lowered_layers, evidence.recurrent_layers) == (2, 2)
    report = lstm_deploy.validate(bundle, reference=module)
    assert report.passed, report.failures
    assert ("model.int8.onnx", "structure") in {(check.artifact, check.name) for check in report.checks}
    path = bundle.path / "rollout.int8.onnx"
    assert onnx_graph.operator_counts(onnx.load(path))["DynamicQuantizeGRU"] == 3 * 2
    model, rollout = open_runtime(bundle.path / "model.int8.onnx"), open_runtime(path)
    rng = np.random.default_rng(0)
    feeds = {
        "x": rng.integers(0, 12, (2, 5)),
        "lengths": np.array([5, 3]),
        "noise": rng.random((2, 30), np.float32),
        "temperature": np.array(0.0, np.float32),
        "top_k": np.array(0),
        "stop": np.array(-1),
        **model.signature.initial_state(2),
    }
    expected = unroll(model, feeds)
    for name, value in rollout.run(feeds).items():
        np.testing.assert_allclose(value, expected[name], rtol=1e-5, atol=1e-6)


def test_small_layers_stay_in_float32_and_a_note_says_why(tmp_path, monkeypatch):
    monkeypatch.setattr(selection, "times", lambda paths, _: {})
    module = Net()
    module.fc = nn.Identity()
    why = "onnxruntime has no int8 GRU, and lstm-deploy's is slower than float32's where the hidden size is below 384"
    with pytest.raises(ParityError, match=f"{why}, so such layers stay in float32; --format c has them in int8"):
        lstm_deploy.export(
            module.eval(), tmp_path / "b", inputs={"x": "float32[batch,seq,6]"}, formats=["onnx"], quantize="int8"
        )


class Mixed(nn.Module):
    """A layer that is large enough, and one that is not."""

    def __init__(self):
        super().__init__()
        self.large, self.small = nn.GRU(6, 384, batch_first=True), nn.GRU(384, 8, batch_first=True)

    def forward(self, x):
        return self.small(self.large(x)[0])[0]


def test_large_layers_are_quantized_beside_small_ones(tmp_path):
    _, path = quantized(tmp_path, Mixed())
    assert list(quantizable_nodes(onnx.load(tmp_path / "m.onnx"), "onnx")) == ["large, layer 0"]
    assert layer_counts(onnx.load(path)) == (1, 2)


class Padded(Net):
    """Takes the lengths of rows."""

    def forward(self, x, lengths):
        packed = nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        return self.fc(nn.utils.rnn.pad_packed_sequence(self.rnn(packed)[0], batch_first=True)[0])


def test_layers_that_take_lengths_of_rows_stay_in_float32(tmp_path, of_any_size):
    reference = reference_of(Padded().eval(), "x:float32[batch,seq,6]", "lengths:int64[batch]")
    export_onnx(reference.lifted, tmp_path / "m.onnx")
    assert list(quantizable_nodes(onnx.load(tmp_path / "m.onnx"), "onnx")) == ["the matrix [8, 5]"]
