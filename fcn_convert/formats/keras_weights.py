"""Which layer of a Keras model each array of its HDF5 file belongs to, and as what.

Two ways of writing: by names, `conv1/conv1/kernel:0` (Keras 1 and 2, and `.h5` of Keras 3), and by
numbers, `layers/conv2d/vars/0` (Keras 3), where only the configuration says what is what.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from fcn_convert.formats.hdf5 import Arrays
from fcn_convert.formats.keras_config import LayerConfig, saved_names, snake_case
from fcn_convert.formats.layouts import Layer
from fcn_convert.formats.records import RecordError
from fcn_convert.tensors import TensorInfo, natural_key, shown

CONTAINERS = ("layers", "_layer_checkpoint_dependencies")
_KERNEL_AND_BIAS = ("kernel", "bias")
_VARIABLES: Mapping[str, tuple[str, ...]] = {
    **{f"Conv{n}D{kind}": _KERNEL_AND_BIAS for n in (1, 2, 3) for kind in ("", "Transpose")},
    **{f"DepthwiseConv{n}D": _KERNEL_AND_BIAS for n in (1, 2)},
    **{f"SeparableConv{n}D": ("depthwise_kernel", "pointwise_kernel", "bias") for n in (1, 2)},
    "Dense": _KERNEL_AND_BIAS,
    "PReLU": ("alpha",),
    "Embedding": ("embeddings",),
    "RMSNormalization": ("scale",),
}
"""What the numbered variables of a class are."""
_NORMS: Mapping[str, tuple[str, ...]] = {
    "BatchNormalization": ("moving_mean", "moving_variance"),
    "SyncBatchNormalization": ("moving_mean", "moving_variance"),
    "LayerNormalization": (),
    "GroupNormalization": (),
}

_KINDS = {snake_case(kind): kind for kind in (*_VARIABLES, *_NORMS)}
_COUNTED = re.compile(r"_\d+$")
_FIRST = re.compile(
    r"(?P<layer>.+?)_(?P<role>W|b|gamma|beta|alphas|running_mean|running_std|depthwise_kernel"
    r"|pointwise_kernel)(?:_\d+)?"
)
_FIRST_ROLES: Mapping[str, str] = {
    "W": "kernel",
    "b": "bias",
    "alphas": "alpha",
    "running_mean": "moving_mean",
    "running_std": "moving_variance",  # it held the variance, and Keras 2 reads it so
}
"""How Keras 1 ends the names of weights, which begin with their layer's: `block1_conv1_W_1`."""


@dataclass
class Layers:
    """Layers by name, as they are found, and which arrays are taken."""

    found: dict[str, tuple[str | None, dict[str, TensorInfo]]] = field(default_factory=dict)
    taken: set[str] = field(default_factory=set)
    quantized: list[str] = field(default_factory=list)
    of_keras_1: bool = False

    def add(self, name: str, kind: str | None, role: str, array: TensorInfo) -> None:
        """Give an array to a layer."""
        _, arrays = self.found.setdefault(name, (kind, {}))
        if role in arrays:
            raise RecordError(f"layer {shown(name)} has two arrays called {shown(role)}")
        arrays[role] = array
        self.taken.add(array.name)

    def __iter__(self) -> Iterator[Layer]:
        for name, (kind, arrays) in self.found.items():
            yield Layer(name, arrays, kind)


def by_names(arrays: Arrays, prefix: str, model: LayerConfig | None) -> Layers:
    """Collect layers from a file that names layers and their weights in attributes."""
    layers = Layers()
    for group in _names(arrays, prefix, "layer_names"):
        place = f"{prefix}/{group}" if prefix else group
        names = _names(arrays, place, "weight_names")
        ways = {name: _way(group, name) for name in names}
        depth = _depth(group, ways.values())
        config = model.child(group) if model else None
        for name, way in ways.items():
            # HDF5 takes two slashes for one.
            array = arrays.tensors.get(f"{place}/{re.sub('/+', '/', name)}")
            if array is None:
                raise RecordError(f"the weight {shown(name)} of {shown(group)} is not in the file")
            layer, kind = _named_layer(group, way, config, depth)
            layers.of_keras_1 |= way.of_keras_1
            layers.add(layer, kind, way.role, array)
    return layers


