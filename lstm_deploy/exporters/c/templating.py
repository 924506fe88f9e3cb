"""The parts of a C artifact that are not translated from the graph, as Jinja templates in `templates/`."""

import textwrap
from typing import Any

from lstm_deploy.artifacts import template_environment
from lstm_deploy.contract import comment_safe


def number(value: float) -> str:
    """A float32 constant as C."""
    text = f"{value:.9g}"
    return f"{text}f" if "." in text or "e" in text else f"{text}.0f"


def c_comment(text: str) -> str:
    """A comment of lines that are not too long, whatever the text."""
    return (
        textwrap.fill(
            comment_safe(text),
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


_FILTERS = {"number": number, "commented": comment_safe, "c_comment": c_comment}
_ENVIRONMENT = template_environment("lstm_deploy.exporters.c", _FILTERS)
