"""What is known of a tensor without reading its values: name, dtype, shape, strides, place."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from math import prod

from fcn_convert.errors import CheckpointError, quoted

MAX_TENSORS = 1 << 18
"""Tensors one file may hold: far above any model, and what keeps a hostile header's cost small."""


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
class TensorInfo:
    """A tensor as its file stores it.

    strides: in elements, one per axis; None means row-major.
    file: which of the checkpoint's files holds the values.
    offset: byte offset of the first element in that file.
    conjugated, negated: torch's lazy bits: the stored values still lack that operation.
    """

    name: str
    dtype: Dtype
    shape: tuple[int, ...]
    offset: int
    strides: tuple[int, ...] | None = None
    file: int = 0
    conjugated: bool = False
    negated: bool = False

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


@dataclass(frozen=True, slots=True)
class LeftOut:
    """An entry of a checkpoint that is not written, and why."""

    name: str
    reason: str


@dataclass(frozen=True)
class StateDict:
    """One mapping of names to tensors inside a checkpoint.

    path: the keys that lead to it, joined by dots; empty for the whole file.
    unreadable: tensors that have no plain row of values (quantized, sparse, …), with the reason.
    """

    path: str
    tensors: Mapping[str, TensorInfo]
    left_out: tuple[LeftOut, ...] = ()
    unreadable: tuple[LeftOut, ...] = ()

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


@dataclass(frozen=True)
class Index:
    """Everything a checkpoint holds, by name and place, without a byte of its values.

    format: the container, in words.
    state_dicts: the state dicts found, in file order.
    left_out: entries of the file that belong to no state dict, with the reason.
    notes: what a reader should know about how names were derived.
    """

    format: str
    state_dicts: tuple[StateDict, ...]
    left_out: tuple[LeftOut, ...] = ()
    notes: tuple[str, ...] = ()

    def state_dict(self, path: str | None) -> StateDict:
        """Return the state dict at `path`, or the only one there is.

        Raises CheckpointError where there is none at `path`, or several and no `path`, or where it
        holds tensors that cannot be written.
        """
        chosen = self._at(path) if path is not None else self._only()
        if chosen.unreadable:
            listed = quoted(f"{entry.name} is {entry.reason}" for entry in chosen.unreadable)
            raise CheckpointError(
                f"{listed}: safetensors holds dense tensors only; "
                "convert or remove them and save the state dict again"
            )
        return chosen

    def _at(self, path: str) -> StateDict:
        for found in self.state_dicts:
            if found.path == path:
                return found
        raise CheckpointError(f"holds no state dict at {path!r}; {self._found()}")

    def _only(self) -> StateDict:
        # An entry without one weight matrix (normalisation constants, random states) is no model.
        models = [s for s in self.state_dicts if any(len(t.shape) > 1 for t in s.tensors.values())]
        # The same tensors offered twice, say as a module and as its state dict, are one choice.
        choices = list(_distinct(models or self.state_dicts))
        if len(choices) == 1:
            return choices[0]
        if not choices:
            raise CheckpointError("holds no state dict: nothing in it maps names to tensors")
        raise CheckpointError(f"{self._found()}; choose one with `state_dict:` in the spec")

    def _found(self) -> str:
        listed = quoted(
            f"{s.path or '(the whole file)'} ({len(s.tensors)} tensors)" for s in self.state_dicts
        )
        return f"holds {listed or 'none at all'}"


def _distinct(state_dicts: Iterable[StateDict]) -> Iterator[StateDict]:
    seen: list[Mapping[str, TensorInfo]] = []
    for candidate in state_dicts:
        if candidate.tensors not in seen:
            seen.append(candidate.tensors)
            yield candidate


def natural_key(name: str) -> tuple[tuple[bool, int, str], ...]:
    """Sort key under which `layer.10` follows `layer.9`."""
    parts = ("".join(group) for _, group in groupby(name, key=_is_digit))
    return tuple((not _is_digit(p[0]), int(p) if _is_digit(p[0]) else 0, p) for p in parts)


def _is_digit(character: str) -> bool:
    return character in "0123456789"