@dataclass(frozen=True)
class _Way:
    """Where a weight is: the layers around it, and what it is there."""

    around: tuple[str, ...]
    role: str
    of_keras_1: bool


def _way(group: str, name: str) -> _Way:
    """Take apart how a weight of a group is called, by any version."""
    *around, last = (part.partition(":")[0] for part in name.split("/") if part)
    match = _FIRST.fullmatch(last)
    if match is None:
        return _Way(tuple(around), last, of_keras_1=False)
    layer = around[-1] if around else group
    if match["layer"] != layer and around:
        return _Way(tuple(around), last, of_keras_1=False)
    if match["layer"] != layer:  # the group is a model that holds it
        around, layer = [match["layer"]], match["layer"]
    is_embedding = match["role"] == "W" and "embed" in layer.lower()
    role = "embeddings" if is_embedding else _FIRST_ROLES.get(match["role"], match["role"])
    return _Way(tuple(around), role, of_keras_1=True)


def _depth(group: str, ways: Collection[_Way]) -> int:
    """Return how many of the layers around weights it takes to tell these apart."""
    if len({way.around for way in ways}) < 2:
        # Keras 1 begins a name with that of the layer: where this is not the group, it is inside.
        return int(any(way.of_keras_1 and way.around[-1:] not in {(), (group,)} for way in ways))
    longest = max(len(way.around) for way in ways)
    return next(
        (
            depth
            for depth in range(1, longest)
            if len({(way.around[-depth:], way.role) for way in ways}) == len(ways)
        ),
        longest,
    )


def _named_layer(
    group: str, way: _Way, config: LayerConfig | None, depth: int
) -> tuple[str, str | None]:
    """Return the name and the class of the layer that a weight of a group belongs to."""
    if config and config.layers and way.around:
        # TensorFlow 1 counted on where a session had a variable of that name already.
        for name in (way.around[-1], _COUNTED.sub("", way.around[-1])):
            if inside := config.find(name):
                return _dotted(group, *(layer.name for layer in inside)), inside[-1].kind
    around = way.around[-depth:] if depth else ()
    if config is None or config.layers:
        return _dotted(group, *around), None
    return _dotted(group, *around), (config.wrapped or config).kind


def _names(arrays: Arrays, group: str, attribute: str) -> list[str]:
    """Return a list of names; a long one is cut into `names0`, `names1` and so on."""
    attributes: dict[str, Any] = arrays.attributes.get(group, {})
    found = attributes.get(attribute)
    if found is None:
        found = []
        while f"{attribute}{len(found)}" in attributes:
            found.append(attributes[f"{attribute}{len(found)}"])
        found = [name for part in found for name in (part if isinstance(part, list) else [None])]
    if not isinstance(found, list) or not all(isinstance(name, str) for name in found):
        raise RecordError(f"{attribute} of {shown(group)} is not a list of names")
    return found


def by_numbers(arrays: Arrays, model: LayerConfig) -> Layers:
    """Collect layers from a file that numbers variables, by the model's configuration."""
    layers = Layers()
    _number("", model, "", arrays, layers)
    return layers


def with_slashes(arrays: Arrays) -> Arrays:
    r"""Return the arrays of a file that numbers variables by paths of `/`.

    Keras 2 on Windows joined the names of groups by its own separator: `layers\conv2d/vars/0`.
    """
    if not any(path.startswith(f"{name}\\") for name in CONTAINERS for path in arrays.attributes):
        return arrays
    tensors = {
        path: replace(array, name=path)
        for stored, array in arrays.tensors.items()
        for path in [stored.replace("\\", "/")]
    }
    if len(tensors) < len(arrays.tensors):  # no array of Keras's is called like another
        return arrays
    places = [path.replace("\\", "/") for path in arrays.attributes]
    places += [path.rpartition("/")[0] for path in places]
    return replace(arrays, tensors=tensors, attributes={place: {} for place in places})


