"""Whether an operation carries over from vectors to maps, tried on random maps, then written."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from fcn_convert.model import trials
from fcn_convert.model.forms import Form
from fcn_convert.model.values import Lifted, Many, counting
from fcn_convert.torch_library import Tensor, fx, torch


@dataclass(frozen=True)
class Operation:
    """An operation of the head, or several in a row, as a function of the values that it reads.

    originally: on the original's vectors. perform: on maps, with another module where vectors and
    maps need different ones. write: into the new graph, on nodes.
    """

    originally: Callable[..., Any]
    perform: Callable[..., Any]
    write: Callable[..., fx.Node]


@dataclass(frozen=True)
class Trying:
    """What is tried on: maps of a batch, in the dtype and on the device of a tensor."""

    batch: int
    like: Tensor

    def carried(
        self, operation: Operation, form: Form, known: Sequence[Lifted], graph: fx.Graph
    ) -> Lifted | Many | None:
        """Write an operation in a form, if that form gives at every window what it should."""
        if any(value.kernel != known[0].kernel for value in known):
            return None
        maps = [
            trials.random_map(self.batch, value.shape, like)
            for value, like in zip(known, self._likes(known), strict=True)
        ]
        try:
            pairs = zip(known, maps, strict=True)
            expected = operation.originally(*(value.original(one.clone()) for value, one in pairs))
            found = form.try_on(operation.perform, [one.clone() for one in maps], known)
            parts = _compare(expected, found, known)
            if parts is None or not all(
                self._slides(operation, form, known, at) for at in range(len(parts))
            ):
                return None
        except Exception:  # noqa: BLE001 - the operation refuses maps, each in its own way
            return None
        made = form.write(graph, operation.write, known)
        if isinstance(expected, Tensor):
            return replace(parts[0], node=made)
        picked = (graph.call_function(operator.getitem, (made, at)) for at in range(len(parts)))
        return Many(tuple(replace(p, node=node) for p, node in zip(parts, picked, strict=True)))

    def _slides(self, operation: Operation, form: Form, known: Sequence[Lifted], part: int) -> bool:
        return trials.slides(
            lambda *grown: _tensors(form.try_on(operation.perform, grown, known))[part],
            self.batch,
            [value.shape for value in known],
            self._likes(known),
        )

    def _likes(self, known: Sequence[Lifted]) -> list[Tensor]:
        return [self.like.to(value.dtype) for value in known]


def _compare(expected: Any, found: Any, known: Sequence[Lifted]) -> list[Lifted] | None:
    """Return what the answers are as maps, where they agree with the original's."""
    pairs = list(zip(_tensors(expected), _tensors(found), strict=True))
    parts = [_as_map(*pair, known) for pair in pairs]
    return [part for part in parts if part] if pairs and all(parts) else None


def _as_map(expected: Tensor, found: Tensor, known: Sequence[Lifted]) -> Lifted | None:
    if found.dim() != len(known[0].shape) + 1 or found.shape[2:] != known[0].kernel:
        return None
    if len(expected) != len(found) or expected.numel() != found.numel():
        return None
    starts = [sum(len(v.order) for v in known[:at]) for at in range(len(known))]
    joined = [value.order + start for value, start in zip(known, starts, strict=True)]
    count = found[0].numel()
    orders = [known[0].order, torch.cat(joined), counting(count, found)]
    for order in orders:
        if len(order) == count and trials.agree(
            expected.reshape(len(found), -1), found.flatten(1)[:, order]
        ):
            dense = next((value.dense for value in known if value.dense), None)
            shape, inner = tuple(found.shape[1:]), tuple(expected.shape[1:])
            return Lifted(known[0].node, shape, order, inner, known[0].root, dense, found.dtype)
    return None


def _tensors(value: Any) -> list[Tensor]:
    """Return the tensors of an answer: itself, or those of a tuple."""
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, tuple | list) and all(isinstance(part, Tensor) for part in value):
        return list(value)
    raise TypeError("neither a tensor nor several")
