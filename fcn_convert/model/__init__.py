"""A model made fully convolutional, and the spec of its checkpoint, from the model itself."""

from __future__ import annotations

from fcn_convert.errors import ModelError
from fcn_convert.model.build import make_convertible, with_own_tensors
from fcn_convert.model.lift import Pool
from fcn_convert.spec import AXES, Dense, FeatureMap, Head, Reads, Spec
from fcn_convert.torch_library import Tensor, nn


def fully_convolutional(
    model: nn.Module, example_input: Tensor | tuple[Tensor, ...], pool: Pool = "slide"
) -> nn.Module:
    """Return a model's fully convolutional form: it answers at every window of a larger input.

    example_input: an input of the model's own size, (N, C, L), (N, C, H, W) or (N, C, D, H, W).
    pool: what becomes of a pool of the whole map before the head: `slide` makes it a pool of its
    native size with stride 1, so that the map slides; `global` keeps one answer for any size.

    Every Dense layer of the head is the convolution that computes the same, under its own name; the
    flatten is gone; a vector (N, K) that the model returns is a map (N, K, *cells). The state dict
    is exactly what `convert` writes for `spec_of(model, example_input)`. The result is a copy, in
    evaluation mode.

    Raises ModelError, with the operation and its source line, where this cannot be done exactly.
    """
    return with_own_tensors(make_convertible(model, example_input, pool).module, model)


def spec_of(model: nn.Module, example_input: Tensor | tuple[Tensor, ...]) -> Spec:
    """Return the spec of a model's checkpoints, as its forward pass shows it: nothing is guessed.

    Raises ModelError where the model cannot be made fully convolutional, or has no Dense layer in
    its head.
    """
    converted = make_convertible(model, example_input, "slide")
    heads: dict[object, list[Dense]] = {}
    owner: dict[str, object] = {}
    maps: dict[object, tuple[tuple[int, ...], str]] = {}
    for layer in converted.layers:
        key = owner.get(layer.after or "", (layer.root, layer.shape, layer.flatten))
        if layer.after is None:
            maps[key] = layer.shape, layer.flatten
        owner[layer.name] = key
        reads: Reads = "map" if layer.after is None else "dense"
        names = (layer.name, *converted.aliases.get(layer.name, ()))
        heads.setdefault(key, []).extend(Dense(name, reads) for name in names)
    if not heads:
        raise ModelError("no Dense layer of the model reads a feature map, so there is no head")
    return Spec(
        tuple(
            Head(FeatureMap(AXES[len(shape)], shape), flatten, tuple(heads[key]))
            for key, (shape, flatten) in maps.items()
        )
    )
