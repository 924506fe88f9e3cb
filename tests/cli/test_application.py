import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from c_programs import NEEDS_CC
from command_line import COMMAND, QUICK, fails, run
from documents import document, row
from typer.testing import CliRunner

from lstm_deploy.cli.application import app


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
    assert "## Latency" in Path("out/m/report.md").read_text(encoding="utf-8")
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


@pytest.mark.parametrize(
    "command", ["train", "export", "validate", "bench", "compare", "run", "embed", "inspect", "demo", "env"]
)
def test_every_command_has_help(command):
    out, _ = run(command, "--help")
    assert "Usage: lstm-deploy" in out or "Usage:" in out


def test_embed_lists_its_languages_and_writes_a_client(lm_bundle):
    out, _ = run("embed", "--list")
    assert re.search(r"^c +c +a C compiler and make *$", out, re.MULTILINE)
    listed = json.loads(run("embed", "--list", "--json")[0])
    assert list(listed) == ["python", "node", "web", "cpp", "c", "go", "rust"]
    assert listed["cpp"]["formats"] == ["torchscript", "onnx"]
    out, error = run("embed", lm_bundle, "--lang", "python")
    assert out == "wrote lm-python: README.md, client.py, golden.txt, model.onnx\n"
    assert error == "next: cd lm-python && python client.py replay\n"
    document = json.loads(run("embed", lm_bundle, "--lang", "node", "-o", "n", "--json")[0])
    assert document["files"] == sorted(file.name for file in Path("n").iterdir())


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
        (["train", "short.txt", "--task", "lm", "--target", "a"], "means nothing for --task lm"),
        (["export", "none.safetensors"], "does not exist"),
        (["export", "there.safetensors"], "not a safetensors file"),
        (["validate", "none"], "does not exist"),
        (["bench", "none"], "does not exist"),
        (["run", "."], "not a bundle"),
        (["inspect", "ok.csv"], "is no bundle"),
        (["embed"], "needs a bundle"),
        (["embed", "."], "needs --lang, one of python"),
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


def test_a_wrong_use_of_a_bundle_is_told(forecast_bundle, lm_bundle, prices):
    assert "--input" in fails("run", forecast_bundle, "--prompt", "a")
    assert "--prompt" in fails("run", lm_bundle, "--input", prices)
    assert "never seen '☃'" in fails("run", lm_bundle, "--prompt", "☃")
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
    from lstm_deploy.exporters import pipeline

    def full(*_):
        raise OSError(28, "No space left on device", "model.onnx")

    monkeypatch.setitem(pipeline.WRITERS, "onnx", full)
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


def test_an_artifact_that_overflows_is_exit_3_and_recorded(bundle_copy):
    import onnx

    model = onnx.load(bundle_copy / "model.onnx")
    (bias,) = (tensor for tensor in model.graph.initializer if tensor.name == "module.fc.bias")
    bias.raw_data = np.full(4, np.inf, np.float32).tobytes()
    onnx.save(model, bundle_copy / "model.onnx")
    run("validate", bundle_copy, code=3)
    assert "FAILED" in (bundle_copy / "report.md").read_text(encoding="utf-8")
    assert "model.onnx" in run("inspect", bundle_copy)[0]


def test_a_missing_provider_is_exit_4(forecast_bundle):
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    assert "--provider cpu" in fails("validate", forecast_bundle, "--provider", "cuda", code=4)
    assert "--provider cpu" in fails("bench", forecast_bundle, "--provider", "cuda", code=4)
    assert "--provider cpu" in fails("bench", forecast_bundle, "--provider", "tensorrt", code=4)


@pytest.mark.parametrize("words", [["inspect"], ["validate", "--no-record"]])
def test_json_is_one_document_and_nothing_else(forecast_bundle, words):
    out, _ = run(*words, forecast_bundle, "--json")
    json.loads(out)


def test_bench_json_to_standard_output(forecast_bundle):
    words = [
        "--json",
        "-",
        "--no-record",
        "--rounds",
        "9",
        "--batch",
        "1",
        "--scope",
        "end_to_end",
        "--no-roofline",
        "--scenario",
        "stream",
    ]
    assert json.loads(run("bench", forecast_bundle / "model.onnx", *words)[0])["results"]


