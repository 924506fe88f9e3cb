"""Files of ours in readers other than onnxruntime: they open, and compute the same."""

from pathlib import Path

import modules
import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx.reference import ReferenceEvaluator
from torch import nn

from lstm_deploy.contract.signature import Signature, TensorSpec
from lstm_deploy.exporters.onnx import export_onnx
from lstm_deploy.lifting.lifting import lift


def onnx_reference(path, feeds):
    return ReferenceEvaluator(str(path)).run(None, feeds)


def openvino(path, feeds):
    found = pytest.importorskip("openvino", reason='OpenVINO is not installed; pip install "lstm-deploy[openvino]"')
    results = found.Core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})(feeds)
    return [np.asarray(results[number]) for number in range(len(results))]


def tract(path, feeds):
    found = pytest.importorskip("tract", reason="tract is not installed; pip install tract")
    runnable = found.onnx().load(str(path)).into_model().into_runnable()
    return [value.to_numpy() for value in runnable.run(list(feeds.values()))]


class AttentionAfterConvolution(nn.Module):
    """Sizes that are computed, and axes that are moved, before and after the LSTM."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv1d(4, 6, 3, padding=1)
        self.lstm = nn.LSTM(6, 8, batch_first=True, bidirectional=True)
        self.score = nn.Linear(16, 1)

    def forward(self, x):
        y, _ = self.lstm(self.conv(x.transpose(1, 2)).transpose(1, 2))
        return (self.score(y).softmax(1) * y).sum(1)


class Tokens(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(5, 6)
        self.lstm = nn.LSTM(6, 8, batch_first=True)
        self.head = nn.Linear(8, 5)

    def forward(self, x, state=None):
        y, state = self.lstm(self.embedding(x), state)
        return self.head(y).log_softmax(-1), state


FLOATS = ("x:float32[batch,seq,4]",)
MODULES = {
    "layers": (lambda: modules.HidesState(num_layers=2), ("x:float32[batch,seq,3]",)),
    "projection": (lambda: nn.LSTM(4, 8, 2, proj_size=5, batch_first=True), FLOATS),
    "attention": (AttentionAfterConvolution, FLOATS),
    "tokens": (Tokens, ("x:int64[batch,seq]",)),
    "cell": (lambda: nn.LSTMCell(4, 8), ("x:float32[batch,4]",)),
}


@pytest.fixture(scope="module", params=MODULES)
def model(request, tmp_path_factory) -> Path:
    make, inputs = MODULES[request.param]
    path = tmp_path_factory.mktemp("readers") / "model.onnx"
    export_onnx(lift(make().eval(), tuple(map(TensorSpec.parse, inputs))), path)
    return path


@pytest.mark.parametrize("read", [onnx_reference, openvino, tract])
def test_other_readers_open_our_files_and_agree(model, read):
    (contract,) = (prop.value for prop in onnx.load(model).metadata_props)
    signature = Signature.from_json(contract)
    session = ort.InferenceSession(model, providers=["CPUExecutionProvider"])
    rng = np.random.default_rng(0)
    for batch, seq in ((1, 1), (2, 7)):
        feeds = {}
        for spec in (*signature.inputs, *signature.state_inputs):
            shape = spec.sized({"batch": batch, "seq": seq})
            feeds[spec.name] = (
                rng.integers(0, 5, shape) if spec.dtype == "int64" else rng.normal(size=shape).astype("f")
            )
        for got, expected in zip(read(model, feeds), session.run(None, feeds), strict=True):
            np.testing.assert_allclose(got, expected, atol=1e-5, rtol=1e-5)


def test_the_shapes_of_outputs_are_seen_by_shape_inference(model):
    """What was left out of the file is found again, in the names of its inputs."""
    graph = onnx.shape_inference.infer_shapes(onnx.load(model), strict_mode=True, data_prop=True).graph
    ranks = {value.name: len(value.type.tensor_type.shape.dim) for value in graph.value_info}
    outputs = {name for node in graph.node for name in node.output if name} - {value.name for value in graph.output}
    assert outputs <= set(ranks)
