"""Which feature map each Dense layer of a Keras model reads, and in which order it is flattened.

The configuration names the layers and what they read; shapes are worked out from the input on, as
Keras does. What is not known, an input of any size or a layer of an unknown class, stays unknown,
and so does what follows from it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from graphlib import CycleError, TopologicalSorter
from math import prod
from typing import Any

from fcn_convert.formats.keras_config import LayerConfig, Use
from fcn_convert.formats.keras_first import MIXED
from fcn_convert.tensors import FlattenedMap

MAX_SIZE = 1 << 32
"""Elements along an axis: far above any model, and what keeps numbers small."""

MAX_USES = 1 << 17
"""Uses of layers that are followed: a model in a model may be used again and again."""

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
    *("ParametricSoftplus", "SReLU"),  # of Keras 1
    "Lambda",  # mostly a scaling; where it is not, the Dense layer's inputs are another number
}
_HEIGHT_WIDTH = (("H", "height"), ("W", "width"))
_TO_A_SIZE = {"Resizing", "CenterCrop", "RandomCrop"}
_RECURRENT = {"LSTM", "GRU", "SimpleRNN", "RNN", "CuDNNLSTM", "CuDNNGRU"}
_TOGETHER = {"Add", "Subtract", "Multiply", "Average", "Maximum", "Minimum"}


@dataclass(frozen=True)
class _Array:
    """What flows from layer to layer: sizes without the batch.

    axes: their names, one letter each; empty where no layer has shown which one is the channels.
    is_flat: whether the axes are run together into one. outside: whether it is, or holds, a vector
    that comes from no map: an input of one axis, or the answer of a recurrent layer.
    """

    sizes: tuple[Size, ...]
    axes: str = ""
    is_flat: bool = False
    outside: bool = False

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
        order = layer.settings.get("data_format")
        if order == MIXED:
            return None
        return replace(self, axes=f"C{axes[:-1]}" if order == "channels_first" else axes)

    def resized(self, sizes: Mapping[str, Size]) -> _Array:
        """Return it with other sizes along some axes."""
        pairs = zip(self.axes, self.sizes, strict=True)
        return replace(self, sizes=tuple(sizes.get(axis, size) for axis, size in pairs))

    @property
    def is_vector(self) -> bool:
        """Whether it has one axis, or all of them are run together."""
        return self.is_flat or len(self.sizes) == 1

    @property
    def spatial(self) -> dict[str, Size]:
        """Sizes by their axes, without the channels."""
        return {a: size for a, size in zip(self.axes, self.sizes, strict=True) if a != "C"}


def flattened_maps(model: LayerConfig) -> dict[str, FlattenedMap | None]:
    """Return the maps that Dense layers read, by the layers' names; None where there is none."""
    walk = _Walk()
    walk.model(model, (), "")
    # A layer that is used several times may be given maps of several shapes.
    return {name: maps.pop() for name, maps in walk.found.items() if len(maps) == 1}


class _Walk:
    """Goes through models as their inputs do; found: what each Dense layer is given."""

    def __init__(self) -> None:
        self.found: dict[str, set[FlattenedMap | None]] = {}
        self._left = MAX_USES

    def model(
        self, model: LayerConfig, inputs: Sequence[_Array | None], prefix: str
    ) -> _Array | None:
        """Return what a model gives, or None where that is not known."""
        if model.kind == "Sequential":
            last = next(iter(inputs), None) or _input(model.settings)
            for layer in model.layers:
                last = self._layer(layer, [last or _input(layer.settings)], prefix)
            return last
        layers = {layer.name: layer for layer in model.layers}
        sources = [layer.name for layer in model.layers if layer.kind == "InputLayer"]
        given = dict(zip(sources, inputs, strict=False))
        outputs: dict[Use, _Array | None] = {}
        for use, reads in _in_order(model):
            layer = layers[use[0]]
            read = [outputs.get(source) for source in reads] or [given.get(layer.name)]
            outputs[use] = self._layer(layer, read, prefix)
        return outputs.get(model.results[0]) if len(model.results) == 1 else None

    def _layer(
        self, layer: LayerConfig, read: Sequence[_Array | None], prefix: str
    ) -> _Array | None:
        self._left -= len(read)
        if self._left < 0:
            return None
        name = f"{prefix}{layer.name}".replace("/", ".")
        if layer.kind == "InputLayer":
            return read[0] or _input(layer.settings)
        if layer.layers:
            return self.model(layer, read, f"{name}.")
        if layer.kind == "Dense" and (array := read[0]) is not None:
            if array.outside:
                self.found.setdefault(name, set()).add(None)
            elif (flat := _flattened(array)) is not None:
                self.found.setdefault(name, set()).add(flat)
        return _output(layer, read)


