"""What trained weights say of the map they read: those of neighbouring places are alike.

A trained Dense layer looks at one channel in neighbouring places in much the same way, and at two
channels in ways of their own. Two signs of that, in the weights of every two neighbours under a map
and a flatten order: they correlate over the output features, and they are about as strong, so that
the ranks of their norms correlate. All pairs of columns give the mean by chance, and some drawn
at random the spread, and so a z-score; the two are put together by Stouffer's method. Weights
that nothing was learnt into have none beyond chance under any reading.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from math import prod, sqrt

from fcn_convert.formats import Checkpoint
from fcn_convert.formats.strided import read_tensor, strides_of
from fcn_convert.infer.readings import Reading
from fcn_convert.infer.scores import Evidence, Score
from fcn_convert.tensors import TensorInfo
from fcn_convert.torch_library import Tensor, torch

SAMPLE_ELEMENTS = 1 << 19
"""Weights of one layer that are looked at, in whole rows."""
MIN_ROWS, MAX_ROWS = 16, 256
MAX_FEATURES = 1 << 19
"""Inputs of a layer that is looked at."""
FEWEST_ROWS = 4
RANDOM_PAIRS = 1 << 13
NEGLIGIBLE = 1e-3
"""A column this small against the typical one is a dead channel's."""
PATTERN_SIZE = 32
"""Places along one axis of a pattern; of a larger map, those around its middle."""


