"""The arrays of an HDF5 file, by place: contiguous ones in the file itself, others unpacked.

h5py reads the structure, through our own descriptor. Only hard links inside of the file are
followed: soft and external links, virtual datasets and external storage lead elsewhere.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from math import prod
from types import ModuleType
from typing import Any

from fcn_convert.errors import CheckpointError
from fcn_convert.formats.numpy_records import dtype_named
from fcn_convert.formats.source import Files, Part
from fcn_convert.formats.torch_records import RecordError
from fcn_convert.tensors import (
    DTYPES,
    MAX_AXES,
    MAX_TENSORS,
    LeftOut,
    TensorInfo,
    shown,
    size_in_bits,
)

SIGNATURE = b"\x89HDF\r\n\x1a\n"
MAX_DEPTH = 64
MAX_ATTRIBUTE = 16 << 20
MAX_TEXTS, MIN_TEXTS = 64 << 20, 64
"""Bytes of an attribute's texts, were each as long as the file; so few texts are always read."""
MAX_UNPACKED = 64 << 20
"""Bytes unpacked at a time: whole chunks, of whole rows of the array."""
MAX_CHUNKS = 1 << 16
"""Chunks of all arrays together: HDF5 keeps a kilobyte for each, be it a single value."""
_ENOUGH = 4 << 20
"""Bytes worth a call."""
_FILTERS = {1: "gzip", 2: "shuffle", 3: "fletcher32", 32000: "lzf"}
"""Filters built into h5py; any other would be a library loaded from a path."""


class _Reader(io.RawIOBase):
    """A part of a file as a file object, for h5py."""

    def __init__(self, part: Part) -> None:
        self._part = part
        self._at = 0

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._part.size}[whence]
        self._at = start + offset
        return self._at

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        count = max(0, min(len(view), self._part.size - self._at))
        view[:count] = self._part.pread(self._at, count)
        self._at += count
        return count


@dataclass(frozen=True)
class Arrays:
    """The arrays of a file by their paths, what is none that can be written, and its attributes."""

    tensors: dict[str, TensorInfo]
    left_out: tuple[LeftOut, ...]
    attributes: dict[str, dict[str, Any]]


def read_arrays(files: Files, part: Part) -> Arrays:
    """Index an HDF5 file; raises CheckpointError where it is malformed, or leads elsewhere."""
    h5py = _library(part)
    try:
        with h5py.File(_Reader(part), "r") as root:
            if root.userblock_size:
                raise RecordError("it has a block before its beginning, which Keras never writes")
            walk = _Walk(h5py, files, part)
            walk.group("", root, 0)
    except RecordError as error:
        raise CheckpointError(f"{part.path}: {error}") from error
    except CheckpointError:
        raise
    except (OSError, RuntimeError, ValueError, TypeError, KeyError, OverflowError) as error:
        reason = str(error).partition("\n")[0]
        raise CheckpointError(f"{part.path}: malformed HDF5 file: {reason}") from error
    return Arrays(walk.tensors, tuple(walk.left_out), walk.attributes)


def _library(part: Part) -> ModuleType:
    try:
        import h5py  # noqa: PLC0415 - heavy, and of an extra
    except ImportError as error:
        raise CheckpointError(
            f"{part.path}: is an HDF5 file, which h5py reads: pip install 'fcn-convert[keras]'"
        ) from error
    found: ModuleType = h5py
    return found


