import json

import numpy as np
import pytest
import torch
from c_programs import NEEDS_CC
from torch import nn
from typer.testing import CliRunner

import lstm_deploy
from lstm_deploy.artifacts import environment
from lstm_deploy.artifacts.bundle import Bundle
from lstm_deploy.benchmark.variants import Selection, variants_of
from lstm_deploy.cli import app
from lstm_deploy.errors import InputError, ParityError
from lstm_deploy.exporters import pipeline, report
from lstm_deploy.exporters.plan import make_plan
from lstm_deploy.exporters.precision import selection
from lstm_deploy.exporters.precision.options import PrecisionOptions
from lstm_deploy.lifting.sources import Origin
from lstm_deploy.runtimes import opening
from lstm_deploy.validation import pipeline as validation, weights
from lstm_deploy.validation.case_inputs import QUICK

INPUTS = {"x": "float32[batch,seq,4]"}
FAST = {"scenario": "stream", "p50_us": 5.0, "p50_us_float32": 10.0, "time_ratio": 0.5}


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(4, 16, 2, batch_first=True)
        self.fc = nn.Linear(16, 3)

    def forward(self, x):
        return self.fc(self.lstm(x)[0])


@pytest.fixture
def net():
    torch.manual_seed(0)
    return Net().eval()


@pytest.fixture
def quick(monkeypatch):
    """Fewer carried steps and no benchmark, for tests of neither."""
    monkeypatch.setattr(pipeline, "LOWERED", QUICK._replace(steps=100))
    monkeypatch.setattr(selection, "times", timing((0.9, 1.1)))


def timing(interval):
    """Replaces the benchmark: int8 takes this fraction of float32's time."""
    return lambda paths, _: {path: {**FAST, "time_ratio_interval": interval} for path in paths}


@pytest.mark.whole
def test_int8_artifacts_carry_their_evidence(net, tmp_path):
    bundle = lstm_deploy.export(net, tmp_path / "out", inputs=INPUTS, quantize="int8")
    names = [artifact.path for artifact in bundle.manifest.artifacts]
    assert names == ["model.onnx", "model.torchscript", "model.int8.onnx", "model.int8.torchscript"]
    assert sorted(file.name for file in bundle.path.iterdir()) == sorted(
        [*names, "golden.npz", "manifest.json", "report", "report.md"]
    )
    evidence = bundle.find("onnx", "int8").evidence
    assert (evidence.lowered_layers, evidence.recurrent_layers, evidence.kept_float) == (2, 2, ())
    assert evidence.bytes_ratio < 0.6
    assert 0 < evidence.difference < 0.05 < evidence.cosine
    assert evidence.settings["cpus"] == "any"
    assert evidence.scenario == "stream"
    assert evidence.time_ratio_interval[0] <= evidence.time_ratio <= evidence.time_ratio_interval[1]
    assert [trial["scales"] for trial in evidence.tried] == ["per channel", "per tensor"]
    steps = {profile.steps[-1] for profile in bundle.manifest.parity.profiles if profile.artifact == "model.int8.onnx"}
    assert steps == {10_000}
    written = (bundle.path / "report.md").read_text()
    assert "## Lower precision" in written
    assert "| model.int8.onnx | 2 of 2 |" in written
    stream = lstm_deploy.open(bundle.path).stream(precision="int8")
    exact = lstm_deploy.open(bundle.path).stream()
    x = np.ones((1, 4), np.float32)
    assert 0 < np.abs(stream.step(x) - exact.step(x)).max() < 0.01


