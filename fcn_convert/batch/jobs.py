"""Which conversions a batch is made of: files, folders and globs, each with its one output."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from fcn_convert.beside import (
    CHECKPOINT_SUFFIXES,
    DISTRIBUTED_SUFFIX,
    FOLDER_SUFFIX,
    METADATA,
    OUTPUT_SUFFIX,
    file_beside,
    folder_beside,
    is_checkpoint,
    is_index,
    is_shard,
    report_beside,
)
from fcn_convert.errors import FcnConvertError, OutputError, quoted
from fcn_convert.proof import Level
from fcn_convert.report.batch import MAX_SHARDS, Shard

OUTPUTS = (OUTPUT_SUFFIX, FOLDER_SUFFIX)
NO_CHECKPOINTS = (*OUTPUTS, ".yaml", ".yml", ".report.json", ".md", ".html", ".xml")
"""What a glob may match beside checkpoints: outputs of ours, specs and reports."""


class BatchError(FcnConvertError):
    """A batch that cannot be started: nothing was done."""


@dataclass(frozen=True)
class Job:
    """One conversion, as plain data that can be sent to another machine.

    spec: None for the one beside the source.
    """

    source: str
    spec: str | None
    output: str
    level: Level = "activations"
    force: bool = False
    strict: bool = False

    def absolute(self) -> Job:
        """Return the job with paths that hold in another working directory."""
        return replace(
            self,
            source=os.path.abspath(self.source),
            spec=os.path.abspath(self.spec) if self.spec else None,
            output=os.path.abspath(self.output),
        )


def chosen(
    sources: Sequence[str], folder: Path | None, spec: Path | None, manifest: Path | None
) -> list[Job]:
    """Return the jobs of a whole batch, in the order of their outputs; nothing is done yet.

    folder: of the outputs. spec: one for all. manifest: more of them, written down. Raises
    BatchError or SpecError.
    """
    jobs: list[Job] = []
    if manifest:
        from fcn_convert.batch.manifest import read_manifest  # noqa: PLC0415 - pydantic

        jobs += read_manifest(manifest, folder, spec)
    elif not sources:
        raise BatchError("nothing to convert: name checkpoints, folders or globs, or --manifest")
    if sources:
        if folder is None:
            raise BatchError("--out-dir DIR is missing: where are the outputs to go?")
        jobs += make_jobs(find_sources(sources), folder, spec)
    if folder and os.path.lexists(folder) and not os.path.isdir(folder):
        raise BatchError(f"{folder}: is not a folder; --out-dir names one")
    if not jobs:
        ours = [f"{source} is an output of ours" for source in sources]
        empty = [f"{manifest} has no entry"] if manifest else []
        raise BatchError(f"nothing to convert: {quoted([*ours, *empty])}")
    return distinct(jobs)


def check_report_paths(paths: Iterable[Path], jobs: Iterable[Job]) -> None:
    """Raise BatchError where the report of a whole batch would take the place of a job's own."""
    own = {os.path.realpath(report_beside(Path(job.output))).casefold() for job in jobs}
    for path in paths:
        if os.path.realpath(path).casefold() in own:
            raise BatchError(f"{path}: is the report of one conversion; name another for all")


def files_of(jobs: Iterable[Job]) -> list[Path]:
    """Return what jobs read or write, their own reports aside."""
    return [Path(p) for job in jobs for p in (job.source, job.spec, job.output) if p]


