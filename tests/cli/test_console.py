import io
import sys

import pytest

from lstm_deploy.cli import console


class Terminal(io.StringIO):
    encoding = "utf-8"

    def isatty(self):
        return True


@pytest.fixture
def terminal(monkeypatch):
    """Makes a terminal of forty columns of standard output and error, from within a test."""

    def start():
        monkeypatch.delenv("NO_COLOR", raising=False)
        monkeypatch.setenv("COLUMNS", "40")
        monkeypatch.setenv("TERM", "xterm-256color")
        screen = Terminal()
        monkeypatch.setattr(sys, "stdout", screen)
        monkeypatch.setattr(sys, "stderr", screen)
        return screen

    return start


def test_a_terminal_has_colours(terminal):
    screen = terminal()
    console.say(("PASSED", console.GOOD), " all")
    assert screen.getvalue() == "\x1b[32mPASSED\x1b[0m all\n"


@pytest.mark.parametrize(("name", "value"), [("NO_COLOR", "1"), ("TERM", "dumb")])
def test_a_terminal_without_colours_gets_no_codes_at_all(terminal, monkeypatch, name, value):
    screen = terminal()
    monkeypatch.setenv(name, value)
    console.say_heading("Heading", "more")
    console.say_table(["a"], [[("x", console.BAD)]])
    console.warn("careful")
    assert screen.getvalue() == "\nHeading  more\n  a\n  x\nwarning: careful\n"


def test_a_pipe_has_neither_colours_nor_wrapping(capsys):
    console.say(("PASSED", console.GOOD), " and a long sentence" * 20)
    out = capsys.readouterr().out
    assert out == f"PASSED{' and a long sentence' * 20}\n"


def test_text_wraps_on_a_terminal_and_commands_and_data_do_not(terminal):
    screen = terminal()
    console.say("a sentence that is longer than forty columns", hang=2)
    assert screen.getvalue().splitlines() == ["a sentence that is longer than forty", "  columns"]
    console.say_next(["run", "a folder/with a long name and more words", "--plot", "x.png"])
    console.say_data("some data\twith tabs and more than forty columns of it")
    command, data = screen.getvalue().splitlines()[2:]
    assert "lstm-deploy run 'a folder/with a long name and more words' --plot x.png" in command
    assert data == "some data\twith tabs and more than forty columns of it"


def test_what_a_pipe_cannot_encode_becomes_a_question_mark(monkeypatch):
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="cp1252", newline="\n"))
    console.say("µ ≥ 1 → ☃")
    console.say_table(["x"], [["1"]], bars=[1])
    sys.stdout.flush()
    lines = raw.getvalue().decode("cp1252").splitlines()
    assert lines[0] == "µ ? 1 ? ?"
    assert lines[2].endswith("##########")


def test_results_and_hints_come_in_the_order_in_which_they_were_written(monkeypatch):
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BufferedWriter(raw), write_through=False))
    monkeypatch.setattr(sys, "stderr", io.TextIOWrapper(raw, write_through=True))
    console.say("first")
    console.note("second")
    assert raw.getvalue().split() == [b"first", b"second"]


def test_progress_without_a_terminal_is_quiet(capsys, monkeypatch):
    seconds = iter(range(1000))
    monkeypatch.setattr(console.time, "monotonic", lambda: next(seconds))
    with console.progress("export") as on_progress:
        for done in range(30):
            on_progress(done, 30, "writing")
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "export …"
    assert lines[1].startswith("export: 2")
    assert 3 <= len(lines) <= 6
    assert lines[-1].endswith("%, writing")


def test_progress_on_a_terminal_has_the_time_left_and_leaves_nothing(terminal, monkeypatch):
    screen = terminal()
    monkeypatch.setenv("COLUMNS", "80")
    with console.progress("export") as on_progress:
        on_progress(1, 2, "writing [batch]")
    assert "50 %" in screen.getvalue()
    assert "writing [batch]" in screen.getvalue()
    assert screen.getvalue().endswith("\x1b[2K")
