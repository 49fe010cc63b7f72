"""Runs the real command with a fault at a chosen moment: a server that the fault tests talk to.

Each line of stdin is a case, as JSON; for each the server forks, so that the command starts with
its modules loaded, and those that the server's own command line names. It answers with a line: the
exit status, negative for a signal, and the most memory that the command had, in kilobytes.

    arguments, folder     the command line, and where it runs; stdout, stderr: files for them
    log                   a file for a line per call: its name, and the path that it works on
    at, fault             the number of the call at which it happens, and what:
                          an errno's name: the call fails; "stuck-…": every later one, too
                          "short": half is written, then the disk is full
                          a signal's name: it arrives before the call; "after-…": after it
    user                  whose rights it has, by number: for root, too, a file can be unreadable
    line                  instead of at: the signal arrives at this line of what is TRACED, counted
                          as they are run, each of them PASSES times at most
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import json
import os
import resource
import signal
import sys
import threading
from collections import Counter
from collections.abc import Callable
from importlib import import_module
from itertools import count
from pathlib import Path
from types import FrameType
from typing import Any

WATCHED = (
    "open",
    "close",
    "write",
    "pwrite",
    "pwritev",
    "writev",
    "copy_file_range",
    "sendfile",
    "ftruncate",
    "truncate",
    "posix_fallocate",
    "fsync",
    "fdatasync",
    "replace",
    "rename",
    "link",
    "unlink",
    "mkdir",
    "rmdir",
)
"""And `renameat2`, which lets two names change places and is no function of os."""
FAILING = {*WATCHED, "renameat2"} - {"close", "unlink", "rmdir"}
"""What a full disk can refuse; a file can always be closed, and nearly always removed."""
PRELOADED = (
    "fcn_convert.cli",
    "fcn_convert.cli.result",
    "fcn_convert.conversion",
    "fcn_convert.spec_yaml",
    "fcn_convert.spec_schema",
    "fcn_convert.report.terminal",
    "fcn_convert.__main__",
    "rich.console",
)
PACKAGE = Path(import_module("fcn_convert").__file__ or "").parent
TRACED = {
    str(PACKAGE / name)
    for name in (
        *("__main__.py", "atomic.py", "turns.py", "shard_folder.py"),
        *("conversion.py", "cli/result.py", "report/files.py"),
    )
}
"""Where an interruption could leave something behind."""
PASSES = 2
"""How often one line is counted: what a loop goes through again and again is nothing new."""
FORKED = 99
SECONDS, CPU_SECONDS = 100, 12
"""A run that takes longer is ended, by the clock or by what it computes: far beyond what any takes,
also where a dozen others want the same cores, and not for ever."""

real = {name: getattr(os, name) for name in WATCHED}
flock = fcntl.flock
load_library = ctypes.CDLL


class Faults:
    """Counts calls, and lets one of them go wrong."""

    def __init__(self, case: dict[str, Any]) -> None:
        self.numbers = count(1)
        self.at = case.get("at")
        self.fault: str = case.get("fault", "")
        self.log = real["open"](case["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)

    def watch(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def watched(*arguments: Any, **keywords: Any) -> Any:
            number = next(self.numbers)
            line = f"{name} {subject(arguments)}\n"
            real["write"](self.log, line.encode("utf-8", "surrogateescape"))
            if number == self.at and self.fault.startswith("SIG"):
                os.kill(os.getpid(), getattr(signal, self.fault))
            elif self.at is not None and self.fails(name, number):
                if self.fault == "short" and number == self.at:
                    return call(*shortened(name, arguments))
                kind = self.fault.removeprefix("stuck-").replace("short", "ENOSPC")
                code = getattr(errno, kind)
                raise OSError(code, os.strerror(code))
            try:
                return call(*arguments, **keywords)
            finally:
                if number == self.at and self.fault.startswith("after-"):
                    os.kill(os.getpid(), getattr(signal, self.fault.removeprefix("after-")))

        return watched

    def fails(self, name: str, number: int) -> bool:
        if "SIG" in self.fault:
            return False
        lasting = self.fault == "short" or self.fault.startswith("stuck-")
        return number == self.at or (lasting and number > self.at and name in FAILING)

    def patch(self) -> None:
        for name, call in real.items():
            setattr(os, name, self.watch(name, call))
        fcntl.flock = self.watch("flock", flock)
        ctypes.CDLL = self.library

    def library(self, *arguments: Any, **keywords: Any) -> Any:
        """Load a library of C whose renameat2 is watched, and fails as C does."""
        loaded = load_library(*arguments, **keywords)
        renameat2 = loaded.renameat2

        def exchange(here: int, one: bytes, there: int, other: bytes, how: int) -> int:
            call = self.watch("renameat2", lambda *_: renameat2(here, one, there, other, how))
            try:
                return int(call(os.fsdecode(one), os.fsdecode(other)))
            except OSError as error:
                ctypes.set_errno(error.errno)
                return -1

        loaded.renameat2 = exchange
        return loaded


def subject(arguments: tuple[Any, ...]) -> str:
    """Name what a call works on."""
    places = [a for a in arguments if isinstance(a, str | Path)]
    if places:
        return " ".join(map(str, places))
    if arguments and isinstance(arguments[0], int):
        # Copies name their source first.
        descriptor = arguments[1] if len(arguments) > 3 else arguments[0]
        try:
            return os.readlink(f"/proc/self/fd/{descriptor}")
        except OSError:
            return "?"
    return "?"


def shortened(name: str, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    """Halve what a writing call is given; others are left as they are."""
    if name in {"write", "pwrite"}:
        descriptor, data, *rest = arguments
        return (descriptor, bytes(data)[: max(len(data) // 2, 1)], *rest)
    if name == "copy_file_range":
        source, target, length, *rest = arguments
        return (source, target, max(length // 2, 1), *rest)
    return arguments


def interrupt_at(line: int, number: int) -> None:
    """Send a signal before the given line is run, counted among all such lines."""
    lines = count(1)
    passes: Counter[tuple[str, int]] = Counter()

    def trace(frame: FrameType, event: str, _: object) -> Any:
        if frame.f_code.co_filename not in TRACED:
            return None
        if event == "line":
            place = frame.f_code.co_filename, frame.f_lineno
            passes[place] += 1
            if passes[place] <= PASSES and next(lines) == line:
                sys.settrace(None)
                os.kill(os.getpid(), number)
        return trace

    threading.settrace(trace)  # a batch works in threads
    sys.settrace(trace)


def run(case: dict[str, Any]) -> None:
    """Become the command."""
    for descriptor, name in ((1, "stdout"), (2, "stderr")):
        file = real["open"](case[name], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(file, descriptor)
        real["close"](file)
    os.chdir(case["folder"])
    signal.alarm(SECONDS)
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS))
    sys.argv = ["fcn-convert", *case["arguments"]]
    Faults(case).patch()
    if "user" in case:
        os.setgroups([])
        os.setgid(case["user"])
        os.setuid(case["user"])
    if "line" in case:
        interrupt_at(case["line"], getattr(signal, case["fault"]))
    sys.modules["fcn_convert.__main__"].main()  # type: ignore[attr-defined]


def serve() -> None:
    for name in (*PRELOADED, *sys.argv[1:]):
        import_module(name)
    for line in sys.stdin:
        child = os.fork()
        if not child:
            try:
                run(json.loads(line))
            finally:
                os._exit(FORKED)
        _, status, used = os.wait4(child, 0)
        print(os.waitstatus_to_exitcode(status), used.ru_maxrss, flush=True)  # noqa: T201 - the answer


if __name__ == "__main__":
    serve()
