"""The part of a report that the head's code needs, as pydantic checks it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, Field

from fcn_convert.tensors import DTYPES

Size = Annotated[int, Field(ge=0, lt=1 << 63, strict=True)]
Axis = Literal["C", "L", "D", "H", "W"]
Name = Annotated[str, Field(min_length=1, max_length=1000)]


def _known(dtype: str) -> str:
    if dtype not in DTYPES:
        raise ValueError("is not a dtype of safetensors")
    return dtype


class FileModel(BaseModel):
    """The output; files: where it is a folder of shards."""

    path: str
    files: list[object] = []


class LayerModel(BaseModel):
    """A rewritten layer."""

    name: str
    new_name: Name
    reads: Literal["map", "dense"]
    dtype: Annotated[str, AfterValidator(_known)]
    new_shape: Annotated[list[Size], Field(min_length=3, max_length=5)]
    bias: bool


class TensorModel(BaseModel):
    """Any other tensor."""

    new_name: str | None
    shape: list[Size] | None


class DenseModel(BaseModel):
    """A layer of the spec."""

    name: str


class HeadModel(BaseModel):
    """A head of the spec."""

    feature_map: Annotated[dict[Axis, Size], Field(min_length=2, max_length=4)]
    dense: list[DenseModel]


class SpecModel(BaseModel):
    """The spec as resolved."""

    heads: Annotated[list[HeadModel], Field(min_length=1)]


class ReportModel(BaseModel):
    """A report of version 1."""

    schema_version: Literal[1]
    output: FileModel
    spec: SpecModel
    layers: list[LayerModel]
    tensors: list[TensorModel]
    notes: list[str]
