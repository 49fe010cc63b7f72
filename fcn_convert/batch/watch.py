"""Follows the conversions of this process: their bytes, and whether they are to stop."""

from __future__ import annotations

import os
from collections.abc import Callable
from threading import Event, Lock

from fcn_convert.batch.jobs import Job
from fcn_convert.conversion import Progress


class StoppedError(BaseException):
    """Raised inside of a conversion that is to end, so that its draft is removed."""


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
    """Return the source's size in bytes; 0 where it cannot be told."""
    try:
        return os.stat(job.source).st_size
    except OSError:
        return 0
