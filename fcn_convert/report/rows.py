"""Rows under headings, for people: a table where the terminal has room for one.

A terminal of 80 columns has none for six headings. There a table would break shapes and lines of
Python within words, so each row is printed by itself instead, a line for each of its headings.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from fcn_convert.errors import printable

LOG_WIDTH = 1 << 16
"""Columns where the output is no terminal."""

_BORDERS = 3
"""Columns that a table takes beside each of its own, and one more at its end."""
_INDENT = 4
"""Columns beside a heading and what stands under it, row by row."""
_BETWEEN_WORDS = re.compile(r"(?<=\s)(?=\S)")
_WITHIN_A_NAME = re.compile(r"(?<=[/._-])(?=[^\W\d_])")
"""Where a word that is too long may go on in the next line: after the dots of a name or the slashes
of a path, not within a number."""


@dataclass(frozen=True)
class Rows:
    """Rows of cells under headings.

    folds: the headings of columns that may take several lines.
    """

    headings: Sequence[str]
    cells: Sequence[Sequence[str]]
    folds: Collection[str] = ()

    def print_on(self, console: Console) -> None:
        """Print a table, or row by row where that would break words."""
        printed = Rows(self.headings, [[*map(printable, row)] for row in self.cells], self.folds)
        widths = printed._widths(console.width)
        if widths:
            console.print(printed._table(widths))
            return
        for line in printed._one_by_one(console.width):
            console.print(line, soft_wrap=True)  # a longer name is the terminal's to wrap

    def _widths(self, room: int) -> list[int] | None:
        """Return how wide each column is, in so many all in all; None where words would break."""
        columns = list(zip(self.headings, *self.cells, strict=True))
        widest = [max(map(cell_len, column)) for column in columns]
        least = [
            max(cell_len(word.rstrip()) for cell in column for word in _words(cell, 0))
            if heading in self.folds
            else width
            for heading, width, column in zip(self.headings, widest, columns, strict=True)
        ]
        room -= _BORDERS * len(columns) + 1
        for most in range(room, 0, -1):
            widths = [max(low, min(high, most)) for low, high in zip(least, widest, strict=True)]
            if sum(widths) <= room:
                return widths
        return None

    def _table(self, widths: Sequence[int]) -> Table:
        table = Table(header_style="bold")
        for heading, width in zip(self.headings, widths, strict=True):
            table.add_column(_folded(heading, width), width=width, no_wrap=True)
        for row in self.cells:
            folded = (_folded(c, width) for c, width in zip(row, widths, strict=True))
            table.add_row(*map(Text, folded))
        return table

    def _one_by_one(self, room: int) -> Iterator[Text]:
        """Yield each row as its first cell, and under it what stands under the other headings."""
        label = max(map(cell_len, self.headings[1:]), default=0)
        for first, *others in self.cells:
            yield Text(first, style="bold")
            for heading, cell in zip(self.headings[1:], others, strict=True):
                for number, line in enumerate(_folded(cell, room - label - _INDENT).splitlines()):
                    yield Text(f"  {'' if number else heading:{label}}  {line}")


def wrap_on_terminals_only(console: Console) -> None:
    """Let nothing be wrapped where the console is no terminal: rich would, at 80 columns."""
    if not console.is_terminal:
        console.width = LOG_WIDTH


def print_line(console: Console, text: str, style: str = "") -> None:
    """Print one line, which a terminal may wrap."""
    # Text is never parsed as markup, and a long line is the terminal's to wrap.
    console.print(Text(printable(text), style=style), soft_wrap=True)


def _words(text: str, width: int) -> Iterator[str]:
    """Yield the words of a text with the blanks after them, and in parts those that are longer."""
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