@pytest.mark.whole
def test_results_are_shown_again_without_measuring(tmp_path):
    (tmp_path / "b.json").write_text(json.dumps(document(row("eager", p50=100.0), row())))
    words = ["--table", tmp_path / "t.csv", "--plot", tmp_path / "plots"]
    out, _ = run("bench", tmp_path / "b.json", *words)
    assert "0.123 (0.121–0.126)" in out
    assert "p50_us" in (tmp_path / "t.csv").read_text()
    assert {"latency.png", "distribution.png", "ratio.png"} <= set(os.listdir(tmp_path / "plots"))
    run("bench", tmp_path / "b.json", "--table", tmp_path / "t.md")
    assert (tmp_path / "t.md").read_text(encoding="utf-8").startswith("A CPU, 2 core(s)")
    assert "one .json" in fails("bench", tmp_path / "b.json", tmp_path / "b.json").lower()
    assert "is not a directory" in fails("bench", tmp_path / "b.json", "--json", tmp_path / "none" / "b.json")
    assert ".md nor .csv" in fails("bench", tmp_path / "b.json", "--table", tmp_path / "t.txt")


def test_a_regression_is_exit_5(tmp_path):
    for name, p50, seed in (("old", 10.0, 0), ("same", 10.0, 1), ("slow", 12.0, 2)):
        (tmp_path / f"{name}.json").write_text(json.dumps(document(row(p50=p50, seed=seed, baseline=None))))
    old, same, slow = (tmp_path / f"{name}.json" for name in ("old", "same", "slow"))
    assert "no row is slower" in run("compare", old, same)[0]
    result = CliRunner().invoke(app, ["compare", str(old), str(slow), "--json"])
    assert result.exit_code == 5
    assert json.loads(result.stdout)["changes"][0]["verdict"] == "slower"
    assert "no row is slower" in run("compare", old, slow, "--fail-over", "30%")[0]
    assert "no result of lstm-deploy bench" in fails("compare", old, __file__)


def test_the_help_of_bench_names_every_baseline():
    from lstm_deploy.benchmark.variants import BASELINES

    out = "".join(run("bench", "--help")[0].split())
    assert all(f"{name}," in out or f"{name};" in out for name in BASELINES)


def test_what_was_not_validated_is_not_timed(bundle_copy):
    (bundle_copy / "model.onnx").write_bytes((bundle_copy / "model.onnx").read_bytes() + b"\0")
    assert "is not the file that was validated" in fails("bench", bundle_copy)


def test_env_json_is_clean_in_a_pipe():
    result = subprocess.run([*COMMAND, "env", "--json"], capture_output=True, text=True, check=True)
    assert json.loads(result.stdout)["providers"]["CPUExecutionProvider"] == "loads"


def test_a_measurement_is_not_recorded_on_request(bundle_copy):
    before = (bundle_copy / "manifest.json").read_bytes()
    run(
        "bench",
        bundle_copy,
        "--no-record",
        "--rounds",
        "9",
        "--batch",
        "1",
        "--scope",
        "end_to_end",
        "--no-roofline",
        "--scenario",
        "stream",
        "--baseline",
        "floor",
    )
    run("validate", bundle_copy, "--no-record")
    assert (bundle_copy / "manifest.json").read_bytes() == before


