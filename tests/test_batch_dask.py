"""A batch on a real Dask cluster: a scheduler and two workers, processes on localhost."""

from __future__ import annotations

import gc
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from fcn_convert.batch import run
from fcn_convert.batch.jobs import Job
from fcn_convert.batch.pools import cluster

pytestmark = [
    pytest.mark.heavy,
    # Sockets and loops of the library's own, which its threads close when they come to it.
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

COUNT, BEFORE_THE_KILL = 200, 50


@pytest.fixture
def scheduler(tmp_path: Path) -> Iterator[tuple[str, list[subprocess.Popen[str]]]]:
    """Start a scheduler and two workers; give the address and the workers."""
    with ExitStack() as stack:

        def start(module: str, *arguments: str) -> subprocess.Popen[str]:
            command = [sys.executable, "-m", f"distributed.cli.{module}", *arguments]
            process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=tmp_path)
            stack.enter_context(process)
            stack.callback(process.kill)
            return process

        server = start("dask_scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard")
        address = said(server, "Scheduler at:").rpartition(" ")[2]
        workers = [
            start("dask_worker", address, "--nthreads", "1", "--no-nanny", "--no-dashboard")
            for _ in range(2)
        ]
        for worker in workers:
            said(worker, "Registered to:")
        yield address, workers
    gc.collect()  # what the library did not close is told of here, not in whichever test comes next


def said(process: subprocess.Popen[str], words: str) -> str:
    """Read what a process logs up to the line that holds the words, and return that."""
    assert process.stderr
    return next(line.rstrip() for line in process.stderr if words in line)


def test_a_killed_workers_jobs_run_again_and_nothing_is_lost_or_doubled(
    tmp_path: Path, scheduler: tuple[str, list[subprocess.Popen[str]]]
) -> None:
    address, workers = scheduler
    (tmp_path / "in").mkdir()
    spec = tmp_path / "spec.yaml"
    spec.write_text("feature_map: [2, 2, 2]\nflatten: HWC\n")
    weights = {}
    for number in range(COUNT):
        weights[number] = torch.randn(3, 8, generator=torch.Generator().manual_seed(number))
        save_file({"fc.weight": weights[number]}, tmp_path / "in" / f"{number}.safetensors")
    jobs = [
        Job(
            str(tmp_path / "in" / f"{number}.safetensors"),
            str(spec),
            str(tmp_path / "out" / f"{number}.fcn.safetensors"),
        )
        for number in weights
    ]

    outcomes, problems = [], []
    with cluster(address) as pool:
        for _, piece in run(jobs, pool):
            outcomes.append(piece.outcome)
            problems += piece.problems
            if len(outcomes) == BEFORE_THE_KILL:
                workers[0].kill()

    # A job that had just ended on the killed worker finds, run again, that all is up to date.
    assert problems == []
    assert len(outcomes) == COUNT
    assert set(outcomes) <= {"converted", "up to date"}
    expected = {
        f"{number}.fcn{end}" for number in weights for end in (".safetensors", ".report.json")
    }
    drafts = {path.name for path in (tmp_path / "out").iterdir()} - expected
    assert all(name.startswith(".fcn-convert-") for name in drafts)  # of the worker that was killed
    for number, weight in weights.items():
        written = load_file(tmp_path / "out" / f"{number}.fcn.safetensors")["fc.weight"]
        assert torch.equal(written, torch.einsum("ohwc->ochw", weight.reshape(3, 2, 2, 2)))
