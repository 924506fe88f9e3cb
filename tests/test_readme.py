"""Every command and program of the README is run, in the order in which a reader meets them."""

import inspect
import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import authors
import modules
import pytest
import torch
from c_programs import NEEDS_CC

import lstm_deploy
from lstm_deploy.cli import app, demo

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
TRAINING = (ROOT / "docs/training.md").read_text(encoding="utf-8")
SYSTEMS = README.partition("## The five systems")[2].partition("\n## ")[0].splitlines()
C = (ROOT / "docs/c.md").read_text(encoding="utf-8")
CLIENTS = (ROOT / "docs/embed.md").read_text(encoding="utf-8")
STREAMS = (ROOT / "docs/streams.md").read_text(encoding="utf-8")


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
    prices = (folder / "prices.csv").read_text().splitlines()  # in the place of what is not in the repository
    (folder / "aaxj.us.txt").write_text("\n".join(["Date,Open,High,Low,Close", *prices[1:]]))
    demo.write_text(folder / "help.txt")
    (folder / "tinyshakespeare.txt").write_text((folder / "help.txt").read_text(encoding="utf-8")[:20_000])
    (folder / "reviews.csv").write_text("text,label\n" + "a great film,good\nan awful film,bad\n" * 20)
    (folder / "vectors.txt").write_text("great 1 2\nawful -1 -2\nfilm 0 1\n")
    return folder


