import json
import os
import subprocess
from pathlib import Path

import pytest
from command_line import COMMAND, fails, run


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


def test_an_unknown_format_is_named(forecaster):
    assert "'cpp' is not a format; choose from onnx, torchscript, c" in fails("export", forecaster, "--format", "cpp")


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


def test_lines_are_classified_by_a_third_party_model(theirs):
    Path("words.json").write_text('{"[UNK]": 0, "good": 1, "bad": 2, "film": 3}')
    words = ["--input", "x:int64[batch,seq]", "--task", "classify", "--vocabulary", "words.json"]
    run("export", "Sentiment.pt", "--model", "net.py:Sentiment", *words, "--labels", "no,yes", "--format", "onnx")
    Path("lines.txt").write_text("a good film\nbad bad\n")
    out, _ = run("run", "exported/Sentiment", "--input", "lines.txt")
    assert [line.split("\t")[0] in ("no", "yes") for line in out.splitlines()] == [True, True]
    documents = json.loads(run("run", "exported/Sentiment", "--input", "lines.txt", "--json")[0])
    assert [f"{each['label']}\t{each['probability']:.4f}" for each in documents] == out.splitlines()
    Path("lines.txt").write_text("good\n\n")
    assert run("run", "exported/Sentiment", "--input", "lines.txt")[0].splitlines()[1:] == [""], "a line, an answer"
    piped = subprocess.run(
        [*COMMAND, "run", "exported/Sentiment", "--stream"],
        input="a good film\n",
        capture_output=True,
        text=True,
        check=True,
    )
    assert piped.stdout == out.splitlines()[0] + "\n"


def test_text_is_generated_by_a_third_party_one_hot_model(theirs):
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
        (["--window", 3], "--window has no effect without --task forecast"),
        (["--task", "forecast", "--features", "a"], "needs --window"),
        (["--task", "forecast", "--window", 3], "needs --features"),
        (["--task", "forecast", "--features", "a", "--labels", "b"], "--labels has no effect without --task classify"),
        (["--task", "forecast", "--features", "a", "--window", 2, "--target", "b"], "'b' is none of the features"),
        (["--task", "lm"], "needs --vocabulary"),
        (["--task", "classify", "--vocabulary", "v.json"], "needs --vocabulary, a file, and --labels"),
        (["--task", "lm", "--vocabulary", "none.json"], "does not exist"),
        (["--task", "lm", "--vocabulary", "v.json"], "does not take the 2 tokens"),
    ],
)
def test_an_incomplete_task_is_refused(theirs, words, message):
    Path("v.json").write_text('["a", "b"]')
    source = ["Letters.pt", "--model", "net.py:Letters", "--input", "x:float32[batch,seq,3]"]
    assert message in fails("export", *source, *words)


def test_our_checkpoints_know_their_task(language_model):
    Path("v.json").write_text('["a", "b"]')
    assert "says itself what it is" in fails("export", language_model, "--task", "lm", "--vocabulary", "v.json")
