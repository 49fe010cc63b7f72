"""What NumPy's pickles and headers mean: arrays, their dtypes, and where their values lie.

An array is pickled as `_reconstruct(ndarray, (0,), b"b")` with the state (version, shape, dtype,
is_fortran, values), or, since pickle protocol 5, as `_frombuffer(values, dtype, shape, order)`, to
which later versions add the order of the axes: numpy/_core/multiarray.py and
numpy/_core/numeric.py. Recognised by name; nothing is called.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from math import prod

from fcn_convert.formats.pickle_machine import Call, Global, Node, Opaque, PlacedBytes
from fcn_convert.formats.records import CHANGED, RecordError, Unreadable, check_naturals, sizes_of
from fcn_convert.formats.source import Files
from fcn_convert.tensors import (
    DTYPES,
    Dtype,
    TensorInfo,
    is_row_major,
    row_major_strides,
    shown,
    size_in_bits,
)

_MODULES = ("numpy.core.multiarray", "numpy._core.multiarray")
_RECONSTRUCT = {f"{module}._reconstruct" for module in _MODULES}
_FROM_BUFFER = {f"numpy{core}.numeric._frombuffer" for core in (".core", "._core")}
_DTYPE = {"numpy.dtype", "numpy.core.multiarray.dtype"}
_ENCODE = "_codecs.encode"
_EMPTY = {"builtins.bytes", "__builtin__.bytes"}

_BY_CODE: Mapping[str, str] = {
    "f8": "F64",
    "f4": "F32",
    "f2": "F16",
    "i8": "I64",
    "i4": "I32",
    "i2": "I16",
    "i1": "I8",
    "u8": "U64",
    "u4": "U32",
    "u2": "U16",
    "u1": "U8",
    "b1": "BOOL",
    "c8": "C64",
}
_CODE = re.compile(r"([<>=|]?)([a-zA-Z]\d{1,8})")
_NO_NUMBERS = set("OSUaMm")
_PART = 1 << 20


@dataclass(frozen=True, slots=True)
class Array:
    """An array as a pickle describes it.

    axes: which of its axes, slowest first, its values are stored by. values: the node that holds
    its bytes.
    """

    dtype: Dtype
    shape: tuple[int, ...]
    axes: tuple[int, ...]
    values: Node


def array_of(node: Node) -> Array | Unreadable | None:
    """Return the array that a node rebuilds, or None where it is something else.

    Raises RecordError where it names a rebuilder but with wrong arguments.
    """
    if not isinstance(node, Call) or not isinstance(node.function, Global):
        return None
    path, arguments = node.function.path, node.arguments
    if path in _FROM_BUFFER and node.is_changed:
        raise RecordError(CHANGED)
    # What `_reconstruct` makes is empty: its state is all that it holds.
    if path in _RECONSTRUCT and (node.items, node.elements) != (None, None):
        raise RecordError(CHANGED)
    if path in _RECONSTRUCT and isinstance(node.state, tuple) and len(node.state) == 5:
        _, shape, dtype, is_fortran, values = node.state
        sizes = sizes_of(shape, "sizes")
        return _array(sizes, dtype, values, _in_order("F" if is_fortran else "C", len(sizes)))
    if path in _FROM_BUFFER and isinstance(arguments, tuple) and len(arguments) in {4, 5}:
        values, dtype, shape, order, *transposed = arguments
        sizes = sizes_of(shape, "sizes")
        if order != "K":
            return _array(sizes, dtype, values, _in_order(order, len(sizes)))
        axes = _permutation(transposed[0] if transposed else None, len(sizes))
        moved = tuple(sizes[axis] for axis in axes)
        return _array(moved, dtype, values, tuple(axes.index(i) for i in range(len(axes))))
    return None


def dtype_named(code: str) -> Dtype | None:
    """Return the dtype of a NumPy code such as `<f4`, or None for one that is not a number's.

    Raises RecordError for big-endian values.
    """
    match = _CODE.fullmatch(code)
    if match is None:
        return None
    dtype = DTYPES.get(_BY_CODE.get(match[2], ""))
    if dtype and match[1] == ">" and dtype.bits > 8:
        raise RecordError("its values are big-endian; save it with a little-endian dtype")
    return dtype


def kind_of(code: str) -> str:
    """Return the letter of a NumPy code that tells what its values are: `f` of `<f4`."""
    return code.lstrip("<>=|")[:1]


def dtype_of(code: str) -> Dtype | Unreadable | None:
    """Return the dtype of an array's values; None where they are objects, texts or dates.

    Raises RecordError for big-endian values.
    """
    if kind_of(code) in _NO_NUMBERS:
        return None
    return dtype_named(code) or Unreadable(f"an array of NumPy's dtype {shown(code)}")


def column_major(tensor: TensorInfo) -> TensorInfo:
    """Return a tensor with the strides of Fortran's order: the first axis changes fastest."""
    return _stored_by(tensor, _in_order("F", len(tensor.shape)))


def _stored_by(tensor: TensorInfo, axes: tuple[int, ...]) -> TensorInfo:
    """Return a tensor with the strides of values stored by its axes, slowest first."""
    steps = dict(zip(axes, row_major_strides([tensor.shape[axis] for axis in axes]), strict=True))
    strides = tuple(steps[axis] for axis in range(len(axes)))
    return replace(tensor, strides=None if is_row_major(tensor.shape, strides) else strides)


