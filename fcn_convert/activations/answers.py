"""What a Dense layer and its convolution answer to every input, box by box of their weights.

A box's memory is used again for the next: fresh memory costs as much as computing with it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from math import prod

from fcn_convert.activations.inputs import MAPS, Inputs
from fcn_convert.formats import Checkpoint
from fcn_convert.rereading import BOX_BYTES, Box, BoxReader, boxes
from fcn_convert.tensors import TensorInfo
from fcn_convert.torch_library import Tensor, functional, torch

Job = Callable[["ThreadMemory"], None]
Values = tuple[Tensor, ...]
"""A part of the inputs: the flattened maps, those of the layer's own size first; or these maps, and
the larger one."""
Make = Callable[[tuple[int, ...], tuple[int, ...]], Values]
"""Makes the part of the inputs that a box of the weight reads, by the box's start and shape."""
Answer = Callable[[Values, Tensor, Tensor | None], Tensor]
"""Called with inputs, a weight and a bias or None, gives (vectors, features)."""

PART = 1 << 16
"""Values of one map that are computed with at a time, at most."""


@dataclass(frozen=True)
class StoredLayer:
    """The weight and the bias, if any, of a layer as a checkpoint stores them."""

    checkpoint: Checkpoint
    weight: TensorInfo
    bias: TensorInfo | None

    def rows(self, first: int, most: int) -> StoredLayer:
        """Return the weight and the bias of `most` output features, or of those there are."""
        bias = _rows(self.bias, first, most) if self.bias else None
        return StoredLayer(self.checkpoint, _rows(self.weight, first, most), bias)

    @property
    def dtype(self) -> torch.dtype:
        """The weight's dtype."""
        return _dtype_of(self.weight)

    def read_bias(self) -> Tensor | None:
        """Return the bias, of its own dtype."""
        if self.bias is None:
            return None
        file, whole = self.checkpoint.files[self.bias.file], Box((0,), self.bias.shape)
        return torch.frombuffer(
            BoxReader().read(file, self.bias, whole), dtype=_dtype_of(self.bias)
        )


def _rows(tensor: TensorInfo, first: int, most: int) -> TensorInfo:
    count, *inner = tensor.shape
    stride = prod(inner) if tensor.strides is None else tensor.strides[0]
    offset = tensor.offset + first * stride * tensor.dtype.itemsize
    return replace(tensor, shape=(min(most, count - first), *inner), offset=offset)


def _dtype_of(tensor: TensorInfo) -> torch.dtype:
    assert tensor.dtype.torch  # or nothing would be computed
    found: torch.dtype = getattr(torch, tensor.dtype.torch)
    return found


class ThreadMemory:
    """The memory of one thread."""

    def __init__(self) -> None:
        self._reader = BoxReader()
        self._wide = torch.empty(0, dtype=torch.float64)
        self._inputs: tuple[object, tuple[Values, Values]] = (None, ((), ()))

    def inputs(self, answers: Answers, box: Box) -> tuple[Values, Values]:
        """Return what a box reads, made anew where the box before it read another part."""
        part = (answers, box.start[1:], box.shape[1:])
        if self._inputs[0] != part:
            self._inputs = part, answers.make_inputs(box)
        return self._inputs[1]

    def read(self, stored: StoredLayer, box: Box) -> Tensor:
        """Return a box of a weight, as stored; it holds until the next is read."""
        file = stored.checkpoint.files[stored.weight.file]
        values = self._reader.read(file, stored.weight, box)
        return torch.frombuffer(values, dtype=stored.dtype).view(box.shape)

    def widened(self, values: Tensor) -> Tensor:
        """Return values in float64; of complex numbers, their real and their imaginary rows."""
        parts = _parts(values)
        if self._wide.numel() < parts.numel():
            self._wide = torch.empty(parts.numel(), dtype=torch.float64)
        wide = self._wide[: parts.numel()].view(parts.shape)
        return wide.copy_(parts).flatten(0, 1)


def _parts(tensor: Tensor) -> Tensor:
    """Return the real parts, and of complex numbers the imaginary ones too, along a new axis."""
    return torch.view_as_real(tensor).movedim(-1, 0) if tensor.is_complex() else tensor[None]


class Answers:
    """What one layer answers, summed up over the boxes of its weight.

    wide: in float64, (vectors, parts, features); a complex feature has two parts.
    narrow: in the weight's dtype, of the maps of the layer's own size alone, (MAPS, features); None
    where torch cannot compute in it.
    """

    def __init__(self, vectors: int, stored: StoredLayer, make: Make, answer: Answer) -> None:
        dtype, features = stored.dtype, stored.weight.shape[0]
        self._stored, self._bias = stored, stored.read_bias()
        self._make, self._answer = make, answer
        self.parts = 2 if dtype.is_complex else 1
        self.wide = torch.zeros((vectors, self.parts, features), dtype=torch.float64)
        self.narrow: Tensor | None = torch.zeros((MAPS, features), dtype=dtype)

    def _add(self, box: Box, memory: ThreadMemory) -> Tensor:
        """Add what a box of the weight answers, and return that box in float64."""
        features = slice(box.start[0], box.start[0] + box.shape[0])
        inputs, narrow_inputs = memory.inputs(self, box)
        weight = memory.read(self._stored, box)
        wide = memory.widened(weight)
        bias = wide_bias = None
        if self._bias is not None and not any(box.start[1:]):  # once for each feature
            bias = self._bias[features]
            wide_bias = _parts(bias).flatten().to(torch.float64)
        found = self._answer(inputs, wide, wide_bias)
        self.wide[..., features] += found.view(len(found), self.parts, -1)
        if self.narrow is not None:
            try:
                self.narrow[:, features] += self._answer(narrow_inputs, weight, bias)
            except (RuntimeError, NotImplementedError):  # torch has no kernel for the dtype
                self.narrow = None
        return wide

    def make_inputs(self, box: Box) -> tuple[Values, Values]:
        """Make what a box of the weight reads: in float64, and for `narrow` in the stored dtype."""
        wide = self._make(box.start[1:], box.shape[1:])
        return wide, (wide[0][:MAPS].to(self._stored.dtype),)


