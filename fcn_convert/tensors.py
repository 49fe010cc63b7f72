"""What is known of a tensor without reading its values: name, dtype, shape, strides, place."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, groupby
from math import prod
from operator import mul
from typing import Literal

from fcn_convert.errors import CheckpointError, printable, quoted

Layout = Literal["torch", "keras", "mlx", "paddle"]
"""Whose convention a file's arrays follow."""
MAX_AXES = 64
"""Axes a tensor may have; as many as torch and NumPy allow."""
WEIGHT, BIAS = ".weight", ".bias"
"""Ends of the names of a module's own tensors."""
MAX_TENSORS = 1 << 17
"""Tensors one file may hold: far above any model, and what keeps a hostile header's cost small."""
RESERVED = "__metadata__"
"""No tensor's name: what safetensors keeps in its header beside them."""

_SIZE_LIMIT = 1 << 64
_MAX_SHOWN = 100


@dataclass(frozen=True, slots=True)
class Dtype:
    """An element type, by its safetensors name.

    bits: size of one element; below 8 for the packed types.
    torch: the attribute of the `torch` module, or None where torch has no such dtype.
    """

    name: str
    bits: int
    torch: str | None

    @property
    def itemsize(self) -> int:
        """Bytes of one element; 0 for packed sub-byte types, which have no addressable element."""
        return self.bits // 8


DTYPES: Mapping[str, Dtype] = {
    dtype.name: dtype
    for dtype in (
        Dtype("F64", 64, "float64"),
        Dtype("F32", 32, "float32"),
        Dtype("F16", 16, "float16"),
        Dtype("BF16", 16, "bfloat16"),
        Dtype("F8_E4M3", 8, "float8_e4m3fn"),
        Dtype("F8_E5M2", 8, "float8_e5m2"),
        Dtype("F8_E8M0", 8, "float8_e8m0fnu"),
        Dtype("F8_E4M3FNUZ", 8, "float8_e4m3fnuz"),
        Dtype("F8_E5M2FNUZ", 8, "float8_e5m2fnuz"),
        Dtype("F6_E2M3", 6, None),
        Dtype("F6_E3M2", 6, None),
        Dtype("F4", 4, None),
        Dtype("I64", 64, "int64"),
        Dtype("I32", 32, "int32"),
        Dtype("I16", 16, "int16"),
        Dtype("I8", 8, "int8"),
        Dtype("U64", 64, "uint64"),
        Dtype("U32", 32, "uint32"),
        Dtype("U16", 16, "uint16"),
        Dtype("U8", 8, "uint8"),
        Dtype("BOOL", 8, "bool"),
        Dtype("C64", 64, "complex64"),
    )
}


@dataclass(frozen=True, slots=True)
class Stored:
    """How a file keeps a tensor that PyTorch keeps otherwise: its name, shape and strides there.

    pattern: the axes as stored and as PyTorch has them, `H W I O -> O I H W`; axes in brackets are
    read as one, and 1 is an axis of size 1. Empty where only the name differs.
    """

    name: str
    shape: tuple[int, ...]
    strides: tuple[int, ...] | None
    pattern: str


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """A tensor as its file stores it.

    strides: in elements, one per axis; None means row-major.
    file: which of the checkpoint's files holds the values.
    offset: byte offset of the first element in that file.
    conjugated, negated: torch's lazy bits: the stored values still lack that operation.
    stored: how the file has it, where that is not PyTorch's way.
    """

    name: str
    dtype: Dtype
    shape: tuple[int, ...]
    offset: int
    strides: tuple[int, ...] | None = None
    file: int = 0
    conjugated: bool = False
    negated: bool = False
    stored: Stored | None = None

    @property
    def stored_name(self) -> str:
        """Its name in the file."""
        return self.stored.name if self.stored else self.name

    @property
    def nbytes(self) -> int:
        """Bytes of the values in row-major order."""
        return (prod(self.shape) * self.dtype.bits + 7) // 8

    @property
    def is_plain(self) -> bool:
        """Whether the stored bytes are the tensor's bytes: row-major, with no lazy operation."""
        return self.strides is None and not self.conjugated and not self.negated

    @property
    def span(self) -> int:
        """Bytes from the first to the last element in the file, both included."""
        if self.strides is None:
            return self.nbytes
        return element_span(self.shape, self.strides) * self.dtype.itemsize


