"""Which Dense layer reads what: a spec against the names and shapes of a checkpoint.

Every disagreement between the two is found here and reported at once. Nothing is guessed: where
shapes leave several readings, the error shows the numbers and asks.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Container, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from fnmatch import filter as matching
from math import isqrt

from fcn_convert.errors import MAX_PROBLEMS, SpecError, quoted
from fcn_convert.renames import renamed, torn_apart
from fcn_convert.spec import MAX_DENSE, Dense, FeatureMap, Head, Reads, Spec, unflattened
from fcn_convert.tensors import BIAS, WEIGHT, StateDict, TensorInfo, natural_key, parent

ELEMENTWISE = {"weight", "bias", "running_mean", "running_var"}
"""What a norm's or an activation's tensors are called."""
NORMED = ("weight_g", "weight_orig", "original", "original0")
"""Ends of the names under which weight and spectral norm keep what the weight is made of."""
NAMELESS = (
    "`weight` is of a Dense layer saved by itself, which has no name; save it in a network, "
    "torch.save(nn.Sequential(layer).state_dict(), ...), where it is called 0"
)


@dataclass(frozen=True)
class DenseLayer:
    """A Dense layer that becomes a convolution.

    weight: of shape (features_out, features_in). bias: of shape (features_out,), if any.
    reads: `map` where it reads the flattened feature map, `dense` where it reads another layer.
    """

    name: str
    weight: TensorInfo
    bias: TensorInfo | None
    head: Head
    reads: Reads

    @property
    def kernel(self) -> tuple[int, ...]:
        """The convolution's kernel: the map's spatial sizes, or 1 along each."""
        spatial = self.head.feature_map.kernel
        return spatial if self.reads == "map" else (1,) * len(spatial)


@dataclass(frozen=True)
class Resolved:
    """A spec applied to a checkpoint: its layers in forward order, and the output's names.

    heads: the spec's, each with its flatten order. names: the new name of every tensor by its old
    one.
    """

    heads: tuple[Head, ...]
    layers: tuple[DenseLayer, ...]
    names: Mapping[str, str]
    warnings: tuple[str, ...]


def resolve(spec: Spec, state_dict: StateDict) -> Resolved:
    """Find the layers a spec means; raises SpecError with everything that does not fit."""
    problems: list[str] = []
    spec = replace(spec, heads=tuple(h.flattened_as(state_dict.layout) for h in spec.heads))
    weights = dense_weights(state_dict)
    bare = state_dict.tensors.get("weight")
    if not weights and bare is not None and len(bare.shape) == 2:
        raise SpecError(NAMELESS)
    heads = [_named_layers(spec, head, state_dict, weights, problems) for head in spec.heads]
    named = {layer.name for head in heads for layer in head or ()}
    found = [
        _only_reading(spec, head, weights, named, problems) if entries is None else entries
        for head, entries in zip(spec.heads, heads, strict=True)
    ]
    every = [layer.name for head in found for layer in head]
    problems += [
        f"{name} is named twice, or two heads would take it; a layer belongs to one head once"
        for name in sorted(_repeated(every), key=natural_key)
    ]
    if len(every) > MAX_DENSE:
        problems.append(f"the heads would have {len(every)} Dense layers, over {MAX_DENSE}")
        raise SpecError(*problems)
    layers: list[DenseLayer] = []
    for head, entries in zip(spec.heads, found, strict=True):
        chosen = {entry: weights[entry.name] for entry in entries}
        layers += _what_they_read(spec, head, state_dict, chosen, problems)
    names = renamed(spec, state_dict, problems)
    for head in spec.heads:
        problems += _inapplicable(spec, head, state_dict)
    problems = problems or list(torn_apart((layer.name for layer in layers), names))
    if problems:
        raise SpecError(*problems)
    warnings = [w for head in spec.heads for w in _doubts(spec, head, state_dict)]
    warnings += _contradicted(spec, layers, state_dict)
    warnings += _perhaps_flattened(spec, layers, state_dict)
    warnings += _packed(layers)
    return Resolved(spec.heads, tuple(layers), names, tuple(warnings))


def dense_weights(state_dict: StateDict) -> dict[str, TensorInfo]:
    """Return the 2-D weights of modules by module name, in natural order."""
    found = {
        name.removesuffix(WEIGHT): tensor
        for name, tensor in state_dict.tensors.items()
        if len(tensor.shape) == 2 and name.endswith(WEIGHT)
    }
    return {name: found[name] for name in sorted(found, key=natural_key)}


def _repeated(names: Iterable[str]) -> set[str]:
    return {name for name, count in Counter(names).items() if count > 1}


def _named_layers(
    spec: Spec,
    head: Head,
    state_dict: StateDict,
    weights: Mapping[str, TensorInfo],
    problems: list[str],
) -> list[Dense] | None:
    """Expand the globs of a head; None where it names no layers."""
    if head.dense is None:
        return None
    expanded: list[Dense] = []
    for entry in head.dense:
        if entry.name in weights:
            expanded.append(entry)
            continue
        matches = matching(weights, entry.name)
        expanded += [Dense(name, entry.reads, entry.line) for name in matches]
        if not matches:
            # Of the problems beyond those that are shown only the number is said.
            shown = len(problems) < MAX_PROBLEMS
            reason = _why_not_dense(entry.name, state_dict, weights) if shown else "is none"
            problems.append(f"{entry.name} {reason}{spec.at(entry.line)}")
    return expanded


def _why_not_dense(name: str, state_dict: StateDict, weights: Iterable[str]) -> str:
    weight = state_dict.tensors.get(name + WEIGHT)
    if weight is not None:
        return f"is no Dense layer: its weight has the shape {list(weight.shape)}, expected 2 axes"
    if name in state_dict.tensors:
        return f"is a tensor; name its module, {name.rpartition('.')[0] or 'without its last part'}"
    inside = [tensor for tensor in state_dict.tensors if tensor.startswith(f"{name}.")]
    if any(tensor.endswith(NORMED) for tensor in inside):
        return (
            f"has no plain weight but {quoted(inside)}: "
            "remove its weight or spectral norm before saving"
        )
    listed = quoted(weights) or "none"
    return f"is not a Dense layer of the checkpoint; its Dense layers are {listed}"


def _what_they_read(
    spec: Spec,
    head: Head,
    state_dict: StateDict,
    entries: Mapping[Dense, TensorInfo],
    problems: list[str],
) -> Iterator[DenseLayer]:
    """Decide for each layer, in forward order, whether it reads the map or another layer."""
    earlier: list[int] = []
    for entry, weight in entries.items():
        bias = state_dict.tensors.get(entry.name + BIAS)
        features_out, features_in = weight.shape
        at = spec.at(entry.line or head.line)
        reads, doubt = _reads(head, entry, features_in, earlier)
        if reads is None:
            problems.append(f"{entry.name}{WEIGHT} has {features_in} input features, {doubt}{at}")
        elif any(entry.name + BIAS == other.name for other in state_dict.left_out):
            problems.append(f"{entry.name}{BIAS} is no tensor, so it would be lost{at}")
        elif bias is not None and bias.shape != (features_out,):
            problems.append(f"{bias.name} has {list(bias.shape)}, expected [{features_out}]{at}")
        else:
            yield DenseLayer(entry.name, weight, bias, head, reads)
        earlier.append(features_out)


def _reads(
    head: Head, entry: Dense, features_in: int, earlier: list[int]
) -> tuple[Reads | None, str]:
    """Return what a layer reads, or None and why that cannot be told."""
    fmap = head.feature_map
    fits_map, fits_dense = features_in == fmap.features, features_in in earlier
    shown = f"feature_map {fmap} has {fmap.features}"
    if entry.reads == "dense":
        return "dense", ""
    if fits_map and (entry.reads == "map" or not fits_dense):
        return "map", ""
    if fits_map:
        if fmap.features == fmap.channels:  # both readings are the same kernel
            return "map", ""
        return None, f"as {shown} and as an earlier layer gives: say `reads: map` or `reads: dense`"
    if entry.reads == "map" or not earlier:
        pooled = f"; it reads a pooled map: write {[fmap.channels] + [1] * len(fmap.kernel)}"
        return None, f"but {shown}{pooled if features_in == fmap.channels else ''}"
    if fits_dense:
        return "dense", ""
    return None, (
        f"but {shown} and earlier layers give {quoted(map(str, earlier))}: "
        "say `reads: dense` if something is concatenated or gated before it"
    )


def _only_reading(
    spec: Spec,
    head: Head,
    every: Mapping[str, TensorInfo],
    named: Container[str],
    problems: list[str],
) -> list[Dense]:
    """Return the layers of a head that names none, if shapes leave one reading."""
    weights = {n: w for n, w in every.items() if n not in named}
    by_inputs: dict[int, list[str]] = defaultdict(list)
    for name, weight in weights.items():
        by_inputs[weight.shape[1]].append(name)
    first = by_inputs.pop(head.feature_map.features, [])
    chain = list(first)
    for name in chain:  # grows while it is walked: each layer brings those that can read it
        chain += by_inputs.pop(weights[name].shape[0], [])
    if len(first) == 1 and len(chain) == len(weights):
        return [Dense(name) for name in chain]
    listed = quoted(f"{n} {list(w.shape)}" for n, w in weights.items())
    shown = f"feature_map {head.feature_map} has {head.feature_map.features} features"
    if not weights:
        why = "no Dense layer is left to read the map, as where all are convolutions already"
        problems.append(f"{why}{spec.at(head.line)}")
        return []
    if not first:
        inputs = quoted(f"{name} takes {weight.shape[1]}" for name, weight in weights.items())
        problems.append(
            f"no Dense layer reads the map: {shown}, but {inputs}; correct its sizes, "
            f"or the layout{spec.at(head.line)}"
        )
        return []
    if len(first) == 1:
        reason = f"{shown}, which {first[0]} reads, but not every other layer follows from it"
    else:
        reason = f"{shown}, and {len(first)} Dense layers have as many inputs"
    problems.append(
        f"the Dense layers cannot be told from their shapes: {reason}; list them in forward order "
        f"as `dense: [...]`, out of: {listed}{spec.at(head.line)}"
    )
    return []


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


def _inapplicable(spec: Spec, head: Head, state_dict: StateDict) -> Iterator[str]:
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


def _doubts(spec: Spec, head: Head, state_dict: StateDict) -> Iterator[str]:
    """Warn of what fits the spec, but may not be what its author means."""
    flat = _on_flattened_map(head, state_dict)
    if flat:
        yield (
            f"{quoted(flat)}: as many values as feature_map {head.feature_map} has elements; if "
            f"that is a norm on the flattened map, no convolution can apply it{spec.at(head.line)}"
        )
    yield from _unlikely_axes(spec, head, state_dict)
    yield from _unlikely_channels(spec, head, state_dict)


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
    """Warn of values of less than a byte that torch's own loader will not take."""
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
