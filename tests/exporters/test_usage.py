"""Every program and command under "Use it" in a report is run as it stands, on bundles of every kind."""

import ast
import io
import re
import shlex
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import kinds
import pytest
import torch
from c_programs import NEEDS_CC
from modules import LearnedStart, TwoLSTMs
from msgspec import structs
from small_models import ignore, reviews, small

from lstm_deploy import Bundle, export
from lstm_deploy.cli import app
from lstm_deploy.contract.tasks import BYTES, Classify, Forecast, LanguageModel
from lstm_deploy.exporters import report, usage
from lstm_deploy.runtimes import c_compiler
from lstm_deploy.training import checkpoint, pipeline as training

QUICK = ["--batch", "1", "--rounds", "9", "--baseline", "none", "--no-roofline"]
"""Options that make `bench` short."""
X = {"x": "float32[batch,seq,3]"}


class Plain(torch.nn.Module):
    """A recurrent layer and a linear one over its last step, or over all."""

    def __init__(self, layer, outputs, last=True):
        super().__init__()
        self.layer, self.last = layer, last
        self.fc = torch.nn.Linear(layer.hidden_size * (2 if layer.bidirectional else 1), outputs)

    def forward(self, x):
        out = self.layer(x)[0]
        return self.fc(out[:, -1] if self.last else out)


class Mixed(torch.nn.Module):
    """A GRU and an LSTM, two inputs and two outputs."""

    def __init__(self):
        super().__init__()
        self.gru = torch.nn.GRU(3, 4, batch_first=True)
        self.lstm = torch.nn.LSTM(4, 5, batch_first=True)

    def forward(self, x, gate):
        return self.lstm(self.gru(x)[0])[0], gate * x.sum(-1)


def a_classifier(folder):
    trained = training.train(reviews(), small("classify"), ignore)
    checkpoint.save(folder / "reviews.safetensors", trained.tensors, trained.spec)
    return export(folder / "reviews.safetensors", folder / "reviews", formats=["onnx", "torchscript"])


def bare_weights(folder):
    gru = torch.nn.GRU(3, 8, batch_first=True)
    torch.save({f"gru.{name}": value for name, value in gru.state_dict().items()}, folder / "w.pt")
    return export(folder / "w.pt", folder / "weights", formats=["onnx"])


def two_states_in_c(folder):
    inputs = {**X, "gate": "float32[batch,seq]"}
    return export(Mixed(), folder / "it's mixed", inputs=inputs, formats=["onnx", "torchscript", "c"])


def two_steps_ahead(folder):
    names = ("a", "b", "c")
    task = Forecast(features=names, targets=names, window=6, horizon=2)
    module = Plain(kinds.layer("LSTM", 3, 4, batch_first=True), 6)
    return export(module, folder / "two ahead", inputs=X, task=task, formats=["onnx", "c"])


def of_layer(name, *formats, kind="LSTM", **form):
    """A kind of bundle: a module with one layer, exported as `formats`."""

    def make(folder):
        module = Plain(kinds.layer(kind, 3, 4, batch_first=True, **form), 2, last=False)
        return export(module, folder / name, inputs=X, formats=formats)

    return make


KINDS = {
    "a forecaster": None,
    "a model of characters": None,
    "a classifier": a_classifier,
    "bare weights": bare_weights,
    "two states, two inputs, C": two_states_in_c,
    "several outputs": lambda folder: export(TwoLSTMs(), folder / "two", inputs=X, formats=["onnx", "torchscript"]),
    "two steps ahead": two_steps_ahead,
    "a learned start": lambda folder: export(
        LearnedStart(), folder / "learned", inputs=X, formats=["onnx", "torchscript"], state_layout="batch-first"
    ),
    "both directions": of_layer("both", "onnx", "torchscript", "c", bidirectional=True),
    "C alone": of_layer("rnn", "c", kind="RNN_RELU"),
    "TorchScript alone": of_layer("script", "torchscript"),
}
MEASURED = ("a forecaster", "C alone")
"""Kinds on which `bench` is run, which starts a process for each file; its command is the same for all."""


@pytest.fixture(params=KINDS)
def bundle(request, tmp_path, monkeypatch, forecast_bundle, lm_bundle):
    """A bundle of its own in the current folder."""
    make = KINDS[request.param]
    shared = {"a forecaster": forecast_bundle, "a model of characters": lm_bundle}.get(request.param)
    monkeypatch.chdir(tmp_path)
    return make(tmp_path) if make else Bundle(shutil.copytree(shared, tmp_path / shared.name))


def blocks(bundle):
    """The programs and commands of a report, each with its language, in order."""
    report = (bundle.path / "report.md").read_text(encoding="utf-8")
    used = report.partition("\n## Use it\n")[2].partition("\n## ")[0]
    return re.findall(r"^```(\w+)\n(.*?)^```", used, re.DOTALL | re.MULTILINE)


