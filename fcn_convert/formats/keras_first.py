"""What Keras 1 called its layers and their settings, by the names that Keras 2 gave them.

As the `get_config` of its layers writes them (Keras 1.2, keras/layers). What has no counterpart
keeps its name, and so stays unknown.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

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
_MERGES: Mapping[Any, str] = {
    "concat": "Concatenate",
    "sum": "Add",
    "mul": "Multiply",
    "ave": "Average",
    "max": "Maximum",
}


def translated(kind: str, settings: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """Return a layer's class and settings as Keras 2 has them; what it wrote itself stays."""
    found = {new: settings[old] for old, new in _SETTINGS.items() if old in settings}
    for names in _KERNELS:
        if all(name in settings for name in names):
            found["kernel_size"] = [settings[name] for name in names]
    order = settings.get("dim_ordering")
    if isinstance(order, str) and order in _ORDERS:
        found["data_format"] = _ORDERS[order]
    mode = settings.get("mode")
    if kind == "Merge" and isinstance(mode, str):
        kind = _MERGES.get(mode, kind)
        found["axis"] = settings.get("concat_axis", -1)
    return _CLASSES.get(kind, kind), {**found, **settings}
