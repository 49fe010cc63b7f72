"""The spec's keys and types, as pydantic models: one source for checking and for JSON Schema."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from itertools import permutations
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    ValidationError,
    ValidationInfo,
    field_validator,
)

from fcn_convert.errors import printable
from fcn_convert.spec import AXES, MAX_DENSE, MAX_HEADS, KeyPath, Reads, make_feature_map
from fcn_convert.tensors import Layout

Size = Annotated[int, Field(ge=1, le=2**31 - 1)]
Name = Annotated[str, Field(min_length=1)]


def _a_whole_number(value: object) -> object:
    """Refuse what Python takes for the same number: True and 1.0."""
    if type(value) is not int:
        raise ValueError("should be 1")
    return value


Version = Annotated[Literal[1], BeforeValidator(_a_whole_number)]

UNSAID: Any = None
"""A default is not validated: leaving a key out is fine, `key: null` is a mistake."""
_OTHER, _MAPPING = "\0other", "\0mapping"
"""What pydantic puts into an error's path for a union; no key of a spec has that name."""
MAX_KEY = 64
"""Characters of a key that are compared with those of the known keys."""
_ORDERS = ["".join(order) for axes in AXES.values() for order in permutations(axes)]


class Model(BaseModel):
    """Only what is known, and only in its own type."""

    model_config = ConfigDict(extra="forbid", strict=True)


def _one_of_the_axes(schema: dict[str, Any]) -> None:
    """Say in JSON Schema which axes go together."""
    schema["anyOf"] = [
        {"required": list(axes), "propertyNames": {"enum": list(axes)}} for axes in AXES.values()
    ]


class SizesByAxis(Model):
    """Sizes of a feature map by axis: C with L, with H and W, or with D, H and W."""

    model_config = ConfigDict(json_schema_extra=_one_of_the_axes)

    C: Size
    L: Size = UNSAID
    D: Size = UNSAID
    H: Size = UNSAID
    W: Size = UNSAID


class DenseModel(Model):
    """A Dense layer, with what it reads."""

    name: Name = Field(description="Module name as in the file, without `.weight`; globs allowed.")
    reads: Reads = Field(
        default=UNSAID,
        description="`map`: the flattened feature map, so its kernel is the map's; "
        "`dense`: another Dense layer, so its kernel is 1×1. Default: arithmetic decides.",
    )


def _by_type(value: object) -> str:
    return _MAPPING if isinstance(value, Mapping | BaseModel) else _OTHER


def _a_feature_map(value: Any) -> Any:
    make_feature_map(_sizes(value))
    return value


def _sizes(value: Any) -> Any:
    return value.model_dump(exclude_none=True) if isinstance(value, BaseModel) else value


# Unions are decided by the value's type first, so that a mistake is one error and not one each.
SizesInOrder = Annotated[list[Size], Field(min_length=2, max_length=4)]
FeatureMapField = Annotated[
    Annotated[SizesInOrder, Tag(_OTHER)] | Annotated[SizesByAxis, Tag(_MAPPING)],
    Discriminator(_by_type),
    AfterValidator(_a_feature_map),
]
DenseField = Annotated[
    Annotated[Name, Tag(_OTHER)] | Annotated[DenseModel, Tag(_MAPPING)],
    Discriminator(_by_type),
]


class _HeadKeys(Model):
    feature_map: FeatureMapField = Field(
        default=UNSAID,
        description="Shape of the map that the first Dense layer reads flattened: "
        "[C, L], [C, H, W] or [C, D, H, W], or a mapping of these axes to sizes.",
    )
    flatten: str = Field(
        default=UNSAID,
        description="The axes in the order of the flattened vector, slowest first, e.g. HWC. "
        "Default: channels first (CL, CHW, CDHW); with the layouts keras and mlx channels last.",
        json_schema_extra={"enum": [*_ORDERS]},
    )
    dense: list[DenseField] = Field(
        default=UNSAID,
        min_length=1,
        max_length=MAX_DENSE,
        description="The Dense layers in forward order. Default: found, where the shapes leave "
        "one reading.",
    )

    @field_validator("flatten", mode="after")
    @classmethod
    def _orders_the_axes(cls, value: str, info: ValidationInfo) -> str:
        feature_map = info.data.get("feature_map")
        axes = make_feature_map(_sizes(feature_map)).axes if feature_map else value
        if sorted(value) != sorted(axes):
            raise ValueError(f"not an order of the axes {', '.join(axes)}, as {axes}")
        return value


