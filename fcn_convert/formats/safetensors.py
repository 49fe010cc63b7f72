"""safetensors: eight bytes of header length, a JSON header, the values without holes.

The format: https://github.com/huggingface/safetensors#format. Where its rules are stricter than
the reference library (duplicate names, leading blanks), the rules hold.

The header is parsed as bytes, one entry at a time: as one Python object, or as text with a single
character beyond Latin-1, the 100 MB that the format allows would take many times as much.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterator

from fcn_convert.errors import CheckpointError, quoted
from fcn_convert.formats.source import Files
from fcn_convert.tensors import (
    DTYPES,
    MAX_AXES,
    MAX_TENSORS,
    RESERVED,
    Index,
    StateDict,
    TensorInfo,
    shown,
    size_in_bits,
)

MAX_HEADER = 100_000_000
MAX_TEXTS = 24 << 20
"""Bytes of all names and metadata together, each counted with TEXT_BYTES more."""
TEXT_BYTES = 64
MAX_SIZES = 8 * MAX_TENSORS
"""Axes of all tensors together."""
LENGTH_BYTES = 8

_NEARLY_HEADERS = (b"[", b" ", b"\t", b"\n", b"\r", b"\xef\xbb\xbf")
"""Beginnings of headers that break the rules, where the file is recognised all the same."""
_BLANK = re.compile(rb"[ \t\n\r]*")
# JSON's strings, less the escaped surrogates that are not one of a pair: Python takes those for
# text, nobody else does.
_STRING = re.compile(
    rb'"(?:[^"\\\x00-\x1f]|\\(?:["\\/bfnrt]|u(?![dD][89a-fA-F])[0-9a-fA-F]{4}'
    rb'|u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}))*+"'
)
# A tensor's entry holds neither objects nor long strings: looking no further than this bounds what
# a hostile header can make the JSON parser build.
_ENTRY = re.compile(rb"\{[^{}]{0,4096}\}")
_FIELDS = {"dtype", "shape", "data_offsets"}
_MAX_NUMBER = 1 << 64
_CHUNK_BYTES = 1 << 20


def recognises(head: bytes) -> bool:
    """Return whether the first eight bytes can be a header's length, and text may follow them."""
    header = head[LENGTH_BYTES:]
    return header.startswith(b"{") or (
        len(head) >= LENGTH_BYTES
        and int.from_bytes(head[:LENGTH_BYTES], "little") <= MAX_HEADER
        and (not header or header.startswith(_NEARLY_HEADERS))
    )


def read_index(files: Files) -> Index:
    """Index a safetensors file; raises CheckpointError where it breaks the format's rules."""
    file = files.main
    length = int.from_bytes(file.pread(0, LENGTH_BYTES), "little")
    if length > MAX_HEADER:
        raise CheckpointError(
            f"{file.path}: header length {length} is over the format's limit of {MAX_HEADER} bytes"
        )
    data_start = LENGTH_BYTES + length
    if data_start > file.size:
        raise CheckpointError(
            f"{file.path}: header length {length} reaches beyond the file's {file.size} bytes"
        )
    try:
        tensors, metadata = _read_header(_Cursor(file.pread(LENGTH_BYTES, length)), data_start)
        _check_covers(tensors, data_start, file.size)
    except UnicodeDecodeError as error:
        raise CheckpointError(f"{file.path}: header is not UTF-8 ({error.reason})") from error
    except _HeaderError as error:
        raise CheckpointError(f"{file.path}: {error}") from error
    return Index("safetensors", (StateDict("", tensors),), metadata=metadata)


class _HeaderError(ValueError):
    """A header that breaks the rules; becomes a CheckpointError with the path."""


class _Cursor:
    """A place in a header's bytes, with the few steps that its grammar needs."""

    def __init__(self, raw: bytes) -> None:
        decoder = codecs.getincrementaldecoder("utf-8")()
        for at in range(0, len(raw), _CHUNK_BYTES):
            decoder.decode(raw[at : at + _CHUNK_BYTES])
        decoder.decode(b"", final=True)
        self.raw = raw
        self.at = 0
        self.texts = 0

    def next_is(self, character: bytes) -> bool:
        """Pass over blanks; return whether `character` is next."""
        if self.raw.startswith(character, self.at):
            return True
        self.pass_blanks()
        return self.raw.startswith(character, self.at)

    def pass_blanks(self) -> None:
        """Pass over blanks; most headers have none before the end."""
        blank = _BLANK.match(self.raw, self.at)
        self.at = blank.end() if blank else self.at

    def expect(self, character: bytes) -> None:
        """Pass over `character`, and blanks before it."""
        if not self.next_is(character):
            raise self.malformed(repr(character.decode()))
        self.at += 1

    def malformed(self, expected: str) -> _HeaderError:
        """Say what was expected at this place."""
        found = repr(chr(self.raw[self.at])) if self.at < len(self.raw) else "the end"
        return _HeaderError(
            f"header is malformed at byte {self.at}: expected {expected}, found {found}"
        )

    def text(self) -> str:
        """Pass over a JSON string, and blanks before it, and return its text."""
        self.next_is(b'"')
        match = _STRING.match(self.raw, self.at)
        if match is None:
            raise self.malformed("text")
        self.texts += match.end() - self.at + TEXT_BYTES
        if self.texts > MAX_TEXTS:
            raise _HeaderError(f"header has over {MAX_TEXTS >> 20} MB of names and metadata")
        self.at = match.end()
        text = match.group().decode("utf-8")
        return json.loads(text) if "\\" in text else text[1:-1]

    def members(self) -> Iterator[str]:
        """Yield each name of the object here; the caller passes over the value before the next."""
        self.expect(b"{")
        more = not self.next_is(b"}")
        while more:
            name = self.text()
            self.expect(b":")
            yield name
            more = self.next_is(b",")
            self.at += more
        self.expect(b"}")


