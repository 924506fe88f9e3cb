import json
import shutil
import subprocess
import sys

import modules
import numpy as np
import onnx
import pytest
import torch
from graph_edits import edit
from msgspec.structs import replace
from torch import nn

import lstm_deploy
from lstm_deploy.artifacts.files import sha256
from lstm_deploy.artifacts.isolation import CrashError
from lstm_deploy.contract import CONTRACT_KEY
from lstm_deploy.errors import InputError, LiftingError
from lstm_deploy.validation import judging
from lstm_deploy.validation.pipeline import validate

WITHOUT_TORCH = "import sys; sys.modules['torch'] = None; import importlib.util as u; f = u.find_spec; "
WITHOUT_TORCH += "u.find_spec = lambda name, *a: None if name == 'torch' else f(name, *a); "


def named(report):
    return {(check.artifact, check.name) for check in report.checks}


@pytest.mark.whole
def test_a_bundle_is_compared_with_its_source(forecast_bundle):
    report = validate(forecast_bundle)
    assert report.passed
    assert "forecaster.safetensors" in report.reference
    assert {("model.onnx", "lint"), ("model.onnx", "weights"), ("model.torchscript", "drift")} <= named(report)


class Normalized(nn.Module):
    """A batch norm that the ONNX exporter folds into the convolution before it."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv1d(6, 8, 3, padding=1)
        self.norm = nn.BatchNorm1d(8)
        self.gru = nn.GRU(8, 8, batch_first=True)

    def forward(self, x):
        return self.gru(torch.relu(self.norm(self.conv(x.transpose(1, 2)))).transpose(1, 2))[0]


def test_a_folded_batch_norm_is_as_right_for_validate_as_for_export(tmp_path):
    module = Normalized()
    for _ in range(3):
        module(2 * torch.randn(4, 9, 6) + 1)
    inputs = {"x": "float32[batch,seq,6]"}
    bundle = lstm_deploy.export(module.eval(), tmp_path / "net", inputs=inputs, formats="onnx", half=True)
    assert [artifact.path for artifact in bundle.manifest.artifacts] == ["model.onnx", "model.fp16.onnx"]
    told = []
    report = lstm_deploy.validate(bundle, reference=module, on_progress=lambda *stage: told.append(stage))
    assert report.passed
    assert {("model.onnx", "weights"), ("model.fp16.onnx", "weights")} <= named(report)
    assert told == [
        (0, 1, "reading the reference"),
        (1, 6, "writing model.onnx anew"),
        (2, 6, "writing model.fp16.onnx anew"),
        (3, 6, "running the reference"),
        (4, 6, "judging model.onnx, model.fp16.onnx"),
    ]
    graph = onnx.load(bundle.path / "model.onnx")
    edit(graph, "module.conv.weight", lambda value: 1.01 * value)
    onnx.save(graph, bundle.path / "model.onnx")
    (diagnosis,) = lstm_deploy.validate(bundle, reference=module).diagnoses
    assert "module.conv.weight: 144 of 144 entries differ" in diagnosis.cause
    assert "+1.00%" in diagnosis.cause


def test_an_inferred_network_has_one_name_in_export_and_validate(tmp_path):
    torch.save(nn.GRU(3, 4, batch_first=True).state_dict(), tmp_path / "weights.pt")
    bundle = lstm_deploy.export(tmp_path / "weights.pt", tmp_path / "net", formats="torchscript")
    assert bundle.manifest.parity.reference == "PyTorch in float64 (weights.pt, as inferred)"
    assert validate(bundle).reference == bundle.manifest.parity.reference


def test_nothing_is_written_anew_where_there_is_no_model_to_write(bundle_copy, tmp_path):
    (tmp_path / "forecaster.safetensors").unlink()
    for reference in (None, bundle_copy / "model.torchscript"):
        told = []
        validate(bundle_copy / "model.onnx", reference=reference, on_progress=lambda *stage: told.append(stage))  # noqa: B023
        assert [done for done, _, _ in told] == list(range(len(told)))
        assert not [what for _, _, what in told if "anew" in what]


def test_without_its_source_the_golden_trace_remains(bundle_copy, tmp_path):
    (tmp_path / "forecaster.safetensors").unlink()
    report = validate(bundle_copy)
    assert report.passed
    assert report.reference == "golden trace"
    assert ("model.onnx", "golden") in named(report)
    assert ("model.onnx", "shapes") not in named(report)


def test_without_torch_the_golden_trace_remains(forecast_bundle):
    code = f"{WITHOUT_TORCH} from lstm_deploy import validate; r = validate({str(forecast_bundle)!r}); "
    code += "print(r.passed, r.reference, sorted({c.artifact for c in r.checks}))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "True golden trace ['model.onnx', 'rollout.onnx']"


def test_one_artifact_can_be_checked_alone(forecast_bundle):
    report = validate(forecast_bundle / "model.torchscript")
    assert report.passed
    assert {check.artifact for check in report.checks} == {"model.torchscript"}


def test_an_artifact_outside_a_bundle_needs_a_reference(forecast_bundle, forecaster, language_model, tmp_path):
    alone = tmp_path / "alone.onnx"
    alone.write_bytes((forecast_bundle / "model.onnx").read_bytes())
    with pytest.raises(InputError, match="--reference"):
        validate(alone)
    assert validate(alone, reference=forecaster).passed
    assert not validate(alone, reference=language_model).passed


def test_a_live_module_can_be_the_reference(tmp_path):
    module = modules.HidesState()
    bundle = lstm_deploy.export(module, tmp_path / "b", inputs={"x": "float32[batch,seq,3]"}, formats=["onnx"])
    assert validate(bundle, reference=module).passed
    assert validate(bundle).reference == "golden trace"
    assert not validate(bundle, reference=modules.HidesState()).passed, "other weights"


@pytest.mark.parametrize("shape", ["batch,seq,3", "seq,batch,3"])
def test_a_live_module_that_runs_one_step_a_call_is_the_reference_of_its_own_bundle(tmp_path, shape):
    class Loop(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.cell = torch.nn.LSTMCell(3, 4)

        def forward(self, x):
            time = shape.split(",").index("seq")
            state, outputs = None, []
            for step in x.unbind(time):
                state = self.cell(step, state)
                outputs.append(state[0])
            return torch.stack(outputs, time)

    module = Loop().eval()
    bundle = lstm_deploy.export(module, tmp_path / "m", inputs={"x": f"float32[{shape}]"}, formats=("onnx",))
    assert [dim.size for dim in bundle.signature.fixed] == [1]
    assert validate(bundle, reference=module).passed


def test_a_file_that_leaves_out_what_the_module_does_to_long_calls_does_not_pass(tmp_path):
    class Cut(modules.ReturnsState):
        most: int | None = None

        def forward(self, x, state=None):
            return super().forward(x[:, : self.most], state)

    module = Cut().eval()
    lstm_deploy.export(module, tmp_path / "m", inputs={"x": "float32[batch,seq,3]"}, formats=("onnx",))
    module.most = 16_000
    with pytest.raises(LiftingError, match="From seq 16000 on"):
        lstm_deploy.validate(tmp_path / "m", reference=module)


def test_a_file_of_a_module_is_held_against_its_bare_weights(tmp_path):
    class Wrapped(torch.nn.Module):
        def __init__(self, rnn):
            super().__init__()
            self.encoder = rnn

        def forward(self, x, state=None):
            return self.encoder(x, state)

    module = Wrapped(torch.nn.LSTM(3, 4, batch_first=True))
    lstm_deploy.export(module, tmp_path / "m", inputs={"x": "float32[batch,seq,3]"}, formats=("onnx",))
    shutil.move(tmp_path / "m" / "model.onnx", tmp_path / "model.onnx")
    torch.save(module.encoder.state_dict(), tmp_path / "weights.pt")
    assert validate(tmp_path / "model.onnx", reference=tmp_path / "weights.pt").passed


def test_a_changed_artifact_fails(bundle_copy):
    model = onnx.load(bundle_copy / "model.onnx")
    model.doc_string = "changed"
    onnx.save(model, bundle_copy / "model.onnx")
    report = validate(bundle_copy)
    assert [check.name for check in report.failures] == ["sha256"]


def test_metadata_that_lies_fails(bundle_copy):
    model = onnx.load(bundle_copy / "model.onnx")
    (prop,) = model.metadata_props
    prop.value = prop.value.replace('"state_policy":"reset"', '"state_policy":"carry"')
    onnx.save(model, bundle_copy / "model.onnx")
    failure = next(check for check in validate(bundle_copy).failures if check.name == "contract")
    assert "state_policy" in failure.detail


def rewritten(path, **changes):
    """The ONNX file with some fields of the contract inside changed."""
    model = onnx.load(path)
    props = {prop.key: prop.value for prop in model.metadata_props}
    contract = json.loads(props[CONTRACT_KEY]) | changes
    onnx.helper.set_model_props(model, {**props, CONTRACT_KEY: json.dumps(contract)})
    onnx.save(model, path)
    return contract


Y, RENAMED = ({"name": name, "dtype": "float32", "shape": ["batch", "seq", 2]} for name in "yz")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"streaming": "none", "streaming_reason": "bidirectional"}, "Streaming is none, not exact"),
        ({"outputs": [Y | {"shape": ["batch", "seq", 3]}]}, "The outputs are y: float32[batch, seq, 3], not"),
        ({"fixed": [{"name": "seq", "size": 7, "reason": "it is"}]}, "The fixed sizes are {'seq': 7}, not none"),
        ({"least_seq": 3}, "The fewest steps of a call are 3, not 1"),
    ],
)
def test_a_contract_that_contradicts_the_reference_fails_also_where_the_whole_bundle_says_so(tmp_path, changes, said):
    module = modules.ReturnsState().eval()
    bundle = lstm_deploy.export(module, tmp_path / "b", inputs={"x": "float32[batch,seq,3]"}, formats=["onnx"])
    contract = rewritten(bundle.path / "model.onnx", **changes)
    manifest = json.loads((bundle.path / "manifest.json").read_text())
    manifest["contract"], manifest["artifacts"][0]["sha256"] = contract, sha256(bundle.path / "model.onnx")
    (bundle.path / "manifest.json").write_text(json.dumps(manifest))
    (check,) = [check for check in validate(bundle.path, reference=module).failures if check.name == "contract"]
    assert said in check.detail


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"streaming": "none"}, "streaming is 'none', not 'exact'"),
        ({"outputs": [RENAMED]}, "The graph declares y: float32[batch, seq, 2], not z"),
        ({"state_layout": "batch-first"}, "The graph declares h_in"),
    ],
)
def test_a_file_whose_contract_contradicts_the_reference_or_its_own_graph_fails(tmp_path, changes, said):
    module = modules.ReturnsState().eval()
    bundle = lstm_deploy.export(module, tmp_path / "b", inputs={"x": "float32[batch,seq,3]"}, formats=["onnx"])
    shutil.copy(bundle.path / "model.onnx", tmp_path / "m.onnx")
    assert validate(tmp_path / "m.onnx", reference=module).passed
    rewritten(tmp_path / "m.onnx", **changes)
    (check,) = [check for check in validate(tmp_path / "m.onnx", reference=module).failures if check.name == "contract"]
    assert said in check.detail


def test_a_trace_that_does_not_fit_the_contract_is_refused(bundle_copy):
    manifest = json.loads((bundle_copy / "manifest.json").read_text())
    manifest["contract"]["inputs"][0]["name"] = "other"
    (bundle_copy / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(InputError, match="does not fit the contract"):
        validate(bundle_copy)


def test_a_failure_is_diagnosed(bundle_copy):
    model = onnx.load(bundle_copy / "model.onnx")
    for node in model.graph.node:
        if node.op_type == "LSTM":
            node.input[5], node.input[6] = node.input[6], node.input[5]
    onnx.save(model, bundle_copy / "model.onnx")
    (diagnosis,) = validate(bundle_copy).diagnoses
    assert diagnosis.artifact == "model.onnx"
    assert "h_in and c_in are swapped on the way in" in diagnosis.cause
    assert diagnosis.place.startswith("after step 1: h_out at layer 0, row 0, unit")


def test_without_a_reference_the_graph_itself_is_diagnosed(bundle_copy, tmp_path):
    (tmp_path / "forecaster.safetensors").unlink()
    model = onnx.load(bundle_copy / "model.onnx")
    for node in model.graph.node:
        if node.op_type == "LSTM":
            node.input[5] = node.input[6] = ""
    onnx.save(model, bundle_copy / "model.onnx")
    report = validate(bundle_copy)
    assert {"lint", "golden"} <= {check.name for check in report.failures}
    assert "no initial state" in report.diagnoses[0].cause


def test_a_runtime_that_crashes_is_a_failed_check(forecast_bundle, monkeypatch):
    def crash(*_):
        raise CrashError("the process crashed (signal 11)")

    monkeypatch.setattr(judging, "run_isolated", crash)
    report = validate(forecast_bundle / "model.onnx")
    assert [(check.name, "signal 11" in check.detail) for check in report.failures] == [("runs", True)]
    assert "signal 11" in report.diagnoses[0].cause


def test_a_runtime_that_crashes_takes_no_other_artifact_along(forecast_bundle, monkeypatch):
    def crash(function, subjects, *more):
        if any(subject.name == "model.onnx" for subject in subjects):
            raise CrashError("the process crashed (signal 11)")
        return function(subjects, *more)

    monkeypatch.setattr(judging, "run_isolated", crash)
    report = validate(forecast_bundle)
    assert {check.artifact for check in report.failures} == {"model.onnx"}
    passed = {check.artifact for check in report.checks if check.passed and check.name == "repeatable"}
    assert passed == {"model.torchscript", "rollout.onnx"}


@pytest.mark.whole
def test_a_damaged_artifact_of_a_bundle_fails_and_the_others_are_judged(bundle_copy):
    (bundle_copy / "model.onnx").write_bytes(b"garbage")
    report = validate(bundle_copy)
    assert {"runs", "sha256", "lint"} == {check.name for check in report.failures}
    assert {check.artifact for check in report.failures} == {"model.onnx", "rollout.onnx"}, "which is held against it"
    assert any(check.artifact == "model.torchscript" for check in report.checks)


def test_sizes_at_which_alone_it_is_wrong_are_reported(forecast_bundle, tmp_path):
    model = onnx.load(forecast_bundle / "model.onnx")
    for node in model.graph.node:
        for position, name in enumerate(node.output):
            if name == "y":
                node.output[position] = "right"
    one = onnx.numpy_helper.from_array(np.float32(1.01), "factor")
    model.graph.initializer.extend([one, onnx.numpy_helper.from_array(np.float32(1), "unit")])
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array(1), "step"))
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array(1), "axis"))
    for node in (
        ("Shape", ["x"], ["shape"]),
        ("Gather", ["shape", "axis"], ["steps"]),
        ("Equal", ["steps", "step"], ["single"]),
        ("Where", ["single", "factor", "unit"], ["by"]),
        ("Mul", ["right", "by"], ["y"]),
    ):
        model.graph.node.append(onnx.helper.make_node(*node))
    onnx.save(model, tmp_path / "wrong.onnx")
    (diagnosis,) = validate(tmp_path / "wrong.onnx", reference=forecast_bundle).diagnoses
    assert "wrong at some sizes only: at batch 1, seq 1; batch 2, seq 1, and not at" in diagnosis.cause


def test_an_artifact_can_be_the_reference_of_another(forecast_bundle, lm_bundle):
    assert validate(forecast_bundle / "model.onnx", reference=forecast_bundle / "model.torchscript").passed
    for reference in (forecast_bundle, lstm_deploy.Bundle(forecast_bundle)):
        report = validate(forecast_bundle / "model.onnx", reference=reference)
        assert (report.passed, report.reference) == (True, "forecast")


def test_a_tolerance_of_the_user_is_used(forecast_bundle):
    report = validate(forecast_bundle / "model.onnx", rtol={"y": 1e-12}, atol={"y": 1e-12})
    assert {check.output for check in report.failures} == {"y"}
    with pytest.raises(InputError, match="no output 'z'"):
        validate(forecast_bundle, atol={"z": 1})


def test_a_golden_trace_that_changed_is_refused(bundle_copy):
    np.savez(bundle_copy / "golden.npz", x=np.zeros(3))
    with pytest.raises(InputError, match=r"golden\.npz"):
        validate(bundle_copy)


@pytest.mark.parametrize("name", ["none", "none.onnx", "note.txt"])
def test_a_target_that_is_neither_bundle_nor_artifact_is_refused(tmp_path, name):
    (tmp_path / "note.txt").write_text("x")
    with pytest.raises(InputError):
        validate(tmp_path / name)


@pytest.mark.parametrize("content", [b"", b"\x08\x07", b"garbage" * 50, b"PK\x03\x04" + bytes(100)])
@pytest.mark.parametrize("suffix", [".onnx", ".torchscript"])
def test_malformed_artifacts_are_refused(tmp_path, forecaster, content, suffix):
    (tmp_path / f"m{suffix}").write_bytes(content)
    with pytest.raises(InputError):
        validate(tmp_path / f"m{suffix}", reference=forecaster)


def test_the_json_has_the_promised_keys(forecast_bundle):
    import msgspec

    document = json.loads(msgspec.json.encode(validate(forecast_bundle)))
    assert document["schema_version"] == 1
    assert document["passed"] is True
    promised = {"name", "artifact", "provider", "output", "passed", "max_abs", "tolerance", "detail"}
    assert all(promised <= set(check) for check in document["checks"])


def test_a_rollout_is_judged_in_its_bundle_only(forecast_bundle, forecaster, tmp_path):
    name = "rollout.onnx"
    report = validate(forecast_bundle / name)
    assert report.passed
    assert {check.artifact for check in report.checks} == {name}
    shutil.copy(forecast_bundle / name, tmp_path)
    with pytest.raises(InputError, match="is a rollout, which is compared with the model in its bundle"):
        validate(tmp_path / name, reference=forecaster)
    with pytest.raises(InputError, match="is a rollout"):
        validate(forecast_bundle / "model.onnx", reference=tmp_path / name)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"precision": "int8"}, "It computes in float32, not in int8 as the manifest says"),
        ({"format": "torchscript"}, "The manifest calls it torchscript, and by its suffix it is onnx"),
    ],
    ids=["precision", "format"],
)
def test_a_manifest_that_contradicts_a_file_fails_its_contract(bundle_copy, changes, problem):
    bundle = lstm_deploy.Bundle(bundle_copy)
    bundle.update(artifacts=(replace(bundle.manifest.artifacts[0], **changes),), rollouts=())
    failures = {check.name: check.detail for check in lstm_deploy.validate(bundle_copy).failures}
    assert problem in failures["contract"]


def test_a_wrong_file_is_not_saved_by_being_listed_again_with_a_looser_precision(bundle_copy):
    bundle_copy.with_name("forecaster.safetensors").unlink()  # the weights cannot be compared
    path = bundle_copy / "model.onnx"
    model = onnx.load(path)
    (bias,) = [tensor for tensor in model.graph.initializer if tensor.name.endswith("fc.bias")]
    bias.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(bias) + np.float32(2e-3), bias.name))
    onnx.save(model, path)
    bundle = lstm_deploy.Bundle(bundle_copy)
    artifact = replace(bundle.manifest.artifacts[0], sha256=sha256(path))
    alone, twice = (artifact,), (artifact, replace(artifact, precision="int8"))
    for listed in (alone, twice):
        bundle.update(artifacts=listed, rollouts=())
        assert not lstm_deploy.validate(bundle_copy).passed


@pytest.mark.parametrize("wrong", ["1e-3", -1, float("inf"), [1], {"y": None}])
def test_a_tolerance_is_a_number(forecast_bundle, wrong):
    with pytest.raises(InputError, match="give a number of 0 or more"):
        validate(forecast_bundle, atol=wrong)


def test_what_has_no_effect_is_refused(bundle_copy, forecaster, tmp_path):
    with pytest.raises(InputError, match="atol or rtol has no effect on a rollout"):
        validate(bundle_copy / "rollout.onnx", atol=1.0)
    shutil.copy(bundle_copy / "model.torchscript", tmp_path / "other.torchscript")
    with pytest.raises(InputError, match="names has no effect on other.torchscript, which is not ONNX"):
        validate(tmp_path / "other.torchscript", reference=forecaster, names={"x": "y"})
    (tmp_path / "forecaster.safetensors").unlink()
    with pytest.raises(InputError, match="thorough has no effect without a reference"):
        validate(bundle_copy / "model.onnx", thorough=True)


@pytest.mark.parametrize("reference", [5, ["a"], modules.nn.LSTM])
def test_a_reference_of_another_kind_is_refused(forecast_bundle, reference):
    with pytest.raises(InputError, match=r"A torch\.nn\.Module is needed"):
        validate(forecast_bundle, reference=reference)
