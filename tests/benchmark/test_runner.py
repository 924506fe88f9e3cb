import json
import shutil

import modules
import pytest
import torch
from msgspec.structs import replace

import lstm_deploy
from lstm_deploy.artifacts import Bundle
from lstm_deploy.benchmark.plan import Plan
from lstm_deploy.benchmark.runner import bench
from lstm_deploy.errors import InputError, ProviderError
from lstm_deploy.lifting.sources import Origin

QUICK = {"batches": (1,), "seq_lens": (5,), "rounds": 9, "baselines": ("eager", "floor"), "roofline": False}
STREAM = {**QUICK, "scenarios": ("stream",), "scopes": ("end_to_end",), "baselines": ()}
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
    result = bench(
        [forecast_bundle], Plan(**{**QUICK, "roofline": True}), on_progress=lambda *event: seen.append(event)
    )
    assert seen[0][2] == "preparing"
    assert seen[-1][0] == seen[-1][1] == 4 * 9
    return result


@pytest.mark.parametrize("shape", ["float32[batch,10]", "float32[batch,seq]"])
def test_a_model_that_fixes_its_window_is_timed_on_that(shape, tmp_path):
    torch.manual_seed(0)
    bundle = lstm_deploy.export(modules.WindowNorm().eval(), tmp_path / "window", inputs={"x": shape}, formats=["onnx"])
    result = bench([bundle.path], Plan(**{**STREAM, "scenarios": ("sequence",), "seq_lens": ()}))
    assert {row["seq_len"] for row in result["results"]} == {10}


def test_a_model_of_one_step_a_call_is_timed_on_one(tmp_path):
    bundle = lstm_deploy.export(modules.StepCell().eval(), tmp_path / "b", inputs={"x": "float32[batch,3]"})
    result = bench([bundle.path], Plan(**{**STREAM, "scenarios": ("stream", "sequence"), "seq_lens": ()}))
    assert {(row["scenario"], row["seq_len"]) for row in result["results"]} == {("stream", 1), ("sequence", 1)}
    assert result["left_out"] == []


def test_the_json_has_the_documented_fields(document):
    json.dumps(document, allow_nan=False)
    assert document["schema_version"] == 1
    assert {"environment", "plan", "results", "peaks", "state"} <= set(document)
    assert all(set(row) >= PROMISED for row in document["results"])


def test_every_variant_is_timed_in_every_scenario_and_scope(document):
    rows = {(row["variant"], row["scenario"], row["scope"], row["seq_len"]) for row in document["results"]}
    variants = ("eager", "floor", "onnx", "torchscript", "eager again")
    cases = [(*size, scope) for size in (("stream", 1), ("sequence", 5)) for scope in ("end_to_end", "resident")]
    assert rows == {(name, scenario, scope, seq_len) for name in variants for scenario, seq_len, scope in cases}


def test_figures_are_consistent(document):
    for row in document["results"]:
        assert 0 < row["p50_us"] <= row["p90_us"]
        assert row["p50_interval_us"][0] <= row["p50_us"] <= row["p50_interval_us"][1]
        assert row["steps_per_s"] == pytest.approx(row["seq_len"] * 1e6 / row["p50_us"])
        low, high = row["ratio_interval"]
        assert low <= row["ratio_to_baseline"] <= high
        assert row["baseline"] == "eager"
        assert row["noise_floor"] >= 0.02
        assert len(row["samples_us"]) == len(row["round_medians_us"]) == 9
        assert sum(map(len, row["samples_us"])) == row["calls"]
        if row["variant"] == "eager":
            assert (row["ratio_to_baseline"], low, high) == (1, 1, 1)


def test_equal_outputs_have_no_error(document):
    for row in document["results"]:
        if row["variant"] == "floor":
            assert row["error"] is None
            assert row["limit"] is None
        else:
            assert row["error"] < 1e-5
            assert 0 < row["roofline_fraction"] < 1
            assert row["limit"] in ("compute", "L1", "L2")
        assert row["active"] == [{"eager": "cpu", "torchscript": "cpu"}.get(row["variant"].split()[0], CPU)]


CPU = "CPUExecutionProvider"


