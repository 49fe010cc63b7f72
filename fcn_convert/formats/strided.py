"""Values of a tensor that does not lie in row-major order, a bounded block at a time.

A permuted tensor is a view with other strides, so one mechanism serves column-major checkpoints,
expanded and sliced tensors, and foreign flatten orders.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from itertools import product
from math import prod
from typing import TYPE_CHECKING

from fcn_convert.formats.source import SourceFile
from fcn_convert.numpy_import import import_numpy
from fcn_convert.tensors import TensorInfo, is_row_major, row_major_strides

if TYPE_CHECKING:
    from fcn_convert.torch_library import Tensor

BLOCK_BYTES = 4 << 20
"""Bytes of file, and of values, that one block holds at most."""
CALL_BYTES = 4 << 10
"""Bytes that are copied in about the time of one call: smaller gaps are read with the rest."""
TILE = 128
"""Elements along an edge of what is put into another order at a time."""


@dataclass(frozen=True, slots=True)
class Block:
    """A box inside a tensor: the index of its first element, and its shape."""

    start: tuple[int, ...]
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class _Stretches:
    """How a box lies in a file: in stretches of `length` elements, gaps included.

    shape, strides: the box's. apart: the axes along which one stretch follows another, slowest
    first.
    """

    shape: tuple[int, ...]
    strides: tuple[int, ...]
    apart: tuple[int, ...]
    length: int

    @property
    def count(self) -> int:
        """How many there are."""
        return prod(self.shape[axis] for axis in self.apart)

    def begins(self, start: tuple[int, ...]) -> Iterator[int]:
        """Yield where each begins, in elements, of the box whose first element has that index."""
        first = sum(at * stride for at, stride in zip(start, self.strides, strict=True))
        ends = ((self.shape[axis] * self.strides[axis], self.strides[axis]) for axis in self.apart)
        for steps in product(*(range(0, end, stride) for end, stride in ends)):
            yield first + sum(steps)

    @property
    def strides_in_memory(self) -> tuple[int, ...]:
        """The box's strides where one stretch follows the other without a gap."""
        strides, step = list(self.strides), self.length
        for axis in reversed(self.apart):
            strides[axis] = step
            step *= self.shape[axis]
        return tuple(strides)


def strides_of(tensor: TensorInfo) -> tuple[int, ...]:
    """Return a tensor's strides, in elements, also where they are row-major."""
    return row_major_strides(tensor.shape) if tensor.strides is None else tensor.strides


