import json
import shutil

import pytest

import lstm_deploy
from lstm_deploy.benchmark import Plan, bench
from lstm_deploy.errors import InputError, ProviderError

QUICK = {"batches": (1,), "seq_lens": (5,), "rounds": 3}
PROMISED = {
    "variant",
    "artifact",
    "provider",
    "precision",
    "scenario",
    "scope",
    "batch",
    "seq_len",
    "threads",
    "p50_us",
    "p90_us",
    "p99_us",
    "steps_per_s",
    "ratio_to_baseline",
    "ratio_interval",
    "roofline_fraction",
    "warnings",
}


@pytest.fixture(scope="module")
def document(forecast_bundle):
    seen = []
    found = bench([forecast_bundle], Plan(**QUICK), lambda *event: seen.append(event))
    assert seen[-1][0] == seen[-1][1] == len(seen) == 6
    return found


def test_the_json_is_as_promised(document):
    json.dumps(document, allow_nan=False)
    assert document["schema_version"] == 1
    assert {"environment", "plan", "results"} <= set(document)
    assert all(set(row) >= PROMISED for row in document["results"])


def test_every_variant_is_timed_in_every_scenario(document):
    rows = {(row["variant"], row["scenario"], row["seq_len"]) for row in document["results"]}
    variants = ("eager", "onnx", "torchscript")
    assert rows == {(name, *case) for name in variants for case in (("stream", 1), ("sequence", 5))}


def test_figures_belong_together(document):
    for row in document["results"]:
        assert 0 < row["p50_us"] <= row["p90_us"]
        assert row["steps_per_s"] == pytest.approx(row["seq_len"] * 1e6 / row["p50_us"])
        low, high = row["ratio_interval"]
        assert low <= row["ratio_to_baseline"] <= high
        if row["variant"] == "eager":
            assert (row["ratio_to_baseline"], low, high) == (1, 1, 1)


def test_without_the_source_there_is_no_baseline(bundle_copy, tmp_path):
    (tmp_path / "forecaster.safetensors").unlink()
    found = bench([bundle_copy], Plan(scenarios=("stream",), **QUICK))
    assert {row["variant"] for row in found["results"]} == {"onnx", "torchscript"}
    assert all(row["ratio_to_baseline"] is None for row in found["results"])
    assert found["left_out"] == ["eager: the model is gone, or would have to run code of yours"]


def test_several_targets_are_told_apart(forecast_bundle, tmp_path):
    shutil.copy(forecast_bundle / "model.onnx", tmp_path / "other.onnx")
    plan = Plan(scenarios=("stream",), baselines=(), **QUICK)
    found = bench([forecast_bundle / "model.onnx", tmp_path / "other.onnx"], plan)
    assert [row["variant"] for row in found["results"]] == ["model.onnx: onnx", "other.onnx: onnx"]


def test_a_model_that_cannot_stream_is_left_out_with_the_reason(tmp_path):
    import modules

    module = modules.HidesState(bidirectional=True)
    bundle = lstm_deploy.export(module, tmp_path / "b", inputs={"x": "float32[batch,seq,3]"}, formats=["onnx"])
    found = bench([bundle.path], Plan(**QUICK))
    assert {row["scenario"] for row in found["results"]} == {"sequence"}
    assert any("bidirectional" in reason for reason in found["left_out"])


@pytest.mark.parametrize(
    "wrong",
    [{"scenarios": ("streem",)}, {"baselines": ("tensorflow",)}, {"batches": (0,)}, {"providers": ("tpu",)}],
    ids=str,
)
def test_a_wrong_plan_is_refused(forecast_bundle, wrong):
    with pytest.raises(InputError):
        bench([forecast_bundle], Plan(**{**QUICK, **wrong}))


def test_a_provider_that_is_not_there_is_no_quiet_cpu_run(forecast_bundle):
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    with pytest.raises(ProviderError):
        bench([forecast_bundle], Plan(providers=("cuda",), **QUICK))


def test_a_broken_artifact_is_the_users_to_mend(tmp_path):
    (tmp_path / "m.onnx").write_bytes(b"garbage")
    with pytest.raises(InputError, match=r"m\.onnx"):
        bench([tmp_path / "m.onnx"], Plan(**QUICK))
    with pytest.raises(InputError, match="does not exist"):
        bench([tmp_path / "none.onnx"], Plan(**QUICK))


def test_a_rollout_is_no_step(forecast_bundle):
    with pytest.raises(InputError, match="whose calls make many steps"):
        bench([forecast_bundle / "rollout.onnx"], Plan(baselines=(), rounds=3))
