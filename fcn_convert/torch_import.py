"""torch's import, which takes a second, beside other work: one thread does it for all.

Where it fails, Python gives others that wait for it a module which is only half made.
"""

from __future__ import annotations

from concurrent.futures import Future
from importlib import import_module
from threading import Lock, Thread
from types import ModuleType

_lock = Lock()
_started: Future[ModuleType] | None = None


def start_importing_torch() -> Future[ModuleType]:
    """Begin to import torch, unless that was begun before."""
    global _started  # noqa: PLW0603 - it is imported once in a process
    with _lock:
        if _started is None:
            _started = Future()
            Thread(target=_import, args=[_started], daemon=True).start()
        return _started


def import_torch() -> None:
    """Return when torch is imported; raises TorchError where it cannot be."""
    start_importing_torch().result()


def _import(started: Future[ModuleType]) -> None:
    try:
        started.set_result(import_module("fcn_convert.torch_library"))
    except BaseException as error:  # noqa: BLE001 - who waits is told
        started.set_exception(error)
