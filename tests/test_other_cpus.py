"""What int8 computes on a CPU without VNNI, whichever CPU made it."""

import json
import re
import shutil

import onnx
import pytest
import torch
from c_programs import NEEDS_CC
from emulation import NEEDS_QEMU, on_haswell
from torch import nn

import lstm_deploy
from lstm_deploy.artifacts import environment, int8_saturation
from lstm_deploy.exporters import pipeline
from lstm_deploy.exporters.precision import int8_onnx, selection
from lstm_deploy.exporters.precision.int8_onnx import Settings, quantize_onnx
from lstm_deploy.validation.case_inputs import QUICK

JUDGED = """
import json, sys
from pathlib import Path

if "torchscript" not in sys.argv[2:]:
    sys.modules["torch"] = None  # seconds to import when emulated
from lstm_deploy.artifacts.bundle import Bundle
from lstm_deploy.validation.judging import judge, of_bundle

bundle = Bundle(Path(sys.argv[1]))
# Not TorchScript in float32: qemu 7 computes oneDNN's LSTM for AVX2 wrong, which a CPU held to AVX2 does right.
artifacts = [
    artifact for artifact in bundle.manifest.exported if artifact.format in sys.argv[2:]
    and (artifact.format, artifact.precision) != ("torchscript", "float32")
]
verdicts = judge([of_bundle(bundle, artifact) for artifact in artifacts], [], isolate=False)
print(json.dumps({
    artifact.path: [check.name for check in verdict.checks if not check.passed]
    for artifact, verdict in zip(artifacts, verdicts)
}))
"""
"""Holds the artifacts of a bundle in some formats against its golden trace; prints which checks fail."""


class Net(nn.Module):
    """Neighbouring weights are large and of one sign, as adds up beyond 16 bits."""

    def __init__(self, cells=nn.LSTM):
        super().__init__()
        self.lstm = cells(6, 24, 2, batch_first=True)
        self.fc = nn.Linear(24, 40)
        with torch.no_grad():
            for matrix in (self.lstm.weight_ih_l0, self.lstm.weight_hh_l0, self.lstm.weight_ih_l1, self.fc.weight):
                matrix[:] = matrix.abs() + 0.2
                matrix[::2] *= -1

    def forward(self, x):
        return self.fc(self.lstm(x)[0])


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    """In all formats, float32 and int8."""
    torch.manual_seed(0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline, "LOWERED", QUICK._replace(steps=100))
        patch.setattr(selection, "times", lambda paths, _: {})
        return lstm_deploy.export(
            Net().eval(),
            tmp_path_factory.mktemp("cpus") / "net",
            inputs={"x": "float32[batch,seq,6]"},
            formats=("onnx", "torchscript", "c"),
            quantize="int8",
            max_metric_loss=1.0,
        )


@NEEDS_QEMU
@NEEDS_CC
def test_onnx_and_c_are_right_on_a_cpu_without_vnni(bundle):
    found = json.loads(on_haswell(JUDGED, bundle.path, "onnx", "c"))
    assert found == {"model.onnx": [], "model.c": [], "model.int8.onnx": [], "model.int8.c": []}


@NEEDS_QEMU
def test_a_gru_whose_products_are_inside_a_function_is_right_on_a_cpu_without_vnni(tmp_path, monkeypatch):
    monkeypatch.setattr(pipeline, "LOWERED", QUICK._replace(steps=100))
    monkeypatch.setattr(selection, "times", lambda paths, _: {})
    monkeypatch.setattr(int8_onnx, "LEAST_HIDDEN", 1)
    torch.manual_seed(0)
    made = lstm_deploy.export(
        Net(nn.GRU).eval(),
        tmp_path / "net",
        inputs={"x": "float32[batch,seq,6]"},
        formats=("onnx",),
        quantize="int8",
        max_metric_loss=1.0,
    )
    assert made.find("onnx", "int8").evidence.lowered_layers == 2
    assert json.loads(on_haswell(JUDGED, made.path, "onnx")) == {"model.onnx": [], "model.int8.onnx": []}
    found = json.loads(on_haswell(JUDGED, saturated(made, tmp_path), "onnx"))
    assert "golden" in found["model.int8.onnx"]


@NEEDS_QEMU
def test_int8_torchscript_is_right_on_a_cpu_without_vnni(bundle):
    assert json.loads(on_haswell(JUDGED, bundle.path, "torchscript")) == {"model.int8.torchscript": []}


def saturated(bundle, folder):
    """A copy of a bundle whose int8 weights are for VNNI alone, and do not say so."""
    copy = shutil.copytree(bundle.path, folder / "saturated")
    quantize_onnx(copy / "model.onnx", copy / "model.int8.onnx", Settings(weights="full"))
    model = onnx.load(copy / "model.int8.onnx")
    (key,) = [index for index, prop in enumerate(model.metadata_props) if prop.key == int8_saturation.CPUS_KEY]
    del model.metadata_props[key]
    onnx.save(model, copy / "model.int8.onnx")
    return copy


@NEEDS_QEMU
def test_weights_that_saturate_are_wrong_on_a_cpu_without_vnni(bundle, tmp_path):
    found = json.loads(on_haswell(JUDGED, saturated(bundle, tmp_path), "onnx"))
    assert found["model.onnx"] == []
    assert sorted(found["model.int8.onnx"]) == ["golden", "golden", "golden", "saturation", "sha256"]


def test_weights_that_saturate_are_refused_on_every_cpu(bundle, tmp_path):
    report = lstm_deploy.validate(saturated(bundle, tmp_path) / "model.int8.onnx", reference=bundle.path)
    (check,) = [check for check in report.failures if check.name == "saturation"]
    assert re.search(r"saturates on CPUs without VNNI, in \d+ of \d+ rows", check.detail)


@pytest.mark.skipif(environment.lacks_vnni(), reason="needs a CPU with VNNI")
def test_weights_for_vnni_pass_where_it_is_and_their_bundle_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(pipeline, "LOWERED", QUICK._replace(steps=100))
    monkeypatch.setattr(selection, "times", lambda paths, _: {})
    torch.manual_seed(0)
    made = lstm_deploy.export(
        Net().eval(),
        tmp_path / "net",
        inputs={"x": "float32[batch,seq,6]"},
        formats=("onnx",),
        quantize="int8",
        int8_cpus="vnni",
        max_metric_loss=1.0,
    )
    assert made.manifest.parity.passed
    assert "model.int8.onnx is for CPUs with VNNI only: its sums saturate on others" in made.manifest.notes
    assert made.find("onnx", "int8").evidence.settings["cpus"] == "with VNNI"
