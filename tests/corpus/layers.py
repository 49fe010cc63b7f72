"""Specs that are right in themselves, and do not fit the layers of the checkpoint beside them."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save_file

SHAPES = {
    "conv.weight": (3, 1, 2, 2),
    "norm.weight": (3,),
    "norm.bias": (3,),
    "a.weight": (7, 12),
    "a.bias": (7,),
    "b.weight": (5, 7),
    "b.bias": (5,),
}
MAP = "feature_map: [3, 2, 2]\n"
TWO_HEADS = "heads:\n- {feature_map: [3, 2, 2], dense: [a]}\n- {feature_map: [3, 2, 2], dense: [a]}"

MALFORMED: dict[str, tuple[str, tuple[str, ...]]] = {
    "layer-named-twice": (MAP + "dense: [a, a]", ("^a is named twice",)),
    "layer-named-by-a-glob-too": (MAP + "dense: [a, '[ab]']", ("^a is named twice",)),
    "layer-in-two-heads": (TWO_HEADS, ("^a is named twice, or two heads would take it",)),
    "convolution-as-dense": (
        MAP + "dense: [conv, a]",
        ("^conv is not a Dense layer: its weight has",),
    ),
    "norm-as-dense": (MAP + "dense: [a, norm]", ("^norm is not a Dense layer: its weight has",)),
    "tensor-as-dense": (
        MAP + "dense: [a.weight]",
        (r"^a\.weight is a tensor; name its module, a",),
    ),
    "no-such-layer": (MAP + "dense: [x]", ("^x is not a Dense layer of the checkpoint",)),
    "rename-onto-another": (
        MAP + "rename: {a: b}",
        ("^rename: a.bias and b.bias would both be", "^rename: a.weight and b.weight would both"),
    ),
    "two-renamed-to-one": (
        MAP + "rename: {a: x, b: x}",
        ("would both be called x.bias", "would both be called x.weight"),
    ),
    "rename-of-none": (MAP + "rename: {z: x}", ("^rename: no tensor's name starts with z",)),
    "renames-of-none": (
        MAP + "rename:" + "".join(f"\n  k{at}: x" for at in range(8000)),
        (*["no tensor's name starts with k"] * 50, "and 7950 more of the kind"),
    ),
    "layers-of-none": (
        f"feature_map: [3, 2, 2]\ndense: [{', '.join(f'k{at}' for at in range(1000))}]",
        (*["^k.* is not a Dense layer of the checkpoint"] * 50, "and .* more of the kind"),
    ),
    "rename-to-reserved": (MAP + "rename: {a.bias: __metadata__}", ("called '__metadata__'",)),
    "rename-to-surrogate": (MAP + 'rename: {a.bias: "\\ud800"}', (r"called '\\ud800'",)),
    "map-too-small": (
        "feature_map: [3, 2, 1]\ndense: [a, b]",
        ("^a.weight has 12 input features, but feature_map 3×2×1 has 6",),
    ),
    "map-huge": (
        "feature_map: [2147483647, 2147483647, 2147483647]\ndense: [a]",
        ("^a.weight has 12 input features, but feature_map",),
    ),
    "map-of-another-order-of-axes": (
        "feature_map: [3, 2, 2]\nflatten: CDHW",
        ("^flatten: not an order of the axes C, H, W, as CHW, found 'CDHW'",),
    ),
    "second-reads-nothing": (
        MAP + "dense: [b, a]",
        ("^b.weight has 7 input features, but feature_map 3×2×2 has 12",),
    ),
    "state-dict-missing": (MAP + "state_dict: ema", ("holds no state dict at 'ema'",)),
    "state-dict-of-a-megabyte": (
        MAP + f"state_dict: {'n' * 100_000}",
        ("holds no state dict at 'nnn",),
    ),
    "glob-of-many-stars": (MAP + f"dense: ['{'*a' * 3000}*b']", ("is not a Dense layer",)),
}


def make_net(path: Path, shapes: dict[str, tuple[int, ...]] = SHAPES) -> None:
    """Write a small checkpoint with values."""
    generator = torch.Generator().manual_seed(1)
    save_file({n: torch.randn(s, generator=generator) for n, s in shapes.items()}, path)
