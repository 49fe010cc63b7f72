"""`.pt2` archives of `torch.export.save`: the weights by their names in the state dict.

Since torch 2.7 they are members of their own, described by JSON (torch/export/pt2_archive); before,
they were one file of torch.save inside the archive.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

from fcn_convert.errors import CheckpointError
from fcn_convert.formats.json_text import MAX_JSON, parse_json
from fcn_convert.formats.records import RecordError, check_naturals
from fcn_convert.formats.source import Files
from fcn_convert.formats.torch_records import Storage, Tensor, locate
from fcn_convert.formats.torch_zip import read_inside
from fcn_convert.formats.zip_directory import (
    Member,
    check_cases,
    check_stored,
    checksums,
    text_of,
)
from fcn_convert.tensors import DTYPES, Index, LeftOut, StateDict, TensorInfo, shown

_CONFIG = "_weights_config.json"
_OLD_PROGRAM = "serialized_exported_program.json"
_OLD_WEIGHTS = ("serialized_state_dict.pt", "serialized_state_dict.json")
_STRIDED = 7
_DTYPES: Mapping[int, str] = {
    1: "U8",
    2: "I8",
    3: "I16",
    4: "I32",
    5: "I64",
    6: "F16",
    7: "F32",
    8: "F64",
    10: "C64",
    12: "BOOL",
    13: "BF16",
    28: "U16",
    29: "F8_E4M3",
    30: "F8_E5M2",
    31: "F8_E4M3FNUZ",
    32: "F8_E5M2FNUZ",
    33: "F8_E8M0",
    34: "U32",
    35: "U64",
}
"""`ScalarType` of torch/_export/serde/schema.py."""


def recognises_members(names: Collection[str]) -> bool:
    """Return whether a zip file with these members is an exported program."""
    return _OLD_PROGRAM in names or any(name.endswith("/archive_format") for name in names)


def read_members(files: Files, members: Mapping[str, Member]) -> Index:
    """Index an archive; raises CheckpointError where it is malformed, or holds no weights."""
    check_cases(files.main, members)
    try:
        old = next((members[name] for name in _OLD_WEIGHTS if name in members), None)
        if old is not None:
            return replace(read_inside(files, old, "torch.export.save"), format="torch.export")
        found = [
            _described(files, members, member)
            for name, member in members.items()
            if "/data/weights/" in name and name.endswith(_CONFIG)
        ]
    except RecordError as error:
        raise CheckpointError(f"{files.main.path}: {error}") from error
    if not found:
        raise CheckpointError(
            f"{files.main.path}: is a .pt2 archive without weights by their names, as compiled "
            "ones are; save the module's state_dict() with torch.save"
        )
    only = len(found) == 1
    state_dicts = tuple(
        StateDict("" if only else model, tensors, (), unreadable)
        for model, tensors, unreadable in found
    )
    return Index("torch.export", state_dicts, checksums=checksums(members.values()))


def _described(
    files: Files, members: Mapping[str, Member], config: Member
) -> tuple[str, dict[str, TensorInfo], tuple[LeftOut, ...]]:
    """Return a model's name, and its weights as its JSON describes them."""
    folder, _, file_name = config.name.rpartition("/")
    data = parse_json(files.main.path, config.name, text_of(files.main, config, MAX_JSON))
    entries = data.get("config") if isinstance(data, dict) else None
    if not isinstance(entries, dict):
        raise RecordError(f"{shown(config.name)} has no `config`")
    tensors: dict[str, TensorInfo] = {}
    unreadable: list[LeftOut] = []
    for name, entry in entries.items():
        if not isinstance(entry, dict) or not isinstance(entry.get("tensor_meta"), dict):
            raise RecordError(f"{shown(name)} is not described in {shown(config.name)}")
        meta = entry["tensor_meta"]
        code = meta.get("dtype")
        dtype = _DTYPES.get(code) if type(code) is int else None
        if entry.get("use_pickle") or meta.get("layout") != _STRIDED or dtype is None:
            unreadable.append(LeftOut(name, f"of a layout or dtype that is not known ({code})"))
            continue
        member = members.get(f"{folder}/{entry.get('path_name')}")
        if member is None:
            raise RecordError(f"the values of {shown(name)} are not in the file")
        check_stored(files.main, [member], "torch.export.save")
        tensors[name] = _tensor(name, member, dtype, meta)
    return file_name.removesuffix(_CONFIG), tensors, tuple(unreadable)


def _tensor(name: str, member: Member, dtype: str, meta: dict[str, Any]) -> TensorInfo:
    found = DTYPES[dtype]
    shape, strides = (_integers(name, meta.get(key)) for key in ("sizes", "strides"))
    (offset,) = _integers(name, [meta.get("storage_offset")])
    if len(shape) != len(strides):
        raise RecordError(f"{shown(name)} has {len(shape)} sizes, but {len(strides)} strides")
    numel = member.nbytes // found.itemsize
    storage = Storage(member.name, "", found, found.itemsize, numel, 0, numel)
    tensor = Tensor(storage, found, offset, shape, strides)
    return locate(name, tensor, member.offset, member.nbytes)


def _integers(name: str, value: object) -> tuple[int, ...]:
    listed = value if isinstance(value, list) else [None]
    found = tuple(item.get("as_int") if isinstance(item, dict) else None for item in listed)
    check_naturals(f"a size of {shown(name)}", *found)
    return found  # type: ignore[return-value]  # checked just before
