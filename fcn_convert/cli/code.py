"""`fcn-convert code`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from fcn_convert.cli.options import FileArgument
from fcn_convert.cli.streams import stdout


def code(
    report: Annotated[Path, FileArgument(help="The JSON report of a conversion.")],
) -> None:
    """Print the head as an nn.Module to paste, whose state dict is the converted file's."""
    from fcn_convert.head_code import code_of

    text = code_of(report)
    with stdout() as stream:
        stream.write(text)
