"""The spec: the feature map's shape, the flatten order and the Dense layers, as written by hand."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import prod
from pathlib import Path
from typing import Any, Literal

from fcn_convert.errors import SpecError
from fcn_convert.tensors import FlattenedMap, Layout, times

MAX_DENSE = 1000
MAX_HEADS = 100
"""More than any network has, and few enough to compare each with all others."""
MAX_SPEC_BYTES = 1 << 17
AXES: Mapping[int, str] = {2: "CL", 3: "CHW", 4: "CDHW"}
"""Axis names of a feature map, channels first, by their number."""

KeyPath = tuple[str | int, ...]
"""Where a value stands in a document: keys and positions, from the outside in."""
Reads = Literal["map", "dense"]


@dataclass(frozen=True)
class FeatureMap:
    """The shape of the map that a head reads: sizes by axis name, channels first."""

    axes: str
    sizes: tuple[int, ...]

    @property
    def channels(self) -> int:
        """C."""
        return self.sizes[0]

    @property
    def kernel(self) -> tuple[int, ...]:
        """The spatial sizes, which become the kernel's."""
        return self.sizes[1:]

    @property
    def features(self) -> int:
        """Elements of the map, the inputs of a Dense layer that reads it."""
        return prod(self.sizes)

    def __str__(self) -> str:
        return times(self.sizes)


@dataclass(frozen=True)
class Dense:
    """An entry of `dense`: a module name or a glob, and what it reads where that is stated."""

    name: str
    reads: Reads | None = None
    line: int | None = None


def unflattened(flattened: FlattenedMap) -> FeatureMap:
    """Return the map that was flattened."""
    sizes = dict(zip(flattened.axes, flattened.sizes, strict=True))
    axes = AXES[len(sizes)]
    return FeatureMap(axes, tuple(sizes[axis] for axis in axes))


def usual_order(axes: str, layout: str) -> str:
    """Return the order in which a layout's framework flattens a map with these axes."""
    return axes[1:] + axes[:1] if layout in {"keras", "mlx"} else axes


@dataclass(frozen=True)
class Head:
    """Dense layers that read one feature map.

    flatten: the map's axes in the order of the flattened vector, slowest first; empty where the
    layout decides.
    dense: None where the checkpoint's shapes are to tell.
    """

    feature_map: FeatureMap
    flatten: str
    dense: tuple[Dense, ...] | None = None
    line: int | None = None

    def flattened_as(self, layout: str) -> Head:
        """Return the head with its order said: channels last in keras and mlx."""
        return replace(self, flatten=self.flatten or usual_order(self.feature_map.axes, layout))


@dataclass(frozen=True)
class Spec:
    """A whole spec, checked for itself but not yet against a checkpoint.

    layout: None where the container, or PyTorch's convention, decides.
    source: the file's name for messages. rename_lines: where each rename stands in it.
    file: the file's path and the sha256 of its bytes, where it was read from one.
    """

    heads: tuple[Head, ...]
    state_dict: str | None = None
    layout: Layout | None = None
    rename: Mapping[str, str] = field(default_factory=dict)
    source: str = "spec"
    rename_lines: Mapping[str, int] = field(default_factory=dict)
    file: tuple[str, str] | None = field(default=None, compare=False)

    def at(self, line: int | None) -> str:
        """Return ` (spec.yaml:3)` for a message, or nothing where the line is not known."""
        return f" ({self.source}:{line})" if line else ""


def load_spec(path: Path) -> Spec:
    """Read a spec file; raises SpecError with every problem and its line."""
    from fcn_convert.spec_yaml import read_text  # noqa: PLC0415 - the YAML parser is slow to import

    text, digest = read_text(path, MAX_SPEC_BYTES)
    return replace(parse_spec(text, path.name), file=(str(path), digest))


def parse_spec(text: str, source: str = "spec") -> Spec:
    """Read a spec from YAML 1.2; raises SpecError with every problem and its line."""
    from fcn_convert.spec_yaml import read_yaml  # noqa: PLC0415 - the YAML parser is slow to import

    document = read_yaml(text, source)
    return _checked(document.data, source, document.lines, document.problems)


def make_spec(data: Mapping[str, Any]) -> Spec:
    """Make a spec from a mapping with the same keys; raises SpecError with every problem."""
    return _checked(data, "spec", {}, ())


def _checked(data: object, source: str, lines: Mapping[KeyPath, int], known: Sequence[str]) -> Spec:
    from fcn_convert.spec_schema import (  # noqa: PLC0415 - pydantic
        SpecModel,
        located,
        model_problems,
    )

    if not isinstance(data, Mapping):
        problem = "the spec is not a mapping of keys to values"
        raise SpecError(*known, located((), problem, source, lines))
    found = [*model_problems(SpecModel, data), *_head_problems(data)]
    problems = [*known, *(located(path, message, source, lines) for path, message in found)]
    if problems:
        raise SpecError(*problems)
    model = SpecModel.model_validate(data)
    return Spec(
        heads=tuple(_heads(data, lines)),
        state_dict=model.state_dict,
        layout=model.layout,
        rename=dict(model.rename),
        source=source,
        rename_lines={old: line for old in model.rename if (line := lines.get(("rename", old)))},
    )


def _head_problems(data: Mapping[str, Any]) -> Iterator[tuple[KeyPath, str]]:
    """Yield what is wrong between keys; pydantic sees each by itself."""
    beside = [key for key in ("feature_map", "flatten", "dense") if key in data]
    if "heads" in data and beside:
        yield (beside[0],), f"{', '.join(beside)}: belongs in `heads` when the spec has heads"
    elif "heads" not in data and "feature_map" not in data:
        yield (), "the spec has neither `feature_map: [C, H, W]` nor `heads`"


def _heads(data: Mapping[str, Any], lines: Mapping[KeyPath, int]) -> Iterator[Head]:
    """Make the heads of data that was found valid."""
    listed: list[tuple[KeyPath, Mapping[str, Any]]] = (
        [(("heads", at), head) for at, head in enumerate(data["heads"])]
        if "heads" in data
        else [((), data)]
    )
    for path, head in listed:
        feature_map = make_feature_map(head["feature_map"])
        dense = head.get("dense")
        items = [item if isinstance(item, Mapping) else {"name": item} for item in dense or ()]
        yield Head(
            feature_map,
            head.get("flatten") or "",
            None
            if dense is None
            else tuple(
                Dense(item["name"], item.get("reads"), lines.get((*path, "dense", at)))
                for at, item in enumerate(items)
            ),
            lines.get((*path, "feature_map")),
        )


def make_feature_map(value: Any) -> FeatureMap:
    """Make a feature map of `[C, H, W]` or `{C: …, H: …, W: …}`; raises ValueError for others."""
    if isinstance(value, Mapping):
        for axes in AXES.values():
            if set(value) == set(axes):
                return FeatureMap(axes, tuple(value[axis] for axis in axes))
        raise ValueError("the axes of a feature map are C, L, or C, H, W, or C, D, H, W")
    if len(value) not in AXES:
        raise ValueError(
            "a feature map has two, three or four sizes: [C, L], [C, H, W] or [C, D, H, W]"
        )
    return FeatureMap(AXES[len(value)], tuple(value))
