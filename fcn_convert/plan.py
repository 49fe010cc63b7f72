"""What becomes of each tensor, as data: kept, reshaped or permuted, under which name."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod

from fcn_convert.errors import SpecError
from fcn_convert.layers import DenseLayer, Resolved
from fcn_convert.tensors import StateDict, TensorInfo


@dataclass(frozen=True)
class Keep:
    """The tensor as it is."""

    shape: tuple[int, ...]


@dataclass(frozen=True)
class Reshape:
    """The same values in the same order under another shape."""

    shape: tuple[int, ...]


@dataclass(frozen=True)
class Permute:
    """The values split into axes, which then change places.

    split: the shape to read the tensor under. order: for each axis of the result, which axis of
    `split` it is. Together an einops pattern, as numbers.
    """

    split: tuple[int, ...]
    order: tuple[int, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the result."""
        return tuple(self.split[axis] for axis in self.order)


Action = Keep | Reshape | Permute


@dataclass(frozen=True)
class Step:
    """One tensor of the output: where it comes from, its new name, and what is done to it."""

    source: TensorInfo
    name: str
    action: Action


@dataclass(frozen=True)
class Plan:
    """Every tensor of the output."""

    steps: tuple[Step, ...]


def make_plan(resolved: Resolved, state_dict: StateDict) -> Plan:
    """Decide the action for every tensor; raises SpecError for one that cannot be done."""
    problems = [problem for layer in resolved.layers for problem in _impossible(layer)]
    if problems:
        raise SpecError(problems)
    rewritten = {layer.weight.name: _rewrite(layer) for layer in resolved.layers}
    return Plan(
        tuple(
            Step(tensor, resolved.names[name], rewritten.get(name, Keep(tensor.shape)))
            for name, tensor in state_dict.tensors.items()
        )
    )


def _rewrite(layer: DenseLayer) -> Action:
    """Dense weight (out, in) to convolution weight (out, C, *kernel) or (out, in, 1, …)."""
    features_out, features_in = layer.weight.shape
    if layer.reads == "dense":
        return Reshape((features_out, features_in, *layer.kernel))
    fmap, flatten = layer.head.feature_map, layer.head.flatten
    sizes = dict(zip(fmap.axes, fmap.sizes, strict=True))
    split = (features_out, *(sizes[axis] for axis in flatten))
    order = (0, *(1 + flatten.index(axis) for axis in fmap.axes))
    # Axes of size 1 may stand anywhere: if the others keep their order, so do the values.
    moved = [axis for axis in order if split[axis] > 1]
    permute = Permute(split, order)
    return permute if moved != sorted(moved) else Reshape(permute.shape)


def _impossible(layer: DenseLayer) -> Iterator[str]:
    action, weight = _rewrite(layer), layer.weight
    if isinstance(action, Permute) and not weight.dtype.itemsize:
        yield (
            f"{weight.name} is {weight.dtype.name}, of less than a byte: its values can be "
            f"reshaped but not permuted from {layer.head.flatten}"
        )
    if prod(action.shape) != prod(weight.shape):
        raise AssertionError(f"{weight.name}: {weight.shape} does not become {action.shape}")