def test_a_bundle_keeps_no_samples(document):
    kept = document.without_samples()
    assert "samples_us" in document["results"][0]
    assert all("samples_us" not in row and row["round_medians_us"] for row in kept["results"])


def test_without_the_source_ratios_refer_to_the_first_artifact(bundle_copy, tmp_path):
    (tmp_path / "forecaster.safetensors").unlink()
    result = bench([bundle_copy], Plan(**{**STREAM, "baselines": ("eager",)}))
    assert [row["variant"] for row in result["results"]] == ["onnx", "torchscript", "onnx again"]
    assert {row["baseline"] for row in result["results"]} == {"onnx"}
    assert result["left_out"] == [
        "eager: its source forecaster.safetensors is gone; name it, as in "
        f"lstm-deploy bench {bundle_copy} --reference FILE"
    ]


def test_a_reference_stands_in_for_a_source_that_is_gone(bundle_copy, forecaster, tmp_path):
    (tmp_path / "forecaster.safetensors").unlink()
    plan = Plan(**{**STREAM, "baselines": ("eager",)})
    result = bench([bundle_copy], plan, reference=Origin(path=forecaster))
    assert result["results"][0]["variant"] == "eager"


def test_several_files_are_told_apart_and_compared_with_each_other(forecast_bundle, tmp_path):
    shutil.copy(forecast_bundle / "model.onnx", tmp_path / "other.onnx")
    result = bench([forecast_bundle / "model.onnx", tmp_path / "other.onnx"], Plan(**STREAM, unvalidated=True))
    names = ["model.onnx: onnx", "other.onnx: onnx", "model.onnx: onnx again"]
    assert [row["variant"] for row in result["results"]] == names
    assert {row["baseline"] for row in result["results"]} == {names[0]}


def test_a_variant_with_different_outputs_gets_a_warning(forecast_bundle, lm_bundle, tmp_path):
    import onnx
    from onnx import numpy_helper

    model = onnx.load(forecast_bundle / "model.onnx")
    weights = next(tensor for tensor in model.graph.initializer if list(tensor.dims) == [8, 4])  # of the linear layer
    weights.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weights) * 50, weights.name))
    onnx.save(model, tmp_path / "wrong.onnx")
    result = bench([forecast_bundle / "model.onnx", tmp_path / "wrong.onnx"], Plan(**STREAM, unvalidated=True))
    (row,) = (row for row in result["results"] if row["artifact"] == "wrong.onnx")
    assert row["error"] > 1e-3
    assert any("differ from the baseline's" in warning for warning in row["warnings"])


def test_bundles_of_different_models_are_not_expected_to_agree(forecast_bundle, bundle_copy):
    """As two builds, each validated for itself."""
    errors = []
    for sha256 in (Bundle(forecast_bundle).manifest.source.sha256, "0" * 64):
        bundle = Bundle(bundle_copy)
        bundle.update(source=replace(bundle.manifest.source, sha256=sha256))
        result = bench([forecast_bundle, bundle_copy], Plan(**STREAM))
        first, row = (row for row in result["results"] if row["artifact"] == "model.onnx" and not row["again"])
        assert row["baseline"] == first["variant"]
        errors.append(row["error"])
        assert "differ" not in str(row["warnings"])
    assert errors == [0.0, None]


def test_a_model_that_cannot_stream_is_left_out_with_one_reason(tmp_path):
    import modules

    module = modules.HidesState(bidirectional=True)
    bundle = lstm_deploy.export(module, tmp_path / "b", inputs={"x": "float32[batch,seq,3]"}, formats=["onnx"])
    result = bench([bundle.path], Plan(**{**QUICK, "baselines": ("floor",)}))
    assert {row["scenario"] for row in result["results"]} == {"sequence"}
    (reason,) = result["left_out"]
    assert reason.startswith("stream: This model cannot be streamed (lstm is bidirectional")
    with pytest.raises(InputError, match="Nothing can be timed: onnx, stream: This model cannot"):
        bench([bundle.path], Plan(**STREAM))


