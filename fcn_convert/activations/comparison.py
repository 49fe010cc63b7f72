"""Compares what a convolution answers with what the Dense layer does.

In float64, where rounding is bounded: two ways of summing n products differ by at most
2·g·Σ|x·w| with g = n·u / (1 - n·u) and u = 2⁻⁵³ (Higham, Accuracy and Stability of Numerical
Algorithms, 2nd edition, section 3.1), and Σ|x·w| is by Hölder at most max|x|·Σ|w|, where no square
can over- or underflow. Each term may lose as much again as the smallest normal number where it
underflows (section 2.1). That bound, per output, is the gate.
"""

from __future__ import annotations

from fcn_convert.activations.answers import ConvolutionAnswers, DenseAnswers
from fcn_convert.activations.drawn import FurthestFeatures, SpreadCounter
from fcn_convert.activations.inputs import LARGEST, MAPS, Inputs
from fcn_convert.proof import AnswersCheck
from fcn_convert.torch_library import Tensor, torch

UNIT_ROUNDOFF = 2.0**-53
SMALLEST_NORMAL = 2.0**-1022


class Comparison:
    """The differences between all answers of two layers, some output features at a time."""

    def __init__(self, inputs: Inputs, features_in: int) -> None:
        terms = features_in + 1  # the bias is one more, of 1 and itself
        self._gamma = terms * UNIT_ROUNDOFF / (1 - terms * UNIT_ROUNDOFF)
        self._underflow = terms * SMALLEST_NORMAL
        self._largest = [0.0, 0.0]
        self._bound = 0.0
        self._compared = self._beyond = self._unlike = 0
        self._spread, self._furthest = SpreadCounter(), FurthestFeatures(inputs.cells)
        self._narrow: float | None = 0.0

    def add(self, dense: DenseAnswers, convolution: ConvolutionAnswers) -> None:
        """Compare what both answer for the next output features."""
        expected, found = dense.wide.flatten(1), convolution.wide.flatten(1)
        bound = 2 * (self._gamma * LARGEST * dense.sums.flatten() + self._underflow)
        bound = bound.expand(expected.shape)
        apart, alike = _apart(expected, found)
        finite = alike & expected.isfinite()
        self._unlike += int((~alike).sum())
        self._beyond += int((~alike | (finite & (apart > bound))).sum())
        self._compared += expected.numel()
        for kind, rows in enumerate((slice(None, MAPS), slice(MAPS, None))):
            self._largest[kind] = max(self._largest[kind], _greatest(apart[rows][finite[rows]]))
        self._bound = max(self._bound, _greatest(bound[finite]))
        self._spread.add(apart[finite], bound[finite])
        shares = torch.where(alike, apart / bound, torch.inf)[MAPS:]
        self._furthest.add(shares.view(-1, *dense.wide.shape[1:]), dense.wide, convolution.wide)
        if self._narrow is not None:
            narrow = _narrow_difference(dense.narrow, convolution.narrow)
            self._narrow = None if narrow is None else max(narrow, self._narrow)

    def check(self, name: str) -> AnswersCheck:
        """Sum up: passed where every output lies within its bound."""
        problem = (
            f"{name}: {self._beyond} of {self._compared} outputs differ from the Dense layer's by "
            f"more than rounding: by up to {max(self._largest):.3g}; at most {self._bound:.3g} is "
            "allowed"
            if self._beyond
            else ""
        )
        if self._unlike:
            problem += f"; {self._unlike} are not finite in one of the two, or not in the same way"
        values = {
            "max_abs_diff": self._largest[0],
            "larger_map_max_abs_diff": self._largest[1],
            "bound": self._bound,
            "outputs": self._compared,
            "stored_dtype_max_abs_diff": "not computed" if self._narrow is None else self._narrow,
        }
        return AnswersCheck(
            "activations",
            not self._beyond,
            problem,
            values,
            spread=self._spread.spread(),
            larger_map=self._furthest.larger_map(),
        )


def _narrow_difference(expected: Tensor | None, found: Tensor | None) -> float | None:
    """Compare in the stored dtype, as an indication: its rounding is this CPU's kernels'."""
    if expected is None or found is None:
        return None
    try:
        apart, alike = _apart(expected, found)
        return _greatest(apart[alike & expected.isfinite()].to(torch.float64))
    except (RuntimeError, NotImplementedError):  # torch has no kernel for the dtype
        return None


def _apart(expected: Tensor, found: Tensor) -> tuple[Tensor, Tensor]:
    """Return absolute differences, and where values are of one kind: finite, infinite or NaN."""
    same_kind = (expected == found) | (expected.isnan() & found.isnan())
    alike = (expected.isfinite() & found.isfinite()) | same_kind
    return (expected - found).abs(), alike


def _greatest(values: Tensor) -> float:
    values = values[values.isfinite()]  # a difference can overflow where its values do not
    return float(values.max()) if values.numel() else 0.0
