"""Candidate feature maps of a Dense layer, from the channels that come before it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from math import isqrt
from typing import Literal, TypeVar

from fcn_convert.infer.network import Network, Scope
from fcn_convert.infer.readings import Reading
from fcn_convert.spec import AXES, FeatureMap, unflattened, usual_order
from fcn_convert.tensors import Layout

_T = TypeVar("_T")

MAX_CANDIDATES = 40
"""Maps listed for one layer."""
MAX_FEATURES = 1 << 24
"""Inputs of a layer whose factors are looked for."""

Sureness = Literal["stated", "shapes", "square", "row", "open"]
"""Whether the file states the map, or shapes leave one; or one if it is square, or if it is 1 long
along an axis that no kernel looks along; or leave it open."""


@dataclass(frozen=True)
class Maps:
    """The maps that a layer may read, likeliest first.

    sureness: what the first one rests on. channels: those that come right before, as far as can be
    told; the C of other candidates is some channel count of the network. is_local: whether those
    are of convolutions in a module around the layer, as in an auxiliary head. depth: how many
    modules are around both the layer and those convolutions. layout: whose convention decides on
    the order where nothing else does. flatten: the order, where the file says it.
    """

    candidates: tuple[FeatureMap, ...]
    sureness: Sureness
    channels: tuple[int, ...] = ()
    is_local: bool = False
    depth: int = field(default=0, compare=False)
    layout: Layout = "torch"
    flatten: str = ""

    @property
    def likeliest(self) -> FeatureMap | None:
        """The map that shapes tell, if they do."""
        return None if self.sureness == "open" else self.candidates[0]

    def usual(self, fmap: FeatureMap) -> Reading:
        """Return a map in the order in which the layout's framework flattens it."""
        return Reading(fmap, self.flatten or usual_order(fmap.axes, self.layout))


