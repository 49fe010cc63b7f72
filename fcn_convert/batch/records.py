"""What an earlier run has done: decided by what its report recorded, and by the files' sha256."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from fcn_convert import __version__
from fcn_convert.batch.jobs import Job
from fcn_convert.beside import report_beside, spec_beside
from fcn_convert.errors import FcnConvertError
from fcn_convert.formats.source import SourceFile
from fcn_convert.proof import LEVELS, Level
from fcn_convert.report import FileEntry, PartEntry
from fcn_convert.report.reading import read_report

CHUNK_BYTES = 1 << 23
Tick = Callable[[], None]
"""Called now and then; what it raises stops the work."""


@dataclass(frozen=True)
class VerdictEntry:
    """How a conversion ended. level: None for a plan, which proves nothing."""

    passed: bool
    output: str
    level: Level | None


@dataclass(frozen=True)
class SpecEntry:
    """The spec that was used; sha256: of its text."""

    sha256: str


@dataclass(frozen=True)
class Record:
    """What the report beside an output says, as far as it decides what is to be done."""

    verdict: VerdictEntry
    versions: dict[str, str]
    source: FileEntry
    output: FileEntry
    spec_file: SpecEntry
    layers: tuple[object, ...]
    warnings: tuple[str, ...]

    @property
    def passed(self) -> bool:
        """Whether the output was put in place."""
        return self.verdict.passed and self.verdict.output == "written"

    def made(self, output: Path, tick: Tick) -> bool:
        """Return whether the output is as it was recorded, so that making it again loses nothing.

        At the level `shapes` no sha256 is recorded: then the size decides.
        """
        return self.passed and _is(output, self.output, tick)

    def covers(self, job: Job, tick: Tick) -> bool:
        """Return whether the job would do the same again.

        Decided by the sha256 of source and spec and by this version: not by times. At the level
        `shapes` none is recorded, so the work, which is less than hashing, is done again.
        """
        spec = Path(job.spec) if job.spec else spec_beside(Path(job.source))
        return (
            self.passed
            and self.verdict.level is not None
            and LEVELS.index(self.verdict.level) >= LEVELS.index(job.level)
            and not (job.strict and self.warnings)
            and self.versions.get("fcn-convert") == __version__
            and self.spec_file.sha256 == _sha256(spec, tick)
            and all(part.sha256 for part in _parts(Path(job.source), self.source).values())
            and _is(Path(job.source), self.source, tick)
        )


def record_beside(output: Path) -> Record | None:
    """Return what is recorded beside an output; None where there is no report, or another's."""
    try:
        return read_report(report_beside(output), Record, "a conversion")
    except FcnConvertError:
        return None


def _parts(path: Path, entry: FileEntry) -> dict[Path, FileEntry | PartEntry]:
    """Return what an entry recorded of each file, the checkpoint being at `path` now."""
    folder = path if os.path.isdir(path) else path.parent
    return {folder / part.name: part for part in entry.files} or {path: entry}


def _is(path: Path, entry: FileEntry, tick: Tick) -> bool:
    """Return whether the files have the sizes, and where recorded the sha256, of an entry."""
    return all(_is_file(file, part, tick) for file, part in _parts(path, entry).items())


def _is_file(path: Path, entry: FileEntry | PartEntry, tick: Tick) -> bool:
    try:
        same_size = os.stat(path).st_size == entry.bytes
    except (OSError, ValueError):  # a name that no file has
        return False
    return same_size and (entry.sha256 is None or entry.sha256 == _sha256(path, tick))


def _sha256(path: Path, tick: Tick) -> str | None:
    """Return a file's sha256, None where it cannot be read."""
    digest = sha256()
    try:
        with SourceFile(path) as file:
            for chunk in file.chunks(CHUNK_BYTES):
                tick()
                digest.update(chunk)
    except FcnConvertError:
        return None
    return digest.hexdigest()
