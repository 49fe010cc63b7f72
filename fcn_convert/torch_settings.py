"""How torch computes here: each of our threads by itself, without oneDNN."""

from __future__ import annotations

from threading import Lock, local

from fcn_convert.torch_library import torch


class _Entered(local):
    """How often the calling thread has entered and not left."""

    times = 0


class _Settings:
    """torch's settings, changed as long as anybody computes here; each thread enters for itself.

    oneDNN repacks a whole kernel for each call, which takes seconds and a copy of it; it is off for
    the whole process. And threads that each compute a block do better than one that lets others
    help with every step; how many may help is a number of each thread's own.
    """

    def __init__(self) -> None:
        self._lock = Lock()
        self._users = 0
        self._before = (True, 1)
        self._entered = _Entered()

    def __enter__(self) -> None:
        with self._lock:
            # Asked first: a thread that was never asked takes the number that another one set last.
            threads = torch.get_num_threads()
            if not self._users:
                self._before = (bool(torch.backends.mkldnn.enabled), threads)
                _use_onednn(enabled=False)
            self._users += 1
            self._entered.times += 1
            torch.set_num_threads(1)

    def __exit__(self, *_: object) -> None:
        with self._lock:
            uses_onednn, threads = self._before
            self._users -= 1
            self._entered.times -= 1
            if not self._entered.times:
                torch.set_num_threads(threads)
            if not self._users:
                _use_onednn(enabled=uses_onednn)


def _use_onednn(*, enabled: bool) -> None:
    setattr(torch.backends.mkldnn, "enabled", enabled)  # noqa: B010 - a property to torch only


SETTINGS = _Settings()
