"""The seeded feature maps that a layer is tried on, and the same maps flattened, part by part.

Every value follows from its place alone. So no more of a map is in memory than is computed with,
however large the map is.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from itertools import product
from math import prod

from fcn_convert.layers import DenseLayer
from fcn_convert.torch_library import Tensor, torch

MAPS = 2
"""Seeded feature maps per layer."""
_LARGER = torch.tensor(MAPS)
"""The number of the larger map, after those of the layer's own size."""
MARGIN = (2, 1, 1)
"""How much larger the larger map is, per spatial axis."""
LARGEST = 2.0
"""No value of a map is larger: they are spread evenly from -LARGEST to LARGEST."""


class Inputs:
    """The maps that a layer reads, and the same maps flattened as the spec says.

    cells: of the answer to the larger map, by spatial axis.
    vectors: how many flattened maps there are: MAPS of the layer's own size, and the larger one's
    windows in row-major order of the cells.
    """

    def __init__(self, layer: DenseLayer) -> None:
        self._own = (layer.weight.shape[1] // prod(layer.kernel), *layer.kernel)
        self.cells = tuple(1 + more for _, more in zip(layer.kernel, MARGIN, strict=False))
        self._larger = (self._own[0], *_grown(layer.kernel, self.cells))
        self.vectors = MAPS + prod(self.cells)
        self._axes = layer.head.feature_map.axes
        self._flatten = self._axes if layer.reads == "dense" else layer.head.flatten
        self._seed = zlib.crc32(layer.name.encode("utf-8", "replace"))

    def flattened(self, first: int, count: int) -> Tensor:
        """Return some features of all flattened maps, (vectors, count), in float64."""
        feature = torch.arange(first, first + count)
        sizes, at = dict(zip(self._axes, self._own, strict=True)), {}
        for axis in reversed(self._flatten):  # the last one changes fastest
            at[axis] = feature % sizes[axis]
            feature = feature // sizes[axis]
        channel, *places = (at[axis] for axis in self._axes)
        own = self._values(torch.arange(MAPS)[:, None], (channel, *places), self._own)
        cells = torch.tensor(list(product(*map(range, self.cells)))).unbind(1)
        moved = [place + more[:, None] for place, more in zip(places, cells, strict=True)]
        return torch.cat([own, self._values(_LARGER, (channel, *moved), self._larger)])

    def maps(self, start: tuple[int, ...], shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        """Return what a part of a kernel, (C, *kernel), reads of the maps, in float64.

        (MAPS, C, *kernel) of those of its own size, and (1, C, *spatial) of the larger one.
        """
        grown = (shape[0], *_grown(shape[1:], self.cells))
        numbers = torch.arange(MAPS).view(-1, *(1,) * len(shape))
        own = self._values(numbers, _grid(start, shape), self._own)
        return own, self._values(_LARGER, _grid(start, grown), self._larger)[None]

    def _values(self, numbers: Tensor, at: Iterable[Tensor], sizes: tuple[int, ...]) -> Tensor:
        """Return the values at places of maps of those sizes, by their numbers."""
        place = torch.zeros((), dtype=torch.int64)
        for index, size in zip(at, sizes, strict=True):
            place = place * size + index
        bits = _mixed(_mixed(place) ^ (self._seed + numbers))
        return bits.to(torch.float64) * (2 * LARGEST / 2**32) - LARGEST


def _grown(kernel: Iterable[int], cells: tuple[int, ...]) -> tuple[int, ...]:
    """Return the size of what a kernel reads for these cells."""
    return tuple(size + count - 1 for size, count in zip(kernel, cells, strict=True))


def _grid(start: tuple[int, ...], shape: tuple[int, ...]) -> list[Tensor]:
    """Return the indices of a box along each axis, which broadcast to its shape."""
    return [
        torch.arange(first, first + size).view(-1, *(1,) * (len(shape) - axis - 1))
        for axis, (first, size) in enumerate(zip(start, shape, strict=True))
    ]


def _mixed(number: Tensor) -> Tensor:
    """Spread numbers over 32 bits, as MurmurHash3's finalizer (A. Appleby, 2011) does."""
    low = 0xFFFFFFFF
    number = number & low
    number = (number ^ (number >> 16)) * 0x85EBCA6B & low
    number = (number ^ (number >> 13)) * 0xC2B2AE35 & low
    return number ^ (number >> 16)
