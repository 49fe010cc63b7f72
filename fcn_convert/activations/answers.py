"""What a Dense layer and its convolution answer to every input, box by box of their weights.

A box's memory is used again for the next: fresh memory costs as much as computing with it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from math import prod

from fcn_convert.activations.inputs import Inputs
from fcn_convert.formats import Checkpoint
from fcn_convert.rereading import BOX_BYTES, Box, BoxReader, boxes
from fcn_convert.tensors import TensorInfo
from fcn_convert.torch_quietly import Tensor, functional, torch

Job = Callable[["Scratch"], None]
Answer = Callable[..., Tensor]
"""Called with inputs, a weight and a bias or None, gives (vectors, features)."""


@dataclass(frozen=True)
class Stored:
    """The weight and the bias, if any, of a layer as a checkpoint stores them."""

    checkpoint: Checkpoint
    weight: TensorInfo
    bias: TensorInfo | None

    @property
    def dtype(self) -> torch.dtype:
        """The weight's dtype."""
        return _dtype_of(self.weight)

    def read_bias(self) -> Tensor | None:
        """Return the bias, of its own dtype."""
        if self.bias is None:
            return None
        dtype = _dtype_of(self.bias)
        found = torch.empty(self.bias.shape, dtype=dtype)
        for box in boxes(self.bias):
            values = BoxReader().read(self.checkpoint.files[self.bias.file], self.bias, box)
            found[box.start[0] : box.start[0] + box.shape[0]] = torch.frombuffer(
                values, dtype=dtype
            )
        return found


def _dtype_of(tensor: TensorInfo) -> torch.dtype:
    assert tensor.dtype.torch  # or nothing would be computed
    found: torch.dtype = getattr(torch, tensor.dtype.torch)
    return found


class Scratch:
    """The memory of one thread."""

    def __init__(self) -> None:
        self._reader = BoxReader()
        self._wide = torch.empty(0, dtype=torch.float64)

    def read(self, stored: Stored, box: Box) -> Tensor:
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
    narrow: in the weight's dtype, (vectors, features); None where torch cannot compute in it.
    """

    def __init__(self, inputs: Inputs, stored: Stored) -> None:
        dtype, features, vectors = stored.dtype, stored.weight.shape[0], len(inputs.vectors)
        self._stored, self._bias, self._inputs = stored, stored.read_bias(), inputs
        self.parts = 2 if dtype.is_complex else 1
        self.wide = torch.zeros((vectors, self.parts, features), dtype=torch.float64)
        self.narrow: Tensor | None = torch.zeros((vectors, features), dtype=dtype)
        self._narrow_inputs = inputs.to(dtype)

    def _add(self, box: Box, scratch: Scratch, answer: Answer) -> Tensor:
        """Add what a box of the weight answers, and return that box in float64."""
        features = slice(box.start[0], box.start[0] + box.shape[0])
        weight = scratch.read(self._stored, box)
        wide = scratch.widened(weight)
        bias = wide_bias = None
        if self._bias is not None and not any(box.start[1:]):  # once for each feature
            bias = self._bias[features]
            wide_bias = _parts(bias).flatten().to(torch.float64)
        found = answer(self._inputs, wide, wide_bias)
        self.wide[..., features] += found.view(len(found), self.parts, -1)
        if self.narrow is not None:
            try:
                self.narrow[:, features] += answer(self._narrow_inputs, weight, bias)
            except (RuntimeError, NotImplementedError):  # torch has no kernel for the dtype
                self.narrow = None
        return wide


class DenseAnswers(Answers):
    """What the Dense layer answers to the flattened maps.

    sums: of the absolute weights of each output feature, bias included, (parts, features).
    """

    def __init__(self, inputs: Inputs, stored: Stored) -> None:
        super().__init__(inputs, stored)
        self.sums = torch.zeros(self.wide.shape[1:], dtype=torch.float64)
        if self._bias is not None:
            self.sums += _parts(self._bias).to(torch.float64).abs()

    def jobs(self) -> Iterator[tuple[int, Job]]:
        """Yield the work that may be done at the same time, and how many bytes it reads."""
        weight = self._stored.weight
        rows: dict[int, list[Box]] = {}
        for box in boxes(weight):
            # Parts of one row are added to the same sums; and any boxes, where rows do not lie
            # one after the other.
            rows.setdefault(box.start[0] if weight.is_plain else 0, []).append(box)
        for group in rows.values():
            nbytes = sum(prod(box.shape) for box in group) * weight.dtype.itemsize
            yield nbytes, partial(self._compute, group)

    def _compute(self, group: list[Box], scratch: Scratch) -> None:
        for box in group:
            (first_out, first_in), (size_out, size_in) = box.start, box.shape
            read = slice(first_in, first_in + size_in)
            wide = self._add(
                box,
                scratch,
                lambda inputs, weight, bias, read=read: functional.linear(
                    inputs.vectors[:, read], weight, bias
                ),
            )
            sums = torch.linalg.vector_norm(wide, ord=1, dim=1)
            self.sums[:, first_out : first_out + size_out] += sums.view(self.parts, -1)


class ConvolutionAnswers(Answers):
    """What the convolution answers to the maps."""

    def jobs(self) -> Iterator[tuple[int, Job]]:
        """Yield the work that may be done at the same time, and how many bytes it reads."""
        features_out, *shape = self._stored.weight.shape
        nbytes = prod(shape) * self._stored.weight.dtype.itemsize
        rows = max(1, BOX_BYTES // nbytes)
        for start in range(0, features_out, rows):
            count = min(rows, features_out - start)
            box = Box((start, *(0 for _ in shape)), (count, *shape))
            yield count * nbytes, partial(self._compute, box)

    def _compute(self, box: Box, scratch: Scratch) -> None:
        self._add(box, scratch, _convolved)


def _convolved(inputs: Inputs, weight: Tensor, bias: Tensor | None) -> Tensor:
    convolve: Answer = getattr(functional, f"conv{weight.dim() - 2}d")
    # (n, features, *cells) → (n · cells, features)
    answers = (convolve(maps, weight, bias) for maps in inputs.maps)
    return torch.cat([answer.flatten(2).mT.flatten(0, 1) for answer in answers])
