import numpy as np
import onnx
import pytest
import torch
from c_programs import NEEDS_CC, written
from graph_edits import edit, layers
from torch import nn

from lstm_deploy.contract.signature import TensorSpec
from lstm_deploy.exporters.onnx import export_onnx
from lstm_deploy.lifting.lifting import lift
from lstm_deploy.validation.weights import weight_problems


@NEEDS_CC
def test_square_matrices_are_the_models_however_they_are_stored(tmp_path):
    """`x @ w` needs the matrix the other way round than a layer does; in a square one, the shape does not tell."""

    class Square(nn.Module):
        def __init__(self):
            super().__init__()
            self.lstm = nn.LSTM(4, 6, batch_first=True)
            self.w = nn.Parameter(torch.randn(6, 6))
            self.head = nn.Linear(6, 6)

        def forward(self, x):
            return self.head(self.lstm(x)[0] @ self.w)

    module = Square().eval()
    _, path = written(module, tmp_path, "x:float32[batch,seq,4]")
    lifted = lift(module, [TensorSpec.parse("x:float32[batch,seq,4]")])
    assert weight_problems(path, lifted) == []
    assert weight_problems(path.with_suffix(".onnx"), lifted) == []
    with torch.no_grad():
        lifted.module.w[2, 3] += 0.01
    assert [problem for problem in weight_problems(path, lifted) if "module.w" in problem]


CELLS = {
    "LSTM": nn.LSTM(4, 5, 2, batch_first=True),
    "GRU": nn.GRU(4, 5, 2, batch_first=True, bidirectional=True),
    "RNN": nn.RNN(4, 5, 2, batch_first=True),
}


@pytest.mark.parametrize("kind", CELLS)
def test_biases_may_lie_in_one_where_a_gate_uses_their_sum(kind, tmp_path):
    """Other exporters add them; the new gate of a GRU uses them apart."""
    lifted = lift(CELLS[kind].eval(), [TensorSpec.parse("x:float32[batch,seq,4]")])
    export_onnx(lifted, path := tmp_path / "net.onnx")
    new = slice(10, 15) if kind == "GRU" else slice(0)

    def summed(biases, *, kept):
        ih, hh = np.split(biases, 2, axis=1)
        total = ih + hh
        total[:, kept], rest = ih[:, kept], 0 * hh
        rest[:, kept] = hh[:, kept]
        return np.concatenate([total, rest], 1)

    model = onnx.load(path)
    for node in layers(model):
        edit(model, node.input[3], lambda biases: summed(biases, kept=new))
    onnx.save(model, path)
    assert weight_problems(path, lifted) == []
    if kind == "GRU":
        edit(model, layers(model)[1].input[3], lambda biases: summed(biases, kept=slice(0)))
        onnx.save(model, path)
        (problem,) = weight_problems(path, lifted)
        assert (
            "layer 1: bias_ih and bias_hh: bias_hh is added to bias_ih, where the new gate uses them apart" in problem
        )
