"""Compares an output with the original, from the spec alone.

Nothing here comes from the plan or the writer: both files are read again, by `rereading.py`, and
every index follows from the spec's axis names. So a mistake in `plan.py`, `write.py` or what they
read by fails the proof instead of passing through it. What the proof takes as given is what the
spec and the container say: which layer reads what (`layers.py`), what tensors are then called
(`renames.py`), and in which order a framework stores the axes of an array (the patterns of
`formats/layouts.py`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import permutations
from math import inf, prod
from typing import TYPE_CHECKING

from fcn_convert.digests import Digests
from fcn_convert.formats import Checkpoint
from fcn_convert.formats.source import Advance, SourceFile
from fcn_convert.layers import DenseLayer, Resolved, resolve
from fcn_convert.layout_proof import as_the_layout_says
from fcn_convert.proof import Check, Level, Proof
from fcn_convert.rereading import Box, BoxReader, boxes
from fcn_convert.spec import Spec
from fcn_convert.tensors import Dtype, TensorInfo, is_row_major
from fcn_convert.torch_import import import_torch
from fcn_convert.workers import Workers

if TYPE_CHECKING:
    from fcn_convert.torch_library import Tensor

CHUNK_BYTES = 4 << 20
"""Bytes of either file that are compared at a time."""

_SHAPES_AGREE = Check("shapes", passed=True)
_IDENTICAL = Check("bytes", passed=True, values={"max_abs_diff": 0.0, "differing": 0})
"""The result for nearly every tensor; there may be a hundred thousand of them."""


def verify(
    spec: Spec,
    original: Checkpoint,
    converted: Checkpoint,
    level: Level,
    digests: Digests,
    advance: Advance,
) -> Proof:
    """Check the output at a level; what fails is in the proof, not raised.

    Raises SpecError or CheckpointError where one of the three cannot be understood.
    """
    state_dict = as_the_layout_says(original.state_dict(spec.state_dict, spec.layout))
    resolved = resolve(spec, state_dict)
    layers = {layer.weight.name: layer for layer in resolved.layers}
    views = {n: _expected(t, layers.get(n)) for n, t in state_dict.tensors.items()}
    found = converted.state_dict(None).tensors
    shapes = {name: (_shapes(resolved, view, found),) for name, view in views.items()}
    whole = (_nothing_else(resolved, found),)
    if level == "shapes" or not all(check.passed for (check,) in shapes.values()):
        return Proof(level, shapes, whole)
    for checkpoint in (original, converted):
        digests.start(checkpoint)
    workers = digests.workers
    pairs = [(view, found[resolved.names[n]], layers.get(n)) for n, view in views.items()]
    compared = workers.start(_compare_bytes, original, converted, pairs, workers, advance)
    answers = {}
    if level == "activations":
        answers = _activations(resolved, original, converted, workers, advance)
    values = zip(views, compared.result(), strict=True)
    checks = {name: (*shapes[name], check, *answers.get(name, ())) for name, check in values}
    return Proof(level, checks, whole, digests.of(original), digests.of(converted))


def _activations(
    resolved: Resolved,
    original: Checkpoint,
    converted: Checkpoint,
    workers: Workers,
    advance: Advance,
) -> dict[str, tuple[Check]]:
    """Return the checks of what layers compute, by their weights' names."""
    import_torch()
    from fcn_convert.activations import compare  # noqa: PLC0415 - imports torch
    from fcn_convert.activations.answers import StoredLayer  # noqa: PLC0415 - likewise

    found = converted.state_dict(None).tensors

    def check(layer: DenseLayer) -> Check:
        weight = found[resolved.names[layer.weight.name]]
        bias = found[resolved.names[layer.bias.name]] if layer.bias else None
        before = StoredLayer(original, layer.weight, layer.bias)
        return compare(layer, before, StoredLayer(converted, weight, bias), advance, workers)

    return {layer.weight.name: (check(layer),) for layer in resolved.layers}


