"""Printing: results on standard output, everything else on standard error. No other module prints."""

import json
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import typer

from lstm_deploy.errors import LstmDeployError, machine_limits, one_line
from lstm_deploy.progress import OnProgress, silent

DEBUG = "LSTM_DEPLOY_DEBUG"
INTERRUPTED = 130


def say(text: str = "") -> None:
    """A result."""
    print(text)


def note(text: str) -> None:
    """A hint, a warning or the next step: for people, not for pipes."""
    print(text, file=sys.stderr)


def say_json(document: Any) -> None:
    """One JSON document; what is not a number (NaN) or infinite becomes null."""
    print(json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False))


def say_table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table; columns whose cells are all numbers or dashes are aligned to the right."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for column, heading in enumerate(headings):
        numeric = all(row[column][:1] in "-–0123456789" for row in rows)
        table.add_column(heading, justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        table.add_row(*row)
    # In a pipe there is no width to fit: nothing may be cut.
    Console(width=None if sys.stdout.isatty() else 1000, highlight=False, markup=False).print(table)


def say_contract(contract: Any) -> None:
    """Inputs, outputs and state of a model, and whether it streams."""
    for spec in (*contract.inputs, *contract.state_inputs):
        say(f"  in   {spec}")
    for spec in (*contract.outputs, *contract.state_outputs):
        say(f"  out  {spec}")
    starts = {"reset": "from the initial state", "carry": "from where the last one ended"}[contract.state_policy]
    say(f"  streaming {contract.streaming_text}; a new sequence starts {starts} ({contract.state_policy})")


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
    """A bar on standard error where that is a terminal, else a line for each tenth."""
    if not shown:
        yield silent
        return
    if not sys.stderr.isatty():
        tenths = 0
        note(f"{title} …")

        def say_tenths(done: int, total: int, text: str) -> None:
            nonlocal tenths
            if 10 * done // total > tenths:
                tenths = 10 * done // total
                note(f"{title}: {10 * tenths} %, {text}")

        yield say_tenths
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:3.0f} %"))
    with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(title, total=None)

        def advance(done: int, total: int, text: str) -> None:
            bar.update(task, completed=done, total=total, description=f"{title}: {text}")

        yield advance


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
        note(f"error: {_sentence(error)}")
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
