"""What the report's pictures show of a comparison: a few numbers, whatever the layer's size."""

from __future__ import annotations

from heapq import nlargest
from operator import itemgetter

from fcn_convert.activations.inputs import MAPS, Inputs
from fcn_convert.proof import LargerMap, Spread
from fcn_convert.torch_quietly import Tensor, torch

POWERS = 64
"""Powers of two below and above the bound that are told apart."""
SHOWN_FEATURES = 6
DIGITS = 6


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
    """Keeps the features of which a cell of the larger map is the furthest apart."""

    def __init__(self) -> None:
        self._seen = 0
        self._kept: list[tuple[float, int]] = []

    def add(self, shares: Tensor) -> None:
        """Look at the next features: shares of the bound, (windows, features)."""
        worst = shares.nan_to_num(0.0).amax(0)
        largest, at = worst.topk(min(SHOWN_FEATURES, len(worst)))
        found = zip(largest.tolist(), (at + self._seen).tolist(), strict=True)
        self._kept = nlargest(SHOWN_FEATURES, [*self._kept, *found], key=itemgetter(0))
        self._seen += shares.shape[1]

    def larger_map(self, inputs: Inputs, dense: Tensor, convolution: Tensor) -> LargerMap:
        """Return both answers, (vectors, parts, features), of what was kept."""
        native, larger = (maps.shape[2:] for maps in inputs.maps)
        columns = [column for _, column in self._kept]
        return LargerMap(
            sizes=tuple(more - size + 1 for size, more in zip(native, larger, strict=True)),
            features=tuple(column % dense.shape[2] for column in columns),
            dense=_maps(dense, columns),
            convolution=_maps(convolution, columns),
        )


def _maps(answers: Tensor, columns: list[int]) -> tuple[tuple[float, ...], ...]:
    chosen = answers[MAPS:].flatten(1)[:, columns]  # (windows, parts · features)
    return tuple(tuple(float(f"{v:.{DIGITS}g}") for v in column) for column in chosen.T.tolist())
