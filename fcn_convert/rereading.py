"""Reads values once more, for the proof: shares no arithmetic with how a conversion reads.

`formats/strided.py` weighs the calls that each way of cutting a tensor costs. Here it is cut in
halves by a rule, and every index is counted out anew. A mistake in either fails the proof.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product
from math import prod

from fcn_convert.formats.source import SourceFile
from fcn_convert.numpy_import import import_numpy
from fcn_convert.tensors import TensorInfo

BOX_BYTES = 4 << 20
"""Bytes of values in one box at most; of a tensor that is not cut any further, one element."""
SPARSE = 8
"""A stretch is read at once where it is at most this many times as long as its values."""
CACHED = 1 << 16
"""Elements that are put into another order at a time: they stay in a core's second cache."""
SIGN = 0x80
"""In a number's last byte."""


@dataclass(frozen=True, slots=True)
class Box:
    """A part of a tensor: the index of its first element, and its shape."""

    start: tuple[int, ...]
    shape: tuple[int, ...]


def boxes(tensor: TensorInfo) -> Iterator[Box]:
    """Halve a tensor until its parts are small enough, and yield them.

    Where the first axis changes slowest in the file, too, only that one is cut, as long as it can
    be: each box lies in one piece in both files. Elsewhere boxes are squares of the first axis and
    all others, so that pieces are long in the file where the first axis changes fastest, and in the
    one where the last does.
    """
    if 0 not in tensor.shape:
        whole = Box((0,) * len(tensor.shape), tensor.shape)
        most = max(1, BOX_BYTES // tensor.dtype.itemsize)
        steps = _steps(tensor)
        first_is_slowest = bool(steps) and steps[0] == max(steps)
        yield from _halved(whole, most, _first if first_is_slowest else _longer_side)


def _halved(box: Box, most: int, axis_of: Callable[[tuple[int, ...]], int]) -> Iterator[Box]:
    if prod(box.shape) <= most:
        yield box
        return
    axis = axis_of(box.shape)
    half = box.shape[axis] // 2
    for first, size in ((0, half), (half, box.shape[axis] - half)):
        start = (*box.start[:axis], box.start[axis] + first, *box.start[axis + 1 :])
        shape = (*box.shape[:axis], size, *box.shape[axis + 1 :])
        yield from _halved(Box(start, shape), most, axis_of)


def _first(shape: tuple[int, ...]) -> int:
    return next(axis for axis, size in enumerate(shape) if size > 1)


def _longer_side(shape: tuple[int, ...]) -> int:
    """Return an axis to halve so that a box nears a square of the first axis and all others."""
    first, *others = shape
    return 0 if first >= prod(others) else 1 + others.index(max(others))


class BoxReader:
    """Reads one box after the other into the same memory: fresh memory would cost as much again.

    What `read` returns holds until it is called again.
    """

    def __init__(self) -> None:
        self._stored = bytearray()
        self._values = bytearray()

    def read(self, file: SourceFile, tensor: TensorInfo, box: Box) -> bytearray:
        """Return the values of a box in row-major order, with lazy conj and neg bits applied."""
        itemsize = tensor.dtype.itemsize
        steps = _steps(tensor)
        apart, span = _stretches(box.shape, steps)
        first = sum(at * step for at, step in zip(box.start, steps, strict=True))
        begins = [
            first + sum(at * steps[axis] for at, axis in zip(index, apart, strict=True))
            for index in product(*(range(box.shape[axis]) for axis in apart))
        ]
        self._stored = _sized(self._stored, len(begins) * span * itemsize)
        stored = memoryview(self._stored)
        for begin in begins:
            file.pread_into(stored[: span * itemsize], tensor.offset + begin * itemsize)
            stored = stored[span * itemsize :]
        nbytes = prod(box.shape) * itemsize
        if tensor.is_plain and len(self._stored) == nbytes:
            return self._stored  # all of it is the box, in its order
        self._values = _sized(self._values, nbytes)
        in_memory = _steps_in_memory(box.shape, steps, apart, span)
        _arrange(self._stored, tensor, box.shape, in_memory, self._values)
        return self._values

    def read_bytes(self, file: SourceFile, offset: int, nbytes: int) -> bytearray:
        """Return bytes of a file as they are."""
        self._values = _sized(self._values, nbytes)
        file.pread_into(self._values, offset)
        return self._values


def _steps(tensor: TensorInfo) -> tuple[int, ...]:
    """Return how many elements of the file lie between two neighbours along each axis."""
    if tensor.strides is not None:
        return tensor.strides
    return tuple(prod(tensor.shape[axis + 1 :]) for axis in range(len(tensor.shape)))


def _stretches(shape: tuple[int, ...], steps: tuple[int, ...]) -> tuple[list[int], int]:
    """Return the axes along which each index is read by itself, slowest first, and a stretch.

    The stretch, in elements, grows from the axis of the smallest steps on, as long as enough of it
    are values.
    """
    nearest_first = sorted(range(len(shape)), key=lambda axis: steps[axis])
    span = count = 1
    for position, axis in enumerate(nearest_first):
        longer = span + (shape[axis] - 1) * steps[axis]
        if longer > SPARSE * count * shape[axis]:
            return nearest_first[position:][::-1], span
        span, count = longer, count * shape[axis]
    return [], span


def _steps_in_memory(
    shape: tuple[int, ...], steps: tuple[int, ...], apart: list[int], span: int
) -> tuple[int, ...]:
    """Return the steps between neighbours in memory, where one stretch follows the other."""
    found = list(steps)
    step = span
    for axis in reversed(apart):  # the last of them changes fastest
        found[axis] = step
        step *= shape[axis]
    return tuple(found)


def _sized(memory: bytearray, nbytes: int) -> bytearray:
    return memory if len(memory) == nbytes else bytearray(nbytes)


def _arrange(
    stored: bytearray,
    tensor: TensorInfo,
    shape: tuple[int, ...],
    steps: tuple[int, ...],
    values: bytearray,
) -> None:
    """Put values into row-major order, a part at a time that fits into a core's cache.

    Then change the signs that torch's lazy bits leave to be changed.
    """
    np = import_numpy()

    itemsize = tensor.dtype.itemsize
    # An axis of size 1 has no step, whatever the file says, and NumPy refuses long ones.
    in_bytes = [step * itemsize * (size > 1) for size, step in zip(shape, steps, strict=True)]
    found = np.ndarray(shape, f"u{itemsize}", stored, strides=in_bytes)
    ordered = np.ndarray(shape, found.dtype, values)
    for part in _halved(Box((0,) * len(shape), shape), CACHED, _longer_side):
        inside = tuple(slice(at, at + n) for at, n in zip(part.start, part.shape, strict=True))
        ordered[inside] = found[inside]
    # Of a complex number, the imaginary part comes last.
    every_byte = np.frombuffer(values, np.uint8)
    if tensor.conjugated:
        every_byte[itemsize - 1 :: itemsize] ^= SIGN
    if tensor.negated:
        size = itemsize // 2 if tensor.dtype.name == "C64" else itemsize
        every_byte[size - 1 :: size] ^= SIGN
