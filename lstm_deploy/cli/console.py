"""Printing: results on standard output, everything else on standard error. No other module prints.

On a terminal, lines wrap between words and tables fit its width; in a pipe nothing is wrapped, cut or coloured.
"""

import json
import os
import shlex
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import typer

from lstm_deploy.errors import LstmDeployError, machine_limits, one_line
from lstm_deploy.progress import OnProgress, silent

if TYPE_CHECKING:
    from rich.text import Text

    from lstm_deploy.cli.layout import Part

DEBUG = "LSTM_DEPLOY_DEBUG"
INTERRUPTED = 130
GOOD, BAD, WARNING, FAINT, HEADING, COMMAND = "green", "bold red", "yellow", "dim", "bold", "cyan"
"""What the colours mean."""
QUIET_S = 5.0
"""Where there is no terminal, progress is a line for each tenth, but none within so many seconds of the last."""


def say(*parts: "Part", hang: int = 0) -> None:
    """A line of a result; where it wraps, it goes on after `hang` columns."""
    _print(sys.stdout, parts, hang)


def note(*parts: "Part", hang: int = 0) -> None:
    """A hint, a warning or the next step: for people, not for pipes."""
    _flush_results()
    _print(sys.stderr, parts, hang)


def is_terminal() -> bool:
    """Whether a person sees the results as they come."""
    return sys.stdout.isatty()


def say_data(text: str) -> None:
    """A result for other programs, just as it is."""
    print(text)


def say_json(document: Any) -> None:
    """One JSON document; what is not a number (NaN) or infinite becomes null."""
    print(json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False))


def warn(text: str, word: str = "warning") -> None:
    """Something to look at."""
    note((f"{word}: ", WARNING), text, hang=2)


def say_heading(text: str, more: str = "") -> None:
    """The heading of a section, after a blank line."""
    say()
    say((text, HEADING), (f"  {more}" if more else "", FAINT))


def say_table(
    headings: Sequence[str],
    rows: "Sequence[Sequence[Part]]",
    *,
    optional: Sequence[str] = (),
    like: "Sequence[Sequence[Part]]" = (),
    bars: Sequence[float] = (),
) -> None:
    """A table that fits; `layout.table` says how."""
    from lstm_deploy.cli import layout

    blocks = "█▌" if (sys.stdout.encoding or "").lower().startswith("utf") else "#"
    width = _width(sys.stdout)
    _write(sys.stdout, layout.table(headings, rows, width, optional=optional, like=like, bars=bars, blocks=blocks))


def say_fields(*fields: "tuple[str, Part]") -> None:
    """Names and values below each other."""
    say_table((), [((name, FAINT), value) for name, value in fields])


def say_contract(contract: Any) -> None:
    """Inputs, state and outputs of a model, whether it streams, and how to go on after a sequence."""
    pairs = zip(contract.state_inputs, contract.state_outputs, strict=True)
    starts = {"reset": "starts from the initial state", "carry": "goes on from the end of the last one"}
    say_fields(
        *(("in", str(spec)) for spec in contract.inputs),
        *(("state", f"{before} -> {after.name}") for before, after in pairs),
        *(("out", str(spec)) for spec in contract.outputs),
        ("streaming", contract.streaming_text),
        ("new sequence", f"{starts[contract.state_policy]} ({contract.state_policy})"),
    )


def say_artifacts(artifacts: Sequence[Any]) -> None:
    """The files of a bundle, with their sizes."""
    rows = [[each.path, each.format, each.precision, f"{each.bytes:,}"] for each in artifacts]
    say_table(["file", "format", "precision", "bytes"], rows)


def command_line(command: Sequence[object]) -> str:
    """A command of ours as a shell takes it, from the words after `lstm-deploy`."""
    return shlex.join(["lstm-deploy", *map(str, command)])


def say_command(line: str) -> None:
    """A command that is run now."""
    say()
    _write_command(sys.stdout, "$ ", line)


def say_next(*commands: Sequence[object] | str) -> None:
    """Commands to go on with, each of which runs as it is printed; texts are for a shell."""
    _flush_results()
    beginning = "next: "
    for command in commands:
        _write_command(sys.stderr, beginning, command if isinstance(command, str) else command_line(command))
        beginning = " " * len(beginning)


def _write_command(stream: TextIO, beginning: str, line: str) -> None:
    """A command, which is not wrapped: so it can be copied from a terminal."""
    from lstm_deploy.cli import layout

    _write(stream, layout.paragraph([(beginning, FAINT), (line, COMMAND)], None))


