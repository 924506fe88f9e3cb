"""The `lstm-deploy` application: its commands, and how their errors are reported."""

import os
import signal
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from lstm_deploy.cli import console, effects
from lstm_deploy.cli.bench import bench, compare
from lstm_deploy.cli.demo import demo
from lstm_deploy.cli.embed import embed
from lstm_deploy.cli.env import env
from lstm_deploy.cli.examples import EXAMPLES, START
from lstm_deploy.cli.export import export
from lstm_deploy.cli.help_pages import HelpPage
from lstm_deploy.cli.inspect import inspect
from lstm_deploy.cli.options import Panel, option
from lstm_deploy.cli.run import run
from lstm_deploy.cli.train import train
from lstm_deploy.cli.usage_errors import explained
from lstm_deploy.cli.validate import validate


class Command(HelpPage, TyperCommand):
    """A command, which refuses options that have no effect."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Read the arguments and options of the command."""
        with explained(ctx):
            return super().parse_args(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        """Run it."""
        effects.check(ctx)
        return super().invoke(ctx)


class Commands(HelpPage, TyperGroup):
    """All commands, each with the same way of reporting errors."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Read the options before the command; without any words, show the help."""
        with console.handled_errors(), explained(ctx):
            return super().parse_args(ctx, args or ["--help"])

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Find the command that was named."""
        with explained(ctx):
            return super().resolve_command(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        """Run the command that was named."""
        with console.handled_errors():
            return super().invoke(ctx)


app: typer.Typer = typer.Typer(
    cls=Commands,
    rich_markup_mode=None,
    epilog=START,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def main() -> None:
    """Entry point of `lstm-deploy`."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # clean up as after Ctrl-C
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # loading an int8 file prints a deprecation warning
    app(prog_name="lstm-deploy")


def _print_version(requested: bool) -> None:
    if requested:
        from importlib.metadata import version

        console.say(version("lstm-deploy"))
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool,
        option(Panel.OTHER, "--version", callback=_print_version, is_eager=True, help="Print the version and exit."),
    ] = False,
) -> None:
    """Take an LSTM, GRU or RNN out of PyTorch: export, prove, measure, use.

    Artifacts are ONNX, TorchScript and C, with the hidden state as explicit inputs and outputs.
    """


for _command in (train, export, validate, bench, compare, run, embed, inspect, demo, env):
    app.command(cls=Command, epilog=EXAMPLES[_command.__name__])(_command)
