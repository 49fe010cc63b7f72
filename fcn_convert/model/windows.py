"""What always holds, measured: a cell is the Dense head's answer to its window of the map.

The trunk runs on the larger input; then the original's head, with its Dense layers, runs on every
window of the maps that it reads.
"""

from __future__ import annotations

from typing import Any

from fcn_convert.errors import ModelError
from fcn_convert.model.build import Converted
from fcn_convert.model.tracing import VALUE, one_line, run, where
from fcn_convert.model.values import leaves
from fcn_convert.torch_library import Tensor, fx, nn, torch


def head_on_windows(converted: Converted, model: nn.Module, inputs: Tensor) -> list[Tensor]:
    """Return the original head's answers to every window, each (cells, numbers), cells by rows.

    model: the original, of the inputs' dtype. Raises ModelError where the head cannot be run so.
    """
    sizes = converted.sizes
    roots = {layer.root for layer in converted.layers}
    if not roots:
        raise ModelError("the model has no Dense layer")
    maps = _trunk(converted, model, inputs, roots)
    windows = {root: _windows(maps[root], root.meta[VALUE].shape[2:]) for root in roots}
    count = len(next(iter(windows.values()), ()))
    if any(sizes.channel_axis(root) != 1 or len(windows[root]) != count for root in roots):
        raise ModelError("the head reads maps of several strides, or with channels last")
    # In batches of the traced size: the model may have taken it for a number.
    batch = len(sizes.traced.inputs[0])
    found: list[list[Tensor]] = []
    for start in range(0, count, batch):
        at = torch.arange(start, start + batch).clamp(max=count - 1)
        found.append(_head(converted, model, {root: windows[root][at] for root in roots}))
    return [torch.cat(parts)[:count] for parts in zip(*found, strict=True)]


def _head(converted: Converted, model: nn.Module, values: dict[fx.Node, Any]) -> list[Tensor]:
    """Run the rest of the graph from the maps that it reads."""
    sizes = converted.sizes
    for node in sizes.traced.graph.nodes:
        if node in values or not any(other in values for other in node.all_input_nodes):
            continue
        if any(
            o in sizes.depend_on_input and o not in values and isinstance(o.meta[VALUE], Tensor)
            for o in node.all_input_nodes
        ):
            raise ModelError(f"{where(node)} reads more than the head's maps")
        args, kwargs = fx.map_arg((node.args, node.kwargs), lambda o: _value(o, values, model))
        if node.op == "output":
            return [one.reshape(len(one), -1) for one in leaves(args[0])]
        values[node] = _ran(node, model, args, kwargs)
    raise ModelError("no answer of the model is made of the head's maps")


def _trunk(
    converted: Converted, model: nn.Module, inputs: Tensor, roots: set[fx.Node]
) -> dict[fx.Node, Tensor]:
    """Run the graph up to the maps that the head reads."""
    values: dict[fx.Node, Any] = {}
    for node in converted.sizes.traced.graph.nodes:
        if roots <= values.keys():
            break
        if node in converted.sizes.head:
            continue
        args, kwargs = fx.map_arg((node.args, node.kwargs), values.__getitem__)
        values[node] = inputs if node.op == "placeholder" else _ran(node, model, args, kwargs)
    return {root: values[root] for root in roots}


def _ran(node: fx.Node, model: nn.Module, args: Any, kwargs: Any) -> Any:
    """Do what a node of the model does; raises ModelError with whatever it raises."""
    try:
        return run(node, model, args, kwargs)
    except Exception as error:
        raise ModelError(f"{where(node)} fails: {one_line(error)}") from error


def _value(node: fx.Node, values: dict[fx.Node, Any], model: nn.Module) -> Any:
    if node in values:
        return values[node]
    return run(node, model, (), {}) if node.op == "get_attr" else node.meta[VALUE]


def _windows(maps: Tensor, kernel: tuple[int, ...]) -> Tensor:
    """Return every window of maps (1, C, *spatial), as a batch (cells, C, *kernel)."""
    axes = len(kernel)
    for axis, size in enumerate(kernel):
        maps = maps.unfold(2 + axis, size, 1)
    order = (*range(2, 2 + axes), 1, *range(2 + axes, 2 + 2 * axes))
    return maps[0].permute(*(axis - 1 for axis in order)).reshape(-1, maps.shape[1], *kernel)
