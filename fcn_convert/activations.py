"""Computes what a Dense layer and its convolution answer to the same inputs, and compares.

In float64, where rounding is bounded: two ways of summing n products differ by at most
2·g·Σ|x·w| with g = n·u / (1 - n·u) and u = 2⁻⁵³ (Higham, Accuracy and Stability of Numerical
Algorithms, 2nd edition, section 3.1), and Σ|x·w| is by Hölder at most max|x|·Σ|w|, where no square
can over- or underflow. Each term may lose as much again as the smallest normal number where it
underflows (section 2.1). That bound, per output, is the gate.
"""

from __future__ import annotations

import warnings
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from math import prod

from fcn_convert.formats import Checkpoint
from fcn_convert.formats.source import Advance, SourceFile
from fcn_convert.formats.strided import read_values, strides_of
from fcn_convert.layers import DenseLayer
from fcn_convert.proof import Check
from fcn_convert.tensors import TensorInfo
from fcn_convert.torch_quietly import Tensor, functional, torch

MAPS = 2
"""Seeded feature maps per layer."""
MARGIN = (2, 1, 1)
"""How much larger the larger map is, per spatial axis."""
BLOCK_ELEMENTS = 1 << 21
"""Elements of a weight computed at a time."""
UNIT_ROUNDOFF = 2.0**-53
SMALLEST_NORMAL = 2.0**-1022


