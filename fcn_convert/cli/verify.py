"""`fcn-convert verify`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fcn_convert.cli.options import (
    AsJson,
    FileArgument,
    FileOption,
    InputSizes,
    Level,
    ModelFactory,
    Quiet,
    Reports,
    SpecFile,
    Strict,
    Verbose,
    both_or_none,
    numbers,
)


def verify(
    original: Annotated[Path, FileArgument(help="The trained checkpoint.")],
    converted: Annotated[Path, FileArgument(help="What was made of it.")],
    spec: SpecFile = None,
    report: Reports = None,
    level: Level = "activations",
    strict: Strict = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    model: ModelFactory = None,
    sizes: InputSizes = None,
    image: Annotated[
        list[Path] | None,
        FileOption(
            "--image",
            help="Draw what the network sees of it; of a.safetensors and b.jpg, into a.b.png.",
        ),
    ] = None,
    chosen: Annotated[
        int | None, typer.Option("--class", help="The class of the heat map; default: the best.")
    ] = None,
    labels: Annotated[
        Path | None, FileOption("--labels", help="The names of the classes, one a line.")
    ] = None,
    mean: Annotated[
        str | None,
        typer.Option(metavar="R,G,B", help="What is taken from pixels of 0 to 1; default: 0."),
    ] = None,
    std: Annotated[
        str | None, typer.Option(metavar="R,G,B", help="What they are divided by; default: 1.")
    ] = None,
) -> None:
    """Compare a converted file with its original; exit 1 where they disagree.

    With --model and --input, also run the model with the original against its fully convolutional
    form with the converted file.
    """
    from fcn_convert.cli.result import View, show
    from fcn_convert.conversion import verify_conversion
    from fcn_convert.report.model_entry import ModelRequest, PictureRequest

    both = both_or_none(model, sizes)
    if both is None and image:
        raise typer.BadParameter("--image goes with --model and --input")
    if not image and (labels or mean or std or chosen is not None):
        raise typer.BadParameter("--class, --labels, --mean and --std go with --image")
    pictures = PictureRequest(tuple(image or ()), chosen, labels, numbers(mean), numbers(std))
    show(
        lambda progress: verify_conversion(
            original,
            converted,
            spec,
            reports=report or (),
            level=level,
            strict=strict,
            model=ModelRequest(*both, pictures) if both else None,
            progress=progress,
        ),
        View(as_json, quiet, verbose),
    )
