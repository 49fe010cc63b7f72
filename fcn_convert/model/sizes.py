"""Where in a graph the feature maps are: found by running it on a larger input.

A node whose spatial sizes grow with the input's belongs to the trunk, and so does everything that
leads to one: the squeezed vector of a channel gate, say. What leads to none is the head.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from fcn_convert.errors import ModelError
from fcn_convert.model.imagined import Mode
from fcn_convert.model.tracing import VALUE, Traced, one_line, run, where
from fcn_convert.torch_library import Tensor, fx, nn, torch

LEAST_GROWTH = 64
"""Pixels that a larger input has in addition, at least: above the stride of usual networks."""


def spatial_axes(inputs: tuple[Tensor, ...]) -> int:
    """Return how many spatial axes the inputs have: those of the first one with any."""
    for tensor in inputs:
        if tensor.dim() > 2:
            return tensor.dim() - 2
    shapes = ", ".join(str(tuple(tensor.shape)) for tensor in inputs)
    raise ModelError(
        f"the example input {shapes} has no spatial axes; expected (N, C, L), (N, C, H, W) or "
        "(N, C, D, H, W)"
    )


def larger(inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Return random inputs like these, half as large again along each spatial axis."""
    return tuple(
        torch.randn(
            (
                *tensor.shape[:2],
                *(size + max(size // 2, LEAST_GROWTH) for size in tensor.shape[2:]),
            ),
            device=tensor.device,
        ).to(tensor.dtype)
        if tensor.dim() > 2
        else tensor
        for tensor in inputs
    )


@dataclass(frozen=True)
class Sizes:
    """What is trunk and what is head.

    shapes: what each node gave for the larger input, as far as that could be computed.
    """

    traced: Traced
    shapes: dict[fx.Node, tuple[int, ...]]
    axes: int = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "axes", spatial_axes(self.traced.inputs))

    @cached_property
    def depend_on_input(self) -> set[fx.Node]:
        """Nodes that are computed from the input."""
        found: set[fx.Node] = set()
        for node in self.traced.graph.nodes:
            if node.op == "placeholder" or any(other in found for other in node.all_input_nodes):
                found.add(node)
        return found

    @cached_property
    def head(self) -> set[fx.Node]:
        """Nodes that depend on the input, and on which no map depends."""
        leading: set[fx.Node] = set()
        for node in reversed(self.traced.graph.nodes):
            if self.is_map(node) or any(user in leading for user in node.users):
                leading.add(node)
        placeholders = {n for n in self.traced.graph.nodes if n.op == "placeholder"}
        return self.depend_on_input - leading - placeholders

    def is_map(self, node: fx.Node) -> bool:
        """Return whether a node is a tensor with the input's axes, which grows with the input."""
        value = node.meta.get(VALUE)
        grown = self.shapes.get(node)
        return (
            isinstance(value, Tensor)
            and grown is not None
            and value.dim() == len(grown) == self.axes + 2
            and value.shape[0] == grown[0]
            and tuple(value.shape) != grown
        )

    def channel_axis(self, node: fx.Node) -> int:
        """Return the axis of a map that does not grow with the input; 1 where several do not."""
        value, grown = node.meta[VALUE], self.shapes.get(node, ())
        fixed = [
            axis
            for axis in range(1, value.dim())
            if not grown or (value.shape[axis] == grown[axis] and value.shape[axis] > 1)
        ]
        return fixed[0] if len(fixed) == 1 else 1


def measure(traced: Traced) -> Sizes:
    """Run the graph on a larger input, as far as it goes."""
    with traced.mode:
        inputs = larger(traced.inputs)
    shapes, _ = run_through(traced.model, traced.graph, inputs, traced.mode)
    return Sizes(traced, shapes)


def run_through(
    model: nn.Module, graph: fx.Graph, inputs: tuple[Tensor, ...], mode: Mode
) -> tuple[dict[fx.Node, tuple[int, ...]], str]:
    """Run a graph node by node, as far as it goes.

    Returns the shape of every tensor, and the first failure with its place, or nothing.
    """
    values: dict[fx.Node, Any] = {}
    shapes: dict[fx.Node, tuple[int, ...]] = {}
    failure = ""
    given = iter(inputs)
    uses = Counter(other for node in graph.nodes for other in node.all_input_nodes)
    for node in graph.nodes:
        if node.op == "output" or any(other not in values for other in node.all_input_nodes):
            continue
        try:
            if node.op == "placeholder":
                values[node] = next(given)
            else:
                args, kwargs = fx.map_arg((node.args, node.kwargs), values.__getitem__)
                with mode:
                    values[node] = run(node, model, args, kwargs)
        except Exception as error:  # noqa: BLE001 - anything: it is the user's model that runs
            failure = failure or f"{where(node)}: {one_line(error)}"
            continue
        if isinstance(values[node], Tensor):
            shapes[node] = tuple(values[node].shape)
        for other in node.all_input_nodes:
            uses[other] -= 1
            if not uses[other]:
                values[other] = None  # large, and not needed any more
    return shapes, failure