def test_a_defect_is_told_as_one_and_debug_shows_the_traceback(monkeypatch):
    from lstm_deploy.cli import inspection

    monkeypatch.setattr(inspection, "inspect", lambda _: 1 / 0)
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
    assert b"model.torchscript\n" in result.stdout, "nothing is cut or wrapped"


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_training_keeps_the_best_so_far_and_goes_on(prices, how):
    words = [
        "train",
        str(prices),
        "--task",
        "forecast",
        "--target",
        "close",
        "-o",
        "m.safetensors",
        "--hidden-size",
        "4",
    ]
    with subprocess.Popen([*COMMAND, *words, "--epochs", "100000"], stderr=subprocess.PIPE, text=True) as process:
        while not Path("m.training/last.ckpt").exists():
            assert process.poll() is None
            time.sleep(0.1)
        process.send_signal(how)
        err = process.stderr.read()
        assert process.wait(timeout=60) == 130
    assert "interrupted after epoch" in err
    assert "Traceback" not in err
    assert "m.safetensors" in os.listdir()
    done = len(Path("m.training/log.csv").read_text().splitlines()) - 1
    _, err = run(*words, "--epochs", str(done + 1), "--resume")
    assert f"epoch {done + 1}/{done + 1}" in err
    assert f"epoch {done}/{done + 1}" not in err


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
def test_a_training_that_is_interrupted_at_once_leaves_nothing(prices):
    words = ["train", str(prices), "--task", "forecast", "--target", "close", "--epochs", "2", "--hidden-size", "3000"]
    with subprocess.Popen([*COMMAND, *words, "-o", "m.safetensors"], stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr.readline().startswith("training")
        time.sleep(1)
        process.send_signal(signal.SIGINT)
        err = process.stderr.read()
        assert process.wait(timeout=60) == 130
    assert "interrupted: nothing was left half-written." in err
    assert not Path("m.safetensors").exists()


@pytest.mark.skipif(os.name == "nt", reason="POSIX pipes")
def test_a_reader_that_leaves_is_no_error(lm_bundle):
    line = f"{' '.join(COMMAND)} inspect '{lm_bundle}' --json | head -c 10"
    result = subprocess.run(["bash", "-o", "pipefail", "-c", line], capture_output=True, text=True, check=False)
    assert "Traceback" not in result.stderr
    assert "BrokenPipe" not in result.stderr


@pytest.fixture
def pipe(forecast_bundle):
    """`run --stream` in a process of its own, to be written to and read from."""
    words = [*COMMAND, "run", str(forecast_bundle), "--stream"]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        yield process
        process.kill()


def test_a_pipe_is_answered_line_by_line(pipe):
    """Each answer comes before the next line is written: nothing waits in a buffer."""
    for _ in range(25):
        pipe.stdin.write(b"1,2,3,4\n")
        pipe.stdin.flush()
        assert pipe.stdout.readline().count(b",") == 3
    pipe.stdin.close()
    assert pipe.wait(timeout=30) == 0


def test_a_wrong_line_ends_the_pipe_with_one_sentence(pipe):
    out, err = pipe.communicate(b"1,2,3,4\n1,2,3,nan\n1,2,3,4\n", timeout=60)
    assert out == b"nan,nan,nan,nan\n"
    (line,) = err.decode().strip().splitlines()
    assert line.startswith("error: Line 2: x holds nan, which would spoil the state for good")
    assert pipe.returncode == 2


@pytest.mark.skipif(os.name == "nt", reason="POSIX pipes")
def test_a_pipe_whose_reader_leaves_ends_quietly(forecast_bundle):
    line = f"yes 1,2,3,4 | {' '.join(COMMAND)} run '{forecast_bundle}' --stream | head -n 3"
    result = subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=False, timeout=60)
    assert len(result.stdout.splitlines()) == 3
    assert result.stderr == ""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc to see the memory of a process")