def candidate_maps(network: Network, layer: str) -> Maps:
    """Return the maps whose elements are as many as a Dense layer's input features."""
    features = network.dense[layer].shape[1]
    stated = network.flattened.get(layer)
    if stated is not None and (fmap := unflattened(stated)).features == features:
        return Maps((fmap,), "stated", (fmap.channels,), flatten=stated.axes)
    if not 0 < features <= MAX_FEATURES:
        return Maps((), "open")
    before = _Before(network, layer)
    near = [c for c in _unique(before.channels(features)) if c and features % c == 0]
    spatial = before.spatial()
    fitting = [c for c in near if _shapes(features // c, spatial)[1] != "open"]
    far = [c for c in before.others() if features % c == 0 and c not in near]
    if before.convolves_to(features) or (not fitting and features in far):
        # Pooled: as many channels, read by nothing else, are no coincidence; or branches in one.
        fitting = [features]
    ranked = [*fitting, *near, *sorted(far, reverse=True)]
    maps = (
        FeatureMap(AXES[1 + len(sizes)], (c, *sizes))
        for c in _unique(ranked)
        for sizes in _shapes(features // c, spatial)[0]
    )
    sureness = _shapes(features // fitting[0], spatial)[1] if len(fitting) == 1 else "open"
    candidates = tuple(islice(maps, MAX_CANDIDATES))
    return Maps(candidates, sureness, tuple(near), before.is_local, before.depth, network.layout)


@dataclass(frozen=True)
class _Spatial:
    """The axes of the maps before a layer: how many, and which the kernels never look along."""

    axes: int
    flat: tuple[bool, ...]


class _Before:
    """What comes before a Dense layer: the modules around it, or the whole network."""

    def __init__(self, network: Network, layer: str) -> None:
        self.network = network
        self.place = network.place(layer)
        self.scope = network.root
        for part in layer.split(".")[:-1]:
            inner = self.scope.children.get(part)
            if inner is None or not self._comes_before(inner):
                break
            self.scope = inner

    @property
    def is_local(self) -> bool:
        """Whether the scope is only a part of the network, with convolutions of its own."""
        convolves = any(producer.kernel for producer in self.scope.producers)
        return convolves and len(self.scope.producers) < len(self.network.producers)

    @property
    def depth(self) -> int:
        """How many modules are nested in each other, down to the scope."""
        return len(self.scope.name.split(".")) if self.scope.name else 0

    @property
    def ends(self) -> tuple[int, ...]:
        """The channels that the scope ends with."""
        return self.network.ends(self.scope)

    def convolves_to(self, channels: int) -> bool:
        """Return whether the scope ends with a convolution of `channels` channels."""
        return channels in self.ends and any(
            producer.kernel and producer.channels == channels for producer in self.scope.producers
        )

    def _comes_before(self, scope: Scope) -> bool:
        """Return whether a module holds producers from which the layer can read."""
        return not self.network.ordered or scope.producers[0].at < self.place

    def channels(self, features: int) -> Iterator[int]:
        """Yield how many channels the map may have that ends the scope, likeliest first."""
        nearest = [p for p in self.scope.producers if p.at < self.place][-1:]
        if self.network.ordered:
            yield from (producer.channels for producer in nearest)
        yield from self.ends
        if features in self.network.normed:
            yield features
        for scope in self._last_scopes(self.scope):
            branches = _branches(scope)
            if len(branches) > 1 and sum(branches) == features:
                yield features
            if any(p.reads == features for p in scope.producers):
                yield features

    def others(self) -> list[int]:
        """Return every other number of channels in the network."""
        counts = {p.channels for p in self.network.producers}
        counts |= {p.reads for p in self.network.producers if p.reads is not None}
        return sorted(counts - {0})

    def spatial(self) -> _Spatial:
        """Return the axes of the maps here: those of most convolutions in the scope."""
        kernels = [p.kernel for p in self.scope.producers or self.network.producers if p.kernel]
        kernels = kernels or [p.kernel for p in self.network.producers if p.kernel]
        counts = Counter(len(kernel) for kernel in kernels if len(kernel) + 1 in AXES)
        axes = counts.most_common(1)[0][0] if counts else 2
        # A map may be 1 long where no kernel of the net ever looks along the axis.
        same = [p.kernel for p in self.network.producers if len(p.kernel) == axes]
        longest = [max((kernel[axis] for kernel in same), default=1) for axis in range(axes)]
        flat = tuple(size == 1 < max(longest) for size in longest)
        return _Spatial(axes, flat)

    def _last_scopes(self, scope: Scope) -> Iterator[Scope]:
        """Yield the modules that end a scope, and those that end them."""
        for row in scope.rows():
            if row[-1].children:
                yield row[-1]
                yield from self._last_scopes(row[-1])


def _branches(scope: Scope) -> list[int]:
    """Return the channels of each module in a scope, if they may be branches side by side."""
    inner = [s.producers[-1].channels for s in scope.children.values() if s.children]
    leaves = [p for s in scope.children.values() for p in s.producers if p.kernel]
    reads, gives = {p.reads for p in leaves}, [p.channels for p in leaves]
    return inner or (gives if len(reads) == 1 and not reads & set(gives) else [])


def _shapes(area: int, spatial: _Spatial) -> tuple[list[tuple[int, ...]], Sureness]:
    """Return the spatial sizes with `area` elements, likeliest first, and what that rests on."""
    if area == 1:
        return [(1,) * spatial.axes], "shapes"
    if spatial.axes == 1:
        return [(area,)], "shapes"
    if spatial.axes == 3:
        volumes = [(d, *plane) for d in _divisors(area) for plane in planes(area // d)]
        return sorted(volumes, key=lambda sizes: max(sizes) - min(sizes)), "open"
    found = planes(area)
    if sum(spatial.flat) == 1:
        row = (1, area) if spatial.flat[0] else (area, 1)
        return [row, *(plane for plane in found if plane != row)], "row"
    return found, "square" if found[0][0] == found[0][1] else "open"


def planes(area: int) -> list[tuple[int, ...]]:
    """Return H and W, the squarest first."""
    planes: list[tuple[int, ...]] = [(h, area // h) for h in _divisors(area)]
    return sorted(planes, key=lambda plane: (abs(plane[0] - plane[1]), plane))


def _divisors(number: int) -> list[int]:
    small = [d for d in range(1, isqrt(number) + 1) if number % d == 0]
    return sorted({*small, *(number // d for d in small)})


def _unique(items: Iterable[_T]) -> list[_T]:
    return list(dict.fromkeys(items))
