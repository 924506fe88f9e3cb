"""Make `docs/images/terminal.svg`: the commands below in a terminal, as they print, with a model of real prices.

Run it from the project's root, with `pip install pyte` beside what `make demo` installs, on a quiet machine:

    .venv/bin/python benchmarks/terminal.py
"""

import fcntl
import io
import os
import pty
import struct
import subprocess
import sys
import tempfile
import termios
from itertools import groupby
from pathlib import Path

import pyte
from rich.console import Console
from rich.style import Style
from rich.terminal_theme import MONOKAI
from rich.text import Text

from lstm_deploy.cli import demo

COLUMNS, LINES = 88, 400
TARGET = Path(__file__).parents[1] / "docs" / "images" / "terminal.svg"
BEFORE = "lstm-deploy train prices.csv --task forecast --target close -o prices.safetensors"
"""What is run first, and not shown."""
SHOWN = (
    "lstm-deploy export prices.safetensors -o prices",
    "lstm-deploy validate prices",
    "lstm-deploy bench prices --scenario stream --scope end_to_end --batch 1",
    "lstm-deploy run prices --input prices.csv",
)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        demo.write_prices(Path(folder, "prices.csv"))
        in_terminal(BEFORE, folder)
        text = Text()
        for command in SHOWN:
            text.append("$ ", "bold green").append(f"{command}\n", "bold")
            text.append_text(in_terminal(command, folder)).append("\n")
    console = Console(record=True, width=COLUMNS, file=io.StringIO())
    console.print(text, end="")
    svg = console.export_svg(title="lstm-deploy", theme=MONOKAI, unique_id="terminal")
    # An image may load nothing from elsewhere: the reader's own monospaced font is used.
    start, end = svg.index("@font-face"), svg.index(".terminal-matrix")
    TARGET.write_text(svg[:start] + svg[end:], encoding="utf-8")


def in_terminal(command: str, folder: str) -> Text:
    """What a command leaves on the screen of a terminal, in its colours."""
    ours, its = pty.openpty()
    fcntl.ioctl(its, termios.TIOCSWINSZ, struct.pack("HHHH", LINES, COLUMNS, 0, 0))
    environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": str(COLUMNS)}
    words = command.replace("lstm-deploy", f"{sys.executable} -m lstm_deploy", 1).split()
    process = subprocess.Popen(words, cwd=folder, env=environment, stdin=its, stdout=its, stderr=its)
    os.close(its)
    screen = pyte.Screen(COLUMNS, LINES)
    stream = pyte.ByteStream(screen)
    while True:
        try:
            stream.feed(os.read(ours, 65536))
        except OSError:  # the program has ended
            break
    if process.wait():
        raise SystemExit("\n".join(line.rstrip() for line in screen.display).rstrip())
    text = Text()
    for row in range(screen.cursor.y):
        line = Text()
        characters = [screen.buffer[row][column] for column in range(COLUMNS)]
        for (fg, bold), alike in groupby(characters, lambda each: (each.fg, each.bold)):
            line.append("".join(each.data for each in alike), Style(color=colour(fg), bold=bold))
        line.rstrip()
        text.append_text(line).append("\n")
    return text


def colour(name: str) -> str | None:
    """A colour of pyte in rich's words."""
    if name == "default":
        return None
    named = name.replace("brown", "yellow").replace("bright", "bright_")
    return named if not set(name) <= set("0123456789abcdef") else f"#{name}"


if __name__ == "__main__":
    main()
