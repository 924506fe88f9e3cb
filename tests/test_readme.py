"""Every command and program of the README is run, in the order in which a reader meets them."""

import re
import shlex
import subprocess
from pathlib import Path

import authors
import modules
import pytest
import torch

from lstm_deploy import demonstration
from lstm_deploy.cli import app

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.DOTALL | re.MULTILINE)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("readme")
    demonstration.write_prices(folder / "prices.csv")
    code = ROOT / "tests" / "authors.py"
    (folder / "net.py").write_text(
        code.read_text(encoding="utf-8").replace("class Stock", "class Net"), encoding="utf-8"
    )
    torch.save(authors.Stock(hidden=16).state_dict(), folder / "weights.pt")
    return folder


def test_the_commands_work_as_written(folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    commands = [line for block in blocks("sh") for line in block.splitlines() if line.startswith("lstm-deploy")]
    assert len(commands) == 8
    for command in commands:
        assert not app(shlex.split(command)[1:], standalone_mode=False), command
    assert "step,close" in capsys.readouterr().out


def test_the_programs_work_as_written(folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    programs = blocks("python")
    assert len(programs) == 3

    class Mels(modules.nn.Module):
        def __init__(self):
            super().__init__()
            self.lstm = modules.nn.LSTM(40, 8, batch_first=True)

        def forward(self, x):
            return self.lstm(x)[0]

    for program in programs:
        exec(program, {"module": Mels()})
    assert "next close: " in capsys.readouterr().out


def test_embedding_takes_fifteen_lines_and_no_package_of_ours():
    program = blocks("python")[-1]
    assert "lstm_deploy." not in re.sub(r'"[^"]*"', "", program)
    assert len([line for line in program.splitlines() if line.strip()]) <= 15


def test_the_two_commands_are_targets_of_the_makefile():
    targets = re.findall(r"^make ([\w-]+)", "\n".join(blocks("sh")), re.MULTILINE)
    assert targets == ["demo", "test"]
    for target in [*targets, "lint", "bench", "bench-int8", "bench-cuda"]:
        subprocess.run(["make", "-n", target], cwd=ROOT, check=True, capture_output=True)


def test_links_lead_somewhere():
    for link in re.findall(r"\]\(([^)#]+)\)", README):
        assert (ROOT / link).exists(), link
