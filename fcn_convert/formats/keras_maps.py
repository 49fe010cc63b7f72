"""Which feature map each Dense layer of a Keras model reads, and in which order it is flattened.

The configuration names the layers and what they read; shapes are worked out from the input on, as
Keras does. What is not known, an input of any size or a layer of an unknown class, stays unknown,
and so does what follows from it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any

from fcn_convert.formats.keras_config import LayerConfig
from fcn_convert.tensors import FlattenedMap

MAX_SIZE = 1 << 32
"""Elements along an axis: far above any model, and what keeps numbers small."""

Size = int | None

_MAPS = {3: "LC", 4: "HWC", 5: "DHWC"}
"""Axes of a map by the axes of an array, the batch included; channels last, as Keras has them."""
_UNCHANGED = {
    *("Activation", "ReLU", "LeakyReLU", "PReLU", "ELU", "ThresholdedReLU", "Softmax"),
    *("Dropout", "GaussianDropout", "GaussianNoise", "AlphaDropout", "ActivityRegularization"),
    *("SpatialDropout1D", "SpatialDropout2D", "SpatialDropout3D", "Masking", "Identity"),
    *("BatchNormalization", "SyncBatchNormalization", "LayerNormalization", "GroupNormalization"),
    *("UnitNormalization", "RMSNormalization", "Rescaling", "Normalization"),
    *("RandomFlip", "RandomRotation", "RandomZoom", "RandomTranslation", "RandomContrast"),
    *("RandomBrightness", "RandomShear"),
    "Lambda",  # mostly a scaling; where it is not, the Dense layer's inputs are another number
}
_HEIGHT_WIDTH = (("H", "height"), ("W", "width"))
_TO_A_SIZE = {"Resizing", "CenterCrop", "RandomCrop"}
_TOGETHER = {"Add", "Subtract", "Multiply", "Average", "Maximum", "Minimum"}


@dataclass(frozen=True)
class _Array:
    """What flows from layer to layer: sizes without the batch.

    axes: their names, one letter each; empty where no layer has told which one is the channels.
    is_flat: whether the axes are run together into one.
    """

    sizes: tuple[Size, ...]
    axes: str = ""
    is_flat: bool = False

    @property
    def known(self) -> tuple[int, ...] | None:
        """The sizes, where all are known."""
        found = tuple(size for size in self.sizes if size is not None)
        return found if len(found) == len(self.sizes) else None

    def named(self, layer: LayerConfig) -> _Array | None:
        """Return it as the map that a layer with a data format takes it for."""
        axes = _MAPS.get(len(self.sizes) + 1)
        if axes is None or self.is_flat:
            return None
        first = layer.settings.get("data_format") == "channels_first"
        return replace(self, axes=f"C{axes[:-1]}" if first else axes)

    def resized(self, sizes: Mapping[str, Size]) -> _Array:
        """Return it with other sizes along some axes."""
        pairs = zip(self.axes, self.sizes, strict=True)
        return replace(self, sizes=tuple(sizes.get(axis, size) for axis, size in pairs))

    @property
    def spatial(self) -> dict[str, Size]:
        """Sizes by their axes, without the channels."""
        return {a: size for a, size in zip(self.axes, self.sizes, strict=True) if a != "C"}


def flattened_maps(model: LayerConfig) -> dict[str, FlattenedMap]:
    """Return the maps that Dense layers read, by the layers' names."""
    found: dict[str, FlattenedMap] = {}
    _model(model, (), "", found)
    return found


def _model(
    model: LayerConfig,
    inputs: Sequence[_Array | None],
    prefix: str,
    found: dict[str, FlattenedMap],
) -> _Array | None:
    """Go through a model's layers, in the order in which they are listed; return its output."""
    given = iter(inputs)
    outputs: dict[str, _Array | None] = {}
    last = next(iter(inputs), None) or _input(model.settings)
    for layer in model.layers:
        if model.kind == "Sequential":
            read = [last if last is not None else _input(layer.settings)]
        else:
            read = [outputs.get(name) for name in layer.reads]
        name = f"{prefix}{layer.name}".replace("/", ".")
        if layer.kind == "InputLayer":
            last = next(given, None) or _input(layer.settings)
        elif layer.layers:
            last = _model(layer, read, f"{name}.", found)
        else:
            if layer.kind == "Dense" and read[:1] and (flat := _flattened(read[0])) is not None:
                found[name] = flat
            last = _output(layer, read)
        outputs[layer.name] = last
    results = model.results
    return outputs.get(results[0]) if len(results) == 1 else last if not results else None


