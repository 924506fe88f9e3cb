import json

import numpy as np
import pytest
from command_line import fails, run


def test_failed_parity_is_exit_3_and_says_where(bundle_copy, forecaster):
    import onnx

    model = onnx.load(bundle_copy / "model.onnx")
    node = next(node for node in model.graph.node if node.op_type == "LSTM")
    node.input[5], node.input[6] = node.input[6], node.input[5]
    onnx.save(model, bundle_copy / "model.onnx")
    out, _ = run("validate", bundle_copy, code=3)
    assert "model.onnx shapes h_out: worst at [" in out
    out, _ = run("validate", bundle_copy, "--json", code=3)
    assert json.loads(out)["passed"] is False


def test_an_artifact_that_overflows_is_exit_3_and_recorded(bundle_copy):
    import onnx

    model = onnx.load(bundle_copy / "model.onnx")
    (bias,) = (tensor for tensor in model.graph.initializer if tensor.name == "module.fc.bias")
    bias.raw_data = np.full(4, np.inf, np.float32).tobytes()
    onnx.save(model, bundle_copy / "model.onnx")
    run("validate", bundle_copy, code=3)
    assert "FAILED" in (bundle_copy / "report.md").read_text(encoding="utf-8")
    assert "model.onnx" in run("inspect", bundle_copy)[0]


def test_a_missing_provider_is_exit_4(forecast_bundle):
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    assert "--provider cpu" in fails("validate", forecast_bundle, "--provider", "cuda", code=4)
    assert "--provider cpu" in fails("bench", forecast_bundle, "--provider", "cuda", code=4)
    assert "--provider cpu" in fails("bench", forecast_bundle, "--provider", "tensorrt", code=4)
