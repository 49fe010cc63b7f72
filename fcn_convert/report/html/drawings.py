"""What the pages draw, as places and sizes: histograms and maps. The templates make SVG of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, isfinite, log2, sqrt

from fcn_convert.infer.findings import Pattern
from fcn_convert.proof import LargerMap, Spread

WIDTH = 360
"""Of a histogram, in the units of its viewBox."""
AXIS, TOP, SIDE = 116, 22, 10
LEVELS = 12
"""Shades of one colour."""
GAP = 0.5
"""Between the slices of a 3-D map, in cells."""


@dataclass(frozen=True)
class Bar:
    """A bar of a histogram. kind: `within` the bound or `beyond`."""

    x: float
    y: float
    width: float
    height: float
    kind: str


@dataclass(frozen=True)
class Histogram:
    """Shares of the bound on a log axis. ticks: places of powers of ten, with the exponents."""

    bars: tuple[Bar, ...]
    ticks: tuple[tuple[float, int], ...]
    bound: float


def histogram(spread: Spread) -> Histogram:
    """Place the bars of a spread; the bound stands where the share is 1."""
    low = min(spread.lowest - 2, -10)
    high = max(spread.lowest + len(spread.counts) - 1, 0) + 2
    step = (WIDTH - 2 * SIDE) / (high - low)
    most = max(spread.counts, default=1)
    bars = [
        _bar(SIDE + (power - 1 - low) * step + 0.5, step - 1, count / most, power)
        for power, count in enumerate(spread.counts, start=spread.lowest)
        if count
    ]
    every = ceil((high - low) / log2(10) / 6)  # about six ticks
    tens = range(ceil(low / log2(10)), int(high / log2(10)) + 1)
    return Histogram(
        tuple(bars),
        tuple((_place(step, ten * log2(10) - low), ten) for ten in tens if ten % every == 0),
        _place(step, -low),
    )


def _place(step: float, powers: float) -> float:
    return round(SIDE + powers * step, 1)


def _bar(x: float, width: float, share: float, power: int) -> Bar:
    kind = "beyond" if power > 0 else "within"
    height = max(2.0, share * (AXIS - TOP))  # what is there is seen, however few
    return Bar(round(x, 1), round(AXIS - height, 1), round(width, 1), round(height, 1), kind)


@dataclass(frozen=True)
class Shade:
    """All cells of one shade, as one path. kind: `more`, `less` or `odd`, which is not finite."""

    kind: str
    opacity: float
    path: str


@dataclass(frozen=True)
class Picture:
    """A map in a viewBox of its own, where a cell is as wide as 1."""

    width: float
    height: float
    frames: tuple[tuple[float, float, float, float], ...]
    shades: tuple[Shade, ...]


def kernel_pictures(patterns: Sequence[Pattern]) -> list[Picture]:
    """Draw mean kernels on one scale, without their middles: those are always 1."""
    around = [
        abs(value)
        for pattern in patterns
        for at, value in enumerate(pattern.values)
        if at != _middle(pattern.sizes)
    ]
    scale = max(around, default=0.0) or 1.0
    return [_picture(pattern.sizes, pattern.values, scale) for pattern in patterns]


def _middle(sizes: Sequence[int]) -> int:
    at = 0
    for size in sizes:
        at = at * size + size // 2
    return at


@dataclass(frozen=True)
class MapPair:
    """One output of both layers at every cell of the larger map."""

    feature: int
    dense: Picture
    convolution: Picture


def larger_map(shown: LargerMap) -> list[MapPair]:
    """Draw the larger map's outputs, all on one scale."""
    values = [abs(v) for maps in (*shown.dense, *shown.convolution) for v in maps if isfinite(v)]
    scale = max(values, default=0.0) or 1.0
    every = zip(shown.features, shown.dense, shown.convolution, strict=True)
    return [
        MapPair(feature, *(_picture(shown.sizes, values, scale) for values in both))
        for feature, *both in every
    ]


def _picture(sizes: Sequence[int], values: Sequence[float], scale: float) -> Picture:
    """Draw a row, a map, or the slices of a 3-D map beside each other."""
    depth, height, width = (1,) * (3 - len(sizes)) + tuple(sizes)
    tall = max(1.0, width / 6) if len(sizes) == 1 else 1.0
    across = ceil(sqrt(depth))
    frames = tuple(
        (at % across * (width + GAP), at // across * (height + GAP), width, height * tall)
        for at in range(depth)
    )
    cells: dict[tuple[str, int], list[str]] = {}
    for at, value in enumerate(values):
        place, inside = divmod(at, height * width)
        row, column = divmod(inside, width)
        x, y, *_ = frames[place]
        if shade := _shade(value / scale):
            cells.setdefault(shade, []).append(f"M{x + column:g} {y + row:g}h1v{tall:g}h-1z")
    return Picture(
        max(x + wide for x, _, wide, _ in frames),
        max(y + high for _, y, _, high in frames),
        frames,
        tuple(
            Shade(kind, round(level / LEVELS, 2), "".join(paths))
            for (kind, level), paths in sorted(cells.items())
        ),
    )


def _shade(value: float) -> tuple[str, int] | None:
    """Return a value's colour and how strong it is; None where it is about 0."""
    if not isfinite(value):
        return "odd", LEVELS
    level = round(min(1.0, abs(value)) * LEVELS)
    return ("more" if value > 0 else "less", level) if level else None
