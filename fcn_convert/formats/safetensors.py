"""safetensors: eight bytes of header length, a JSON header, the values without holes.

The format: https://github.com/huggingface/safetensors#format. Where its rules are stricter than
the reference library (duplicate names, leading blanks), the rules hold.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from itertools import accumulate
from json.decoder import scanstring  # type: ignore[attr-defined]
from operator import mul

from fcn_convert.errors import CheckpointError
from fcn_convert.formats.source import SourceFile
from fcn_convert.tensors import DTYPES, MAX_TENSORS, Index, StateDict, TensorInfo

MAX_HEADER = 100_000_000
LENGTH_BYTES = 8
METADATA = "__metadata__"

_BLANK = re.compile(r"[ \t\n\r]*")
# A tensor's entry holds neither objects nor long strings: looking no further than this bounds what
# a hostile header can make the JSON parser build.
_ENTRY = re.compile(r"\{[^{}]{0,4096}\}")
_FIELDS = {"dtype", "shape", "data_offsets"}
_MAX_SIZE = 1 << 64


def recognises(head: bytes) -> bool:
    """Return whether the first eight bytes can be a header's length, or a header follows them."""
    return len(head) >= LENGTH_BYTES and (
        int.from_bytes(head[:LENGTH_BYTES], "little") <= MAX_HEADER
        or head[LENGTH_BYTES : LENGTH_BYTES + 1] == b"{"
    )


def read_index(file: SourceFile) -> Index:
    """Index a safetensors file; raises CheckpointError where it breaks the format's rules."""
    length = int.from_bytes(file.pread(0, LENGTH_BYTES), "little")
    if length > MAX_HEADER:
        raise CheckpointError(
            f"{file.path}: header length {length} is over the format's limit of {MAX_HEADER} bytes"
        )
    if LENGTH_BYTES + length > file.size:
        raise CheckpointError(
            f"{file.path}: header length {length} reaches beyond the file's {file.size} bytes"
        )
    try:
        text = file.pread(LENGTH_BYTES, length).decode("utf-8")
        tensors = dict(_tensors(text, LENGTH_BYTES + length))
        _check_covers(tensors, LENGTH_BYTES + length, file.size)
    except UnicodeDecodeError as error:
        raise CheckpointError(f"{file.path}: header is not UTF-8 ({error.reason})") from error
    except _HeaderError as error:
        raise CheckpointError(f"{file.path}: {error}") from error
    return Index("safetensors", (StateDict("", tensors),))


class _HeaderError(ValueError):
    """A header that breaks the rules; becomes a CheckpointError with the path."""


def _tensors(text: str, data_start: int) -> Iterator[tuple[str, TensorInfo]]:
    """Yield each tensor of the header, one JSON entry at a time so that memory stays small."""
    seen: set[str] = set()
    for name, at in _members(text):
        if name in seen:
            raise _HeaderError(f"header names {name!r} twice")
        if len(seen) > MAX_TENSORS:
            raise _HeaderError(f"header lists more than {MAX_TENSORS} tensors")
        seen.add(name)
        if name != METADATA:
            yield name, _tensor(name, _entry(name, text, at), data_start)


def _members(text: str) -> Iterator[tuple[str, int]]:
    """Yield the name and the place of the value of each member of the header's object."""
    if not text.startswith("{"):
        raise _HeaderError("header does not start with '{'")
    at = _skip_blank(text, 1)
    if text[at : at + 1] != "}":
        while True:
            name, at = _string(text, at)
            at = _expect(text, at, ":")
            yield name, at
            at = _skip_metadata(text, at) if name == METADATA else _after_entry(text, at)
            at = _skip_blank(text, at)
            if text[at : at + 1] != ",":
                break
            at = _skip_blank(text, at + 1)
    at = _expect(text, at, "}")
    if text[at:].strip(" \t\n\r"):
        raise _HeaderError(f"header has more text after its object, at character {at}")


def _skip_metadata(text: str, at: int) -> int:
    """Return the place after a text-to-text object; raises where it is anything else."""
    at = _expect(text, at, "{")
    seen: set[str] = set()
    if text[at : at + 1] == "}":
        return at + 1
    while True:
        key, at = _string(text, at)
        if key in seen:
            raise _HeaderError(f"metadata names {key!r} twice")
        seen.add(key)
        at = _expect(text, at, ":")
        _, at = _string(text, at)
        at = _skip_blank(text, at)
        if text[at : at + 1] != ",":
            return _expect(text, at, "}")
        at = _skip_blank(text, at + 1)


def _skip_blank(text: str, at: int) -> int:
    blank = _BLANK.match(text, at)
    return blank.end() if blank else at