def test_a_baseline_that_fails_is_left_out_with_its_reason(forecast_bundle, monkeypatch):
    from lstm_deploy.benchmark import variants

    broken = variants.BASELINES["openvino"]._replace(kind="no such kind", needs_source=False)
    monkeypatch.setitem(variants.BASELINES, "floor", broken)
    result = bench([forecast_bundle / "model.onnx"], Plan(**STREAM))
    assert result["results"]
    result = bench([forecast_bundle], Plan(**{**STREAM, "baselines": ("floor",)}))
    assert {row["variant"] for row in result["results"]} == {"onnx", "torchscript", "onnx again"}
    assert any(reason.startswith("floor: ") for reason in result["left_out"])


def test_a_reference_is_of_one_bundle(forecast_bundle, lm_bundle, forecaster):
    with pytest.raises(InputError, match="the model of one bundle"):
        bench([forecast_bundle, lm_bundle], Plan(**STREAM), reference=Origin(path=forecaster))


def test_a_rollout_is_timed_beside_one_call_per_step(lm_bundle):
    plan = Plan(**{**QUICK, "scenarios": ("rollout",), "baselines": ("eager",)})
    rows = {row["variant"]: row for row in bench([lm_bundle], plan)["results"]}
    assert set(rows) == {"eager", "onnx", "torchscript", "onnx rollout", "eager again"}
    assert {row["scope"] for row in rows.values()} == {"end_to_end"}
    assert {row["error"] for row in rows.values()} == {0.0}


@pytest.mark.parametrize(
    "wrong",
    [
        {"scenarios": ("streem",)},
        {"scopes": ("everywhere",)},
        {"baselines": ("tensorflow",)},
        {"batches": (0,)},
        {"providers": ("tpu",)},
        {"rounds": 8},
    ],
    ids=str,
)
def test_a_wrong_plan_is_refused(forecast_bundle, wrong):
    with pytest.raises(InputError):
        bench([forecast_bundle], Plan(**{**QUICK, **wrong}))


def test_a_missing_provider_does_not_fall_back_to_the_cpu(forecast_bundle):
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    for provider in ("cuda", "tensorrt"):
        plan = Plan(**{**STREAM, "providers": (provider,), "unvalidated": True})
        with pytest.raises(ProviderError, match="use --provider cpu"):
            bench([forecast_bundle], plan)


def test_a_broken_artifact_is_an_input_error(tmp_path):
    (tmp_path / "m.onnx").write_bytes(b"garbage")
    with pytest.raises(InputError, match=r"m\.onnx"):
        bench([tmp_path / "m.onnx"], Plan(**STREAM, unvalidated=True))
    with pytest.raises(InputError, match="does not exist"):
        bench([tmp_path / "none.onnx"], Plan(**STREAM))


def test_a_rollout_does_not_run_as_a_stream(forecast_bundle):
    with pytest.raises(InputError, match="no artifact takes part in these scenarios"):
        bench([forecast_bundle / "rollout.onnx"], Plan(**STREAM))


def test_targets_are_one_or_several_paths_or_bundles(forecast_bundle):
    plan = Plan(**STREAM)
    for targets in (str(forecast_bundle), lstm_deploy.Bundle(forecast_bundle), [lstm_deploy.Bundle(forecast_bundle)]):
        assert bench(targets, plan)["plan"]["targets"] == [forecast_bundle.name]
    with pytest.raises(InputError, match="There is nothing to time"):
        bench([], plan)


def test_a_live_module_or_its_file_is_the_model_of_the_baselines(tmp_path):
    module = modules.nn.LSTM(3, 4, batch_first=True).eval()
    bundle = lstm_deploy.export(module, tmp_path / "b", inputs={"x": "float32[batch,seq,3]"}, formats="onnx")
    torch.save(module.state_dict(), tmp_path / "w.pt")
    for reference in (module, tmp_path / "w.pt"):
        result = bench(bundle, Plan(**{**STREAM, "baselines": ("eager",)}), reference=reference)
        assert result["results"][0]["variant"] == "eager", result["left_out"]
        assert result["results"][1]["error"] < 1e-6


def test_a_reference_that_nothing_is_made_of_is_refused(forecast_bundle, forecaster):
    with pytest.raises(InputError, match="--reference has no effect without a --baseline"):
        bench(forecast_bundle, Plan(**STREAM), reference=forecaster)
    with pytest.raises(InputError, match="--reference has no effect on .*model.onnx, which is no bundle"):
        bench(forecast_bundle / "model.onnx", Plan(**QUICK), reference=forecaster)
