"""`fcn-convert inspect`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fcn_convert.cli.options import FileArgument, FileOption, StateDictPath, Verbose
from fcn_convert.cli.streams import stdout


def inspect(
    checkpoint: Annotated[Path, FileArgument(help="The trained checkpoint, in any container.")],
    state_dict: StateDictPath = None,
    report: Annotated[
        list[Path] | None,
        FileOption("--report", help="Write a page with the mean kernels drawn here: FILE.html."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False,
    verbose: Verbose = False,
) -> None:
    """Show what a checkpoint holds, its Dense heads, and the maps and orders they may read."""
    import json
    from dataclasses import asdict

    from fcn_convert.atomic import write_text
    from fcn_convert.cli.inspect_view import text_of
    from fcn_convert.infer.inspection import inspect_checkpoint
    from fcn_convert.report.files import check_paths

    paths = report or ()
    check_paths(paths, [checkpoint], [".html"])
    found = inspect_checkpoint(checkpoint, state_dict)
    for path in paths:
        from fcn_convert.cli.inspect_page import to_html

        write_text(path, [to_html(found)], replace=True)
    text = json.dumps(asdict(found), indent=2) + "\n" if as_json else text_of(found, verbose)
    with stdout() as stream:
        stream.write(text)
