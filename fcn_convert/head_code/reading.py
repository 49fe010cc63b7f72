"""What a report says of the head, read back from its JSON and checked for what is needed."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING

from fcn_convert.errors import ReportError
from fcn_convert.tensors import DTYPES

if TYPE_CHECKING:
    from fcn_convert.head_code.schema import ReportModel


@dataclass(frozen=True)
class Layer:
    """A convolution of the output, by its name there. reads: `map` or `dense`. head: its number."""

    name: str
    shape: tuple[int, ...]
    bias: bool
    reads: str
    dtype: str
    head: int

    @property
    def features_out(self) -> int:
        """Channels it gives."""
        return self.shape[0]

    @property
    def features_in(self) -> int:
        """Inputs of the Dense layer it was."""
        return prod(self.shape[1:])

    @property
    def torch_dtype(self) -> str:
        """The attribute of torch that is its dtype."""
        return DTYPES[self.dtype].torch or "float32"


@dataclass(frozen=True)
class HeadMap:
    """A head's feature map: sizes by axis."""

    feature_map: dict[str, int]


@dataclass(frozen=True)
class ReportedHead:
    """Everything of a report that the code is made of.

    kept: shapes of the other tensors of the output, by their names there. in_shards: whether the
    output is a folder. notes: on the source as a whole, as on the norms' epsilon.
    """

    output: str
    in_shards: bool
    heads: tuple[HeadMap, ...]
    layers: tuple[Layer, ...]
    kept: dict[str, tuple[int, ...]]
    notes: tuple[str, ...]

    @cached_property
    def other_channels(self) -> set[int]:
        """Numbers of channels that layers before the head, or beside it, give or read."""
        return {size for shape in self.kept.values() if shape[1:] for size in shape[:2]}

    @cached_property
    def kept_modules(self) -> dict[str, dict[str, tuple[int, ...]]]:
        """The other tensors' shapes, by module and by their own name in it."""
        found: dict[str, dict[str, tuple[int, ...]]] = {}
        for name, shape in self.kept.items():
            module, _, part = name.rpartition(".")
            found.setdefault(module, {})[part] = shape
        return found


def read_head(path: Path) -> ReportedHead:
    """Read a JSON report; raises ReportError for another file."""
    from fcn_convert.head_code.schema import ReportModel  # noqa: PLC0415 - pydantic, slow to import
    from fcn_convert.report.reading import read_report  # noqa: PLC0415 - only to read a file

    model = read_report(path, ReportModel, "a conversion (NAME.fcn.report.json)")
    if not model.layers:
        raise ReportError(f"{path}: reports no rewritten layer, so there is no head to write")
    return _head(model)


def _head(model: ReportModel) -> ReportedHead:
    owner = {dense.name: at for at, head in enumerate(model.spec.heads) for dense in head.dense}
    return ReportedHead(
        output=model.output.path,
        in_shards=bool(model.output.files),
        heads=tuple(
            HeadMap({str(axis): size for axis, size in head.feature_map.items()})
            for head in model.spec.heads
        ),
        layers=tuple(
            Layer(
                layer.new_name,
                tuple(layer.new_shape),
                layer.bias,
                layer.reads,
                layer.dtype,
                owner.get(layer.name, 0),
            )
            for layer in model.layers
        ),
        kept={
            t.new_name: tuple(t.shape) for t in model.tensors if t.new_name and t.shape is not None
        },
        notes=tuple(model.notes),
    )
