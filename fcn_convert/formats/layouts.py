"""Arrays that other frameworks store otherwise than PyTorch: their axes, and their names.

A layout is a pattern of axis names, as stored and as PyTorch has them: a Dense kernel of Keras is
`I O -> O I`, a convolution's `H W I O -> O I H W`. Read through it, an array is a strided view of
its bytes. The patterns are data: the proof reads them with an arithmetic of its own.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

from fcn_convert.errors import CheckpointError, printable
from fcn_convert.tensors import (
    StateDict,
    Stored,
    TensorInfo,
    is_row_major,
    row_major_strides,
    shown,
)

DENSE = {2: "I O -> O I"}
CONVOLUTION = {3: "L I O -> O I L", 4: "H W I O -> O I H W", 5: "D H W I O -> O I D H W"}
TRANSPOSED = {3: "L O I -> I O L", 4: "H W O I -> I O H W", 5: "D H W O I -> I O D H W"}
DEPTHWISE = {3: "L C M -> (C M) 1 L", 4: "H W C M -> (C M) 1 H W"}
MLX = {3: "O L I -> O I L", 4: "O H W I -> O I H W", 5: "O D H W I -> O I D H W"}
"""Patterns of weights by their number of axes; the first four are Keras's and TensorFlow's."""

_CLASSES: Mapping[str, Mapping[int, str]] = {
    "Dense": DENSE,
    **{f"Conv{n}D": CONVOLUTION for n in (1, 2, 3)},
    **{f"Conv{n}DTranspose": TRANSPOSED for n in (1, 2, 3)},
    **{f"Convolution{n}DTranspose": TRANSPOSED for n in (2, 3)},
    **{f"DepthwiseConv{n}D": DEPTHWISE for n in (1, 2)},
}
_SEPARABLE = {f"SeparableConv{n}D" for n in (1, 2)}
_NAMED_ONLY = {
    *("BatchNormalization", "SyncBatchNormalization", "LayerNormalization"),
    *("GroupNormalization", "RMSNormalization", "PReLU", "Embedding"),
}

_KERNELS = {"kernel", "weights", "weight", "W", "w", "kernels", "0"}
_DEPTHWISE_KERNELS = {"depthwise_kernel", "depthwise_weights"}
_POINTWISE_KERNELS = {"pointwise_kernel", "pointwise_weights"}
ROLES: Mapping[str, str] = {
    **dict.fromkeys((*_KERNELS, *_DEPTHWISE_KERNELS, *_POINTWISE_KERNELS), "weight"),
    **dict.fromkeys(("gamma", "alpha", "scale", "embeddings", "embedding"), "weight"),
    **dict.fromkeys(("bias", "biases", "b", "beta", "offset", "1"), "bias"),
    **dict.fromkeys(("moving_mean", "mean", "avg_mean"), "running_mean"),
    **dict.fromkeys(("moving_variance", "variance", "var", "avg_var"), "running_var"),
}
"""PyTorch's names of a layer's tensors, by those of others."""
_RECURRENT = "recurrent_kernel"
_NUMBERED = re.compile(r"(W|w|b|gamma|beta)(\d+)")
"""How nets written in NumPy alone call arrays: `W1` and `b1` are those of layer 1."""
_PADDLE_ROLES = {"_mean": "running_mean", "_variance": "running_var"}
_EMBEDDING = "emb"


@dataclass(frozen=True, slots=True)
class Layer:
    """A layer and its arrays as stored, by their roles; kind is its class, where that is known."""

    name: str
    arrays: Mapping[str, TensorInfo]
    kind: str | None = None


def viewed(tensor: TensorInfo, name: str, pattern: str = "") -> TensorInfo:
    """Return a tensor as PyTorch's, under another name and through a pattern of its stored axes.

    Raises CheckpointError where two axes that are to be one are not adjacent.
    """
    stored = Stored(tensor.stored_name, tensor.shape, tensor.strides, pattern)
    if not pattern:
        return replace(tensor, name=name, stored=stored)
    before, after = pattern.split(" -> ")
    strides = tensor.strides or row_major_strides(tensor.shape)
    axes = dict(zip(before.split(), zip(tensor.shape, strides, strict=True), strict=True))
    axes["1"] = (1, 1)
    groups = ([axes[axis] for axis in group] for group in _groups(after))
    shape, steps = zip(*(_joined(name, group) for group in groups), strict=True)
    plain = is_row_major(shape, steps)
    return replace(tensor, name=name, shape=shape, strides=None if plain else steps, stored=stored)


def _groups(axes: str) -> Iterator[list[str]]:
    """Yield the axes of `(C M) 1 H` as [C, M], [1], [H]."""
    group: list[str] = []
    inside = False
    for part in axes.split():
        inside = inside or part.startswith("(")
        group.append(part.strip("()"))
        inside = inside and not part.endswith(")")
        if not inside:
            yield group
            group = []


def _joined(name: str, axes: list[tuple[int, int]]) -> tuple[int, int]:
    """Return size and stride of several axes read as one."""
    (size, stride), *rest = reversed(axes)
    for outer, step in rest:
        if outer > 1 and size > 1 and step != size * stride:
            raise CheckpointError(
                f"{name} is stored in column-major order, from which its axes cannot be joined; "
                "save a contiguous copy of it"
            )
        size, stride = outer * size, stride if size > 1 else step
    return size, stride


def keras_layer(layer: Layer) -> Iterator[TensorInfo]:
    """Yield a layer's tensors as PyTorch's; those of an unknown kind as they are stored."""
    separable = layer.kind in _SEPARABLE or (
        layer.arrays.keys() >= {"depthwise_kernel", "pointwise_kernel"}
    )
    for role, array in layer.arrays.items():
        part = role
        if separable:
            part = "depthwise" if role in _DEPTHWISE_KERNELS else "pointwise"
        pattern = _pattern(layer, role, array, is_separable=separable)
        known = pattern or layer.kind in {None, *_CLASSES, *_SEPARABLE, *_NAMED_ONLY}
        if not known or role not in ROLES or _RECURRENT in layer.arrays:
            yield viewed(array, _path(layer.name, role))
        else:
            inner = _path(layer.name, part) if separable else layer.name
            yield viewed(array, _path(inner, ROLES[role]), pattern)


def _path(layer: str, role: str) -> str:
    return f"{layer}.{role}" if layer else role


def _pattern(layer: Layer, role: str, array: TensorInfo, *, is_separable: bool) -> str:
    """Return the pattern of a layer's array; empty where it is stored as PyTorch stores it."""
    axes = len(array.shape)
    if _RECURRENT in layer.arrays:
        return ""
    if role == "alpha":
        shared = axes > 1 and set(array.shape[:-1]) == {1}
        return f"{' '.join('1' * (axes - 1))} C -> C" if shared else ""
    if role in _DEPTHWISE_KERNELS:
        return DEPTHWISE.get(axes, "")
    if role in _POINTWISE_KERNELS:
        return CONVOLUTION.get(axes, "")
    if role not in _KERNELS or is_separable:
        return ""
    if layer.kind is not None:
        return _CLASSES.get(layer.kind, {}).get(axes, "")
    if "transpose" in layer.name or "deconv" in layer.name:
        return TRANSPOSED.get(axes, "")
    return {**DENSE, **CONVOLUTION}.get(axes, "")


