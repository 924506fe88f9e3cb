"""Pages of the documentation, run as a reader would: files are written, commands and programs run, in their order."""

import io
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from lstm_deploy.cli import app

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
FENCE = re.compile(r'^```(\w+)(?: title="([^"]+)")?\n(.*?)^```', re.DOTALL | re.MULTILINE)
QUICK = {
    "train": ("--epochs", "1", "--hidden-size", "8"),
    "export": ("--format", "onnx"),
    "bench": ("--batch", "1", "--baseline", "floor", "--scenario", "stream", "--scope", "end_to_end", "--rounds", "9"),
}
"""Options that shorten what a command does; those of `export` only where the page does not choose itself."""


class Block(NamedTuple):
    """A fenced block of a page."""

    language: str
    title: str
    """The file that it is, if any."""
    text: str


def read(page: str) -> str:
    """The text of a page in docs/."""
    return (DOCS / page).read_text(encoding="utf-8")


def blocks(text: str, language: str = "") -> list[Block]:
    """All blocks of a page that say what language they are in, or those of one language."""
    found = [Block(*each) for each in FENCE.findall(text)]
    return [block for block in found if language in ("", block.language)]


def runs(block: Block) -> bool:
    """Whether something happens in a block: a file is written, or commands or a program are run."""
    return bool(block.title) or block.language in ("sh", "python") or "$ lstm-deploy " in block.text


def commands(text: str) -> list[str]:
    """The lines of a block; those that end with a backslash are joined with the next one."""
    return re.sub(r"\\\n *", "", text).splitlines()


def play(text: str, quick: Mapping[str, Sequence[str]] = QUICK, env: Mapping[str, str] = os.environ) -> dict[str, Any]:
    """Run a page in the working directory; gives the names that its programs have defined.

    Blocks with a title become files. In `sh` blocks each line is run; in `console` blocks those of `lstm-deploy`, which
    have to print the lines that follow, where … is anything. `quick` are options that are added to commands of
    `lstm-deploy`. The test is skipped where a tool is missing.
    """
    names: dict[str, Any] = {"__name__": "page"}
    with importable_from(Path.cwd()):
        for language, title, code in blocks(text):
            if title:
                Path(title).parent.mkdir(parents=True, exist_ok=True)
                Path(title).write_text(code, encoding="utf-8")
            elif language == "python":
                exec(code, names)
            elif language == "sh":
                for line in commands(code):
                    call(line, quick, env)
            elif language == "console":
                show(code, quick, env)
    return names


def show(session: str, quick: Mapping[str, Sequence[str]], env: Mapping[str, str]) -> None:
    """Run the commands of ours in a session, and look for the lines that follow them in what they print."""
    said = ""
    for line in commands(session):
        if line.startswith("$ lstm-deploy"):
            said = " ".join(call(line[2:], quick, env).split())
        elif not line.startswith("$"):
            pattern = ".*".join(map(re.escape, " ".join(line.split()).split("…")))
            assert re.search(pattern, said), (line, said)


def call(line: str, quick: Mapping[str, Sequence[str]] = QUICK, env: Mapping[str, str] = os.environ) -> str:
    """What a line prints: commands of ours are run in this process, others, and what pipes join, by the shell.

    It has to succeed, unless its comment says another exit code.
    """
    words = shlex.split(line, comments=True)
    if not words:
        return ""
    if words[0] == "cd":
        os.chdir(words[1])
        return ""
    if words[0] != "lstm-deploy" and not shutil.which(words[0]):
        pytest.skip(f"needs {words[0]}, for: {line}")
    if words[0] == "lstm-deploy" and not {"|", "<", ">"} & set(words):
        words = _shortened(words, quick.get(words[1], ()))
        said = io.StringIO()
        with redirect_stdout(said), redirect_stderr(said):
            code = app(words[1:], prog_name="lstm-deploy", standalone_mode=False) or 0
        output = said.getvalue()
    else:
        tools = {"python": [sys.executable], "lstm-deploy": [sys.executable, "-m", "lstm_deploy"]}
        command = re.sub(r"\b(python|lstm-deploy)(?= )", lambda tool: shlex.join(tools[tool[1]]), line)
        shell = ["bash", "-o", "pipefail", "-c", command]
        done = subprocess.run(shell, check=False, capture_output=True, text=True, env=env)
        code, output = done.returncode, done.stdout + done.stderr
    expected = re.search(r"# exit code (\d)", line)
    assert code == (int(expected[1]) if expected else 0), (line, output)
    return output


def _shortened(words: list[str], quick: Sequence[str]) -> list[str]:
    """A command with the options that shorten it, in the place of its own but for formats."""
    words = [*words]
    for name, value in zip(quick[::2], quick[1::2], strict=True):
        if name not in words:
            words += [name, value]
        elif name != "--format":
            words[words.index(name) + 1] = value
    return words


@contextmanager
def importable_from(folder: Path) -> Iterator[None]:
    """Modules of a page are found, and forgotten afterwards: another page has others of the same names."""
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))
        for name, module in list(sys.modules.items()):
            if (getattr(module, "__file__", None) or "").startswith(str(folder)):
                del sys.modules[name]
