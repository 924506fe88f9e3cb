"""Commands, called in this process or as one of their own."""

import sys

from typer.testing import CliRunner

from lstm_deploy.cli import app

COMMAND = [sys.executable, "-m", "lstm_deploy"]
QUICK = ["--epochs", "1", "--hidden-size", "4"]


def run(*words, code=0):
    """A command in this process: standard output, standard error."""
    result = CliRunner().invoke(app, [str(word) for word in words], prog_name="lstm-deploy")
    assert result.exit_code == code, result.output + repr(result.exception)
    return result.stdout, result.stderr


def fails(*words, code=2):
    """A command that ends with one sentence and nothing on standard output."""
    out, err = run(*words, code=code)
    assert out == ""
    lines = err.strip().splitlines()
    (error,) = [line for line in lines if line.startswith("error: ")]
    assert error == lines[-1]
    assert "Traceback" not in err
    return error
