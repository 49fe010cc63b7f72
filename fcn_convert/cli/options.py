"""The arguments and options that several commands share."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import typer

FileArgument = partial(typer.Argument, readable=False)
FileOption = partial(typer.Option, readable=False)
"""Whether a file can be read is found by reading it, and said in a sentence like all else."""

SpecFile = Annotated[
    Path | None, FileOption("--spec", help="The spec; default: the checkpoint's name, .yaml.")
]
_REPORT = "Write the report here; the suffix chooses: .json, .html, .md, .xml (JUnit). Default: "
Reports = Annotated[
    list[Path] | None, FileOption("--report", metavar="<path>", help=f"{_REPORT}none.")
]
ReportsOfConversion = Annotated[
    list[Path] | None,
    FileOption(
        "--report", metavar="<path>", help=f"{_REPORT}NAME.fcn.report.json, beside the output."
    ),
]
Level = Annotated[
    Literal["activations", "bytes", "shapes"],
    typer.Option(
        "--verify",
        help="What is checked. shapes: names, shapes, sizes; bytes: every value, too; activations: "
        "also what each rewritten layer computes.",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the report instead of the table.")]
Quiet = Annotated[
    bool, typer.Option("--quiet", "-q", help="Print nothing but warnings and errors.")
]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="List every tensor.")]
Strict = Annotated[bool, typer.Option("--strict", help="Exit 1 where there is a warning.")]
StateDictPath = Annotated[
    str | None,
    typer.Option("--state-dict", help="Where in a wrapped checkpoint; default: the only one."),
]
ModelFactory = Annotated[
    str | None,
    typer.Option(
        "--model",
        metavar="MODULE:FACTORY",
        help="What makes the model, package.module:factory or file.py:factory; its code is run.",
    ),
]
InputSizes = Annotated[
    str | None,
    typer.Option("--input", metavar="C,H,W", help="The size of the model's own input."),
]


def both_or_none(model: str | None, sizes: str | None) -> tuple[str, str] | None:
    """Return --model and --input, neither of which says anything without the other."""
    if model is None and sizes is None:
        return None
    if model is None or sizes is None:
        raise typer.BadParameter("--model MODULE:FACTORY and --input C,H,W go together")
    return model, sizes


def numbers(text: str | None) -> tuple[float, ...]:
    """Return the numbers of an option like `0.485,0.456,0.406`."""
    try:
        found = tuple(float(part) for part in (text or "").split(",") if text)
    except ValueError:
        found = (math.nan,)
    if not all(map(math.isfinite, found)):
        raise typer.BadParameter(f"{text}: expected numbers like 0.485,0.456,0.406")
    return found
