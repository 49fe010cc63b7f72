"""What an operation does to a map, found by trying it on random numbers.

Nothing here knows an operation's name. A function that only rearranges gives back the numbers that
it got, negative and large ones too; one that pools gives their mean; one that may be applied to a
larger map gives, on every window of its answer, what it gives on that window of the map.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import permutations, product
from math import prod
from typing import TypeGuard

from fcn_convert.torch_library import Tensor, torch

SCALE = 50.0
"""Numbers up to a few hundred are tried: no clipping activation may seem to do nothing."""
MARGIN = (1, 2, 1)
"""How much larger than the window the larger map is, per spatial axis."""
RELATIVE = {torch.float64: 1e-9, torch.float32: 1e-3}
Shape = tuple[int, ...]


def random_map(batch: int, shape: Sequence[int], like: Tensor, scale: float = 1.0) -> Tensor:
    """Return a random map of a dtype and a device."""
    numbers = torch.randn((batch, *shape), dtype=torch.float64, device=like.device)
    return numbers > 0 if like.dtype == torch.bool else (numbers * scale).to(like.dtype)


def agree(expected: Tensor, found: Tensor) -> bool:
    """Return whether two tensors are the same but for rounding."""
    if expected.shape != found.shape or expected.dtype != found.dtype:
        return False
    if not expected.is_floating_point():
        return bool((expected == found).all())
    tolerance = RELATIVE.get(expected.dtype, 5e-2)
    finite = expected[expected.isfinite()].abs()
    size = max(float(finite.max()), 1e-30) if finite.numel() else 1.0
    return torch.allclose(expected, found, tolerance, tolerance * size, equal_nan=True)


def rearrangement(
    function: Callable[[Tensor], object], batch: int, shape: Shape, like: Tensor
) -> Tensor | None:
    """Return which element of a map each element of the function's answer is, if it is one.

    The answer, flattened per sample, is `map.flatten(1)[:, order]`. None where the function does
    anything else with the map, or does it differently from sample to sample.
    """
    maps = random_map(batch, shape, like, SCALE)
    answer = function(maps.clone())
    if not _has_batch(answer, batch) or answer.numel() != maps.numel():
        return None
    flat, found = maps.flatten(1), answer.reshape(batch, -1)
    ordered, order = flat[0].sort()
    at = torch.searchsorted(ordered, found[0].contiguous()).clamp(max=len(ordered) - 1)
    taken = order[at]
    if len(set(taken.tolist())) != len(taken) or not torch.equal(flat[:, taken], found):
        return None
    return taken


def pooling(
    function: Callable[[Tensor], object], batch: int, shape: Shape, like: Tensor
) -> str | None:
    """Return `avg`, `max` or `sum` where the function answers so, per channel; None otherwise."""
    maps = random_map(batch, shape, like, SCALE)
    answer = function(maps.clone())
    if not _has_batch(answer, batch) or answer.numel() != batch * shape[0]:
        return None
    flat = maps.flatten(2)
    kinds = {"avg": flat.mean(2), "max": flat.amax(2), "sum": flat.sum(2)}
    return next(
        (k for k, wanted in kinds.items() if agree(wanted, answer.reshape(batch, -1))), None
    )


def slides(
    function: Callable[..., object], batch: int, shapes: Sequence[Shape], likes: Sequence[Tensor]
) -> bool:
    """Return whether a function of maps gives, on every window, what it gives on the window alone.

    shapes: of the maps at their native size, (C, *kernel), the kernel the same for all of them.
    """
    kernel = shapes[0][1:]
    grown = tuple(size + more for size, more in zip(kernel, MARGIN, strict=False))
    maps = [
        random_map(batch, (shape[0], *grown), like)
        for shape, like in zip(shapes, likes, strict=True)
    ]
    whole = function(*(one.clone() for one in maps))
    if not isinstance(whole, Tensor) or whole.shape[2:] != grown:
        return False
    for window in _windows(kernel, grown):
        alone = function(*(one[window].clone() for one in maps))
        if not isinstance(alone, Tensor) or not agree(alone, whole[window]):
            return False
    return True


def _windows(kernel: Shape, grown: Shape) -> Iterator[tuple[slice, ...]]:
    """Yield every place of a kernel on a map, as an index."""
    starts = (range(b - a + 1) for a, b in zip(kernel, grown, strict=True))
    for start in product(*starts):
        cut = (slice(at, at + size) for at, size in zip(start, kernel, strict=True))
        yield (slice(None), slice(None), *cut)


def _has_batch(answer: object, batch: int) -> TypeGuard[Tensor]:
    return isinstance(answer, Tensor) and answer.dim() > 0 and answer.shape[0] == batch


def flatten_order(order: Tensor, shape: Shape, axes: str) -> str | None:
    """Return an order of elements as axis names, slowest first, or None if it is not one.

    order: which element of the map, in the order of `axes`, each element of the vector is.
    """
    index = torch.arange(prod(shape), device=order.device).view(shape)
    for places in permutations(range(len(axes))):  # the usual order first
        if torch.equal(index.permute(places).flatten(), order):
            return "".join(axes[place] for place in places)
    return None
