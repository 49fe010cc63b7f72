"""The ways in which an operation on vectors may be applied to maps of vectors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from fcn_convert.model.values import Lifted, batch_as_cells, cells_as_batch
from fcn_convert.torch_library import Tensor, fx, torch


class Form(Protocol):
    """A way to apply an operation: tried on tensors, then written into the graph."""

    def try_on(
        self, operation: Callable[..., Any], maps: Sequence[Tensor], values: Sequence[Lifted]
    ) -> Any:
        """Apply the operation to maps (N, C, *cells)."""

    def write(
        self, graph: fx.Graph, operation: Callable[..., fx.Node], values: Sequence[Lifted]
    ) -> fx.Node:
        """Write the same into a graph and return the node of its answer."""


@dataclass(frozen=True)
class AsItIs:
    """The operation on the map itself: activations, dropout, a softmax over axis 1, `cat`."""

    def try_on(
        self, operation: Callable[..., Any], maps: Sequence[Tensor], values: Sequence[Lifted]
    ) -> Any:
        """Apply the operation."""
        del values
        return operation(*maps)

    def write(
        self, graph: fx.Graph, operation: Callable[..., fx.Node], values: Sequence[Lifted]
    ) -> fx.Node:
        """Write the operation."""
        del graph
        return operation(*(value.node for value in values))


@dataclass(frozen=True)
class ChannelsLast:
    """The operation on the map with channels last: a LayerNorm, a softmax over the last axis."""

    def try_on(
        self, operation: Callable[..., Any], maps: Sequence[Tensor], values: Sequence[Lifted]
    ) -> Any:
        """Apply the operation with channels last."""
        del values
        answer = operation(*(one.movedim(1, -1) for one in maps))
        return answer.movedim(-1, 1) if isinstance(answer, Tensor) else None

    def write(
        self, graph: fx.Graph, operation: Callable[..., fx.Node], values: Sequence[Lifted]
    ) -> fx.Node:
        """Write the operation between two moves of the channels."""
        last = [graph.call_function(torch.movedim, (value.node, 1, -1)) for value in values]
        return graph.call_function(torch.movedim, (operation(*last), -1, 1))


@dataclass(frozen=True)
class CellByCell:
    """The operation on every cell as a sample of its own: whatever works sample by sample."""

    def try_on(
        self, operation: Callable[..., Any], maps: Sequence[Tensor], values: Sequence[Lifted]
    ) -> Any:
        """Apply the operation to a batch of cells."""
        pairs = zip(maps, values, strict=True)
        answer = operation(*(cells_as_batch(one, value.inner) for one, value in pairs))
        return batch_as_cells(answer, maps[0]) if isinstance(answer, Tensor) else None

    def write(
        self, graph: fx.Graph, operation: Callable[..., fx.Node], values: Sequence[Lifted]
    ) -> fx.Node:
        """Write the operation between making cells a batch and undoing that."""
        batches = [graph.call_function(cells_as_batch, (v.node, v.inner)) for v in values]
        answer = operation(*batches)
        return graph.call_function(batch_as_cells, (answer, values[0].node))
