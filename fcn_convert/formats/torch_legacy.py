"""Files of torch.save before 1.6: five pickles, then the storages one after the other.

The layout is that of `_legacy_save` in torch/serialization.py: magic number, protocol version,
system information, the object, the list of storage keys; then per key its number of elements, as
eight bytes, and its values.
"""

from __future__ import annotations

from dataclasses import replace

from fcn_convert.errors import CheckpointError
from fcn_convert.formats.numpy_records import locate_array
from fcn_convert.formats.pickled_calls import warnings_of
from fcn_convert.formats.pickles import Node, Persistent, Pickle, read_pickle
from fcn_convert.formats.records import RecordError
from fcn_convert.formats.source import Files, Readable
from fcn_convert.formats.state_dicts import Search
from fcn_convert.formats.torch_records import (
    Storage,
    Tensor,
    declare,
    locate,
    mapping_of,
    storage_of,
)
from fcn_convert.tensors import Index, TensorInfo, shown

MAGIC_NUMBER = 0x1950A86A20F9469CFC6C
PROTOCOL_VERSION = 1001
COUNT_BYTES = 8
MAX_STORAGE_PICKLES = 1 << 14
"""Bytes of the pickles of a file that holds one storage; torch writes some 200."""

# The magic number, pickled: binary as LONG1 with its ten bytes, in protocols 0 and 1 as a line.
_BINARY_MAGIC = b"\x8a\x0a" + MAGIC_NUMBER.to_bytes(10, "little")
_TEXT_MAGIC = b"L" + str(MAGIC_NUMBER).encode("ascii")


def recognises(head: bytes) -> bool:
    """Return whether a file starts with the pickled magic number, in any pickle protocol."""
    return head.startswith(_TEXT_MAGIC) or (head[:1] == b"\x80" and _BINARY_MAGIC in head[:24])


def read_index(files: Files) -> Index:
    """Index a legacy torch file; raises CheckpointError where it is malformed."""
    try:
        model, places = _read(files.main, files.main.size)
        search = Search(
            lambda name, tensor: _locate(name, tensor, places),
            lambda name, array: locate_array(name, array, files),
        )
        search.run(model.root)
    except RecordError as error:
        raise CheckpointError(f"{files.main.path}: {error}") from error
    warnings = warnings_of(files.main.path, model.running)
    return replace(search.index("torch (legacy)"), warnings=warnings)


def read_storage(file: Readable) -> tuple[Storage, int, int]:
    """Return the storage that a file holds as its object, where its values begin, and their bytes.

    Raises CheckpointError or RecordError where it holds something else.
    """
    model, places = _read(file, min(file.size, MAX_STORAGE_PICKLES))
    storage = storage_of(model.root)
    if storage is None or storage.key not in places:
        raise RecordError("it does not hold a storage")
    return storage, *places[storage.key]


def _read(file: Readable, limit: int) -> tuple[Pickle, dict[str, tuple[int, int]]]:
    """Read the pickle of the object, and where each storage's values begin, and their bytes.

    limit: where the pickles end at the latest.
    """
    end = held = 0
    header: list[Node] = []
    for _ in range(3):
        part = read_pickle(file, end, limit, held=held)
        header.append(part.root)
        end, held = part.end, part.held
    _check_header(file, header)
    model = read_pickle(file, end, limit, held=held)
    keys = read_pickle(file, model.end, limit, held=model.held)
    return model, _places(file, keys.root, keys.end, _declared(model.persistents))


def _check_header(file: Readable, header: list[Node]) -> None:
    magic, version, system = header
    if magic != MAGIC_NUMBER or version != PROTOCOL_VERSION:
        raise CheckpointError(
            f"{file.path}: its first two pickles are not torch's magic number and protocol "
            f"version {PROTOCOL_VERSION}; save it with torch again"
        )
    if (mapping_of(system) or {}).get("little_endian") is not True:
        raise CheckpointError(
            f"{file.path}: its values are big-endian; load and save it with torch first"
        )


def _declared(persistents: tuple[Persistent, ...]) -> dict[str, Storage]:
    """Collect the storages that the object refers to, by key.

    Raises RecordError where two of them, or of their views, contradict each other: torch takes the
    first of a key.
    """
    storages: dict[str, Storage] = {}
    views: dict[str, Storage] = {}
    for persistent in persistents:
        storage = storage_of(persistent)
        if storage is None:
            continue
        declare(storages, storage)
        if storage.view is not None and views.setdefault(storage.view, storage) != storage:
            raise RecordError(f"two views of storages have the key {shown(storage.view)}")
    if views.keys() & storages.keys():
        raise RecordError("a storage and a view of one have the same key")
    return storages


def _places(
    file: Readable, keys: Node, start: int, storages: dict[str, Storage]
) -> dict[str, tuple[int, int]]:
    """Return where each storage's values begin, and their bytes."""
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
        raise RecordError("its list of storages is malformed")
    places: dict[str, tuple[int, int]] = {}
    for key in keys:
        storage = storages.get(key)
        if storage is None or key in places:
            raise RecordError(f"its list of storages names {shown(key)} twice or without need")
        numel = int.from_bytes(file.pread(start, COUNT_BYTES), "little", signed=True)
        if numel != storage.numel:
            raise RecordError(
                f"storage {shown(key)} has {numel} elements, but is declared with {storage.numel}"
            )
        nbytes = numel * storage.itemsize
        start += COUNT_BYTES
        if start + nbytes > file.size:
            raise RecordError(
                f"is truncated: storage {shown(key)} ends at byte {start + nbytes}, "
                f"the file at {file.size}"
            )
        places[key] = (start, nbytes)
        start += nbytes
    return places


def _locate(name: str, tensor: Tensor, places: dict[str, tuple[int, int]]) -> TensorInfo:
    if tensor.storage.key not in places:
        raise RecordError(f"its storage {shown(tensor.storage.key)} is not in the file")
    return locate(name, tensor, *places[tensor.storage.key])
