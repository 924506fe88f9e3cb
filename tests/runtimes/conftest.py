import authors
import numpy as np
import pytest
from c_programs import written
from feeding import feeders

import lstm_deploy
from lstm_deploy.runtimes import c_compiler


@pytest.fixture(scope="module")
def stock(tmp_path_factory):
    _, path = written(authors.Stock(), tmp_path_factory.mktemp("stock"), "x:float32[batch,seq,4]", name="stock")
    c_compiler.build(path)
    return path


@pytest.fixture(scope="module")
def model(forecast_bundle):
    return lstm_deploy.open(forecast_bundle)


@pytest.fixture
def x():
    return np.random.default_rng(0).uniform(100, 300, (2, 12, 4)).astype(np.float32)


@pytest.fixture(scope="module")
def fixed(tmp_path_factory):
    """A network whose window is fixed, so that it can be streamed in no other way."""
    feeder = feeders()["fixed window"]
    path = tmp_path_factory.mktemp("fixed") / "b"
    lstm_deploy.export(feeder.module.eval(), path, inputs=feeder.inputs, task=feeder.task, formats=["onnx"])
    return lstm_deploy.open(path)