def _in_order(model: LayerConfig) -> list[tuple[Use, tuple[Use, ...]]]:
    """Return each use of a model's layers, after those that it reads, with these.

    None of them where they read each other in a circle.
    """
    reads = {
        (layer.name, at): sources
        for layer in model.layers
        for at, sources in enumerate(layer.uses or ((),))
    }
    try:
        ordered = list(TopologicalSorter(reads).static_order())
    except CycleError:
        return []
    return [(use, reads[use]) for use in ordered if use in reads]  # others are not its layers


def _input(settings: Mapping[str, Any]) -> _Array | None:
    for key in ("batch_shape", "batch_input_shape", "build_input_shape"):
        sizes = settings.get(key)
        if isinstance(sizes, list) and len(sizes) > 1:
            return _Array(tuple(map(_size, sizes[1:])), outside=len(sizes) == 2)
    return None


def _size(value: Any) -> Size:
    is_size = isinstance(value, int) and not isinstance(value, bool)
    return value if is_size and 0 < value <= MAX_SIZE else None


def _flattened(array: _Array) -> FlattenedMap | None:
    if not array.is_flat or not array.axes or array.known is None:
        return None
    return FlattenedMap(array.axes, array.known)


def _output(layer: LayerConfig, inputs: Sequence[_Array | None]) -> _Array | None:
    """Return what a layer gives, or None where it is not known."""
    if (layer.wrapped or layer).kind in _RECURRENT:
        returns = (layer.wrapped or layer).settings.get("return_sequences")
        return None if returns else _Array((None,), outside=True)
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
        return _Array((units,), outside=array.outside) if array.is_vector else None
    if kind in {"Flatten", "Reshape", "Permute"}:
        return _rearranged(layer, array)
    return _mapped(layer, array)


def _together(arrays: Sequence[_Array]) -> _Array | None:
    """Return the one shape of arrays that are added, or of one map that another one scales."""
    named = next((array for array in arrays if array.axes), arrays[0])
    if any(array.axes not in {named.axes, ""} for array in arrays):
        return None
    if len({(array.is_flat, len(array.sizes)) for array in arrays}) > 1:
        return None
    along = zip(*(array.sizes for array in arrays), strict=True)
    longer = [set(sizes) - {1} for sizes in along]
    if any(len(sizes) > 1 for sizes in longer):
        return None
    sizes = tuple(next(iter(sizes), 1) for sizes in longer)
    return replace(named, sizes=sizes, outside=any(array.outside for array in arrays))


def _joined(layer: LayerConfig, arrays: Sequence[_Array]) -> _Array | None:
    """Return maps that are put together along their channels, pooled ones too."""
    if any(array.outside for array in arrays):
        return _Array((None,), outside=True) if all(a.is_vector for a in arrays) else None
    first, *rest = arrays
    channels = first.axes.find("C")
    if channels < 0 or any((a.axes, a.is_flat) != (first.axes, first.is_flat) for a in rest):
        return None
    counts = [array.sizes[channels] for array in arrays]
    if None in counts or any(array.spatial != first.spatial for array in rest):
        return None
    if first.is_flat and set(first.spatial.values()) != {1}:
        return None  # two maps one after the other in one vector
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
            # Keras first moves what it takes for the channels after the other axes.
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
    if padding == "full":  # of Keras 1: wherever the window touches the map
        return _size(-(-(size + dilation * (width - 1)) // stride))
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
