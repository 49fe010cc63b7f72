"""A Keras model's configuration: its layers, their classes and what they hold, as data.

Nothing that it names is imported or run; a Lambda layer's code stays a text in it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fcn_convert.errors import CheckpointError
from fcn_convert.formats.keras_first import MAX_DEPTH, in_later_words
from fcn_convert.tensors import MAX_TENSORS, shown

Use = tuple[str, int]
"""What a layer gives when it is used for the nth time, from 0: its name, and n."""


@dataclass(frozen=True)
class LayerConfig:
    """A layer: its name and class, its settings, and the layers inside it.

    wrapped: the one layer that a wrapper such as TimeDistributed applies. uses: what it reads, each
    time that it is used. results: what a model gives. group: what a file calls it, where only the
    file is known.
    """

    name: str
    kind: str
    settings: dict[str, Any]
    layers: tuple[LayerConfig, ...] = ()
    wrapped: LayerConfig | None = None
    uses: tuple[tuple[Use, ...], ...] = ()
    results: tuple[Use, ...] = ()
    group: str = ""

    def find(self, name: str) -> tuple[LayerConfig, ...]:
        """Return the way to a layer inside this one; empty where it is not there."""
        for layer in self.layers:
            if layer.name == name:
                return (layer,)
            way = layer.find(name)
            if way:
                return (layer, *way)
        return ()

    def child(self, name: str) -> LayerConfig | None:
        """Return the layer of that name directly inside this one."""
        return next((layer for layer in self.layers if layer.name == name), None)

    def every(self) -> Iterator[LayerConfig]:
        """Yield this layer and all inside it."""
        yield self
        for layer in (*self.layers, *([self.wrapped] if self.wrapped else [])):
            yield from layer.every()

    @property
    def is_quantized(self) -> bool:
        """Whether its kernel holds integers that Keras scales when it runs."""
        policy = self.settings.get("dtype")
        return isinstance(policy, dict) and str(policy.get("class_name")).startswith("Quantized")


def read_config(path: Path, data: Any) -> LayerConfig:
    """Return the model that a configuration describes; raises CheckpointError for any other.

    data: as `to_json()` writes it, or `get_config()` gives it.
    """
    whole = _with_class(data)
    found = _layer(in_later_words(whole), 0)
    if found is None or (whole is not data and not found.layers):
        raise CheckpointError(f"{path}: its configuration describes no model of Keras")
    if sum(1 for _ in found.every()) > MAX_TENSORS:
        raise CheckpointError(f"{path}: its configuration has more than {MAX_TENSORS} layers")
    return found


def _with_class(data: Any) -> Any:
    """Return what `get_config()` gives with the class of the model, which its parts show."""
    match data:
        case [*_]:  # of a Sequential, until the first versions of Keras 2
            return {"class_name": "Sequential", "config": {"layers": data}}
        case {"layers": [*_]} if "class_name" not in data:
            kind = "Functional" if "output_layers" in data else "Sequential"
            return {"class_name": kind, "config": data}
    return data


def _layer(data: Any, depth: int) -> LayerConfig | None:
    if not isinstance(data, dict) or depth > MAX_DEPTH:
        return None
    kind, settings = data.get("class_name"), data.get("config")
    if isinstance(settings, list):  # a Sequential of the first versions of Keras 2
        settings = {"layers": settings}
    if not isinstance(kind, str) or not isinstance(settings, dict):
        return None
    name = settings.get("name") or data.get("name") or ""
    listed, nodes = settings.get("layers"), data.get("inbound_nodes")
    layers = [_layer(each, depth + 1) for each in listed] if isinstance(listed, list) else []
    return LayerConfig(
        name if isinstance(name, str) else shown(str(name)),
        kind.rpartition(">")[2],
        settings,
        tuple(layer for layer in layers if layer),
        _layer(settings.get("layer"), depth + 1),
        tuple(tuple(_references(node)) for node in nodes) if isinstance(nodes, list) else (),
        tuple(_references(settings.get("output_layers"))),
    )


def _references(node: Any, depth: int = 0) -> Iterator[Use]:
    """Yield what a node reads, written as `[name, node, tensor, …]` by any version."""
    if depth > MAX_DEPTH:
        return
    if isinstance(node, dict):
        node = node.get("keras_history") or list(node.values())
    if not isinstance(node, list):
        return
    if len(node) > 2 and isinstance(node[0], str) and all(type(n) is int for n in node[1:3]):
        yield node[0], node[1]
        return
    for each in node:
        yield from _references(each, depth + 1)


def snake_case(name: str) -> str:
    """Return a class's name as Keras writes it into a file: `Conv2D` is `conv2d`."""
    name = re.sub(r"\W+", "", name)
    name = re.sub("(.)([A-Z][a-z]+)", r"\1_\2", name)
    return re.sub("([a-z])([A-Z])", r"\1_\2", name).lower()


def saved_names(model: LayerConfig) -> Iterator[tuple[str, LayerConfig]]:
    """Yield the layers directly inside a model, each with the name of its group in the file."""
    layers = model.layers
    if model.kind == "Sequential" and layers and layers[0].kind == "InputLayer":
        layers = layers[1:]
    used: dict[str, int] = {}
    for layer in layers:
        name = snake_case(layer.kind)
        count = used.get(name, 0)
        used[name] = count + 1
        yield layer.group or (f"{name}_{count}" if count else name), layer


def epsilons(model: LayerConfig) -> tuple[str, ...]:
    """Return a note on what norms add to the variance, where that is not PyTorch's 1e-05."""
    found = {
        value
        for layer in model.every()
        if layer.kind.endswith("Normalization")
        and isinstance(value := layer.settings.get("epsilon"), float)
    }
    if not found - {1e-5}:
        return ()
    listed = ", ".join(f"{value:g}" for value in sorted(found))
    return (f"the norms have epsilon {listed}: say so in PyTorch, as in BatchNorm2d(…, eps=…)",)