@NEEDS_CC
def test_all_programs_and_commands_of_a_report_work_as_written(bundle, capsys, request):
    task = bundle.signature.task
    if isinstance(task, Forecast):
        row = ",".join(["1.5"] * len(task.features))
        Path("history.csv").write_text("\n".join([",".join(task.features), *[row] * task.window]), encoding="utf-8")
    found = blocks(bundle)
    assert [language for language, _ in found][:1] == ["python"]
    for language, block in found:
        if language == "python":
            run_python(block)
        elif language == "c":
            Path("use.c").write_text(block, encoding="utf-8")
        else:
            measured = request.node.callspec.params["bundle"] in MEASURED
            for line in (line for line in block.splitlines() if not line.startswith("#")):
                if measured or not line.startswith("lstm-deploy bench"):
                    run_command(line)
    assert "error" not in capsys.readouterr().err


def run_python(program):
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*torch.jit.*")
        exec(program, {})


def run_command(line):
    if "|" in line:
        said, _, command = line.partition(" | ")
        piped = subprocess.run(shlex.split(said), capture_output=True, check=True).stdout
        with pytest.MonkeyPatch.context() as patch:
            answers = io.TextIOWrapper(io.BytesIO())
            patch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(piped)))
            patch.setattr(sys, "stdout", answers)
            assert not app(shlex.split(command, comments=True)[1:], standalone_mode=False), line
        assert answers.buffer.getvalue().strip(), line
    elif line.startswith("lstm-deploy"):
        words = shlex.split(line, comments=True)[1:]
        assert not app([*words, *(QUICK if words[0] == "bench" else [])], standalone_mode=False), line
    elif line.startswith("cc "):
        subprocess.run([*shlex.split(line), "-std=c99", "-Wall", "-Wextra", "-Werror", "-pedantic"], check=True)
    else:
        assert subprocess.run(shlex.split(line), capture_output=True, check=True).stdout, line


def test_clients_named_in_a_report_are_those_that_embed_writes(forecast_bundle):
    (commands,) = [block for language, block in blocks(Bundle(forecast_bundle)) if "embed" in block]
    named = re.findall(r"--lang (\w+)", commands)
    assert named == ["python", "node", "web", "cpp"], "there is no C for the others"


@pytest.mark.parametrize(
    "task",
    [
        LanguageModel(vocabulary=("\n", "b", "c")),
        LanguageModel(vocabulary=BYTES, unit="byte"),
        LanguageModel(vocabulary=tuple(" Teh")),
        Classify(labels=("x", "y"), vocabulary=("<unk>", "good", "bad")),
        Classify(labels=("x", "y"), vocabulary=("é", "(")),
    ],
)
def test_a_text_to_try_is_one_that_the_model_knows(task):
    assert task.encode(usage.sample_text(task))


def test_c_of_another_machine_is_trusted_before_it_is_used(tmp_path, monkeypatch):
    bundle = KINDS["C alone"](tmp_path)
    monkeypatch.setenv(c_compiler.CACHE, str(tmp_path / "another machine"))
    assert "validate rnn --trust-c" in (bundle.path / "report.md").read_text(encoding="utf-8").partition("```python")[0]
    monkeypatch.chdir(tmp_path)
    run_command("lstm-deploy validate rnn --trust-c")
    run_python(blocks(bundle)[0][1])


def test_no_name_of_a_bundle_becomes_code(bundle_copy):
    """A bundle may come from anyone, and its report is written anew where it is validated."""
    bundle = Bundle(bundle_copy)
    hostile = 'x\n```\n"; print(open("/etc/passwd").read()) #\'; ls'
    task = structs.replace(bundle.signature.task, features=(hostile, "b", "c", "d"), targets=(hostile, "b", "c", "d"))
    bundle.update(name=hostile, contract=structs.replace(bundle.signature, task=task))
    report.write(bundle)
    found = blocks(bundle)
    assert {language for language, _ in found} == {"python", "sh"}
    assert all(
        hostile in ast.literal_eval(name) for name in re.findall(r"lstm_deploy.open\((.*)\)$", found[0][1], re.M)
    )
    for _, block in found:
        for line in block.splitlines():
            assert line.count("print(open") == 0 or "\\n```" in line or "?```" in line, line


@pytest.mark.parametrize("text", ["a\n```\nrm", "`b`", "c|d", "é"])
def test_names_stay_names_in_markdown(text):
    shown = usage.code(text)
    assert "\n" not in shown
    assert shown.count("`") == 2
    assert not re.search(r"(?<!\\)\|", shown)