def _input(settings: Mapping[str, Any]) -> _Array | None:
    for key in ("batch_shape", "batch_input_shape", "build_input_shape"):
        sizes = settings.get(key)
        if isinstance(sizes, list) and len(sizes) > 1:
            return _Array(tuple(_size(size) for size in sizes[1:]))
    return None


def _size(value: Any) -> Size:
    is_size = isinstance(value, int) and not isinstance(value, bool)
    return value if is_size and 0 < value <= MAX_SIZE else None


def _flattened(array: _Array | None) -> FlattenedMap | None:
    if array is None or not array.is_flat or not array.axes or array.known is None:
        return None
    return FlattenedMap(array.axes, array.known)


def _output(layer: LayerConfig, inputs: Sequence[_Array | None]) -> _Array | None:
    """Return what a layer gives, or None where it is not known."""
    arrays = [array for array in inputs if array is not None]
    if not arrays or len(arrays) < len(inputs):
        return None
    kind, array = layer.kind, arrays[0]
    if kind in _TOGETHER:
        return _together(arrays)
    if kind == "Concatenate":
        return _joined(layer, arrays)
    if len(arrays) > 1:
        return None
    if kind in _UNCHANGED:
        return array
    if kind == "Dense":
        units = _size(layer.settings.get("units"))
        return _Array((units,)) if len(array.sizes) == 1 or array.is_flat else None
    if kind in {"Flatten", "Reshape", "Permute"}:
        return _rearranged(layer, array)
    return _mapped(layer, array)


def _together(arrays: Sequence[_Array]) -> _Array | None:
    """Return the one shape of arrays that are added, or of one map that another one scales."""
    if len({(array.axes, array.is_flat, len(array.sizes)) for array in arrays}) > 1:
        return None
    along = zip(*(array.sizes for array in arrays), strict=True)
    longer = [set(sizes) - {1} for sizes in along]
    if any(len(sizes) > 1 for sizes in longer):
        return None
    return replace(arrays[0], sizes=tuple(next(iter(sizes), 1) for sizes in longer))


def _joined(layer: LayerConfig, arrays: Sequence[_Array]) -> _Array | None:
    """Return maps that are put together along their channels, pooled ones too."""
    first, *rest = arrays
    channels = first.axes.find("C")
    counts = [array.sizes[channels] for array in arrays]
    alike = all(
        (a.axes, a.is_flat, a.spatial) == (first.axes, first.is_flat, first.spatial) for a in rest
    )
    if channels < 0 or None in counts or not alike:
        return None
    if first.is_flat and set(first.spatial.values()) != {1}:
        return None  # two maps behind each other in one vector
    axis = layer.settings.get("axis", -1)
    along = [channels + 1, channels - len(first.axes)]  # the batch is the first axis of all
    if not first.is_flat and axis not in along:
        return None
    return first.resized({"C": _size(sum(count for count in counts if count))})


def _rearranged(layer: LayerConfig, array: _Array) -> _Array | None:
    """Return an array whose axes change places, or are run together."""
    settings = layer.settings
    if array.is_flat:
        return array if layer.kind == "Flatten" else None
    if layer.kind == "Permute":
        order = [at - 1 for at in _each(settings.get("dims"), len(array.sizes)) or ()]
        if set(order) != set(range(len(array.sizes))):
            return None
        axes = "".join(array.axes[at] for at in order) if array.axes else ""
        return _Array(tuple(array.sizes[at] for at in order), axes)
    if layer.kind == "Flatten":
        if settings.get("data_format") == "channels_first" and len(array.sizes) > 1:
            # Keras moves what it takes for the channels behind the others first.
            axes = array.axes[1:] + array.axes[:1]
            array = _Array((*array.sizes[1:], array.sizes[0]), axes)
        return replace(array, is_flat=len(array.sizes) > 1)
    return _reshaped(settings.get("target_shape"), array)