def compare(
    layer: DenseLayer,
    original: Checkpoint,
    converted: Checkpoint,
    names: Mapping[str, str],
    advance: Advance,
) -> Check:
    """Compare every output of a layer, on maps of its size and at each window of a larger one.

    Reads the Dense weight from the original and the convolution's from the output, a block of
    output features at a time. The check is not computed where torch cannot compute in the dtype.
    """
    if 0 in layer.weight.shape:
        return Check("activations", None, f"{layer.weight.name} has no elements to compute with")
    found = converted.state_dict(None).tensors
    pairs = [
        _Pair(original, layer.weight, converted, found[names[layer.weight.name]]),
        *(
            [_Pair(original, layer.bias, converted, found[names[layer.bias.name]])]
            if layer.bias
            else []
        ),
    ]
    inputs = _Inputs(layer)
    total = _Total(layer.weight.shape[1])
    rows = max(1, BLOCK_ELEMENTS // max(layer.weight.shape[1], 1))
    with torch.inference_mode(), _native_convolutions():
        for start in range(0, layer.weight.shape[0], rows):
            stop = min(start + rows, layer.weight.shape[0])
            try:
                dense, convolution = zip(*(pair.rows(start, stop) for pair in pairs), strict=True)
                total.add(inputs, dense, convolution)
            except (RuntimeError, NotImplementedError, TypeError) as error:
                return Check("activations", None, f"torch cannot compute: {error}".split("\n")[0])
            advance(layer.weight.nbytes // layer.weight.shape[0] * (stop - start))
    return total.check(names[layer.weight.name])


@contextmanager
def _native_convolutions() -> Iterator[None]:
    """Keep torch from oneDNN, which repacks a whole kernel per call: seconds, and a copy of it."""
    with warnings.catch_warnings():
        # torch 2.13 warns of a setting for Intel GPUs that this context manager passes on.
        warnings.filterwarnings("ignore", message="TF32 acceleration on top of oneDNN")
        with torch.backends.mkldnn.flags(enabled=False):
            yield


@dataclass(frozen=True)
class _Pair:
    """A tensor of the original and the one of the output that was made of it."""

    original: Checkpoint
    before: TensorInfo
    converted: Checkpoint
    after: TensorInfo

    def rows(self, start: int, stop: int) -> tuple[Tensor, Tensor]:
        """Return both tensors' output features from `start` to `stop`, as stored."""
        return (
            _rows(self.original.files[self.before.file], self.before, start, stop),
            _rows(self.converted.files[self.after.file], self.after, start, stop),
        )


def _rows(file: SourceFile, tensor: TensorInfo, start: int, stop: int) -> Tensor:
    if tensor.dtype.torch is None:
        raise TypeError(f"it has no dtype {tensor.dtype.name}")
    offset = tensor.offset + start * strides_of(tensor)[0] * tensor.dtype.itemsize
    part = replace(tensor, shape=(stop - start, *tensor.shape[1:]), offset=offset)
    values = read_values(file, part)
    return torch.frombuffer(values, dtype=getattr(torch, tensor.dtype.torch)).view(part.shape)


class _Inputs:
    """The maps that a layer reads, and the same maps flattened as the spec says.

    maps: of the layer's own size (MAPS, C, *kernel), and a larger one (1, C, *spatial).
    vectors: (MAPS + windows, features), windows in row-major order of the output's cells.
    """

    def __init__(self, layer: DenseLayer) -> None:
        kernel = layer.kernel
        channels = layer.weight.shape[1] // prod(kernel)
        spatial = [size + more for size, more in zip(kernel, MARGIN, strict=False)]
        seed = torch.Generator().manual_seed(zlib.crc32(layer.name.encode("utf-8", "replace")))
        native = torch.randn((MAPS, channels, *kernel), generator=seed, dtype=torch.float64)
        larger = torch.randn((1, channels, *spatial), generator=seed, dtype=torch.float64)
        windows = larger
        for axis, size in enumerate(kernel):
            windows = windows.unfold(2 + axis, size, 1)
        # (1, C, *cells, *kernel) → (cells, C, *kernel)
        cells = range(2, 2 + len(kernel))
        windows = windows.permute(0, *cells, 1, *range(2 + len(kernel), windows.dim()))
        every = torch.cat((native, windows.reshape(-1, channels, *kernel)))
        self.maps = (native, larger)
        self.vectors = _flattened(every, _places(layer))
        # With the bias as one more product, of 1 and itself.
        self.sizes = self.vectors.abs().amax(1).clamp(min=1)


def _places(layer: DenseLayer) -> Tensor:
    """Return where each element of a map, in C, H, W order, stands in the flattened vector."""
    if layer.reads == "dense":
        return torch.arange(layer.weight.shape[1])
    axes, sizes = layer.head.feature_map.axes, layer.head.feature_map.sizes
    index = torch.zeros(sizes, dtype=torch.int64)
    step = 1
    for axis in reversed(layer.head.flatten):  # the last axis of `flatten` changes fastest
        position = axes.index(axis)
        shape = [-1 if other == position else 1 for other in range(len(axes))]
        index = index + step * torch.arange(sizes[position]).view(shape)
        step *= sizes[position]
    return index.flatten()


def _flattened(maps: Tensor, place: Tensor) -> Tensor:
    """Flatten maps (n, C, *kernel) into vectors (n, features), each element at its place."""
    vectors = torch.empty(maps.shape[0], place.numel(), dtype=maps.dtype)
    vectors[:, place] = maps.flatten(1)
    return vectors


def _real(tensor: Tensor) -> Tensor:
    """Widen to float64; a complex weight is its real and its imaginary rows."""
    if tensor.is_complex():
        tensor = torch.view_as_real(tensor).movedim(-1, 0).flatten(0, 1)
    return tensor.to(torch.float64)


def _answers(
    inputs: _Inputs, dense: tuple[Tensor, ...], convolution: tuple[Tensor, ...]
) -> tuple[Tensor, Tensor]:
    """Return what both answer to every vector, (vectors, features), in the weight's dtype."""
    kind = dense[0].dtype
    convolve: Callable[..., Tensor] = getattr(functional, f"conv{convolution[0].dim() - 2}d")
    # (n, features, *cells) → (n · cells, features)
    answers = (convolve(maps.to(kind), *convolution) for maps in inputs.maps)
    found = torch.cat([answer.flatten(2).mT.flatten(0, 1) for answer in answers])
    return functional.linear(inputs.vectors.to(kind), *dense), found


def _sums(dense: tuple[Tensor, ...]) -> Tensor:
    """Return the sum of the absolute weights of each output feature, bias included."""
    weight, *bias = dense
    total: Tensor = torch.linalg.vector_norm(weight, ord=1, dim=1)
    return total + bias[0].abs() if bias else total


class _Total:
    """The comparison over all blocks of a layer's output features."""

    def __init__(self, features_in: int) -> None:
        terms = features_in + 1  # the bias is one more
        self.gamma = terms * UNIT_ROUNDOFF / (1 - terms * UNIT_ROUNDOFF)
        self.underflow = terms * SMALLEST_NORMAL
        self.largest = [0.0, 0.0]
        self.bound = 0.0
        self.compared = 0
        self.beyond = 0
        self.unlike = 0
        self.stored: float | None = 0.0

    def add(
        self, inputs: _Inputs, dense: tuple[Tensor, ...], convolution: tuple[Tensor, ...]
    ) -> None:
        """Compare a block of output features."""
        wide = tuple(map(_real, dense))
        expected, found = _answers(inputs, wide, tuple(map(_real, convolution)))
        bound = 2 * (torch.outer(self.gamma * inputs.sizes, _sums(wide)) + self.underflow)
        apart, alike = _apart(expected, found)
        finite = alike & expected.isfinite()
        self.unlike += int((~alike).sum())
        self.beyond += int((~alike | (finite & (apart > bound))).sum())
        self.compared += expected.numel()
        for kind, rows in enumerate((slice(None, MAPS), slice(MAPS, None))):
            self.largest[kind] = max(self.largest[kind], _greatest(apart[rows][finite[rows]]))
        self.bound = max(self.bound, _greatest(bound[finite]))
        self._add_stored(inputs, dense, convolution)

    def _add_stored(
        self, inputs: _Inputs, dense: tuple[Tensor, ...], convolution: tuple[Tensor, ...]
    ) -> None:
        """Compare in the stored dtype, as an indication: its rounding is this CPU's kernels'."""
        if self.stored is None:
            return
        try:
            expected, found = _answers(inputs, dense, convolution)
            apart, alike = _apart(expected, found)
            finite = alike & expected.isfinite()
            self.stored = max(self.stored, _greatest(apart[finite].to(torch.float64)))
        except (RuntimeError, NotImplementedError):  # torch has no kernel for the dtype
            self.stored = None

    def check(self, name: str) -> Check:
        """Sum up: passed where every output lies within its bound."""
        problem = (
            f"{name}: {self.beyond} of {self.compared} outputs differ from the Dense layer's by "
            f"more than rounding: by up to {max(self.largest):.3g}, allowed are {self.bound:.3g}"
            if self.beyond
            else ""
        )
        if self.unlike:
            problem += f"; {self.unlike} are not finite in one of the two, or not in the same way"
        values = {
            "max_abs_diff": self.largest[0],
            "larger_map_max_abs_diff": self.largest[1],
            "bound": self.bound,
            "outputs": self.compared,
            "stored_dtype_max_abs_diff": "not computed" if self.stored is None else self.stored,
        }
        return Check("activations", not self.beyond, problem, values)


def _apart(expected: Tensor, found: Tensor) -> tuple[Tensor, Tensor]:
    """Return absolute differences, and where values are of one kind: finite, infinite or NaN."""
    same_kind = (expected == found) | (expected.isnan() & found.isnan())
    alike = (expected.isfinite() & found.isfinite()) | same_kind
    return (expected - found).abs(), alike


def _greatest(values: Tensor) -> float:
    values = values[values.isfinite()]  # a difference can overflow where its values do not
    return float(values.max()) if values.numel() else 0.0
