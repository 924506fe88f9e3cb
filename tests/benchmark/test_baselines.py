import authors
import modules
import numpy as np
import onnx
import pytest
import torch
from authors import CharLSTM, SineLSTM

from lstm_deploy.benchmark import baselines
from lstm_deploy.benchmark.workloads import BenchCase, SessionWorkload, sized_file
from lstm_deploy.contract.signature import TensorSpec
from lstm_deploy.errors import InputError
from lstm_deploy.lifting.lifting import lift
from lstm_deploy.lifting.recurrent import StatefulSequence, is_plain
from lstm_deploy.lifting.sources import Origin, load, origin_from_json, origin_to_json
from lstm_deploy.runtimes.onnxrt import open_session


def lifted(module, shape=("batch", "seq", 3)):
    torch.manual_seed(0)
    return lift(module.eval(), (TensorSpec(name="x", dtype="float32", shape=shape),))


def case(scenario, scope="end_to_end", batch=2):
    return BenchCase(scenario=scenario, scope=scope, batch=batch, seq_len=1 if scenario == "stream" else 4)


@pytest.mark.parametrize("scope", ["end_to_end", "resident"])
@pytest.mark.parametrize("scenario", ["stream", "sequence"])
@pytest.mark.parametrize(
    ("module", "features"),
    [
        (modules.ReturnsState(), 3),
        (modules.TwoLSTMs(), 3),
        (modules.DemandsState(), 3),
        (SineLSTM(3), 3),
        (CharLSTM(5, 8), 5),
    ],
    ids=lambda value: type(value).__name__,
)
def test_eager_without_lifting_computes_the_same(module, features, scenario, scope, monkeypatch):
    monkeypatch.setattr(authors, "device", torch.device("cpu"))  # eager is timed where the artifacts are
    wrapped = lifted(module, ("batch", "seq", features))
    expected = baselines.ArtifactWorkload(baselines.EagerRuntime(wrapped)).prepare(case(scenario)).outputs()
    workload = baselines.EagerWorkload(wrapped, "cpu")
    assert workload.recurrent
    prepared = workload.prepare(case(scenario, scope))
    prepared.call()
    np.testing.assert_allclose(prepared.outputs().ravel(), expected.ravel(), atol=1e-6)


def test_calls_continue_from_the_state():
    wrapped = lifted(modules.ReturnsState())
    call = baselines.EagerWorkload(wrapped, "cpu").prepare(case("stream")).call
    first, second = call(), call()
    assert not np.array_equal(first, second)


@pytest.mark.parametrize("module", [modules.Cells(), modules.CalledTwice()], ids=lambda m: type(m).__name__)
def test_a_module_that_cannot_carry_its_state_runs_as_lifted(module):
    wrapped = lifted(module)
    assert baselines.carrying(wrapped) == []
    assert all(not isinstance(child, baselines.CarryingSequence) for child in wrapped.modules())
    one_step = BenchCase(scenario="sequence", scope="end_to_end", batch=2, seq_len=1)
    assert baselines.EagerWorkload(wrapped, "cpu").prepare(one_step).outputs().size


def test_a_module_is_restored_after_streams_and_for_rollouts():
    wrapped = lifted(modules.ReturnsState())
    workload = baselines.EagerWorkload(wrapped, "cpu")
    assert all(is_plain(child, StatefulSequence) for child in workload.recurrent)
    workload.prepare(case("stream"))
    assert all(isinstance(child, baselines.CarryingSequence) for child in workload.recurrent)
    with pytest.raises(InputError):  # it has no task
        workload.prepare(case("rollout"))
    assert all(is_plain(child, StatefulSequence) for child in workload.recurrent)


@pytest.mark.parametrize("kind", ["stock-onnx", "stock-fixed", "legacy-onnx", "legacy-int8"])
def test_stock_exports_compute_the_same(kind, forecast_bundle, forecaster, tmp_path):
    path = tmp_path / "stock.onnx"
    baselines.write_stock(forecast_bundle, "", kind, path, [case("stream")])
    signature = load(Origin(path=forecaster)).lifted.signature

    def session_for(case):
        return open_session(sized_file(path, case) if "stock" in kind else path, threads=1)

    actual = SessionWorkload(session_for, signature).prepare(case("stream")).outputs().ravel()
    ours = SessionWorkload(lambda _: open_session(forecast_bundle / "model.onnx"), signature)
    expected = ours.prepare(case("stream")).outputs().ravel()
    np.testing.assert_allclose(actual, expected, rtol=0.05 if kind == "legacy-int8" else 1e-4)
    if kind == "legacy-int8":
        assert "DynamicQuantizeLSTM" in {node.op_type for node in onnx.load(path).graph.node}


def test_a_failing_exporter_is_reported_in_one_sentence(forecast_bundle, tmp_path, monkeypatch):
    def fail(*_args, **_kwargs):
        raise RuntimeError("no such operator\nand a long trace")

    monkeypatch.setattr(torch.onnx, "export", fail)
    with pytest.raises(InputError, match=r"exporter fails on this model \(no such operator"):
        baselines.write_stock(forecast_bundle, "", "legacy-onnx", tmp_path / "s.onnx", [])


def test_a_failing_compiler_is_reported_in_one_sentence(monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda *_, **__: lambda x: 1 / 0)
    monkeypatch.setattr(baselines.logging, "disable", lambda _: None)
    monkeypatch.setattr(baselines.warnings, "simplefilter", lambda _: None)
    workload = baselines.EagerWorkload(lifted(modules.ReturnsState()), "cpu", baselines.compiled)
    with pytest.raises(InputError, match=r"torch\.compile cannot compile this model here \(division by zero"):
        workload.prepare(case("stream")).call()


def test_an_origin_survives_the_json_for_another_process(tmp_path):
    origin = Origin(
        path=tmp_path / "w.pt",
        model="net.py:Net",
        init={"hidden": 3},
        inputs=(TensorSpec(name="x", dtype="float32", shape=("batch", "seq", 3)),),
    )
    assert origin_from_json(origin_to_json(origin)) == origin
