"""What makes a cell of a larger input differ from the model's answer to its crop.

Every operation of the trunk is tried by itself: on the whole of what it reads, and on the part
that a crop would have. Where the answers differ, it is a culprit: it pads, its last windows are
cut short, or it computes from the whole input. So functions and modules of any name are found.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

from fcn_convert.errors import printable
from fcn_convert.model.sizes import Sizes
from fcn_convert.model.tracing import VALUE, run, where
from fcn_convert.model.values import leaves
from fcn_convert.torch_library import Tensor, fx, nn, torch

TOLERANCE = 1e-3
"""As a part of the largest number of a map: smaller differences are rounding, in any dtype."""
PADS = "pads its input, so a crop's border is not the image there"
CUT_SHORT = "has ceil_mode, so a crop's last windows are cut short"
WHOLE = "computes from the whole input, of which a crop is only a part"


def culprits(sizes: Sizes, model: nn.Module, larger: Tensor) -> Iterator[str]:
    """Name the operations that differ between a larger input and its middle crop, in order.

    larger: (N, C, *spatial), N as traced, two strides larger than the model's own input.
    """
    nodes = [node for node in sizes.traced.graph.nodes if node not in sizes.head]
    uses = Counter(other for node in nodes for other in node.all_input_nodes)
    values: dict[fx.Node, Any] = {}
    for node in nodes:
        if node.op in {"placeholder", "output"}:
            values[node] = larger
            continue
        arguments = (node.args, node.kwargs)
        crops = fx.map_arg(arguments, lambda other: _middle(values[other], other.meta[VALUE]))
        args, kwargs = fx.map_arg(arguments, values.__getitem__)
        values[node] = run(node, model, args, kwargs)
        if node in sizes.depend_on_input and next(leaves(values[node]), None) is not None:
            whole, alone = _middle(values[node], node.meta[VALUE]), run(node, model, *crops)
            channels = sizes.channel_axis(node) if isinstance(alone, Tensor) else 1
            differs = _differs(next(leaves(whole)), next(leaves(alone)), channels)
            if differs is not None and bool(differs.any()):
                name = str(node.target) if node.op == "call_module" else where(node)
                yield f"{printable(name)} {_reason(node, model, differs)}"
        for other in node.all_input_nodes:
            uses[other] -= 1
            if not uses[other]:
                values[other] = None


def _middle(value: Any, native: Any) -> Any:
    """Return a copy of the part of a value that a crop from the middle would have.

    native: the value for an input of the crop's size; of a tensor only the shape is used, anything
    else is returned from there.
    """
    if isinstance(value, tuple | list) and isinstance(native, tuple | list):
        return type(value)(map(_middle, value, native)) if type(value) in {tuple, list} else native
    if not isinstance(value, Tensor):
        return native
    for axis, (size, length) in enumerate(zip(value.shape, native.shape, strict=True)):
        value = value.narrow(axis, (size - length) // 2, length)
    return value.clone()


def _differs(whole: Tensor, alone: Tensor, channels: int) -> Tensor | None:
    """Return at which places two maps differ, in any sample or channel; None if not of numbers."""
    if whole.shape != alone.shape or whole.dim() < 2 or not whole.is_floating_point():
        return None
    tolerance = TOLERANCE * float(whole.abs().amax())
    same = torch.isclose(whole, alone, 0, tolerance, equal_nan=True)
    return ~same.movedim(channels, 1).flatten(0, 1).all(0)


def _reason(node: fx.Node, model: nn.Module, differs: Tensor) -> str:
    module = model.get_submodule(str(node.target)) if node.op == "call_module" else None
    padding = node.kwargs.get("padding", getattr(module, "padding", 0))
    if node.kwargs.get("ceil_mode", getattr(module, "ceil_mode", False)):
        return CUT_SHORT
    middle = bool(differs[tuple(size // 2 for size in differs.shape)])
    return WHOLE if middle and padding in {0, (0,) * differs.dim(), "valid"} else PADS