class _Walk:
    """Goes through the groups of a file."""

    def __init__(self, h5py: ModuleType, files: Files, part: Part) -> None:
        self.h5py = h5py
        self.files = files
        self.part = part
        self.tensors: dict[str, TensorInfo] = {}
        self.left_out: list[LeftOut] = []
        self.attributes: dict[str, dict[str, Any]] = {}
        self.entries = self.chunks = 0

    def group(self, path: str, group: Any, depth: int) -> None:
        """Index all that a group holds."""
        if depth > MAX_DEPTH:
            raise RecordError(f"has groups nested deeper than {MAX_DEPTH}, or in a circle")
        self.attributes[path] = dict(_attributes(group, self.part.size))
        for name in group:
            self.entries += 1
            if self.entries > 8 * MAX_TENSORS:
                raise RecordError("has more entries than any model")
            inner = f"{path}/{name}" if path else name
            if not isinstance(group.get(name, getlink=True), self.h5py.HardLink):
                raise RecordError(f"{shown(inner)} is a link to elsewhere, which is not followed")
            entry = group[name]
            if isinstance(entry, self.h5py.Group):
                self.group(inner, entry, depth + 1)
            elif isinstance(entry, self.h5py.Dataset):
                self.dataset(inner, entry)

    def dataset(self, path: str, dataset: Any) -> None:
        """Index one array."""
        try:
            dtype = dtype_named(dataset.dtype.str)
            if dataset.dtype.itemsize == 2 and dataset.attrs.get("dtype") == "bfloat16":
                dtype = DTYPES["BF16"]
            shape = dataset.shape
            if dtype is None or shape is None or len(shape) > MAX_AXES:
                self.left_out.append(LeftOut(path, f"of HDF5's type {dataset.dtype.str[:16]}"))
                return
            if size_in_bits(shape, dtype.bits) is None:
                raise RecordError(f"its size, {list(shape)}, overflows")
            nbytes = prod(shape) * dtype.itemsize
            number, offset = self._place(dataset, nbytes)
        except RecordError as error:
            raise RecordError(f"array {shown(path)} cannot be read: {error}") from error
        self.tensors[path] = TensorInfo(path, dtype, tuple(shape), offset, file=number)

    def _place(self, dataset: Any, nbytes: int) -> tuple[int, int]:
        """Return the number of the file that holds the values in row-major order, and where."""
        properties = dataset.id.get_create_plist()
        layout = properties.get_layout()
        if dataset.is_virtual or properties.get_external_count():
            raise RecordError("its values lie in other files")
        if not nbytes:
            return 0, self.part.start
        if layout == self.h5py.h5d.CONTIGUOUS:
            offset = dataset.id.get_offset()
            if offset is None:
                raise RecordError("its values were never written")
            if offset + nbytes > self.part.size:
                raise RecordError(
                    f"it ends at byte {offset + nbytes}, the file at {self.part.size}"
                )
            return 0, self.part.start + offset
        if layout == self.h5py.h5d.CHUNKED:
            self._check_filters(properties)
            self._check_chunks(dataset)
        return self._unpacked(dataset, nbytes)

    def _check_filters(self, properties: Any) -> None:
        filters = [properties.get_filter(at)[0] for at in range(properties.get_nfilters())]
        unknown = [number for number in filters if number not in _FILTERS]
        if unknown:
            raise RecordError(f"it is compressed by HDF5's filter {unknown[0]}, not known here")

    def _check_chunks(self, dataset: Any) -> None:
        sizes = zip(dataset.shape, dataset.chunks, strict=True)
        self.chunks += prod(-(-size // chunk) for size, chunk in sizes)
        if self.chunks > MAX_CHUNKS:
            raise RecordError(f"with it the file has more than {MAX_CHUNKS} chunks")

    def _unpacked(self, dataset: Any, nbytes: int) -> tuple[int, int]:
        number, scratch = self.files.scratch()
        start = scratch.size
        scratch.check_room(nbytes)
        for values in _rows(dataset):
            scratch.append(values)
        return number, start


def _rows(dataset: Any) -> Iterator[bytes]:
    """Yield the values in row-major order, a bounded part at a time, each chunk unpacked once."""
    shape, itemsize = dataset.shape or (1,), dataset.dtype.itemsize
    chunks = dataset.chunks or (1,) * len(shape)
    outer = 0
    while chunks[outer] == 1 and prod(shape[outer + 1 :]) * itemsize > _ENOUGH:
        outer += 1
    row = prod(shape[outer + 1 :]) * itemsize
    step = chunks[outer] * max(_ENOUGH // (row * chunks[outer]), 1)
    if max(min(step, shape[outer]) * row, prod(chunks) * itemsize) > MAX_UNPACKED:
        raise RecordError(f"over {MAX_UNPACKED >> 20} MB of it have to be unpacked at a time")
    if not dataset.shape:
        yield dataset[()].tobytes()
        return
    for index in product(*map(range, shape[:outer])):
        for at in range(0, shape[outer], step):
            yield dataset[(*index, slice(at, at + step))].tobytes()


def _attributes(group: Any, nbytes: int) -> Iterator[tuple[str, Any]]:
    """Yield a group's attributes: texts and lists of texts, numbers; others as None.

    nbytes: size of the file. Keras cuts a list of names that is too long for an attribute into
    `names0`, `names1`, …
    """
    for name in group.attrs:
        stored = group.attrs.get_id(name)
        # What is read is allocated first, as large as the file says that it is.
        if prod(stored.shape or ()) * stored.dtype.itemsize > MAX_ATTRIBUTE:
            raise RecordError(f"attribute {shown(name)} is over {MAX_ATTRIBUTE >> 20} MB")
        # Texts of no fixed length can all be the same part of the file, copied for each.
        most = max(MAX_TEXTS // nbytes, MIN_TEXTS)
        if stored.dtype.hasobject and prod(stored.shape or ()) > most:
            raise RecordError(f"attribute {shown(name)} has over {most} texts of no fixed length")
        value = group.attrs[name]
        yield name, _plain(value.tolist() if hasattr(value, "tolist") else value)


def _plain(value: Any) -> Any:
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return value if isinstance(value, str | int | float) else None
