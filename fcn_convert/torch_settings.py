"""How torch computes here: each of our threads by itself, without oneDNN."""

from __future__ import annotations

from threading import Lock

from fcn_convert.torch_quietly import torch


class _Settings:
    """torch's settings of the whole process, changed as long as anybody computes here.

    oneDNN repacks a whole kernel for each call, which takes seconds and a copy of it. And threads
    that each compute a block do better than one that lets others help with every step.
    """

    def __init__(self) -> None:
        self._lock = Lock()
        self._users = 0
        self._before = (True, 1)

    def __enter__(self) -> None:
        with self._lock:
            if not self._users:
                self._before = (bool(torch.backends.mkldnn.enabled), torch.get_num_threads())
                _set(uses_onednn=False, threads=1)
            self._users += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._users -= 1
            if not self._users:
                uses_onednn, threads = self._before
                _set(uses_onednn=uses_onednn, threads=threads)


def _set(*, uses_onednn: bool, threads: int) -> None:
    setattr(torch.backends.mkldnn, "enabled", uses_onednn)  # noqa: B010 - a property to torch only
    torch.set_num_threads(threads)


SETTINGS = _Settings()