class Sample:
    """Some rows of a Dense weight, made comparable: every row and column counts the same.

    columns: (rows, features_in), each column of mean 0 and norm 1, so that the product of two,
    summed, is their correlation; columns of zeros where nothing can be said.
    strengths: (features_in,), the ranks of the columns' norms, of mean 0 and deviation 1.
    """

    def __init__(self, weight: Tensor) -> None:
        values = weight.to(torch.float64)
        values = values[values.isfinite().all(1)]
        values = values if len(values) >= FEWEST_ROWS else torch.zeros_like(weight[:1]).double()
        values = values / values.abs().amax(1, keepdim=True).clamp(min=_TINY)
        values = values - values.mean(1, keepdim=True)
        values = values / values.norm(dim=1, keepdim=True).clamp(min=_TINY)
        values = values - values.mean(0)
        norms = values.norm(dim=0)
        self.rows = values.shape[0]
        self.alive = norms > NEGLIGIBLE * (norms.median() if norms.numel() else 0)
        self.columns = (values / norms.clamp(min=_TINY) * self.alive).to(torch.float32)
        ranks = _ranks(norms)
        spread = ranks.std(correction=0).clamp(min=_TINY)
        self.strengths = ((ranks - ranks.mean()) / spread).to(torch.float32)

        self._alike: dict[int, tuple[Tensor, Tensor]] = {}

    @cached_property
    def chance(self) -> tuple[float, float]:
        """The mean and the deviation of the correlation of two columns by chance."""
        features, count = self.columns.shape[1], int(self.alive.sum())
        if count < 2:
            return 0.0, 0.0
        # Of all pairs: that of a sample would be off by more than the mean of as many neighbours.
        total = self.columns.sum(1, dtype=torch.float64)
        mean = (float(total @ total) - count) / (count * (count - 1))
        seed = torch.Generator().manual_seed(0)
        one = torch.randint(features, (RANDOM_PAIRS,), generator=seed)
        other = (one + torch.randint(1, features, (RANDOM_PAIRS,), generator=seed)) % features
        products = torch.einsum("rp,rp->p", self.columns[:, one], self.columns[:, other])
        found = products[self.alive[one] & self.alive[other]]
        return (mean, float(found.std())) if found.numel() > 1 else (0.0, 0.0)

    def score(self, reading: Reading) -> Score:
        """Return how alike neighbours are under a reading."""
        weights, norms = [], []
        for distance, first in neighbours(reading).items():
            weights.append(self.alike(distance, first))
            norms.append(_products(self.strengths[None], distance)[first[:-distance]])
        together, together_z = mean_and_z(torch.cat(weights), *self.chance)
        as_strong, as_strong_z = mean_and_z(torch.cat(norms), 0.0, 1.0)
        return Score(reading, together, as_strong, together_z, as_strong_z)

    def alike(self, distance: int, first: Tensor) -> Tensor:
        """Return how each of some columns correlates with the one `distance` after it.

        first: (features_in,), whether it is one of them; pairs with a dead one are left out.
        """
        if distance not in self._alike:
            both = self.alive[:-distance] & self.alive[distance:]
            self._alike[distance] = _products(self.columns, distance), both
        products, both = self._alike[distance]
        return products[first[:-distance] & both]

    def pattern(self, reading: Reading) -> tuple[tuple[int, ...], list[float]]:
        """Return how each place of a map goes with the middle one, over all kernels.

        It is the mean kernel, each signed and weighted by its middle: smooth around it where the
        reading is right. Sizes of the map, or of what is around its middle, and the values.
        """
        fmap = reading.feature_map
        columns = self.columns.view(self.rows, *reading.sizes)
        columns = columns.permute(0, *(1 + reading.flatten.index(axis) for axis in fmap.axes))
        middle = columns[(..., *(slice(size // 2, size // 2 + 1) for size in fmap.kernel))]
        for axis, size in enumerate(fmap.kernel, start=2):
            kept = min(size, PATTERN_SIZE if len(fmap.kernel) < 3 else PATTERN_SIZE // 2)
            columns = columns.narrow(axis, (size - kept) // 2, kept)
        values = (columns * middle).sum(0).mean(0)
        return tuple(values.shape), [round(float(value), 4) for value in values.flatten()]


_TINY = 1e-300


def neighbours(reading: Reading) -> dict[int, Tensor]:
    """Return which elements of the vector have a neighbour after them, by its distance."""
    found = {}
    for axis, (name, size) in enumerate(zip(reading.flatten, reading.sizes, strict=True)):
        if name != "C" and size > 1:
            first = torch.ones(reading.sizes, dtype=torch.bool)
            first.select(axis, size - 1).fill_(False)
            found[prod(reading.sizes[axis + 1 :])] = first.flatten()
    return found


def _products(columns: Tensor, distance: int) -> Tensor:
    """Return the product of each column and the one `distance` after it."""
    last = columns.shape[1] - distance
    return torch.einsum("rc,rc->c", columns[:, :last], columns[:, distance:])


def _ranks(values: Tensor) -> Tensor:
    """Return the ranks of values, equal ones sharing their middle."""
    ordered = values.sort().values.contiguous()
    first, after = (torch.searchsorted(ordered, values, right=right) for right in (False, True))
    return (first + after).to(torch.float64) / 2


def mean_and_z(values: Tensor, mean: float, deviation: float) -> tuple[float, float]:
    """Return the mean of values, and by how many of its deviations it is beyond chance."""
    if not values.numel() or not deviation:
        return 0.0, 0.0
    found = float(values.mean())
    return found, (found - mean) / deviation * sqrt(values.numel())


def weigh(samples: Sequence[Sample], readings: Sequence[Reading]) -> Evidence:
    """Rank the readings of one map by how well they go with all layers that read it."""
    scores = [
        _together([sample.score(reading) for sample in samples])
        for reading in readings
        if reading.is_spatial
    ]
    rows = sum(sample.rows for sample in samples)
    return Evidence(rows, tuple(sorted(scores, key=lambda score: -score.z)))


def _together(scores: Sequence[Score]) -> Score:
    """Put the scores of one reading by several layers together, by Stouffer's method."""
    count = len(scores)
    return Score(
        scores[0].reading,
        sum(score.weights for score in scores) / count,
        sum(score.strengths for score in scores) / count,
        sum(score.weights_z for score in scores) / sqrt(count),
        sum(score.strengths_z for score in scores) / sqrt(count),
    )


def why_not(weight: TensorInfo) -> str:
    """Return why nothing can be said of a weight; empty where it can."""
    rows, features = weight.shape
    if weight.dtype.torch is None or weight.dtype.name in {"BOOL", "C64", "F8_E8M0"}:
        return f"{weight.dtype.name} weights are not looked at"
    if rows < FEWEST_ROWS:
        return f"{rows} output features are too few"
    return "" if features <= MAX_FEATURES else f"{features} input features are too many"


def read_sample(checkpoint: Checkpoint, weight: TensorInfo) -> Sample:
    """Read evenly spaced rows of a Dense weight (features_out, features_in)."""
    features_out, features_in = weight.shape
    rows = min(features_out, max(MIN_ROWS, min(SAMPLE_ELEMENTS // max(features_in, 1), MAX_ROWS)))
    across, along = strides_of(weight)
    step = features_out // rows
    part = replace(weight, shape=(rows, features_in), strides=(step * across, along))
    return Sample(read_tensor(checkpoint.files[weight.file], part))
