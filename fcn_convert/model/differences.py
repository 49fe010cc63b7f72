"""How far the answers of two networks are apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf
from typing import Any

from fcn_convert.errors import ModelError
from fcn_convert.model.values import leaves
from fcn_convert.torch_library import Tensor

RELATIVE = 1e-10
"""Largest difference that passes, of the largest output, in float64.

Another order of summing n products changes their sum by at most 2·n·u of Σ|x·w|, u = 2⁻⁵³ (Higham,
Accuracy and Stability of Numerical Algorithms, 2nd edition, section 3.1): 2·10⁻¹¹ for n = 10⁵, more
than any layer has in use. This allows for a few such layers one after the other. Values in a wrong
order change outputs by a part of themselves.
"""


@dataclass(frozen=True)
class Difference:
    """How two answers differ.

    count: numbers in each. largest: difference of two of them; infinite where one is not a
    finite number and the other not the same. scale: the largest finite number.
    """

    count: int
    largest: float
    scale: float

    @property
    def bound(self) -> float:
        """Largest difference that passes."""
        return RELATIVE * self.scale


def difference(found: Any, expected: Any) -> Difference:
    """Compare an answer with another; raises ModelError where they differ in size."""
    count, largest, scale = 0, 0.0, 0.0
    for one, other in zip(leaves(found), leaves(expected), strict=True):
        if one.numel() != other.numel():
            raise ModelError(
                f"the fully convolutional network answers with {one.numel()} numbers, the model "
                f"with {other.numel()}: expected as many at the model's own size, --input"
            )
        count += one.numel()
        largest = max(largest, apart(one.flatten(), other.flatten()))
        finite = other[other.isfinite()]
        scale = max(scale, float(finite.abs().max()) if finite.numel() else 0.0)
    return Difference(count, largest, scale)


def of_cells(answer: Any, alone: Sequence[Tensor]) -> float | None:
    """Return how far the cells of one sample's maps are from what was answered to each alone.

    alone: per answer, (cells, numbers), cells by rows. None where there are not as many.
    """
    largest = 0.0
    for maps, wanted in zip(leaves(answer), alone, strict=True):
        if maps.numel() != wanted.numel():
            return None
        largest = max(largest, apart(maps.reshape(-1, len(wanted)).T, wanted))
    return largest


def apart(found: Tensor, expected: Tensor) -> float:
    """Return the largest difference of two tensors of one shape, in float64.

    Infinite where a number is not finite in one of them, and not of the same kind in the other.
    """
    found, expected = found.double(), expected.double()
    same = (found == expected) | (found.isnan() & expected.isnan())
    differ = (found - expected).abs()[~same]
    if not differ.numel():
        return 0.0
    return float(differ.max()) if bool(differ.isfinite().all()) else inf
