import numpy as np
import onnx
import pytest
import torch
from torch import nn

from lstm_deploy.contract.signature import TensorSpec
from lstm_deploy.exporters.onnx import export_onnx
from lstm_deploy.exporters.precision.evaluation_data import evaluation_data
from lstm_deploy.exporters.precision.int8_onnx import Settings, quantizable_nodes, quantize_onnx
from lstm_deploy.exporters.precision.search import ANY_CPU, Evaluator, search_int8
from lstm_deploy.lifting.lifting import lift
from lstm_deploy.validation.case_inputs import Effort
from lstm_deploy.validation.pytorch_reference import PyTorchReference
from lstm_deploy.validation.reference_cases import make_cases

SMALL = Effort(50, ((1, 1), (3, 7)), 1, 1e9)


class Three(nn.Module):
    """The middle layer has a row that per-tensor scales cannot hold beside the others."""

    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(4, 8, 3, batch_first=True)
        self.fc = nn.Linear(8, 2)

    def forward(self, x):
        return self.fc(self.lstm(x)[0])


def search(path, folder, evaluator):
    nodes = quantizable_nodes(onnx.load(path), "onnx")
    return search_int8(nodes, path, folder / "q.onnx", evaluator, lambda _: None, quantize_onnx, ANY_CPU)


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A float32 file, evaluation data and the cases."""
    path = tmp_path_factory.mktemp("candidates") / "m.onnx"
    torch.manual_seed(0)
    lifted = lift(Three().eval(), [TensorSpec.parse("x:float32[batch,seq,4]")])
    export_onnx(lifted, path)
    return path, evaluation_data(lifted.signature, None), make_cases(PyTorchReference(lifted), SMALL)


def test_within_the_budget_all_settings_are_found_and_nothing_stays_in_float(exported, tmp_path):
    path, data, cases = exported
    within, tried = search(path, tmp_path, Evaluator(path, data, cases, None))
    assert within == tried
    assert {candidate.settings["scales"] for candidate in tried} == {"per channel", "per tensor"}
    assert all(not candidate.kept and 0 < candidate.difference < 0.1 for candidate in tried)


def test_over_the_budget_layers_stay_in_float_the_most_sensitive_first(exported, tmp_path):
    path, data, cases = exported
    free = Evaluator(path, data, cases, 1.0)
    _, tried = search(path, tmp_path, free)
    whole = min(candidate.difference for candidate in tried)
    budget = Evaluator(path, data, cases, 0.6 * whole)
    within, tried = search(path, tmp_path, budget)
    alone = {candidate.kept[0]: candidate.difference for candidate in tried if len(candidate.kept) == 1}
    assert len(alone) == 3
    (candidate,) = within
    assert candidate.difference <= 0.6 * whole
    order = sorted(alone, key=lambda label: alone[label])
    assert set(candidate.kept) == set(order[: len(candidate.kept)])


def test_where_nothing_holds_the_reason_is_kept(exported, tmp_path):
    path, data, cases = exported
    within, tried = search(path, tmp_path, Evaluator(path, data, cases, 1e-9))
    assert within == []
    assert all("of how much these vary on inputs drawn at random, where 1e-07% is allowed" in t.problem for t in tried)


def test_a_wrong_artifact_is_over_every_budget(exported, tmp_path, monkeypatch):
    path, data, cases = exported
    wrong = [case._replace(expected=tuple({k: v + 3 for k, v in w.items()} for w in case.expected)) for case in cases]
    candidate = Evaluator(path, data, wrong, 1.0).evaluate(path, "int8")
    assert "differs by 3" in candidate.problem


def test_slower_weights_are_tried_only_where_no_faster_are_within_the_budget(exported, tmp_path):
    path, data, cases = exported
    exact = Evaluator(path, data, cases, 1.0)
    best = {}
    for weights in ("paired", "unsigned"):
        quantize_onnx(path, tmp_path / "q.onnx", Settings(weights=weights))
        best[weights] = exact.evaluate(tmp_path / "q.onnx", "int8").difference
    assert best["unsigned"] < best["paired"]
    between = Evaluator(path, data, cases, sum(best.values()) / 2)
    (candidate,), tried = search(path, tmp_path, between)
    assert [candidate.settings["weights"] for candidate in tried] == ["int8", "int8", "uint8"]
    assert (candidate.settings["weights"], candidate.kept) == ("uint8", ())


def test_a_metric_is_the_measure_where_there_is_one(exported):
    path, data, cases = exported
    truth = tuple(np.zeros((8, 64, 2), np.float32) for _ in data.calls)
    candidate = Evaluator(path, data._replace(metric="rmse", truth=truth), cases, None).evaluate(path, "int8")
    assert candidate.metric is not None
    assert candidate.loss == 0
