"""The data path, from checkpoint and spec to a verified output and its report."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from threading import Lock, Thread
from typing import Any

from fcn_convert.atomic import check_target, drafted, remove_leftovers
from fcn_convert.digests import Digests
from fcn_convert.errors import OutputError, SpecError
from fcn_convert.formats import Checkpoint, open_checkpoint
from fcn_convert.formats.source import Advance
from fcn_convert.infer.findings import Finding, not_computed, read_maps
from fcn_convert.layers import Resolved, resolve
from fcn_convert.plan import Plan, make_plan
from fcn_convert.proof import Level, Proof
from fcn_convert.report import CheckFailedError, FileEntry, Report, make_report
from fcn_convert.report.files import check_suffix, write_report
from fcn_convert.report.model_entry import ModelRequest
from fcn_convert.spec import Spec, load_spec, make_spec
from fcn_convert.verify import verify
from fcn_convert.write import write

OUTPUT_FORMAT = "safetensors"
OUTPUT_SUFFIX = ".fcn.safetensors"
REPORT_SUFFIX = ".report.json"
SPEC_SUFFIX = ".yaml"
TORCH = "fcn_convert.torch_quietly"

Progress = Callable[[int, int], None]
"""Told of the bytes done and of all bytes to do."""


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
    output: default: beside the checkpoint, `.fcn.safetensors`. reports: files to write the report
    to; default: beside the output, `.report.json`. level: how much is checked before the output
    appears. force: replace an existing output. strict: a warning is a failed check. dry_run: write
    nothing.

    Raises CheckFailedError, with the report, where a check fails and so no output appears, and any
    other FcnConvertError where an input or a path is unusable.
    """
    source = Path(checkpoint)
    target = _beside(source, OUTPUT_SUFFIX) if output is None else Path(output)
    with open_checkpoint(source) as original, Digests() as digests:
        if level != "shapes" and not dry_run:
            digests.start(original)
        parsed, inputs = _read_spec(spec, source)
        inputs += [file.path for file in original.stored]
        paths = _report_paths(reports, target, inputs)
        state_dict = original.state_dict(parsed.state_dict, parsed.layout)
        resolved = resolve(parsed, state_dict)
        plan = make_plan(resolved, state_dict)
        if dry_run:
            planned = make_report(parsed, resolved, original, _entry(target), None, strict=strict)
            return _passed(planned)
        check_target(target, replace=True, inputs=inputs)
        for path in paths:
            remove_leftovers(path)
        advance = _counter(progress, plan, resolved, level)
        try:
            with drafted(target, replace=force) as draft:
                _start_importing_torch(level)
                write(plan, original, draft.descriptor, advance)
                draft.start_sync()
                with open_checkpoint(draft.path) as converted:
                    proof = verify(parsed, original, converted, level, digests, advance)
                    output_entry = _entry(target, converted.nbytes, proof)
                evidence = _findings(resolved, original, level)
                original.check_unchanged()
                report = make_report(
                    parsed, resolved, original, output_entry, proof, evidence, strict=strict
                )
                _passed(report)
                draft.put_in_place()
                _write_reports(report, paths, f"the output {target} is in place")
        except CheckFailedError as failed:
            _write_reports(failed.report, paths, "no output was written")
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
    """Hold an existing conversion against its original and return the report.

    Arguments are those of `convert`; no report is written unless one is named. model: runs
    both networks, too, and so the code of the model. Raises
    CheckFailedError, with the report, where a check fails.
    """
    source, target = Path(original), Path(converted)
    with open_checkpoint(source) as before, open_checkpoint(target) as after:
        parsed, inputs = _read_spec(spec, source)
        inputs += [file.path for file in before.stored]
        paths = _report_paths(reports, target, inputs)
        state_dict = before.state_dict(parsed.state_dict, parsed.layout)
        resolved = resolve(parsed, state_dict)
        advance = _counter(progress, make_plan(resolved, state_dict), resolved, level)
        with Digests() as digests:
            _start_importing_torch(level)
            proof = verify(parsed, before, after, level, digests, advance)
        evidence = _findings(resolved, before, level)
        before.check_unchanged()
        after.check_unchanged()
        entry = replace(_entry(target, after.nbytes, proof), format=after.index.format)
        report = make_report(
            parsed, resolved, before, entry, proof, evidence, strict=strict, writes=False
        )
        if model is not None and proof.shapes_agree:
            from fcn_convert.model.endtoend import Files, with_model  # noqa: PLC0415 - runs torch

            files = Files(before, after, resolved, state_dict)
            report = with_model(report, model, files)
    _write_reports(report, paths, "the check is done")
    return _passed(report)


