"""A checkpoint file, opened so that nothing about it can surprise: regular, read by `pread`."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

from fcn_convert.errors import CheckpointError

Advance = Callable[[int], None]
"""Told of every so many bytes done."""


class SourceFile:
    """A regular file open for reading at any offset.

    `pread` instead of `mmap`: memory stays flat, and a file that shrinks meanwhile is an error
    instead of a SIGBUS.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        # O_NONBLOCK: a FIFO would otherwise block the open for ever.
        flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0)
        try:
            self.descriptor = os.open(path, flags)
        except OSError as error:
            raise CheckpointError(f"{path}: {error.strerror or error}") from error
        self._opened = os.fstat(self.descriptor)
        if not stat.S_ISREG(self._opened.st_mode):
            os.close(self.descriptor)
            raise CheckpointError(f"{path}: is not a regular file")
        self.size = self._opened.st_size

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; closing twice is harmless."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1

    def pread(self, offset: int, length: int) -> bytes:
        """Return exactly `length` bytes from `offset`; raises CheckpointError at the file's end."""
        parts: list[bytes] = []
        while length > 0:
            try:
                part = os.pread(self.descriptor, length, offset)
            except OSError as error:
                raise self._unreadable(offset, error) from error
            if not part:
                raise CheckpointError(f"{self.path}: ends at byte {offset}, {length} too early")
            parts.append(part)
            offset += len(part)
            length -= len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def pread_into(self, buffer: bytearray | memoryview, offset: int) -> None:
        """Fill `buffer` from `offset`; raises CheckpointError at the file's end."""
        view = memoryview(buffer)
        while view:
            try:
                count = os.preadv(self.descriptor, [view], offset)
            except OSError as error:
                raise self._unreadable(offset, error) from error
            if not count:
                raise CheckpointError(f"{self.path}: ends at byte {offset}, {len(view)} too early")
            view = view[count:]
            offset += count

    def _unreadable(self, offset: int, error: OSError) -> CheckpointError:
        return CheckpointError(f"{self.path}: cannot be read at byte {offset}: {error.strerror}")

    def check_unchanged(self) -> None:
        """Raise CheckpointError if the file was written to since it was opened."""
        now = os.fstat(self.descriptor)
        before = self._opened
        if (now.st_size, now.st_mtime_ns) != (before.st_size, before.st_mtime_ns):
            raise CheckpointError(f"{self.path}: was written to while it was read; try again")