def _expected(tensor: TensorInfo, layer: DenseLayer | None) -> TensorInfo:
    """Return the view of the original whose values, row-major, the output must hold.

    For a Dense weight that reads the map, the value at (o, c, h, w) is the original's at (o, i),
    where i counts through the axes in the order of the spec's `flatten`.
    """
    if layer is None:
        return tensor
    features_out, features_in = tensor.shape
    if layer.reads == "dense":
        ones = (1,) * (len(layer.head.feature_map.axes) - 1)
        shape, steps = (features_out, features_in, *ones), (1, *ones)
    else:
        size = dict(zip(layer.head.feature_map.axes, layer.head.feature_map.sizes, strict=True))
        step = {
            axis: prod(size[faster] for faster in layer.head.flatten[position + 1 :])
            for position, axis in enumerate(layer.head.flatten)
        }
        shape = (features_out, *size.values())
        steps = tuple(step[axis] for axis in size)
    stride_out, stride_in = tensor.strides or (features_in, 1)
    strides = (stride_out, *(stride_in * step for step in steps))
    plain = is_row_major(shape, strides)
    return replace(tensor, shape=shape, strides=None if plain else strides)


def _shapes(resolved: Resolved, view: TensorInfo, found: Mapping[str, TensorInfo]) -> Check:
    """Check name, shape and dtype; the header's own parser has checked the sizes."""
    name = resolved.names[view.name]
    written = found.get(name)
    problem = ""
    if written is None:
        problem = f"{name} is missing in the output"
    elif written.shape != view.shape:
        problem = f"{name} has the shape {list(written.shape)}, expected {list(view.shape)}"
    elif written.dtype != view.dtype:
        problem = f"{name} is {written.dtype.name}, expected {view.dtype.name}"
    elif not written.is_plain:
        # The same bytes under other strides are other values.
        problem = f"{name} is not stored in row-major order; save it after `.contiguous()`"
    return Check("shapes", passed=False, problem=problem) if problem else _SHAPES_AGREE


def _nothing_else(resolved: Resolved, found: Mapping[str, TensorInfo]) -> Check:
    extra = sorted(set(found) - set(resolved.names.values()))
    problem = f"the output has tensors of no origin: {', '.join(extra)}" if extra else ""
    return Check("shapes", not extra, problem, {"extra": len(extra)})


def _compare_bytes(
    original: Checkpoint,
    converted: Checkpoint,
    pairs: list[tuple[TensorInfo, TensorInfo, DenseLayer | None]],
    workers: Workers,
    advance: Advance,
) -> list[Check]:
    """Check that the output holds exactly the values of the original, bit by bit.

    pairs: what is expected and what was written, with the layer whose weight it is.
    """
    checks = []
    readers = BoxReader(), BoxReader()
    for view, written, layer in pairs:
        source, output = original.files[view.file], converted.files[written.file]
        total = _Difference(view.dtype, view.shape)
        for part, expected, found in _parts(source, view, output, written, readers):
            workers.go_on()
            if expected != found:
                total.add(part, expected, found)
            advance(len(expected))
        check = total.check(written.name)
        if not check.passed and layer is not None and layer.reads == "map":
            check = _with_order(check, layer, source, output, written)
        checks.append(check)
    return checks


def _with_order(
    check: Check,
    layer: DenseLayer,
    source: SourceFile,
    output: SourceFile,
    written: TensorInfo,
) -> Check:
    """Add to a layer's problem the other flatten order under which its values would be right.

    For most orders only the first box is read, as it differs.
    """
    own = layer.head.flatten
    if not layer.weight.dtype.itemsize:  # values that share a byte are read in one order only
        return check
    for order in map("".join, permutations(layer.head.feature_map.axes)):
        view = _expected(layer.weight, replace(layer, head=replace(layer.head, flatten=order)))
        parts = _parts(source, view, output, written, (BoxReader(), BoxReader()))
        if all(expected == found for _, expected, found in parts):
            found_as = f"it is the original under flatten {order}, not under the spec's {own}"
            return replace(check, problem=f"{check.problem}; {found_as}")
    return check


