import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from lstm_deploy.cli import app

COMMAND = [sys.executable, "-m", "lstm_deploy"]
QUICK = ["--epochs", "1", "--hidden-size", "4"]


def run(*words, code=0):
    """A command in this process: standard output, standard error."""
    result = CliRunner().invoke(app, [str(word) for word in words])
    assert result.exit_code == code, result.output + repr(result.exception)
    return result.stdout, result.stderr


def fails(*words, code=2):
    """A command that ends with one sentence and nothing on standard output."""
    out, err = run(*words, code=code)
    assert out == ""
    lines = err.strip().splitlines()
    (error,) = [line for line in lines if line.startswith("error: ")]
    assert error == lines[-1]
    assert "Traceback" not in err
    return error


@pytest.fixture(autouse=True)
def in_an_empty_directory(tmp_path, monkeypatch):
    folder = tmp_path / "with space ü"
    folder.mkdir()
    monkeypatch.chdir(folder)


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
    assert Path("m.png").read_bytes().startswith(b"\x89PNG")
    out, _ = run("export", "m.safetensors", "-o", "out/m")
    assert "h_in: float32[2, batch, 4]" in out
    out, _ = run("validate", "out/m")
    assert "FAILED" not in out
    out, _ = run(
        "bench", "out/m", "--batch", "1", "--rounds", "3", "--scenario", "stream", "--json", "b.json", "--plot", "b.png"
    )
    assert "onnx" in out
    assert json.loads(Path("b.json").read_text())["results"]
    assert "## Latency" in Path("out/m/report.md").read_text(encoding="utf-8")
    out, _ = run("run", "out/m", "--input", prices, "--plot", "f.png")
    assert out.splitlines()[0] == "step,close"
    assert 200 < float(out.splitlines()[1].split(",")[1]) < 800
    assert sorted(os.listdir()) == ["b.json", "b.png", "f.png", "m.png", "m.safetensors", "out"]


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


@pytest.mark.parametrize("command", ["train", "export", "validate", "bench", "run", "inspect", "demo", "env"])
def test_every_command_has_help(command):
    out, _ = run(command, "--help")
    assert "Usage: lstm-deploy" in out or "Usage:" in out


def test_help_needs_no_heavy_package():
    code = "import sys; from lstm_deploy.cli import app; app(['--help'], standalone_mode=False);"
    code += "print({'torch', 'onnx', 'onnxruntime', 'numpy', 'pandas', 'matplotlib'} & set(sys.modules))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.splitlines()[-1] == "set()"


def test_the_version_is_told():
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
        (["train", "ok.csv", "--task", "forecast", "--target", "Close"], "not among the features"),
        (["train", "ok.csv", "--task", "forecast", "--target", "a", "--features", "b"], "not among the features"),
        (["train", "ok.csv", "--task", "forecast", "--target", "a", "--features", "a,Close"], "no column 'Close'"),
        (["train", "ok.csv", "--task", "forecast", "--target", "a", "-o", "m.pt"], "safetensors"),
        (["train", "ok.csv", "--task", "forecast", "--target", "a", "-o", "there.safetensors"], "--force"),
        (["train", "ok.csv", "--task", "forecast", "--target", "a"], "too few"),
        (["train", "short.txt", "--task", "lm"], "too short"),
        (["train", "short.txt", "--task", "lm", "--target", "a"], "no columns"),
        (["export", "none.safetensors"], "does not exist"),
        (["export", "there.safetensors"], "not a safetensors file"),
        (["validate", "none"], "does not exist"),
        (["bench", "none"], "does not exist"),
        (["run", "."], "not a bundle"),
        (["inspect", "ok.csv"], "is no bundle"),
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


def test_a_wrong_use_of_a_bundle_is_told(forecast_bundle, lm_bundle, prices):
    assert "--input" in fails("run", forecast_bundle, "--prompt", "a")
    assert "--prompt" in fails("run", lm_bundle, "--input", prices)
    assert "vocabulary" in fails("run", lm_bundle, "--prompt", "☃")
    assert "does not exist" in fails("run", forecast_bundle, "--input", "none.csv")
    Path("other.csv").write_text("a\n1\n")
    assert "no column 'open'" in fails("run", forecast_bundle, "--input", "other.csv")
    assert "--batch" in fails("bench", forecast_bundle, "--batch", "1,x")


def test_a_bundle_that_is_there_is_kept_unless_forced(forecaster, language_model):
    run("export", forecaster, "-o", "b", "--format", "onnx")
    out, _ = run("export", forecaster, "-o", "b", "--format", "onnx")
    assert "up to date" in out
    assert "--force" in fails("export", language_model, "-o", "b")
    run("export", language_model, "-o", "b", "--format", "onnx", "--force")
    assert "int64" in run("inspect", "b")[0]


