import json
import zipfile
from pathlib import Path

import modules
import numpy as np
import onnx
import onnxruntime as ort
import pytest
import refused_modules
import torch
from c_programs import NEEDS_CC
from msgspec.structs import replace

import lstm_deploy
from lstm_deploy.artifacts.bundle import Bundle
from lstm_deploy.contract.signature import CONTRACT_KEY, Signature
from lstm_deploy.errors import InputError, LiftingError, ParityError
from lstm_deploy.exporters import pipeline
from lstm_deploy.exporters.onnx import export_onnx
from lstm_deploy.lifting.lifting import lift

INPUTS = {"x": "float32[batch,seq,3]"}


@pytest.mark.parametrize("format_", ["onnx", "torchscript"])
@pytest.mark.parametrize(
    ("make", "text"),
    [
        (refused_modules.BranchesOnRows, "if x.size(0) == 1"),
        (refused_modules.BranchesOnSteps, "if x.shape[1] > 10"),
        (refused_modules.TakesInt, "torch.zeros(1, int(x.shape[0]), 4)"),
        (refused_modules.LoopsOverTime, "for step in range(out.shape[1])"),
    ],
)
def test_a_size_that_forward_branches_on_is_refused_with_the_line(tmp_path, make, text, format_):
    source = Path(refused_modules.__file__).read_text(encoding="utf-8").splitlines()
    line = next(number for number, content in enumerate(source, 1) if text in content)
    with pytest.raises(LiftingError, match=rf"modules\.py:{line}.*x\.shape\[0\]"):
        lstm_deploy.export(make(), tmp_path / "b", inputs=INPUTS, formats=[format_])
    assert list(tmp_path.iterdir()) == []


def test_a_branch_on_a_size_that_is_fixed_is_exported(tmp_path):
    for rows in (1, 2):
        inputs = {"x": f"float32[{rows},seq,3]"}
        bundle = lstm_deploy.export(refused_modules.BranchesOnRows(), tmp_path / str(rows), inputs=inputs)
        assert bundle.manifest.parity.passed


def test_the_contract_is_the_same_in_all_three_places(forecast_bundle):
    bundle = Bundle(forecast_bundle)
    metadata = {prop.key: prop.value for prop in onnx.load(forecast_bundle / "model.onnx").metadata_props}
    with zipfile.ZipFile(forecast_bundle / "model.torchscript") as archive:
        name = next(name for name in archive.namelist() if name.endswith("/contract.json"))
        texts = [metadata[CONTRACT_KEY], archive.read(name).decode()]
    texts.append(json.dumps(json.loads((forecast_bundle / "manifest.json").read_text())["contract"]))
    assert [Signature.from_json(text) for text in texts] == [bundle.signature] * 3


def test_a_module_becomes_a_bundle_that_proves_itself(tmp_path):
    bundle = lstm_deploy.export(modules.TwoLSTMs(), tmp_path / "b", inputs=INPUTS)
    assert {path.name for path in bundle.path.iterdir()} == {
        "manifest.json",
        "model.onnx",
        "model.torchscript",
        "golden.npz",
        "report.md",
        "report",
    }
    assert bundle.manifest.parity.passed
    assert len({check.artifact for check in bundle.manifest.parity.checks}) == 2
    assert bundle.manifest.source.kind == "module"


def test_formats_can_be_chosen(tmp_path):
    bundle = lstm_deploy.export(modules.HidesState(), tmp_path / "b", inputs=INPUTS, formats=["onnx"])
    assert [artifact.format for artifact in bundle.manifest.artifacts] == ["onnx"]
    with pytest.raises(InputError, match="'tflite' is not a format"):
        lstm_deploy.export(modules.HidesState(), tmp_path / "c", inputs=INPUTS, formats=["tflite"])


def test_a_module_needs_its_inputs_declared(tmp_path):
    with pytest.raises(InputError, match="inputs="):
        lstm_deploy.export(modules.HidesState(), tmp_path / "b")


def test_an_artifact_that_fails_parity_is_never_written(tmp_path, monkeypatch):
    def wrong(lifted, path):
        other = lift(modules.HidesState(), lifted.signature.inputs)
        other.signature = lifted.signature
        export_onnx(other, path)

    monkeypatch.setitem(pipeline.WRITERS, "onnx", wrong)
    with pytest.raises(ParityError, match="model.onnx differs"):
        lstm_deploy.export(modules.HidesState(), tmp_path / "b", inputs=INPUTS, formats=["onnx"])
    assert list(tmp_path.iterdir()) == []


def test_batch_first_state_goes_through_export(tmp_path):
    bundle = lstm_deploy.export(modules.ReturnsState(), tmp_path / "b", inputs=INPUTS, state_layout="batch-first")
    session = ort.InferenceSession(bundle.path / "model.onnx", providers=["CPUExecutionProvider"])
    assert session.get_inputs()[1].shape == ["batch", 2, 8]


def test_weights_too_large_for_one_file_lie_beside_it(tmp_path, monkeypatch):
    """At 2 GiB a protobuf ends; here the limit is put at nothing."""
    from lstm_deploy.exporters import onnx as writer

    monkeypatch.setattr(writer, "EXTERNAL_ABOVE", 0)
    torch.manual_seed(0)
    module = modules.HidesState(num_layers=2)
    bundle = lstm_deploy.export(module, tmp_path / "b", inputs=INPUTS, formats=["onnx"])
    (artifact,) = bundle.manifest.artifacts
    assert artifact.weights == "model.onnx.data"
    assert (bundle.path / artifact.weights).stat().st_size > 1000
    assert lstm_deploy.validate(bundle, reference=module).passed
    (bundle.path / artifact.weights).write_bytes(b"other")
    assert bundle.changed_files() == ["model.onnx.data"]
    lstm_deploy.export(module, tmp_path / "b", inputs=INPUTS, formats=["onnx"], force=True)
    assert Bundle(tmp_path / "b").changed_files() == []


