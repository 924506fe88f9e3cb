import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from c_programs import NEEDS_CC
from command_line import COMMAND, QUICK, fails, run
from typer.testing import CliRunner

from lstm_deploy.cli import app


def test_the_main_job_from_file_to_forecast(prices):
    run(
        "train",
        prices,
        "--task",
        "forecast",
        "--target",
        "close",
        "--features",
        "open,close",
        "-o",
        "m.safetensors",
        *QUICK,
    )
    assert Path("m.training/prediction.png").read_bytes().startswith(b"\x89PNG")
    out, _ = run("export", "m.safetensors", "-o", "out/m")
    assert "h_in: float32[2, batch, 4]" in out
    out, _ = run("validate", "out/m")
    assert "FAILED" not in out
    out, _ = run(
        "bench",
        "out/m",
        "--batch",
        "1",
        "--rounds",
        "9",
        "--no-roofline",
        "--scenario",
        "stream",
        "--baseline",
        "floor",
        "--json",
        "b.json",
        "--plot",
        "b.png",
    )
    assert "onnx" in out
    assert json.loads(Path("b.json").read_text())["results"]
    assert "### All measurements" in Path("out/m/report.md").read_text(encoding="utf-8")
    out, _ = run("run", "out/m", "--input", prices, "--plot", "f.png")
    assert out.splitlines()[0] == "step,close"
    assert 200 < float(out.splitlines()[1].split(",")[1]) < 800
    assert sorted(os.listdir()) == ["b.json", "b.png", "f.png", "m.safetensors", "m.training", "out"]


def test_the_main_job_from_text_to_text(text):
    run("train", text, "--task", "lm", "-o", "m.safetensors", *QUICK)
    run("export", "m.safetensors")
    out, _ = run("run", "exported/m", "--prompt", "The ", "--steps", "20")
    assert out.startswith("The ")
    assert len(out) == len("The ") + 20 + 1
    out, _ = run("run", "exported/m", "--prompt", "The ", "--steps", "5", "--temperature", "1", "--json")
    assert len(json.loads(out)["text"]) == 5
    run("run", "exported/m", "--prompt", "The ", "--steps", "5", "-o", "t.txt")
    assert Path("t.txt").read_text(encoding="utf-8").startswith("The ")


@NEEDS_CC
def test_the_main_job_as_c(language_model, monkeypatch):
    out, err = run("export", language_model, "-o", "out/lm", "--format", "c")
    assert "model.c" in out
    assert "lstm-deploy bench" in err
    out, _ = run("inspect", "out/lm/model.c")
    assert "size_t lm_rollout(lm_state *state, const int64_t *x" in out
    out, _ = run("run", "out/lm", "--prompt", "The ", "--steps", "9", "--runtime", "native")
    assert out.startswith("The ")
    monkeypatch.setenv("LSTM_DEPLOY_CACHE", str(Path("elsewhere").absolute()))
    assert "--trust-c" in fails("run", "out/lm", "--prompt", "The ")
    assert "--trust-c" in fails("validate", "out/lm")
    out, _ = run("validate", "out/lm", "--trust-c")
    assert "FAILED" not in out
    words = ["--rounds", "9", "--batch", "1", "--no-roofline", "--scenario", "rollout", "--baseline", "eager"]
    out, _ = run("bench", "out/lm", *words)
    assert "\n  c  " in out


@pytest.mark.parametrize(
    "command", ["train", "export", "validate", "bench", "compare", "run", "embed", "inspect", "demo", "env"]
)
def test_every_command_has_help(command):
    out, _ = run(command, "--help")
    assert "Usage: lstm-deploy" in out or "Usage:" in out


def test_help_needs_no_heavy_package():
    code = "import sys; from lstm_deploy.cli import app; app(['--help'], standalone_mode=False);"
    code += "print({'torch', 'onnx', 'onnxruntime', 'numpy', 'pandas', 'matplotlib'} & set(sys.modules))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.splitlines()[-1] == "set()"


