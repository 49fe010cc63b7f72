"""What the network returns, and what is said where it cannot be made."""

from __future__ import annotations

import operator
from collections.abc import Sequence

from fcn_convert.errors import ModelError
from fcn_convert.model.tracing import VALUE, where
from fcn_convert.model.values import Lifted
from fcn_convert.tensors import times
from fcn_convert.torch_library import Tensor, functional, fx, torch


def restored(graph: fx.Graph, value: Lifted) -> fx.Node:
    """Return a map with the axes that the original has, where it is one cell per answer.

    So (N, 5, 2) is given as (N, 5, 2, *cells), and (N,) as (N, *cells).
    """
    if not value.is_one_cell or value.inner == value.shape:
        return value.node
    made = value.node
    if not value.in_order:
        chosen = (slice(None), value.order.tolist())
        made = graph.call_function(operator.getitem, (made, chosen))
    if len(value.inner) > 1:
        made = graph.call_method("unflatten", (made, 1, value.inner))
    return made if value.inner else graph.call_method("squeeze", (made, 1))


def not_understood(node: fx.Node, sources: Sequence[Lifted], why: str) -> ModelError:
    """Return the error for an operation between the trunk and what needs its result.

    why: what needs it, as the end of `which …`.
    """
    maps = " and ".join(size_of(source.shape) for source in sources) or "nothing known"
    made = node.meta[VALUE]
    shape = size_of(made.shape[1:]) if isinstance(made, Tensor) else type(made).__name__
    text = (
        f"{where(node)} makes {shape} of the feature map {maps}, which {why}: expected a "
        "rearrangement, one answer per channel, or what can be done window by window"
    )
    was = sources[0].shape if sources else ()
    if isinstance(made, Tensor) and made.dim() == len(was) + 1 and tuple(made.shape[1:]) != was:
        text += (
            "; an adaptive pool can be left out where it changes nothing, at an input that gives "
            f"it a map of {size_of(made.shape[2:])}"
        )
    elif node.target in {functional.linear, torch.matmul, torch.mm, torch.addmm, operator.matmul}:
        text += "; a Dense layer is an nn.Linear, or F.linear with the `weight` of a module"
    return ModelError(text)


def size_of(shape: Sequence[int]) -> str:
    """Return a shape in words: 512×7×7."""
    return times(shape) or "one number"
