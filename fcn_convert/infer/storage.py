"""Whose convention a file's arrays follow, where the container does not say: seen from shapes.

Read in the right layout, a kernel is as long one way as the other, reads as many channels as some
layer gives, and gives as many as it has biases. Each kernel speaks for the layout in which more of
that holds.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from fcn_convert.errors import CheckpointError
from fcn_convert.formats import Checkpoint
from fcn_convert.spec import Spec
from fcn_convert.tensors import BIAS, WEIGHT, Index, Layout, StateDict

CLEARLY = 5
"""Kernels that speak for a layout, for each one that speaks against it."""
LARGEST_KERNEL = 64
"""Size of the largest kernels in use, with room; channels are more than that."""
WRITERS: Mapping[Layout, str] = {
    "torch": "PyTorch",
    "keras": "Keras",
    "mlx": "MLX",
    "paddle": "Paddle",
}
"""Whose conventions the layouts are."""

ALIKE = (
    "PyTorch and MLX store kernels of these shapes alike, and PyTorch's order is assumed; if MLX "
    "wrote the file, `layout: mlx` says so"
)


@dataclass(frozen=True)
class Storage:
    """How a checkpoint's arrays are stored, as far as it is known.

    layout: PyTorch's where nothing speaks clearly for another. is_said: whether the container says
    it. remark: what else it rests on; empty where nobody would ask.
    """

    layout: Layout
    is_said: bool = False
    remark: str = ""


def find_storage(checkpoint: Checkpoint, path: str | None) -> Storage:
    """Tell the layout of the state dict at `path`, or of the only one.

    Raises CheckpointError where there is none.
    """
    index = checkpoint.index
    if index.layout is not None:
        return Storage(index.layout, is_said=True)
    layouts: tuple[Layout, ...] = ("torch", "mlx")
    layouts += ("keras", "paddle") if index.foreign_names else ()
    signs = {layout: _signs(_read(checkpoint, path, layout)) for layout in layouts}
    best = max(layouts, key=lambda layout: sum(signs[layout].values()))
    if best != "torch" and all(_is_clear(signs[best], signs[o]) for o in layouts if o != best):
        more, _ = _compared(signs[best], signs["torch"])
        kernels = "1 kernel is what" if more == 1 else f"{more} kernels are what"
        remark = f"by their shapes, {kernels} {WRITERS[best]} stores, and not PyTorch"
        return Storage(best, remark=remark)
    alike = signs["torch"] and not any(_compared(signs["torch"], signs["mlx"]))
    return Storage("torch", remark=ALIKE if alike and _may_be_of_mlx(index) else "")


def _read(checkpoint: Checkpoint, path: str | None, layout: Layout) -> StateDict:
    """Read a state dict in a layout; one without tensors where it cannot be read so."""
    try:
        return checkpoint.state_dict(path, layout)
    except CheckpointError:
        if layout == "torch":
            raise
        return StateDict("", {})


def _is_clear(signs: Mapping[str, int], others: Mapping[str, int]) -> bool:
    more, fewer = _compared(signs, others)
    return more > CLEARLY * fewer


def _compared(signs: Mapping[str, int], others: Mapping[str, int]) -> tuple[int, int]:
    """Count the kernels that have more signs of one layout than of another, and fewer."""
    pairs = [(signs.get(name, 0), others.get(name, 0)) for name in {**signs, **others}]
    return sum(a > b for a, b in pairs), sum(a < b for a, b in pairs)


def layout_doubts(checkpoint: Checkpoint, spec: Spec) -> Iterator[str]:
    """Yield the warning where a spec names no layout and shapes clearly speak for a foreign one."""
    found = find_storage(checkpoint, spec.state_dict) if spec.layout is None else None
    if found and not found.is_said and found.layout != "torch":
        yield (
            f"{checkpoint.path}: {found.remark}; add `layout: {found.layout}` to the spec, or "
            "`layout: torch` to keep them as PyTorch's"
        )


def _may_be_of_mlx(index: Index) -> bool:
    """Return whether MLX writes such files, and nothing in this one says who did."""
    return index.format in {"safetensors", "sharded safetensors", "npz"} and not index.metadata


def _signs(state_dict: StateDict) -> dict[str, int]:
    """Count what is as it should be of each convolution and Dense layer, by its stored name.

    Without a convolution there is nothing to compare.
    """
    weights = {n: t for n, t in state_dict.tensors.items() if n.endswith(WEIGHT) and t.shape}
    given = {weight.shape[0] for weight in weights.values() if len(weight.shape) != 2}
    signs = {}
    for name, weight in weights.items():
        if len(weight.shape) == 1:
            continue  # a norm
        out, reads, *sizes = weight.shape
        bias = state_dict.tensors.get(name.removesuffix(WEIGHT) + BIAS)
        has_a_bias = bias is not None and bias.shape == (out,)
        is_given = bool(sizes) and reads in given
        is_square = len(sizes) > 1 and len(set(sizes)) == 1 and sizes[0] <= LARGEST_KERNEL
        signs[weight.stored_name] = has_a_bias + is_given + is_square
    return signs if any(len(weight.shape) > 2 for weight in weights.values()) else {}
