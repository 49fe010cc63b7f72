"""What becomes of each tensor, as data: kept, reshaped or permuted, under which name and where."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from fcn_convert.errors import CheckpointError, SpecError
from fcn_convert.layers import DenseLayer, Resolved
from fcn_convert.tensors import Shard, StateDict, TensorInfo

FORMAT = "safetensors"
SUFFIX = ".safetensors"
INDEX_NAME = "model.safetensors.index.json"
"""Where libraries look for the index of a folder of shards."""
WRITTEN_BY = "fcn-convert"
"""What an index that we write says of its origin."""


@dataclass(frozen=True, slots=True)
class Keep:
    """The tensor as it is."""

    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Reshape:
    """The same values in the same order under another shape."""

    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
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


@dataclass(frozen=True, slots=True)
class Step:
    """One tensor of the output: where it comes from, its new name, and what is done to it."""

    source: TensorInfo
    name: str
    action: Action


@dataclass(frozen=True)
class Written:
    """A file of the output that is written anew.

    name: in the output's folder; empty where the output is this one file. metadata: texts to store
    beside the tensors.
    """

    name: str
    steps: tuple[Step, ...]
    metadata: Mapping[str, str]


@dataclass(frozen=True)
class Copied:
    """A shard in which nothing is rewritten: the source's file of this number, as it is."""

    name: str
    steps: tuple[Step, ...]
    file: int


@dataclass(frozen=True)
class ShardIndex:
    """The index of the other files: which holds which tensor.

    total_size: bytes of all values.
    """

    name: str
    weight_map: Mapping[str, str]
    total_size: int


OutputFile = Written | Copied | ShardIndex


@dataclass(frozen=True)
class Plan:
    """Every tensor of the output, and every file: one, or shards with their index."""

    files: tuple[OutputFile, ...]

    @property
    def format(self) -> str:
        """The container, in words, as it will be read back."""
        return FORMAT if len(self.files) == 1 else f"sharded {FORMAT}"

    @property
    def steps(self) -> Iterator[Step]:
        """What becomes of each tensor, file by file."""
        for file in self.files:
            if not isinstance(file, ShardIndex):
                yield from file.steps


def make_plan(resolved: Resolved, state_dict: StateDict, metadata: Mapping[str, str]) -> Plan:
    """Decide the action for every tensor; raises SpecError for one that cannot be done.

    metadata: texts of the source's author. The output is one file; `in_shards` makes it several.
    """
    problems = [problem for layer in resolved.layers for problem in _impossible(layer)]
    if problems:
        raise SpecError(*problems)
    rewritten = {layer.weight.name: _rewrite(layer) for layer in resolved.layers}
    steps = (
        Step(tensor, resolved.names[name], rewritten.get(name, Keep(tensor.shape)))
        for name, tensor in state_dict.tensors.items()
    )
    return Plan((Written("", tuple(steps), metadata),))


def in_shards(plan: Plan, shards: Iterable[Shard]) -> Plan:
    """Lay a plan out like its source: the same shards, and a new index.

    Raises CheckpointError where two shards would get one name.
    """
    steps = {step.source.stored_name: step for step in plan.steps}
    files: dict[str, Written | Copied] = {}
    for shard in shards:
        name = _new_name(shard)
        if name in files or name == INDEX_NAME:
            raise CheckpointError(
                f"{shard.name}: would be called {name}, as another file of the output; convert "
                f"into one file, -o NAME{SUFFIX}"
            )
        files[name] = _laid_out(name, shard, [steps[n] for n in sorted(shard.names & set(steps))])
    weight_map = {step.name: file.name for file in files.values() for step in file.steps}
    total_size = sum(step.source.nbytes for step in steps.values())
    index = ShardIndex(INDEX_NAME, dict(sorted(weight_map.items())), total_size)
    return Plan((*files.values(), index))


def _laid_out(name: str, shard: Shard, steps: list[Step]) -> Written | Copied:
    """Return the file of a shard: a copy where its author's texts and all tensors stay."""
    kept = len(steps) == len(shard.names) and all(
        isinstance(step.action, Keep) and not step.source.stored and step.name == step.source.name
        for step in steps
    )
    # transformers refuses a shard without `pt`; and another framework's is PyTorch's now.
    if kept and shard.format == FORMAT and shard.metadata.get("format") == "pt":
        return Copied(name, tuple(steps), shard.file)
    return Written(name, tuple(steps), shard.metadata)


def _new_name(shard: Shard) -> str:
    """Return the name of a shard in the output; torch's are renamed as transformers does."""
    if shard.format == FORMAT:
        return shard.name
    return re.sub(r"\.\w+$", "", shard.name.removeprefix("pytorch_")) + SUFFIX


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
    weight = layer.weight
    if isinstance(_rewrite(layer), Permute) and not weight.dtype.itemsize:
        yield (
            f"{weight.name} is {weight.dtype.name}, of less than a byte: its values can be "
            f"reshaped but not permuted from {layer.head.flatten}"
        )
