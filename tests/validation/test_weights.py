import torch
from c_programs import NEEDS_CC, written
from torch import nn

from lstm_deploy.contract.signature import TensorSpec
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
