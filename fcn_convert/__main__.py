"""The command `fcn-convert`: exit statuses for everything that can happen.

0: converted and verified. 1: a check failed. 2: the input, the spec or the usage is unusable.
70: a bug of ours, with its traceback. 128 + n: interrupted by signal n.
"""

from __future__ import annotations

import gc
import io
import os
import signal
import sys
import traceback
from contextlib import suppress
from types import FrameType
from typing import NoReturn

UNUSABLE, BUG = 2, 70
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
OBJECTS_BETWEEN_COLLECTIONS = 100_000
"""What a command makes mostly lives until its end: looking for garbage more often, as Python does
by default, takes a sixth of the time."""

MALLOC = {-1: 16 << 20, -3: 3 << 20, -8: 1}
"""glibc's M_TRIM_THRESHOLD, M_MMAP_THRESHOLD and M_ARENA_MAX. By default a thread's memory grows by
a page at a time, 14,000 times while torch is imported; and what is freed is given back to the
system, though the next block needs as much."""


class _Interrupted(BaseException):
    """Raised where a signal arrives, so that drafts are removed on the way out.

    number: of the signal that arrived; 0 as long as none has.
    """

    number = 0


def main() -> NoReturn:
    """Run the command and exit."""
    gc.set_threshold(OBJECTS_BETWEEN_COLLECTIONS)
    # NumPy's threads, which nothing here uses, wait for work by spinning on the cores that compute.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    try:
        try:
            for number in SIGNALS:
                if signal.getsignal(number) is not signal.SIG_IGN:  # nohup stays nohup
                    signal.signal(number, _interrupt)
            _prepare_streams()
            _prepare_malloc()
            status = _run()
        except Exception as error:  # noqa: BLE001 - the last resort: a bug keeps its traceback
            # A library may have turned the exception that a signal raises into one of its own.
            status = 128 + _Interrupted.number if _Interrupted.number else _report(error)
        _ignore_signals()  # the status stands
    except _Interrupted:
        status = 128 + _Interrupted.number
    _leave(status)


def _run() -> int:
    """Run the command and return its status; imported here, where a signal does no harm."""
    from fcn_convert.cli import app  # noqa: PLC0415 - after the signals' handlers are set
    from fcn_convert.cli.streams import say  # noqa: PLC0415 - likewise
    from fcn_convert.errors import FcnConvertError  # noqa: PLC0415 - likewise

    try:
        app()
    except SystemExit as ending:
        return ending.code if isinstance(ending.code, int) else UNUSABLE
    except FcnConvertError as error:
        say(*(f"error: {problem}" for problem in error.problems))
        return UNUSABLE
    return 0


def _report(error: Exception) -> int:
    """Say what went wrong, and return the status for it."""
    from fcn_convert.errors import is_refused  # noqa: PLC0415 - after the signals' handlers are set

    refused = is_refused(error)
    with suppress(OSError):  # stderr may be what is full
        if refused:
            sys.stderr.write(f"error: {_refusal(error)}\n")
        else:
            traceback.print_exception(error)
    return UNUSABLE if refused else BUG


def _refusal(error: Exception) -> str:
    """Say what the system refused; of memory and threads it says too little by itself."""
    said = ascii(str(error))[1:-1]
    if isinstance(error, OSError):
        return said
    named = f" ({said})" if said else ""
    return f"the system refused memory or a thread{named}; `ulimit -a` shows what it allows"


def _interrupt(number: int, _frame: FrameType | None) -> NoReturn:
    _ignore_signals()  # a second one must not stop the removal of drafts
    _Interrupted.number = number
    raise _Interrupted


def _ignore_signals() -> None:
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def _prepare_streams() -> None:
    """Let nothing that we print fail by its encoding, or because its stream was closed."""
    for name in ("stdin", "stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # closed: the next file to be opened would get its descriptor
            null = os.open(os.devnull, os.O_RDWR)
            stream = os.fdopen(null, "r" if name == "stdin" else "w", encoding="utf-8")
            setattr(sys, name, stream)
        if name != "stdin" and isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _prepare_malloc() -> None:
    """Let all threads share one heap, and let it keep what is freed."""
    from ctypes import CDLL  # noqa: PLC0415 - after the signals' handlers are set

    with suppress(OSError, AttributeError):  # another C library
        mallopt = CDLL(None).mallopt
        for setting, value in MALLOC.items():
            mallopt(setting, value)


def _leave(status: int) -> NoReturn:
    """Exit at once: nothing is left to do, and threads that still work must not hold it up."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError):  # nobody is left to read it
            stream.flush()
    os._exit(status)


if __name__ == "__main__":
    main()
