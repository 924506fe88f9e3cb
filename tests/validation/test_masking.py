"""A graph that takes NaN for a number is told from a right one, though no expected output tells them apart."""

import shutil

import numpy as np
import onnx
import pytest
import torch
from graph_edits import on_input
from msgspec.structs import replace
from mutants import MUTANTS, clipped
from torch import nn

from lstm_deploy.contract.signature import TensorSpec
from lstm_deploy.exporters.onnx import export_onnx
from lstm_deploy.lifting.lifting import lift
from lstm_deploy.validation.anew import Anew
from lstm_deploy.validation.checks import Subject
from lstm_deploy.validation.masking import masked_inputs

MASKS = {
    "a missing x is 0": (MUTANTS["NaN masked"].change, "NaN in x counts as 0, which no lowering does."),
    "a missing c is 0.5": (
        on_input(
            "c_in",
            ("Equal", ["IN", "IN"], ["is_there"]),
            ("Where", ["is_there", "IN", "half"], ["c_filled"]),
            constants=[("half", np.float32(0.5))],
        ),
        "NaN in c_in counts as 0.5, which no lowering does.",
    ),
}


@pytest.fixture(scope="module")
def right(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("right") / "model.onnx"
    export_onnx(lift(nn.LSTM(4, 8, batch_first=True).eval(), [TensorSpec.parse("x:float32[batch,seq,4]")]), path)
    return path


def changed(right, path, change):
    model = onnx.load(right)
    change(model)
    model.producer_name = "another"
    onnx.save(model, path)
    return path


@pytest.mark.parametrize("mask", MASKS)
def test_a_mask_is_named(right, tmp_path, mask):
    change, sentence = MASKS[mask]
    path = changed(right, tmp_path / "other.onnx", change)
    assert masked_inputs(path, right, [0.5]) == [sentence]
    problems, _ = Anew(Subject(path=path, name=path.name, precision="float32"), right).findings()
    assert problems == [sentence]


def test_what_the_runtime_itself_makes_of_nan_is_no_mask(right, tmp_path):
    path = changed(right, tmp_path / "clipped.onnx", clipped("x", -1e4, 1e4))
    assert masked_inputs(path, right, [-1e4, 1e4]) == []
    shutil.copy(path, tmp_path / "same.onnx")
    assert masked_inputs(path, tmp_path / "same.onnx", [-1e4, 1e4]) == []
    subject = Subject(path=path, name=path.name, precision="float32")
    assert Anew(subject, right).findings()[0] == []
    assert Anew(replace(subject, path=right), right).findings()[0] == []