def row_major_strides(shape: Sequence[int]) -> tuple[int, ...]:
    """Return the strides, in elements, of a row-major array of that shape."""
    return tuple(prod(shape[axis + 1 :]) for axis in range(len(shape)))


def size_in_bits(shape: Sequence[int], bits: int) -> int | None:
    """Return the size of an array of elements of `bits` bits, or None where it overflows.

    Overflow is judged axis by axis, as safetensors does, so a later 0 does not excuse it.
    """
    elements = list(accumulate(shape, mul, initial=1))
    size = elements[-1] * bits
    return size if max(*elements, size) < _SIZE_LIMIT else None


def element_span(shape: Sequence[int], strides: Sequence[int]) -> int:
    """Return how many elements lie between the first and the last one, both included."""
    if 0 in shape:
        return 0
    return 1 + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))


def is_row_major(shape: Sequence[int], strides: Sequence[int]) -> bool:
    """Return whether elements lie in row-major order; strides of axes of size 1 do not matter."""
    expected = row_major_strides(shape)
    return 0 in shape or all(
        size == 1 or stride == want
        for size, stride, want in zip(shape, strides, expected, strict=True)
    )


def parent(name: str) -> str:
    """Return the module that a module or a tensor is in; empty for one at the top."""
    return name.rpartition(".")[0]


def why_no_name(name: str) -> str:
    """Return why a safetensors file can hold no tensor of that name; empty where it can."""
    if name == RESERVED:
        return "is reserved by safetensors"
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:  # a lone surrogate, as of bytes that are not UTF-8
        return "is not valid Unicode text"
    return ""


def times(sizes: Iterable[int]) -> str:
    """Show sizes as 3×224×224."""
    return "×".join(map(str, sizes))


def shown(text: str) -> str:
    """Quote a file's text for a message: escaped, and cut where it is long."""
    return repr(text) if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]!r}…"


@dataclass(frozen=True, slots=True)
class LeftOut:
    """An entry of a checkpoint that is not written, and why."""

    name: str
    reason: str


@dataclass(frozen=True, slots=True)
class FlattenedMap:
    """A feature map as a Dense layer reads it: its axes and their sizes, slowest first."""

    axes: str
    sizes: tuple[int, ...]


@dataclass(frozen=True)
class StateDict:
    """One mapping of names to tensors inside a checkpoint.

    path: the keys that lead to it, joined by dots; empty for the whole file.
    unreadable: tensors that have no plain row of values (quantized, sparse, …), with the reason.
    layout: whose convention its arrays follow.
    flattened: the maps that Dense layers read, by their names, where the file says so; None for one
    that reads no map, as the file says.
    broken: why it cannot be read, where it lies about a tensor; it then has no tensors.
    """

    path: str
    tensors: Mapping[str, TensorInfo]
    left_out: tuple[LeftOut, ...] = ()
    unreadable: tuple[LeftOut, ...] = ()
    layout: Layout = "torch"
    flattened: Mapping[str, FlattenedMap | None] = field(default_factory=dict)
    broken: str = ""

    @property
    def may_be_a_model(self) -> bool:
        """Whether it holds a weight matrix, or something unreadable that may be one."""
        if self.unreadable or self.broken:
            return True
        return any(len(t.shape) > 1 for t in self.tensors.values())

    def holds_the_same_as(self, other: StateDict) -> bool:
        """Return whether both hold the same tensors by the same names."""
        mine, others = ((found.tensors, found.unreadable, found.broken) for found in (self, other))
        return mine == others

    @property
    def size(self) -> str:
        """How much it holds, in words."""
        count = len(self.tensors) + len(self.unreadable)
        return "unreadable" if self.broken else f"{count} tensors"

    @property
    def ties(self) -> tuple[tuple[str, ...], ...]:
        """Groups of names whose bytes overlap in the file."""
        groups: list[list[str]] = []
        end, file = -1, -1
        stored = (t for t in self.tensors.values() if t.nbytes)
        for tensor in sorted(stored, key=lambda t: (t.file, t.offset, t.name)):
            if tensor.file == file and tensor.offset < end:
                groups[-1].append(tensor.name)
            else:
                groups.append([tensor.name])
                end, file = 0, tensor.file
            end = max(end, tensor.offset + tensor.span)
        return tuple(tuple(group) for group in groups if len(group) > 1)


@dataclass(frozen=True, slots=True)
class Checksum:
    """A CRC-32 that a container stores of a part of a file."""

    name: str
    offset: int
    nbytes: int
    crc32: int
    file: int = 0


