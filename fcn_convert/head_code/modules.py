"""Which modules the head consists of, and the statements that make them under their names."""

from __future__ import annotations

import keyword
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise

from fcn_convert.errors import printable
from fcn_convert.head_code.reading import Layer, ReportedHead
from fcn_convert.report.making import convolution_line
from fcn_convert.tensors import parent

MAX_GAPS = 64
"""Positions without tensors that a Sequential is filled up with; beyond, its members are named."""


@dataclass
class Node:
    """A module of the head by its place in the tree. line: how it is made; None: a container."""

    line: str | None = None
    children: dict[str, Node] = field(default_factory=dict)

    @property
    def is_sequence(self) -> bool:
        """Whether its members are numbered, with few gaps, and have no members of their own."""
        if self.line or not self.children or not all(map(_is_number, self.children)):
            return False
        gaps = max(map(int, self.children)) + 1 - len(self.children)
        return gaps <= MAX_GAPS and not any(node.children for node in self.children.values())


class Modules:
    """The tree of the head's modules: its layers, and norms and PReLUs between them.

    chains: by container, its layers where each reads the one before, so that it is a Sequential.
    after: by layer, the norms and PReLUs that follow it outside a Sequential. maybe: likewise,
    those that may as well follow something before the head. unmade: modules that have a place in
    the head and tensors in the file, which do not tell what they are.
    """

    def __init__(self, head: ReportedHead) -> None:
        self.head = head
        self.root = Node()
        for layer in head.layers:
            _insert(self.root, layer.name, _convolution(layer))
        members: dict[str, list[Layer]] = {}
        for layer in head.layers:
            members.setdefault(parent(layer.name), []).append(layer)
        sequences = {n: found for n, found in members.items() if n and self.at(n).is_sequence}
        self.chains = {name: found for name, found in sequences.items() if _is_chain(found)}
        self.after: dict[str, list[str]] = {}
        self.maybe: dict[str, list[str]] = {}
        self.unmade: list[str] = []
        for name, layers in self.chains.items():
            self._insert_between(name, layers)
        for name, parts in head.kept_modules.items():
            self._insert_after(name, parts)

    def at(self, name: str) -> Node:
        """Return the node of a dotted name."""
        node = self.root
        for part in name.split("."):
            node = node.children[part]
        return node

    def _insert_between(self, container: str, layers: list[Layer]) -> None:
        """Insert the norms and PReLUs that follow the first layer of a Sequential."""
        first = min(int(_last(layer.name)) for layer in layers)
        for name, parts in self.head.kept_modules.items():
            number = _last(name)
            inside = parent(name) == container and _is_number(number) and int(number) > first
            if not inside or number in self.at(container).children:
                continue
            if line := _elementwise(parts, len(layers[0].shape) - 2):
                _insert(self.root, name, line)
            else:
                self.unmade.append(name)

    def _insert_after(self, name: str, parts: dict[str, tuple[int, ...]]) -> None:
        """Insert a norm or a PReLU beside layers, where it can only follow one of them."""
        beside = [layer for layer in self.head.layers if parent(layer.name) == parent(name)]
        if parent(name) in self.chains or any(layer.name == name for layer in beside):
            return
        width = _width(parts)
        fitting = [layer for layer in beside if layer.features_out == width]
        if not fitting or width in self.head.other_channels:
            for layer in fitting:
                self.maybe.setdefault(layer.name, []).append(name)
            return
        line = _elementwise(parts, len(fitting[0].shape) - 2)
        if line and len(fitting) == 1:
            _insert(self.root, name, line)
            self.after.setdefault(fitting[0].name, []).append(name)
        else:
            self.unmade.append(name)

    def holds_tensors(self, name: str) -> bool:
        """Return whether the file has tensors under this name."""
        return any(n == name or n.startswith(f"{name}.") for n in self.head.kept_modules)


def constructor_lines(modules: Modules) -> list[str]:
    """Return the statements that make every module under its name."""
    return list(_statements(modules, "self", "", modules.root))


