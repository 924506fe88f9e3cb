"""The style shared by reports: number formats, Markdown tables and the colours of plots."""

from collections.abc import Iterable, Sequence
from typing import Any

BLUE, ORANGE, GREY, GREEN, PURPLE, RED = "#2f6db3", "#e07b39", "#8a8a8a", "#3a9a5b", "#8b5fb0", "#b03a48"


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