def model_of_groups(arrays: Arrays, place: str = "") -> LayerConfig:
    """Return a model as the groups of a file that numbers variables show it: nothing else does.

    A group is named after its layer's class, so that both are known, except the author's names.
    """
    names = set()
    for container in CONTAINERS:
        inside = f"{_path(place, container)}/"
        found = (path.removeprefix(inside) for path in arrays.attributes if path.startswith(inside))
        names |= {(inside, rest.partition("/")[0]) for rest in found}
    ordered = sorted(names, key=lambda name: natural_key(name[1]))
    layers = tuple(_layer_of_group(arrays, inside + name, name) for inside, name in ordered)
    return LayerConfig("", "Functional", {}, layers)


def _layer_of_group(arrays: Arrays, place: str, name: str) -> LayerConfig:
    stem = _COUNTED.sub("", name)
    kind = _KINDS.get(stem, stem)
    layers = model_of_groups(arrays, place).layers
    if kind not in _NORMS:
        return LayerConfig(name, kind, {}, layers, group=name)
    more = len(_variables(arrays, place)) - len(_NORMS[kind])
    # Where there is one more, nothing says whether it is the scale or the offset.
    settings = dict.fromkeys(("scale", "center"), more > 0)
    return LayerConfig(name, stem if more == 1 else kind, settings, layers, group=name)


def _number(place: str, model: LayerConfig, prefix: str, arrays: Arrays, layers: Layers) -> None:
    """Collect the layers of a model whose group is `place`."""
    container = next(
        (inner for name in CONTAINERS if (inner := _path(place, name)) in arrays.attributes), None
    )
    if container is None:
        return
    for group, layer in saved_names(model):
        inner = f"{container}/{group}"
        name = _dotted(prefix, layer.name) if prefix else _dotted(layer.name)
        if layer.layers:
            _number(inner, layer, name, arrays, layers)
            continue
        variables = _variables(arrays, inner)
        if layer.wrapped and not variables:
            layer, variables = layer.wrapped, _variables(arrays, f"{inner}/layer")
        if layer.is_quantized and variables:
            layers.quantized.append(name)
            layers.taken |= {array.name for array in variables}
            continue
        roles = _roles(layer)
        known = len(variables) <= len(roles)
        for at, array in enumerate(variables):
            role = roles[at] if known else f"vars.{at}"
            layers.add(name, layer.kind if known else "", role, array)


def _variables(arrays: Arrays, place: str) -> list[TensorInfo]:
    found: list[TensorInfo] = []
    while (array := arrays.tensors.get(f"{place}/vars/{len(found)}")) is not None:
        found.append(array)
    return found


def _roles(layer: LayerConfig) -> tuple[str, ...]:
    """Return what a layer's variables are, in their order."""
    if layer.kind not in _NORMS:
        return _VARIABLES.get(layer.kind, ())
    scaled = ("gamma",) if layer.settings.get("scale", True) else ()
    centred = ("beta",) if layer.settings.get("center", True) else ()
    return (*scaled, *centred, *_NORMS[layer.kind])


def _path(place: str, name: str) -> str:
    return f"{place}/{name}" if place else name


def _dotted(*names: str) -> str:
    return ".".join(name.replace("/", ".") for name in names)


def groups_with_weights(arrays: Arrays, prefix: str) -> list[str]:
    """Return the names of the layers that have weights, in a file that names both."""
    groups = _names(arrays, prefix, "layer_names")
    return [name for name in groups if _names(arrays, _path(prefix, name), "weight_names")]
