"""What the process that reads a file says of it, line by line."""

from __future__ import annotations

import json

_NO_VALUES = memoryview(b"")


class RefusedError(Exception):
    """What is wrong with a file, or with one thing in it: `reason`, or `about 'name' reason`."""

    def __init__(self, reason: str, about: str = "", name: str = "") -> None:
        super().__init__(reason, about, name)


class Answers:
    """Writes answers to stdout: lists as JSON, one a line, as `formats/hdf5.py` has them."""

    def __init__(self) -> None:
        self._out = open(1, "wb", closefd=False)  # noqa: SIM115 - the process ends with it

    def say(self, *answer: object, values: memoryview = _NO_VALUES) -> None:
        """Add a line, and after it an array's values."""
        line = json.dumps(answer, ensure_ascii=False).encode("utf-8", "surrogatepass")
        self._out.write(line + b"\n")
        self._out.write(values)

    def send(self) -> None:
        """Send what waits to be sent."""
        self._out.flush()
