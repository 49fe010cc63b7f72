"""Reads an HDF5 file by h5py, in a process of its own, which `formats/hdf5.py` starts.

HDF5's library is C, and a file's bytes may be anybody's. So it works here, where it has little
memory and time, opens no other file, and takes nothing with it where it crashes. What it finds goes
to stdout, for `formats/hdf5.py` to check. Needs nothing of the rest, so that it starts quickly.
"""

from __future__ import annotations

import io
import os
from typing import Any

from fcn_convert.hdf5_child.answers import Answers, RefusedError
from fcn_convert.hdf5_child.limits import MEMORY, Limits
from fcn_convert.hdf5_child.walk import Walk


def main(descriptor: int, start: int, size: int) -> None:
    """Answer with all that is in a file, or with what is wrong with it, and exit."""
    answers = Answers()
    try:
        _read(descriptor, start, size, answers)
        answers.say("end")
    except RefusedError as error:
        answers.say("refused", *error.args)
    except Exception as error:  # noqa: BLE001 - what h5py raises for such files is unpredictable
        answers.say("refused", _reason(error), "", "")
    answers.send()
    os._exit(0)  # HDF5 would take down what may be in ruins


def _reason(error: BaseException) -> str:
    """Say why h5py gave up."""
    text = error.args[0] if isinstance(error, KeyError) else error  # which would be quoted
    first, *_ = str(text).splitlines() or [type(error).__name__]
    causes = [error]
    while (cause := causes[-1].__cause__ or causes[-1].__context__) is not None:
        causes.append(cause)
    if any(isinstance(cause, MemoryError) for cause in causes) or "memory alloc" in first:
        return f"HDF5's library needs over {MEMORY >> 20} MB of memory to read it"
    return f"malformed HDF5 file: {first}"


def _read(descriptor: int, start: int, size: int, answers: Answers) -> None:
    """Say all that is in a file; raises RefusedError, and whatever h5py raises."""
    limits = Limits(size)
    try:
        import h5py  # noqa: PLC0415 - under limits, and of an extra
    except ModuleNotFoundError as error:
        missing = "is an HDF5 file, which h5py reads: pip install 'fcn-convert[keras]'"
        raise RefusedError(missing) from error
    except ImportError as error:
        raise RefusedError(f"h5py, which reads HDF5 files, cannot be imported: {error}") from error
    limits.close_in()
    root = h5py.File(_Reader(descriptor, start, size), "r")
    if root.userblock_size:
        raise RefusedError("it has a block before its beginning, which Keras never writes")
    Walk(h5py, size, limits, answers).group("", h5py.h5o.open(root.id, b"/"), 0)


class _Reader(io.RawIOBase):
    """A part of a file as a file object, for h5py."""

    def __init__(self, descriptor: int, start: int, size: int) -> None:
        self._descriptor = descriptor
        self._start = start
        self._size = size
        self._at = 0

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        self._at = start + offset
        return self._at

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        count = max(0, min(len(view), self._size - self._at))
        done = 0
        while done < count:
            place = self._start + self._at + done
            got = os.preadv(self._descriptor, [view[done:count]], place)
            if not got:
                raise OSError("it ends too early")
            done += got
        view[count:] = bytes(len(view) - count)  # HDF5 takes what it finds there
        self._at += count
        return len(view)
