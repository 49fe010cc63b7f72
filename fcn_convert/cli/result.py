"""Shows the report of a piece of work, and exits by its verdict."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import typer

from fcn_convert.cli.streams import failures, progress_bar, say, stdout
from fcn_convert.report import CheckFailedError, Report
from fcn_convert.report.batch import BatchReport
from fcn_convert.report.json_view import to_json

CHECK_FAILED = 1


@dataclass(frozen=True)
class View:
    """How a result is shown."""

    as_json: bool
    quiet: bool
    every_tensor: bool


def show(work: Callable[[Callable[[int, int], None] | None], Report], view: View) -> None:
    """Do the work under a progress bar, print its report, and exit by its verdict."""
    status = 0
    try:
        with progress_bar(quiet=view.quiet) as progress:
            report = work(progress)
    except CheckFailedError as failed:
        report, status = failed.report, CHECK_FAILED
    say(*(f"warning: {warning}" for warning in report.warnings))
    in_place = report.verdict.output == "written"
    outcome = f"; the output {report.output.path} is in place" if in_place else ""
    if view.as_json:
        with stdout(outcome) as stream:
            stream.writelines(to_json(report))
    elif not view.quiet:
        with stdout(outcome) as stream:  # rendering writes to it, too
            stream.write(_tables(report, view))
    problems = failures(report.verdict.problems, report.warnings)
    say(*(f"error: {problem}" for problem in problems))
    if status:
        raise typer.Exit(status)


def show_batch(report: BatchReport, *, as_json: bool, quiet: bool) -> None:
    """Print what came of a batch, and exit with the worst status in it."""
    if as_json:
        with stdout() as stream:
            stream.writelines(to_json(report))
    elif not quiet:
        from rich.console import Console

        from fcn_convert.report import batch_views

        console = Console()
        with stdout() as stream:
            with console.capture() as capture:
                batch_views.show(report, console)
            stream.write(capture.get())
    if report.status:
        raise typer.Exit(report.status)


def _tables(report: Report, view: View) -> str:
    from rich.console import Console

    from fcn_convert.report import terminal

    console = Console()
    with console.capture() as capture:
        terminal.show(report, console, every_tensor=view.every_tensor)
    return capture.get()
