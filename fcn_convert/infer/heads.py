"""Which Dense layers end the network, and which work inside it, with the reason.

Shapes decide first: what returns to the width that it started from, or leads on into a
convolution, is not a head. Names only distinguish what shapes leave open.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

from fcn_convert.infer.network import MAX_DEPTH, Network
from fcn_convert.tensors import BIAS, parent

_ATTENTION = re.compile(
    r"(to_)?(q|k|v|kv|qkv|query|key|value)(_?proj|_linear|_lin)?|w[qkv]|c_attn|in_proj", re.ASCII
)
_EMBEDDING = re.compile(r"(^|[._])(embed(ding)?s?|wte|wpe|tok(en)?s?|vocab)", re.ASCII)
_NUMBER = re.compile(r"\d+", re.ASCII)

ROUNDS = 4
"""Dense layers in a row that lead on to a convolution; each round finds the one before."""
MANY = 5
"""More blocks, each with a layer of the same name, than a network has heads."""


@dataclass(frozen=True)
class DenseLayers:
    """The 2-D weights of a network, by module: those that may be a head's, and the others.

    other: each with the reason why it is not a head's.
    """

    heads: tuple[str, ...]
    other: Mapping[str, str]


def find_heads(network: Network) -> DenseLayers:
    """Tell the Dense layers of heads from those that work inside the network."""
    return _Finder(network).find()


class _Finder:
    """The search, rule by rule; each takes what the ones before it left."""

    def __init__(self, network: Network) -> None:
        self.network = network
        self.other: dict[str, str] = {}
        blocks: dict[str, set[str]] = {}
        for name in network.dense:
            blocks.setdefault(masked(name), set()).add(parent(name))
        self.repeats = {name: len(places) for name, places in blocks.items()}

    def find(self) -> DenseLayers:
        for rule in (
            self._stated,
            self._norms,
            self._attention,
            self._returns,
            self._blocks,
            self._repeated,
            *[self._goes_on] * ROUNDS,
            self._first,
            self._embeddings,
            self._recurrent,
        ):
            for name, reason in list(rule()):
                self.other.setdefault(name, reason)
        return DenseLayers(tuple(self._left()), self.other)

    def _left(self) -> Iterator[str]:
        return (name for name in self.network.dense if name not in self.other)

    def _stated(self) -> Iterator[tuple[str, str]]:
        for name in self.network.dense:
            if self.network.flattened.get(name, self) is None:
                yield name, "reads no map, as the file's configuration says"

    def _norms(self) -> Iterator[tuple[str, str]]:
        for name, weight in self.network.dense.items():
            bias = self.network.tensors.get(name + BIAS)
            if bias is not None and bias.shape == weight.shape:
                yield name, "a norm over two axes"

    def _attention(self) -> Iterator[tuple[str, str]]:
        """Queries, keys and values, by name, and what stands beside them."""
        parts = {
            parent(module)
            for name in self._left()
            for module in (name, parent(name))
            if _ATTENTION.fullmatch(module.rpartition(".")[2])
        }
        parts |= {
            parent(name)
            for name in self.network.tensors
            if name.endswith((".in_proj_weight", ".q_proj_weight"))
        }
        for name in self._left():
            if any(above in parts for above in ancestors(name) if above):
                yield name, "attention"

    def _returns(self) -> Iterator[tuple[str, str]]:
        """Two layers in one module that return to the width they started from."""
        weights = self.network.dense
        by_parent: dict[str, list[str]] = {}
        for name in self._left():
            by_parent.setdefault(parent(name), []).append(name)
        for above, names in by_parent.items():
            for first, second in pairwise(names):
                hidden, width = weights[first].shape
                back, reads = weights[second].shape
                if back != width or hidden not in {reads, 2 * reads} or not above:
                    continue
                block = self._block(first)
                repeats = self.repeats[masked(first)]
                if hidden < width and self._convolves(block):
                    reason = f"squeeze-and-excite, {width} → {hidden} → {width}"
                elif repeats > 1:
                    reason = f"a block's MLP, {width} → {hidden} → {width}, {repeats} times"
                else:
                    continue
                yield first, reason
                yield second, reason

    def _block(self, name: str) -> str:
        """Return the innermost numbered module that a layer is in, or the one that holds it."""
        numbered = (above for above in ancestors(name) if is_number(above.split(".")[-1]))
        return next(numbered, parent(parent(name)))

    def _convolves(self, block: str) -> bool:
        tensors = self.network.tensors
        return bool(block) and any(len(tensors[n].shape) > 2 for n in self.network.holds(block))

    def _blocks(self) -> Iterator[tuple[str, str]]:
        """Whatever else is in a numbered block with attention or an MLP in it."""
        blocks = {self._block(name) for name in self.other}
        holding = {above for name in self.other for above in ancestors(name)}
        for name in self._left():
            block = self._block(name)
            if not block or not is_number(block.split(".")[-1]):
                continue
            if block in blocks or (block in holding and self._is_read(name)):
                yield name, f"inside {block}, a block of the network"

    def _is_read(self, name: str) -> bool:
        """Return whether a convolution or a norm has as many channels as a layer gives."""
        return self.network.dense[name].shape[0] in self._widths

    @cached_property
    def _widths(self) -> set[int]:
        return {producer.reads or producer.channels for producer in self.network.producers}

    def _repeated(self) -> Iterator[tuple[str, str]]:
        """One layer in each of many blocks whose convolutions lead on from block to block."""
        for name in self._left():
            block, repeats = self._block(name), self.repeats[masked(name)]
            if not is_number(block.split(".")[-1]):
                continue
            if repeats > MANY or (repeats > 2 and self._leads_on(block)):
                yield name, f"one in each of {repeats} blocks of the network"

    def _leads_on(self, block: str) -> bool:
        inside = self.network.last_inside(block)
        return inside is not None and self.network.is_read(inside.channels, "", [block])

    def _goes_on(self) -> Iterator[tuple[str, str]]:
        """A layer in a row of numbered modules, where a later one goes on from its width."""
        inside = [(p.module, p.reads or p.channels) for p in self.network.producers]
        inside += [(name, self.network.dense[name].shape[1]) for name in self.other]
        last: dict[tuple[str, int], tuple[int, str]] = {}
        for module, width in inside:
            for row, number in numbered_rows(module):
                last[row, width] = max(last.get((row, width), (-1, "")), (number, module))
        for name in self._left():
            features = self.network.dense[name].shape[0]
            for row, number in numbered_rows(name):
                at, module = last.get((row, features), (-1, ""))
                if at > number:
                    yield name, f"{module} goes on from it"
                    break

    def _first(self) -> Iterator[tuple[str, str]]:
        """What was made before any convolution, and others after them; or what begins a decoder."""
        places = [producer.at for producer in self.network.producers if producer.reads is not None]
        if not self.network.ordered or not places:
            return
        left = [name for name in self._left() if name not in self.network.flattened]
        first = [name for name in left if self.network.place(name) < min(places)]
        for name in first:
            given, taken = self.network.dense[name].shape
            if len(first) < len(left) or given > taken:
                yield name, "comes before every convolution"

    def _embeddings(self) -> Iterator[tuple[str, str]]:
        for name in self._left():
            if name + BIAS not in self.network.tensors and _EMBEDDING.search(name):
                yield name, "an embedding, by its name and for want of a bias"

    def _recurrent(self) -> Iterator[tuple[str, str]]:
        for name in self._left():
            layer = self.network.recurrent.get(self.network.dense[name].shape[1])
            if layer is not None and name not in self.network.flattened:
                yield name, f"reads the recurrent layer {layer}"


def ancestors(name: str) -> Iterator[str]:
    """Yield the modules around a module, innermost first, without the network itself."""
    for _ in range(MAX_DEPTH):
        name = parent(name)
        if not name:
            return
        yield name


def numbered_rows(name: str) -> Iterator[tuple[str, int]]:
    """Yield each row of numbered modules that a module is in, with its number there."""
    for module in (name, *ancestors(name)):
        row, _, last = module.rpartition(".")
        if is_number(last):
            yield row, int(last)


def is_number(component: str) -> bool:
    """Return whether a module is one of a row, as in `layers.3`."""
    return component.isdigit() and component.isascii() and len(component) < 10


def masked(name: str) -> str:
    """Return a name without its numbers, the same for what is repeated."""
    return _NUMBER.sub("#", name)
