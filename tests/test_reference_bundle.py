"""The bundle in `exported/`, made by an earlier run: what it promised then must hold now."""

import shutil
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
from msgspec.structs import replace

import lstm_deploy
from lstm_deploy.artifacts import Bundle
from lstm_deploy.artifacts.files import read_npz
from lstm_deploy.exporters import report

REFERENCE = Path(__file__).parents[1] / "exported" / "reference"


@pytest.mark.whole
def test_it_still_equals_its_checkpoint():
    report = lstm_deploy.validate(REFERENCE)
    assert report.passed, report.failures
    assert "reference.safetensors" in report.reference


def test_its_golden_trace_replays_with_numpy_and_onnxruntime_alone():
    golden = read_npz(REFERENCE / "golden.npz")
    session = ort.InferenceSession(REFERENCE / "model.onnx", providers=["CPUExecutionProvider"])
    h, c = golden["0.h_in"], golden["0.c_in"]
    for call in range(4):
        y, h, c = session.run(["y", "h_out", "c_out"], {"x": golden[f"{call}.x"], "h_in": h, "c_in": c})
        for name, value in (("y", y), ("h_out", h), ("c_out", c)):
            wanted = golden[f"{call}.{name}"]
            assert np.abs(value - wanted).max() <= 1e-5 * max(1, np.abs(wanted).max())


@pytest.mark.parametrize("layout", ["layers-first", "batch-first"])
def test_a_fresh_export_has_the_same_contract_and_trace(tmp_path, layout):
    fresh = lstm_deploy.export(
        REFERENCE.with_suffix(".safetensors"), tmp_path / "b", formats=["onnx"], state_layout=layout
    )
    if layout == "layers-first":
        old_contract = lstm_deploy.open(REFERENCE).signature  # of a time when contracts did not say where a state is
        assert replace(fresh.signature, states=()) == old_contract
        assert fresh.signature.state_inputs == old_contract.state_inputs
    old, new = read_npz(REFERENCE / "golden.npz"), read_npz(tmp_path / "b" / "golden.npz")
    np.testing.assert_allclose(new["3.y"], old["3.y"], rtol=1e-9)


def test_its_report_is_that_of_its_manifest(tmp_path):
    """`make reference-report` writes it anew after a change of how reports are written."""
    bundle = Bundle(shutil.copytree(REFERENCE, tmp_path / "reference"))
    report.write(bundle)
    made, kept = ((folder / "report.md").read_text(encoding="utf-8") for folder in (bundle.path, REFERENCE))
    assert made == kept
