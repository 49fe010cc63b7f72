"""The receptive field: how many pixels one cell of the answer sees, from the graph's windows.

A window of k elements, d apart, on a map with a jump of j pixels from element to element widens the
field by (k - 1)·d·j, and a stride multiplies the jump; where paths meet, the widest counts
(Araujo, Norris, Sim: Computing Receptive Fields of Convolutional Neural Networks, Distill, 2019).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from fcn_convert.torch_library import fx, nn

UNKNOWN = ("adaptive", "interpolate", "upsample", "transpose", "mean", "amax", "sum")
"""Parts of the names of functions and modules that see the whole map, or that widen it."""


@dataclass(frozen=True)
class _Window:
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]


def receptive_field(network: fx.GraphModule, axes: int) -> tuple[int, ...] | None:
    """Return the pixels that one cell of the answer sees, per axis.

    None where a cell sees the whole input, as after a global pool, or where it cannot be told.
    """
    fields: dict[fx.Node, tuple[tuple[int, ...], tuple[int, ...]]] = {}
    for node in network.graph.nodes:
        inputs = [fields[other] for other in node.all_input_nodes if other in fields]
        if node.op == "placeholder":
            fields[node] = (1,) * axes, (1,) * axes
        elif inputs:
            field = tuple(max(sizes) for sizes in zip(*(f for f, _ in inputs), strict=True))
            jump = tuple(max(sizes) for sizes in zip(*(j for _, j in inputs), strict=True))
            window = _window(node, network, axes)
            if window is None:
                return None
            spans = zip(field, jump, window.kernel, window.dilation, strict=True)
            field = tuple(f + (k - 1) * d * j for f, j, k, d in spans)
            jump = tuple(j * s for j, s in zip(jump, window.stride, strict=True))
            fields[node] = field, jump
            if node.op == "output":
                return field
    return None


def _window(node: fx.Node, network: nn.Module, axes: int) -> _Window | None:
    """Return the window that an operation looks through; of one element where there is none."""
    if node.op == "call_module":
        module: Any = network.get_submodule(str(node.target))
        name = type(module).__name__.lower()
        if any(part in name for part in UNKNOWN) or any(True for _ in module.children()):
            return None
        if not hasattr(module, "kernel_size"):
            return _of(1, 1, 1, axes)
        return _of(module.kernel_size, module.stride, getattr(module, "dilation", 1), axes)
    name = str(getattr(node.target, "__name__", node.target))
    if any(part in name for part in UNKNOWN):
        return None
    if name.startswith("conv") and name.endswith("d") and len(node.args) > 1:
        weight = node.args[1]
        assert isinstance(weight, fx.Node)
        return _of(tuple(network.get_parameter(str(weight.target)).shape[2:]), 1, 1, axes)
    if "_pool" in name:
        given = dict(zip(("input", "kernel_size", "stride"), node.args, strict=False)) | node.kwargs
        kernel = given["kernel_size"]
        stride = given.get("stride")
        if isinstance(kernel, fx.Node):
            return None
        return _of(kernel, stride or kernel, 1, axes)
    return _of(1, 1, 1, axes)


def _of(kernel: Any, stride: Any, dilation: Any, axes: int) -> _Window:
    return _Window(_each(kernel, axes), _each(stride, axes), _each(dilation, axes))


def _each(value: int | Sequence[int], axes: int) -> tuple[int, ...]:
    sizes = (value,) * axes if isinstance(value, int) else tuple(value)
    return sizes * axes if len(sizes) == 1 else sizes
