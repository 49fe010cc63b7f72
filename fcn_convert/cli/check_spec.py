"""`fcn-convert check-spec`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from fcn_convert.cli.options import FileArgument


def check_spec(
    specs: Annotated[list[Path], FileArgument(help="Specs, each checked by itself.")],
) -> None:
    """Check specs by themselves, without a checkpoint; say every problem with its line."""
    from fcn_convert.errors import FcnConvertError
    from fcn_convert.spec import load_spec

    problems: list[str] = []
    for path in specs:
        try:
            load_spec(path)
        except FcnConvertError as error:
            problems += (p if str(path) in p else f"{path}: {p}" for p in error.problems)
    if problems:
        raise FcnConvertError(*problems)
