"""What the inputs of a Dense layer can stand for: a map and the order in which it was flattened."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from fcn_convert.spec import FeatureMap

MAX_READINGS = 64
"""Readings that are compared with the weights of one layer."""

_ORDERS = {
    "CL": ("CL", "LC"),
    "CHW": ("CHW", "HWC", "WHC", "HCW", "CWH", "WCH"),
    "CDHW": ("CDHW", "DHWC", "DCHW", "DHCW"),
}
"""Orders by the axes of the map, the usual ones first; of 3-D ones only those seen in use."""


@dataclass(frozen=True)
class Reading:
    """A map and its flatten order, the slowest axis first."""

    feature_map: FeatureMap
    flatten: str

    @property
    def sizes(self) -> tuple[int, ...]:
        """The map's sizes in the order of the flattened vector."""
        sizes = dict(zip(self.feature_map.axes, self.feature_map.sizes, strict=True))
        return tuple(sizes[axis] for axis in self.flatten)

    @property
    def structure(self) -> tuple[tuple[bool, int], ...]:
        """Where channels and places lie: the same for readings that no weight can tell apart.

        A swap of H and W is one such: both keep neighbours together.
        """
        axes = zip(self.flatten, self.sizes, strict=True)
        return tuple((axis == "C", size) for axis, size in axes if size > 1)

    @property
    def places(self) -> str:
        """The axes in order, without those of size 1."""
        return "".join(a for a, size in zip(self.flatten, self.sizes, strict=True) if size > 1)

    @property
    def is_spatial(self) -> bool:
        """Whether the map has neighbours at all."""
        return self.feature_map.features > self.feature_map.channels

    def __str__(self) -> str:
        return f"{self.feature_map} {self.flatten}"


def readings(maps: Iterable[FeatureMap]) -> list[Reading]:
    """Return the readings of the candidate maps that weights can tell apart, likeliest first."""
    found: dict[tuple[tuple[bool, int], ...], Reading] = {}
    for reading in _every(list(maps)):
        found.setdefault(reading.structure, reading)
    return list(found.values())[:MAX_READINGS]


def _every(maps: list[FeatureMap]) -> Iterator[Reading]:
    longest = max((len(_ORDERS[fmap.axes]) for fmap in maps), default=0)
    for rank in range(longest):
        for fmap in maps:
            if rank < len(_ORDERS[fmap.axes]):
                yield Reading(fmap, _ORDERS[fmap.axes][rank])


def alike(reading: Reading, maps: Iterable[FeatureMap]) -> list[Reading]:
    """Return the readings that weights cannot tell from this one, of the same or another map.

    Of those that are one and the same, as where W is 1 and its place does not matter, the first.
    """
    same = (other for other in _every(list(maps)) if other.structure == reading.structure)
    return list({(r.feature_map, r.places): r for r in reversed(list(same))}.values())[::-1]
