"""The arrays of an HDF5 file, by place: contiguous ones in the file itself, others unpacked.

h5py reads the structure, in a process of its own (`hdf5_child/`), whose answer is checked here:
HDF5's library is C, and a file can be made to crash it, to keep it busy, or to take it over. Only
hard links inside the file are followed: soft and external links, virtual datasets and external
storage lead elsewhere.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from fcn_convert.errors import CheckpointError, printable
from fcn_convert.formats.numpy_records import dtype_named
from fcn_convert.formats.records import RecordError, check_naturals, sizes_of
from fcn_convert.formats.source import Files, Part, Scratch, SourceFile
from fcn_convert.tensors import (
    DTYPES,
    MAX_TENSORS,
    LeftOut,
    TensorInfo,
    shown,
    size_in_bits,
)

if TYPE_CHECKING:
    from subprocess import Popen

SIGNATURE = b"\x89HDF\r\n\x1a\n"
MAX_LINES, MAX_ANSWER = 4 * MAX_TENSORS, 16 << 20
"""Lines of an answer, and their bytes: an array has a line, and two or three groups above it."""
MAX_REASON = 400
_PART = 1 << 20
_CHILD = """
import json, sys
descriptor, start, size, sys.path[:] = map(json.loads, sys.argv[1:])
from fcn_convert.hdf5_child import main
main(descriptor, start, size)
"""
_ENVIRONMENT = {
    # Threads would have nothing to do there, yet take memory of their own.
    **dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1"),
    "MALLOC_MMAP_THRESHOLD_": "1000000",  # glibc then keeps no large blocks that were freed
    "HDF5_PLUGIN_PRELOAD": "::",  # HDF5's way to say that no library is to be loaded
}
_NONSENSE = (
    "HDF5's library gave an answer that makes no sense: the file is damaged, or was made to do so"
)
_ADVICE = (
    "the file is damaged, or was made to do so; if what wrote it still reads it, save it again"
)


@dataclass(frozen=True)
class Arrays:
    """The arrays of a file by their paths, those that cannot be written, and its attributes.

    attributes: of every group: texts, and lists of texts; None for what is neither.
    """

    tensors: dict[str, TensorInfo]
    left_out: tuple[LeftOut, ...]
    attributes: dict[str, dict[str, Any]]


def read_arrays(files: Files, part: Part) -> Arrays:
    """Index an HDF5 file that is all or a part of the first file.

    Raises CheckpointError where it is malformed, leads elsewhere, or HDF5's library fails on it.
    """
    try:
        with _child(files.main, part) as child:
            assert child.stdout
            answer = _Answer(child.stdout, files, part)
            try:
                answer.take()
            except EOFError:
                raise RecordError(_end_of(child)) from None
    except RecordError as error:
        raise CheckpointError(f"{part.path}: {error}") from error
    return Arrays(answer.tensors, tuple(answer.left_out), answer.attributes)


@contextmanager
def _child(file: SourceFile, part: Part) -> Iterator[Popen[bytes]]:
    """Run the process that reads a file, for as long as its answer is read.

    It ends when its stdin is closed, also where this process is killed. Ctrl-C is not for it.
    """
    import subprocess  # noqa: PLC0415 - takes time, and is needed here only

    # The package is found as it was found here.
    path = [*sys.path, str(Path(__file__).parents[2])]
    given = map(json.dumps, (file.descriptor, part.start, part.size, path))
    try:
        process = subprocess.Popen(  # noqa: S603 - our own code
            [sys.executable, "-I", "-S", "-c", _CHILD, *given],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            pass_fds=[file.descriptor],
            env={**os.environ, **_ENVIRONMENT},
            process_group=0,
        )
    except OSError as error:
        raise RecordError(
            f"a process of its own, which reads HDF5 files, cannot be started: {error.strerror}"
        ) from error
    with process:
        try:
            yield process
        finally:
            process.kill()


def _end_of(child: Popen[bytes]) -> str:
    """Say why there is no whole answer."""
    number = -child.wait()
    if number in {signal.SIGXCPU, signal.SIGALRM}:
        return f"HDF5's library was at work on it for too long: {_ADVICE}"
    if number == signal.SIGKILL:
        return "the process that reads it was killed, as the system does where memory is short"
    how = (signal.strsignal(number) if number > 0 else None) or f"status {-number}"
    return f"HDF5's library crashed on it ({how}): {_ADVICE}"


class _Answer:
    """What the process says, checked: a file that took it over may say anything.

    Each line is a list, as JSON: `group` and its path · `attribute`, the path of its group, its
    name and value · `left out`, an array's path and dtype · `array`, its path, NumPy's code of its
    dtype, its shape, and its offset in the part · `unpacked`, the same without an offset, and then
    `values`, a number of bytes and these, as often as needed · `refused`, the reason, what it is
    about, and the name of that · `end`.
    """

    def __init__(self, stream: IO[bytes], files: Files, part: Part) -> None:
        self.tensors: dict[str, TensorInfo] = {}
        self.left_out: list[LeftOut] = []
        self.attributes: dict[str, dict[str, Any]] = {"": {}}
        self._stream = stream
        self._files = files
        self._part = part
        self._lines, self._bytes = MAX_LINES, MAX_ANSWER

    def take(self) -> None:
        """Take in an answer; raises RecordError, and EOFError where it breaks off."""
        while (answer := self._line()) != ["end"]:
            match answer:
                case ["group", str(path)]:
                    self.attributes[path] = {}
                case ["attribute", str(path), str(name), value] if path in self.attributes:
                    self.attributes[path][name] = value
                case ["left out", str(path), str(code)]:
                    self.left_out.append(LeftOut(path, f"of HDF5's type {code}"))
                case ["array", str(path), str(code), shape, offset]:
                    self._add(path, code, shape, offset)
                case ["unpacked", str(path), str(code), shape]:
                    self._add(path, code, shape, None)
                case _:
                    raise RecordError(_NONSENSE)

    def _line(self) -> Any:
        line = self._stream.readline(self._bytes)
        self._bytes -= len(line)
        self._lines -= 1
        if not self._bytes or not self._lines:
            raise RecordError("has more entries, or longer names, than any model")
        if not line.endswith(b"\n"):
            raise EOFError
        try:
            answer = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise RecordError(_NONSENSE) from error
        match answer:
            case ["refused", str(reason), str(about), str(name)]:
                reason = printable(reason[:MAX_REASON])
                raise RecordError(f"{about} {shown(name)} {reason}" if about else reason)
        return answer

    def _add(self, path: str, code: str, shape: Any, offset: Any) -> None:
        if path in self.tensors:
            raise RecordError(f"has two arrays called {shown(path)}")
        try:
            tensor = _described(path, code, shape)
            if offset is not None:
                tensor = self._in_place(tensor, offset)
        except RecordError as error:
            raise RecordError(f"array {shown(path)} cannot be read: {error}") from error
        self.tensors[path] = self._unpacked(tensor) if offset is None else tensor

    def _in_place(self, tensor: TensorInfo, offset: Any) -> TensorInfo:
        check_naturals("its offset", offset)
        end = offset + tensor.nbytes
        if end > self._part.size:
            raise RecordError(f"it ends at byte {end}, the file at {self._part.size}")
        return replace(tensor, offset=self._part.start + offset)

    def _unpacked(self, tensor: TensorInfo) -> TensorInfo:
        """Put the values that follow into the scratch file."""
        number, scratch = self._files.scratch()
        start = at = scratch.reserve(tensor.nbytes)
        while at < start + tensor.nbytes:
            match self._line():
                case ["values", int(count)] if 0 < count <= start + tensor.nbytes - at:
                    self._copy(scratch, at, count)
                    at += count
                case _:
                    raise RecordError(_NONSENSE)
        return replace(tensor, file=number, offset=start)

    def _copy(self, scratch: Scratch, offset: int, nbytes: int) -> None:
        for at in range(0, nbytes, _PART):
            expected = min(_PART, nbytes - at)
            part = self._stream.read(expected)
            if len(part) < expected:
                raise EOFError
            scratch.write(offset + at, part)


def _described(path: str, code: str, shape: Any) -> TensorInfo:
    dtype = DTYPES["BF16"] if code == "bfloat16" else dtype_named(code)
    if dtype is None:
        raise RecordError(_NONSENSE)
    sizes = sizes_of(shape, "sizes")
    if size_in_bits(sizes, dtype.bits) is None:
        raise RecordError(f"its size, {list(sizes)}, overflows")
    return TensorInfo(path, dtype, sizes, 0)
