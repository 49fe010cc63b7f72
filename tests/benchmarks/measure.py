"""Runs commands in turn, as whole processes, and takes their time and their peak memory."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

NAIVE = Path(__file__).with_name("naive.py")


@dataclass
class Runs:
    """Wall-clock seconds and peak memory, in MB, of one command's runs."""

    seconds: list[float] = field(default_factory=list)
    memory: list[float] = field(default_factory=list)

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    @property
    def peak(self) -> float:
        return max(self.memory)


def timed(command: list[str]) -> tuple[float, float]:
    """Run a command; return its seconds and its peak memory in MB, children included."""
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - start
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} exited {process.returncode}")
    return seconds, usage.ru_maxrss / 1000


def interleaved(
    commands: Mapping[str, list[str]], repeats: int, outputs: Iterable[Path] = ()
) -> dict[str, Runs]:
    """Run all commands in turn, `repeats` times after a warm-up.

    outputs: what they write. Each finds none: to give a large file's blocks back takes a time of
    its own, whoever does it.
    """
    runs = {name: Runs() for name in commands}
    for turn in range(repeats + 1):
        for name, command in commands.items():
            for output in outputs:
                output.unlink(missing_ok=True)
            os.sync()
            seconds, memory = timed(command)
            if turn:
                runs[name].seconds.append(seconds)
                runs[name].memory.append(memory)
    return runs


def ours(source: Path, spec: str, level: str, out: Path) -> list[str]:
    """Return our command for a source, whose spec lies beside it."""
    return [
        *(sys.executable, "-m", "fcn_convert", "convert", str(source), "-q", "--force"),
        *("--spec", str(source.parent / spec), "--verify", level, "-o", str(out)),
    ]


def naive(source: Path, order: str, out: Path) -> list[str]:
    """Return the command of the script everyone writes."""
    return ["sh", "-c", f"{sys.executable} {NAIVE} {source} {out} {order} && sync {out}"]


def copy(source: Path, out: Path) -> list[str]:
    """Return the command that only copies."""
    return ["sh", "-c", f"cp --reflink=never {source} {out} && sync {out}"]
