"""`.npy`: one array after a short header, as `numpy.save` writes it.

The format: numpy/lib/format.py. An array of objects is a pickle, read by our interpreter: the usual
way to keep a dictionary of layers in one file.
"""

from __future__ import annotations

import re
from dataclasses import replace
from math import prod

from fcn_convert.errors import CheckpointError
from fcn_convert.formats.numpy_records import column_major, dtype_of, kind_of, objects_of
from fcn_convert.formats.pickle_files import index_of
from fcn_convert.formats.pickled_calls import warnings_of
from fcn_convert.formats.pickles import read_pickle
from fcn_convert.formats.records import RecordError, Unreadable
from fcn_convert.formats.source import Files, Readable
from fcn_convert.formats.torch_pickled import PickledStorages
from fcn_convert.tensors import MAX_AXES, Index, LeftOut, StateDict, TensorInfo, shown, size_in_bits

SUFFIX = ".npy"
MAGIC = b"\x93NUMPY"
_VERSIONS = (b"\x01\x00", b"\x02\x00", b"\x03\x00")
_MAX_HEADER = 1 << 16
_SIZE = "(?:0|[1-9][0-9]{0,18})L?"  # Python 2 wrote some with an L
_FIELD = (
    r"""('\w*'|"\w*")\s*:\s*"""
    rf"""('[^']*'|"[^"]*"|True|False|\((?:(?:\s*{_SIZE}\s*,)+(?:\s*{_SIZE})?)?\s*\))"""
)
_HEADER = re.compile(
    r"\s*\{\s*" + r"\s*,\s*".join([_FIELD] * 3) + r"\s*(?:,\s*)?\}\s*", re.ASCII | re.DOTALL
)
_SIZES = re.compile("[0-9]+")
_OBJECTS = "O"


def recognises(head: bytes) -> bool:
    """Return whether a file starts like an array."""
    return head.startswith(MAGIC)


def read_index(files: Files) -> Index:
    """Index one array, or the dictionary in an array of objects."""
    file = files.main
    try:
        code, _, _, start = _fields(file)
        if kind_of(code) == _OBJECTS:
            return _of_objects(files, start)
        array = read_array(file.path.stem, file)
        if not isinstance(array, TensorInfo):
            raise RecordError(f"it is {array.reason}")
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


def read_array(name: str, file: Readable) -> TensorInfo | Unreadable | LeftOut:
    """Place an array in its file by its header, or say why not; left out is what has no numbers.

    Raises RecordError where the header is malformed, or the values have another size than it says.
    """
    code, shape, is_fortran, start = _fields(file)
    dtype = dtype_of(code)
    if isinstance(dtype, Unreadable):
        return dtype
    if dtype is None:
        kind = "Python objects" if kind_of(code) == _OBJECTS else f"NumPy's dtype {shown(code)}"
        return LeftOut(name, f"an array of {kind}")
    bits = size_in_bits(shape, dtype.bits)
    if bits is None or start + bits // 8 != file.size:
        raise RecordError(
            f"{dtype.name} {list(shape)} needs {prod(shape) * dtype.itemsize} bytes, "
            f"but there are {file.size - start}"
        )
    tensor = TensorInfo(name, dtype, shape, start)
    return column_major(tensor) if is_fortran else tensor


def _fields(file: Readable) -> tuple[str, tuple[int, ...], bool, int]:
    """Return the dtype's code, the shape, whether columns come first, and the header's length."""
    head = file.pread(0, min(12, file.size))
    if not head.startswith(MAGIC) or len(head) < 12 or head[6:8] not in _VERSIONS:
        raise RecordError("it does not start like an array of NumPy's")
    begin = 10 if head[6] == 1 else 12
    length = int.from_bytes(head[8:begin], "little")
    if length > _MAX_HEADER or begin + length > file.size:
        raise RecordError("its header is truncated, or longer than any array needs")
    text = file.pread(begin, length).decode("latin-1")
    if "'descr': [" in text:
        raise RecordError("it is a structured array; save each of its fields by itself")
    match = _HEADER.fullmatch(text)
    names, values = (match.groups()[::2], match.groups()[1::2]) if match else ((), ())
    fields = {name[1:-1]: value for name, value in zip(names, values, strict=True)}
    code, order, shape = (fields.get(name, "") for name in ("descr", "fortran_order", "shape"))
    if not code.startswith(("'", '"')) or order not in {"True", "False"} or shape[:1] != "(":
        raise RecordError(f"its header is malformed: {shown(text)}")
    sizes = tuple(map(int, _SIZES.findall(shape)))
    if len(sizes) > MAX_AXES:
        raise RecordError(f"its shape is not {MAX_AXES} sizes at most: {shown(shape)}")
    return code[1:-1], sizes, order == "True", begin + length