def _passed(report: Report) -> Report:
    """Return the report; raises CheckFailedError, with it, where it says that a check failed."""
    if report.verdict.problems:
        raise CheckFailedError(report)
    return report


def _beside(path: Path, suffix: str) -> Path:
    """Return the path with another suffix; raises OutputError for one without a name, say `.`."""
    if not path.name:
        raise OutputError(f"{path}: is not the path of a file")
    return path.with_suffix(suffix)


def _start_importing_torch(level: Level) -> None:
    """Import torch, which takes a second, while bytes are copied and hashed."""
    if level == "activations" and TORCH not in sys.modules:
        Thread(target=import_module, args=[TORCH], daemon=True).start()


def _findings(resolved: Resolved, original: Checkpoint, level: Level) -> tuple[Finding, ...]:
    """Hold the spec against the weights, where torch is needed anyway."""
    if level != "activations":
        reason = f"at the level {level} no value is computed with"
        return tuple(not_computed(layer.name, reason) for layer in read_maps(resolved))
    from fcn_convert.infer.doubts import findings  # noqa: PLC0415 - imports torch

    return tuple(findings(original, resolved))


def _read_spec(
    spec: Spec | Mapping[str, Any] | str | Path | None, source: Path
) -> tuple[Spec, list[Path]]:
    """Return the spec, and the files that are inputs: never to be written to."""
    if isinstance(spec, Spec):
        return spec, [source]
    if isinstance(spec, Mapping):
        return make_spec(spec), [source]
    path = _beside(source, SPEC_SUFFIX) if spec is None else Path(spec)
    if spec is None and not os.path.exists(path):
        problem = (
            f"{source} has no spec: expected {path.name} beside it, or --spec FILE; "
            f"run `fcn-convert init {source} -o {path}` to have it written"
        )
        raise SpecError([problem])
    return load_spec(path), [source, path]


def _report_paths(
    reports: Iterable[str | Path] | None, target: Path, inputs: list[Path]
) -> list[Path]:
    """Return where to write reports, checked before any work is done."""
    paths = [_beside(target, REPORT_SUFFIX)] if reports is None else list(map(Path, reports))
    for path in paths:
        check_suffix(path)
        if os.path.realpath(path) == os.path.realpath(target):
            raise OutputError(f"{path}: is the output; a report needs a path of its own")
        check_target(path, replace=True, inputs=[*inputs, target])
    return paths


def _write_reports(report: Report, paths: Iterable[Path], outcome: str) -> None:
    try:
        for path in paths:
            write_report(report, path)
    except OutputError as error:
        raise OutputError(f"{error}; {outcome}, but its report is not") from error


def _entry(target: Path, nbytes: int = 0, proof: Proof | None = None) -> FileEntry:
    digest = proof.digests[-1] if proof and proof.digests else None
    return FileEntry(str(target), OUTPUT_FORMAT, nbytes, digest)


def _counter(progress: Progress | None, plan: Plan, resolved: Resolved, level: Level) -> Advance:
    """Return what counts the bytes of writing and of each level's reading."""
    if progress is None:
        return lambda _: None
    values = sum(step.source.nbytes for step in plan.steps)
    total = values * (1 if level == "shapes" else 2)
    if level == "activations":
        total += 2 * sum(layer.weight.nbytes for layer in resolved.layers)
    done = 0
    lock = Lock()

    def advance(count: int) -> None:
        nonlocal done
        with lock:  # threads count, too
            done += count
            progress(done, total)

    return advance
