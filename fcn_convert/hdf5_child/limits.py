"""What the process may take: limits of the system's own, which work without Python."""

from __future__ import annotations

import fcntl
import os
import resource
import select
import signal
import sys

MEMORY = 144 << 20
"""Bytes that may be allocated beyond what Python and the libraries take before the file is read."""
SECONDS, BYTES_A_SECOND = 5, 4 << 20
"""Seconds to compute in for any file, and bytes to go through that give one more."""
MAX_STRUCTURE = 128 << 20
"""Bytes of a file that can be structure: that of 100,000 arrays. The rest are values."""
WAITING = 12
"""How many times as long the clock may run: others want the same cores, and disks are slow."""


class Limits:
    """The limits of this process, set as it begins; size: of the file."""

    def __init__(self, size: int) -> None:
        self._seconds: float = SECONDS
        for number in (signal.SIGIO, signal.SIGALRM, signal.SIGXCPU):
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        _end_with_parent()
        _limit(resource.RLIMIT_CORE, 0)
        self.allow(min(size, MAX_STRUCTURE))

    def allow(self, nbytes: int) -> None:
        """Give the time to go through `nbytes` more."""
        self._seconds += nbytes / BYTES_A_SECOND
        _limit(resource.RLIMIT_CPU, int(self._seconds))
        signal.alarm(WAITING * int(self._seconds))

    def close_in(self) -> None:
        """Let little memory be allocated from now on, and no file be opened or written."""
        _limit(resource.RLIMIT_DATA, _allocated() + MEMORY)
        _limit(resource.RLIMIT_FSIZE, 0)
        _limit(resource.RLIMIT_NOFILE, 0)


def _limit(kind: int, value: int) -> None:
    _, most = resource.getrlimit(kind)
    resource.setrlimit(kind, (value if most == resource.RLIM_INFINITY else min(value, most), most))


def _allocated() -> int:
    """Return how many bytes the process has of its own, as RLIMIT_DATA counts them."""
    try:
        with open("/proc/self/statm", encoding="ascii") as file:
            return int(file.read().split()[5]) * resource.getpagesize()
    except OSError:  # not Linux, where that limit means little
        return 0


def _end_with_parent() -> None:
    """Let a signal end this process when the pipe that is stdin is closed: the parent is gone.

    Elsewhere than on Linux that signal does nothing, and the limits end it.
    """
    fcntl.fcntl(0, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(0, fcntl.F_SETFL, os.O_ASYNC)
    if select.select([0], [], [], 0)[0]:  # it was closed before
        sys.exit(1)
