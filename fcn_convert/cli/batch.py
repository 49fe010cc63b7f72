"""`fcn-convert batch`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fcn_convert.cli.options import AsJson, FileOption, Level, Quiet, Reports, Strict

if TYPE_CHECKING:
    from fcn_convert.batch.jobs import Job
    from fcn_convert.report.batch import Piece


def batch(
    sources: Annotated[
        list[str] | None,
        typer.Argument(help="Checkpoints, folders of them, and quoted globs."),
    ] = None,
    out_dir: Annotated[
        Path | None, FileOption("--out-dir", "-o", help="The folder of the outputs.")
    ] = None,
    spec: Annotated[
        Path | None,
        FileOption("--spec", help="One spec for all; default: beside each checkpoint."),
    ] = None,
    manifest: Annotated[
        Path | None,
        FileOption("--manifest", help="A YAML list of source, and optional spec and output."),
    ] = None,
    jobs: Annotated[
        int | None,
        typer.Option("--jobs", "-j", min=1, help="Conversions at a time; default: the CPUs."),
    ] = None,
    shard: Annotated[
        str | None,
        typer.Option("--shard", help="Do the I-th of N parts: I/N; default: of a Slurm array."),
    ] = None,
    scheduler: Annotated[
        str | None,
        typer.Option("--scheduler", help="Run on a Dask cluster: tcp://HOST:PORT or tls://…"),
    ] = None,
    report: Reports = None,
    level: Level = "activations",
    force: Annotated[
        bool, typer.Option("--force", help="Do all again, and replace outputs of others.")
    ] = False,
    strict: Strict = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Convert many checkpoints; what is up to date is skipped, and one failure stops no other."""
    import os
    from dataclasses import replace

    from fcn_convert.batch.jobs import (
        check_report_paths,
        chosen,
        files_of,
        make_folder,
        part,
        which_shard,
    )
    from fcn_convert.cli.result import show_batch
    from fcn_convert.report.batch import make_batch_report
    from fcn_convert.report.files import check_replaceable, check_suffix, write_report
    from fcn_convert.workers import cores

    taken = which_shard(shard, os.environ)
    every = chosen(sources or (), out_dir, spec, manifest)
    check_report_paths(report or (), every)
    for path in report or ():
        check_suffix(path)
        if path.parent != out_dir or out_dir.exists():  # else it is made now
            check_replaceable(path, files_of(every))
    if out_dir:
        make_folder(out_dir)
    mine = [replace(job, level=level, force=force, strict=strict) for job in part(every, taken)]
    pieces = _run(mine, jobs or cores(), scheduler, quiet=quiet)
    result = make_batch_report(pieces, taken)
    for path in report or ():
        write_report(result, path)
    show_batch(result, as_json=as_json, quiet=quiet)


def _run(jobs: list[Job], count: int, scheduler: str | None, *, quiet: bool) -> list[Piece]:
    """Run the jobs here or on a cluster; say what fails when it does. In the jobs' order."""
    from fcn_convert.batch import run
    from fcn_convert.batch.pools import cluster, threads
    from fcn_convert.batch.watch import Watch, size_of
    from fcn_convert.cli.streams import batch_bar, say

    done: dict[str, Piece] = {}
    with batch_bar(len(jobs), sum(map(size_of, jobs)), quiet=quiet) as show:
        watch = Watch(show)
        if scheduler:  # workers have another working directory, and nobody to tell of progress
            jobs = [job.absolute() for job in jobs]
        follow = None if scheduler else watch.follow
        with cluster(scheduler) if scheduler else threads(count, watch) as pool:
            for job, piece in run(jobs, pool, follow):
                watch.finished(job)
                done[job.output] = piece
                say(*_lines(piece))
    return [done[job.output] for job in jobs]


def _lines(piece: Piece) -> list[str]:
    from fcn_convert.cli.streams import failures

    found = [
        *(("warning", text) for text in piece.warnings),
        *(("error", text) for text in failures(piece.problems, piece.warnings)),
    ]
    lines = [
        f"{kind}: {text if piece.source in text else f'{piece.source}: {text}'}"
        for kind, text in found
    ]
    return [*lines, *(piece.traceback or "").splitlines()]