class HeadModel(_HeadKeys):
    """Dense layers that read one feature map."""

    feature_map: FeatureMapField = Field(
        description=_HeadKeys.model_fields["feature_map"].description
    )


class SpecModel(_HeadKeys):
    """What is to be known of a checkpoint: its feature map's shape, and little else."""

    version: Version = Field(default=1, description="Version of the spec's own format.")
    state_dict: Name = Field(
        default=UNSAID,
        description="Where the state dict is in a wrapped checkpoint, e.g. model_ema. "
        "Default: found, and an error if there are several.",
    )
    layout: Layout = Field(
        default=UNSAID,
        description="How the file stores arrays: `torch` (out, in; OIHW), `keras` (in, out; HWIO) "
        "`mlx` (out, in; OHWI) or `paddle` (in, out; OIHW). Default: the container's: keras for "
        "Keras's files, paddle for Paddle's, else torch.",
    )
    heads: list[HeadModel] = Field(
        default=UNSAID,
        min_length=1,
        max_length=MAX_HEADS,
        description="Several heads, each with its own feature map.",
    )
    rename: dict[Name, str] = Field(
        default_factory=dict,
        description="New module prefixes by old ones, in whole dotted components, longest first; "
        "an empty new prefix removes the old one.",
    )


def model_problems(model: type[BaseModel], data: object) -> Iterator[tuple[KeyPath, str]]:
    """Yield each violation of a model's schema: the path of the value, and a sentence."""
    try:
        model.model_validate(data)
    except ValidationError as error:
        for detail in error.errors():
            path = tuple(part for part in detail["loc"] if part not in {_OTHER, _MAPPING, "[key]"})
            if detail["type"] == "extra_forbidden":
                yield path, _unknown(path, model)
            else:
                yield path, _sentence(path, detail["type"], detail["msg"], detail["input"])


def located(path: KeyPath, problem: str, source: str, lines: Mapping[KeyPath, int]) -> str:
    """Return a problem with the line of its value, or of the nearest that holds the value."""
    while path and path not in lines:
        path = path[:-1]
    problem = printable(problem)
    return f"{problem} ({source}:{lines[path]})" if path in lines else problem


_INSIDE_OF: Mapping[str, type[BaseModel]] = {
    "heads": HeadModel,
    "dense": DenseModel,
    "feature_map": SizesByAxis,
}
"""The model of the keys under a key; any other key is at the top."""


def _unknown(path: KeyPath, model: type[BaseModel]) -> str:
    """Say which key is not known, and what it may be meant for."""
    *holders, key = map(str, path)
    named = [holder for holder in holders if not holder.isdecimal()]
    keys = (_INSIDE_OF[named[-1]] if named else model).model_fields
    known = {key.casefold(): key for key in keys}
    near = get_close_matches(key[:MAX_KEY].casefold(), known, 1)
    listed = ", ".join(known.values())
    meant = f"did you mean {known[near[0]]!r}?" if near else f"known are {listed}"
    return f"unknown key {'.'.join(map(str, path))!r}, {meant}"


def _sentence(path: KeyPath, kind: str, message: str, value: object) -> str:
    where = ".".join(map(str, path))
    if kind == "missing":
        return f"{where} is missing"
    if kind == "model_type":
        return f"{where}: should be a mapping of keys, found {value!r:.60}"
    if kind == "list_type":
        return f"{where}: should be a list in brackets, found {value!r:.60}"
    if kind == "too_short":
        return f"{where}: has too few entries, found {value!r}"
    reason = message.removeprefix("Value error, ").removeprefix("Input ")
    found = repr(value)
    return f"{where}: {reason}, found {found if len(found) < 60 else found[:56] + '…'}"


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema of a spec, for editors."""
    schema = _without_nulls(SpecModel.model_json_schema())
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **schema,
        "title": "fcn-convert spec",
        "oneOf": [
            {"required": ["feature_map"]},
            {
                "required": ["heads"],
                "not": {"anyOf": [{"required": ["flatten"]}, {"required": ["dense"]}]},
            },
        ],
    }


def _without_nulls(schema: Any) -> Any:
    """Leave out the default `null`, which editors would fill in and the spec refuses."""
    if isinstance(schema, list):
        return [_without_nulls(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    return {key: _without_nulls(value) for key, value in schema.items() if value is not None}