def test_the_users_weights_are_shared_with_nothing_that_changes_them(tmp_path):
    module = modules.HidesState()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    lstm_deploy.export(module, tmp_path / "b", inputs=INPUTS)
    assert all(
        value.dtype == torch.float32 and before[name].equal(value) for name, value in module.state_dict().items()
    )


@NEEDS_CC
def test_c_is_a_format_like_any_other(forecaster, tmp_path):
    bundle = lstm_deploy.export(forecaster, tmp_path / "my prices-2", formats=["c"])
    (artifact,) = bundle.manifest.artifacts
    assert (artifact.path, artifact.header, artifact.format) == ("model.c", "model.h", "c")
    assert sorted(file.name for file in bundle.path.iterdir()) == [
        "golden.npz",
        "manifest.json",
        "model.c",
        "model.h",
        "report",
        "report.md",
    ]
    assert "void my_prices_2_step(" in (bundle.path / "model.h").read_text()
    names = {check.name for check in bundle.manifest.parity.checks}
    assert {"chunked", "drift", "rollout", "stream", "repeatable"} <= names
    assert lstm_deploy.validate(bundle).passed
    (bundle.path / "model.h").write_text("")
    assert bundle.changed_files() == ["model.h"]


@NEEDS_CC
def test_what_c_cannot_express_leaves_nothing_behind(tmp_path):
    with pytest.raises(InputError, match="Conv .*leave out --format c"):
        lstm_deploy.export(modules.Convolved().eval(), tmp_path / "e", inputs=INPUTS, formats=["onnx", "c"])
    assert not list(tmp_path.iterdir())


def test_c_without_a_compiler_is_refused_at_once(forecaster, tmp_path, monkeypatch):
    monkeypatch.setenv("CC", "no-such-compiler")
    with pytest.raises(InputError, match="not on PATH"):
        lstm_deploy.export(forecaster, tmp_path / "e", formats=["c"])


def test_a_mask_that_leaves_a_row_with_nothing_is_nan_as_in_the_model(tmp_path):
    module = modules.MaskedDecoder().eval()
    inputs = dict(text.split(":") for text in module.inputs)
    bundle = lstm_deploy.export(module, tmp_path / "b", inputs=inputs)
    assert bundle.signature.streaming == "exact"
    assert bundle.manifest.parity.passed
    assert not any(np.isnan(values).any() for values in np.load(bundle.path / "golden.npz").values())


def test_a_state_that_grows_until_rounding_shows_is_refused_as_that_with_formats_that_may_do_better(
    tmp_path, monkeypatch
):
    judged = pipeline.check_artifacts

    def with_drift(*arguments):
        report = judged(*arguments)
        wrong = (check.artifact == "model.onnx" and check.name == "drift" for check in report.checks)
        checks = [replace(check, passed=not is_wrong) for check, is_wrong in zip(report.checks, wrong, strict=True)]
        return replace(report, passed=False, checks=tuple(checks))

    monkeypatch.setattr(pipeline, "check_artifacts", with_drift)
    with pytest.raises(ParityError, match=r"model.onnx computes each call .* try --format torchscript or --format c\."):
        lstm_deploy.export(modules.HidesState(), tmp_path / "b", inputs=INPUTS)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"model": "net.py:Net"}, "model has no effect on a live module"),
        ({"init": {"hidden": 3}}, "init has no effect on a live module"),
        ({"trust_pickle": True}, "trust_pickle has no effect on a live module"),
        ({"half": "no"}, "half is 'no'; give True or False"),
        ({"half": True, "state_dtype": "half"}, "'half' is not a type of a state"),
        ({"formats": "onnx,c"}, "'onnx,c' is not a format"),
        ({"inputs": {1: "float32[batch,seq,3]"}}, "Inputs are given as a mapping"),
    ],
)
def test_a_wrong_argument_is_refused(tmp_path, more, message):
    arguments = {"inputs": {"x": "float32[batch,seq,3]"}, **more}
    with pytest.raises(InputError, match=message):
        lstm_deploy.export(modules.nn.LSTM(3, 4, batch_first=True), tmp_path / "b", **arguments)


def test_a_source_that_is_not_there_is_reported_before_an_output_that_is(forecast_bundle, tmp_path):
    with pytest.raises(InputError, match="forecastr.safetensors does not exist"):
        lstm_deploy.export(tmp_path / "forecastr.safetensors", forecast_bundle)


def test_a_class_in_the_place_of_an_instance_is_refused(tmp_path):
    with pytest.raises(InputError, match="not the class LSTM; make an instance"):
        lstm_deploy.export(modules.nn.LSTM, tmp_path / "b", inputs={"x": "float32[batch,seq,3]"})


def test_an_origin_says_all_itself(forecaster, tmp_path):
    with pytest.raises(InputError, match="inputs has no effect beside an Origin"):
        lstm_deploy.export(lstm_deploy.Origin(path=forecaster), tmp_path, inputs={"x": "float32[batch,seq,3]"})


def test_one_format_is_one_and_not_its_letters(tmp_path):
    module = modules.nn.LSTM(3, 4, batch_first=True)
    bundle = lstm_deploy.export(module, tmp_path / "b", inputs={"x": "float32[batch,seq,3]"}, formats="onnx")
    assert [artifact.path for artifact in bundle.manifest.artifacts] == ["model.onnx"]
