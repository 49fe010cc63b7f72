"""Rows under headings, for people: a table where the terminal has room for one.

Where it has none, the columns that it can do without are left out, then cells fold; and where words
would break even then, each row is printed by itself, a line for each of its headings.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest

from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from fcn_convert.errors import printable

LOG_WIDTH = 1 << 16
"""Columns where the output is not a terminal, and COLUMNS is not set."""

_GAP = "  "
"""Between two columns."""
_INDENT = 4
"""Columns beside a heading and what stands under it, row by row."""
_BETWEEN_WORDS = re.compile(r"(?<=\s)(?=\S)")
_WITHIN_A_NAME = re.compile(r"(?<=[/._-])(?=[^\W\d_])")
"""Where a word that is too long may go on in the next line: after the dots of a name or the slashes
of a path, not within a number."""


@dataclass(frozen=True)
class Rows:
    """Rows of cells under headings.

    folds: the headings of columns that may take several lines. spare: of those that a narrow
    terminal does without.
    """

    headings: Sequence[str]
    cells: Sequence[Sequence[str]]
    folds: Collection[str] = ()
    spare: Collection[str] = ()

    def print_on(self, console: Console) -> None:
        """Print a table, or row by row where that would break words."""
        cells = [[*map(printable, row)] for row in self.cells]
        shown = Rows(self.headings, cells, self.folds, self.spare)
        whole = Rows(self.headings, cells)
        table = _table(whole, console.width) or _table(shown.without_spare(), console.width)
        for line in table or _one_by_one(shown, console.width):
            console.print(line, soft_wrap=True)  # a longer name is the terminal's to wrap

    def without_spare(self) -> Rows:
        """Return the rows without the columns that a narrow terminal does without."""
        kept = [at for at, heading in enumerate(self.headings) if heading not in self.spare]
        cells = [[row[at] for at in kept] for row in self.cells]
        return Rows([self.headings[at] for at in kept], cells, self.folds)


def _table(rows: Rows, room: int) -> list[Text]:
    """Return the lines of a table; none where it would break words."""
    widths = _widths(rows, room)
    lines = []
    for row in (rows.headings, *rows.cells) if widths else ():
        columns = [_folded(c, width).split("\n") for c, width in zip(row, widths, strict=True)]
        for parts in zip_longest(*columns, fillvalue=""):
            padded = (p + " " * (w - cell_len(p)) for p, w in zip(parts, widths, strict=True))
            style = "bold" if row is rows.headings else ""
            lines.append(Text(_GAP.join(padded).rstrip(), style))
    return lines


def _widths(rows: Rows, room: int) -> list[int]:
    """Return how wide each column is, `room` in all; none where words would break."""
    columns = list(zip(rows.headings, *rows.cells, strict=True))
    widest = [max(map(cell_len, column)) for column in columns]
    least = [
        max(cell_len(word.rstrip()) for cell in column for word in _words(cell, 0))
        if heading in rows.folds
        else width
        for heading, width, column in zip(rows.headings, widest, columns, strict=True)
    ]
    room -= len(_GAP) * (len(columns) - 1)
    for most in range(room, 0, -1):
        widths = [max(low, min(high, most)) for low, high in zip(least, widest, strict=True)]
        if sum(widths) <= room:
            return widths
    return []


def _one_by_one(rows: Rows, room: int) -> Iterator[Text]:
    """Yield each row as its first cell, and under it what stands under the other headings."""
    label = max(map(cell_len, rows.headings[1:]), default=0)
    for first, *others in rows.cells:
        yield Text(first, style="bold")
        for heading, cell in zip(rows.headings[1:], others, strict=True):
            for number, line in enumerate(_folded(cell, room - label - _INDENT).splitlines()):
                yield Text(f"  {'' if number else heading:{label}}  {line}")


def wrap_on_terminals_only(console: Console) -> None:
    """Let nothing be wrapped where the console is not a terminal: rich would, at 80 columns.

    Unless COLUMNS says how wide the other end of a pipe is.
    """
    if not console.is_terminal and not os.environ.get("COLUMNS"):
        console.width = LOG_WIDTH


def print_line(console: Console, text: str, style: str = "") -> None:
    """Print one line, which a terminal may wrap."""
    # Text is never parsed as markup, and a long line is the terminal's to wrap.
    console.print(Text(printable(text), style=style), soft_wrap=True)


def _words(text: str, width: int) -> Iterator[str]:
    """Yield the words of a text with the blanks after them, and longer ones in parts."""
    for word in _BETWEEN_WORDS.split(text):
        yield from [word] if cell_len(word.rstrip()) <= width else _WITHIN_A_NAME.split(word)


def _folded(text: str, width: int) -> str:
    """Return a text in lines of no more than a width, unless a part of a word is longer."""
    lines: list[str] = [""]
    for word in _words(text, width):
        if lines[-1] and cell_len(lines[-1] + word.rstrip()) > width:
            lines.append("")
        lines[-1] += word
    return "\n".join(line.rstrip() for line in lines)
