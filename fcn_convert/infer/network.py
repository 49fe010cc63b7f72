"""A network as its state dict shows it: which modules give how many channels, in which order."""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from itertools import takewhile

from fcn_convert.layers import dense_weights
from fcn_convert.tensors import BIAS, WEIGHT, StateDict, TensorInfo, natural_key, parent

MAX_DEPTH = 32
"""Modules nested in each other that are distinguished; what is deeper counts as one name."""
_CONVOLUTIONS = (WEIGHT, ".weight_v", ".weight_orig", ".parametrizations.weight.original1")
"""Ends of the names under which a convolution keeps its kernel, weight and spectral norm too."""
_RECURRENT = re.compile(r"(.+)\.(?:weight_hh_l\d+|recurrent_kernel|cell\.vars\.1)")
"""How the weights of a recurrent layer that read its own answer end: PyTorch's, and Keras's."""


@dataclass(frozen=True, slots=True)
class Producer:
    """A convolution or a norm: a module after which a map has `channels` channels.

    at: its place in the walk. reads: a convolution's input channels (of one group); None for a
    norm. kernel: a convolution's spatial sizes; empty for a norm.
    """

    module: str
    at: int
    channels: int
    reads: int | None
    kernel: tuple[int, ...]


@dataclass
class Scope:
    """A module that holds others: the producers in it, by child, in the order of the walk."""

    name: str
    children: dict[str, Scope] = field(default_factory=dict)
    producers: list[Producer] = field(default_factory=list)

    def rows(self) -> list[list[Scope]]:
        """Return the children in rows: those whose names differ by what they are counted with."""
        rows: dict[str, list[Scope]] = {}
        for name, child in self.children.items():
            rows.setdefault(stem(name), []).append(child)
        return list(rows.values())

    def under(self, child: str) -> str:
        """Return a child's whole name."""
        return f"{self.name}.{child}" if self.name else child


