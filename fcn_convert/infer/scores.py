"""How well readings go with the weights, as numbers: what `evidence.py` finds with torch."""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt

from fcn_convert.infer.readings import Reading

CLEAR_Z = 6.0
"""Deviations beyond chance that count, for the best of up to 64 readings."""
LESS_CLEAR = 0.5
"""A reading with this part of another one's z-score, or less, is clearly the worse."""


@dataclass(frozen=True)
class Score:
    """How well a reading goes with the weights.

    weights, strengths: mean correlation of neighbouring places, from -1 to 1, of their weights
    and of the ranks of their norms. weights_z, strengths_z: in deviations of what chance gives.
    """

    reading: Reading
    weights: float
    strengths: float
    weights_z: float
    strengths_z: float

    @property
    def z(self) -> float:
        """Both together."""
        return (self.weights_z + self.strengths_z) / sqrt(2)


@dataclass(frozen=True)
class Evidence:
    """The readings of the map that one layer or several read, best first, from `rows` rows."""

    rows: int
    scores: tuple[Score, ...]

    @property
    def best(self) -> Score | None:
        """The best reading, if weights go with any beyond chance."""
        best = self.scores[0] if self.scores else None
        return best if best and best.z >= CLEAR_Z else None

    def score(self, reading: Reading) -> Score | None:
        """Return the score of a reading, or of one that the weights cannot tell from it."""
        same = (s for s in self.scores if s.reading.structure == reading.structure)
        return next(same, None)

    def contradicts(self, reading: Reading) -> bool:
        """Return whether the weights clearly go with another reading."""
        best, declared = self.best, self.score(reading)
        if best is None:
            return False
        if declared is None:
            # A pooled map has no neighbours. Branches put together can make its strengths look so.
            return not reading.is_spatial and best.weights_z >= CLEAR_Z
        return declared.z <= LESS_CLEAR * best.z
