import shutil
import tempfile
from pathlib import Path

import onnx
import pytest
from msgspec.structs import replace

from lstm_deploy.artifacts.bundle import Bundle
from lstm_deploy.benchmark.variants import BASELINES, Selection, variants_of
from lstm_deploy.benchmark.workloads import BenchCase
from lstm_deploy.errors import InputError

CASES = [BenchCase(scenario="stream", scope="end_to_end", batch=1, seq_len=1)]


def selected(targets, tmp_path, **changes):
    defaults = {"providers": ["cpu"], "baselines": [], "cases": CASES, "unvalidated": False, "origin": ""}
    with tempfile.TemporaryDirectory(dir=tmp_path) as folder:
        return variants_of(targets, Selection(**{**defaults, **changes}), Path(folder))


def names(variants):
    return [variant.name for variant in variants]


def test_baselines_come_before_artifacts_in_the_order_given(forecast_bundle, tmp_path):
    variants, left_out = selected([forecast_bundle], tmp_path, baselines=["floor", "eager"])
    assert names(variants) == ["floor", "eager", "onnx", "torchscript", "onnx rollout"]
    assert left_out == []
    assert [variant.artifact for variant in variants][:3] == ["", "", "model.onnx"]


def test_a_rollout_takes_part_in_rollouts_alone(forecast_bundle, tmp_path):
    variants, _ = selected([forecast_bundle], tmp_path)
    scenarios = {variant.name: variant.scenarios for variant in variants}
    assert scenarios["onnx rollout"] == ("rollout",)
    assert "rollout" in scenarios["onnx"]


def test_names_distinguish_targets_and_providers(forecast_bundle, lm_bundle, tmp_path):
    choice = {"providers": ["cpu", "cuda"], "unvalidated": True}
    variants, _ = selected([forecast_bundle, lm_bundle], tmp_path, **choice)
    all_names = names(variants)
    assert len(set(all_names)) == len(all_names)
    assert f"{forecast_bundle.name}: onnx cpu" in all_names
    assert f"{lm_bundle.name}: onnx graph cuda" in all_names


def test_ratios_stay_within_a_target_that_has_a_baseline(forecast_bundle, lm_bundle, tmp_path):
    variants, _ = selected([forecast_bundle, lm_bundle], tmp_path, baselines=["eager", "floor"])
    assert {variant.group for variant in variants} == {forecast_bundle.name, lm_bundle.name}
    variants, _ = selected([forecast_bundle, lm_bundle], tmp_path, baselines=["floor"])
    assert {variant.group for variant in variants} == {""}


def test_targets_of_one_name_are_distinguished_and_none_is_named_twice(forecast_bundle, tmp_path):
    (tmp_path / "other").mkdir()
    copy = shutil.copytree(forecast_bundle, tmp_path / "other" / forecast_bundle.name)
    variants, _ = selected([forecast_bundle, copy], tmp_path)
    assert len({variant.name for variant in variants}) == len(variants)
    with pytest.raises(InputError, match="named twice"):
        selected([forecast_bundle, forecast_bundle], tmp_path)


def test_cuda_is_timed_with_and_without_tf32_and_graphs(forecast_bundle, tmp_path):
    variants, _ = selected([forecast_bundle], tmp_path, providers=["cuda"], unvalidated=True)
    assert names(variants) == [
        "onnx",
        "onnx graph",
        "onnx tf32",
        "onnx tf32 graph",
        "torchscript",
        "torchscript graph",
        "onnx rollout",
    ]


def test_baselines_of_another_provider_take_no_part(forecast_bundle, tmp_path):
    choice = {"providers": ["cuda"], "unvalidated": True, "baselines": ["eager-no-onednn", "eager-graph", "openvino"]}
    variants, left_out = selected([forecast_bundle], tmp_path, **choice)
    assert names(variants)[0] == "eager-graph"
    assert not {"eager-no-onednn", "openvino"} & set(names(variants))
    assert left_out == ["eager-no-onednn, openvino: not on cuda"], "a reason is given once"


def test_variants_that_cannot_run_are_left_out_with_the_reason(bundle_copy, tmp_path, monkeypatch):
    monkeypatch.setattr("lstm_deploy.errors.find_spec", lambda name: None)
    variants, left_out = selected([bundle_copy], tmp_path, baselines=["eager", "openvino", "floor"])
    assert names(variants) == ["floor", "onnx", "onnx rollout"]
    assert left_out == [
        'eager: PyTorch is not installed; pip install "lstm-deploy[torch]"',
        'openvino: OpenVINO is not installed; pip install "lstm-deploy[openvino]"',
        'model.torchscript: PyTorch is not installed; pip install "lstm-deploy[torch]"',
    ]


