"""What the nodes of a torch pickle mean: tensors, parameters, storages, ordered dictionaries.

The rebuilders are those of torch/_utils.py and torch/_tensor.py; the persistent ids those of
torch/serialization.py. They are recognised by name and become records; nothing is called.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from fcn_convert.errors import printable
from fcn_convert.formats.pickle_machine import Call, Global, Node, Opaque, Persistent
from fcn_convert.formats.records import CHANGED, RecordError, Unreadable, check_naturals, sizes_of
from fcn_convert.tensors import (
    DTYPES,
    Dtype,
    TensorInfo,
    element_span,
    is_row_major,
    shown,
    size_in_bits,
)

_MAX_KEY = 256
"""Characters of a storage's key; torch counts them."""
_MAX_WRAPPED = 16
"""Calls around a rebuilder; torch nests two or three."""
_MAX_BITS = 8


@dataclass(frozen=True, slots=True)
class Storage:
    """A run of elements that tensors are views of.

    numel: elements that the pickle says it has; itemsize: bytes of one.
    first, last: the elements a tensor may view (old files pickle views of storages); view: the key
    of these elements, where they are pickled as a storage of their own.
    dtype: None for a storage type that safetensors has no dtype for.
    """

    key: str
    type_name: str
    dtype: Dtype | None
    itemsize: int
    numel: int
    first: int
    last: int
    view: str | None = None


@dataclass(frozen=True, slots=True)
class Tensor:
    """A tensor as the pickle describes it; strides and offset in elements.

    packed: the dtype of the values where torch's elements are bytes that hold several of them.
    """

    storage: Storage
    dtype: Dtype
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    conjugated: bool = False
    negated: bool = False
    packed: Dtype | None = None


Record = Tensor | Unreadable

STORAGE_DTYPES: Mapping[str, str] = {
    "DoubleStorage": "F64",
    "FloatStorage": "F32",
    "HalfStorage": "F16",
    "BFloat16Storage": "BF16",
    "LongStorage": "I64",
    "IntStorage": "I32",
    "ShortStorage": "I16",
    "CharStorage": "I8",
    "ByteStorage": "U8",
    "BoolStorage": "BOOL",
    "ComplexFloatStorage": "C64",
    "UntypedStorage": "U8",
}
_FOREIGN_STORAGES: Mapping[str, int] = {
    "ComplexDoubleStorage": 16,
    "QUInt8Storage": 1,
    "QInt8Storage": 1,
    "QInt32Storage": 4,
    "QUInt4x2Storage": 1,
    "QUInt2x4Storage": 1,
}
"""Storage types without a safetensors dtype, with the bytes of an element."""
TORCH_DTYPES: Mapping[str, Dtype] = {d.torch: d for d in DTYPES.values() if d.torch}
"""By their names in torch."""

_PACKED_DTYPES: Mapping[str, Dtype] = {"float4_e2m1fn_x2": DTYPES["F4"]}
"""torch's dtypes of one byte that holds several values."""

_NEGATABLE = {"F64", "F32", "F16", "BF16"}
"""What the real and imaginary part of a conjugated view can be."""

_DICTIONARIES = {
    "collections.OrderedDict",
    "collections.defaultdict",
    "builtins.dict",
    "__builtin__.dict",
}
_SETS = {"builtins.set", "__builtin__.set", "builtins.frozenset", "__builtin__.frozenset"}


