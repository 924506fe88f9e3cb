"""Paragraphs and tables that fit the width of a terminal: no word and no number is ever broken."""

import re
from collections.abc import Sequence

from rich.cells import cell_len
from rich.text import Text

Part = str | tuple[str, str] | Text
"""A text, with or without a style."""

FAINT = "dim"
GAP = "  "
BAR = (10, 30)
"""Fewest and most columns of a bar."""
_WORD = re.compile(r"\s*\S+\s*")
"""With the spaces before it at the beginning of a line, and those after it."""
_NUMBER = re.compile(r"[-–+≥<\d.,%×]*(e[-+]?\d+)?")
"""A number, an interval of them, or a dash in their place."""
LEAST_TEXT = 24
"""Columns that a text wraps in; in a column that would have fewer, it does not."""


def paragraph(parts: Sequence[Part], width: int | None, hang: int = 0) -> list[Text]:
    """The parts of one line as lines of at most `width` columns, all but the first after `hang` columns.

    Lines break between words; a word that is longer than a line has one of its own. A `width` of None has no end.
    """
    text = Text.assemble(*parts)
    if width is None or text.cell_len <= width:
        return [text]
    breaks, column = [], 0
    for word in _WORD.finditer(text.plain):
        if column + cell_len(word[0].rstrip()) > width and word.start() > hang:
            breaks.append(word.start())
            column = hang
        column += cell_len(word[0])
    lines = text.divide(breaks)
    for line in lines:
        line.rstrip()
    return [lines[0], *(Text(" " * hang) + line for line in lines[1:])]


def table(
    headings: Sequence[str],
    rows: Sequence[Sequence[Part]],
    width: int | None,
    *,
    optional: Sequence[str] = (),
    like: Sequence[Sequence[Part]] = (),
    bars: Sequence[float] = (),
    blocks: str = "█▌",
) -> list[Text]:
    """The lines of a table of at most `width` columns (None: as many as it takes); without `headings`, of its rows.

    Columns of numbers are aligned to the right, as wide as if the table also had the rows `like`, so that several
    tables can look alike. `bars` has a part of 1 for each row, drawn after its cells with `blocks`: a whole column, and
    half of one. Columns under `optional` are left out where they are empty and, in this order, where there is too
    little room; then the last column wraps; in the last resort each row becomes a list.
    """
    if not rows:
        return []
    grid = _Grid(headings, rows, like)
    room = 10_000 if width is None else width
    least = room - (len(GAP) + BAR[0] if bars else 0)
    for heading in optional:
        if grid.width > least or grid.is_empty(heading):
            grid = grid.without(heading)
    if bars and grid.width <= least:
        longest = min(BAR[1], room - grid.width - len(GAP))
        return grid.lines([_bar(part, longest, blocks) for part in bars])
    if grid.width <= room:
        return grid.lines()
    return grid.wrapped(room) if grid.wraps(room) else grid.lists(room)


class _Grid:
    """Cells, with the widths of their columns."""

    def __init__(
        self, headings: Sequence[str], rows: Sequence[Sequence[Part]], like: Sequence[Sequence[Part]] = ()
    ) -> None:
        self.headings = list(headings)
        self.rows, self.like = ([[Text.assemble(cell) for cell in row] for row in many] for many in (rows, like))
        top = [Text(heading, FAINT) for heading in headings]
        self.whole = [top, *self.rows] if headings else self.rows
        columns = range(len(self.rows[0]))
        self.widths = [max(row[column].cell_len for row in (*self.whole, *self.like)) for column in columns]
        self.numeric = [
            bool(headings) and all(_is_number(row[column]) for row in (*self.rows, *self.like)) for column in columns
        ]

    @property
    def width(self) -> int:
        return sum(len(GAP) + width for width in self.widths)

    def without(self, heading: str) -> "_Grid":
        """The same without a column, if it has that."""
        kept = [column for column, name in enumerate(self.headings) if name != heading]
        rows, like = ([[row[column] for column in kept] for row in many] for many in (self.rows, self.like))
        return _Grid([self.headings[column] for column in kept], rows, like)

    def is_empty(self, heading: str) -> bool:
        """Whether no row has anything in a column."""
        column = self.headings.index(heading) if heading in self.headings else None
        return column is not None and all(row[column].plain in ("", "–") for row in (*self.rows, *self.like))

    def lines(self, bars: Sequence[str] = ()) -> list[Text]:
        """One line a row, with its bar."""
        ends = ["", *bars] if bars else [""] * len(self.whole)
        lines = []
        for row, end in zip(self.whole, ends, strict=True):
            line = Text()
            for cell, width, numeric in zip(row, self.widths, self.numeric, strict=True):
                space = " " * (width - cell.cell_len)
                line += Text.assemble(GAP, space, cell) if numeric else Text.assemble(GAP, cell, space)
            line += Text.assemble(GAP, (end, FAINT))
            line.rstrip()
            lines.append(line)
        return lines

    @property
    def _last(self) -> int:
        """Where the last column begins."""
        return self.width - self.widths[-1]

    def wraps(self, room: int) -> bool:
        """Whether it fits if the last column wraps."""
        words = [cell_len(word) for row in self.whole for word in row[-1].plain.split()]
        return not self.numeric[-1] and max([LEAST_TEXT, *words]) <= room - self._last

    def wrapped(self, room: int) -> list[Text]:
        """Its lines, with the last column wrapped."""
        return [part for line in self.lines() for part in paragraph([line], room, self._last)]

    def lists(self, room: int) -> list[Text]:
        """Each row as its first cell, and below it the others with their headings."""
        lines = []
        names = self.headings[1:] or [""] * (len(self.widths) - 1)
        for row in self.rows:
            lines.append(Text(GAP) + row[0])
            fields = [[Text(GAP + name, FAINT), cell] for name, cell in zip(names, row[1:], strict=True) if cell]
            lines += _Grid((), fields).wrapped(room) if fields else []
        return lines


def _is_number(cell: Text) -> bool:
    return _NUMBER.fullmatch(cell.plain) is not None


def _bar(part: float, longest: int, blocks: str) -> str:
    """A bar of whole and half columns; the shortest has half of one."""
    halves = max(1, round(2 * longest * part))
    return blocks[0] * (halves // 2) + blocks[1:] * (halves % 2)