def _read(tensor: TensorInfo, shape: tuple[int, ...]) -> _Stretches:
    """Return how a box of a tensor is read."""
    return _stretches(shape, strides_of(tensor), CALL_BYTES // tensor.dtype.itemsize)


def _written(tensor: TensorInfo, shape: tuple[int, ...]) -> _Stretches:
    """Return how a box of a tensor is written, in row-major order."""
    return _stretches(shape, row_major_strides(tensor.shape), 0)


def _stretches(shape: tuple[int, ...], strides: tuple[int, ...], gap: int) -> _Stretches:
    """Join what is at most `gap` elements apart, beginning with what is closest."""
    closest_first = sorted(range(len(shape)), key=strides.__getitem__)
    length = 1
    for position, axis in enumerate(closest_first):
        if shape[axis] > 1 and strides[axis] - length > gap:
            return _Stretches(shape, strides, tuple(reversed(closest_first[position:])), length)
        length += (shape[axis] - 1) * strides[axis]
    return _Stretches(shape, strides, (), length)


def blocks(tensor: TensorInfo) -> Iterator[Block]:
    """Cut a tensor into boxes, each read from at most BLOCK_BYTES of the file."""
    if 0 in tensor.shape:
        return
    most = _block_shape(tensor)
    edges = (range(0, size, step) for size, step in zip(tensor.shape, most, strict=True))
    for start in product(*edges):
        rest = (size - at for size, at in zip(tensor.shape, start, strict=True))
        yield Block(start, tuple(map(min, most, rest)))


def _block_shape(tensor: TensorInfo) -> tuple[int, ...]:
    """Halve a tensor's shape until it is small enough, each time along the axis that costs least.

    So a tensor that lies in another order is cut into boxes with long stretches in both files:
    rows alone would be written in one piece, but read number by number.
    """
    shape = tensor.shape
    while True:
        read = _read(tensor, shape)
        if max(read.count * read.length, prod(shape)) * tensor.dtype.itemsize <= BLOCK_BYTES:
            return shape
        halves = [_halved(shape, axis) for axis, size in enumerate(shape) if size > 1]
        shape = min(halves, key=partial(_cost, tensor))


def _halved(shape: tuple[int, ...], axis: int) -> tuple[int, ...]:
    return (*shape[:axis], (shape[axis] + 1) // 2, *shape[axis + 1 :])


def _cost(tensor: TensorInfo, shape: tuple[int, ...]) -> float:
    """Return what an element of a box costs, in bytes: its part of all calls, and of all gaps."""
    read, written = _read(tensor, shape), _written(tensor, shape)
    calls = (read.count + written.count) * CALL_BYTES
    return (calls + read.count * read.length * tensor.dtype.itemsize) / prod(shape)


def placed(values: bytearray, tensor: TensorInfo, block: Block) -> Iterator[tuple[int, memoryview]]:
    """Yield a block's values in parts, each with its place, in bytes, in the row-major tensor."""
    stretches, itemsize = _written(tensor, block.shape), tensor.dtype.itemsize
    part, nbytes = memoryview(values), stretches.length * itemsize
    for begin in stretches.begins(block.start):
        yield begin * itemsize, part[:nbytes]
        part = part[nbytes:]


class BlockReader:
    """Reads one block after the other into the same memory: fresh memory would cost as much again.

    What `read` returns holds until it is called again.
    """

    def __init__(self) -> None:
        self._stored = bytearray()
        self._values = bytearray()

    def read(self, file: SourceFile, tensor: TensorInfo, block: Block) -> bytearray:
        """Return the values of a block in row-major order, with lazy conj and neg bits applied."""
        stretches, itemsize = _read(tensor, block.shape), tensor.dtype.itemsize
        nbytes = stretches.length * itemsize
        self._stored = _sized(self._stored, stretches.count * nbytes)
        part = memoryview(self._stored)
        for begin in stretches.begins(block.start):
            file.pread_into(part[:nbytes], tensor.offset + begin * itemsize)
            part = part[nbytes:]
        strides = stretches.strides_in_memory
        if is_row_major(block.shape, strides) and not (tensor.conjugated or tensor.negated):
            return self._stored
        self._values = _sized(self._values, prod(block.shape) * itemsize)
        _gather(self._stored, tensor, block.shape, strides, self._values)
        return self._values


def _sized(buffer: bytearray, nbytes: int) -> bytearray:
    return buffer if len(buffer) == nbytes else bytearray(nbytes)


def _gather(
    stored: bytearray,
    tensor: TensorInfo,
    shape: tuple[int, ...],
    strides: tuple[int, ...],
    values: bytearray,
) -> None:
    """Put values into row-major order, and do what torch's lazy bits say."""
    np = import_numpy()

    itemsize = tensor.dtype.itemsize
    # NumPy refuses a long stride, which a file may have, even of an axis that has no second index.
    sized = zip(shape, strides, strict=True)
    steps = tuple(stride * itemsize if size > 1 else 0 for size, stride in sized)
    found = np.ndarray(shape, f"u{itemsize}", stored, strides=steps)
    ordered = np.ndarray(shape, found.dtype, values)
    for tile in _tiles(shape, strides):
        ordered[tile] = found[tile]
    # Both bits mean that a sign, the highest bit of a number, is still to be changed.
    numbers = np.frombuffer(
        values, f"<u{itemsize // 2 if tensor.dtype.name == 'C64' else itemsize}"
    )
    sign = 1 << (8 * numbers.itemsize - 1)
    if tensor.negated:
        numbers ^= sign
    if tensor.conjugated:
        numbers[1::2] ^= sign


def _tiles(shape: tuple[int, ...], strides: tuple[int, ...]) -> Iterator[tuple[slice, ...]]:
    """Cut a box along the axes that change fastest in the file and in the output, where two do.

    What is read along the one is still in a core's cache when the other moves on: a transposed
    matrix is four times as fast this way.
    """
    longer = [axis for axis, size in enumerate(shape) if size > 1]
    fastest = {min(longer, key=strides.__getitem__), longer[-1]} if longer else set()
    cut = fastest if len(fastest) == 2 else ()
    edges = [range(0, n, TILE if axis in cut else n) for axis, n in enumerate(shape)]
    for start in product(*edges):
        yield tuple(slice(at, at + edge.step) for at, edge in zip(start, edges, strict=True))


def read_tensor(file: SourceFile, tensor: TensorInfo) -> Tensor:
    """Return a tensor as torch's, of a dtype that torch has; the caller bounds its size."""
    from fcn_convert.torch_library import torch  # noqa: PLC0415 - heavy, and only needed where values are computed with

    dtype = getattr(torch, tensor.dtype.torch or "")
    values = read_values(file, tensor)
    flat = torch.frombuffer(values, dtype=dtype) if values else torch.empty(0, dtype=dtype)
    return flat.view(tensor.shape)


def read_values(file: SourceFile, tensor: TensorInfo) -> bytearray:
    """Return all values of a tensor in row-major order; the caller bounds its size."""
    values = bytearray(tensor.nbytes)
    if tensor.is_plain:
        file.pread_into(values, tensor.offset)
        return values
    reader = BlockReader()
    for block in blocks(tensor):
        for at, part in placed(reader.read(file, tensor, block), tensor, block):
            values[at : at + len(part)] = part
    return values