class Network:
    """What shapes and names say of a network.

    ordered: whether the file's order tells which module was registered first; safetensors sorts.
    """

    def __init__(self, state_dict: StateDict) -> None:
        self.tensors = state_dict.tensors
        self.layout = state_dict.layout
        self.flattened = state_dict.flattened
        self.ordered = not _is_sorted(state_dict)
        names = self.tensors if self.ordered else sorted(self.tensors, key=natural_key)
        self.places: Mapping[str, int] = {name: at for at, name in enumerate(names)}
        self._ends: dict[str, tuple[int, ...]] = {}
        weights = dense_weights(state_dict)
        self.dense: Mapping[str, TensorInfo] = dict(
            sorted(weights.items(), key=lambda item: self.places[item[1].name])
        )

    def place(self, module: str) -> int:
        """Return the place of a Dense layer's weight in the walk."""
        return self.places[self.dense[module].name]

    @cached_property
    def producers(self) -> tuple[Producer, ...]:
        """Convolutions, and norms that follow no Dense layer, in the order of the walk."""
        found = [p for name in self.places if (p := self._producer(name)) is not None]
        # Both tensors of a norm name it; weight-normed kernels may, too.
        return tuple({producer.module: producer for producer in found}.values())

    def _producer(self, name: str) -> Producer | None:
        tensor, at = self.tensors[name], self.places[name]
        module = _module(name)
        if len(tensor.shape) > 2 and name.endswith(_CONVOLUTIONS):
            bias = self.tensors.get(module + BIAS)
            out, reads, *kernel = tensor.shape
            if bias is not None and bias.shape == tensor.shape:
                return None  # a norm over several axes
            if bias is not None and bias.shape == (reads,) != (out,):
                out, reads = reads, out  # a transposed convolution
            return Producer(module, at, out, reads, tuple(kernel))
        # Beside a Dense layer that gives as many features, it norms those.
        if not self._is_norm(name) or (parent(module), tensor.shape[0]) in self._outputs:
            return None
        return Producer(module, at, tensor.shape[0], None, ())

    def _is_norm(self, name: str) -> bool:
        tensor, bias = self.tensors[name], self.tensors.get(_module(name) + BIAS)
        return len(tensor.shape) == 1 and (
            name.endswith(".running_mean")
            or (name.endswith(WEIGHT) and bias is not None and bias.shape == tensor.shape)
        )

    @cached_property
    def normed(self) -> set[int]:
        """Every width that a norm has."""
        return {self.tensors[name].shape[0] for name in self.tensors if self._is_norm(name)}

    @cached_property
    def _outputs(self) -> set[tuple[str, int]]:
        return {(parent(name), weight.shape[0]) for name, weight in self.dense.items()}

    @cached_property
    def root(self) -> Scope:
        """The tree of modules that hold producers."""
        root = Scope("")
        for producer in self.producers:
            scope = root
            scope.producers.append(producer)
            for part in producer.module.split(".", MAX_DEPTH):
                scope = scope.children.setdefault(part, Scope(scope.under(part)))
                scope.producers.append(producer)
        return root

    @cached_property
    def _readers(self) -> Mapping[int, list[str]]:
        """Convolutions, sorted by name, by the channels that they read."""
        readers: dict[int, list[str]] = {}
        for producer in sorted(self.producers, key=lambda p: p.module):
            if producer.reads is not None:
                readers.setdefault(producer.reads, []).append(producer.module)
        return readers

    def is_read(self, channels: int, within: str, outside: Iterable[str]) -> bool:
        """Return whether a convolution in one module, but in none of others, reads `channels`.

        within: the module; empty for the whole network.
        """
        readers = self._readers.get(channels, [])
        count = _count(readers, within) if within else len(readers)
        return count > sum(_count(readers, scope) for scope in outside)

    def ends(self, scope: Scope) -> tuple[int, ...]:
        """Return the channels that a module ends with: those that nothing after them reads.

        Of each row of modules (`layer1` to `layer4`) the last one counts, unless a convolution
        outside the row reads what it gives.
        """
        if scope.name not in self._ends:
            self._ends[scope.name] = tuple(dict.fromkeys(self._find_ends(scope)))
        return self._ends[scope.name]

    def _find_ends(self, scope: Scope) -> list[int]:
        if not scope.children:
            return [producer.channels for producer in scope.producers[-1:]]
        rows = [(row, channels) for row in scope.rows() for channels in self.ends(row[-1])]
        unread = [
            channels
            for row, channels in rows
            if not self.is_read(channels, scope.name, [child.name for child in row])
        ]
        if not unread and self.ordered:
            # The first convolution may read as many channels as the last one gives, but not those.
            last = {producer.reads: producer.at for producer in scope.producers}
            unread = [
                channels
                for row, channels in rows
                if last.get(channels, -1) < row[-1].producers[-1].at
            ]
        # Where each row may read another one, any may be the last.
        return unread or [channels for _, channels in rows]

    def last_inside(self, scope: str) -> Producer | None:
        """Return the last producer in a module, if it holds any."""
        node = self.root
        for part in scope.split(".", MAX_DEPTH):
            if part not in node.children:
                return None
            node = node.children[part]
        return node.producers[-1]

    @cached_property
    def recurrent(self) -> Mapping[int, str]:
        """Recurrent layers by the features that they give."""
        found: dict[int, str] = {}
        for name, tensor in self.tensors.items():
            match = _RECURRENT.fullmatch(name)
            if match and len(tensor.shape) == 2:
                if name.replace("backward_", "forward_") in self.tensors.keys() - {name}:
                    continue  # its answer is read together with the other direction's
                backward = {f"{name}_reverse", name.replace("forward_", "backward_")} - {name}
                both = 1 if backward.isdisjoint(self.tensors) else 2
                found[both * min(tensor.shape)] = match[1]  # the gates are along the other axis
        return found

    @cached_property
    def _sorted_names(self) -> list[str]:
        return sorted(self.tensors)

    def holds(self, scope: str) -> Iterator[str]:
        """Yield the names of the tensors in a module."""
        start = bisect_left(self._sorted_names, f"{scope}.")
        yield from self._sorted_names[start : bisect_right(self._sorted_names, f"{scope}/")]


def _count(names: list[str], scope: str) -> int:
    """Count the names, which are sorted, of a module and of what is in it."""
    itself = bisect_right(names, scope) - bisect_left(names, scope)
    return itself + bisect_left(names, f"{scope}/") - bisect_left(names, f"{scope}.")


def _is_sorted(state_dict: StateDict) -> bool:
    """Return whether names are sorted within each dtype, as safetensors leaves them."""
    last: dict[str, str] = {}
    for name, tensor in state_dict.tensors.items():
        if name < last.get(tensor.dtype.name, ""):
            return False
        last[tensor.dtype.name] = name
    return True


def _module(name: str) -> str:
    for end in _CONVOLUTIONS:
        if name.endswith(end):
            return name.removesuffix(end)
    return parent(name)


def stem(component: str) -> str:
    """Return what a module's name shares with those counted on from it: `layer` of `layer4`."""
    return "".join(takewhile(lambda character: not character.isdigit(), component))
