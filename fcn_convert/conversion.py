"""The data path, from checkpoint and spec to a verified output and its report."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Lock
from typing import Any

from fcn_convert.atomic import Draft, FileDraft, drafted, naming
from fcn_convert.beside import (
    FILE_SUFFIX,
    check_output_name,
    file_beside,
    folder_beside,
    report_beside,
    spec_beside,
)
from fcn_convert.digests import Digests
from fcn_convert.errors import OutputError, SpecError
from fcn_convert.formats import Checkpoint, open_checkpoint
from fcn_convert.formats.source import Advance
from fcn_convert.infer.findings import Finding, not_computed, read_maps
from fcn_convert.infer.storage import layout_doubts
from fcn_convert.infer.unlisted import unlisted_doubts
from fcn_convert.layers import Resolved, resolve
from fcn_convert.plan import Plan, in_shards, make_plan
from fcn_convert.proof import LEVELS, Level, Proof
from fcn_convert.report import CheckFailedError, FileEntry, Report
from fcn_convert.report.files import check_paths, write_report
from fcn_convert.report.making import entry_of, make_report
from fcn_convert.report.model_entry import ModelRequest
from fcn_convert.shard_folder import FolderDraft
from fcn_convert.spec import Spec, load_spec, make_spec
from fcn_convert.tensors import StateDict
from fcn_convert.torch_import import import_torch, start_importing_torch
from fcn_convert.verify import verify
from fcn_convert.workers import Workers, threads_to_compute
from fcn_convert.write import write

Progress = Callable[[int, int], None]
"""Receives the bytes done and all bytes to do; 0 where the latter are not known."""


def convert(
    checkpoint: str | Path,
    spec: Spec | Mapping[str, Any] | str | Path | None = None,
    output: str | Path | None = None,
    *,
    reports: Iterable[str | Path] | None = None,
    level: Level = "activations",
    force: bool = False,
    strict: bool = False,
    dry_run: bool = False,
    progress: Progress | None = None,
) -> Report:
    """Convert a checkpoint and return the report.

    spec: a Spec, its keys as a mapping, or its file; default: beside the checkpoint, `.yaml`.
    output: default: beside the checkpoint, `.fcn.safetensors`; of a sharded one a folder, `.fcn`,
    unless it is named as one file. reports: files to write the report to; default: beside the
    output, `.report.json`. level: how much is checked before the output appears. force: replace an
    existing output. strict: a warning is a failed check. dry_run: write nothing.

    Raises CheckFailedError, with the report, where a check fails and so no output appears, and any
    other FcnConvertError where an input or a path is unusable.
    """
    _check_level(level)
    source = Path(checkpoint)
    with open_checkpoint(source) as original, Digests(_threads_to_read(level)) as digests:
        if level != "shapes" and not dry_run:
            digests.start(original)
        parsed, inputs = _read_spec(spec, source)
        inputs += [file.path for file in original.stored]
        place = _place(output, source, original, inputs, replace=force)
        paths = _report_paths(reports, place.target, inputs, replace=force)
        known = _understood(parsed, original)
        plan = _planned(place, known)
        if dry_run:
            place.check_free()
            entry = FileEntry(str(place.target), plan.format, 0, None)
            return _passed(known.report(entry, None, known.findings(level), strict=strict))
        advance = _counter(progress, known.nbytes + known.nbytes_to_check(level))
        try:
            with drafted(place) as draft:
                if level == "activations":
                    start_importing_torch()
                for file in plan.files:
                    with naming(draft.target), draft.file(file.name) as descriptor:
                        write(file, original, descriptor, advance)
                with open_checkpoint(draft.path) as converted:
                    proof, evidence = known.prove(converted, level, digests, advance)
                    entry = entry_of(converted, proof.written, draft.target)
                report = _passed(known.report(entry, proof, evidence, strict=strict))
                draft.put_in_place()
                outcome = f"the output {draft.target} is in place"
                _write_reports(report, paths, outcome, replace=force)
        except CheckFailedError as failed:
            _write_reports(failed.report, paths, "no output was written", replace=force)
            raise
    return report


def verify_conversion(
    original: str | Path,
    converted: str | Path,
    spec: Spec | Mapping[str, Any] | str | Path | None = None,
    *,
    reports: Iterable[str | Path] = (),
    level: Level = "activations",
    strict: bool = False,
    model: ModelRequest | None = None,
    progress: Progress | None = None,
) -> Report:
    """Compare an existing conversion with its original and return the report.

    Arguments are those of `convert`; no report is written unless one is named. model: runs
    both networks, too, and so the code of the model. Raises
    CheckFailedError, with the report, where a check fails.
    """
    _check_level(level)
    source, target = Path(original), Path(converted)
    with open_checkpoint(source) as before, open_checkpoint(target) as after:
        parsed, inputs = _read_spec(spec, source)
        inputs += [file.path for file in before.stored]
        paths = _report_paths(reports, target, inputs, replace=False)
        known = _understood(parsed, before, after.index.warnings)
        known.plan()  # raises for what cannot be done
        advance = _counter(progress, known.nbytes_to_check(level))
        with Digests(_threads_to_read(level)) as digests:
            if level == "activations":
                start_importing_torch()
            proof, evidence = known.prove(after, level, digests, advance)
        after.check_unchanged()
        entry = entry_of(after, proof.written, target)
        report = known.report(entry, proof, evidence, strict=strict, writes=False)
        if model is not None and proof.shapes_agree:
            from fcn_convert.model.endtoend import with_model  # noqa: PLC0415 - runs torch
            from fcn_convert.model.loading import BothFiles  # noqa: PLC0415 - likewise

            if progress is not None:
                progress(0, 0)
            files = BothFiles(before, after, known.resolved, known.state_dict)
            report = with_model(report, model, files, strict=strict)
    _write_reports(report, paths, "the check is done", replace=False)
    return _passed(report)


@dataclass(frozen=True)
class _Understood:
    """A checkpoint, with the layers that a spec means in it."""

    spec: Spec
    original: Checkpoint
    state_dict: StateDict
    resolved: Resolved

    @property
    def nbytes(self) -> int:
        """Bytes of all values."""
        return sum(tensor.nbytes for tensor in self.state_dict.tensors.values())

    def nbytes_to_check(self, level: Level) -> int:
        """Return how many bytes of values a level compares, and computes with in either file."""
        if level == "shapes":
            return 0
        computed = self.resolved.layers if level == "activations" else ()
        return self.nbytes + 2 * sum(layer.weight.nbytes for layer in computed)

    def plan(self) -> Plan:
        """Return what the output is made of."""
        return make_plan(self.resolved, self.state_dict, self.original.index.metadata)

    def findings(self, level: Level) -> tuple[Finding, ...]:
        """Compare the spec with the weights, where torch is needed anyway."""
        if level != "activations":
            reason = f"at the level {level} no value is computed with"
            return tuple(not_computed(layer.name, reason) for layer in read_maps(self.resolved))
        import_torch()
        from fcn_convert.infer.doubts import findings  # noqa: PLC0415 - imports torch
        from fcn_convert.torch_settings import SETTINGS  # noqa: PLC0415 - likewise

        with SETTINGS:
            return tuple(findings(self.original, self.state_dict, self.resolved))

    def prove(
        self, converted: Checkpoint, level: Level, digests: Digests, advance: Advance
    ) -> tuple[Proof, tuple[Finding, ...]]:
        """Compare the output with the original, and meanwhile the spec with the weights."""
        with Workers(1) as other:
            findings = other.start(self.findings, level)
            proof = verify(self.spec, self.original, converted, level, digests, advance)
            found = findings.result()
        self.original.check_unchanged()
        return proof, found

    def report(
        self,
        output: FileEntry,
        proof: Proof | None,
        evidence: tuple[Finding, ...],
        *,
        strict: bool,
        writes: bool = True,
    ) -> Report:
        """Put the report together; arguments are those of `make_report`."""
        known = self.spec, self.resolved, self.original
        return make_report(*known, output, proof, evidence, strict=strict, writes=writes)


def _understood(spec: Spec, original: Checkpoint, warnings: Iterable[str] = ()) -> _Understood:
    """Find the layers that a spec means, with what shapes make doubtful among the warnings.

    warnings: those of another file.
    """
    state_dict = original.state_dict(spec.state_dict, spec.layout)
    doubts = tuple(layout_doubts(original, spec))
    try:
        resolved = resolve(spec, state_dict)
    except SpecError as error:
        if not doubts:
            raise
        raise SpecError(*error.problems, *doubts) from None
    doubts += tuple(unlisted_doubts(resolved, state_dict))
    warnings = (*original.index.warnings, *warnings, *resolved.warnings, *doubts)
    return _Understood(spec, original, state_dict, replace(resolved, warnings=warnings))


def _check_level(level: Level) -> None:
    """Raise ValueError for a level that does not exist: less would be checked than was meant."""
    if level not in LEVELS:
        raise ValueError(f"level is {level!r}; expected one of {', '.join(LEVELS)}")


def _passed(report: Report) -> Report:
    """Return the report; raises CheckFailedError, with it, where it says that a check failed."""
    if report.verdict.problems:
        raise CheckFailedError(report)
    return report


def _place(
    output: str | Path | None,
    source: Path,
    original: Checkpoint,
    inputs: Iterable[Path],
    *,
    replace: bool,
) -> Draft:
    """Return what the output is to be: one file, or of a sharded checkpoint a folder of shards.

    Raises OutputError where it may not have that path, or that name.
    """
    sharded = bool(original.index.shards)
    target = Path(output or (folder_beside(source) if sharded else file_beside(source)))
    kind = FolderDraft if sharded and target.suffix != FILE_SUFFIX else FileDraft
    place = kind(target, replace=replace)
    place.check(inputs)
    check_output_name(target)
    return place


def _planned(place: Draft, known: _Understood) -> Plan:
    plan = known.plan()
    return in_shards(plan, known.original.index.shards) if isinstance(place, FolderDraft) else plan


def _threads_to_read(level: Level) -> int:
    """Return how many threads may hash, compare and help to compute besides the main one.

    None that shares the interpreter with the import of torch may have to wait for a core: it would
    hold up the import, which takes longest.
    """
    cores = threads_to_compute()
    return max(1, cores - 1) if level == "activations" else cores


def _read_spec(
    spec: Spec | Mapping[str, Any] | str | Path | None, source: Path
) -> tuple[Spec, list[Path]]:
    """Return the spec, and the files that are inputs: never to be written to."""
    if isinstance(spec, Spec):
        return spec, [source]
    if isinstance(spec, Mapping):
        return make_spec(spec), [source]
    path = spec_beside(source) if spec is None else Path(spec)
    if spec is None and not os.path.exists(path):
        problem = (
            f"{source} has no spec: expected {path.name} beside it, or --spec FILE; "
            f"run `fcn-convert init {source} -o {path}` to have it written"
        )
        raise SpecError(problem)
    return load_spec(path), [source, path]


def _report_paths(
    reports: Iterable[str | Path] | None, target: Path, inputs: list[Path], *, replace: bool
) -> list[Path]:
    """Return where to write reports, checked before any work is done."""
    paths = [report_beside(target)] if reports is None else list(map(Path, reports))
    try:
        check_paths(paths, [*inputs, target], replace=replace)
    except OutputError as error:
        if reports is None:
            why = "reports go there by default; --report FILE, or reports=[FILE], names another"
            raise type(error)(f"{error}; {why}") from error
        raise
    for path in paths:
        # Regardless of case: some file systems do not distinguish `A` from `a`.
        if os.path.realpath(target).casefold() == os.path.realpath(path.parent).casefold():
            raise OutputError(f"{path}: is in the output, a folder that holds nothing but shards")
    return paths


def _write_reports(report: Report, paths: Iterable[Path], outcome: str, *, replace: bool) -> None:
    try:
        for path in paths:
            write_report(report, path, replace=replace)
    except OutputError as error:
        raise OutputError(f"{error}; {outcome}") from error


def _counter(progress: Progress | None, total: int) -> Advance:
    """Return what counts bytes, up to `total`."""
    if progress is None:
        return lambda _: None
    done = 0
    lock = Lock()

    def advance(count: int) -> None:
        nonlocal done
        with lock:  # threads count, too
            done = min(done + count, total)  # a shard is copied with its header
            progress(done, total)

    return advance
