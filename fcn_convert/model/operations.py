"""The original's operations, on other values than the example's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from fcn_convert.model.precision import AtLeast
from fcn_convert.model.sizes import Sizes
from fcn_convert.model.tracing import VALUE, run
from fcn_convert.model.values import Lifted, Plain, Value
from fcn_convert.torch_library import Tensor, fx, nn, torch


@dataclass(frozen=True)
class Operations:
    """The operations of a traced model, computed in float64."""

    sizes: Sizes

    def operation(
        self, node: fx.Node, values: dict[fx.Node, Value], module: nn.Module | None
    ) -> Callable[..., Any]:
        """Return a node's operation as a function of its lifted arguments."""
        lifted = [n for n, value in values.items() if isinstance(value, Lifted)]
        plain = {n: value.value for n, value in values.items() if isinstance(value, Plain)}

        def operation(*maps: Tensor) -> Any:
            return self.perform(node, {**plain, **dict(zip(lifted, maps, strict=True))}, module)

        return operation

    def perform(self, node: fx.Node, values: dict[fx.Node, Any], module: nn.Module | None) -> Any:
        """Do what a node does with other values of its arguments; module: in place of its own."""

        def lookup(other: fx.Node) -> Any:
            return values[other] if other in values else other.meta[VALUE]

        args, kwargs = fx.map_arg((node.args, node.kwargs), lookup)
        with AtLeast(torch.float64):
            if module is not None:
                return module(*args, **kwargs)
            return run(node, self.sizes.traced.model, args, kwargs)

    def evaluate(self, node: fx.Node, given: dict[fx.Node, Any], done: dict[fx.Node, Any]) -> Any:
        """Compute a node of the head from other values of its sources."""
        if node in given:
            return given[node]
        if node not in self.sizes.head:
            return node.meta[VALUE]
        if node not in done:
            inputs = {n: self.evaluate(n, given, done) for n in node.all_input_nodes}
            done[node] = self.perform(node, inputs, None)
        return done[node]

    def between(self, sources: Sequence[fx.Node], node: fx.Node) -> list[fx.Node]:
        """Return the nodes of the head that lead from some sources to a node, itself included."""
        found: set[fx.Node] = set()
        waiting = [node]
        while waiting:
            other = waiting.pop()
            if other in self.sizes.head and other not in sources and other not in found:
                found.add(other)
                waiting.extend(other.all_input_nodes)
        return [other for other in self.sizes.traced.graph.nodes if other in found]
