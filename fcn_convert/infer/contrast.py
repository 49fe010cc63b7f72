"""Compares a declared map with another one, by the neighbours that only one of the two has.

Weights of neighbours under the right map are alike. Those that only a wrong one has are apart on
the right one, or in other channels, and less alike. A z-score cannot tell that: most neighbours
under [512, 49, 1] are neighbours under [512, 7, 7], too.
"""

from __future__ import annotations

from fcn_convert.infer.evidence import Sample, mean_and_z, neighbours
from fcn_convert.infer.readings import Reading
from fcn_convert.infer.scores import CLEAR_Z, LESS_CLEAR
from fcn_convert.torch_library import Tensor, torch


def speaks_for(sample: Sample, other: Reading, declared: Reading) -> bool:
    """Return whether weights clearly go with a reading of another map, and not the declared one."""
    own, others = neighbours(declared), neighbours(other)
    lost, gained = _only(sample, own, others), _only(sample, others, own)
    if not lost:
        both = _both(sample, own, others, gained)
        return _is_clear(sample, gained) and not any(
            _is_weaker(sample, values, both) for values in gained.values()
        )
    reference = gained or {0: _both(sample, own, others, lost)}
    if not _is_clear(sample, reference):
        return False
    pairs = torch.cat([*reference.values()])
    # Along a short axis there are few pairs: each axis is weaker, all together clearly so.
    return all(_is_half(values, pairs) for values in lost.values()) and _is_weaker(
        sample, torch.cat([*lost.values()]), pairs
    )


Pairs = dict[int, Tensor]
"""Of the first columns of pairs, where they are, or how alike they are; by the pair's distance."""


def _only(sample: Sample, one: Pairs, other: Pairs) -> Pairs:
    """Return how alike the pairs are that one reading has and another lacks, along each axis."""
    found = {
        distance: sample.alike(distance, first & ~other.get(distance, torch.zeros_like(first)))
        for distance, first in one.items()
    }
    return {distance: values for distance, values in found.items() if values.numel()}


def _both(sample: Sample, one: Pairs, other: Pairs, distances: Pairs) -> Tensor:
    """Return how alike the pairs are that two readings have along the given axes."""
    shared = [d for d in distances if d in one and d in other]
    return torch.cat([torch.empty(0), *(sample.alike(d, one[d] & other[d]) for d in shared)])


def _is_clear(sample: Sample, pairs: Pairs) -> bool:
    """Return whether pairs are alike beyond chance."""
    values = torch.cat([torch.empty(0), *pairs.values()])
    return _beyond(sample, values, sample.chance[0]) >= CLEAR_Z


def _is_half(values: Tensor, reference: Tensor) -> bool:
    """Return whether pairs are half as alike as others, or less."""
    return float(values.mean()) <= LESS_CLEAR * float(reference.mean())


def _is_weaker(sample: Sample, values: Tensor, reference: Tensor) -> bool:
    """Return whether pairs are clearly less alike than others."""
    return (
        reference.numel() > 0
        and _is_half(values, reference)
        and -_beyond(sample, values, float(reference.mean())) >= CLEAR_Z
    )


def _beyond(sample: Sample, values: Tensor, mean: float) -> float:
    """Return by how many of its deviations the mean of values is above another one."""
    return mean_and_z(values, mean, sample.chance[1])[1]
