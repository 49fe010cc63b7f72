"""`fcn-convert init`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fcn_convert.cli.options import StateDictPath
from fcn_convert.cli.streams import say, stdout

UNDECIDED = 2


def init(
    checkpoint: Annotated[Path, typer.Argument(help="The trained checkpoint, in any container.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="The new spec; default: print it.")
    ] = None,
    state_dict: StateDictPath = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing spec.")] = False,
) -> None:
    """Write the spec that converts a checkpoint; exit 2 where the file alone does not tell it."""
    from fcn_convert.atomic import check_target, write_text
    from fcn_convert.infer.draft import draft_spec

    if output is not None:
        check_target(output, replace=force, inputs=[checkpoint])
    draft = draft_spec(checkpoint, state_dict)
    if output is not None:
        write_text(output, draft.text, replace=force)
    else:
        with stdout() as stream:
            stream.write(draft.text)
    say(*(f"error: {problem}" for problem in draft.problems))
    if draft.problems:
        raise typer.Exit(UNDECIDED)
