import json
import os
import subprocess
from pathlib import Path

import pytest
from command_line import COMMAND, fails, run
from torch import nn

import lstm_deploy


def test_a_wrong_use_of_a_bundle_is_refused(forecast_bundle, lm_bundle, prices):
    assert "--input" in fails("run", forecast_bundle, "--prompt", "a")
    assert "--prompt" in fails("run", lm_bundle, "--input", prices)
    assert "never seen '☃'" in fails("run", lm_bundle, "--prompt", "☃")
    assert "does not exist" in fails("run", forecast_bundle, "--input", "none.csv")
    Path("other.csv").write_text("a\n1\n")
    assert "no column 'open'" in fails("run", forecast_bundle, "--input", "other.csv")
    assert "--batch" in fails("bench", forecast_bundle, "--batch", "1,x")


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
    assert line.startswith("error: Line 2: x holds nan, which would spoil all results from there on")
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


def test_wrong_uses_of_a_pipe_are_refused(forecast_bundle, lm_bundle, prices):
    assert "--raw has no effect without --stream" in fails("run", forecast_bundle, "--raw")
    assert "--input has no effect with --stream" in fails("run", forecast_bundle, "--stream", "--input", prices)
    assert "takes text" in fails("run", lm_bundle, "--stream", "--raw")


def test_what_is_read_is_not_written_and_a_directory_neither(forecast_bundle, prices, bundle_copy):
    series = Path("series.csv")
    series.write_bytes(prices.read_bytes())
    Path("link.csv").symlink_to(series)
    Path("folder").mkdir()
    use = ("run", bundle_copy, "--input", series)
    assert "series.csv is the file that is read" in fails(*use, "-o", series)
    assert "link.csv is the file that is read" in fails(*use, "-o", "link.csv")
    assert "model.onnx is the file that is read" in fails(*use, "-o", bundle_copy / "model.onnx")
    assert "same.png cannot be both" in fails(*use, "-o", "same.png", "--plot", "same.png")
    for option in ("-o", "--plot"):
        assert "folder is a directory; give a file name" in fails(*use, option, "folder")
        assert ". is a directory; give a file name" in fails(*use, option, "")
        assert "series.csv is not a directory" in fails(*use, option, series / "deep" / "x.png")
    assert series.read_bytes() == prices.read_bytes()
    run(*use, "-o", "deep/out.csv", "--plot", "deep/out.png")
    assert Path("deep/out.csv").read_text().startswith("step,")


def test_an_answer_can_be_written_to_a_device(forecast_bundle, prices):
    run("run", forecast_bundle, "--input", prices, "-o", "/dev/null")
    assert not Path("/dev/null").is_file()


def test_lines_and_their_answers_correspond(tmp_path):
    vocabulary = ("<pad>", "<unk>", "good", "bad")
    task = lstm_deploy.Classify(labels=("no", "yes"), vocabulary=vocabulary, unit="word", unknown=1)

    class Classifier(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding, self.lstm, self.out = nn.Embedding(4, 3), nn.LSTM(3, 5, batch_first=True), nn.Linear(5, 2)

        def forward(self, tokens):
            return self.out(self.lstm(self.embedding(tokens))[0][:, -1])

    lstm_deploy.export(Classifier(), tmp_path / "c", inputs={"tokens": "int64[batch,seq]"}, task=task, formats=["onnx"])
    Path("lines.txt").write_text("\ngood\n\n  \nbad\u2028good\n\n", encoding="utf-8")
    answers = run("run", tmp_path / "c", "--input", "lines.txt")[0].splitlines()
    assert [bool(answer) for answer in answers] == [False, True, False, False, True, False]
    found = json.loads(run("run", tmp_path / "c", "--input", "lines.txt", "--json")[0])
    assert [each is not None for each in found] == [False, True, False, False, True, False]


@pytest.mark.parametrize("command", [["run"], ["bench", "--rounds", "9"], ["validate"], ["embed", "--lang", "python"]])
def test_no_command_uses_a_bundle_whose_file_was_changed(bundle_copy, prices, command):
    with (bundle_copy / "model.onnx").open("ab") as file:
        file.write(b"\x0a\x00")
    words = [command[0], bundle_copy, *command[1:], *(["--input", prices] if command == ["run"] else [])]
    if command == ["validate"]:
        assert "model.onnx is not the file that was exported" in run(*words, "--no-record", code=3)[0]
    else:
        assert "model.onnx" in fails(*words)
