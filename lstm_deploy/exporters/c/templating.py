"""The parts of a C artifact that are not translated from the graph, as Jinja templates in `templates/`."""

import textwrap
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from lstm_deploy.contract import commented


def number(value: float) -> str:
    """A float32 constant as C."""
    text = f"{value:.9g}"
    return f"{text}f" if "." in text or "e" in text else f"{text}.0f"


def c_comment(text: str) -> str:
    """A comment of lines that are not too long, whatever the text."""
    return (
        textwrap.fill(
            commented(text),
            115,
            initial_indent="/* ",
            subsequent_indent="   ",
            break_long_words=False,
            break_on_hyphens=False,
        )
        + " */"
    )


def render(template: str, **variables: Any) -> str:
    """The text of `templates/TEMPLATE.jinja`."""
    return _ENVIRONMENT.get_template(f"{template}.jinja").render(variables)


_ENVIRONMENT = Environment(
    loader=PackageLoader("lstm_deploy.exporters.c"),
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
    undefined=StrictUndefined,
)
_ENVIRONMENT.filters |= {"number": number, "commented": commented, "c_comment": c_comment}
