import shutil
from pathlib import Path

import pytest
import typer
from command_line import fails, run

from lstm_deploy.cli import app, effects

COMMANDS = typer.main.get_command(app).commands


@pytest.mark.parametrize("command", effects.RULES)
def test_rules_are_about_parameters_that_the_command_has(command):
    known = {parameter.name for parameter in COMMANDS[command].params}
    named = {name for rule in effects.RULES[command] for name in rule.parameters}
    assert named - known == set()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("train a.csv --task lm --target a", "--target has no effect for --task lm; leave it out"),
        ("train a.csv --task classify --missing drop", "--missing has no effect for --task classify"),
        ("train a.csv --task forecast --vectors v.txt", "--vectors has no effect for --task forecast"),
        ("train --task forecast --data sine --features a", "--features has no effect with --data"),
        ("train a.csv --task forecast --rows 9", "--rows has no effect without --data; add that, or leave --rows out"),
        ("train a.csv --task classify --no-freeze-vectors", "--no-freeze-vectors has no effect without --vectors"),
        ("train a.csv --task forecast --search-epochs 3", "--search-epochs has no effect without --search"),
        ("train a.csv --task forecast --pooling last --loss-on every", "--loss-on every has no effect with --pooling"),
        ("export w.pt --features a", "--features has no effect without --task forecast"),
        ("export w.pt --task lm --window 3", "--window has no effect without --task forecast"),
        ("export w.pt --task lm --unit word", "--unit has no effect without --task classify"),
        ("export w.pt --task forecast --vocabulary v", "--vocabulary has no effect without --task lm or classify"),
        ("export w.pt --half --int8-cpus any", "--int8-cpus has no effect without --quantize"),
        ("export w.pt --quantize int8 --state-dtype float16", "--state-dtype has no effect without --half"),
        ("validate b --model net.py:Net", "--model has no effect without --reference; add that, or leave --model out"),
        ("validate b --init {}", "--init has no effect without --reference"),
        ("validate b --input x:float32[batch,seq,3]", "--input has no effect without --reference"),
        ("validate b --trust-pickle", "--trust-pickle has no effect without --reference"),
        ("validate b --reference m.onnx --model net.py:Net", "--model has no effect with --reference m.onnx"),
        ("validate m.onnx --record", "--record has no effect on m.onnx, which is no bundle"),
        ("bench b --weights-key x", "--weights-key has no effect without --reference"),
        ("bench b --scenario stream --seq-len 9", "--seq-len has no effect with --scenario stream"),
        ("bench b c --record", "--record has no effect on anything but one bundle"),
        ("bench b.json --batch 1", "--batch has no effect on b.json, which is shown and not measured"),
        ("bench b.json --no-roofline", "--no-roofline has no effect on b.json"),
        ("run b --raw", "--raw has no effect without --stream"),
        ("run b --stream --raw --json", "--json has no effect with --raw"),
        ("run b --stream --plot p.png", "--plot has no effect with --stream"),
        ("embed --list --lang c", "--lang has no effect with --list"),
    ],
)
def test_an_option_that_would_have_no_effect_is_refused_before_anything_is_read(words, message):
    assert message in fails(*words.split())


def test_what_a_bundle_does_not_do_is_refused(forecast_bundle, lm_bundle, prices):
    assert "--seed has no effect on a bundle that forecasts" in fails("run", forecast_bundle, "--seed", 0)
    assert "--steps has no effect with --stream" in fails("run", forecast_bundle, "--stream", "--steps", 3)
    assert "--plot has no effect on a bundle that continues text" in fails("run", lm_bundle, "--plot", "p.png")
    assert "--top-k has no effect without --temperature" in fails("run", lm_bundle, "--prompt", "a", "--top-k", 3)


def test_an_artifact_alone_has_no_other_precision_or_runtime(forecast_bundle, prices):
    words = ("run", forecast_bundle / "model.onnx", "--input", prices)
    assert "precision has no effect on" in fails(*words, "--precision", "int8")
    assert "runtime has no effect on" in fails(*words, "--runtime", "torchscript")


def test_what_only_permits_may_be_given_where_nothing_needs_it(forecast_bundle, forecaster):
    run("validate", forecast_bundle / "model.onnx", "--no-record", "--trust-c")
    run("export", forecaster, "-o", "b", "--format", "onnx", "--force")


def test_a_golden_trace_alone_is_never_a_thorough_proof(forecast_bundle, tmp_path):
    bundle = shutil.copytree(forecast_bundle, tmp_path / "moved")  # its source is not beside it
    assert "thorough has no effect without a reference" in fails("validate", bundle, "--thorough")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["-o", "."], "must end in .safetensors"),
        (["-o", ""], "must end in .safetensors"),
        (["-o", "a.csv/x.safetensors"], "a.csv is not a directory"),
        (["-o", "folder.safetensors"], "is a directory"),
    ],
)
def test_a_checkpoint_that_cannot_be_written_is_refused_before_training(words, message, monkeypatch):
    monkeypatch.setattr("lstm_deploy.training.train", lambda *_, **__: pytest.fail("it trains"))
    Path("a.csv").write_text("a\n" + "1\n2\n" * 99)
    Path("folder.safetensors").mkdir()
    assert message in fails("train", "a.csv", "--task", "forecast", *words)
