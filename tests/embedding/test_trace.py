"""The golden trace as text."""

import numpy as np

from lstm_deploy.artifacts.bundle import GOLDEN, Bundle
from lstm_deploy.artifacts.files import read_npz
from lstm_deploy.embedding.trace import trace


def test_the_trace_holds_what_pytorch_computed(forecast_bundle):
    bundle = Bundle(forecast_bundle)
    lines = [line.split() for line in trace(bundle, bundle.manifest.artifacts[0]).splitlines()]
    golden = read_npz(forecast_bundle / GOLDEN)
    assert lines[0] == ["reset", "3"]
    assert lines[-1][0] == "end"
    assert {line[0] for line in lines} == {"reset", "state", "input", "call", "output", "save", "restore", "end"}
    last = [line for line in lines if line[:2] == ["output", "h_out"]][-1]
    values, within = np.array(last[3:], float).reshape(-1, 2).T
    assert int(last[2]) == len(values)
    np.testing.assert_allclose(values, golden["0.h_out"][:, :1].ravel(), rtol=1e-8)
    assert (within >= 1e-5).all()
    assert (within < 2e-5).all()