def make_folder(path: Path) -> None:
    """Make a folder that outputs go to, unless it exists; raises OutputError."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{path}: cannot be made: {error.strerror}") from error


def find_sources(sources: Iterable[str]) -> Iterator[tuple[Path, Path]]:
    """Yield each checkpoint with where it belongs in the folder of outputs, without repetition.

    A file is taken as it is. A folder is searched, with what is below it but for hidden files and
    folders, for checkpoints by their names; a distributed one of torch is its `.metadata`. A
    pattern that the shell has not expanded is expanded here. Below a folder or a pattern's fixed
    part, sub-folders are kept; of a folder of shards its own name, too. Outputs of ours are never
    taken: not even where the shell has expanded a pattern. Raises BatchError where a source gives
    nothing.
    """
    for source in (s for s in sources if not Path(s).name.endswith(OUTPUTS)):
        found = list(_expanded(source))
        if not found:
            known = ", ".join(CHECKPOINT_SUFFIXES)
            raise BatchError(f"{source}: no checkpoint found; a folder's are told by {known}")
        yield from found


def _expanded(source: str) -> Iterator[tuple[Path, Path]]:
    path = Path(source)
    if os.path.isdir(path):
        # A checkpoint's own folder: in others of that kind, files have the same names.
        own = any(is_index(name) or name == METADATA for name in os.listdir(path))
        place = os.path.basename(os.path.abspath(path)) if own else ""
        yield from ((found, place / found.relative_to(path)) for found in _in_folder(path))
    elif os.path.lexists(path) or not glob.has_magic(source):
        yield path, place_of(path)
    else:
        base = _fixed_part(path)
        for name in sorted(glob.glob(source, recursive=True)):
            match = Path(name)
            if os.path.isdir(match) and not name.endswith(OUTPUTS):
                yield from ((found, found.relative_to(base)) for found in _in_folder(match))
            elif not name.endswith(NO_CHECKPOINTS):
                yield match, match.relative_to(base)


def _in_folder(folder: Path) -> Iterator[Path]:
    for parent, folders, files in os.walk(folder):
        folders[:] = sorted(n for n in folders if not (n.startswith(".") or n.endswith(OUTPUTS)))
        if METADATA in files and any(name.endswith(DISTRIBUTED_SUFFIX) for name in files):
            yield Path(parent) / METADATA
        sharded = any(map(is_index, files))
        for name in sorted(files):
            part = name.endswith(OUTPUT_SUFFIX) or (sharded and is_shard(name))
            if is_checkpoint(name) and not name.startswith(".") and not part:
                yield Path(parent) / name


def place_of(source: Path) -> Path:
    """Return where a source that is named by itself belongs in the folder of outputs."""
    is_distributed = source.name == METADATA  # and called as its folder
    return Path(*Path(os.path.abspath(source)).parts[-2:]) if is_distributed else Path(source.name)


def _fixed_part(pattern: Path) -> Path:
    """Return the folders of a pattern before its first wildcard."""
    fixed = Path(pattern.anchor)
    for part in pattern.relative_to(pattern.anchor).parts[:-1]:
        if glob.has_magic(part):
            break
        fixed /= part
    return fixed


def output_of(place: Path, folder: Path) -> Path:
    """Return the output of a source by where it belongs in the folder of outputs."""
    made = folder_beside if is_index(place.name) else file_beside
    return made(folder / place)


def make_jobs(found: Iterable[tuple[Path, Path]], folder: Path, spec: Path | None) -> Iterator[Job]:
    """Give each source its output in `folder`, and the spec where one serves all."""
    for source, place in found:
        yield Job(str(source), str(spec) if spec else None, str(output_of(place, folder)))


def distinct(jobs: Iterable[Job]) -> list[Job]:
    """Return the jobs, each once, in the order of their outputs.

    Raises BatchError where two would write one file, or one would write to what another reads.
    """
    every: dict[str, dict[tuple[str, str | None], Job]] = {}
    for job in jobs:
        # Told by the report: two outputs can share one where their names differ by a suffix.
        report = os.path.realpath(report_beside(Path(job.output)))
        spec = os.path.realpath(job.spec) if job.spec else None
        every.setdefault(report, {}).setdefault((os.path.realpath(job.source), spec), job)
    problems = [
        f"{quoted(job.source for job in same.values())} would all become "
        f"{next(iter(same.values())).output}; rename one, or give outputs by a manifest"
        for same in every.values()
        if len(same) > 1
    ]
    jobs = sorted(
        (next(iter(same.values())) for same in every.values()), key=lambda job: job.output
    )
    read = {os.path.realpath(path) for job in jobs for path in (job.source, job.spec) if path}
    problems += [
        f"{job.output}: is an input of this batch"
        for job in jobs
        if os.path.realpath(job.output) in read
    ]
    if problems:
        raise BatchError(*problems)
    return jobs


def which_shard(asked: str | None, environment: Mapping[str, str]) -> Shard | None:
    """Return the shard that is asked for as `I/N`, or that a Slurm job array sets."""
    return _parsed(asked) if asked is not None else _of_slurm(environment)


def _of_slurm(environment: Mapping[str, str]) -> Shard | None:
    """Return which part of a Slurm job array this is; None outside of one.

    Raises BatchError for an array with gaps, whose tasks cannot tell which of how many they are.
    """
    if "SLURM_ARRAY_TASK_ID" not in environment:
        return None
    try:
        task, count, first, step = (
            int(environment.get(f"SLURM_ARRAY_TASK_{name}", default))
            for name, default in (("ID", ""), ("COUNT", ""), ("MIN", "0"), ("STEP", "1"))
        )
        number = (task - first) // step + 1
        if (task - first) % step or not 1 <= number <= count:
            raise ValueError
    except (ValueError, ZeroDivisionError):
        raise BatchError(
            "this Slurm array's SLURM_ARRAY_TASK_ID, _COUNT, _MIN and _STEP do not count its tasks "
            "one by one; say --shard I/N"
        ) from None
    return Shard(number, count)


def _parsed(text: str) -> Shard:
    """Return the shard that `I/N` names, I from 1 to N; raises BatchError for another text."""
    found = re.fullmatch(r"(\d{1,9})/(\d{1,9})", text)
    shard = Shard(int(found[1]), int(found[2])) if found else None
    if shard is None or not shard.exists:
        raise BatchError(
            f"--shard {text}: expected I/N with I from 1 to N, {MAX_SHARDS} at most, say 1/4"
        )
    return shard


def part(jobs: list[Job], shard: Shard | None) -> list[Job]:
    """Return a shard's jobs: every count-th, so that neighbours of one size are spread."""
    return jobs[shard.number - 1 :: shard.count] if shard else jobs
