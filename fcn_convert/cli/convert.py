"""`fcn-convert convert`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fcn_convert.cli.options import (
    AsJson,
    FileArgument,
    FileOption,
    Level,
    Quiet,
    ReportsOfConversion,
    SpecFile,
    Strict,
    Verbose,
)


def convert(
    checkpoint: Annotated[Path, FileArgument(help="The trained checkpoint, in any container.")],
    spec: SpecFile = None,
    output: Annotated[
        Path | None,
        FileOption(
            "--output",
            "-o",
            help="The new file, default: NAME.fcn.safetensors; of shards a folder, NAME.fcn.",
        ),
    ] = None,
    report: ReportsOfConversion = None,
    level: Level = "activations",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing output.")] = False,
    strict: Strict = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Rewrite a checkpoint's Dense weights as convolutions, into a new safetensors file."""
    from fcn_convert.cli.result import View, show
    from fcn_convert.conversion import convert as run

    show(
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
        View(as_json, quiet, verbose),
    )
