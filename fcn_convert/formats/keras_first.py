"""What Keras 1 called its layers and their settings, by the names that Keras 2 gave them.

As the `get_config` of its layers writes them (Keras 1.2.2: `layers/convolutional.py`,
`layers/pooling.py`, `layers/core.py`, and `Merge` of `engine/topology.py`). What has no counterpart
keeps its name, and so stays unknown; what a later version wrote stays as it is.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from fcn_convert.formats.keras_branches import without_branches

MAX_DEPTH = 32
"""Models nested in each other: what is deeper is not looked at."""
MIXED = "mixed"
"""The data format of a layer that does not say it, where others say several."""

_CLASSES: Mapping[str, str] = {
    **{f"Convolution{n}D": f"Conv{n}D" for n in (1, 2, 3)},
    **{f"AtrousConvolution{n}D": f"Conv{n}D" for n in (1, 2)},
    **{f"SeparableConvolution{n}D": f"SeparableConv{n}D" for n in (1, 2)},
}
_SETTINGS: Mapping[str, str] = {
    "nb_filter": "filters",
    "output_dim": "units",
    "border_mode": "padding",
    "filter_length": "kernel_size",
    "subsample": "strides",
    "subsample_length": "strides",
    "atrous_rate": "dilation_rate",
    "pool_length": "pool_size",
    "stride": "strides",
    "length": "size",
}
_KERNELS = (("nb_row", "nb_col"), ("kernel_dim1", "kernel_dim2", "kernel_dim3"))
_ORDERS: Mapping[Any, str] = {"th": "channels_first", "tf": "channels_last"}
_UNSAID = ("UpSampling", "ZeroPadding", "Cropping")
"""Layers that have a `dim_ordering`, too, but do not write it."""
_EDGES = (("top_pad", "bottom_pad"), ("left_pad", "right_pad"))
_MERGES: Mapping[Any, str] = {
    "concat": "Concatenate",
    "sum": "Add",
    "mul": "Multiply",
    "ave": "Average",
    "max": "Maximum",
}

Settings = dict[str, Any]


def in_later_words(data: Any) -> Any:
    """Return a model's configuration as Keras 2 would write it."""
    orders = set(_said(data, 0))
    return _layer(data, orders.pop() if len(orders) == 1 else MIXED if orders else "", 0)


def _said(data: Any, depth: int) -> Iterator[str]:
    """Yield the data format of each layer that says it in the words of Keras 1."""
    settings = _settings_of(data) if depth <= MAX_DEPTH else None
    if settings is None:
        return
    order = settings.get("dim_ordering")
    if isinstance(order, str) and order in _ORDERS:
        yield _ORDERS[order]
    listed = settings.get("layers")
    for each in (*(listed if isinstance(listed, list) else ()), settings.get("layer")):
        yield from _said(each, depth + 1)


def _settings_of(data: Any) -> Settings | None:
    """Return a layer's settings; those of a Sequential were no more than the list of its layers."""
    settings = data.get("config") if isinstance(data, dict) else None
    if isinstance(settings, list):
        settings = {"layers": settings}
    return settings if isinstance(settings, dict) else None


def _layer(data: Any, unsaid: str, depth: int) -> Any:
    """Return a layer, and those inside it, in the words of Keras 2.

    unsaid: the data format of layers that do not say theirs.
    """
    settings = _settings_of(data) if depth <= MAX_DEPTH else None
    if settings is None or not isinstance(kind := data.get("class_name"), str):
        return data
    if kind == "Sequential":
        kind, settings = without_branches(settings)
    if kind == "Merge":  # its models, where they were left in it, are read by nobody else
        settings = {key: value for key, value in settings.items() if key != "layers"}
    listed, wrapped = settings.get("layers"), settings.get("layer")
    inside: Settings = {}
    if isinstance(listed, list):
        inside["layers"] = [_layer(each, unsaid, depth + 1) for each in listed]
    if wrapped is not None:
        inside["layer"] = _layer(wrapped, unsaid, depth + 1)
    kind, settings = _translated(kind, settings | inside, unsaid)
    return data | {"class_name": kind, "config": settings}


def _translated(kind: str, settings: Settings, unsaid: str) -> tuple[str, Settings]:
    """Return a layer's class and settings as Keras 2 has them; what it wrote itself stays."""
    found = {new: settings[old] for old, new in _SETTINGS.items() if old in settings}
    for names in _KERNELS:
        if all(name in settings for name in names):
            found["kernel_size"] = [settings[name] for name in names]
    order = settings.get("dim_ordering")
    if isinstance(order, str) and order in _ORDERS:
        found["data_format"] = _ORDERS[order]
    elif unsaid and kind.startswith(_UNSAID):
        found["data_format"] = unsaid
    mode = settings.get("mode")
    # The name of a function of the author's may be that of a mode.
    if kind == "Merge" and isinstance(mode, str) and settings.get("mode_type", "raw") == "raw":
        kind = _MERGES.get(mode, kind)
        found["axis"] = settings.get("concat_axis", -1)
    edges = _edges(settings.get("padding")) if kind == "ZeroPadding2D" else None
    edges = _ends(settings.get("padding")) if kind == "ZeroPadding1D" else edges
    return _CLASSES.get(kind, kind), found | settings | ({"padding": edges} if edges else {})


def _edges(padding: Any) -> list[Any] | None:
    """Return what is added at both ends of each axis, where it is said by names or in one row."""
    if isinstance(padding, dict):
        return [[padding.get(end, 0) for end in ends] for ends in _EDGES]
    if isinstance(padding, list) and len(padding) == 4:
        return [padding[:2], padding[2:]]
    return None


def _ends(padding: Any) -> list[Any] | None:
    edges = _edges(padding) if isinstance(padding, dict) else None
    return edges[1] if edges else None
