"""Dense layers put into heads: which read a map, and which read those."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import takewhile

from fcn_convert.infer.heads import DenseLayers, masked
from fcn_convert.infer.maps import Maps, candidate_maps
from fcn_convert.infer.network import Network
from fcn_convert.spec import MAX_DENSE
from fcn_convert.tensors import parent


@dataclass(frozen=True)
class Chain:
    """One head: Dense layers in forward order, and the maps that the first of them may read.

    layers: all of them. first: those that read the map; several where it is read by branches.
    """

    layers: tuple[str, ...]
    first: tuple[str, ...]
    maps: Maps


def find_chains(network: Network, dense: DenseLayers) -> tuple[list[Chain], dict[str, str]]:
    """Return the heads, and the layers for which it is unclear what they read, with the reason."""
    if not any(producer.kernel for producer in network.producers):
        return [], dict.fromkeys(dense.heads, "the file has no convolution that gives it a map")
    if len(dense.heads) > MAX_DENSE:  # each of them is compared with all others
        return [], dict.fromkeys(dense.heads, f"there are over {MAX_DENSE} such layers")
    followers: dict[str, list[str]] = {}
    roots: dict[str, Maps] = {}
    unclear: dict[str, str] = {}
    before = _Before(network, dense)
    for name in dense.heads:
        features = network.dense[name].shape[1]
        maps = candidate_maps(network, name)
        read = None if maps.sureness == "stated" else before.read_by(name, maps)
        if read is not None:
            followers.setdefault(read, []).append(name)
        elif maps.candidates:
            roots[name] = maps
        else:
            unclear[name] = f"its {features} inputs are not a multiple of the channels of any map"
    circles = set(dense.heads) - unclear.keys() - set(_reached(roots, followers))
    unclear |= dict.fromkeys(circles, "layers read each other in a circle, as far as shapes tell")
    return _chains(roots, followers), unclear


class _Before:
    """Which Dense layer comes before another one, by its output features."""

    def __init__(self, network: Network, dense: DenseLayers) -> None:
        self.network = network
        self.giving: dict[int, list[str]] = {}
        self.beside: dict[tuple[str, int], list[str]] = {}
        for name in dense.heads:
            features = network.dense[name].shape[0]
            self.giving.setdefault(features, []).append(name)
            self.beside.setdefault((parent(name), features), []).append(name)

    def read_by(self, name: str, maps: Maps) -> str | None:
        """Return the layer which a layer reads, or None where it reads a map, or nothing known."""
        features = self.network.dense[name].shape[1]
        place = self.network.place(name)
        beside = self.beside.get((parent(name), features), [])
        earlier = [other for other in beside if self.network.place(other) < place]
        if earlier:
            return earlier[-1]
        # Elsewhere, a sorted file does not tell what comes first.
        others = [
            other
            for other in self.giving.get(features, [])
            if other != name
            and parent(other) != parent(name)
            and (not self.network.ordered or self.network.place(other) < place)
        ]
        if not others:
            return None
        nearest = max(others, key=lambda other: (_shared(name, other), self.network.place(other)))
        # A map from within the module that holds both layers is nearer than either to the other.
        has_a_map = _has_a_map_of_its_own(maps) and _shared(name, nearest) <= maps.depth
        follows = not maps.is_local and self._follows(nearest, name)
        return None if has_a_map and not follows else nearest

    def _follows(self, name: str, after: str) -> bool:
        """Return whether a layer comes right after another one, which reads what it cannot read.

        Then a pooled map as wide as its inputs would have to be read beside a flattened one.
        """
        walk = list(self.network.dense)
        is_next = walk.index(name) + 1 == walk.index(after)
        is_row = self.network.ordered or masked(name) == masked(after)
        widths = (self.network.dense[each].shape[1] for each in (name, after))
        return is_next and is_row and len(set(widths)) == 2


def _has_a_map_of_its_own(maps: Maps) -> bool:
    """Return whether shapes give a layer a pooled map, or one of convolutions beside it."""
    fmap = maps.likeliest
    return fmap is not None and (fmap.features == fmap.channels or maps.is_local)


def _shared(one: str, other: str) -> int:
    """Count the modules around both of two layers."""
    pairs = zip(one.split(".")[:-1], other.split(".")[:-1], strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))


def _reached(roots: Mapping[str, Maps], followers: Mapping[str, list[str]]) -> Iterator[str]:
    for root in roots:
        yield from _line(root, followers)


def _line(root: str, followers: Mapping[str, list[str]]) -> list[str]:
    """Return a layer and all that read it, or those that do, in forward order."""
    line = [root]
    for name in line:  # grows while it is walked
        line += followers.get(name, [])
    return line


def _chains(roots: Mapping[str, Maps], followers: Mapping[str, list[str]]) -> list[Chain]:
    """Put together the branches that read the same map."""
    heads: dict[Maps, list[str]] = {}
    for root, maps in roots.items():
        heads.setdefault(maps, []).append(root)
    return [
        Chain(
            tuple(name for root in branches for name in _line(root, followers)),
            tuple(branches),
            maps,
        )
        for maps, branches in heads.items()
    ]
