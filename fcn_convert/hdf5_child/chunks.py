"""Arrays that have to be unpacked: a bounded part at a time, each chunk once, and whole."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from itertools import product
from math import prod
from typing import Any

from fcn_convert.hdf5_child.answers import RefusedError

MAX_UNPACKED = 32 << 20
"""Bytes unpacked at a time: whole chunks, of whole rows of the array."""
_ENOUGH, _MANY = 4 << 20, 1 << 12
"""Bytes worth a call, and chunks it may have: HDF5 keeps kilobytes for each chunk of a call."""
_GZIP, _SHUFFLE, _FLETCHER, _LZF = 1, 2, 3, 32000
FILTERS = (_GZIP, _SHUFFLE, _FLETCHER, _LZF)
"""Filters built into h5py; any other would be a library loaded from a path."""


def rows(dataset: Any) -> Iterator[memoryview]:
    """Return the values in row-major order, a bounded part at a time, each chunk unpacked once."""
    shape, itemsize = dataset.shape, dataset.dtype.itemsize
    if not shape:
        return iter([memoryview(dataset[()].tobytes())])
    chunks = dataset.chunks or (1,) * len(shape)
    counts = [-(-size // chunk) for size, chunk in zip(shape, dataset.chunks or shape, strict=True)]
    outer = 0
    while chunks[outer] == 1 and (
        prod(shape[outer + 1 :]) * itemsize > _ENOUGH or prod(counts[outer + 1 :]) > _MANY
    ):
        outer += 1
    row, across = prod(shape[outer + 1 :]) * itemsize, prod(counts[outer + 1 :])
    step = chunks[outer] * max(min(_ENOUGH // (row * chunks[outer]), _MANY // across), 1)
    if max(min(step, shape[outer]) * row, prod(chunks) * itemsize) > MAX_UNPACKED:
        raise RefusedError(f"over {MAX_UNPACKED >> 20} MB of it have to be unpacked at a time")
    return (
        dataset[(*index, slice(at, at + step))].reshape(-1).view("u1").data
        for index in product(*map(range, shape[:outer]))
        for at in range(0, shape[outer], step)
    )


def lengths(dataset: Any, filters: list[int]) -> Iterator[int]:
    """Yield how many bytes each chunk holds; raises RefusedError for one that holds too few.

    HDF5 fills it up with whatever was in memory.
    """
    needed = prod(dataset.chunks) * dataset.id.get_type().get_size()
    written: list[Any] = []  # the others have the value that the file has for that
    dataset.id.chunk_iter(written.append)
    for chunk in written:
        stored = chunk.size
        if filters:
            undone = [
                number for at, number in enumerate(filters) if not chunk.filter_mask >> at & 1
            ]
            _, raw = dataset.id.read_direct_chunk(chunk.chunk_offset)
            stored = _unpacked_length(raw, undone, needed)
        if stored != needed:
            raise RefusedError(f"a chunk of it has {stored} bytes where there should be {needed}")
        yield stored


def _unpacked_length(raw: bytes, filters: list[int], most: int) -> int:
    """Return how many bytes a chunk unpacks to, or a few more than the most it should."""
    most += 4 * len(filters)  # checksums are taken off later
    for number in reversed(filters):
        if number == _GZIP:
            raw = zlib.decompressobj().decompress(raw, most)
        elif number == _LZF:
            raw = bytes(min(_lzf_length(raw), most))  # zeros will do
        elif number == _FLETCHER:
            raw = raw[:-4]
    return len(raw)


def _lzf_length(raw: bytes) -> int:
    """Return how many bytes LZF's runs and references stand for."""
    at = length = 0
    while at < len(raw):
        count, at = raw[at], at + 1
        if count < 32:
            length, at = length + count + 1, at + count + 1
            continue
        count >>= 5
        if count == 7:
            count, at = count + raw[at], at + 1
        length, at = length + count + 2, at + 1
    return length
