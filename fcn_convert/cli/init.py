"""`fcn-convert init`."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fcn_convert.cli.options import (
    FileArgument,
    FileOption,
    InputSizes,
    ModelFactory,
    StateDictPath,
    both_or_none,
)
from fcn_convert.cli.streams import progress_bar, say, stdout

if TYPE_CHECKING:
    from fcn_convert.infer.draft import SpecDraft

UNDECIDED = 2


def init(
    checkpoint: Annotated[Path, FileArgument(help="The trained checkpoint, in any container.")],
    output: Annotated[
        Path | None, FileOption("--output", "-o", help="The new spec; default: print it.")
    ] = None,
    state_dict: StateDictPath = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing spec.")] = False,
    model: ModelFactory = None,
    sizes: InputSizes = None,
) -> None:
    """Write the spec that converts a checkpoint; exit 2 where the file alone does not tell it.

    With --model and --input, nothing is inferred: map, order and layers are those of the forward
    pass.
    """
    from fcn_convert.atomic import check_absent, check_regular, write_text

    if output is not None:
        check_regular(output, _inputs(checkpoint, model, output))
        if not force:
            check_absent(output)
    draft = _drafted(checkpoint, state_dict, both_or_none(model, sizes))
    if output is not None:
        write_text(output, [draft.text], replace=force)
        say(*(f"{output}: {reason}" for reason in draft.reasons))
    else:
        with stdout() as stream:
            stream.write(draft.text)
    say(*(f"error: {problem}" for problem in draft.problems))
    if output is not None:
        say(_what_next(checkpoint, output, draft))
    if draft.problems:
        raise typer.Exit(UNDECIDED)


def _what_next(checkpoint: Path, output: Path, draft: SpecDraft) -> str:
    """Say what to do with the spec that was written."""
    from fcn_convert.beside import spec_beside

    option = "" if output == spec_beside(checkpoint) else f" --spec {_argument(output)}"
    command = f"fcn-convert convert {_argument(checkpoint)}{option}"
    if draft.problems:
        return f"{output}: has the candidates as comments: choose there, then run `{command}`"
    return f"{output}: written; next: `{command}`"


def _argument(path: Path) -> str:
    """Return a path as a shell takes it, and not as an option."""
    return shlex.quote(f"./{path}" if str(path).startswith("-") else str(path))


def _inputs(checkpoint: Path, model: str | None, output: Path) -> list[Path]:
    """Return the files that an existing output could be, of those that are only read."""
    from fcn_convert.formats import open_checkpoint

    if not output.exists():
        return []
    with open_checkpoint(checkpoint) as opened:
        files = [file.path for file in opened.stored]
    return [checkpoint, *files, *([Path(model.rpartition(":")[0])] if model else [])]


def _drafted(checkpoint: Path, state_dict: str | None, model: tuple[str, str] | None) -> SpecDraft:
    from fcn_convert.infer.draft import SpecDraft, draft_spec

    if model is not None:
        from fcn_convert.model.drafted import spec_from_model

        with progress_bar(quiet=False):
            return SpecDraft(spec_from_model(checkpoint, *model, state_dict), (), ())
    return draft_spec(checkpoint, state_dict)
