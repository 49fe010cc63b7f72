"""What stands in the fully convolutional graph for a value of the original's head."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from math import prod
from typing import Any

from fcn_convert.model.trials import Shape
from fcn_convert.torch_library import Tensor, fx, torch


@dataclass(frozen=True)
class Lifted:
    """A tensor of the head as a map: one answer at every window, where it was one vector.

    node: the map (N, C, *cells) in the new graph. shape: (C, *kernel) of one window. order: which
    element of the flattened window each element of the original, flattened per sample, is.
    inner: the original's shape without the batch. root: the trunk's map that it comes from.
    dense: the last Dense layer on the way, if any. dtype: that of what is tried on it; a
    comparison gives truth values.
    """

    node: fx.Node
    shape: Shape
    order: Tensor
    inner: Shape
    root: fx.Node
    dense: str | None = None
    dtype: torch.dtype = torch.float64

    @property
    def kernel(self) -> Shape:
        """Cells of the map that one window has."""
        return self.shape[1:]

    @property
    def is_one_cell(self) -> bool:
        """Whether a window is one cell."""
        return prod(self.kernel) == 1

    @property
    def in_order(self) -> bool:
        """Whether the original flattens channels first."""
        return bool((self.order[1:] > self.order[:-1]).all())

    def original(self, windows: Tensor) -> Tensor:
        """Return what the original holds where the map holds these windows, (N, C, *kernel)."""
        return windows.flatten(1)[:, self.order].reshape(len(windows), *self.inner)


@dataclass(frozen=True)
class Plain:
    """A number, a shape or another value that is not a tensor.

    value: in the original. node: what computes it in the new graph, if anything does, and
    there: what that gives.
    """

    value: Any
    node: fx.Node | None = None
    there: Any = None

    @property
    def argument(self) -> Any:
        """What stands for it as an argument: its node where that gives the same, else itself."""
        return self.node if self.node is not None and _same(self.there, self.value) else self.value


@dataclass(frozen=True)
class Many:
    """Several tensors in one value, say of `chunk`."""

    parts: tuple[Lifted, ...]


@dataclass(frozen=True)
class Pending:
    """Not yet understood: alone it is not a map, but with what follows it may be.

    sources: nodes of the original that it is made of. first: where it began.
    """

    sources: frozenset[fx.Node]
    first: fx.Node


@dataclass(frozen=True)
class Wrapped:
    """Answers in a container of the model's own, ready to be returned."""

    node: fx.Node


Value = Lifted | Plain | Many | Pending | Wrapped


def _same(one: Any, other: Any) -> bool:
    return type(one) is type(other) and bool(one == other)


def leaves(answer: Any) -> Iterator[Tensor]:
    """Yield the tensors of an answer, however they are wrapped."""
    if isinstance(answer, Tensor):
        yield answer
    elif isinstance(answer, Mapping):
        yield from _of_each(answer.values())
    elif isinstance(answer, tuple | list):
        yield from _of_each(answer)
    elif is_dataclass(answer):
        yield from _of_each(getattr(answer, field.name) for field in fields(answer))


def _of_each(parts: Iterable[Any]) -> Iterator[Tensor]:
    for part in parts:
        yield from leaves(part)


def counting(count: int, like: Tensor | None = None) -> Tensor:
    """Return the order that changes nothing."""
    return torch.arange(count, device=None if like is None else like.device)


# Called by the graphs that are made here, so they need no more of this package than this file.


def cells_as_batch(maps: Tensor, inner: tuple[int, ...]) -> Tensor:
    """Return every cell of maps (N, C, *cells) as a sample of its own, (N · cells, *inner)."""
    return maps.movedim(1, -1).reshape(-1, *inner)


def batch_as_cells(answers: Tensor, maps: Tensor) -> Tensor:
    """Undo `cells_as_batch` for what was answered to each cell of `maps`: (N, K, *cells)."""
    cells = (maps.shape[0], *maps.shape[2:])
    return answers.reshape(*cells, -1).movedim(-1, 1)
