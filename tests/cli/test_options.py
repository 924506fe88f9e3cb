from typing import Annotated

import typer
from msgspec import Struct
from typer.testing import CliRunner

from lstm_deploy.cli.options import grouped


class Colours(Struct, frozen=True, kw_only=True):
    front: Annotated[str, typer.Option(help="The text.")] = "black"
    back: Annotated[str | None, typer.Option("--background", help="Behind it.")] = None


def invoke(*words):
    app = typer.Typer(rich_markup_mode=None)
    seen = []

    @app.command()
    @grouped
    def paint(name: str, *, size: int = 1, colours: Colours) -> None:
        """Paint a name."""
        seen.append((name, size, colours))

    result = CliRunner().invoke(app, words)
    return result, seen


def test_fields_of_a_group_are_options_and_arrive_as_one_value():
    result, seen = invoke("x", "--front", "red", "--background", "blue", "--size", "3")
    assert result.exit_code == 0, result.output
    assert seen == [("x", 3, Colours(front="red", back="blue"))]


def test_options_that_are_not_given_have_the_defaults_of_the_group():
    _, seen = invoke("x")
    assert seen == [("x", 1, Colours())]


def test_help_lists_options_in_the_order_of_the_command():
    text = invoke("--help")[0].output
    assert "Paint a name." in text
    assert text.index("--size") < text.index("--front") < text.index("--background") < text.index("--help")