class DenseAnswers(Answers):
    """What the Dense layer answers to the flattened maps.

    sums: of the absolute weights of each output feature, bias included, (parts, features).
    """

    def __init__(self, inputs: Inputs, stored: StoredLayer) -> None:
        def make(start: tuple[int, ...], shape: tuple[int, ...]) -> Values:
            return (inputs.flattened(*start, *shape),)

        super().__init__(inputs.vectors, stored, make, _multiplied)
        self.sums = torch.zeros(self.wide.shape[1:], dtype=torch.float64)
        if self._bias is not None:
            self.sums += _parts(self._bias).to(torch.float64).abs()

    def jobs(self) -> Iterator[tuple[int, Job]]:
        """Yield the work that may be done at the same time, and how many bytes it reads."""
        weight = self._stored.weight
        # Boxes of the same rows are added to the same sums; and others, too, where rows do not lie
        # one after the other. Of a large map, each part is made once for all rows.
        apart = weight.is_plain and weight.shape[1] <= PART
        groups: dict[int, list[Box]] = {}
        for box in boxes(weight):
            groups.setdefault(box.start[0] if apart else 0, []).extend(_narrowed(box))
        for group in groups.values():
            group.sort(key=lambda box: box.start[::-1])
            nbytes = sum(prod(box.shape) for box in group) * weight.dtype.itemsize
            yield nbytes, partial(self._compute, group)

    def _compute(self, group: list[Box], memory: ThreadMemory) -> None:
        for box in group:
            # In place, which takes a fifth of the time of torch's norm.
            sums = self._add(box, memory).abs_().sum(1)
            self.sums[:, box.start[0] : box.start[0] + box.shape[0]] += sums.view(self.parts, -1)


def _narrowed(box: Box) -> Iterator[Box]:
    """Cut a box of a Dense weight so that it reads no more than a part of a map."""
    (first_out, first_in), (size_out, size_in) = box.start, box.shape
    for at in range(0, size_in, PART):
        yield Box((first_out, first_in + at), (size_out, min(PART, size_in - at)))


def _multiplied(inputs: Values, weight: Tensor, bias: Tensor | None) -> Tensor:
    (vectors,) = inputs
    return functional.linear(vectors, weight, bias)


class ConvolutionAnswers(Answers):
    """What the convolution answers to the maps."""

    def __init__(self, inputs: Inputs, stored: StoredLayer) -> None:
        super().__init__(inputs.vectors, stored, inputs.maps, _convolved)

    def jobs(self) -> Iterator[tuple[int, Job]]:
        """Yield the work that may be done at the same time, and how many bytes it reads."""
        features_out, *kernel = self._stored.weight.shape
        itemsize = self._stored.weight.dtype.itemsize
        parts = list(_parts_of(tuple(kernel)))
        groups: dict[int, list[Box]] = {}
        for start, shape in parts:
            rows = max(1, BOX_BYTES // (prod(shape) * itemsize))
            for at in range(0, features_out, rows):
                box = Box((at, *start), (min(rows, features_out - at), *shape))
                # Parts of one kernel are added to the same sums.
                groups.setdefault(at if len(parts) == 1 else 0, []).append(box)
        for group in groups.values():
            nbytes = sum(prod(box.shape) for box in group) * itemsize
            yield nbytes, partial(self._compute, group)

    def _compute(self, group: list[Box], memory: ThreadMemory) -> None:
        for box in group:
            self._add(box, memory)


def _parts_of(kernel: tuple[int, ...]) -> Iterator[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Cut a kernel, (C, *kernel), along its first axes; yield each part's start and shape."""
    if not kernel:
        yield (), ()
        return
    size, *inner = kernel
    step = max(1, PART // prod(inner))
    for at in range(0, size, step):
        for start, shape in _parts_of(tuple(inner)):
            yield (at, *start), (min(step, size - at), *shape)


def _convolved(inputs: Values, weight: Tensor, bias: Tensor | None) -> Tensor:
    convolve: Callable[..., Tensor] = getattr(functional, f"conv{weight.dim() - 2}d")
    # (n, features, *cells) → (n · cells, features)
    answers = (convolve(maps, weight, bias) for maps in inputs)
    return torch.cat([answer.flatten(2).mT.flatten(0, 1) for answer in answers])
