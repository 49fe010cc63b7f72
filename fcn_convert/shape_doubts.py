"""What shapes say against a spec that can be applied: warnings, and what no convolution can do."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from math import isqrt
from typing import TYPE_CHECKING

from fcn_convert.errors import quoted
from fcn_convert.spec import FeatureMap, Head, Spec, unflattened
from fcn_convert.tensors import WEIGHT, StateDict, parent

if TYPE_CHECKING:
    from fcn_convert.layers import DenseLayer

ELEMENTWISE = {"weight", "bias", "running_mean", "running_var"}
"""What a norm's or an activation's tensors are called."""


def _on_flattened_map(head: Head, state_dict: StateDict) -> list[str]:
    """Name the tensors of a norm or an activation that has a value for each element of the map."""
    features = head.feature_map.features
    if features == head.feature_map.channels:
        return []
    flat = []
    for name, tensor in state_dict.tensors.items():
        module, _, part = name.rpartition(".")
        weight = state_dict.tensors.get(module + WEIGHT)
        is_bias = part == "bias" and weight is not None and len(weight.shape) > 1
        if tensor.shape == (features,) and part in ELEMENTWISE and not is_bias:
            flat.append(name)
    return flat


def inapplicable(spec: Spec, head: Head, state_dict: StateDict) -> Iterator[str]:
    """Refuse per-element tensors on the flattened map, which a convolution cannot apply."""
    flat = _on_flattened_map(head, state_dict)
    if flat and not _explains(head, state_dict):
        yield (
            f"{quoted(flat)}: one value for each of the {head.feature_map.features} elements of "
            f"feature_map {head.feature_map}, as of a BatchNorm1d on the flattened map, which a "
            "fully convolutional network cannot apply; fold it into the Dense layer first"
            f"{spec.at(head.line)}"
        )


def _explains(head: Head, state_dict: StateDict) -> bool:
    """Return whether a layer gives as many channels as the map has elements: a norm may follow."""
    features = head.feature_map.features
    return any(len(t.shape) > 1 and t.shape[0] == features for t in state_dict.tensors.values())


def shape_doubts(spec: Spec, layers: Sequence[DenseLayer], state_dict: StateDict) -> Iterator[str]:
    """Warn of what fits the spec, but may not be what its author means."""
    for head in spec.heads:
        yield from _perhaps_a_norm(spec, head, state_dict)
        yield from _unlikely_axes(spec, head, state_dict)
        yield from _unlikely_channels(spec, head, state_dict)
    yield from _contradicted(spec, layers, state_dict)
    yield from _perhaps_flattened(spec, layers, state_dict)
    yield from _packed(layers)


def _perhaps_a_norm(spec: Spec, head: Head, state_dict: StateDict) -> Iterator[str]:
    """Warn of values that may be a norm's on the flattened map."""
    flat = _on_flattened_map(head, state_dict)
    if flat:
        yield (
            f"{quoted(flat)}: as many values as feature_map {head.feature_map} has elements; if "
            f"that is a norm on the flattened map, no convolution can apply it{spec.at(head.line)}"
        )


def _unlikely_axes(spec: Spec, head: Head, state_dict: StateDict) -> Iterator[str]:
    """Warn of a map with other spatial axes than any convolution before the head has."""
    weights = (t for name, t in state_dict.tensors.items() if name.endswith(WEIGHT))
    kernels = {weight.shape[2:] for weight in weights if len(weight.shape) > 2}
    axes = head.feature_map.axes[1:]
    if kernels and len(axes) not in map(len, kernels):
        yield (
            f"feature_map {head.feature_map} has {len(axes)} spatial axes, {', '.join(axes)}, and "
            f"no kernel of the checkpoint's convolutions has as many{spec.at(head.line)}"
        )


def stated_map(layer: DenseLayer, state_dict: StateDict) -> tuple[FeatureMap, str] | None:
    """Return the map that a layer reads and its order, where the file's configuration says them."""
    stated = state_dict.flattened.get(layer.name)
    return (unflattened(stated), stated.axes) if stated and layer.reads == "map" else None


def _contradicted(spec: Spec, layers: Iterable[DenseLayer], state_dict: StateDict) -> Iterator[str]:
    """Warn of a map or an order that is not what the file's own configuration says."""
    for layer in layers:
        stated = stated_map(layer, state_dict)
        if stated is None:
            continue
        fmap, order = stated
        declared = layer.head.feature_map, layer.head.flatten
        if declared != stated and fmap.features == declared[0].features:
            yield (
                f"{layer.name} reads {fmap} flattened {order}, as the file's configuration says, "
                f"not {declared[0]} flattened {declared[1]}{spec.at(layer.head.line)}"
            )


def _perhaps_flattened(
    spec: Spec, layers: Iterable[DenseLayer], state_dict: StateDict
) -> Iterator[str]:
    """Warn of a pooled map that may be a flattened one under a norm: nothing else has its width."""
    gives = {t.shape[0] for t in state_dict.tensors.values() if len(t.shape) > 2}
    for layer in layers:
        width = layer.head.feature_map.features
        areas = {width // channels for channels in gives if channels and not width % channels}
        squares = any(area > 1 and isqrt(area) ** 2 == area for area in areas)
        if layer.reads != "map" or width != layer.head.feature_map.channels or not squares:
            continue
        norms = [
            parent(name)
            for name, tensor in state_dict.tensors.items()
            if name.endswith(".running_mean") and tensor.shape == (width,)
        ]
        beside = [norm for norm in norms if parent(norm) == parent(layer.name) != ""]
        if beside and width not in gives:
            yield (
                f"{quoted(beside)}: a norm of {width} values, and no convolution gives as many "
                "channels; if it reads the flattened map, no convolution can apply it"
                f"{spec.at(layer.head.line)}"
            )


def _packed(layers: Iterable[DenseLayer]) -> Iterator[str]:
    """Warn of values of less than a byte that torch's own loader refuses."""
    for layer in layers:
        if layer.weight.dtype.bits < 8 and layer.kernel[-1] % 2:
            yield (
                f"{layer.weight.name}: torch loads {layer.weight.dtype.name} only with an even "
                f"last axis, and this one becomes {layer.kernel[-1]} long"
            )


def _unlikely_channels(spec: Spec, head: Head, state_dict: StateDict) -> Iterator[str]:
    """Warn of a C that nothing before the head can have."""
    channels: set[int] = set()
    for name, tensor in state_dict.tensors.items():
        if len(tensor.shape) > 2:
            channels.update(tensor.shape[:2])
        elif len(tensor.shape) == 1 and name.endswith((WEIGHT, ".running_mean")):
            channels.update(tensor.shape)
    if channels and head.feature_map.channels not in channels:
        yield (
            f"no convolution or norm of the checkpoint has {head.feature_map.channels} channels, "
            f"the C of feature_map {head.feature_map}: sizes are given as C, "
            f"{', '.join(head.feature_map.axes[1:])}{spec.at(head.line)}"
        )
