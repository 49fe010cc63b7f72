"""sha256 of checkpoints' files, and the checksums that containers store, during other work."""

from __future__ import annotations

from concurrent.futures import Future
from hashlib import sha256
from typing import Self
from zlib import crc32

from fcn_convert.errors import CheckpointError
from fcn_convert.formats import Checkpoint
from fcn_convert.formats.source import SourceFile
from fcn_convert.tensors import Checksum
from fcn_convert.workers import Workers

CHUNK_BYTES = 4 << 20
"""Large enough that a thread seldom waits for the interpreter while another imports torch."""


class Digests:
    """Reads each file once, in threads; a context manager, which stops what nobody waits for.

    Hashing lets go of the interpreter, so it runs while the kernel copies and torch is imported.

    workers: its threads, which may be given other work to do when they are done with it.
    """

    def __init__(self, threads: int) -> None:
        self.workers = Workers(threads)
        self._started: dict[SourceFile, Future[str]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.workers.close()

    def start(self, checkpoint: Checkpoint) -> None:
        """Start to read a checkpoint's files, unless they were before."""
        checksums: dict[SourceFile, list[Checksum]] = {file: [] for file in checkpoint.stored}
        for checksum in checkpoint.index.checksums:
            checksums[checkpoint.files[checksum.file]].append(checksum)
        for file, its_own in checksums.items():
            if file not in self._started:
                self._started[file] = self.workers.start(self._read, file, its_own)

    def of(self, checkpoint: Checkpoint) -> tuple[str, ...]:
        """Return the sha256 of each file, in hexadecimal, once they are known.

        Raises CheckpointError where a part of a file does not match its checksum.
        """
        self.start(checkpoint)
        return tuple(self._started[file].result() for file in checkpoint.stored)

    def _read(self, file: SourceFile, checksums: list[Checksum]) -> str:
        digest = sha256()
        sums = _Checksums(file, checksums)
        at = 0
        for chunk in file.chunks(CHUNK_BYTES):
            self.workers.go_on()
            digest.update(chunk)
            sums.update(at, chunk)
            at += len(chunk)
        return digest.hexdigest()


class _Checksums:
    """The checksums of a file's parts, which do not overlap, computed as its bytes go by."""

    def __init__(self, file: SourceFile, checksums: list[Checksum]) -> None:
        self._file = file
        self._waiting = sorted(checksums, key=lambda part: (part.offset, part.nbytes), reverse=True)
        self._crc = 0

    def update(self, at: int, chunk: memoryview) -> None:
        """Take in the bytes from `at` on; raises CheckpointError where a part is damaged."""
        while self._waiting and self._waiting[-1].offset < at + len(chunk):
            part = self._waiting[-1]
            end = part.offset + part.nbytes
            self._crc = crc32(chunk[max(part.offset - at, 0) : end - at], self._crc)
            if end > at + len(chunk):
                return  # it goes on in the next chunk
            if self._crc != part.crc32:
                raise CheckpointError(
                    f"{self._file.path}: is damaged: the checksum of {part.name!r} is "
                    f"{self._crc:08x}, but the file says {part.crc32:08x}"
                )
            self._waiting.pop()
            self._crc = 0
