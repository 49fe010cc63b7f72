"""A Sequential of Keras 1 that begins with a Merge of other models, as a graph of layers."""

from __future__ import annotations

from typing import Any

MAX_BRANCHES = 32
"""Merges nested in each other."""

Data = dict[str, Any]


def without_branches(settings: Data) -> tuple[str, Data]:
    """Return class and settings of a Sequential, those of a graph where it begins with a Merge.

    The models that it merges stand in the Merge, but the file has their layers as if they stood
    beside it (`flattened_layers` of Keras 1.2.2, models.py).
    """
    listed = settings.get("layers")
    if not isinstance(listed, list) or not _branches(listed):
        return "Sequential", settings
    graph = _Graph()
    try:
        graph.add_row(listed, 0)
    except _UnclearError:
        return "Sequential", settings
    return "Functional", settings | {"layers": list(graph.layers.values())}


def _branches(listed: list[Any]) -> list[Any]:
    """Return the models that the first of a Sequential's layers merges."""
    match listed:
        case [{"class_name": "Merge", "config": {"layers": [*found]}}, *_]:
            return found
    return []


class _UnclearError(Exception):
    """Something is not a layer, or has the same name as another one."""


class _Graph:
    """Layers by their names, each with those that it reads."""

    def __init__(self) -> None:
        self.layers: dict[str, Data] = {}

    def add_row(self, listed: list[Any], depth: int) -> str:
        """Add layers that each read the one before; return the name of the last one."""
        read = [self._add_branch(each, depth + 1) for each in _branches(listed)]
        for each in listed:
            read = [self._add(each, read)]
        if not read:
            raise _UnclearError
        return read[0]

    def _add_branch(self, data: Any, depth: int) -> str:
        """Add a model that is merged; return the name of the layer that gives its output."""
        if depth > MAX_BRANCHES:
            raise _UnclearError
        match data:
            case {"class_name": "Sequential", "config": [*listed] | {"layers": [*listed]}}:
                return self.add_row(listed, depth)
            case {"config": {"layers": [*listed], "output_layers": [[str(name), *_]]}}:
                for each in listed:
                    self._insert(each)
                return name
        return self._add(data, [])

    def _add(self, data: Any, read: list[str]) -> str:
        """Add a layer that reads others; the first of a row has an input of the size it states."""
        name = _name(data)
        shape = data["config"].get("batch_input_shape")
        if not read and shape is not None and data.get("class_name") != "InputLayer":
            source = {"name": f"{name}_input", "batch_input_shape": shape}
            read = [self._insert({"class_name": "InputLayer", "config": source})]
        return self._insert(data | {"inbound_nodes": [[[each, 0, 0] for each in read]]})

    def _insert(self, data: Any) -> str:
        name = _name(data)
        if name in self.layers:
            raise _UnclearError
        self.layers[name] = data
        return name


def _name(data: Any) -> str:
    """Return a layer's name."""
    match data:
        case {"config": {"name": str(name)}} if name:
            return name
    raise _UnclearError
