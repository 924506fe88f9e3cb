from functools import cache

import numpy as np
import onnx
import pytest
import torch
from c_programs import NEEDS_CC, written
from graph_edits import at, edit, layers
from torch import nn
from torch.nn.utils import prune

from lstm_deploy.artifacts import constants_of
from lstm_deploy.contract.signature import TensorSpec
from lstm_deploy.exporters.onnx import export_onnx
from lstm_deploy.exporters.precision.float16_onnx import export_float16
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


class Derived(nn.Module):
    """Weights that its graph holds in another form, or not at all, each in one of its branches."""

    def __init__(self, kind):
        super().__init__()
        self.kind = kind
        self.conv = nn.Conv1d(6, 8, 3, padding=1, bias=kind != "convolution without a bias")
        self.gru = nn.GRU(8, 8, batch_first=True)
        self.fc = nn.Linear(8, 8)
        self.norm = nn.BatchNorm1d(6 if kind == "before" else 8)
        self.mask = nn.Buffer((torch.rand(8, 8) > 0.3).float())
        if kind == "weight norm":
            self.conv = nn.utils.parametrizations.weight_norm(self.conv)
        if kind == "pruned":
            prune.random_unstructured(self.conv, "weight", 0.3)

    def forward(self, x):
        x = x.transpose(1, 2)
        x = self.conv(self.norm(x) if self.kind == "before" else x)
        if "convolution" in self.kind:
            x = self.norm(x)
        y, h = self.gru(torch.relu(x).transpose(1, 2))
        if self.kind == "linear layer":
            return self.norm(self.fc(h[-1]))
        w = self.fc.weight
        changed = {"masked": w * self.mask, "clamped": w.clamp(-0.3, 0.3), "flipped": w.flip(0), "scaled": 2 * w}
        return nn.functional.linear(y, changed.get(self.kind, w), self.fc.bias)


@pytest.fixture(scope="module")
def derived(tmp_path_factory):
    """The module of a kind, trained a little so that its norm does something, and the graph that it is written as."""

    @cache
    def make(kind):
        torch.manual_seed(0)
        module = Derived(kind)
        for _ in range(3):
            module(2 * torch.randn(4, 9, 6) + 1)
        lifted = lift(module.eval(), [TensorSpec.parse("x:float32[batch,seq,6]")])
        export_onnx(lifted, path := tmp_path_factory.mktemp("derived") / "today.onnx")
        return lifted, path

    return make


FOLDED = {
    "convolution": "module.conv.weight",
    "convolution without a bias": "module.conv.weight",
    "linear layer": "module.fc.weight",
    "masked": "module.fc.weight",
    "clamped": "module.fc.weight",
    "flipped": "module.fc.weight",
    "pruned": "module.conv.weight_orig",
}
"""The weight that stands in the graph in another form, such as one that a batch norm is folded into."""
AS_THEY_ARE = ["before", "weight norm", "scaled"]


def in_float16(path, folder):
    """The same graph in float16, where outputs are too coarse to tell one weight."""
    export_float16(path, half := folder / "half.onnx", "float16")
    return half


@pytest.mark.parametrize("kind", [*FOLDED, *AS_THEY_ARE])
def test_a_weight_may_stand_in_the_form_in_which_the_graph_of_today_holds_it(kind, derived, tmp_path):
    lifted, today = derived(kind)
    assert weight_problems(today, lifted, today) == []
    assert weight_problems(in_float16(today, tmp_path), lifted, today) == []
    assert bool(weight_problems(today, lifted)) == (kind in FOLDED), "the test is of weights that are folded"


@pytest.mark.parametrize("kind", FOLDED)
@pytest.mark.parametrize("by", [1.01, -1.0])
def test_a_folded_weight_that_was_changed_is_named(kind, by, derived, tmp_path):
    lifted, today = derived(kind)
    model = onnx.load(today)
    size = next(value.numel() for name, value in lifted.state_dict().items() if name == FOLDED[kind])
    constants = {name: value for name, value in constants_of(model).items() if value.size == size}
    name = FOLDED[kind] if FOLDED[kind] in constants else next(name for name in constants if ".gru." not in name)
    largest = np.unravel_index(np.abs(constants[name]).argmax(), constants[name].shape)
    edit(model, name, at(largest, lambda value: by * value))
    onnx.save(model, changed := tmp_path / "changed.onnx")
    for path in (changed, in_float16(changed, tmp_path)):
        problems = weight_problems(path, lifted, today)
        assert problems[0].startswith(f"{FOLDED[kind]}: 1 of {size} entries differ")
        assert all(problem.startswith(FOLDED[kind]) for problem in problems)
