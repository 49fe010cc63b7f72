"""What was checked and what came of it: the verdict as data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args

Level = Literal["shapes", "bytes", "activations"]
LEVELS: tuple[Level, ...] = get_args(Level)
"""Each level includes the ones before it."""


@dataclass(frozen=True)
class Check:
    """One thing compared with the original.

    passed: None where it could not be computed. problem: a sentence, empty where it passed.
    values: what was measured, by name.
    """

    name: Level
    passed: bool | None
    problem: str = ""
    values: Mapping[str, float | int | str | None] = field(default_factory=dict)


@dataclass(frozen=True)
class Spread:
    """How far apart outputs are, each as a share of its own bound.

    equal: outputs that are not apart at all. counts: the others, by powers of two: the first ones
    have shares up to 2^lowest, the next up to twice that; those above 2^0 are beyond their bound.
    """

    equal: int
    lowest: int
    counts: tuple[int, ...]


@dataclass(frozen=True)
class LargerMap:
    """Answers on the larger map: the Dense layer's to every window, and the convolution's.

    sizes: cells by spatial axis. features: the outputs shown, those with the cell furthest apart
    first. dense, convolution: a map for each of them, row-major, of six digits.
    """

    sizes: tuple[int, ...]
    features: tuple[int, ...]
    dense: tuple[tuple[float, ...], ...]
    convolution: tuple[tuple[float, ...], ...]


@dataclass(frozen=True, kw_only=True)
class AnswersCheck(Check):
    """A check of what two layers answer, with what can be drawn of it."""

    spread: Spread
    larger_map: LargerMap


@dataclass(frozen=True)
class Proof:
    """All checks: those of each tensor by its name in the original, and those of the whole file.

    read, written: sha256 of the original's files and of the output's; empty below the level
    `bytes`.
    """

    level: Level
    checks: Mapping[str, tuple[Check, ...]]
    whole: tuple[Check, ...]
    read: tuple[str, ...] = ()
    written: tuple[str, ...] = ()

    @property
    def problems(self) -> tuple[str, ...]:
        """What does not hold, a sentence each."""
        every = (*self.whole, *(check for checks in self.checks.values() for check in checks))
        return tuple(check.problem for check in every if check.passed is False)

    @property
    def shapes_agree(self) -> bool:
        """Whether the output has every tensor, and in its shape."""
        every = (*self.whole, *(check for checks in self.checks.values() for check in checks))
        return not any(check.name == "shapes" and check.passed is False for check in every)