def _parts(
    source: SourceFile,
    view: TensorInfo,
    output: SourceFile,
    written: TensorInfo,
    readers: tuple[BoxReader, BoxReader],
) -> Iterator[tuple[Box | int, bytearray, bytearray]]:
    """Yield expected and found values, a bounded part at a time, and which part that is.

    The part is a box; or where both are in row-major order, the bytes from a number on.
    """
    before, after = readers
    if not view.is_plain:
        for box in boxes(view):
            yield box, before.read(source, view, box), after.read(output, written, box)
        return
    for at in range(0, view.nbytes, CHUNK_BYTES):
        count = min(CHUNK_BYTES, view.nbytes - at)
        expected = before.read_bytes(source, view.offset + at, count)
        found = after.read_bytes(output, written.offset + at, count)
        yield at, expected, found


@dataclass
class _Difference:
    """What differs between two tensors of one dtype and shape.

    largest: the largest absolute difference, infinite where one of the two is not finite; None
    where torch lacks the dtype.
    """

    dtype: Dtype
    shape: tuple[int, ...]
    count: int = 0
    first: tuple[int, ...] = ()
    largest: float | None = 0.0

    def check(self, name: str) -> Check:
        """Sum up, for the tensor that the output calls `name`."""
        if not self.count:
            return _IDENTICAL
        # Elements smaller than a byte that share one are not distinguished.
        unit = "elements" if self.dtype.itemsize else "bytes"
        every = prod(self.shape) if self.dtype.itemsize else prod(self.shape) * self.dtype.bits // 8
        problem = (
            f"{name} differs from the original in {self.count} of {every} {unit}, "
            f"first at {list(self.first)}"
        )
        values = {"max_abs_diff": self.largest, "differing": self.count}
        return Check("bytes", passed=False, problem=problem, values=values)

    def add(self, part: Box | int, expected: bytearray, found: bytearray) -> None:
        """Count in a part that differs."""
        from fcn_convert.torch_library import torch  # noqa: PLC0415 - heavy, and only needed where something is wrong

        bits = (torch.frombuffer(raw, dtype=torch.uint8) for raw in (expected, found))
        before, after = (raw.view(-1, max(self.dtype.itemsize, 1)) for raw in bits)
        differing = (before != after).any(1)
        first = self._index(part, int(differing.byte().argmax()))
        self.first = min(self.first, first) if self.count else first
        self.count += int(differing.count_nonzero())
        largest = _largest_difference(self.dtype, expected, found, differing)
        self.largest = None if None in (largest, self.largest) else max(largest, self.largest)  # type: ignore[type-var]

    def _index(self, part: Box | int, place: int) -> tuple[int, ...]:
        """Return the index of the element at a place in a part of the tensor."""
        if isinstance(part, int):
            size = max(self.dtype.itemsize, 1)
            return tuple(_position((part + place * size) * 8 // self.dtype.bits, self.shape))
        inside = _position(place, part.shape)
        return tuple(start + at for start, at in zip(part.start, inside, strict=True))


def _largest_difference(
    dtype: Dtype, expected: bytearray, found: bytearray, differing: Tensor
) -> float | None:
    """Return it over the elements whose bits differ; equal bits are equal, whatever they mean."""
    from fcn_convert.torch_library import torch  # noqa: PLC0415 - likewise

    kind = getattr(torch, dtype.torch or "", None)
    if kind is None:
        return None
    wide = torch.complex128 if kind.is_complex else torch.float64
    try:
        before, after = (torch.frombuffer(raw, dtype=kind).to(wide) for raw in (expected, found))
    except (RuntimeError, NotImplementedError):  # a dtype that this torch stores but cannot convert
        return None
    apart = (before - after).abs().nan_to_num(nan=inf, posinf=inf)
    return float(apart.masked_fill(~differing, 0).max())


def _position(element: int, shape: tuple[int, ...]) -> Iterator[int]:
    """Yield the index of an element, axis by axis."""
    for axis in range(len(shape)):
        inner = prod(shape[axis + 1 :])
        yield element // inner
        element %= inner
