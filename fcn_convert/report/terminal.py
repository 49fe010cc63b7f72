"""The report as tables for people, on a terminal or in a log."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from fcn_convert.errors import printable, quoted
from fcn_convert.proof import Check
from fcn_convert.report import LayerEntry, Report, TensorEntry

LOG_WIDTH = 1 << 16
"""Columns where the output is no terminal, so that nothing is wrapped: rich would, at 80."""


def show(report: Report, console: Console, *, every_tensor: bool) -> None:
    """Print the layers, what became of everything else, and the verdict."""
    if not console.is_terminal:
        console.width = LOG_WIDTH
    source = f"{report.source.path} ({report.source.format}, {_size(report.source.bytes)})"
    target = report.output.path + (
        f" ({_size(report.output.bytes)})" if report.output.bytes else ""
    )
    _line(console, f"{source} → {target}")
    console.print(_layers(report.layers))
    if every_tensor:
        console.print(_tensors(report.tensors))
    for tie in report.ties:
        _line(console, f"tied in the source, each written in full: {', '.join(tie)}")
    _line(console, _totals(report))
    verdict = report.verdict
    style = {True: "bold green", False: "bold red", None: "bold"}[verdict.passed]
    level = f" (checked: {verdict.level})" if verdict.level else ""
    unwritten = (
        "; no output was written" if verdict.problems and verdict.output == "not written" else ""
    )
    _line(console, f"verdict: {verdict.text}{level}{unwritten}", style)
    for problem in verdict.problems:
        _line(console, f"  {problem}", "red")


def _line(console: Console, text: str, style: str = "") -> None:
    # Text is never parsed as markup, and a long line is the terminal's to wrap.
    console.print(Text(printable(text), style=style), soft_wrap=True)


def _layers(layers: Iterable[LayerEntry]) -> Table:
    table = _table("layer", "Dense weight", "becomes", "as", "max-abs-diff", "verdict")
    for layer in layers:
        cells = (
            _names(layer.name, layer.new_name),
            f"{_shape(layer.old_shape)} {layer.dtype}",
            _shape(layer.new_shape),
            layer.module,
            _differences(layer.checks),
            _verdict(layer.checks),
        )
        table.add_row(*map(Text, cells))
    return table


def _tensors(tensors: Iterable[TensorEntry]) -> Table:
    table = _table("tensor", "shape", "dtype", "action", "reason", "verdict")
    for entry in tensors:
        cells = (
            _names(entry.name, entry.new_name),
            _shape(entry.shape) if entry.shape is not None else "",
            entry.dtype or "",
            entry.action,
            printable(entry.reason),
            _verdict(entry.checks),
        )
        table.add_row(*map(Text, cells))
    return table


def _table(*headings: str) -> Table:
    table = Table(header_style="bold")
    for heading in headings:
        table.add_column(heading, overflow="fold")
    return table


def _names(old: str, new: str | None) -> str:
    """Show a name, and what it is renamed to if it is; None for an entry that is left out."""
    return printable(old if new in {None, old} else f"{old} → {new}")


def _shape(shape: Sequence[int]) -> str:
    return f"({', '.join(map(str, shape))}{',' if len(shape) == 1 else ''})"


def _verdict(checks: Sequence[Check]) -> str:
    if not checks:
        return ""
    if any(check.passed is False for check in checks):
        return "differs"
    not_computed = [check.name for check in checks if check.passed is None]
    return f"agrees ({', '.join(not_computed)} not computed)" if not_computed else "agrees"


def _differences(checks: Sequence[Check]) -> str:
    """Show the largest difference of the values, and that of the outputs with its bound."""
    shown = []
    for check in checks:
        largest = check.values.get("max_abs_diff")
        if check.name == "bytes":
            shown.append(f"weight {_number(largest)}")
        elif check.name == "activations" and check.passed is not None:
            windows = check.values["larger_map_max_abs_diff"]
            both = max(value for value in (largest, windows) if isinstance(value, float))
            relation = "≤" if check.passed else "beyond"
            shown.append(f"outputs {_number(both)} {relation} {_number(check.values['bound'])}")
    return ", ".join(shown)


def _number(value: float | str | None) -> str:
    if isinstance(value, float):
        return f"{value:.1e}" if value else "0"
    return "unknown" if value is None else str(value)


def _totals(report: Report) -> str:
    totals = report.totals
    listed = ", ".join(f"{count} {action}" for action, count in totals.items() if count)
    left_out = [entry.name for entry in report.tensors if entry.action == "left out"]
    return f"tensors: {listed}" + (f" ({quoted(left_out, 6)})" if left_out else "")


def _size(nbytes: int) -> str:
    size, unit = float(nbytes), "B"
    for larger in ("kB", "MB", "GB", "TB"):
        if size < 999.5:  # what three digits can show
            break
        size, unit = size / 1000, larger
    return f"{size:.3g} {unit}"