def test_a_long_pipe_takes_no_more_memory_than_a_short_one(pipe):
    def steps(count):
        for _ in range(count // 100):
            pipe.stdin.write(b"150,151,152,153\n" * 100)
            pipe.stdin.flush()
            for _ in range(100):
                pipe.stdout.readline()
        status = Path(f"/proc/{pipe.pid}/status").read_text()
        return int(status.partition("VmRSS:")[2].split()[0])

    before = steps(2_000)
    assert steps(20_000) - before < 1_000  # kB


def test_a_rollout_int8_torchscript_and_sampling_from_the_command_line(lm_bundle, language_model):
    plain = json.loads(run("run", lm_bundle, "--prompt", "The ", "--steps", 9, "--json")[0])
    other = json.loads(run("run", lm_bundle, "--prompt", "The ", "--steps", 9, "--json", "--runtime", "torchscript")[0])
    assert plain == other
    words = ["--temperature", 1, "--top-k", 5, "--seed", 3]
    several = json.loads(run("run", lm_bundle, "--prompt", "The ", "--prompt", "a", "--steps", 9, "--json", *words)[0])
    assert [each["prompt"] for each in several] == ["The ", "a"]
    assert "no onnx artifact in int8" in fails("run", lm_bundle, "--prompt", "a", "--precision", "int8")
    run("export", language_model, "-o", "q", "--quantize", "int8", "--format", "onnx", "--max-metric-loss", "100%")
    assert len(run("run", "q", "--prompt", "The ", "--steps", 9, "--precision", "int8")[0]) == len("The ") + 9 + 1
    assert "ends with" not in run("run", lm_bundle, "--prompt", "a", "--steps", 30, "--stop", "e")[1]
    import torch

    if not torch.cuda.is_available():
        assert "CUDAExecutionProvider" in fails("run", lm_bundle, "--prompt", "a", "--provider", "cuda", code=4)


def test_wrong_uses_of_a_pipe_are_told(forecast_bundle, lm_bundle, prices):
    assert "add --stream" in fails("run", forecast_bundle, "--raw")
    assert "leave out files" in fails("run", forecast_bundle, "--stream", "--input", prices)
    assert "takes text" in fails("run", lm_bundle, "--stream", "--raw")


def test_a_bundle_of_a_newer_version_is_told(bundle_copy):
    manifest = bundle_copy / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"schema_version": 1', '"schema_version": 2', 1))
    assert "has schema version 2 and this release reads up to 1; upgrade" in fails("run", bundle_copy, "--stream")


SENTIMENT = """
import torch
from torch import nn

class Sentiment(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(4, 3)
        self.lstm = nn.LSTM(3, 5, batch_first=True)
        self.fc = nn.Linear(5, 2)

    def forward(self, x):
        return self.fc(self.lstm(self.embedding(x))[0][:, -1])

class Letters(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(3, 5, 2, batch_first=True)
        self.fc = nn.Linear(5, 3)

    def forward(self, x, hidden):
        out, hidden = self.lstm(x, hidden)
        return self.fc(out[:, -1]), hidden
"""


@pytest.fixture
def theirs():
    """Networks of somebody else, with what their weights do not tell."""
    import torch

    Path("net.py").write_text(SENTIMENT)
    names = {}
    exec(SENTIMENT, names)
    for name in ("Sentiment", "Letters"):
        torch.manual_seed(0)
        torch.save(names[name]().state_dict(), f"{name}.pt")


def test_lines_are_classified_by_a_network_of_others(theirs):
    Path("words.json").write_text('{"[UNK]": 0, "good": 1, "bad": 2, "film": 3}')
    words = ["--input", "x:int64[batch,seq]", "--task", "classify", "--vocabulary", "words.json"]
    run("export", "Sentiment.pt", "--model", "net.py:Sentiment", *words, "--labels", "no,yes", "--format", "onnx")
    Path("lines.txt").write_text("a good film\nbad bad\n")
    out, _ = run("run", "exported/Sentiment", "--input", "lines.txt")
    assert [line.split("\t")[0] in ("no", "yes") for line in out.splitlines()] == [True, True]
    documents = json.loads(run("run", "exported/Sentiment", "--input", "lines.txt", "--json")[0])
    assert [f"{each['label']}\t{each['probability']:.4f}" for each in documents] == out.splitlines()
    Path("lines.txt").write_text("good\n\n")
    assert len(run("run", "exported/Sentiment", "--input", "lines.txt")[0].splitlines()) == 1, "no line, no answer"
    piped = subprocess.run(
        [*COMMAND, "run", "exported/Sentiment", "--stream"],
        input="a good film\n",
        capture_output=True,
        text=True,
        check=True,
    )
    assert piped.stdout == out.splitlines()[0] + "\n"


def test_text_is_written_by_a_one_hot_network_of_others(theirs):
    Path("text.txt").write_text("abcab")
    words = ["--input", "x:float32[batch,seq,3]", "--task", "lm", "--vocabulary", "text.txt"]
    run("export", "Letters.pt", "--model", "net.py:Letters", *words)
    out, _ = run("run", "exported/Letters", "--prompt", "ab", "--steps", 30)
    assert len(out.strip()) == 32
    assert set(out.strip()) <= set("abc")
    again, _ = run("export", "Letters.pt", "--model", "net.py:Letters", *words)
    assert "up to date" in again


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--window", 3], "go with --task"),
        (["--task", "forecast", "--features", "a"], "needs --window"),
        (["--task", "forecast", "--window", 3], "needs --features"),
        (["--task", "forecast", "--features", "a", "--labels", "b"], "no --vocabulary and no --labels"),
        (["--task", "forecast", "--features", "a", "--window", 2, "--target", "b"], "'b' is none of the features"),
        (["--task", "lm"], "takes --vocabulary"),
        (["--task", "classify", "--vocabulary", "v.json"], "takes --vocabulary FILE and --labels"),
        (["--task", "lm", "--vocabulary", "none.json"], "does not exist"),
        (["--task", "lm", "--vocabulary", "v.json"], "does not take the 2 tokens"),
    ],
)
def test_a_task_that_is_not_whole_is_told(theirs, words, message):
    Path("v.json").write_text('["a", "b"]')
    source = ["Letters.pt", "--model", "net.py:Letters", "--input", "x:float32[batch,seq,3]"]
    assert message in fails("export", *source, *words)


def test_a_checkpoint_of_ours_says_itself_what_it_is_for(language_model):
    Path("v.json").write_text('["a", "b"]')
    assert "says itself" in fails("export", language_model, "--task", "lm", "--vocabulary", "v.json")


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
    assert "\nc  " in out


def test_a_format_that_is_none_is_named(forecaster):
    assert "'cpp' is not a format; choose from onnx, torchscript, c" in fails("export", forecaster, "--format", "cpp")
