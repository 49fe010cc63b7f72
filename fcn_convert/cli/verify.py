"""`fcn-convert verify`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fcn_convert.cli.options import (
    AsJson,
    InputSizes,
    Level,
    ModelFactory,
    Quiet,
    Reports,
    SpecFile,
    Strict,
    Verbose,
    both_or_none,
)


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
    model: ModelFactory = None,
    sizes: InputSizes = None,
) -> None:
    """Hold a converted file against its original; exit 1 where they disagree.

    With --model and --input, also run the model with the original against its fully convolutional
    form with the converted file.
    """
    from fcn_convert.cli.result import View, show
    from fcn_convert.conversion import verify_conversion

    both = both_or_none(model, sizes)
    show(
        lambda progress: verify_conversion(
            original,
            converted,
            spec,
            reports=report or (),
            level=level,
            strict=strict,
            model=both,
            progress=progress,
        ),
        View(as_json, quiet, verbose),
    )
