"""A container of one's own, whole: what a module of `fcn_convert/formats/` is.

A magic number, then of each tensor its name, its shape, and its values in float32.
"""

from __future__ import annotations

import struct

from fcn_convert.errors import CheckpointError
from fcn_convert.formats.source import Files
from fcn_convert.tensors import (
    DTYPES,
    MAX_TENSORS,
    Index,
    StateDict,
    TensorInfo,
    shown,
    size_in_bits,
)

MAGIC = b"TOY1"


def recognises(head: bytes) -> bool:
    """Return whether a file starts like one of these."""
    return head.startswith(MAGIC)


def read_index(files: Files) -> Index:
    """Index a file without reading its values; raises CheckpointError where it is malformed."""
    file, at = files.main, len(MAGIC)
    tensors: dict[str, TensorInfo] = {}
    while at < file.size:
        length, axes = struct.unpack("<HB", file.pread(at, 3))
        name = file.pread(at + 3, length).decode("utf-8", "surrogateescape")
        shape = struct.unpack(f"<{axes}I", file.pread(at + 3 + length, 4 * axes))
        bits = size_in_bits(shape, DTYPES["F32"].bits)
        if name in tensors or bits is None or len(tensors) == MAX_TENSORS:
            raise CheckpointError(f"{file.path}: {shown(name)} is there twice, or too much")
        tensor = TensorInfo(name, DTYPES["F32"], shape, at + 3 + length + 4 * axes)
        at = tensor.offset + tensor.nbytes
        if at > file.size:
            raise CheckpointError(f"{file.path}: {shown(name)} ends at byte {at}, beyond the file")
        tensors[name] = tensor
    return Index("toy", (StateDict("", tensors),))
