"""How figures are written, in the terminal and in Markdown."""

from collections.abc import Iterable, Sequence
from typing import Any


def cell(value: Any) -> str:
    """A value with three digits that matter; a dash for none."""
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return str(value)


def markdown_table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """The lines of a table in Markdown."""
    lines = [f"| {' | '.join(headings)} |", f"|{'---|' * len(headings)}"]
    return lines + [f"| {' | '.join(row)} |" for row in rows]
