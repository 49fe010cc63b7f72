"""The stride of a network: pixels of its input from one cell of its answer to the next."""

from __future__ import annotations

from fcn_convert.model.build import Converted
from fcn_convert.model.imagined import ShapesOnly
from fcn_convert.model.values import leaves
from fcn_convert.torch_library import torch

FAR = 1 << 16
"""Pixels that an imagined input grows by: a stride below 181 follows from the cells gained."""
NEAR = 192
"""The same for an input that is really computed with."""


def stride_of(converted: Converted) -> tuple[int, ...] | None:
    """Return the pixels from one cell to the next, per axis; None where they are not regular."""
    spatial = range(2, converted.sizes.axes + 2)
    found = [_along(converted, axis) for axis in spatial]
    steps = tuple(step for step in found if step is not None)
    return steps if len(steps) == len(found) else None


def _along(converted: Converted, axis: int) -> int | None:
    """Divide how far an input grows by how many cells that gives, and try whether it is exact."""
    traced = converted.sizes.traced
    growth = FAR if isinstance(traced.mode, ShapesOnly) else NEAR

    def cells(more: int) -> int:
        shape = list(traced.inputs[0].shape)
        shape[axis] += more
        with traced.mode, torch.no_grad():
            given = torch.zeros(shape, dtype=traced.inputs[0].dtype)
            answer = next(leaves(converted.module(given)))
        return answer.shape[axis - len(shape)]

    try:
        native = cells(0)
        gained = cells(growth) - native
        step = round(growth / gained) if gained > 0 else 0
        exact = step > 0 and all(
            cells(step * many) - native == many for many in (1, growth // step)
        )
    except Exception:  # noqa: BLE001 - a network may refuse a size, each in its own way
        return None
    return step if exact else None