def _expect(text: str, at: int, character: str) -> int:
    at = _skip_blank(text, at)
    if text[at : at + 1] != character:
        found = repr(text[at]) if at < len(text) else "the end"
        raise _HeaderError(
            f"header is malformed at character {at}: expected {character!r}, found {found}"
        )
    return _skip_blank(text, at + 1)


def _string(text: str, at: int) -> tuple[str, int]:
    if text[at : at + 1] != '"':
        found = repr(text[at]) if at < len(text) else "the end"
        raise _HeaderError(f"header is malformed at character {at}: expected text, found {found}")
    try:
        value, end = scanstring(text, at + 1, True)
        value.encode("utf-8")  # A lone surrogate is JSON to Python, but no text.
    except (json.JSONDecodeError, UnicodeEncodeError) as error:
        raise _HeaderError(f"header has malformed text at character {at}") from error
    return value, end


def _entry_text(text: str, at: int) -> re.Match[str]:
    match = _ENTRY.match(text, at)
    if match is None:
        raise _HeaderError(f"header is malformed at character {at}: expected a tensor's entry")
    return match


def _after_entry(text: str, at: int) -> int:
    return _entry_text(text, at).end()


def _entry(name: str, text: str, at: int) -> dict[str, object]:
    try:
        pairs = json.loads(
            _entry_text(text, at).group(), object_pairs_hook=list, parse_int=_natural_number
        )
    except (ValueError, RecursionError) as error:
        raise _HeaderError(f"the entry of {name!r} is malformed: {error}") from error
    fields: dict[str, object] = dict(pairs)
    if len(pairs) != len(_FIELDS) or set(fields) != _FIELDS:
        raise _HeaderError(
            f"the entry of {name!r} has the fields {', '.join(repr(key) for key, _ in pairs)}, "
            "expected 'dtype', 'shape' and 'data_offsets'"
        )
    return fields


def _natural_number(digits: str) -> int:
    if digits.startswith("-"):
        raise ValueError(f"{digits} is negative")
    if len(digits) > 20 or int(digits) >= _MAX_SIZE:
        raise ValueError(f"{digits[:24]} does not fit in 64 bits")
    return int(digits)


def _tensor(name: str, fields: dict[str, object], data_start: int) -> TensorInfo:
    dtype = DTYPES.get(fields["dtype"]) if isinstance(fields["dtype"], str) else None
    if dtype is None:
        raise _HeaderError(f"{name!r} has the unknown dtype {fields['dtype']!r}")
    shape = _naturals(name, "shape", fields["shape"])
    offsets = _naturals(name, "data_offsets", fields["data_offsets"])
    if len(offsets) != 2 or offsets[0] > offsets[1]:
        raise _HeaderError(f"{name!r} has data_offsets {list(offsets)}, expected [begin, end]")
    bits = _bits(name, shape, dtype.bits)
    begin, end = offsets
    if bits % 8 or end - begin != bits // 8:
        raise _HeaderError(
            f"{name!r} has {end - begin} bytes, but {dtype.name} {list(shape)} needs {bits / 8:g}"
        )
    return TensorInfo(name, dtype, shape, data_start + begin)


def _naturals(name: str, field: str, value: object) -> tuple[int, ...]:
    # JSON's true is an int to Python, hence the exact type.
    if not isinstance(value, list) or any(type(size) is not int for size in value):
        raise _HeaderError(f"{name!r} has {field} {value!r}, expected a list of natural numbers")
    return tuple(value)


def _bits(name: str, shape: tuple[int, ...], bits: int) -> int:
    """Size in bits; overflow is judged axis by axis, so a later 0 does not excuse it."""
    elements = list(accumulate(shape, mul, initial=1))
    if max(*elements, elements[-1] * bits) >= _MAX_SIZE:
        raise _HeaderError(f"the size of {name!r}, {list(shape)}, overflows")
    return elements[-1] * bits


def _check_covers(tensors: dict[str, TensorInfo], data_start: int, size: int) -> None:
    """Raise unless the tensors follow each other without hole or overlap up to the file's end."""
    end = data_start
    for tensor in sorted(tensors.values(), key=lambda t: (t.offset, t.nbytes)):
        if tensor.offset != end:
            kind = "a hole before" if tensor.offset > end else "an overlap at"
            raise _HeaderError(f"there is {kind} {tensor.name!r}, at byte {end} of the file")
        end += tensor.nbytes
    if end != size:
        raise _HeaderError(
            f"tensors end at byte {end}, but the file at byte {size}: "
            + ("it is truncated" if end > size else "bytes follow that belong to no tensor")
        )
