import re

import modules
import numpy as np
import pytest

from lstm_deploy.contract.sampling import sample_inputs
from lstm_deploy.contract.signature import TensorSpec
from lstm_deploy.errors import InputError, MissingPackageError
from lstm_deploy.exporters.onnx import export_onnx
from lstm_deploy.lifting.lifting import lift
from lstm_deploy.runtimes.opening import open_runtime
from lstm_deploy.runtimes.openvino import OpenVinoRuntime


def test_it_computes_in_the_precision_that_is_asked_for(forecast_bundle):
    pytest.importorskip("openvino", reason='OpenVINO is not installed; pip install "lstm-deploy[openvino]"')
    ours = open_runtime(forecast_bundle / "model.onnx")
    feeds = {**sample_inputs(ours.signature.inputs, {"batch": 2, "seq": 5}, np.random.default_rng(0))}
    feeds |= ours.signature.initial_state(2)
    expected = ours.run(feeds)["h_out"]
    exact = OpenVinoRuntime(forecast_bundle / "model.onnx", 1).run(feeds)["h_out"]
    rounded = OpenVinoRuntime(forecast_bundle / "model.onnx", 1, bf16=True)
    np.testing.assert_allclose(exact, expected, atol=1e-5)
    try:
        got = rounded.run(feeds)["h_out"]
    except InputError as error:
        assert re.search(r"cannot compile the model in bf16 on this CPU .* leave out its baselines", str(error))
        return
    np.testing.assert_allclose(got, expected, atol=0.1)
    if rounded.active() == ["CPU bf16"]:  # older CPUs have no such arithmetic
        assert np.abs(got - expected).max() > 1e-5


def test_a_missing_package_is_an_error_with_its_remedy(forecast_bundle, monkeypatch):
    monkeypatch.setattr("lstm_deploy.errors.find_spec", lambda _: None)
    with pytest.raises(MissingPackageError, match=r"lstm-deploy\[openvino\]"):
        OpenVinoRuntime(forecast_bundle / "model.onnx")


def test_a_file_that_is_no_model_is_refused(tmp_path):
    pytest.importorskip("openvino", reason='OpenVINO is not installed; pip install "lstm-deploy[openvino]"')
    (tmp_path / "m.onnx").write_bytes(b"garbage")
    with pytest.raises(InputError, match="OpenVINO cannot read"):
        OpenVinoRuntime(tmp_path / "m.onnx")


def test_rows_of_unequal_length_are_refused(tmp_path):
    """OpenVINO, as onnx's reference evaluator, takes `sequence_lens` and ignores it."""
    found = pytest.importorskip("openvino", reason='OpenVINO is not installed; pip install "lstm-deploy[openvino]"')
    specs = [TensorSpec.parse("x:float32[batch,seq,3]"), TensorSpec.parse("lengths:int64[batch]")]
    path = tmp_path / "m.onnx"
    export_onnx(lift(modules.Packs().eval(), specs), path)
    ours = open_runtime(path)
    feeds = {"x": np.ones((2, 7, 3), np.float32), "lengths": np.array([7, 3]), **ours.signature.initial_state(2)}
    ignoring = found.Core().compile_model(path, "CPU")(feeds)
    assert np.abs(ignoring["h_out"] - ours.run(feeds)["h_out"]).max() > 1e-3, "OpenVINO has learned it: allow it"
    with pytest.raises(InputError, match="ignores the lengths of rows"):
        OpenVinoRuntime(path)
