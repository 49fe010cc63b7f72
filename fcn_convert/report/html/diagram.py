"""The head before and after, as boxes and arrows with shapes; the templates make SVG of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Literal

from fcn_convert.report import LayerEntry
from fcn_convert.report.words import shape
from fcn_convert.tensors import times

BEFORE, AFTER = 0, 188
"""Where the two columns begin, in the units of the viewBox, which is as wide as a telephone."""
BOX, ARROW, FIRST = 54, 36, 24
GLYPH = 28
"""Side of the small picture in a box."""
LINES = 7
"""Cells of a map or of a kernel that such a picture shows along an axis, at most."""
LONGEST = 21
"""Characters of a name that fit into a box."""


@dataclass(frozen=True)
class Box:
    """A map or a layer. title: its name in full. cells: of its picture, rows and columns."""

    kind: Literal["map", "dense", "convolution"]
    x: float
    y: float
    title: str
    name: str
    detail: str
    size: str
    cells: tuple[tuple[float, float, float], ...] = ()


@dataclass(frozen=True)
class Arrow:
    """What passes from one box to the next. starts: it comes from further above."""

    x: float
    y: float
    text: str
    starts: bool = False


@dataclass(frozen=True)
class Diagram:
    """Both heads side by side, row by row."""

    height: float
    boxes: tuple[Box, ...]
    arrows: tuple[Arrow, ...]


def diagram(feature_map: Mapping[str, int], flatten: str, layers: Sequence[LayerEntry]) -> Diagram:
    """Lay out a head: its map, and its layers in the spec's order.

    A layer follows the one before it where it reads as many features as that one gives; else its
    arrow starts anew, from the map or from a layer further above.
    """
    channels, *spatial = feature_map.values()
    axes = list(feature_map)[1:]
    larger = " × ".join(axes)
    after = " × ".join(_less(a, n - 1) for a, n in zip(axes, spatial, strict=True))
    whole = " × ".join(map(str, feature_map.values()))
    boxes = [
        Box("map", BEFORE, FIRST, "", "feature map", whole, "one size", _cells(spatial)),
        Box(
            *("map", AFTER, FIRST, "", "feature map", f"{channels} × {larger}"),
            *("any size from there up", _cells(spatial)),
        ),
    ]
    arrows: list[Arrow] = []
    y, given = FIRST + BOX, None
    for layer in layers:
        features_out, features_in = layer.old_shape
        maps = layer.reads == "map"
        follows = given is None if maps else given == features_in
        if given is not None and not follows:
            arrows += _both(y, f"{given} values", f"{given} × {after}")
            y += ARROW + 8
        flat = f"flatten {', '.join(flatten)}: {prod(feature_map.values())}"
        texts = (
            (flat, "stays a map") if maps else (f"{features_in} values", f"{features_in} × {after}")
        )
        arrows += _both(y, *texts, starts=not follows)
        y += ARROW
        boxes += _layer(layer, y)
        y, given = y + BOX, features_out
    arrows += _both(y, f"{given} answers", f"{given} × {after} answers")
    return Diagram(y + ARROW, tuple(boxes), tuple(arrows))


def _both(y: float, before: str, after: str, *, starts: bool = False) -> list[Arrow]:
    return [Arrow(BEFORE, y, before, starts), Arrow(AFTER, y, after, starts)]


def _layer(layer: LayerEntry, y: float) -> list[Box]:
    kernel = times(layer.kernel)
    convolution = f"Conv{len(layer.kernel)}d, kernel {kernel}"
    old, new = layer.name, layer.new_name
    return [
        Box("dense", BEFORE, y, old, cut(old), "Linear", shape(layer.old_shape)),
        Box(
            *("convolution", AFTER, y, new, cut(new), convolution),
            *(shape(layer.new_shape), _cells(layer.kernel)),
        ),
    ]


def _less(axis: str, places: int) -> str:
    return f"{axis}−{places}" if places else axis  # noqa: RUF001 - a minus, not a hyphen


def cut(name: str) -> str:
    """Shorten a long name in its middle: both of its ends distinguish it from others."""
    if len(name) <= LONGEST:
        return name
    head = LONGEST // 3
    return f"{name[:head]}…{name[head + 1 - LONGEST :]}"


def _cells(sizes: Sequence[int]) -> tuple[tuple[float, float, float], ...]:
    """Return places and sides of the cells that stand for a map's or a kernel's last two axes."""
    rows, columns = (min(size, LINES) for size in (1, *sizes)[-2:])
    side = min(GLYPH / max(rows, columns), GLYPH / 3)
    left, top = (GLYPH - columns * side) / 2, (GLYPH - rows * side) / 2
    return tuple(
        (round(left + column * side, 2), round(top + row * side, 2), round(side - 0.6, 2))
        for row in range(rows)
        for column in range(columns)
    )
