"""A batch written down: a YAML list of sources, with the spec and the output of each."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field

from fcn_convert.batch.jobs import BatchError, Job, output_of, place_of
from fcn_convert.errors import SpecError
from fcn_convert.spec_schema import UNSAID, Model, Name, located, model_problems
from fcn_convert.spec_yaml import read_text, read_yaml

MAX_MANIFEST_BYTES = 1 << 24


FileName = Annotated[Name, Field(pattern=r"^[^\x00]+$")]
"""No system has a name for a file with a NUL in it, or with half of a character."""


class Entry(Model):
    """One conversion."""

    source: FileName = Field(description="The checkpoint.")
    spec: FileName = Field(default=UNSAID, description="Default: --spec, or beside the source.")
    output: FileName = Field(
        default=UNSAID, description="Default: the source's name, .fcn.safetensors, in --out-dir."
    )


def read_manifest(path: Path, folder: Path | None, spec: Path | None) -> list[Job]:
    """Return a manifest's conversions; its paths count from the folder that it lies in.

    folder: where the outputs go that the manifest does not name. spec: for those without one.
    Raises SpecError with every problem and its line.
    """
    text, _ = read_text(path, MAX_MANIFEST_BYTES)
    document = read_yaml(text, path.name)
    if not isinstance(document.data, list):
        raise SpecError(f"a manifest is a list of `- source: FILE` ({path.name}:1)")
    problems = [
        *document.problems,
        *(
            located((at, *where), problem, path.name, document.lines)
            for at, entry in enumerate(document.data)
            for where, problem in model_problems(Entry, entry)
        ),
    ]
    if problems:
        raise SpecError(*problems)
    entries = [Entry.model_validate(entry) for entry in document.data]
    return [_job(entry, path.parent, folder, spec) for entry in entries]


def _job(entry: Entry, beside: Path, folder: Path | None, spec: Path | None) -> Job:
    source = beside / entry.source
    if entry.output:
        output = beside / entry.output
    elif folder is None:
        raise BatchError(f"{source}: the manifest gives no output; say it there, or --out-dir DIR")
    else:
        output = output_of(place_of(source), folder)
    own = beside / entry.spec if entry.spec else spec
    return Job(str(source), str(own) if own else None, str(output))