class SquareHead(Net):
    """Its matrix has the same shape when it is transposed."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(self.lstm.hidden_size, self.lstm.hidden_size)


def test_what_export_proves_is_what_validate_proves(tmp_path, quick):
    torch.manual_seed(0)
    module = SquareHead().eval()
    bundle = lstm_deploy.export(module, tmp_path / "out", inputs=INPUTS, formats=["onnx"], quantize="int8")
    proven = {(check.artifact, check.name) for check in bundle.manifest.parity.checks}
    report = lstm_deploy.validate(bundle, reference=module)
    assert report.passed, report.failures
    assert ("model.int8.onnx", "weights") in proven
    later = {(check.artifact, check.name) for check in report.checks if "int8" in check.artifact} - proven
    assert later == {("model.int8.onnx", "structure")}, "which of a file just written is that of a file just written"
    assert 0 <= bundle.find("onnx", "int8").evidence.decisions_changed < 0.2
    assert "of decisions changed" in (bundle.path / "report.md").read_text(encoding="utf-8")


def test_int8_that_fails_a_check_is_left_out(net, tmp_path, quick, monkeypatch):
    def problems(path, *_):
        return ["lstm is another."] if "int8" in path.name else []

    monkeypatch.setattr(weights, "weight_problems", problems)
    with pytest.raises(ParityError, match="model.int8.onnx is left out: lstm is another"):
        lstm_deploy.export(net, tmp_path / "out", inputs=INPUTS, formats=["onnx"], quantize="int8")
    bundle = Bundle(tmp_path / "out")
    assert [artifact.path for artifact in bundle.manifest.artifacts] == ["model.onnx"]
    assert not (bundle.path / "model.int8.onnx").exists()
    assert bundle.manifest.parity.passed


@pytest.mark.whole
@NEEDS_CC
def test_c_in_int8_has_the_same_evidence(net, tmp_path):
    bundle = lstm_deploy.export(net, tmp_path / "out", inputs=INPUTS, quantize="int8", formats=["c"])
    assert [artifact.path for artifact in bundle.manifest.artifacts] == ["model.c", "model.int8.c"]
    evidence = bundle.find("c", "int8").evidence
    assert (evidence.lowered_layers, evidence.recurrent_layers, evidence.kept_float) == (2, 2, ())
    assert 0 < evidence.difference < 0.05 < evidence.cosine
    assert (evidence.scenario, evidence.settings["scales"]) == ("stream", "per channel")
    assert "int8_t w_lstm_W_l1[" in (bundle.path / "model.int8.c").read_text()
    profile = next(p for p in bundle.manifest.parity.profiles if p.artifact == "model.int8.c")
    assert profile.steps[-1] == 10_000


@NEEDS_CC
def test_layers_of_c_that_cost_too_much_stay_in_float(net, tmp_path, quick):
    with torch.no_grad():
        net.lstm.weight_hh_l1 *= 4
    bundle = lstm_deploy.export(
        net, tmp_path / "out", inputs=INPUTS, quantize="int8", formats=["c"], max_metric_loss=0.01
    )
    evidence = bundle.find("c", "int8").evidence
    assert (evidence.lowered_layers, len(evidence.kept_float)) == (1, 1)
    text = (bundle.path / "model.int8.c").read_text()
    assert "lstm_int8(w_" in text
    assert "  lstm(w_" in text
    assert any("kept in float32 of C" in note for note in bundle.manifest.notes)


def test_the_loss_is_that_of_the_metric_on_the_users_data(net, tmp_path, quick):
    x = np.random.default_rng(0).standard_normal((50, 7, 4)).astype(np.float32)
    y = net(torch.from_numpy(x)).detach().numpy() + 0.1
    np.savez(tmp_path / "data.npz", x=x, y=y)
    bundle = lstm_deploy.export(net, tmp_path / "out", inputs=INPUTS, quantize="int8", data=tmp_path / "data.npz")
    evidence = bundle.find("onnx", "int8").evidence
    assert (evidence.metric, evidence.data, evidence.max_loss) == ("rmse", "data.npz", 0.01)
    assert evidence.metric_float32 == pytest.approx(0.1, rel=1e-4)
    assert evidence.loss == pytest.approx(evidence.metric_value / evidence.metric_float32 - 1)
    assert abs(evidence.loss) < 0.01


def test_where_nothing_holds_the_bundle_is_float32_only_and_whole(net, tmp_path, quick):
    with pytest.raises(
        ParityError, match=r"int8 is left out: .* holds float32 only; allow more with --max-metric-loss"
    ):
        lstm_deploy.export(net, tmp_path / "out", inputs=INPUTS, quantize="int8", max_metric_loss=0.0)
    bundle = Bundle(tmp_path / "out")
    assert [artifact.path for artifact in bundle.manifest.artifacts] == ["model.onnx", "model.torchscript"]
    assert bundle.changed_files() == []
    assert lstm_deploy.validate(bundle, reference=net).passed


def test_what_fails_the_checks_is_not_said_to_need_a_larger_budget(net, tmp_path, quick):
    with torch.no_grad():
        for weight in net.lstm.parameters():
            weight.mul_(20)
    with pytest.raises(ParityError, match=r"is allowed \(.* holds float32 only; export without --quantize\.$"):
        lstm_deploy.export(net, tmp_path / "out", inputs=INPUTS, quantize="int8", max_metric_loss=1.0)


def test_auto_takes_int8_only_where_it_is_faster_for_sure(net, tmp_path, monkeypatch, quick):
    for interval, expected in (((0.4, 0.6), "int8 is best here"), ((0.9, 1.1), "float32 is best here")):
        monkeypatch.setattr(selection, "times", timing(interval))
        bundle = lstm_deploy.export(net, tmp_path / "out", inputs=INPUTS, quantize="auto", force=True)
        assert bundle.manifest.notes[0].startswith(expected)
        assert ("model.int8.onnx" in {a.path for a in bundle.manifest.artifacts}) == (interval[1] < 1)


def test_auto_over_the_budget_is_float32_and_no_error(net, tmp_path, quick):
    bundle = lstm_deploy.export(net, tmp_path / "out", inputs=INPUTS, quantize="auto", max_metric_loss=0.0)
    assert [artifact.precision for artifact in bundle.manifest.artifacts] == ["float32", "float32"]
    assert "int8 is left out" in bundle.manifest.notes[0]


def test_layers_that_stay_in_float_are_noted(net, tmp_path, monkeypatch, quick):
    free = lstm_deploy.export(net, tmp_path / "free", inputs=INPUTS, quantize="int8", formats=["onnx"])
    budget = 0.7 * free.find("onnx", "int8").evidence.difference
    bundle = lstm_deploy.export(
        net, tmp_path / "out", inputs=INPUTS, quantize="int8", formats=["onnx"], max_metric_loss=budget
    )
    evidence = bundle.find("onnx", "int8").evidence
    assert len(evidence.kept_float) == 1
    assert any(note.startswith(f"kept in float32: {evidence.kept_float[0]}, since") for note in bundle.manifest.notes)
    assert evidence.lowered_layers == 1


def test_half_adds_float16_whose_state_is_float16_or_not(net, tmp_path, quick):
    for dtype in ("float16", "float32"):
        bundle = lstm_deploy.export(
            net, tmp_path / "out", inputs=INPUTS, half=True, state_dtype=dtype, formats=["onnx"], force=True
        )
        artifact = bundle.find("onnx", "float16")
        assert (artifact.path, artifact.state_dtype) == ("model.fp16.onnx", dtype)
        assert artifact.evidence.difference < 0.01
        assert artifact.evidence.lowered_layers == 2
        assert lstm_deploy.validate(bundle, reference=net).passed
        assert "its sums in float32" in bundle.manifest.notes[0]
    with pytest.raises(InputError, match="the CPU has no float16 recurrent layers"):
        lstm_deploy.open(bundle.path).stream(precision="float16")


def test_an_overflow_of_float16_is_found_and_nothing_is_written(net, tmp_path, quick):
    with torch.no_grad():
        net.fc.weight *= 1e6
    with pytest.raises(ParityError, match="float16 overflows at 65,504; export without --half"):
        lstm_deploy.export(net, tmp_path / "out", inputs=INPUTS, half=True)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"quantize": "int4"}, "'int4' is not a way to quantize; use int8 or auto"),
        ({"half": True, "formats": ["torchscript"]}, "is for ONNX; add --format onnx"),
        ({"quantize": "auto", "formats": ["torchscript"]}, "is for ONNX and C; add --format onnx"),
        ({"data": "nowhere.npz", "quantize": "int8"}, "nowhere.npz does not exist"),
        ({"data": "nowhere.npz"}, "ask for one with --quantize or --half"),
        ({"max_metric_loss": 0.1}, "ask for one with --quantize or --half"),
        ({"quantize": "int8", "int8_cpus": "avx2"}, "'avx2' is not a choice of CPUs; use any or vnni"),
        ({"int8_cpus": "vnni"}, "--int8-cpus is for ONNX in int8; add --quantize int8 and --format onnx"),
        ({"quantize": "int8", "max_metric_loss": "1%"}, "max_metric_loss is '1%'; give a fraction from 0 to 1"),
        ({"quantize": "int8", "max_metric_loss": float("nan")}, "give a fraction from 0 to 1"),
        ({"quantize": "int8", "state_dtype": "float32"}, "--state-dtype is for float16; add --half"),
    ],
)
def test_options_that_make_no_sense_are_refused(net, tmp_path, options, message, quick):
    with pytest.raises(InputError, match=message):
        lstm_deploy.export(net, tmp_path / "out", inputs=INPUTS, **options)
    assert not (tmp_path / "out").exists()


def test_weights_for_vnni_are_refused_where_they_cannot_be_proven(net, tmp_path, monkeypatch, quick):
    monkeypatch.setattr(environment, "lacks_vnni", lambda: True)
    with pytest.raises(InputError, match="no VNNI, so such weights cannot be proven here; leave out --int8-cpus vnni"):
        lstm_deploy.export(net, tmp_path / "out", inputs=INPUTS, quantize="int8", int8_cpus="vnni")
    assert not (tmp_path / "out").exists()


def test_int8_is_left_out_on_cuda_with_its_reason(net, tmp_path, quick):
    bundle = lstm_deploy.export(net, tmp_path / "out", inputs=INPUTS, quantize="int8", formats=["onnx"])
    selection = Selection(providers=["cuda"], baselines=[], cases=[], unvalidated=True, origin="")
    variants, left_out = variants_of([bundle.path], selection, tmp_path)
    assert "model.int8.onnx" not in {variant.artifact for variant in variants}
    assert any(text.startswith("model.int8.onnx: CUDA has no int8 LSTM") for text in left_out)
    _, left_out = validation._runnable(bundle, bundle.path, "cuda")
    assert left_out == ["model.int8.onnx: CUDA has no int8 LSTM, GRU or RNN, and would leave it to the CPU"]
    with pytest.raises(InputError, match="CUDA has no int8 LSTM"):
        opening.open_runtime(bundle.path / "model.int8.onnx", "cuda")


def test_the_command_line_quantizes_on_what_the_training_held_out(prices, tmp_path):
    (tmp_path / "prices.csv").write_text(prices.read_text())
    run = CliRunner().invoke
    train = f"train {tmp_path}/prices.csv --task forecast --target close --epochs 1 -o {tmp_path}/m.safetensors"
    assert run(app, train.split()).exit_code == 0
    result = run(app, f"export {tmp_path}/m.safetensors --quantize int8 --format onnx -o {tmp_path}/out".split())
    assert result.exit_code == 0, result.output
    assert "rmse" in result.stdout
    assert "2 of 2" in result.stdout
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["artifacts"][1]["evidence"]["data"] == "the held-out part of prices.csv"
    assert str(tmp_path) not in (tmp_path / "out" / "manifest.json").read_text()
    second = run(app, f"export {tmp_path}/m.safetensors --quantize int8 --format onnx -o {tmp_path}/out".split())
    assert "up to date" in second.stdout


def test_the_command_line_says_what_is_over_the_budget(forecaster, tmp_path, quick):
    words = f"export {forecaster} --quantize int8 --format onnx -o {tmp_path}/out --max-metric-loss 0%"
    result = CliRunner().invoke(app, words.split())
    assert result.exit_code == 3
    assert "holds float32 only" in result.stderr
    result = CliRunner().invoke(app, f"export {forecaster} --max-metric-loss often -o {tmp_path}/b".split())
    assert result.exit_code == 2
    assert "write it as 1% or 0.01" in result.stderr


def test_a_dry_run_lists_the_files_that_may_be_written(forecaster, tmp_path, quick):
    plan = make_plan(tmp_path / "out", Origin(path=forecaster), precision=PrecisionOptions(quantize="int8", half=True))
    assert {"model.int8.onnx", "model.int8.torchscript", "model.fp16.onnx"} <= set(plan.preview()["files"])
    assert not (tmp_path / "out").exists()


def test_the_table_of_evidence_is_empty_without_any(forecast_bundle):
    _, rows = report.evidence_table(Bundle(forecast_bundle).manifest)
    assert rows == []


class Projected(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(4, 8, proj_size=3, batch_first=True)

    def forward(self, x):
        return self.lstm(x)[0]


class Tied(Net):
    """Reads a weight that int8 packs."""

    def forward(self, x):
        return self.lstm(x)[0] @ self.fc.weight.T


def test_what_int8_torchscript_cannot_hold_is_left_out_with_the_reason(tmp_path, quick):
    for module, reason in (
        (Projected(), "nor for an LSTM with projections"),
        (Tied(), "does not run with int8 weights"),
    ):
        bundle = lstm_deploy.export(module.eval(), tmp_path / "out", inputs=INPUTS, quantize="int8", force=True)
        assert "model.int8.torchscript" not in {artifact.path for artifact in bundle.manifest.artifacts}
        assert not (bundle.path / "model.int8.torchscript").exists()
        assert any(reason in note for note in bundle.manifest.notes)
    with pytest.raises(ParityError, match="nor for an LSTM with projections"):
        lstm_deploy.export(Projected().eval(), tmp_path / "b", inputs=INPUTS, quantize="int8", formats=["torchscript"])


def test_a_refused_int8_is_refused_again(forecaster, tmp_path, quick):
    for _ in range(2):
        with pytest.raises((ParityError, InputError)):
            lstm_deploy.export(forecaster, tmp_path / "out", quantize="int8", formats=["onnx"], max_metric_loss=0.0)


def test_missing_training_data_is_noted(prices, tmp_path, quick):
    (tmp_path / "p.csv").write_text(prices.read_text())
    words = f"train {tmp_path}/p.csv --task forecast --target close --epochs 1 -o {tmp_path}/m.safetensors"
    assert CliRunner().invoke(app, words.split()).exit_code == 0
    (tmp_path / "p.csv").unlink()
    bundle = lstm_deploy.export(tmp_path / "m.safetensors", tmp_path / "out", quantize="int8", formats=["onnx"])
    assert bundle.manifest.notes[0].startswith("what is lost was measured on inputs drawn at random")
