"""Every command and program of the README is run, in the order in which a reader meets them."""

import re
import shlex
import subprocess
from pathlib import Path

import authors
import modules
import pytest
import torch
from c_programs import NEEDS_CC

from lstm_deploy.cli import app, demo

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str, text: str = README) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("readme")
    demo.write_prices(folder / "prices.csv")
    code = ROOT / "tests" / "helpers" / "authors.py"
    (folder / "net.py").write_text(
        code.read_text(encoding="utf-8").replace("class Stock", "class Net"), encoding="utf-8"
    )
    torch.save(authors.Stock(hidden=16).state_dict(), folder / "weights.pt")
    return folder


@NEEDS_CC
def test_the_commands_work_as_written(folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    lines = "\n".join(blocks("sh")).replace("\\\n", " ").splitlines()
    commands = [line for line in lines if line.startswith("lstm-deploy")]
    assert len(commands) == 14
    for command in commands:
        quick = ["--epochs", "1", "--hidden-size", "8"] if " train " in command else []
        if command.startswith("lstm-deploy bench"):
            quick = ["--batch", "1", "--baseline", "eager"]
        assert not app([*shlex.split(command)[1:], *quick], standalone_mode=False), command
    assert "step,close" in capsys.readouterr().out


def test_the_programs_work_as_written(folder, monkeypatch):
    monkeypatch.chdir(folder)
    programs = blocks("python")
    assert len(programs) == 2

    class Mels(modules.nn.Module):
        def __init__(self):
            super().__init__()
            self.lstm = modules.nn.LSTM(40, 8, batch_first=True)

        def forward(self, x):
            return self.lstm(x)[0]

    for program in programs:
        exec(program, {"module": Mels()})


def test_the_two_commands_are_targets_of_the_makefile():
    targets = re.findall(r"^make ([\w-]+)", "\n".join(blocks("sh")), re.MULTILINE)
    assert targets == ["demo", "test"]
    for target in [
        *targets,
        "test-all",
        "test-embed",
        "test-install",
        "dist",
        "lint",
        "docs",
        "docs-serve",
        "bench",
        "bench-c",
        "bench-int8",
        "bench-streams",
        "bench-method",
        "bench-training",
        "bench-cuda",
    ]:
        subprocess.run(["make", "-n", target], cwd=ROOT, check=True, capture_output=True)


def test_links_lead_somewhere():
    for link in re.findall(r"\]\(([^)#]+)\)", README):
        assert (ROOT / link).exists(), link


def test_the_table_of_latencies_is_that_of_the_results(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    import sizes

    found = sizes.read(sizes.RESULTS / "cpu")
    assert [*found] == [*sizes.NAMES]
    assert sizes.with_table(README, found) == README
    assert (sizes.RESULTS / "cpu.md").read_text(encoding="utf-8") == sizes.markdown(found)


def test_it_can_be_read_in_one_go():
    lines = README.splitlines()
    assert len(lines) <= 150
    assert max(map(len, lines)) <= 100
