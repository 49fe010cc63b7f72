"""`.npz`: a zip file of one `.npy` array per name, as `numpy.savez` writes it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace

from fcn_convert.errors import CheckpointError
from fcn_convert.formats.npy import SUFFIX, read_array
from fcn_convert.formats.records import RecordError, Unreadable
from fcn_convert.formats.source import Files, Part
from fcn_convert.formats.torch_records import moved
from fcn_convert.formats.zip_directory import Member, checksums, unpacked
from fcn_convert.tensors import Index, LeftOut, StateDict, TensorInfo, shown

_CHAINERS = "/W"


def recognises_members(names: Collection[str]) -> bool:
    """Return whether every member is an array."""
    return bool(names) and all(name.endswith(SUFFIX) for name in names)


def read_members(files: Files, members: Mapping[str, Member]) -> Index:
    """Index the arrays by their headers; those that are compressed are unpacked first."""
    tensors: dict[str, TensorInfo] = {}
    left_out: list[LeftOut] = []
    unreadable: list[LeftOut] = []
    for member in members.values():
        name = member.name.removesuffix(SUFFIX)
        try:
            found = _tensor(name, member, files)
        except RecordError as error:
            raise CheckpointError(
                f"{files.main.path}: array {shown(name)} cannot be read: {error}"
            ) from error
        match found:
            case TensorInfo():
                tensors[name] = found
            case LeftOut():
                left_out.append(found)
            case Unreadable(reason):
                unreadable.append(LeftOut(name, reason))
    if any(name.endswith(_CHAINERS) for name in tensors):
        tensors = dict(sorted(tensors.items()))  # whose links come in no meaningful order
    index = Index("npz", (), checksums=checksums(members.values()), foreign_names=True)
    if not tensors:
        return replace(index, left_out=(*left_out, *unreadable))
    whole = StateDict("", tensors, tuple(left_out), tuple(unreadable))
    return replace(index, state_dicts=(whole,))


def _tensor(name: str, member: Member, files: Files) -> TensorInfo | Unreadable | LeftOut:
    number, file, start = 0, files.main, member.offset
    if member.method:
        number, file = files.scratch()
        start = file.size
        for part in unpacked(files.main, member):
            file.append(part)
    found = read_array(name, Part(file, start, member.nbytes))
    return moved(found, start, number) if isinstance(found, TensorInfo) else found
