"""Values of a tensor that does not lie in row-major order, a bounded block at a time.

A permuted tensor is a view with other strides, so one mechanism serves column-major checkpoints,
expanded and sliced tensors, and foreign flatten orders.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from math import prod
from typing import TYPE_CHECKING

from fcn_convert.formats.source import SourceFile
from fcn_convert.tensors import TensorInfo, element_span, is_row_major, row_major_strides

if TYPE_CHECKING:
    from fcn_convert.torch_quietly import Tensor

BLOCK_BYTES = 4 << 20
"""Bytes of file, and of values, that one block holds at most."""


@dataclass(frozen=True, slots=True)
class Block:
    """A box inside of a tensor: the index of its first element, and its shape."""

    start: tuple[int, ...]
    shape: tuple[int, ...]


def strides_of(tensor: TensorInfo) -> tuple[int, ...]:
    """Return a tensor's strides, in elements, also where they are row-major."""
    return row_major_strides(tensor.shape) if tensor.strides is None else tensor.strides


def blocks(tensor: TensorInfo) -> Iterator[Block]:
    """Cut a tensor into boxes, each read from at most BLOCK_BYTES of the file."""
    limit = BLOCK_BYTES // tensor.dtype.itemsize
    if 0 not in tensor.shape:
        whole = Block((0,) * len(tensor.shape), tensor.shape)
        yield from _cut(whole, strides_of(tensor), limit)


def _cut(block: Block, strides: tuple[int, ...], limit: int) -> Iterator[Block]:
    span = element_span(block.shape, strides)
    if max(span, prod(block.shape)) <= limit:
        yield block
        return
    # A long span is cut where it is longest; a small one seen many times, along its largest axis.
    weights = strides if span > limit else block.shape
    axis = max(range(len(strides)), key=lambda a: weights[a] if block.shape[a] > 1 else -1)
    rest = span - (block.shape[axis] - 1) * strides[axis]
    fitting = (limit - rest) // strides[axis] + 1 if strides[axis] else limit
    step = min(max(fitting, 1), max(block.shape[axis] // 2, 1))
    for at in range(0, block.shape[axis], step):
        start = (*block.start[:axis], block.start[axis] + at, *block.start[axis + 1 :])
        size = min(step, block.shape[axis] - at)
        shape = (*block.shape[:axis], size, *block.shape[axis + 1 :])
        yield from _cut(Block(start, shape), strides, limit)


def runs(tensor: TensorInfo, block: Block) -> Iterator[tuple[int, int]]:
    """Yield where a block's values lie in the row-major tensor: first element and length."""
    whole = len(block.shape)
    while whole and block.shape[whole - 1] == tensor.shape[whole - 1]:
        whole -= 1
    # Axes from `whole` on are complete; so each index of the axes before the last cut one is a run.
    outer = max(whole - 1, 0)
    length = prod(block.shape[outer:])
    strides = row_major_strides(tensor.shape)
    first = sum(a * b for a, b in zip(block.start, strides, strict=True))
    for index in product(*(range(size) for size in block.shape[:outer])):
        yield first + sum(a * b for a, b in zip(index, strides, strict=False)), length


class BlockReader:
    """Reads one block after the other into the same memory: fresh memory would cost as much again.

    What `read` returns holds until it is called again.
    """

    def __init__(self) -> None:
        self._stored = bytearray()
        self._values = bytearray()

    def read_bytes(self, file: SourceFile, offset: int, nbytes: int) -> bytearray:
        """Return a part of the file as it is."""
        self._values = _sized(self._values, nbytes)
        file.pread_into(self._values, offset)
        return self._values

    def read(self, file: SourceFile, tensor: TensorInfo, block: Block) -> bytearray:
        """Return the values of a block in row-major order, with lazy conj and neg bits applied."""
        strides, itemsize = strides_of(tensor), tensor.dtype.itemsize
        start = sum(a * b for a, b in zip(block.start, strides, strict=True)) * itemsize
        nbytes = prod(block.shape) * itemsize
        lazy = tensor.conjugated or tensor.negated
        if is_row_major(block.shape, strides) and not lazy:
            return self.read_bytes(file, tensor.offset + start, nbytes)
        self._stored = _sized(self._stored, element_span(block.shape, strides) * itemsize)
        file.pread_into(self._stored, tensor.offset + start)
        self._values = _sized(self._values, nbytes)
        _gather(self._stored, tensor, block.shape, self._values)
        return self._values


def _sized(buffer: bytearray, nbytes: int) -> bytearray:
    return buffer if len(buffer) == nbytes else bytearray(nbytes)


def _gather(
    stored: bytearray, tensor: TensorInfo, shape: tuple[int, ...], values: bytearray
) -> None:
    from fcn_convert.torch_quietly import torch  # noqa: PLC0415 - heavy, and only needed where values change places

    dtype = (
        getattr(torch, tensor.dtype.torch or "")
        if tensor.conjugated or tensor.negated
        else {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[tensor.dtype.itemsize]
    )
    found = torch.frombuffer(stored, dtype=dtype).as_strided(shape, strides_of(tensor))
    if tensor.conjugated:
        found = found.conj()
    if tensor.negated:
        found = -found
    torch.frombuffer(values, dtype=dtype).view(shape).copy_(found)


def read_tensor(file: SourceFile, tensor: TensorInfo) -> Tensor:
    """Return a tensor as torch's, of a dtype that torch has; the caller bounds its size."""
    from fcn_convert.torch_quietly import torch  # noqa: PLC0415 - heavy, and only needed where values are computed with

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
    itemsize = tensor.dtype.itemsize
    reader = BlockReader()
    for block in blocks(tensor):
        part = memoryview(reader.read(file, tensor, block))
        for first, length in runs(tensor, block):
            values[first * itemsize : (first + length) * itemsize] = part[: length * itemsize]
            part = part[length * itemsize :]
    return values