def storage_of(node: Node) -> Storage | None:
    """Return the storage that a persistent id means, or None for one that means something else.

    Raises RecordError where it has the form of a storage's id but wrong contents.
    """
    if isinstance(node, Storage):  # it was read with the pickle
        return node
    if isinstance(node, Persistent) and isinstance(node.value, str):
        raise RecordError(
            "its storage is named in pickle protocol 0, which cannot hold tensors; "
            "save it with torch's default protocol"
        )
    if not isinstance(node, Persistent) or not isinstance(node.value, tuple):
        return None
    if not node.value or _text(node.value[0]) != "storage":
        return None
    if len(node.value) not in (5, 6):
        raise RecordError(f"a storage's id has {len(node.value)} parts, expected 5 or 6")
    _, kind, raw_key, _, numel, *view = node.value
    key = _text(raw_key)
    if not isinstance(kind, Global) or key is None:
        raise RecordError("a storage's id does not name its type and its key")
    check_naturals("the number of elements of a storage", numel)
    dtype = DTYPES.get(STORAGE_DTYPES.get(kind.name, ""))
    itemsize = dtype.itemsize if dtype else _FOREIGN_STORAGES.get(kind.name, 0)
    if not itemsize:
        raise RecordError(f"storage {shown(key)} has the unknown type {shown(kind.path)}")
    first, last, view_key = 0, numel, None
    if view and view[0] is not None:
        view_key = _text(view[0][0]) if isinstance(view[0], tuple) and len(view[0]) == 3 else None
        if view_key is None:
            raise RecordError(f"the view of storage {shown(key)} is malformed")
        _, first, length = view[0]
        check_naturals(f"the view of storage {shown(key)}", first, length)
        last = first + length
        if last > numel:
            raise RecordError(f"a view of storage {shown(key)} reaches beyond its {numel} elements")
    return Storage(key, kind.name, dtype, itemsize, numel, first, last, view_key)


def declare(storages: dict[str, Storage], storage: Storage) -> None:
    """Add a storage to those that were declared before; raises RecordError where it contradicts.

    torch reads every tensor of a storage by what was declared first. It writes only
    empty ones under two types.
    """
    known = storages.setdefault(storage.key, storage)
    if (known.numel, known.type_name if known.numel else "") != (
        storage.numel,
        storage.type_name if storage.numel else "",
    ):
        raise RecordError(f"storage {shown(storage.key)} is declared with two sizes or types")


def tensor_of(node: Node) -> Record | None:
    """Return the tensor that a node rebuilds, or None where it is something else.

    Raises RecordError where it names a rebuilder but with wrong arguments.
    """
    for _ in range(_MAX_WRAPPED):
        if not isinstance(node, Call) or not isinstance(node.function, Global):
            return None
        path, arguments = node.function.path, node.arguments
        if path not in _WRAPPERS and path not in _REBUILDERS and path not in _UNREADABLE:
            return None
        if not isinstance(arguments, tuple):
            raise RecordError("the arguments of its rebuilder are not a tuple")
        if node.is_changed and path not in _STATEFUL:
            raise RecordError(CHANGED)
        if path in _WRAPPERS:
            _check_attributes(arguments[3:4])
            node = _WRAPPERS[path](arguments)
        elif path in _REBUILDERS:
            return _rebuilt(path, arguments)
        else:
            return Unreadable(_UNREADABLE[path])
    raise RecordError(f"it is wrapped in more than {_MAX_WRAPPED} calls")


def _check_attributes(state: tuple[Node, ...]) -> None:
    """Raise RecordError where the attributes that a tensor is given would replace its values."""
    for part in state:
        for given in part if isinstance(part, tuple) else (part,):
            if {"data", "real", "imag"} & (mapping_of(given) or {}).keys():
                raise RecordError(CHANGED)


def locate(name: str, tensor: Tensor, start: int, nbytes: int) -> TensorInfo:
    """Place a tensor in its file, where its storage's `nbytes` bytes begin at byte `start`.

    Raises RecordError where it reaches outside its storage.
    """
    itemsize = tensor.dtype.itemsize
    first = tensor.storage.first * tensor.storage.itemsize + tensor.offset * itemsize
    end = first + element_span(tensor.shape, tensor.strides) * itemsize
    limit = min(nbytes, tensor.storage.last * tensor.storage.itemsize)
    if end > limit:
        raise RecordError(
            f"it reaches byte {end} of storage {shown(tensor.storage.key)}, which has {limit}"
        )
    if size_in_bits(tensor.shape, tensor.dtype.bits) is None:
        raise RecordError(f"its size, {list(tensor.shape)}, overflows")
    strides = None if is_row_major(tensor.shape, tensor.strides) else tensor.strides
    placed = TensorInfo(
        name,
        tensor.dtype,
        tensor.shape,
        start + first,
        strides,
        conjugated=tensor.conjugated,
        negated=tensor.negated,
    )
    return _unpacked(placed, tensor.packed) if tensor.packed else placed