def _reshaped(target: Any, array: _Array) -> _Array | None:
    if not isinstance(target, list) or array.known is None:
        return None
    sizes = [_size(size) for size in target]
    total, given = prod(array.known), prod(size for size in sizes if size)
    if sizes.count(None) == 1 and total % given == 0:
        sizes = [size or total // given for size in sizes]
    if None in sizes or prod(size for size in sizes if size) != total:
        return None
    return replace(array, is_flat=True) if len(sizes) == 1 else _Array(tuple(sizes))


def _mapped(layer: LayerConfig, array: _Array) -> _Array | None:
    """Return the map that a convolution, a pool or a padding gives."""
    kind, settings = layer.kind, layer.settings
    named = array.named(layer)
    if named is not None and kind in _TO_A_SIZE:
        return named.resized({axis: _size(settings.get(key)) for axis, key in _HEIGHT_WIDTH})
    if named is None or not kind.endswith(f"{len(named.axes) - 1}D"):
        return None
    sizes = named.spatial
    stem = kind[:-2]
    if stem in {"GlobalAveragePooling", "GlobalMaxPooling"}:
        return replace(named.resized(dict.fromkeys(sizes, 1)), is_flat=not settings.get("keepdims"))
    if stem in {"ZeroPadding", "Cropping", "UpSampling"}:
        return _edged(stem, settings, named)
    windows = _windows(stem, settings, len(sizes))
    if windows is None:
        return None
    padding = settings.get("padding")
    moved: dict[str, Size] = {
        axis: _slid(size, window, padding)
        for (axis, size), window in zip(sizes.items(), windows, strict=True)
    }
    channels = _channels(stem, settings, named)
    return named.resized(moved | ({} if channels == 0 else {"C": channels}))


def _channels(stem: str, settings: Mapping[str, Any], array: _Array) -> Size:
    """Return how many channels a layer gives; 0 for as many as it takes."""
    if stem in {"Conv", "SeparableConv"}:
        return _size(settings.get("filters"))
    if stem == "DepthwiseConv":
        taken = array.sizes[array.axes.index("C")]
        times = _size(settings.get("depth_multiplier", 1))
        return _size(taken * times) if taken and times else None
    return 0


def _windows(
    stem: str, settings: Mapping[str, Any], axes: int
) -> list[tuple[int, int, int]] | None:
    """Return size, stride and dilation along each axis of what slides over a map, or None."""
    if stem in {"Conv", "SeparableConv", "DepthwiseConv"}:
        sizes = _each(settings.get("kernel_size"), axes)
        strides = _each(settings.get("strides", 1), axes)
        dilations = _each(settings.get("dilation_rate", 1), axes)
    elif stem in {"MaxPooling", "AveragePooling"}:
        sizes = _each(settings.get("pool_size", 2), axes)
        strides = _each(settings.get("strides"), axes) or sizes
        dilations = _each(1, axes)
    else:
        return None
    if not sizes or not strides or not dilations:
        return None
    return list(zip(sizes, strides, dilations, strict=True))


def _each(value: Any, axes: int) -> list[int] | None:
    """Return a setting for each axis, given once or once for each."""
    values = [value] * axes if isinstance(value, int) else value
    if not isinstance(values, list) or len(values) != axes:
        return None
    return [size for size in map(_size, values) if size] if all(map(_size, values)) else None


def _slid(size: Size, window: tuple[int, int, int], padding: Any) -> Size:
    """Return in how many places a window fits: keras/src/ops/operation_utils.py."""
    width, stride, dilation = window
    if size is None:
        return None
    if padding in ("same", "causal"):
        return -(-size // stride)
    return _size((size - dilation * (width - 1) - 1) // stride + 1) if padding == "valid" else None


def _edged(stem: str, settings: Mapping[str, Any], array: _Array) -> _Array | None:
    """Return a map with more or less at its edges, or each place of it several times."""
    sizes = array.spatial
    if stem == "UpSampling":
        times = _each(settings.get("size", 2), len(sizes))
        pairs = zip(sizes.items(), times or (), strict=False)
        wider = {axis: _size(size * n) if size else None for (axis, size), n in pairs}
        return array.resized(wider) if times else None
    key, sign = ("padding", 1) if stem == "ZeroPadding" else ("cropping", -1)
    edges = settings.get(key)
    edges = [edges] if len(sizes) == 1 and isinstance(edges, list) else edges
    edges = [edges] * len(sizes) if isinstance(edges, int) else edges
    if not isinstance(edges, list) or len(edges) != len(sizes):
        return None
    added = [_both(edge) for edge in edges]
    if None in added:
        return None
    moved: dict[str, Size] = {
        axis: _size(size + sign * n) if size and n is not None else None
        for (axis, size), n in zip(sizes.items(), added, strict=True)
    }
    return array.resized(moved)


def _both(edge: Any) -> int | None:
    """Return how much is at both ends of an axis together."""
    edge = [edge, edge] if isinstance(edge, int) else edge
    if not isinstance(edge, list) or not all(isinstance(n, int) for n in edge) or len(edge) != 2:
        return None
    return sum(edge)