def reference(name: str) -> str:
    """Return the expression for a module by its dotted name."""
    if all(map(_is_attribute, name.split("."))):
        return f"self.{name}"
    return f"self.get_submodule({name!r})"


def _statements(modules: Modules, at: str, name: str, node: Node) -> Iterator[str]:
    for part, child in node.children.items():
        inner = f"{name}.{part}" if name else part
        lines = (
            _sequence(modules, inner, child) if child.is_sequence else [child.line or "nn.Module()"]
        )
        if _is_attribute(part):
            yield f"{at}.{part} = {lines[0]}"
            yield from lines[1:]
        else:
            yield f"{at}.add_module({part!r}, {lines[0]}" + (")" if len(lines) == 1 else "")
            yield from (*lines[1:-1], f"{lines[-1]})") if len(lines) > 1 else ()
        if not child.is_sequence:
            yield from _statements(modules, reference(inner), inner, child)


def _sequence(modules: Modules, name: str, node: Node) -> list[str]:
    """Return the lines that make a container of numbered members, filled up where some miss."""
    chain = name in modules.chains
    numbers = sorted(map(int, node.children))
    opening, closing = ("nn.Sequential(", ")") if chain else ("nn.ModuleList([", "])")
    lines = [opening]
    for number in range(numbers[-1] + 1):
        child = node.children.get(str(number))
        if child is None:
            why = _gap(modules, f"{name}.{number}", before=number < numbers[0])
            lines.append(f"    nn.Identity(),  # {printable(name)}.{number}: {why}")
        else:
            lines.append(f"    {child.line},")
    return [*lines, closing]


def _gap(modules: Modules, name: str, *, before: bool) -> str:
    if modules.holds_tensors(name):
        return "has tensors in the file"
    if before:
        return "was a Flatten or a Dropout, or no part of the head"
    return "an activation or a Dropout goes here"


def _convolution(layer: Layer) -> str:
    features_out, channels, *kernel = layer.shape
    return convolution_line(channels, features_out, tuple(kernel), bias=layer.bias)


def _elementwise(parts: dict[str, tuple[int, ...]], spatial: int) -> str | None:
    """Return the line that makes a norm or a PReLU of these tensors, or None for another module."""
    features = _width(parts)
    if features is None:
        return None
    if {"running_mean", "running_var"} <= parts.keys():
        affine = "" if "weight" in parts else ", affine=False"
        return f"nn.BatchNorm{spatial}d({features}{affine})"
    if parts.keys() == {"weight"}:
        return f"nn.PReLU({features})"
    return None


def _width(parts: dict[str, tuple[int, ...]]) -> int | None:
    """Return how many values each tensor of a norm or a PReLU has; None for another module."""
    shapes = {shape for part, shape in parts.items() if part != "num_batches_tracked"}
    return (
        shapes.pop()[0] if len(shapes) == 1 and all(len(shape) == 1 for shape in shapes) else None
    )


def _is_chain(layers: list[Layer]) -> bool:
    """Return whether each layer can read the one before it, and is numbered after it."""
    return all(
        after.reads == "dense"
        and after.features_in == before.features_out
        and after.head == before.head
        and int(_last(after.name)) > int(_last(before.name))
        for before, after in pairwise(layers)
    )


def _insert(root: Node, name: str, line: str) -> None:
    node = root
    for part in name.split("."):
        node = node.children.setdefault(part, Node())
    node.line = line


def _last(name: str) -> str:
    return name.rpartition(".")[2]


def _is_number(part: str) -> bool:
    """Return whether a name is a number as a Sequential counts."""
    return part.isascii() and part.isdigit() and len(part) < 10 and str(int(part)) == part


def _is_attribute(part: str) -> bool:
    """Return whether a name can be written after a dot."""
    return part.isascii() and part.isidentifier() and not keyword.iskeyword(part) and part[0] != "_"
