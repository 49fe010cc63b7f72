"""`.npy`: one array after a short header, as `numpy.save` writes it.

The format: numpy/lib/format.py. An array of objects is a pickle, read by our interpreter: the usual
way to keep a dictionary of layers in one file.
"""

from __future__ import annotations

import re
from dataclasses import replace
from math import prod

from fcn_convert.errors import CheckpointError
from fcn_convert.formats.numpy_records import column_major, dtype_named, objects_of
from fcn_convert.formats.pickle_files import index_of
from fcn_convert.formats.pickled_calls import warnings_of
from fcn_convert.formats.pickles import read_pickle
from fcn_convert.formats.records import RecordError
from fcn_convert.formats.source import Files, Readable
from fcn_convert.formats.torch_pickled import PickledStorages
from fcn_convert.tensors import MAX_AXES, Index, LeftOut, StateDict, TensorInfo, shown, size_in_bits

SUFFIX = ".npy"
MAGIC = b"\x93NUMPY"
_MAX_HEADER = 1 << 16
_HEADER = re.compile(
    r"\{'descr': '([^']{1,16})', 'fortran_order': (True|False), "
    r"'shape': \(([\dL, ]{0,1600})\),? ?\}\s*"  # MLX leaves out the last comma and blank
)
_SIZE = re.compile(r"[0-9]{1,19}")
_OBJECTS = "O"


def recognises(head: bytes) -> bool:
    """Return whether a file starts like an array."""
    return head.startswith(MAGIC)


def read_index(files: Files) -> Index:
    """Index one array, or the dictionary in an array of objects."""
    file = files.main
    try:
        code, _, _, start = _fields(file)
        if _is_of_objects(code):
            return _of_objects(files, start)
        array = read_array(file.path.stem, file)
        if isinstance(array, LeftOut):
            raise RecordError(array.reason)
    except RecordError as error:
        raise CheckpointError(f"{file.path}: {error}") from error
    return Index("npy", (StateDict("", {array.name: array}),))


def _of_objects(files: Files, start: int) -> Index:
    """Index what is pickled from byte `start` on."""
    file, storages = files.main, PickledStorages(files)
    pickle = read_pickle(file, start, file.size, storages.calls)
    objects = objects_of(pickle.root) or []
    only = objects[0] if len(objects) == 1 else objects
    index = index_of(files, only, "npy (pickle)", storages)
    return replace(index, warnings=warnings_of(file.path, pickle.running))


def read_array(name: str, file: Readable) -> TensorInfo | LeftOut:
    """Place an array in its file by its header, or say why it is none of numbers.

    Raises RecordError where the header is malformed, or the values have another size than it says.
    """
    code, shape, is_fortran, start = _fields(file)
    dtype = dtype_named(code)
    if dtype is None:
        kind = "Python objects" if _is_of_objects(code) else f"NumPy's dtype {shown(code)}"
        return LeftOut(name, f"an array of {kind}")
    bits = size_in_bits(shape, dtype.bits)
    if bits is None or start + bits // 8 != file.size:
        raise RecordError(
            f"{dtype.name} {list(shape)} needs {prod(shape) * dtype.itemsize} bytes, "
            f"but there are {file.size - start}"
        )
    tensor = TensorInfo(name, dtype, shape, start)
    return column_major(tensor) if is_fortran else tensor


def _is_of_objects(code: str) -> bool:
    return code.lstrip("|<>=")[:1] == _OBJECTS


def _fields(file: Readable) -> tuple[str, tuple[int, ...], bool, int]:
    """Return the dtype's code, the shape, whether columns come first, and the header's length."""
    head = file.pread(0, min(12, file.size))
    if not head.startswith(MAGIC) or len(head) < 12 or head[6] not in {1, 2, 3}:
        raise RecordError("it does not start like an array of NumPy's")
    begin = 10 if head[6] == 1 else 12
    length = int.from_bytes(head[8:begin], "little")
    if length > _MAX_HEADER or begin + length > file.size:
        raise RecordError("its header is truncated, or longer than any array needs")
    text = file.pread(begin, length).decode("latin-1")
    match = _HEADER.fullmatch(text)
    if match is None:
        if "'descr': [" in text:
            raise RecordError("it is a structured array; save each of its fields by itself")
        raise RecordError(f"its header is malformed: {shown(text)}")
    sizes = [size.rstrip("L") for size in match[3].replace(" ", "").split(",") if size]
    if len(sizes) > MAX_AXES or not all(_SIZE.fullmatch(size) for size in sizes):
        raise RecordError(f"its shape is not {MAX_AXES} sizes at most: {shown(match[3])}")
    shape = tuple(map(int, sizes))
    return match[1], shape, match[2] == "True", begin + length