def _read_header(cursor: _Cursor, data_start: int) -> tuple[dict[str, TensorInfo], dict[str, str]]:
    """Read one JSON entry after the other, so that memory stays small."""
    tensors: dict[str, TensorInfo] = {}
    metadata: dict[str, str] | None = None
    axes = 0
    if not cursor.raw.startswith(b"{"):
        raise _HeaderError("header does not start with '{'")
    for name in cursor.members():
        if name in tensors or (name == RESERVED and metadata is not None):
            raise _HeaderError(f"header names {shown(name)} twice")
        if name == RESERVED:
            metadata = _read_metadata(cursor)
            continue
        tensors[name] = _tensor(name, _entry(name, cursor), data_start)
        axes += len(tensors[name].shape)
        if len(tensors) > MAX_TENSORS or axes > MAX_SIZES:
            raise _HeaderError(f"header lists more than {MAX_TENSORS} tensors or {MAX_SIZES} axes")
    cursor.pass_blanks()
    if cursor.at < len(cursor.raw):
        raise cursor.malformed("its end")
    return tensors, metadata or {}


def _read_metadata(cursor: _Cursor) -> dict[str, str]:
    """Read an object of texts, or the null that MLX writes for none; raises for anything else."""
    metadata: dict[str, str] = {}
    if cursor.next_is(b"n") and cursor.raw.startswith(b"null", cursor.at):
        cursor.at += len(b"null")
        return metadata
    for key in cursor.members():
        if key in metadata:
            raise _HeaderError(f"metadata names {shown(key)} twice")
        metadata[key] = cursor.text()
    return metadata


def _natural_number(digits: str) -> int:
    if digits.startswith("-"):
        raise ValueError(f"{digits[:24]} is negative")
    if int(digits) >= _MAX_NUMBER:
        raise ValueError(f"{digits[:24]} does not fit in 64 bits")
    return int(digits)


_DECODER = json.JSONDecoder(object_pairs_hook=list, parse_int=_natural_number)


def _entry(name: str, cursor: _Cursor) -> dict[str, object]:
    """Pass over a tensor's entry, and return its fields."""
    cursor.next_is(b"{")
    match = _ENTRY.match(cursor.raw, cursor.at)
    if match is None:
        raise cursor.malformed("a tensor's entry")
    cursor.at = match.end()
    try:
        pairs: list[tuple[str, object]]
        pairs, _ = _DECODER.raw_decode(match.group().decode("utf-8"))  # its end is the first `}`
    except (ValueError, RecursionError) as error:
        raise _HeaderError(f"the entry of {shown(name)} is malformed: {error}") from error
    fields = dict(pairs)
    if len(pairs) != len(_FIELDS) or set(fields) != _FIELDS:
        listed = quoted(shown(key) for key, _ in pairs)
        raise _HeaderError(
            f"the entry of {shown(name)} has the fields {listed or 'none'}, "
            "expected 'dtype', 'shape' and 'data_offsets'"
        )
    return fields


def _tensor(name: str, fields: dict[str, object], data_start: int) -> TensorInfo:
    code = fields["dtype"]
    dtype = DTYPES.get(code) if isinstance(code, str) else None
    if dtype is None:
        found = shown(code) if isinstance(code, str) else "(not text)"
        raise _HeaderError(f"{shown(name)} has the unknown dtype {found}")
    shape = _naturals(name, "shape", fields["shape"])
    offsets = _naturals(name, "data_offsets", fields["data_offsets"])
    if len(offsets) != 2 or offsets[0] > offsets[1]:
        raise _HeaderError(f"{shown(name)} has data_offsets {list(offsets)}, expected [begin, end]")
    bits = size_in_bits(shape, dtype.bits)
    if bits is None:
        raise _HeaderError(f"the size of {shown(name)}, {list(shape)}, overflows")
    begin, end = offsets
    if bits % 8 or end - begin != bits // 8:
        raise _HeaderError(
            f"{shown(name)} has {end - begin} bytes, "
            f"but {dtype.name} {list(shape)} needs {bits / 8:g}"
        )
    return TensorInfo(name, dtype, shape, data_start + begin)


def _naturals(name: str, field: str, value: object) -> tuple[int, ...]:
    # JSON's true is an int to Python, hence the exact type.
    if not isinstance(value, list) or any(type(size) is not int for size in value):
        raise _HeaderError(f"the field {field} of {shown(name)} is not a list of natural numbers")
    if len(value) > MAX_AXES:
        raise _HeaderError(f"{shown(name)} has {len(value)} numbers in {field}, over {MAX_AXES}")
    return tuple(value)


def _check_covers(tensors: dict[str, TensorInfo], data_start: int, size: int) -> None:
    """Raise unless the tensors follow each other without hole or overlap up to the file's end."""
    end = data_start
    for tensor in sorted(tensors.values(), key=lambda t: (t.offset, t.nbytes)):
        if tensor.offset != end:
            kind = "a hole before" if tensor.offset > end else "an overlap at"
            raise _HeaderError(f"there is {kind} {shown(tensor.name)}, at byte {end} of the file")
        end += tensor.nbytes
    if end != size:
        raise _HeaderError(
            f"tensors end at byte {end}, but the file at byte {size}: "
            + ("it is truncated" if end > size else "bytes follow that belong to no tensor")
        )
