import re
from typing import Literal, get_args

import pytest
import typer
from command_line import run
from typer.main import get_command

from lstm_deploy.artifacts import FORMATS
from lstm_deploy.benchmark import BASELINES, Plan
from lstm_deploy.cli import app, bench, embed
from lstm_deploy.cli.help_pages import coloured
from lstm_deploy.cli.options import Panel, Provider
from lstm_deploy.embedding import LANGUAGES
from lstm_deploy.runtimes import PROVIDERS

COMMANDS = get_command(app).commands
OPTIONS = [option for command in COMMANDS.values() for option in command.params]


def help_of(name):
    return run(name, "--help")[0]


def test_no_summary_is_cut_at_80_columns():
    lines = run("--help")[0].partition("Commands:\n")[2].partition("\n\n")[0].splitlines()
    assert [line.split()[0] for line in lines] == list(COMMANDS)
    assert all(len(line) <= 80 and not line.endswith("...") for line in lines)


@pytest.mark.parametrize("name", COMMANDS)
def test_a_page_fits_80_columns_and_ends_with_examples(name):
    page = help_of(name)
    assert max(map(len, page.splitlines())) <= 80
    assert page.partition("Examples:\n")[2].startswith("  # ")
    assert "{" not in page.splitlines()[0]


def test_every_option_is_in_a_section():
    sections = {option.rich_help_panel for option in OPTIONS}
    assert sections <= set(Panel) - {Panel.OTHER}


def test_every_choice_is_in_the_help():
    missing = [
        (option.name, choice)
        for option in OPTIONS
        for choice in option.type_descriptor.choices or ()
        if choice not in f"{option.metavar or option.display_type(None)} {option.help}"
    ]
    assert not missing


def test_what_help_names_is_what_there_is():
    """Help does not wait for the modules that know it."""
    assert get_args(Provider) == tuple(PROVIDERS)
    assert tuple(BASELINES) == bench.BASELINES
    assert get_args(embed.Language) == tuple(LANGUAGES)
    assert f"Formats to write: {', '.join(FORMATS)}." in " ".join(help_of("export").split())


def test_the_usual_benchmark_is_the_plan_of_python():
    plan = Plan()
    assert tuple(bench.USUAL_SCENARIOS) == plan.scenarios
    assert tuple(bench.USUAL_SCOPES) == plan.scopes
    assert tuple(map(int, bench.USUAL_BATCHES)) == plan.batches
    assert tuple(map(int, bench.USUAL_THREADS)) == plan.threads
    assert tuple(bench.USUAL_PROVIDERS) == plan.providers
    assert tuple(bench.USUAL_BASELINES) == plan.baselines


def test_defaults_are_shown_once_each():
    page = " ".join(help_of("bench").split())
    assert "Batch sizes. [default: 1,32]" in page
    assert "--[no-]record Keep the result in the bundle and its report. [default: yes]" in page
    assert "--json FILE" in page
    assert "[default: None]" not in page


def test_sections_come_in_their_order_and_arguments_first():
    page = help_of("export")
    order = ["What goes in:", "  SOURCE  ", "Precision:", "--quantize", "What comes out:", "--format", "Examples:"]
    places = [page.index(word) for word in order]
    assert places == sorted(places)


def test_colours_change_nothing_but_the_looks():
    page = help_of("run")
    in_colours = coloured(page)
    assert "\x1b[36m--prompt\x1b[0m" in in_colours
    assert "\x1b[36m-o, --output\x1b[0m" in in_colours
    assert "\x1b[1mWhat goes in:\x1b[0m" in in_colours
    assert "\x1b" not in page
    assert re.sub("\x1b.*?m", "", in_colours) == page


def test_no_words_show_the_help():
    assert run()[0] == run("--help")[0]


def test_an_option_without_a_panel_is_shown_at_the_end():
    from lstm_deploy.cli.application import Command

    other = typer.Typer(rich_markup_mode=None, add_completion=False)

    @other.command(cls=Command)
    def paint(colour: Literal["red", "blue"] = typer.Option("red", help="Colour.")) -> None:
        """Paint."""

    from typer.testing import CliRunner

    page = CliRunner().invoke(other, ["--help"]).stdout
    assert "Options:\n  --colour <red|blue>         Colour. [default: red]\n" in page
