"""A tensor of the trunk as the head reads it: the map before its axes were moved about."""

from __future__ import annotations

from math import prod

from fcn_convert.errors import ModelError
from fcn_convert.model import trials
from fcn_convert.model.precision import AtLeast
from fcn_convert.model.sizes import Sizes
from fcn_convert.model.tracing import VALUE, run, where
from fcn_convert.model.values import Lifted, counting
from fcn_convert.torch_library import Tensor, fx, torch


def of_trunk(
    node: fx.Node,
    sizes: Sizes,
    graph: fx.Graph,
    copies: dict[fx.Node, fx.Node],
    like: Tensor,
) -> Lifted:
    """Return a tensor of the trunk as a map, channels first, with what was rearranged undone."""
    root, order = _before_rearranging(node, sizes, like)
    value, inner = root.meta[VALUE], tuple(node.meta[VALUE].shape[1:])
    made = copies[root]
    if value.dim() == 2:  # one vector for the whole input
        ones = (1,) * sizes.axes
        made = graph.call_function(torch.unflatten, (made, 1, (value.shape[1], *ones)))
        return Lifted(made, (value.shape[1], *ones), order, inner, root)
    if value.dim() != sizes.axes + 2:
        raise ModelError(
            f"{where(node)} gives {tuple(value.shape)} to the head: expected a feature map with "
            f"{sizes.axes} spatial axes, as the input has"
        )
    axis = sizes.channel_axis(root)
    shape = tuple(value.movedim(axis, 1).shape[1:])
    if axis != 1:
        made = graph.call_function(torch.movedim, (made, axis, 1))
        index = counting(prod(shape), like).view(shape).movedim(0, axis - 1).flatten()
        order = index[order]
    return Lifted(made, shape, order, inner, root)


def _before_rearranging(node: fx.Node, sizes: Sizes, like: Tensor) -> tuple[fx.Node, Tensor]:
    """Climb to the map that a node only rearranges; return it, and the order of the elements."""
    steps: list[tuple[fx.Node, Tensor]] = []
    top = node
    while (step := _rearranges(top, sizes, like)) is not None:
        steps.append(step)
        top = step[0]
    order = counting(node.meta[VALUE][0].numel(), like)
    root, total = node, order
    for at, (source, moved) in enumerate(steps):
        before = steps[at - 1][0] if at else node
        same = source.meta[VALUE].shape == before.meta[VALUE].shape
        order = moved[order]
        if not (same and torch.equal(moved, counting(len(moved), like))):
            root = source  # what changes nothing above the first move stays, such as a dropout
            total = order
    return root, total


def _rearranges(node: fx.Node, sizes: Sizes, like: Tensor) -> tuple[fx.Node, Tensor] | None:
    """Return the map that a node rearranges, and how, if it does nothing else."""
    sources = [
        other
        for other in node.all_input_nodes
        if other in sizes.depend_on_input and isinstance(other.meta[VALUE], Tensor)
    ]
    if len(sources) != 1 or not sizes.is_map(sources[0]):
        return None
    [source] = sources

    def function(maps: Tensor) -> object:
        args, kwargs = fx.map_arg(
            (node.args, node.kwargs), lambda other: maps if other is source else other.meta[VALUE]
        )
        with AtLeast(torch.float64):
            return run(node, sizes.traced.model, args, kwargs)

    shape = tuple(source.meta[VALUE].shape)
    try:
        order = trials.rearrangement(function, shape[0], shape[1:], like)
    except Exception:  # noqa: BLE001 - whatever it is, it does not rearrange random numbers
        return None
    return None if order is None else (source, order)