@dataclass(frozen=True)
class Shard:
    """One of several files that hold a checkpoint.

    file: its number. format: its container, in words. names: of its tensors. metadata: its
    author's texts.
    """

    name: str
    file: int
    format: str
    names: frozenset[str]
    metadata: Mapping[str, str]


@dataclass(frozen=True)
class Index:
    """Everything a checkpoint holds, by name and place, without a byte of its values.

    format: the container, in words.
    state_dicts: the state dicts found, in file order.
    left_out: entries of the file that belong to no state dict, with the reason.
    notes: what a reader should know about how names were derived.
    warnings: what is odd about the file, whatever is done with it.
    metadata: texts that the file's author stored beside the tensors.
    checksums: what the container says of its parts; compared with them only where bytes are read.
    shards: the files beside an index that hold the tensors; none where one file holds everything.
    layout: whose convention arrays follow, where the container says so.
    foreign_names: whether names may follow another framework's convention.
    """

    format: str
    state_dicts: tuple[StateDict, ...]
    left_out: tuple[LeftOut, ...] = ()
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    metadata: Mapping[str, str] = field(default_factory=dict)
    checksums: tuple[Checksum, ...] = ()
    shards: tuple[Shard, ...] = ()
    layout: Layout | None = None
    foreign_names: bool = False

    def state_dict(self, path: str | None) -> StateDict:
        """Return the state dict at `path`, or the only one there is.

        Raises CheckpointError where there is none at `path`, or several and no `path`, or where it
        holds tensors that cannot be written.
        """
        chosen = self._at(path) if path is not None else self._only()
        if chosen.broken:
            raise CheckpointError(chosen.broken)
        if chosen.unreadable:
            listed = quoted(
                f"{printable(entry.name[:_MAX_SHOWN])} is {entry.reason}"
                for entry in chosen.unreadable
            )
            raise CheckpointError(
                f"{listed}: safetensors holds dense tensors of its own dtypes only; "
                "convert or remove what is not and save the state dict again"
            )
        return chosen

    def _at(self, path: str) -> StateDict:
        for found in self.state_dicts:
            if found.path == path:
                return found
        inside = [s for s in self.state_dicts if s.path.startswith(f"{path}.") and s.may_be_a_model]
        if len(inside) == 1:
            return inside[0]
        raise CheckpointError(f"holds no state dict at {shown(path)}; {self._found()}")

    def _only(self) -> StateDict:
        # An entry without a weight matrix (normalisation constants, random states) is not a model.
        models = [s for s in self.state_dicts if s.may_be_a_model] or self.state_dicts
        if not models:
            others = quoted(f"{printable(e.name)}, {printable(e.reason)}" for e in self.left_out)
            raise CheckpointError(
                f"holds no state dict: nothing in it maps names to tensors, only {others or 'none'}"
                "; save a dictionary of them by name, as `fc1.weight` and `fc1.bias`"
            )
        # The same tensors offered twice, say as a module and as its state dict, are one choice.
        if any(not models[0].holds_the_same_as(other) for other in models[1:]):
            raise CheckpointError(
                f"{self._found()}; choose one with `state_dict:` in the spec; `inspect` and `init` "
                "take it as --state-dict"
            )
        return models[0]

    def _found(self) -> str:
        listed = quoted(
            f"{printable(s.path[:_MAX_SHOWN]) or '(the whole file)'} ({s.size})"
            for s in self.state_dicts
        )
        return f"holds {listed or 'none at all'}"


NaturalKey = tuple[tuple[tuple[bool, int, str], ...], ...]


def natural_key(name: str) -> NaturalKey:
    """Sort key under which `layer.10` follows `layer.9`, and `fc2.weight` follows `fc.weight`."""
    return tuple(tuple(_natural_parts(component)) for component in name.split("."))


def _natural_parts(component: str) -> Iterator[tuple[bool, int, str]]:
    for _, group in groupby(component, key=_is_digit):
        yield _natural_part("".join(group))


def _natural_part(part: str) -> tuple[bool, int, str]:
    if not _is_digit(part[0]):
        return True, 0, part
    # By length, then by digit: Python refuses to read numbers of thousands of digits.
    significant = part.lstrip("0")
    return False, len(significant), f"{significant} {part}"


def _is_digit(character: str) -> bool:
    return character in "0123456789"
