"""A checkpoint's files, opened so that nothing can surprise: regular, read by `pread`."""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Protocol, Self

from fcn_convert.errors import CheckpointError
from fcn_convert.tensors import shown

MAX_FILES = 512
"""Files of one checkpoint: the largest models have some 200 shards."""
MIN_DECODED = 1 << 30
MAX_DECODED_TIMES = 32
"""How far values may unpack: weights grow to twice their size, a bomb to a thousand times."""

Advance = Callable[[int], None]
"""Called now and then with the number of bytes done since."""


class Readable(Protocol):
    """Bytes to read at any offset: a file, or a part of one."""

    @property
    def path(self) -> Path:
        """The file, for messages."""
        ...

    @property
    def size(self) -> int:
        """Bytes there are."""
        ...

    def pread(self, offset: int, length: int) -> bytes:
        """Return exactly `length` bytes from `offset`; raises CheckpointError at the end."""
        ...


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
        except ValueError as error:  # a NUL, or what the file system's encoding cannot express
            raise CheckpointError(f"{shown(str(path))}: is not a file name") from error
        self._opened = os.fstat(self.descriptor)
        if not stat.S_ISREG(self._opened.st_mode):
            os.close(self.descriptor)
            raise CheckpointError(f"{path}: is not a regular file")
        self.size = self._opened.st_size

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; closing twice is harmless."""
        descriptor, self.descriptor = self.descriptor, -1
        if descriptor >= 0:
            with suppress(OSError):  # it was only read
                os.close(descriptor)

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

    def chunks(self, nbytes: int) -> Iterator[memoryview]:
        """Yield the whole file, `nbytes` at a time; each holds until the next is read."""
        buffer = bytearray(min(nbytes, self.size))
        for at in range(0, self.size, nbytes):
            chunk = memoryview(buffer)[: self.size - at]
            self.pread_into(chunk, at)
            yield chunk

    def _unreadable(self, offset: int, error: OSError) -> CheckpointError:
        return CheckpointError(f"{self.path}: cannot be read at byte {offset}: {error.strerror}")

    def check_unchanged(self) -> None:
        """Raise CheckpointError if the file was written to since it was opened."""
        now = os.fstat(self.descriptor)
        before = self._opened
        if (now.st_size, now.st_mtime_ns) != (before.st_size, before.st_mtime_ns):
            raise CheckpointError(f"{self.path}: was written to while it was read; try again")


class Part:
    """A range of a file that is a file in itself, such as a torch file inside another."""

    def __init__(self, file: Readable, start: int, size: int) -> None:
        self.path = file.path
        self.start = start
        self.size = size
        self._file = file

    def pread(self, offset: int, length: int) -> bytes:
        """Return exactly `length` bytes from `offset`; raises CheckpointError at the part's end."""
        if offset + length > self.size:
            missing = offset + length - self.size
            raise CheckpointError(
                f"{self.path}: the part from byte {self.start} ends {missing} bytes too early"
            )
        return self._file.pread(self.start + offset, length)


class Scratch(SourceFile):
    """Values that a file holds only in another form, decoded into a file that has no name.

    Vanishes with the process, however that ends.
    """

    def __init__(self, path: Path, nbytes: int) -> None:
        """Make an empty file; path, nbytes: of what is decoded."""
        self.path = path
        self.size = 0
        self._limit = max(MIN_DECODED, MAX_DECODED_TIMES * nbytes)
        with tempfile.TemporaryFile(prefix="fcn-convert-") as unnamed:
            self.descriptor = os.dup(unnamed.fileno())

    def append(self, data: bytes | memoryview) -> int:
        """Add bytes and return the offset where they begin."""
        start = self.reserve(len(data))
        self.write(start, data)
        return start

    def reserve(self, nbytes: int) -> int:
        """Make room for `nbytes` bytes, zeros at first, and return the offset where they begin."""
        self.check_room(nbytes)
        start = self.size
        self.size += nbytes
        return start

    def write(self, offset: int, data: bytes | memoryview) -> None:
        """Write into room that was made."""
        try:
            write_at(self.descriptor, data, offset)
        except OSError as error:
            raise CheckpointError(
                f"{self.path}: cannot be unpacked into {tempfile.gettempdir()}: {error.strerror}"
            ) from error

    def check_room(self, nbytes: int) -> None:
        """Raise CheckpointError where `nbytes` more would be too many."""
        if self.size + nbytes > self._limit:
            raise CheckpointError(
                f"{self.path}: unpacks to more than {self._limit} bytes, which no weights do"
            )

    def check_unchanged(self) -> None:
        """Nobody else can write to a file without a name."""


def write_at(descriptor: int, data: bytes | memoryview, offset: int) -> None:
    """Write all of `data` at an offset; raises OSError."""
    view = memoryview(data)
    while view:
        count = os.pwrite(descriptor, view, offset)
        view = view[count:]
        offset += count


class Files:
    """The files of one checkpoint: the one that was named first, then those it refers to."""

    def __init__(self, main: SourceFile, opened: list[SourceFile] | None = None) -> None:
        self.main = main
        self.opened = [main] if opened is None else opened

    def sibling(self, name: str) -> int:
        """Open a file in the folder of the first one, and return its number.

        Raises CheckpointError for a name that leads out of the folder, or a file that is not there.
        """
        if name in {"", ".", ".."} or "/" in name or "\0" in name or os.sep in name:
            raise CheckpointError(
                f"{self.main.path}: names the file {shown(name)}, which is not in its folder"
            )
        if len(self.opened) >= MAX_FILES:
            raise CheckpointError(f"{self.main.path}: names more than {MAX_FILES} files")
        self.opened.append(SourceFile(self.main.path.parent / name))
        return len(self.opened) - 1

    def child(self, number: int) -> Files:
        """Return the same files with another one as the first: a shard that is read by itself."""
        return Files(self.opened[number], self.opened)

    def scratch(self) -> tuple[int, Scratch]:
        """Return the file for decoded values, and its number."""
        for number, file in enumerate(self.opened):
            if isinstance(file, Scratch):
                return number, file
        scratch = Scratch(self.main.path, sum(file.size for file in self.opened))
        self.opened.append(scratch)
        return len(self.opened) - 1, scratch

    def close(self) -> None:
        """Close all files."""
        for file in self.opened:
            file.close()
