"""The weights in a C artifact equal PyTorch's number by number, and a changed one is detected."""

import re

import authors
import modules
import numpy as np
import pytest
import torch
from c_programs import Linear
from recurrent_graphs import module_of, onnx_weights, write_graph
from torch import nn

from lstm_deploy.artifacts import c_weights
from lstm_deploy.artifacts.c_blocks import summed_biases
from lstm_deploy.artifacts.onnx_graph import load
from lstm_deploy.contract.cells import CELLS
from lstm_deploy.contract.signature import TensorSpec
from lstm_deploy.exporters.c import writer
from lstm_deploy.exporters.c.writer import export_c
from lstm_deploy.exporters.onnx import export_onnx
from lstm_deploy.exporters.precision.int8_onnx import quantizable_nodes
from lstm_deploy.lifting.lifting import lift
from lstm_deploy.validation import weights

NETWORKS = {
    "linear": (lambda: Linear(5, 37, 2), "x:float32[batch,seq,5]"),
    "mapped": (lambda: Linear(64, 300, 2), "x:float32[batch,seq,64]"),
    "both ways": (lambda: authors.Practitioner(4, 16, 2, True, True), "x:float32[batch,seq,4]"),
    "projected": (lambda: nn.LSTM(3, 20, 2, proj_size=5, batch_first=True), "x:float32[batch,seq,3]"),
    "embedding": (authors.TextClassifier, "x:int64[batch,seq]"),
    "without bias": (lambda: nn.LSTM(3, 20, bias=False, batch_first=True), "x:float32[batch,seq,3]"),
    "called twice": (modules.CalledTwice, "x:float32[batch,seq,3]"),
}


@pytest.mark.parametrize("int8", [False, True])
@pytest.mark.parametrize("name", NETWORKS)
def test_weights_are_those_of_pytorch_and_a_changed_one_is_named(name, int8, tmp_path):
    torch.manual_seed(0)
    make, spec = NETWORKS[name]
    lifted = lift(make().eval(), [TensorSpec.parse(spec)])
    export_onnx(lifted, tmp_path / "net.onnx")
    nodes = quantizable_nodes(load(tmp_path / "net.onnx"), "c").values()
    export_c(tmp_path / "net.onnx", tmp_path / "net.c", "net", [node.name for node in nodes] if int8 else ())
    assert weights.weight_problems(tmp_path / "net.c", lifted) == []
    changed = [value for key, value in lifted.named_parameters() if "weight_hh" in key or "fc.weight" in key]
    for weight in changed:
        with torch.no_grad():
            before = float(weight[1, 2])
            weight[1, 2] += 0.2
            assert weights.weight_problems(tmp_path / "net.c", lifted)
            weight[1, 2] = before


def test_a_number_changed_in_the_source_is_detected(tmp_path):
    torch.manual_seed(0)
    lifted = lift(Linear(3, 8, 1).eval(), [TensorSpec.parse("x:float32[batch,seq,3]")])
    export_onnx(lifted, tmp_path / "net.onnx")
    path = tmp_path / "net.c"
    export_c(tmp_path / "net.onnx", path, "net")
    (bias,) = lifted.module.fc.bias.numpy()[:1]
    text = path.read_text()
    start = text.index("w_lstm_W_l0[")
    number = re.compile(r"-?0\.\d+").search(text, start)
    path.write_text(text[: number.start()] + "0.75" + text[number.end() :])
    assert any("lstm: " in problem for problem in weights.weight_problems(path, lifted))
    assert np.isfinite(bias)


def test_a_layer_is_read_in_both_directions(tmp_path):
    torch.manual_seed(0)
    lifted = lift(nn.LSTM(3, 20, batch_first=True, bidirectional=True), [TensorSpec.parse("x:float32[batch,seq,3]")])
    export_onnx(lifted, tmp_path / "net.onnx")
    export_c(tmp_path / "net.onnx", tmp_path / "net.c", "net")
    (layer,) = c_weights.read(tmp_path / "net.c").layers
    assert (layer.w.shape, layer.r.shape, layer.b.shape, layer.steps) == ((2, 80, 3), (2, 80, 20), (2, 160), {})


@pytest.mark.parametrize("mapped", [False, True])
@pytest.mark.parametrize("int8", [False, True])
@pytest.mark.parametrize("kind", CELLS)
def test_layers_of_every_kind_are_read_as_they_are(kind, int8, mapped, tmp_path, monkeypatch):
    monkeypatch.setattr(writer, "MAPPED_ABOVE", 0 if mapped else writer.MAPPED_ABOVE)
    module = module_of(kind, 5, 37, 2, bidirectional=True)
    names = write_graph([module], tmp_path / "net.onnx")
    export_c(tmp_path / "net.onnx", tmp_path / "net.c", "net", names if int8 else ())
    layers = c_weights.read(tmp_path / "net.c").layers
    assert [layer.kind for layer in layers] == [kind, kind]
    for number, layer in enumerate(layers):
        w, r, b = onnx_weights(module, number)
        np.testing.assert_array_equal(layer.b, summed_biases(b, CELLS[kind]).astype(np.float32))
        for name, weight in (("w", w), ("r", r)):
            within = 0.501 * layer.steps[name] if int8 else 0 * weight
            assert (np.abs(getattr(layer, name) - weight) <= within).all()