def moved(tensor: TensorInfo, start: int, file: int = 0) -> TensorInfo:
    """Place a tensor of a file that begins at byte `start` of another."""
    return replace(tensor, offset=start + tensor.offset, file=file)


def _unpacked(tensor: TensorInfo, dtype: Dtype) -> TensorInfo:
    """Count a packed tensor's values, not its bytes, along the last axis, as safetensors does."""
    if tensor.strides is not None or not tensor.shape:
        raise RecordError("its packed values do not lie in row-major order")
    *outer, last = tensor.shape
    return replace(tensor, dtype=dtype, shape=(*outer, last * (8 // dtype.bits)))


def mapping_of(node: Node) -> dict[Node, Node] | None:
    """Return the items of a dictionary, ordered, default or plain, or None for anything else."""
    if isinstance(node, dict):
        return node
    if not isinstance(node, Call) or not isinstance(node.function, Global):
        return None
    if node.function.path not in _DICTIONARIES:
        return None
    match node.arguments:
        case () | None:
            pass
        case (_,) if node.function.name == "defaultdict":  # what it makes
            pass
        case (list() | tuple(),) if node.function.name == "OrderedDict":  # Python 2's pairs
            pass
        case _:
            raise RecordError("a dictionary in it is made in a way that no library writes")
    return node.items or {}


def members_of(node: Node) -> Sequence[Node]:
    """Return the members of a list, tuple or set; empty for anything else."""
    if isinstance(node, Call) and isinstance(node.function, Global) and node.function.path in _SETS:
        node = node.arguments[0] if isinstance(node.arguments, tuple) and node.arguments else ()
    return node if isinstance(node, list | tuple) else ()


def attributes_of(node: Node) -> dict[Node, Node]:
    """Return the `__dict__` that an instance was given; empty for anything else."""
    state = node.state if isinstance(node, Call) else None
    if isinstance(state, tuple) and len(state) == 2:  # with __slots__: (dict, slots)
        state = state[0]
    return mapping_of(state) or {}


def owner_of_method(node: Node) -> Node:
    """Return the module of `model.state_dict`, saved without the brackets that call it."""
    match node:
        case Call(Global("builtins" | "__builtin__", "getattr"), (owner, "state_dict")):
            return owner
    return node


def class_name(node: Node) -> str:
    """Name what a node would have been, for messages."""
    if isinstance(node, Call):
        function, arguments = node.function, node.arguments
        if isinstance(function, Global) and function.name == "_reconstructor":
            function = arguments[0] if isinstance(arguments, tuple) and arguments else function
        return function.path if isinstance(function, Global) else "object"
    if isinstance(node, Global):
        return f"the name {node.path}"
    if isinstance(node, Persistent):
        return "a storage"
    return f"a long {node.kind}" if isinstance(node, Opaque) else type(node).__name__


def _text(node: Node) -> str | None:
    """Return a short text; Python 2's bytes count as text."""
    if not isinstance(node, str | bytes) or len(node) > _MAX_KEY:
        return None
    return node.decode("ascii", "replace") if isinstance(node, bytes) else node


def torch_sizes_of(node: Node, what: str) -> tuple[int, ...]:
    """Return a `torch.Size` or a tuple of numbers; raises RecordError for anything else."""
    if isinstance(node, Call) and class_name(node) == "torch.Size":
        node = _first(node.arguments) if isinstance(node.arguments, tuple) else None
    return sizes_of(node, what)


def _rebuilt(path: str, arguments: tuple[Node, ...]) -> Record:
    """Read the arguments of torch's `_rebuild_tensor`, `_v2` and `_v3`."""
    if len(arguments) < 4:
        raise RecordError("its rebuilder lacks arguments")
    storage = storage_of(arguments[0])
    if storage is None:
        raise RecordError("its rebuilder is not given a storage")
    dtype_at, metadata_at = _REBUILDERS[path]
    dtype, packed = storage.dtype, None
    if dtype_at is not None:
        named = arguments[dtype_at] if dtype_at < len(arguments) else None
        if not isinstance(named, Global) or named.module != "torch":
            raise RecordError("its dtype is not named")
        packed = _PACKED_DTYPES.get(named.name)
        dtype = DTYPES["U8"] if packed else TORCH_DTYPES.get(named.name)
        if dtype is None:
            return Unreadable(f"of dtype {printable(named.path[:60])}")
    if dtype is None:
        return Unreadable(f"of {storage.type_name.removesuffix('Storage')} values")
    check_naturals("its offset", arguments[1])
    if isinstance(arguments[2], list) or isinstance(arguments[3], list):
        raise RecordError("its sizes or strides are a list, which may have changed since")
    shape, strides = torch_sizes_of(arguments[2], "sizes"), torch_sizes_of(arguments[3], "strides")
    if len(shape) != len(strides):
        raise RecordError(f"it has {len(shape)} sizes, but {len(strides)} strides")
    metadata = arguments[metadata_at] if metadata_at and metadata_at < len(arguments) else None
    conjugated, negated = _bits(metadata, dtype)
    return Tensor(storage, dtype, arguments[1], shape, strides, conjugated, negated, packed)


def _bits(metadata: Node, dtype: Dtype) -> tuple[bool, bool]:
    """Return torch's conj and neg bits, which only some dtypes can have."""
    bits = mapping_of(metadata) or {}
    if len(bits) > _MAX_BITS:
        raise RecordError(f"it is marked with {len(bits)} bits")
    allowed = {"neg"} if dtype.name in _NEGATABLE else set()
    if dtype.name == "C64":
        allowed = {"conj", "neg"}
    if not bits.keys() <= allowed:
        raise RecordError(f"it is marked with a bit that {dtype.name} cannot have")
    if not all(value is True for value in bits.values()):  # torch sets one whatever its value is
        raise RecordError("it is marked with a bit that is not set")
    return "conj" in bits, "neg" in bits


_REBUILDERS: Mapping[str, tuple[int | None, int | None]] = {
    "torch._utils._rebuild_tensor": (None, None),
    "torch._utils._rebuild_tensor_v2": (None, 6),
    "torch._utils._rebuild_tensor_v3": (6, 7),
}
"""Per rebuilder, where its arguments hold the dtype and the conj and neg bits."""


def _first(arguments: tuple[Node, ...]) -> Node:
    return arguments[0] if arguments else None


def _from_type(arguments: tuple[Node, ...]) -> Node:
    """`_rebuild_from_type*(function, type, arguments, state)` calls `function(*arguments)`."""
    return Call(arguments[0], arguments[2]) if len(arguments) > 2 else None


_WRAPPERS: Mapping[str, Callable[[tuple[Node, ...]], Node]] = {
    "torch._utils._rebuild_parameter": _first,
    "torch._utils._rebuild_parameter_with_state": _first,
    "torch._utils._rebuild_device_tensor_from_cpu_tensor": _first,
    "torch._tensor._rebuild_from_type": _from_type,
    "torch._tensor._rebuild_from_type_v2": _from_type,
    "torch.tensor._rebuild_from_type": _from_type,
    "torch.nn.parameter.Parameter": _first,  # torch before 0.4
    "torch.autograd.variable.Variable": _first,
}
"""Calls that yield the tensor of one of their arguments."""
_STATEFUL = {"torch.nn.parameter.Parameter", "torch.autograd.variable.Variable"}
"""Those of torch before 0.4, which were given their requires_grad afterwards."""

_UNREADABLE: Mapping[str, str] = {
    "torch._utils._rebuild_qtensor": "quantized",
    "torch._utils._rebuild_sparse_tensor": "sparse",
    "torch._utils._rebuild_sparse_csr_tensor": "sparse",
    "torch._utils._rebuild_nested_tensor": "nested",
    "torch._utils._rebuild_meta_tensor_no_storage": "on the meta device, without values",
    "torch._utils._rebuild_wrapper_subclass": "a tensor subclass without values of its own",
    "torch._utils._rebuild_device_tensor_from_numpy": "pickled as a NumPy array by another device",
    "torch._utils._rebuild_xla_tensor": "pickled as a NumPy array by another device",
    "torch.nn.parameter.UninitializedParameter": "a lazy parameter without values",
    "torch.nn.parameter.UninitializedBuffer": "a lazy buffer without values",
}
