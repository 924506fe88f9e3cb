"""The examples at the end of the help: all are parsed, and run where that takes no GPU and no minutes."""

import shlex
import shutil
from pathlib import Path

import authors
import pytest
import torch
from c_programs import NEEDS_CC
from command_line import QUICK, run
from typer.main import get_command
from typer.testing import CliRunner

from lstm_deploy.cli import app, demo
from lstm_deploy.cli.examples import EXAMPLES

COMMANDS = get_command(app).commands
LINES = {
    name: [
        shlex.split(line.partition("lstm-deploy ")[2])
        for line in text.replace("\\\n", "").splitlines()
        if "lstm-deploy " in line and "#" not in line
    ]
    for name, text in EXAMPLES.items()
}
ALL = [pytest.param(words, id=shlex.join(words)) for lines in LINES.values() for words in lines]
QUICKLY = {
    "train": QUICK,
    "bench": ["--rounds=9", "--no-roofline", "--no-record", "--batch=1", "--scenario=stream", "--baseline=floor"],
}


@pytest.fixture
def files():
    """What the examples name, in the present folder."""
    demo.write_prices(Path("prices.csv"))
    rows = Path("prices.csv").read_text().splitlines()
    Path("rows.csv").write_text("\n".join(row.partition(",")[2] for row in rows[:9]) + "\n")
    demo.write_text(Path("help.txt"))
    Path("book.txt").write_text(Path("help.txt").read_text(encoding="utf-8")[:20_000], encoding="utf-8")
    Path("reviews.csv").write_text("review,label\n" + "a great film,good\nan awful film,bad\n" * 20)
    Path("lines.txt").write_text("a great film\n")
    code = Path(authors.__file__).read_text(encoding="utf-8").replace("class Stock", "class Net")
    Path("net.py").write_text(code, encoding="utf-8")
    torch.save(authors.Stock(hidden=16).state_dict(), "weights.pt")


def test_every_command_has_examples():
    assert list(EXAMPLES) == list(COMMANDS)
    assert all(words[0] == name for name in ("train", "export", "run") for words in LINES[name])


@pytest.mark.parametrize("words", ALL)
def test_every_example_is_parsed(words):
    context = COMMANDS[words[0]].make_context(words[0], words[1:])
    assert not context.args


@NEEDS_CC
def test_the_examples_work_as_written(files):
    for name in ("train", "export", "validate", "run", "embed", "inspect", "compare", "env"):
        if name == "validate":  # what the examples take for granted
            shutil.copy("exported/weights/model.onnx", "theirs.onnx")
            run("export", "reviews.safetensors")
        for words in LINES[name]:
            if "cuda" not in words:
                invoke(words)


def invoke(words):
    """Run an example, in less time than it takes in use."""
    quick = [*QUICKLY.get(words[0], ()), *(["--search", "2", "--search-epochs", "1"] if "--search" in words else ())]
    rows = Path("rows.csv").read_text().partition("\n")[2] if "--stream" in words else None
    result = CliRunner().invoke(app, [*words, *quick], input=rows)
    allowed = (0, 5) if words[0] == "compare" else (0,)
    assert result.exit_code in allowed, f"{shlex.join(words)}: {result.output}{result.exception!r}"
