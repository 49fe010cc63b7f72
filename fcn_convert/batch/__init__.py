"""Many conversions: threads here, Dask elsewhere; one that fails does not stop the others."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, as_completed
from dataclasses import replace
from pathlib import Path
from time import monotonic

from fcn_convert.batch.jobs import Job, make_folder
from fcn_convert.batch.records import record_beside
from fcn_convert.beside import report_beside
from fcn_convert.conversion import Progress, convert
from fcn_convert.errors import ExistsError, FcnConvertError, is_refused
from fcn_convert.report import CheckFailedError, Report
from fcn_convert.report.batch import Outcome, Piece
from fcn_convert.shard_folder import tidy
from fcn_convert.turns import wait_for_others

Follow = Callable[[Job], Progress]
"""Gives what a job tells of its progress."""


def run(
    jobs: Iterable[Job], pool: Executor, follow: Follow | None = None
) -> Iterator[tuple[Job, Piece]]:
    """Run jobs on a pool, whatever it is, and yield each with what came of it, when it is done.

    A piece is lost only with the pool's machines: then it is told, too.
    """
    futures = {pool.submit(perform, job, follow(job) if follow else None): job for job in jobs}
    for future in as_completed(futures):
        yield futures[future], _piece_of(future, futures[future])


def _piece_of(future: Future[Piece], job: Job) -> Piece:
    """Return the result; without one, for `perform` does not raise, it was lost on its way."""
    try:
        return future.result()
    except Exception as error:  # noqa: BLE001 - pools raise what they like
        lost = f"{job.source}: was lost by the pool that ran it: {type(error).__name__}: {error}"
        return Piece(job.source, job.output, "unusable", problems=(lost,))


def perform(job: Job, progress: Progress | None = None) -> Piece:
    """Do one conversion, or find that it is done already; any failure becomes part of the piece."""
    started = monotonic()
    try:
        piece = _performed(job, progress)
    except CheckFailedError as failed:
        piece = _piece(job, "check failed", failed.report)
    except FcnConvertError as error:
        piece = Piece(job.source, job.output, "unusable", problems=error.problems)
    except Exception as error:  # noqa: BLE001 - the others must go on; a bug keeps its traceback
        text = f"{type(error).__name__}: {error}"
        piece = Piece(job.source, job.output, "unusable", problems=(text,))
        if not is_refused(error):
            piece = replace(piece, outcome="bug", traceback=traceback.format_exc())
    return replace(piece, seconds=round(monotonic() - started, 3))


def _performed(job: Job, progress: Progress | None) -> Piece:
    """Do the conversion; once more where another run had just put the output in place.

    A cluster gives a job again whose worker it takes for dead: that one may still write its report,
    or have been killed before it could.
    """
    try:
        return _converted(job, progress)
    except ExistsError:
        wait_for_others(Path(job.output))
        return _converted(job, progress)


def _converted(job: Job, progress: Progress | None) -> Piece:
    output = Path(job.output)
    record = None if job.force else record_beside(output)
    made = record is not None and record.made(output, _tick(progress))
    if record and made and record.covers(job, _tick(progress)):
        recorded = report_beside(output)
        tidy(output, recorded)
        return Piece(
            job.source,
            job.output,
            "up to date",
            report=str(recorded),
            layers=len(record.layers),
            bytes=record.source.bytes,
            warnings=record.warnings,
        )
    make_folder(output.parent)
    report = convert(
        job.source,
        job.spec,
        output,
        level=job.level,
        # What an earlier run made can be made again; anything else is not ours to replace.
        force=job.force or made,
        strict=job.strict,
        progress=progress,
    )
    return _piece(job, "converted", report)


def _tick(progress: Progress | None) -> Callable[[], None]:
    """Return what work without a progress of its own calls, so that it can be stopped."""
    return (lambda: progress(0, 1)) if progress else lambda: None


def _piece(job: Job, outcome: Outcome, report: Report) -> Piece:
    return Piece(
        job.source,
        job.output,
        outcome,
        report=str(report_beside(Path(job.output))),
        layers=len(report.layers),
        bytes=report.source.bytes,
        problems=report.verdict.problems,
        warnings=report.warnings,
    )