def test_a_dry_run_writes_nothing(forecaster):
    out, _ = run("export", forecaster, "-o", "b", "--dry-run")
    assert "model.onnx" in out
    assert os.listdir() == []


def test_a_full_disk_is_one_sentence(forecaster, monkeypatch):
    from lstm_deploy import exporters

    def full(*_):
        raise OSError(28, "No space left on device", "model.onnx")

    monkeypatch.setitem(exporters.FORMATS, "onnx", ("model.onnx", full))
    assert "No space left on device (model.onnx)" in fails("export", forecaster, "-o", "b", code=1)
    assert os.listdir() == []


def test_failed_parity_is_exit_3_and_says_where(bundle_copy, forecaster):
    import onnx

    model = onnx.load(bundle_copy / "model.onnx")
    node = next(node for node in model.graph.node if node.op_type == "LSTM")
    node.input[5], node.input[6] = node.input[6], node.input[5]
    onnx.save(model, bundle_copy / "model.onnx")
    out, _ = run("validate", bundle_copy, code=3)
    assert "model.onnx shapes h_out: worst at [" in out
    out, _ = run("validate", bundle_copy, "--json", code=3)
    assert json.loads(out)["passed"] is False


def test_a_missing_provider_is_exit_4(forecast_bundle):
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    assert "--provider cpu" in fails("validate", forecast_bundle, "--provider", "cuda", code=4)
    assert "--provider cpu" in fails("bench", forecast_bundle, "--provider", "cuda", code=4)


@pytest.mark.parametrize("words", [["inspect"], ["validate", "--no-record"]])
def test_json_is_one_document_and_nothing_else(forecast_bundle, words):
    out, _ = run(*words, forecast_bundle, "--json")
    json.loads(out)


def test_bench_json_to_standard_output(forecast_bundle):
    words = ["--json", "-", "--no-record", "--rounds", "3", "--batch", "1", "--scenario", "stream"]
    assert json.loads(run("bench", forecast_bundle, *words)[0])["results"]


def test_env_json_is_clean_in_a_pipe():
    result = subprocess.run([*COMMAND, "env", "--json"], capture_output=True, text=True, check=True)
    assert json.loads(result.stdout)["providers"]["CPUExecutionProvider"] == "loads"


def test_a_measurement_is_not_recorded_on_request(bundle_copy):
    before = (bundle_copy / "manifest.json").read_bytes()
    run("bench", bundle_copy, "--no-record", "--rounds", "3", "--batch", "1", "--scenario", "stream")
    run("validate", bundle_copy, "--no-record")
    assert (bundle_copy / "manifest.json").read_bytes() == before


def test_a_defect_is_told_as_one_and_debug_shows_the_traceback(monkeypatch):
    from lstm_deploy import inspection

    monkeypatch.setattr(inspection, "inspect", lambda _: 1 / 0)
    assert "defect of lstm-deploy (ZeroDivisionError" in fails("inspect", ".", code=1)
    monkeypatch.setenv("LSTM_DEPLOY_DEBUG", "1")
    result = CliRunner().invoke(app, ["inspect", "."])
    assert isinstance(result.exception, ZeroDivisionError)


def test_no_color_and_no_terminal_give_plain_text(forecast_bundle):
    environment = {**os.environ, "NO_COLOR": "1", "COLUMNS": "20"}
    result = subprocess.run(
        [*COMMAND, "validate", str(forecast_bundle), "--no-record"], capture_output=True, env=environment, check=True
    )
    assert b"\x1b" not in result.stdout + result.stderr
    assert b"rollout.torchscript\n" in result.stdout, "nothing is cut or wrapped"


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_training_leaves_nothing(prices, how):
    words = ["train", str(prices), "--task", "forecast", "--target", "close", "--epochs", "100000"]
    with subprocess.Popen([*COMMAND, *words], stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr.readline().startswith("training")
        time.sleep(3)
        process.send_signal(how)
        err = process.stderr.read()
        assert process.wait(timeout=60) == 130
    assert "interrupted" in err
    assert "Traceback" not in err
    assert os.listdir() == []


@pytest.mark.skipif(os.name == "nt", reason="POSIX pipes")
def test_a_reader_that_leaves_is_no_error(lm_bundle):
    line = f"{' '.join(COMMAND)} inspect '{lm_bundle}' --json | head -c 10"
    result = subprocess.run(["bash", "-o", "pipefail", "-c", line], capture_output=True, text=True, check=False)
    assert "Traceback" not in result.stderr
    assert "BrokenPipe" not in result.stderr
