"""What the report's pictures show of a comparison: a few numbers, whatever the layer's size."""

from __future__ import annotations

from heapq import nlargest
from operator import itemgetter

from fcn_convert.activations.inputs import MAPS
from fcn_convert.proof import LargerMap, Spread
from fcn_convert.torch_library import Tensor, torch

POWERS = 64
"""Powers of two below and above the bound that are distinguished."""
SHOWN_FEATURES = 6
DIGITS = 6

Answer = tuple[float, ...]


class SpreadCounter:
    """Counts differences by the power of two of their share of the bound."""

    def __init__(self) -> None:
        self._equal = 0
        self._counts = torch.zeros(2 * POWERS + 1, dtype=torch.int64)

    def add(self, apart: Tensor, bound: Tensor) -> None:
        """Count differences, each with its own bound."""
        differs = apart > 0
        self._equal += apart.numel() - int(differs.sum())
        shares = (apart[differs] / bound[differs]).nan_to_num(0.0)  # where both are infinite
        fraction, power = torch.frexp(shares.clamp(2.0**-POWERS, 2.0**POWERS))
        power = power - (fraction == 0.5).to(power.dtype)  # a share of 1 is within the bound
        self._counts += torch.bincount(power + POWERS, minlength=len(self._counts))

    def spread(self) -> Spread:
        """Return the counts from the first power to the last that has any."""
        counts = self._counts.tolist()
        powers = [at for at, count in enumerate(counts) if count]
        if not powers:
            return Spread(self._equal, 0, ())
        first, last = powers[0], powers[-1]
        return Spread(self._equal, first - POWERS, tuple(counts[first : last + 1]))


class FurthestFeatures:
    """Keeps both answers of the features that are the furthest apart in a cell of the larger map.

    cells: of the larger map's answer, by spatial axis.
    """

    def __init__(self, cells: tuple[int, ...]) -> None:
        self._cells = cells
        self._seen = 0
        self._kept: list[tuple[float, int, Answer, Answer]] = []

    def add(self, shares: Tensor, dense: Tensor, convolution: Tensor) -> None:
        """Look at the next features: answers, (vectors, parts, features), and shares of the bound.

        shares: of the windows' answers alone, (windows, parts, features).
        """
        worst = shares.nan_to_num(0.0).amax(0)
        largest, at = worst.flatten().topk(min(SHOWN_FEATURES, worst.numel()))
        features = worst.shape[1]
        found = [
            (share, self._seen + place % features, _drawn(dense, place), _drawn(convolution, place))
            for share, place in zip(largest.tolist(), at.tolist(), strict=True)
        ]
        self._kept = nlargest(SHOWN_FEATURES, [*self._kept, *found], key=itemgetter(0))
        self._seen += features

    def larger_map(self) -> LargerMap:
        """Return both answers of what was kept."""
        return LargerMap(
            sizes=self._cells,
            features=tuple(feature for _, feature, _, _ in self._kept),
            dense=tuple(dense for _, _, dense, _ in self._kept),
            convolution=tuple(convolution for _, _, _, convolution in self._kept),
        )


def _drawn(answers: Tensor, place: int) -> Answer:
    windows = answers[MAPS:].flatten(1)[:, place]
    return tuple(float(f"{value:.{DIGITS}g}") for value in windows.tolist())
