"""What the page on continuous integration shows is run: the test, the commands of the workflow, the comparison."""

import re
import shlex
import shutil
import sys
from pathlib import Path

import pytest
import yaml

import lstm_deploy
from lstm_deploy.cli import app

PAGE = (Path(__file__).parents[1] / "docs" / "ci.md").read_text(encoding="utf-8")


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)


@pytest.fixture(scope="module")
def repository(forecast_bundle, forecaster, tmp_path_factory):
    """A repository with a bundle and its source, and its base branch beside it."""
    folder = tmp_path_factory.mktemp("repository")
    for branch in (folder, folder / "base"):
        shutil.copytree(forecast_bundle, branch / "exported" / "mine")
        shutil.copy(forecaster, branch / "exported")
    return folder


def test_the_commands_of_the_workflow_work_as_written(repository, monkeypatch, capsys):
    monkeypatch.chdir(repository)
    (workflow,) = blocks("yaml")
    (job,) = yaml.safe_load(workflow)["jobs"].values()
    lines = [line for step in job["steps"] for line in step.get("run", "").splitlines()]
    commands = [shlex.split(line) for line in lines if line.startswith("lstm-deploy ")]
    assert [words[1] for words in commands] == ["validate", "bench", "bench", "compare"]
    before = (repository / "exported/mine/manifest.json").read_bytes()
    for words in commands[:-1]:
        assert not app(words[1:], standalone_mode=False), words
    assert app(commands[-1][1:], standalone_mode=False) in (None, 5)
    assert "no significant slowdown" in capsys.readouterr().out
    assert (repository / "exported/mine/manifest.json").read_bytes() == before


def test_the_programs_work_as_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "net", raising=False)  # of another test
    Path("net.py").write_text("from torch import nn\n\nmodule = nn.LSTM(3, 4, batch_first=True).eval()\n")
    test, comparison = blocks("python")
    names = {}
    exec(test, names)
    lstm_deploy.export(names["module"], "exported/mine", inputs={"x": "float32[batch,seq,3]"}, formats="onnx")
    names["test_the_bundle_computes_what_the_model_computes"]()
    words = ["bench", "exported/mine", "--scenario", "stream", "--batch", "1", "--no-record", "--json", "old.json"]
    assert not app(words, standalone_mode=False)
    monkeypatch.setattr("lstm_deploy.benchmark.comparison.Comparison.passed", True)  # no test asserts a time
    exec(comparison, {})
    del sys.modules["net"]
