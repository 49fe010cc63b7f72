"""The report as tables for people, on a terminal or in a log."""

from __future__ import annotations

from collections.abc import Iterable

from rich.console import Console
from rich.table import Table
from rich.text import Text

from fcn_convert.errors import printable
from fcn_convert.report import LayerEntry, Report, TensorEntry
from fcn_convert.report.words import (
    agreement,
    differences,
    model_lines,
    names,
    picture_line,
    prefix_hint,
    shape,
    size,
    totals,
    verdict,
    verdict_of,
)

LOG_WIDTH = 1 << 16
"""Columns where the output is no terminal, so that nothing is wrapped: rich would, at 80."""


def show(report: Report, console: Console, *, every_tensor: bool) -> None:
    """Print the layers, what became of everything else, and the verdict."""
    if not console.is_terminal:
        console.width = LOG_WIDTH
    source = f"{report.source.path} ({report.source.format}, {size(report.source.bytes)})"
    target = report.output.path + (f" ({size(report.output.bytes)})" if report.output.bytes else "")
    print_line(console, f"{source} → {target}")
    console.print(_layers(report.layers))
    if every_tensor:
        console.print(_tensors(report.tensors))
    for tie in report.ties:
        print_line(console, f"tied in the source, each written in full: {', '.join(tie)}")
    print_line(console, totals(report))
    for note in report.notes:
        print_line(console, f"note: {note}")
    if hint := prefix_hint(report):
        print_line(console, hint)
    for line in model_lines(report.model) if report.model else ():
        print_line(console, line)
    for drawn in report.model.pictures if report.model else ():
        print_line(console, f"  picture of {picture_line(drawn)}")
    if agreed := agreement(report):
        print_line(console, agreed)
    style = {True: "bold green", False: "bold red", None: "bold"}[report.verdict.passed]
    print_line(console, f"verdict: {verdict(report)}", style)


def print_line(console: Console, text: str, style: str = "") -> None:
    """Print one line, which a terminal may wrap."""
    # Text is never parsed as markup, and a long line is the terminal's to wrap.
    console.print(Text(printable(text), style=style), soft_wrap=True)


def _layers(layers: Iterable[LayerEntry]) -> Table:
    table = table_of("layer", "Dense weight", "becomes", "as", "max-abs-diff", "verdict")
    for layer in layers:
        cells = (
            names(layer.name, layer.new_name),
            f"{shape(layer.old_shape)} {layer.dtype}",
            shape(layer.new_shape),
            layer.module,
            differences(layer.checks),
            verdict_of(layer.checks),
        )
        table.add_row(*map(Text, cells))
    return table


def _tensors(tensors: Iterable[TensorEntry]) -> Table:
    table = table_of("tensor", "shape", "dtype", "action", "reason", "verdict")
    for entry in tensors:
        cells = (
            names(entry.name, entry.new_name),
            shape(entry.shape),
            entry.dtype or "",
            entry.action,
            printable(entry.reason),
            verdict_of(entry.checks),
        )
        table.add_row(*map(Text, cells))
    return table


def table_of(*headings: str) -> Table:
    """Return an empty table."""
    table = Table(header_style="bold")
    for heading in headings:
        table.add_column(heading, overflow="fold")
    return table