@NEEDS_CC
def test_the_commands_work_as_written(folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    commands = [line for block in blocks("sh") for line in block.splitlines() if line.startswith("lstm-deploy")]
    systems = [command for command in commands if command in SYSTEMS]
    assert (len(commands), len(systems)) == (20, 6)
    for command in commands:
        quick = ["--epochs", "1", "--hidden-size", "8"] if command in systems or "--cell" in command else []
        if command.startswith("lstm-deploy bench"):
            quick = ["--batch", "1", "--baseline", "eager"]
        assert not app([*shlex.split(command)[1:], *quick], standalone_mode=False), command
    assert "step,close" in capsys.readouterr().out


def test_the_commands_of_the_document_of_training_work_as_written(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (command,) = [line for block in blocks("sh", TRAINING) for line in block.splitlines()]
    assert not app([*shlex.split(command)[1:], "--rows", "200"], standalone_mode=False)
    assert "hidden-size" in capsys.readouterr().out
    (program,) = blocks("python", TRAINING)
    Path("sine.safetensors").unlink()
    exec(program, {})
    assert Path("sine.safetensors").is_file()


def test_the_results_of_training_are_those_of_these_commands(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    import training as benchmark

    found = json.loads((benchmark.RESULTS / "training.json").read_text(encoding="utf-8"))
    assert (benchmark.RESULTS / "training.md").read_text(encoding="utf-8") == benchmark.markdown(found)
    written = [shlex.join(["lstm-deploy", *words]) for words in benchmark.commands()]
    assert [system["command"] for system in found["systems"]] == [line for line in written if "reviews" not in line]


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


@NEEDS_CC
def test_the_commands_of_the_document_of_clients_work_as_written(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    demo.write_prices(tmp_path / "prices.csv")
    (block,) = blocks("sh", CLIENTS)
    train, *commands, replay = block.splitlines()
    assert not app([*shlex.split(train)[1:], "--epochs", "1", "--hidden-size", "8"], standalone_mode=False)
    for command in commands:
        assert not app(shlex.split(command)[1:], standalone_mode=False), command
    assert "LibTorch" in capsys.readouterr().out
    said = subprocess.run([sys.executable, *shlex.split(replay)[1:]], check=True, capture_output=True, text=True)
    assert "0 outputs differ" in said.stdout
    (program,) = blocks("py", CLIENTS)
    exec(program, {"lstm_deploy": lstm_deploy})
    assert Path("client/main.mjs").is_file()


class Letters(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm = torch.nn.LSTM(26, 8, batch_first=True)
        self.fc = torch.nn.Linear(8, 26)

    def forward(self, x):
        return self.fc(self.lstm(x)[0])


class Series(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm = torch.nn.LSTM(1, 8, batch_first=True)
        self.fc = torch.nn.Linear(8, 1)

    def forward(self, x):
        return self.fc(self.lstm(x)[0][:, -1])


class Lines(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = torch.nn.Embedding(3, 4)
        self.lstm = torch.nn.LSTM(4, 8, batch_first=True)
        self.fc = torch.nn.Linear(8, 2)

    def forward(self, x):
        return self.fc(self.lstm(self.embedding(x))[0][:, -1])


def test_the_document_of_streams_works_as_written(folder, monkeypatch):
    monkeypatch.chdir(folder)
    code = "\n\n".join(inspect.getsource(kind) for kind in (Letters, Series, Lines))
    Path("net.py").write_text(f"import torch\n\n{code}", encoding="utf-8")
    for kind in (Letters, Series, Lines):
        torch.save(kind().state_dict(), f"{kind.__name__.lower()}.pt")
    Path("letters.txt").write_text("abcdefghijklmnopqrstuvwxy ", encoding="utf-8")
    Path("words.json").write_text('["<unk>", "good", "bad"]', encoding="utf-8")
    lines = [line for block in blocks("sh", STREAMS) for line in block.splitlines()]
    commands = [line for line in lines if line.startswith("lstm-deploy")]
    assert len(commands) == 6
    for command in commands:
        assert not app(shlex.split(command)[1:], standalone_mode=False), command
    pipes = [line for line in lines if "|" in line]
    assert len(pipes) == 2
    for pipe, answers in zip(pipes, (30, 1), strict=True):
        words = pipe.replace("lstm-deploy", f"{shlex.quote(sys.executable)} -m lstm_deploy")
        done = subprocess.run(["bash", "-c", words], capture_output=True, text=True, check=True)
        assert len(done.stdout.splitlines()) == answers
    names = {}
    for program in blocks("python", STREAMS):
        exec(program, names)
    assert names["y"].shape == (1, 50, 4)


def test_the_two_commands_are_targets_of_the_makefile():
    targets = re.findall(r"^make ([\w-]+)", "\n".join(blocks("sh")), re.MULTILINE)
    assert targets == ["demo", "test"]
    for target in [
        *targets,
        "test-all",
        "test-embed",
        "lint",
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


@NEEDS_CC
def test_the_document_of_c_works_as_written(folder, monkeypatch, capsys, tmp_path):
    """Trained for one epoch; the program's forecast is that of `run` for the same rows."""
    monkeypatch.chdir(tmp_path)
    shutil.copy(folder / "aaxj.us.txt", tmp_path)
    (commands,), (program,), (python,) = (blocks(language, C) for language in ("sh", "c", "python"))
    assert len([line for line in program.splitlines() if line.strip()]) <= 30
    (tmp_path / "forecast.c").write_text(program, encoding="utf-8")
    for command in commands.splitlines():
        if command.startswith("cc "):
            strict = ["-Wall", "-Wextra", "-Werror", "-pedantic"]
            subprocess.run([*shlex.split(command), *strict], check=True)
        else:
            quick = ["--epochs", "1"] if " train " in command else []
            assert not app([*shlex.split(command)[1:], *quick], standalone_mode=False), command
    rows = (tmp_path / "aaxj.us.txt").read_bytes()
    said = subprocess.run([tmp_path / "forecast"], input=rows, check=True, capture_output=True).stdout.splitlines()
    capsys.readouterr()
    assert not app(["run", "exported/aaxj", "--input", "aaxj.us.txt", "--json"], standalone_mode=False)
    ((wanted,),) = json.loads(capsys.readouterr().out)["values"]
    assert float(said[-1]) == pytest.approx(wanted, rel=1e-5)
    exec(python, {})


def test_the_latencies_in_the_document_of_c_are_those_of_the_results(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    import c as benchmark

    found = json.loads((ROOT / "benchmarks/results/c.json").read_text(encoding="utf-8"))
    assert benchmark.short_table(found) == C.partition("-->\n")[2].partition("<!--")[0].strip()
