"""Results to stdout, everything else to stderr, and no failure where nobody listens."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TextIO

import typer

from fcn_convert.errors import OutputError, printable


@contextmanager
def stdout(outcome: str = "") -> Iterator[TextIO]:
    """Give stdout for a result; a reader that has gone is not an error, a full disk is.

    outcome: what has been done before, for the error's sentence.
    """
    try:
        yield sys.stdout
        sys.stdout.flush()
    except BrokenPipeError:
        raise typer.Exit(128 + signal.SIGPIPE) from None
    except OSError as error:
        raise OutputError(f"standard output: {error.strerror}{outcome}") from error


def say(*lines: str) -> None:
    """Print lines to stderr, with nothing in them that a terminal would obey."""
    with suppress(OSError):  # there is nowhere left to say it
        sys.stderr.write("".join(f"{printable(line)}\n" for line in lines))
        sys.stderr.flush()


def failures(problems: Sequence[str], warnings: Sequence[str]) -> list[str]:
    """Return what failed, without the warnings that --strict counts: they are said already."""
    known = set(warnings)
    failed = [problem for problem in problems if problem not in known]
    return failed if len(failed) == len(problems) else [*failed, "--strict: a warning was given"]


@contextmanager
def progress_bar(*, quiet: bool) -> Iterator[Callable[[int, int], None] | None]:
    """Show a bar of bytes on stderr, on a terminal only."""
    if quiet or not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TimeRemainingColumn,
    )

    columns = (BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=None)

        def advance(done: int, total: int) -> None:
            bar.tasks[0].total = total or None  # without one it only shows that work is done
            bar.update(task, completed=done)

        yield advance


@contextmanager
def batch_bar(pieces: int, nbytes: int, *, quiet: bool) -> Iterator[Callable[[int, int], None]]:
    """Show a bar of conversions and bytes on stderr, on a terminal only."""
    if quiet or not sys.stderr.isatty():
        yield lambda _pieces, _bytes: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    counted = TextColumn(f"{{task.fields[pieces]}}/{pieces}")
    columns = (counted, BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=nbytes, pieces=0)
        yield lambda done, bytes_: bar.update(task, completed=bytes_, pieces=done)
