"""The seeded feature maps that a layer is tried on, and the same maps flattened."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from math import prod

from fcn_convert.layers import DenseLayer
from fcn_convert.torch_quietly import Tensor, torch

MAPS = 2
"""Seeded feature maps per layer."""
MARGIN = (2, 1, 1)
"""How much larger the larger map is, per spatial axis."""


@dataclass(frozen=True)
class Inputs:
    """The maps that a layer reads, and the same maps flattened as the spec says.

    maps: of the layer's own size (MAPS, C, *kernel), and a larger one (1, C, *spatial).
    vectors: (MAPS + windows, features), windows in row-major order of the output's cells.
    """

    maps: tuple[Tensor, ...]
    vectors: Tensor

    def to(self, dtype: torch.dtype) -> Inputs:
        """Return the same inputs in another dtype."""
        return Inputs(tuple(maps.to(dtype) for maps in self.maps), self.vectors.to(dtype))


def make_inputs(layer: DenseLayer) -> Inputs:
    """Make a layer's inputs, in float64, from a seed of its own."""
    kernel = layer.kernel
    channels = layer.weight.shape[1] // prod(kernel)
    spatial = [size + more for size, more in zip(kernel, MARGIN, strict=False)]
    seed = torch.Generator().manual_seed(zlib.crc32(layer.name.encode("utf-8", "replace")))
    native = torch.randn((MAPS, channels, *kernel), generator=seed, dtype=torch.float64)
    larger = torch.randn((1, channels, *spatial), generator=seed, dtype=torch.float64)
    windows = larger
    for axis, size in enumerate(kernel):
        windows = windows.unfold(2 + axis, size, 1)
    # (1, C, *cells, *kernel) → (cells, C, *kernel)
    cells = range(2, 2 + len(kernel))
    windows = windows.permute(0, *cells, 1, *range(2 + len(kernel), windows.dim()))
    every = torch.cat((native, windows.reshape(-1, channels, *kernel)))
    return Inputs((native, larger), _flattened(every, _places(layer)))


def _places(layer: DenseLayer) -> Tensor:
    """Return where each element of a map, in C, H, W order, stands in the flattened vector."""
    if layer.reads == "dense":
        return torch.arange(layer.weight.shape[1])
    axes, sizes = layer.head.feature_map.axes, layer.head.feature_map.sizes
    index = torch.zeros(sizes, dtype=torch.int64)
    step = 1
    for axis in reversed(layer.head.flatten):  # the last axis of `flatten` changes fastest
        position = axes.index(axis)
        shape = [-1 if other == position else 1 for other in range(len(axes))]
        index = index + step * torch.arange(sizes[position]).view(shape)
        step *= sizes[position]
    return index.flatten()


def _flattened(maps: Tensor, place: Tensor) -> Tensor:
    """Flatten maps (n, C, *kernel) into vectors (n, features), each element at its place."""
    vectors = torch.empty(maps.shape[0], place.numel(), dtype=maps.dtype)
    vectors[:, place] = maps.flatten(1)
    return vectors