def in_keras_layout(found: StateDict) -> StateDict:
    """Read a state dict's arrays as Keras and TensorFlow store them; names tell the layers."""
    layers: dict[str, dict[str, TensorInfo]] = {}
    for name, tensor in found.tensors.items():
        layer, role = split_name(name)
        layers.setdefault(layer, {})[role] = tensor
    tensors = [
        tensor for name, arrays in layers.items() for tensor in keras_layer(Layer(name, arrays))
    ]
    return replace(found, tensors=by_name(tensors), layout="keras")


def in_mlx_layout(found: StateDict) -> StateDict:
    """Read a state dict's convolutions as MLX stores them; what MLX quantized is refused."""
    for name in found.tensors:
        if name.endswith(".scales") and name.removesuffix("scales") + "weight" in found.tensors:
            raise CheckpointError(
                f"{printable(name.removesuffix('scales'))}weight is quantized by MLX; save it "
                "dequantized first"
            )
    tensors = [
        viewed(tensor, name, MLX.get(len(tensor.shape), ""))
        if name.endswith("weight") and len(tensor.shape) in MLX
        else tensor
        for name, tensor in found.tensors.items()
    ]
    return replace(found, tensors=by_name(tensors), layout="mlx")


def in_paddle_layout(
    found: StateDict, parameters: Mapping[str, str] = MappingProxyType({})
) -> StateDict:
    """Read a state dict's arrays as Paddle stores them: a Linear weight is (in, out).

    parameters: what Paddle itself calls them, after the kind of their layer, by their names.
    """
    tensors = []
    unbiased = {n for n in found.tensors if f"{n.removesuffix('weight')}bias" not in found.tensors}
    for name, tensor in found.tensors.items():
        layer, _, role = name.rpartition(".")
        is_embedding = _EMBEDDING in parameters.get(name, name) and name in unbiased
        is_linear = role == "weight" and len(tensor.shape) == 2 and not is_embedding
        torchs = _path(layer, _PADDLE_ROLES.get(role, role))
        if is_linear or torchs != name:
            tensor = viewed(tensor, torchs, DENSE[2] if is_linear else "")
        tensors.append(tensor)
    return replace(found, tensors=by_name(tensors), layout="paddle")


