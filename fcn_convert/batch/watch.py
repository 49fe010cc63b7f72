"""Follows the conversions of this process: their bytes, and whether they are to stop."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Event, Lock

from fcn_convert.batch.jobs import Job
from fcn_convert.beside import DISTRIBUTED_SUFFIX, METADATA, is_index, is_shard
from fcn_convert.conversion import Progress


class StoppedError(BaseException):
    """Raised inside a conversion that is to end, so that its draft is removed."""


class Watch:
    """Sums up what all conversions tell of their progress, from whichever thread.

    show: told of the pieces and of the sources' bytes that are done.
    """

    def __init__(self, show: Callable[[int, int], None]) -> None:
        self._show = show
        self._lock = Lock()
        self._stopped = Event()
        self._going: dict[str, int] = {}
        self._pieces = self._bytes = 0

    def follow(self, job: Job) -> Progress:
        """Return what a conversion tells of its progress; it raises where all are to stop."""
        size = size_of(job)

        def progress(done: int, total: int) -> None:
            if self._stopped.is_set():
                raise StoppedError
            with self._lock:
                self._going[job.output] = size * done // max(total, 1)
                self._tell()

        return progress

    def finished(self, job: Job) -> None:
        """Count a piece as done, whatever came of it."""
        with self._lock:
            self._going.pop(job.output, None)
            self._pieces += 1
            self._bytes += size_of(job)
            self._tell()

    def stop(self) -> None:
        """Let every conversion that goes on end at its next step."""
        self._stopped.set()

    def _tell(self) -> None:
        self._show(self._pieces, self._bytes + sum(self._going.values()))


def size_of(job: Job) -> int:
    """Return the size of a source's files in bytes; 0 where it cannot be told."""
    try:
        return sum(path.stat().st_size for path in _files_of(Path(job.source)))
    except OSError:
        return 0


def _files_of(source: Path) -> Iterator[Path]:
    """Yield the files of a checkpoint, as their names tell them."""
    if source.is_dir():
        yield from filter(Path.is_file, source.iterdir())
        return
    yield source
    if is_index(source.name):
        yield from (path for path in source.parent.iterdir() if is_shard(path.name))
    elif source.name == METADATA:
        yield from source.parent.glob(f"*{DISTRIBUTED_SUFFIX}")
