"""The style shared by reports: number formats, and tables in Markdown and HTML."""

from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

_CELL = 'style="white-space:nowrap; padding:1px 8px; text-align:'
_FIGURES = frozenset("0123456789,.–-+e()% ")


def format_value(value: Any) -> str:
    """A value with three significant digits; a dash for None."""
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return str(value)


def markdown_table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """The lines of a table in Markdown."""
    lines = [f"| {' | '.join(headings)} |", f"|{'---|' * len(headings)}"]
    return lines + [f"| {' | '.join(row)} |" for row in rows]


def html_table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in HTML, as notebooks show it: nothing is wrapped, texts are on the left and figures on the right."""
    head = "".join(f'<th {_CELL}left">{escape(heading)}</th>' for heading in headings)
    body = "".join(f"<tr>{''.join(map(_html_cell, row))}</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _html_cell(text: str) -> str:
    side = "right" if set(text) <= _FIGURES else "left"
    return f'<td {_CELL}{side}">{escape(text)}</td>'


def html_lines(*lines: str) -> str:
    """Lines of text in HTML, one below the other."""
    return f"<div>{'<br>'.join(map(escape, lines))}</div>" if lines else ""
