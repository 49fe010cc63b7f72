"""`fcn-convert report merge`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fcn_convert.cli.options import AsJson, FileArgument, FileOption, Quiet

app = typer.Typer(name="report", help="Work with reports.", no_args_is_help=True)


@app.callback()
def _main() -> None:
    pass


@app.command()
def merge(
    reports: Annotated[list[Path], FileArgument(help="JSON reports of batches, or of shards.")],
    output: Annotated[
        list[Path],
        FileOption("--output", "-o", help="The joined report; the suffix chooses its format."),
    ],
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Join the reports of a batch's shards into one; exit with the worst status in it."""
    from fcn_convert.cli.result import show_batch
    from fcn_convert.report.batch import merged, read_batch_report
    from fcn_convert.report.files import check_paths, write_report

    check_paths(output, reports)
    result = merged({str(path): read_batch_report(path) for path in reports})
    for path in output:
        write_report(result, path)
    show_batch(result, as_json=as_json, quiet=quiet)
