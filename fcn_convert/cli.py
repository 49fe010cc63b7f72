"""The command line: arguments in, exit status out; nothing else."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, TextIO

import typer

from fcn_convert import __version__
from fcn_convert.errors import OutputError, printable
from fcn_convert.report import Report

# Only what a command uses is imported, inside of it: --help and --version stay quick.
# ruff: noqa: PLC0415

CHECK_FAILED = 1

app = typer.Typer(
    name="fcn-convert",
    help="Rewrites a trained classifier's Dense weights as convolutions, and proves that they "
    "compute the same.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)

Checkpoint = Annotated[Path, typer.Argument(help="The trained checkpoint, in any container.")]
SpecFile = Annotated[
    Path | None, typer.Option("--spec", help="The spec; default: the checkpoint's name, .yaml.")
]
Reports = Annotated[
    list[Path] | None,
    typer.Option("--report", help="Write the report here; the suffix chooses its format (.json)."),
]
Level = Annotated[
    Literal["activations", "bytes", "shapes"],
    typer.Option("--verify", help="How much is checked; each level includes those after it."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the report instead of the table.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but errors.")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="List every tensor.")]
Strict = Annotated[bool, typer.Option("--strict", help="Exit 1 where there is a warning.")]


def _version(asked: bool) -> None:
    if asked:
        with _stdout() as stdout:
            stdout.write(f"fcn-convert {__version__}\n")
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    pass


@app.command()
def convert(
    checkpoint: Checkpoint,
    spec: SpecFile = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="The new file; default: NAME.fcn.safetensors."),
    ] = None,
    report: Reports = None,
    level: Level = "activations",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing output.")] = False,
    strict: Strict = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Rewrite a checkpoint's Dense weights as convolutions, into a new safetensors file."""
    from fcn_convert import convert as run

    _show(
        lambda progress: run(
            checkpoint,
            spec,
            output,
            reports=report,
            level=level,
            force=force,
            strict=strict,
            dry_run=dry_run,
            progress=progress,
        ),
        _View(as_json, quiet, verbose),
    )


@app.command()
def verify(
    original: Annotated[Path, typer.Argument(help="The trained checkpoint.")],
    converted: Annotated[Path, typer.Argument(help="What was made of it.")],
    spec: SpecFile = None,
    report: Reports = None,
    level: Level = "activations",
    strict: Strict = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Hold a converted file against its original; exit 1 where they disagree."""
    from fcn_convert import verify_conversion

    _show(
        lambda progress: verify_conversion(
            original,
            converted,
            spec,
            reports=report or (),
            level=level,
            strict=strict,
            progress=progress,
        ),
        _View(as_json, quiet, verbose),
    )


@app.command()
def schema(
    of: Annotated[
        Literal["spec", "report"], typer.Argument(help="What the schema describes.")
    ] = "spec",
) -> None:
    """Print the JSON Schema of the spec, for editors, or of the report."""
    import json

    if of == "spec":
        from fcn_convert.spec_schema import json_schema

        text = json.dumps(json_schema(), indent=2)
    else:
        from fcn_convert.report.json_view import SCHEMA

        text = SCHEMA.read_text("utf-8").rstrip()
    with _stdout() as stdout:
        stdout.write(text + "\n")


@dataclass(frozen=True)
class _View:
    """How a result is shown."""

    as_json: bool
    quiet: bool
    every_tensor: bool


def _show(work: Callable[[Callable[[int, int], None] | None], Report], view: _View) -> None:
    """Do the work under a progress bar, print its report, and exit by its verdict."""
    from fcn_convert.report import CheckFailedError

    status = 0
    try:
        with _progress_bar(quiet=view.quiet) as progress:
            report = work(progress)
    except CheckFailedError as failed:
        report, status = failed.report, CHECK_FAILED
    if not view.quiet:
        say(*(f"warning: {warning}" for warning in report.warnings))
    if view.as_json:
        from fcn_convert.report.json_view import to_json

        with _stdout() as stdout:
            stdout.write(to_json(report))
    elif not view.quiet:
        with _stdout() as stdout:  # rendering writes to it, too
            stdout.write(_tables(report, view))
    if view.as_json or view.quiet:  # the tables say it themselves
        say(*(f"error: {problem}" for problem in report.verdict.problems))
    if status:
        raise typer.Exit(status)


def _tables(report: Report, view: _View) -> str:
    from rich.console import Console

    from fcn_convert.report.terminal import show

    console = Console()
    with console.capture() as capture:
        show(report, console, every_tensor=view.every_tensor)
    return capture.get()


@contextmanager
def _stdout() -> Iterator[TextIO]:
    """Give stdout for a result; a reader who has gone is no error, a full disk is."""
    try:
        yield sys.stdout
        sys.stdout.flush()
    except BrokenPipeError:
        raise typer.Exit(128 + signal.SIGPIPE) from None
    except OSError as error:
        raise OutputError(f"standard output: {error.strerror}") from error


def say(*lines: str) -> None:
    """Print lines to stderr, with nothing in them that a terminal would obey."""
    with suppress(OSError):  # there is nowhere left to say it
        sys.stderr.write("".join(f"{printable(line)}\n" for line in lines))
        sys.stderr.flush()


@contextmanager
def _progress_bar(*, quiet: bool) -> Iterator[Callable[[int, int], None] | None]:
    """Show a bar of bytes on stderr, on a terminal only."""
    if quiet or not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn

    columns = (BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