def _in_order(order: Node, count: int) -> tuple[int, ...]:
    """Return the axes of an array, slowest first, by NumPy's letter for their order."""
    if not isinstance(order, str) or order not in {"C", "F"}:
        raise RecordError("its values are in an order that is neither C nor F")
    axes = tuple(range(count))
    return axes if order == "C" else axes[::-1]


def _permutation(axes: Node, count: int) -> tuple[int, ...]:
    if not isinstance(axes, tuple) or len(axes) != count:
        raise RecordError(f"the order of its axes is not a tuple of {count} numbers")
    check_naturals("one of its axes", *axes)
    if sorted(axes) != list(range(count)):
        raise RecordError(f"the order of its axes is {axes}, not each of its {count} axes once")
    return axes


def locate_array(name: str, array: Array, files: Files, start: int = 0) -> TensorInfo:
    """Place an array: in its file, or, where its bytes are not there as such, in the scratch file.

    start: where in the first file the pickle's own offsets begin.
    """
    if size_in_bits(array.shape, array.dtype.bits) is None:
        raise RecordError(f"its size, {list(array.shape)}, overflows")
    nbytes = prod(array.shape) * array.dtype.itemsize
    file, offset, length = place_of(array.values, files, start)
    if length != nbytes:
        raise RecordError(
            f"it has {length} bytes, but {array.dtype.name} {list(array.shape)} needs {nbytes}"
        )
    tensor = TensorInfo(name, array.dtype, array.shape, offset, file=file)
    return _stored_by(tensor, array.axes)


def place_of(values: Node, files: Files, start: int = 0) -> tuple[int, int, int]:
    """Return where a pickled byte string is: the number of the file, its offset and its length.

    Where it is in its file in another form only, that is the scratch file. start: as above. Raises
    RecordError for anything else.
    """
    if isinstance(values, Opaque) and values.kind == "bytes":
        return 0, start + values.offset, values.nbytes
    if isinstance(values, PlacedBytes):
        return 0, start + values.offset, len(values)
    source = files.main
    file, scratch = files.scratch()
    offset = scratch.size
    for part in _decoded(values, lambda at, count: source.pread(start + at, count)):
        scratch.append(part)
    return file, offset, scratch.size - offset


def objects_of(node: Node) -> list[Node] | None:
    """Return the elements of an array of Python objects, or None for anything else."""
    if not isinstance(node, Call) or not isinstance(node.function, Global):
        return None
    if node.function.path not in _RECONSTRUCT or not isinstance(node.state, tuple):
        return None
    elements = node.state[-1] if node.state else None
    return elements if isinstance(elements, list) else None


def _array(
    shape: tuple[int, ...], dtype: Node, values: Node, axes: tuple[int, ...]
) -> Array | Unreadable | None:
    code = _dtype_code(dtype)
    if code is None or kind_of(code) == "V":  # records, as of a trainer's history
        return None
    found = dtype_of(code)
    return Array(found, shape, axes, values) if isinstance(found, Dtype) else found


def _dtype_code(node: Node) -> str | None:
    """Return `<f4` of `numpy.dtype("f4", …)` with its state `(3, "<", …)`."""
    if not isinstance(node, Call) or not isinstance(node.function, Global):
        return None
    if node.function.path not in _DTYPE or not isinstance(node.arguments, tuple):
        return None
    code = _short(node.arguments[0]) if node.arguments else None
    order = _short(node.state[1]) if isinstance(node.state, tuple) and len(node.state) > 1 else ""
    return None if code is None else f"{order or ''}{code}"


def _short(node: Node) -> str | None:
    if isinstance(node, bytes):
        node = node[:16].decode("ascii", "replace")
    return node[:16] if isinstance(node, str) else None


def _decoded(values: Node, read: Callable[[int, int], bytes]) -> Iterator[bytes]:
    """Yield the bytes of an array that are in the file only in another form.

    Python 3 pickles bytes in protocol 2, torch.save's, as a text of the Latin-1 characters; and a
    text of Python 2 is bytes that happen to read as one.
    """
    if isinstance(values, bytes):
        yield values
    elif isinstance(values, str):
        yield values.encode("utf-8", "surrogatepass")
    elif isinstance(values, Call) and isinstance(values.function, Global):
        arguments = values.arguments if isinstance(values.arguments, tuple) else ()
        if values.function.path in _EMPTY and not arguments:
            return
        if values.function.path != _ENCODE or len(arguments) != 2 or arguments[1] != "latin1":
            raise RecordError(f"its values are made by {values.function.path[:60]}")
        yield from _latin1(arguments[0], read)
    else:
        raise RecordError("its values are not bytes")


def _latin1(text: Node, read: Callable[[int, int], bytes]) -> Iterator[bytes]:
    try:
        if isinstance(text, str):
            yield text.encode("latin-1")
        elif isinstance(text, Opaque) and text.kind == "text":
            decoder = codecs.getincrementaldecoder("utf-8")()
            for at in range(0, text.nbytes, _PART):
                count = min(_PART, text.nbytes - at)
                final = at + count == text.nbytes
                yield decoder.decode(read(text.offset + at, count), final).encode("latin-1")
        else:
            raise RecordError("its values are not Latin-1 text")
    except UnicodeError as error:
        raise RecordError("its values are not Latin-1 text") from error
