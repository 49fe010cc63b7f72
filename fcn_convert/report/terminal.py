"""The report as tables for people, on a terminal or in a log."""

from __future__ import annotations

from collections.abc import Iterable

from rich.console import Console

from fcn_convert.report import LayerEntry, Report, TensorEntry
from fcn_convert.report.rows import Rows, print_line, wrap_on_terminals_only
from fcn_convert.report.words import (
    DIFFERENCES,
    agreement,
    differences,
    heads_lines,
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


def show(report: Report, console: Console, *, every_tensor: bool) -> None:
    """Print the layers, what became of everything else, and the verdict."""
    wrap_on_terminals_only(console)
    source = f"{report.source.path} ({report.source.format}, {size(report.source.bytes)})"
    target = report.output.path + (f" ({size(report.output.bytes)})" if report.output.bytes else "")
    print_line(console, f"{source} → {target}")
    for line in heads_lines(report):
        print_line(console, line)
    _layers(report.layers).print_on(console)
    if every_tensor:
        print_line(console, "")
        _tensors(report.tensors).print_on(console)
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


def _layers(layers: Iterable[LayerEntry]) -> Rows:
    headings = ("layer", "Dense weight", "becomes", "as", *DIFFERENCES, "verdict")
    cells = [
        (
            names(layer.name, layer.new_name),
            f"{shape(layer.old_shape)} {layer.dtype}",
            shape(layer.new_shape),
            layer.module,
            *differences(layer.checks),
            verdict_of(layer.checks),
        )
        for layer in layers
    ]
    return Rows(headings, cells, folds={"layer", *DIFFERENCES}, spare={"as", "bound"})


def _tensors(tensors: Iterable[TensorEntry]) -> Rows:
    headings = ("tensor", "shape", "dtype", "action", "reason", "verdict")
    cells = [
        (
            names(entry.name, entry.new_name),
            shape(entry.shape),
            entry.dtype or "",
            entry.action,
            entry.reason,
            verdict_of(entry.checks),
        )
        for entry in tensors
    ]
    return Rows(headings, cells, folds={"tensor", "reason"})
