import numpy as np
import pytest

from lstm_deploy.benchmark.workloads import (
    ArtifactWorkload,
    BenchCase,
    SessionWorkload,
    inputs_of,
    null_model,
    rollout_feeds,
    sized_file,
)
from lstm_deploy.contract.rollouts import rollout_contract
from lstm_deploy.errors import InputError
from lstm_deploy.runtimes.onnxrt import OnnxRuntime, open_session
from lstm_deploy.runtimes.opening import open_runtime

STREAM = BenchCase(scenario="stream", scope="end_to_end", batch=2, seq_len=1)


def case(scenario, scope="end_to_end", batch=2, seq_len=4):
    return BenchCase(scenario=scenario, scope=scope, batch=batch, seq_len=1 if scenario == "stream" else seq_len)


@pytest.mark.parametrize("scenario", ["stream", "sequence"])
@pytest.mark.parametrize("suffix", ["onnx", "torchscript"])
def test_both_scopes_and_a_plain_session_compute_the_same(forecast_bundle, scenario, suffix):
    workload = ArtifactWorkload(open_runtime(forecast_bundle / f"model.{suffix}", threads=1))
    prepared = [workload.prepare(case(scenario, scope)) for scope in ("end_to_end", "resident")]
    session = open_session(forecast_bundle / "model.onnx")
    prepared.append(SessionWorkload(lambda _: session, workload.runtime.signature).prepare(case(scenario)))
    expected = prepared[0].outputs().ravel()
    assert np.isfinite(expected).all()
    for call in prepared:
        for _ in range(3):
            call.call()  # which moves the state
        np.testing.assert_allclose(call.outputs().ravel(), expected, rtol=1e-5, atol=1e-3)


def test_calls_of_a_stream_carry_the_state(forecast_bundle):
    workload = ArtifactWorkload(open_runtime(forecast_bundle / "model.onnx"))
    session = open_session(forecast_bundle / "model.onnx")
    plain = SessionWorkload(lambda _: session, workload.runtime.signature).prepare(STREAM)
    stepped = workload.prepare(STREAM)
    plain.outputs(), stepped.outputs()
    for _ in range(5):
        first, second = plain.call(), stepped.call()
        np.testing.assert_allclose(np.ravel(first), np.ravel(second), rtol=1e-5)
    assert not np.array_equal(first, plain.call())


def test_the_null_model_passes_everything_through(forecast_bundle):
    signature = open_runtime(forecast_bundle / "model.onnx").signature
    runtime = OnnxRuntime(null_model(signature))
    feeds = {**inputs_of(signature, STREAM)[0], **signature.initial_state(2)}
    feeds["h_in"] = feeds["h_in"] + 3
    outputs = runtime.run(feeds)
    np.testing.assert_array_equal(outputs["y"], feeds["x"])
    np.testing.assert_array_equal(outputs["h_out"], feeds["h_in"])
    assert ArtifactWorkload(runtime).prepare(STREAM).outputs().shape == (20, 2, 4)


def test_a_size_that_the_model_does_not_accept_is_refused():
    import modules
    import torch

    from lstm_deploy.contract.signature import TensorSpec
    from lstm_deploy.lifting.lifting import lift

    torch.manual_seed(0)
    lifted = lift(modules.Cells().eval(), (TensorSpec(name="x", dtype="float32", shape=("batch", 7, 3)),))
    with pytest.raises(InputError, match="not 4 step"):
        inputs_of(lifted.signature, case("sequence"))
    assert inputs_of(lifted.signature, case("sequence", seq_len=7))[0]["x"].shape == (2, 7, 3)
    lifted = lift(modules.Cells().eval(), (TensorSpec(name="x", dtype="float32", shape=("batch", "seq", 3)),))
    with pytest.raises(InputError, match="has seq 1, not 4; ask for that"):
        inputs_of(lifted.signature, case("sequence"))


def test_a_model_of_a_fixed_window_is_not_streamed(tmp_path):
    import modules

    from lstm_deploy import export

    bundle = export(modules.WindowNorm(), tmp_path / "w", inputs={"x": "float32[batch,10]"}, formats=["onnx"])
    workload = ArtifactWorkload(open_runtime(bundle.path / "model.onnx"))
    with pytest.raises(InputError, match="cannot be streamed"):
        workload.prepare(STREAM)


def test_rollouts_with_and_without_a_loop_compute_the_same(lm_bundle):
    kinds = ("rollout.onnx", "model.onnx", "model.torchscript")
    outputs = [ArtifactWorkload(open_runtime(lm_bundle / name)).prepare(case("rollout")).outputs() for name in kinds]
    assert outputs[0].shape == (2, 4)
    assert all(np.array_equal(y, outputs[0]) for y in outputs)
    with pytest.raises(InputError, match="makes many steps"):
        ArtifactWorkload(open_runtime(lm_bundle / "rollout.onnx")).prepare(STREAM)


def test_a_rollout_makes_as_many_steps_as_asked(forecast_bundle, lm_bundle):
    for bundle in (forecast_bundle, lm_bundle):
        contract = rollout_contract(open_runtime(bundle / "model.onnx").signature)
        feeds = rollout_feeds(contract, case("rollout", seq_len=7))
        assert int(feeds["steps"]) == 7 if "steps" in feeds else feeds["noise"].shape == (2, 7)


def test_a_stock_file_is_named_by_its_size(tmp_path):
    assert sized_file(tmp_path / "stock.onnx", STREAM) == tmp_path / "stock.2x1.onnx"