def named_as_torch(found: StateDict) -> StateDict:
    """Rename what follows another framework's naming, `fc6_w` or `fc6/weights`.

    Chainer's too, `fc6/W` and `bn/avg_mean`: its arrays are stored as PyTorch's are. A state dict
    that has one name of PyTorch's is left as it is.
    """
    if any(name.rpartition(".")[2] == "weight" for name in found.tensors):
        return found
    names = {}
    for name in found.tensors:
        layer, role = split_name(name)
        names[name] = f"{layer}.{ROLES[role]}" if layer and role in ROLES else name
    if len(set(names.values())) < len(names):
        return found
    tensors = [
        tensor if names[name] == name else viewed(tensor, names[name])
        for name, tensor in found.tensors.items()
    ]
    return replace(found, tensors=by_name(tensors))


def split_name(name: str) -> tuple[str, str]:
    """Return a layer's name and an array's role: `conv1/kernel:0` is ("conv1", "kernel")."""
    whole = name.partition(":")[0].replace("/", ".")
    layer, _, role = whole.rpartition(".")
    numbered = _NUMBERED.fullmatch(role)
    if numbered:
        return _path(layer, numbered[2]), numbered[1]
    if role in ROLES or role == _RECURRENT:
        return layer, role
    for known in (*_DEPTHWISE_KERNELS, *_POINTWISE_KERNELS, "W", "w", "b"):
        if role.endswith(f"_{known}"):
            return whole.removesuffix(f"_{known}"), known
    return layer, role


def by_name(tensors: Iterable[TensorInfo]) -> dict[str, TensorInfo]:
    """Return tensors by their names; raises CheckpointError where two have one name."""
    found: dict[str, TensorInfo] = {}
    for tensor in tensors:
        if tensor.name in found:
            raise CheckpointError(f"two of its arrays would be called {shown(tensor.name)}")
        found[tensor.name] = tensor
    return found


LAYOUTS: Mapping[str, Callable[[StateDict], StateDict]] = {
    "torch": lambda found: found,
    "keras": in_keras_layout,
    "mlx": in_mlx_layout,
    "paddle": in_paddle_layout,
}
"""What reads a state dict by a layout's name."""