def flat(value: Any) -> str:
    """A value of a JSON document on one line; long lists as their length."""
    if isinstance(value, dict):
        return ", ".join(f"{key} {flat(item)}" for key, item in value.items() if item not in (None, "", [], {}))
    if isinstance(value, list | tuple):
        text = ", ".join(map(flat, value))
        return text if len(text) < 200 else f"{len(value)} entries"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def write_text(path: Path, text: str) -> None:
    """Write a file, whole or not at all, and say so; a link is followed, and a device or pipe is written to itself."""
    from lstm_deploy.artifacts import atomic_write

    if path.exists() and not path.is_file():
        path.write_text(text, encoding="utf-8")
    else:
        with atomic_write(path.resolve()) as partial:
            partial.write_text(text, encoding="utf-8")
    note(f"wrote {path}")


@contextmanager
def progress(title: str, *, shown: bool = True) -> Iterator[OnProgress]:
    """A bar with the time left on standard error where that is a terminal, else a line now and then."""
    if not shown:
        yield silent
    elif sys.stderr.isatty():
        with _bar(title) as advance:
            yield advance
    else:
        said, tenths = time.monotonic(), 0
        note(f"{title} …")

        def say_seldom(done: int, total: int, text: str) -> None:
            nonlocal said, tenths
            if 10 * done // total > tenths and time.monotonic() - said > QUIET_S:
                said, tenths = time.monotonic(), 10 * done // total
                note(f"{title}: {10 * tenths} %, {text}")

        yield say_seldom


@contextmanager
def _bar(title: str) -> Iterator[OnProgress]:
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
    from rich.table import Column

    what = TextColumn("{task.fields[what]}", markup=False, table_column=Column(no_wrap=True, ratio=1))
    columns = (TextColumn("{task.description}"), BarColumn(20), TextColumn("{task.percentage:3.0f} %"))
    with Progress(
        *columns, TimeRemainingColumn(), what, console=_terminal(sys.stderr), transient=True, expand=True
    ) as bar:
        task = bar.add_task(title, total=None, what="")
        yield lambda done, total, text: bar.update(task, completed=done, total=total, what=text)


@contextmanager
def handled_errors() -> Iterator[None]:
    """Turn errors into one sentence on standard error and an exit code; tracebacks only for those who ask."""
    try:
        with machine_limits():
            yield
    except (typer.Exit, typer.Abort):
        raise
    except BrokenPipeError as error:  # the reader of our output has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit(0) from error
    except KeyboardInterrupt as error:
        note("interrupted: nothing was left half-written.")
        raise typer.Exit(INTERRUPTED) from error
    except Exception as error:
        if hasattr(error, "show") or os.environ.get(DEBUG) == "1":  # Typer shows its own errors
            raise
        _print(sys.stderr, [("error: ", BAD), _sentence(error)], 2)
        raise typer.Exit(error.exit_code if isinstance(error, LstmDeployError) else 1) from error


def _sentence(error: Exception) -> str:
    if isinstance(error, LstmDeployError):
        return str(error)
    if isinstance(error, OSError) and error.strerror:
        name = f" ({error.filename})" if error.filename else ""
        return f"{error.strerror}{name}; free the space, fix the permission or choose another path."
    described = one_line(error)
    return (
        f"This is a defect of lstm-deploy ({type(error).__name__}: {described}); "
        f"set {DEBUG}=1 for the traceback and report it with the output of lstm-deploy env."
    )


def _flush_results() -> None:
    """What was written first comes first, where results and hints go to the same place."""
    if sys.stdout is not None:
        sys.stdout.flush()


def _width(stream: TextIO) -> int | None:
    """Columns of a terminal; none in a pipe, which has no width to fit."""
    return _terminal(stream).width if stream.isatty() else None


def _terminal(stream: TextIO) -> Any:
    from rich.console import Console

    # Without a system of colours rich writes no escape codes at all: no bold and no dim either.
    colourless = os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb"
    return Console(file=stream, highlight=False, markup=False, emoji=False, color_system=None if colourless else "auto")


def _print(stream: TextIO, parts: "Sequence[Part]", hang: int) -> None:
    from lstm_deploy.cli import layout

    _write(stream, layout.paragraph(parts, _width(stream), hang))


def _write(stream: TextIO, lines: "Sequence[Text]") -> None:
    """Write lines as they are, in colour on a terminal; what the encoding of a pipe lacks becomes a question mark."""
    if stream.isatty():
        console = _terminal(stream)
        for line in lines:
            console.print(line, soft_wrap=True)
    else:
        encoding = stream.encoding or "utf-8"
        stream.writelines(f"{line.plain}\n".encode(encoding, "replace").decode(encoding) for line in lines)