def test_the_version_is_printed():
    out, _ = run("--version")
    assert out.startswith("0.")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["train", "none.csv", "--task", "forecast"], "does not exist"),
        (["train", "empty.csv", "--task", "forecast"], "empty"),
        (["train", "empty.csv", "--task", "lm"], "empty"),
        (["train", ".", "--task", "lm"], "directory"),
        (["train", "ok.csv", "--task", "forecast"], "--target"),
        (["train", "ok.csv", "--task", "forecast", "--target", "Close"], "no column 'Close'"),
        (["train", "ok.csv", "--task", "forecast", "--target", "a", "--features", "b"], "not among the features"),
        (["train", "ok.csv", "--task", "forecast", "--target", "a", "--features", "a,Close"], "no column 'Close'"),
        (["train", "ok.csv", "--task", "forecast", "--target", "a", "-o", "m.pt"], "safetensors"),
        (["train", "ok.csv", "--task", "forecast", "--target", "a", "-o", "there.safetensors"], "--force"),
        (["train", "ok.csv", "--task", "forecast", "--target", "a"], "too few"),
        (["train", "short.txt", "--task", "lm"], "too few"),
        (["train", "short.txt", "--task", "lm", "--target", "a"], "--target has no effect for --task lm"),
        (["export", "none.safetensors"], "does not exist"),
        (["export", "there.safetensors"], "not a safetensors file"),
        (["validate", "none"], "does not exist"),
        (["bench", "none"], "does not exist"),
        (["run", "."], "not a bundle"),
        (["inspect", "ok.csv"], "no bundle, .onnx"),
        (["embed"], "Missing BUNDLE"),
        (["embed", "."], "Missing --lang; give one of python"),
        (["embed", ".", "--lang", "c"], "is not a bundle"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_wrong_input_is_one_sentence_and_leaves_nothing(words, message):
    Path("empty.csv").touch()
    Path("ok.csv").write_text("a,b\n" + "1,2\n2,3\n" * 5)
    Path("short.txt").write_text("abc " * 9)
    Path("there.safetensors").write_bytes(b"x")
    before = sorted(os.listdir())
    assert message in fails(*words)
    assert sorted(os.listdir()) == before


@pytest.mark.parametrize("words", [["inspect"], ["validate", "--no-record"]])
def test_json_is_one_document_and_nothing_else(forecast_bundle, words):
    out, _ = run(*words, forecast_bundle, "--json")
    json.loads(out)


def test_a_defect_is_reported_as_one_and_debug_shows_the_traceback(monkeypatch):
    from lstm_deploy.cli import file_descriptions

    monkeypatch.setattr(file_descriptions, "describe", lambda _: 1 / 0)
    assert "defect of lstm-deploy (ZeroDivisionError" in fails("inspect", ".", code=1)
    monkeypatch.setenv("LSTM_DEPLOY_DEBUG", "1")
    result = CliRunner().invoke(app, ["inspect", "."])
    assert isinstance(result.exception, ZeroDivisionError)


def test_no_color_and_no_terminal_give_plain_text(bundle_copy):
    bundle_copy.with_name("forecaster.safetensors").unlink()  # the golden trace is told as PyTorch's outputs are
    environment = {**os.environ, "NO_COLOR": "1", "COLUMNS": "20"}
    result = subprocess.run(
        [*COMMAND, "validate", str(bundle_copy), "--no-record"], capture_output=True, env=environment, check=True
    )
    assert b"\x1b" not in result.stdout + result.stderr
    (line,) = (line for line in result.stdout.splitlines() if b"rollout.onnx" in line)
    assert b"passed" in line
    assert len(line) > 20, "nothing is cut or wrapped"


@pytest.mark.skipif(os.name == "nt", reason="POSIX pipes")
def test_a_reader_that_leaves_is_no_error(lm_bundle):
    line = f"{' '.join(COMMAND)} inspect '{lm_bundle}' --json | head -c 10"
    result = subprocess.run(["bash", "-o", "pipefail", "-c", line], capture_output=True, text=True, check=False)
    assert "Traceback" not in result.stderr
    assert "BrokenPipe" not in result.stderr


def test_a_bundle_of_a_newer_version_is_refused(bundle_copy):
    manifest = bundle_copy / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"schema_version": 1', '"schema_version": 2', 1))
    assert "has schema version 2 and this release reads up to 1; upgrade" in fails("run", bundle_copy, "--stream")