def test_an_artifact_that_changed_after_its_validation_is_refused(bundle_copy, tmp_path):
    (bundle_copy / "model.onnx").write_bytes((bundle_copy / "model.onnx").read_bytes() + b"\0")
    with pytest.raises(
        InputError, match=r"model\.onnx of .* is not the file .*validated; export the model again.*--unval"
    ):
        selected([bundle_copy], tmp_path)
    assert "onnx" in names(selected([bundle_copy], tmp_path, unvalidated=True)[0])


def test_an_artifact_that_failed_validation_is_refused_with_what_can_change_that(bundle_copy, tmp_path):
    bundle = Bundle(bundle_copy)
    checks = [replace(check, passed=False) for check in bundle.manifest.parity.checks]
    bundle.update(parity=replace(bundle.manifest.parity, passed=False, checks=tuple(checks)))
    with pytest.raises(InputError, match=f"has failed validation; run lstm-deploy validate {bundle_copy}, or skip"):
        selected([bundle_copy], tmp_path)
    needs_code(bundle)
    with pytest.raises(
        InputError, match=r"validate .* --reference .*forecaster\.safetensors --model torch:nn, or skip"
    ):
        selected([bundle_copy], tmp_path)


def needs_code(bundle):
    """As if it had been exported with --model."""
    options = {**bundle.manifest.options, "model": "torch:nn"}
    bundle.update(source=replace(bundle.manifest.source, kind="module"), options=options)


def test_baselines_without_their_model_are_left_out_once_with_the_line_that_names_it(bundle_copy, tmp_path):
    needs_code(Bundle(bundle_copy))
    _, left_out = selected([bundle_copy], tmp_path, baselines=["eager", "eager-no-onednn"])
    (reason,) = left_out
    assert reason.startswith("eager, eager-no-onednn: its source forecaster.safetensors needs the class torch:nn")
    assert f"lstm-deploy bench {bundle_copy} --reference " in reason


def test_a_provider_has_a_validation_of_its_own(bundle_copy, tmp_path):
    with pytest.raises(InputError, match=r"not been validated on cuda; run lstm-deploy validate .* --provider cuda"):
        selected([bundle_copy], tmp_path, providers=["cuda"])
    bundle = Bundle(bundle_copy)
    bundle.update(parity_elsewhere={"cuda": bundle.manifest.parity})
    assert "onnx" in names(selected([bundle_copy], tmp_path, providers=["cuda"])[0])


def test_a_file_in_a_bundle_counts_as_validated_and_another_does_not(forecast_bundle, tmp_path):
    variants, left_out = selected([forecast_bundle / "model.onnx"], tmp_path, baselines=["eager"])
    assert names(variants) == ["onnx"]
    assert left_out == ["baselines of model.onnx: only bundles have baselines"]
    shutil.copy(forecast_bundle / "model.onnx", tmp_path / "m.onnx")
    with pytest.raises(InputError, match="has no recorded validation"):
        selected([tmp_path / "m.onnx"], tmp_path)


@pytest.mark.parametrize("unvalidated", [False, True])
def test_a_file_of_others_is_not_sent_in_a_circle(forecast_bundle, tmp_path, unvalidated):
    model = onnx.load(forecast_bundle / "model.onnx")
    del model.metadata_props[:]
    onnx.save(model, tmp_path / "m.onnx")
    with pytest.raises(InputError, match=r"carries no contract.* -o FILE, or export the weights"):
        selected([tmp_path / "m.onnx"], tmp_path, unvalidated=unvalidated)


def test_a_captured_graph_is_timed_only_where_its_buffers_are_bound(forecast_bundle, tmp_path):
    variants, _ = selected([forecast_bundle], tmp_path, providers=["cuda"], unvalidated=True, baselines=["eager-graph"])
    taken = {
        (scenario, scope)
        for variant in variants
        if "graph" in variant.settings
        for scenario in ("stream", "sequence", "rollout")
        for scope in ("end_to_end", "resident")
        if (scenario, scope) != ("rollout", "resident")
        if variant.takes_part(BenchCase(scenario=scenario, scope=scope, batch=1, seq_len=1))
    }
    assert taken == {("stream", "end_to_end"), ("stream", "resident"), ("sequence", "resident")}


def test_the_work_of_a_file_is_counted_in_its_graph(forecast_bundle, tmp_path):
    (variant,), _ = selected([forecast_bundle / "model.onnx"], tmp_path)
    shutil.copy(forecast_bundle / "model.onnx", tmp_path / "m.onnx")
    (other,), _ = selected([tmp_path / "m.onnx"], tmp_path, unvalidated=True)
    assert variant.work == other.work is not None
    assert other.precision == "float32"


def test_every_baseline_has_a_description():
    assert all(baseline.description and baseline.scopes and baseline.providers for baseline in BASELINES.values())
