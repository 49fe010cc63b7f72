"""Rewrites the head of a graph so that it answers at every window of the trunk's map.

Node by node: each value of the original's head gets a map in the new graph that holds, at every
window, what the original would hold there. How an operation carries over is tried on random maps,
never looked up; a Dense layer becomes the convolution over the window that it reads.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any, Literal

from fcn_convert.errors import ModelError
from fcn_convert.model import modules, trials
from fcn_convert.model.answers import not_understood, restored, size_of
from fcn_convert.model.carrying import Operation, Trying
from fcn_convert.model.forms import AsItIs, CellByCell, ChannelsLast, Form
from fcn_convert.model.operations import Operations
from fcn_convert.model.sizes import Sizes
from fcn_convert.model.tracing import VALUE, where
from fcn_convert.model.trunk import of_trunk
from fcn_convert.model.values import (
    Lifted,
    Many,
    Pending,
    Plain,
    Value,
    Wrapped,
    counting,
    leaves,
)
from fcn_convert.spec import AXES
from fcn_convert.torch_library import Tensor, functional, fx, nn, torch

Pool = Literal["slide", "global"]


@dataclass(frozen=True)
class LiftedDense:
    """A Dense layer that became a convolution.

    shape: (C, *kernel) of the window it reads. flatten: that window's order in the vector. after:
    the Dense layer before it, where it reads one. root: the trunk's map.
    """

    name: str
    shape: tuple[int, ...]
    flatten: str
    after: str | None
    root: fx.Node
    weight: Tensor


class Lifter:
    """Writes the new graph.

    layers: the Dense layers found. replaced: modules by the name they take. parameters: new values
    of parameters that the model passes to functions itself.
    """

    def __init__(self, sizes: Sizes, pool: Pool) -> None:
        self.sizes = sizes
        self.pool = pool
        self.model = sizes.traced.model
        self.original = Operations(sizes)
        example = next(t for t in sizes.traced.inputs if t.dim() > 2)
        self.like = torch.empty(0, dtype=torch.float64, device=example.device)
        self.batch = len(example)
        self.trying = Trying(self.batch, self.like)
        self.graph = fx.Graph()
        self.made_from: dict[fx.Node, fx.Node] = {}
        self.copies: dict[fx.Node, fx.Node] = {}
        self.values: dict[fx.Node, Value] = {}
        self.layers: dict[str, LiftedDense] = {}
        self.replaced: dict[str, nn.Module] = {}
        self.parameters: dict[str, Tensor] = {}
        self.calls = [n.target for n in sizes.traced.graph.nodes if n.op == "call_module"]

    def run(self) -> None:
        """Write every node; raises ModelError with the node that cannot be."""
        for node in self.sizes.traced.graph.nodes:
            if node.op == "output":
                self.graph.output(fx.map_arg(node.args[0], self._answer))
            elif node not in self.sizes.head:
                self.copies[node] = self.graph.node_copy(node, self.copies.__getitem__)
                self.made_from[self.copies[node]] = node
            else:
                before = set(self.graph.nodes)
                self.values[node] = self._lift(node)
                for made in set(self.graph.nodes) - before:
                    self.made_from[made] = node
        self._remove_what_lost_its_use()

    def value(self, node: fx.Node) -> Value:
        """Return what stands for a node that depends on the input."""
        if node not in self.values:
            found = node.meta[VALUE]
            self.values[node] = (
                of_trunk(node, self.sizes, self.graph, self.copies, self.like)
                if isinstance(found, Tensor)
                else Plain(found, self.copies[node], found)
            )
        return self.values[node]

    def _lift(self, node: fx.Node) -> Value:
        inputs = [n for n in node.all_input_nodes if n in self.sizes.depend_on_input]
        values = {n: self.value(n) for n in inputs}
        if node.target is operator.getitem and isinstance(many := values.get(inputs[0]), Many):
            return self._part(node, many)
        if next(leaves(node.meta[VALUE]), None) is None:
            return self._plain(node, values)
        if not isinstance(node.meta[VALUE], Tensor) and all(u.op == "output" for u in node.users):
            return Wrapped(self.graph.node_copy(node, self._answer))
        site = modules.dense_site(node, self.model)
        if site is not None and (found := self._dense(node, site, values[site.reads])) is not None:
            return found
        known = [value for value in values.values() if isinstance(value, Lifted)]
        if known and not any(isinstance(value, Pending | Many) for value in values.values()):
            for form in (AsItIs(), ChannelsLast()):
                if (carried := self._carry_over(node, values, form)) is not None:
                    return carried
        return self._as_a_whole(node, values)

    def _as_a_whole(self, node: fx.Node, values: dict[fx.Node, Value]) -> Value:
        """Understand a node together with what was pending before it."""
        pending = [value for value in values.values() if isinstance(value, Pending)]
        sources = frozenset[fx.Node]().union(
            (n for n, value in values.items() if isinstance(value, Lifted)),
            *(value.sources for value in pending),
        )
        if len(sources) == 1:
            [source] = sources
            base = self.values[source]
            assert isinstance(base, Lifted)
            if (found := self._pooled_or_rearranged(node, source, base)) is not None:
                return found
        in_order = [n for n in self.sizes.traced.graph.nodes if n in sources]
        if (cells := self._cell_by_cell(node, in_order)) is not None:
            return cells
        return Pending(sources, pending[0].first if pending else node)

    # Dense layers

    def _dense(self, node: fx.Node, site: modules.DenseSite, read: Value) -> Lifted | None:
        if isinstance(read, Pending):
            raise self._stuck(read, f"{site.name} reads")
        features_in = site.weight.shape[1]
        if not isinstance(read, Lifted) or prod(read.inner) != features_in:
            return None  # applied to each of several rows: an operation like any other
        axes = AXES[len(read.shape)]
        flatten = trials.flatten_order(read.order, read.shape, axes)
        if flatten is None:
            raise ModelError(
                f"{where(node)} reads the feature map {size_of(read.shape)} in an order that "
                "is not one of its axes"
            )
        weight = modules.convolution_weight(site.weight, read.order, read.shape)
        after = read.dense if read.is_one_cell else None
        layer = LiftedDense(site.name, read.shape, flatten, after, read.root, weight)
        known = self.layers.setdefault(site.name, layer)
        if (known.shape, known.flatten) != (layer.shape, layer.flatten):
            raise ModelError(
                f"{where(node)} reads {size_of(known.shape)} in one call and "
                f"{size_of(layer.shape)} in another: one convolution cannot do both"
            )
        made = self._write_dense(site, read.node, weight)
        features_out = len(weight)
        shape = (features_out, *(1 for _ in read.kernel))
        inner = (*read.inner[:-1], features_out)
        return Lifted(made, shape, counting(features_out, weight), inner, read.root, site.name)

    def _write_dense(self, site: modules.DenseSite, source: fx.Node, weight: Tensor) -> fx.Node:
        if not site.parameters:
            self._replace(site.name, modules.convolution(site, weight))
            return self.graph.call_module(site.name, (source,))
        self.parameters[str(site.parameters[0].target)] = weight
        function = getattr(functional, f"conv{self.sizes.axes}d")
        copies = (self.copies[parameter] for parameter in site.parameters)
        return self.graph.call_function(function, (source, *copies))

    # Everything else

    def _carry_over(
        self, node: fx.Node, values: dict[fx.Node, Value], form: Form
    ) -> Lifted | Many | None:
        """Return one operation on maps, if this form of it gives what it should."""
        known = [value for value in values.values() if isinstance(value, Lifted)]
        module = self._module_over_maps(node, known)
        operation = Operation(
            self.original.operation(node, values, None),
            self.original.operation(node, values, module),
            self._writer(node, values),
        )
        carried = self.trying.carried(operation, form, known, self.graph)
        if carried is not None and module is not None:
            self._replace(str(node.target), module)
        return carried

    def _cell_by_cell(self, node: fx.Node, sources: Sequence[fx.Node]) -> Lifted | Many | None:
        """Return all that leads from its sources to a node, applied to each cell by itself."""
        known = [value for value in map(self.values.get, sources) if isinstance(value, Lifted)]
        if not known or not all(value.is_one_cell for value in known):
            return None

        def compute(*vectors: Tensor) -> Any:
            return self.original.evaluate(node, dict(zip(sources, vectors, strict=True)), {})

        def write(*nodes: fx.Node) -> fx.Node:
            made = dict(zip(sources, nodes, strict=True))
            for other in self.original.between(sources, node):
                made[other] = self.graph.node_copy(other, _lookup(made, self.copies))
            return made[node]

        operation = Operation(compute, compute, write)
        return self.trying.carried(operation, CellByCell(), known, self.graph)

    def _module_over_maps(self, node: fx.Node, known: Sequence[Lifted]) -> nn.Module | None:
        """Return the batch norm over maps for one over vectors, which refuses maps."""
        if node.op != "call_module" or self.sizes.axes not in modules.BATCH_NORMS:
            return None
        module = self.model.get_submodule(str(node.target))
        if type(module) is not nn.BatchNorm1d:
            return None
        if not known[0].is_one_cell:
            raise ModelError(
                f"{where(node)} normalises each element of the flattened feature map "
                f"{size_of(known[0].shape)} for itself, which no fully convolutional network can; "
                "fold it into the Dense layer first"
            )
        return modules.norm_over_maps(module, self.sizes.axes)

    def _pooled_or_rearranged(self, node: fx.Node, source: fx.Node, base: Lifted) -> Lifted | None:
        def function(windows: Tensor) -> Any:
            return self.original.evaluate(node, {source: base.original(windows)}, {})

        def on_larger(grown: Tensor) -> Any:
            return self.original.evaluate(node, {source: grown}, {})

        inner = tuple(node.meta[VALUE].shape[1:]) if isinstance(node.meta[VALUE], Tensor) else ()
        if base.dense is not None:
            kind = None
        elif not base.is_one_cell:
            kind = _tried(trials.pooling, function, self.batch, base.shape, self.like)
        elif base.inner == base.shape and base.in_order:  # one cell pools to itself: try more
            grown = (base.shape[0], *(size + 2 for size in base.kernel))
            kind = _tried(trials.pooling, on_larger, self.batch, grown, self.like)
        else:
            kind = None
        if kind is not None:
            return self._write_pool(node, kind, base, inner)
        order = _tried(trials.rearrangement, function, self.batch, base.shape, self.like)
        return None if order is None else replace(base, order=order, inner=inner)

    def _write_pool(self, node: fx.Node, kind: str, base: Lifted, inner: tuple[int, ...]) -> Lifted:
        shape = (base.shape[0], *(1 for _ in base.kernel))
        own = node.op == "call_module" and self.calls.count(node.target) == 1
        slide = self.pool == "slide"
        module = modules.sliding_pool(kind, base.kernel) if own and slide else None
        if module is not None:
            self._replace(str(node.target), module)
        if module is not None or (own and not slide and inner == shape):
            made = self.graph.call_module(str(node.target), (base.node,))
        else:
            made = modules.write_pool(self.graph, kind, base.node, base.kernel, slide=slide)
        order = counting(base.shape[0], self.like)
        return Lifted(made, shape, order, inner, base.root)

    def _plain(self, node: fx.Node, values: dict[fx.Node, Value]) -> Plain:
        """Write what computes a size, where the new graph has it."""
        value = node.meta[VALUE]
        if any(isinstance(other, Pending | Many) for other in values.values()):
            return Plain(value)
        known = [other for other in values.values() if isinstance(other, Lifted)]
        maps = iter([trials.random_map(self.batch, v.shape, self.like) for v in known])
        arguments = {
            n: next(maps) if isinstance(v, Lifted) else v.there if v.node is not None else v.value
            for n, v in values.items()
            if isinstance(v, Lifted | Plain)
        }
        try:
            there = self.original.perform(node, arguments, None)
        except Exception:  # noqa: BLE001 - an axis that the map does not have, say
            return Plain(value)
        writer = {
            n: v.node if v.node is not None else v.value
            for n, v in values.items()
            if isinstance(v, Lifted | Plain)
        }
        return Plain(value, self.graph.node_copy(node, _lookup(writer, self.copies)), there)

    def _part(self, node: fx.Node, many: Many) -> Value:
        part = many.parts[node.args[1]] if isinstance(node.args[1], int) else None
        if part is None:
            raise ModelError(
                f"{where(node)} takes several parts of a tuple at once: expected one, by its number"
            )
        return part

    # Answers, and what is left

    def _writer(self, node: fx.Node, values: dict[fx.Node, Value]) -> Callable[..., fx.Node]:
        """Return what writes a node's operation on other nodes."""
        lifted = [n for n, value in values.items() if isinstance(value, Lifted)]
        plain = {n: value.argument for n, value in values.items() if isinstance(value, Plain)}

        def write(*nodes: fx.Node) -> fx.Node:
            arguments = {**plain, **dict(zip(lifted, nodes, strict=True))}
            return self.graph.node_copy(node, _lookup(arguments, self.copies))

        return write

    def _replace(self, name: str, module: nn.Module) -> None:
        """Put a module in another's place, under every name that it has."""
        old = self.model.get_submodule(name)
        for other, found in self.model.named_modules(remove_duplicate=False):
            if found is old:
                self.replaced[other] = module

    def _answer(self, node: fx.Node) -> Any:
        if node not in self.sizes.head:
            return self.copies[node]
        value = self.values[node]
        if isinstance(value, Wrapped):
            return value.node
        if isinstance(value, Pending):
            raise self._stuck(value, "the model returns")
        if isinstance(value, Plain):
            return value.argument
        if isinstance(value, Many):
            return tuple(part.node for part in value.parts)
        return restored(self.graph, value)

    def _stuck(self, pending: Pending, why: str) -> ModelError:
        sources = [s for s in map(self.values.get, pending.sources) if isinstance(s, Lifted)]
        return not_understood(pending.first, sources, why)

    def _remove_what_lost_its_use(self) -> None:
        for node in reversed(self.graph.nodes):
            old = self.made_from.get(node)
            if old is not None and not node.users and old.users and node.op != "placeholder":
                self.graph.erase_node(node)


def _lookup(values: dict[fx.Node, Any], copies: dict[fx.Node, fx.Node]) -> Callable[..., Any]:
    return lambda node: values[node] if node in values else copies[node]


def _tried(trial: Callable[..., Any], *arguments: Any) -> Any:
    """Return a trial's result, or None where the operation refuses what it is tried on."""
    try:
        return trial(*arguments)
    except Exception:  # noqa: BLE001 - each operation refuses in its own way
        return None
