"""The report of a batch as JUnit, Markdown and a table."""

from __future__ import annotations

from collections.abc import Iterator
from xml.etree.ElementTree import Element, SubElement

from rich.console import Console

from fcn_convert.errors import printable
from fcn_convert.report.batch import STATUSES, BatchReport, Piece
from fcn_convert.report.junit import document, fail
from fcn_convert.report.markdown import MARKS, code, folded, prose, table
from fcn_convert.report.rows import Rows, print_line, wrap_on_terminals_only
from fcn_convert.report.words import size


def summary(report: BatchReport) -> str:
    """Count the pieces by what came of them, and name the shard."""
    counted = ", ".join(f"{count} {outcome}" for outcome, count in report.totals.items() if count)
    shard = f" (shard {report.shard})" if report.shard else ""
    pieces = len(report.pieces)
    return f"{pieces} conversion{'' if pieces == 1 else 's'}{shard}: {counted or 'nothing to do'}"


def to_markdown(report: BatchReport) -> str:
    """Return the report as Markdown: what failed first, the rest folded."""
    return "\n".join(_markdown(report)).rstrip("\n") + "\n"


def _markdown(report: BatchReport) -> Iterator[str]:
    yield f"### {MARKS[report.status == 0]} {prose(summary(report))}"
    yield ""
    for piece in report.pieces:
        for problem in piece.problems:
            yield f"- {code(piece.source)} {piece.outcome}: {prose(problem)}"
    yield ""
    headings = ("source", "output", "size", "layers", "warnings", "seconds", "outcome")
    rows = (
        (code(piece.source), code(piece.output), *numbers(piece), piece.outcome)
        for piece in report.pieces
    )
    yield from folded("every conversion", table(headings, rows))
    listed = ", ".join(f"{name} {version}" for name, version in report.versions.items())
    yield f"made with {prose(listed)}"


def to_junit(report: BatchReport) -> str:
    """Return the report as JUnit XML: a case per conversion, skipped where it is up to date."""
    root = Element("testsuites", name="fcn-convert batch")
    suite = SubElement(root, "testsuite", name="fcn-convert batch")
    for piece in report.pieces:
        case = SubElement(
            suite,
            "testcase",
            classname="fcn-convert batch",
            name=printable(piece.source),
            time=f"{piece.seconds:.3f}",
        )
        if piece.outcome == "up to date":
            SubElement(case, "skipped", message=piece.outcome)
        elif STATUSES[piece.outcome]:
            kind = "failure" if piece.outcome == "check failed" else "error"
            trace = piece.traceback.splitlines() if piece.traceback else ()
            fail(case, kind, (*piece.problems, *trace))
        if piece.warnings:
            SubElement(case, "system-err").text = "\n".join(map(printable, piece.warnings))
    return document(root)


def show(report: BatchReport, console: Console) -> None:
    """Print a row per conversion, and the sum of them."""
    wrap_on_terminals_only(console)
    headings = ("source", "output", "size", "layers", "warnings", "seconds", "outcome")
    cells = [
        (piece.source, piece.output, *numbers(piece), piece.outcome) for piece in report.pieces
    ]
    # The outputs' names follow from the sources'.
    Rows(headings, cells, folds={"source", "output"}, spare={"output"}).print_on(console)
    print_line(console, summary(report), "bold red" if report.status else "bold green")


def numbers(piece: Piece) -> tuple[str, str, str, str]:
    """Return a piece's size, layers, warnings and seconds, as every view shows them."""
    return (
        "" if piece.bytes is None else size(piece.bytes),
        "" if piece.layers is None else str(piece.layers),
        str(len(piece.warnings) or ""),
        f"{piece.seconds:.1f}",
    )
