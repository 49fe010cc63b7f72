"""What trained weights say of a spec, as data for the report; nothing here is computed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from fcn_convert.layers import DenseLayer, Resolved

Outcome = Literal["supports", "contradicts", "says nothing", "not computed"]


@dataclass(frozen=True)
class Pattern:
    """The mean kernel, each signed by its middle: how every place goes with the middle one.

    sizes: of the map, or of what is around its middle. values: from -1 to 1, row-major.
    """

    sizes: tuple[int, ...]
    values: tuple[float, ...]


@dataclass(frozen=True)
class ReadingFound:
    """A flatten order, and how well the weights go with it.

    weights, strengths: mean correlation of neighbouring places, of their weights and of the ranks
    of their norms. z: both, in deviations of what chance gives. pattern: of the best two only.
    feature_map: its sizes where it is not the declared one, else empty.
    """

    flatten: str
    declared: bool
    z: float
    weights: float
    strengths: float
    pattern: Pattern | None
    feature_map: tuple[int, ...] = ()


@dataclass(frozen=True)
class Finding:
    """What the weights of one layer say of the order in which its map was flattened.

    reason: a sentence; empty where the weights support the spec. rows: of the weight, looked at.
    readings: the orders that weights tell apart, the best first.
    """

    layer: str
    outcome: Outcome
    reason: str
    rows: int
    readings: tuple[ReadingFound, ...]


def read_maps(resolved: Resolved) -> Iterator[DenseLayer]:
    """Yield the layers that read a map of several places, about which weights can say something."""
    for layer in resolved.layers:
        if layer.reads == "map" and max(layer.kernel) > 1:
            yield layer


def not_computed(layer: str, reason: str) -> Finding:
    """Return that nothing was looked at, and why."""
    return Finding(layer, "not computed", reason, 0, ())


def warnings_of(findings: Iterable[Finding]) -> tuple[str, ...]:
    """Return the sentences that a user should see."""
    return tuple(finding.reason for finding in findings if finding.outcome == "contradicts")
