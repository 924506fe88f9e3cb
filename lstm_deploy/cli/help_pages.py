"""How help looks: options in sections by purpose, names and texts in two columns, examples at the end.

Typer's own sections (`rich_markup_mode="rich"`) have six columns, which leave a dozen letters of 80 for the text, and
take three times as long.
"""

import os
import re
import sys
import textwrap
from functools import partial
from typing import Any

import typer
from typer.core import TyperGroup

from lstm_deploy.cli.options import Panel

NAMES = 26
"""Letters of the column of names; the text of longer ones begins below them."""
UNBROKEN = "\xa0"
"""A space at which no line ends."""
STYLES: dict[str, dict[str, Any]] = {
    r"^\S.*:$|^Usage:": {"bold": True},
    r"(?<=^  )(-[^\s,]+(, -\S+)*|[A-Z]+(?=   *\w)|[a-z]+(?=   *\w))": {"fg": "cyan"},
    r"\[default:[^]]*\]|(?<=^  )# .*": {"dim": True},
}
"""How headings, names, defaults and comments look on a terminal."""


class HelpPage:
    """The help of a command, or of a group of them; mixed into Typer's class."""

    def get_params(self, ctx: Any) -> list[Any]:
        """All parameters. Flags such as --help are False where they are not given: for None, Typer loads Pydantic."""
        parameters: list[Any] = super().get_params(ctx)  # type: ignore[misc]
        for parameter in parameters:
            if not parameter.expose_value and parameter.default is None:
                parameter.default = False
        return parameters

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """Required arguments without the braces that Typer puts around them."""
        pieces: list[str] = super().collect_usage_pieces(ctx)  # type: ignore[misc]
        return [piece.replace("{", "").replace("}", "") for piece in pieces]

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the commands of a group, then a section for each panel of options."""
        if isinstance(self, TyperGroup):
            self.format_commands(ctx, formatter)
        sections: dict[str, list[Any]] = {panel: [] for panel in Panel}
        for parameter in self.get_params(ctx):
            sections[getattr(parameter, "rich_help_panel", None) or Panel.OTHER].append(parameter)
        for panel, parameters in sections.items():
            if parameters:
                with formatter.section(panel):
                    formatter.write("".join(_row(parameter, ctx, formatter.width) for parameter in parameters))

    def format_epilog(self, _: Any, formatter: Any) -> None:
        """Write the examples as they are: a command is not wrapped."""
        if epilog := self.epilog:  # type: ignore[attr-defined]
            formatter.write_paragraph()
            formatter.write(epilog)

    def get_help(self, ctx: Any) -> str:
        """The help, coloured where it is read on a terminal."""
        text: str = super().get_help(ctx)  # type: ignore[misc]
        return coloured(text) if sys.stdout.isatty() and not os.environ.get("NO_COLOR") else text


def coloured(text: str) -> str:
    """A help text with the codes for colours in it."""
    for pattern, style in STYLES.items():
        text = re.sub(pattern, partial(_styled, style), text, flags=re.MULTILINE)
    return text


def _styled(style: dict[str, Any], found: re.Match[str]) -> str:
    return typer.style(found[0], **style)


def _row(parameter: Any, ctx: Any, width: int) -> str:
    names, indent = f"  {_names(parameter, ctx)}", " " * (NAMES + 4)
    lines = textwrap.wrap(_text(parameter), width - len(indent), break_on_hyphens=False, break_long_words=False)
    if len(names) <= NAMES + 2:
        names = f"{names:{len(indent)}}{lines.pop(0)}"
    return "".join(f"{line}\n" for line in (names, *(indent + line for line in lines))).replace(UNBROKEN, " ")


def _names(parameter: Any, ctx: Any) -> str:
    if parameter.param_type_name == "argument":
        return str(parameter.metavar)
    if parameter.secondary_opts:
        return str(parameter.opts[0]).replace("--", "--[no-]", 1)
    return str(parameter.get_help_record(ctx)[0])


def _text(parameter: Any) -> str:
    """The help and, unless it says that itself, the default."""
    text, default = str(parameter.help), parameter.default
    if "[default:" not in text and default not in (None, False, []):
        shown = "yes" if default is True else ",".join(default) if isinstance(default, list) else default
        text += f" [default: {shown}]"
    return re.sub(r"\[default: .{,20}\]", lambda found: found[0].replace(" ", UNBROKEN), text)
