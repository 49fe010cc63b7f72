"""The client of faulty.py: runs the real command many times, without starting Python each time."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
TORCH = "fcn_convert.torch_library"


@dataclass(frozen=True)
class Run:
    """What a run said and did; peak: the most memory it had, in kilobytes."""

    status: int
    peak: int
    stdout: str
    stderr: str
    calls: list[str]


class Server:
    """The process of faulty.py."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process

    def run(self, folder: Path, arguments: Sequence[str], **more: Any) -> Run:
        """Run the command in a folder, and return what became of it."""
        assert self.process.stdin
        assert self.process.stdout
        names = {name: str(folder.parent / name) for name in ("log", "stdout", "stderr")}
        case = {"arguments": list(arguments), "folder": str(folder), **names, **more}
        self.process.stdin.write(json.dumps(case) + "\n")
        self.process.stdin.flush()
        status, peak = map(int, self.process.stdout.readline().split())
        read = {name: Path(path).read_text() for name, path in names.items()}
        return Run(status, peak, read["stdout"], read["stderr"], read["log"].splitlines())


@contextmanager
def serving(*loaded: str) -> Iterator[Server]:
    """Start the server; loaded: modules that every run shall find imported."""
    with subprocess.Popen(
        # A process starts with the peak of the one that started it: here a shell instead of pytest.
        ["sh", "-c", '"$0" "$@"; exit $?', sys.executable, str(HERE / "faulty.py"), *loaded],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(HERE.parent)},
    ) as process:
        yield Server(process)
        assert process.stdin
        process.stdin.close()
    assert process.returncode == 0
