"""Files of torch.save since 1.6: a zip file of `data.pkl` and one member per storage.

The layout is that of `_save` in torch/serialization.py: all members lie in one folder; storage
`7` is the member `data/7`; `byteorder` says how its values are stored.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from dataclasses import replace

from fcn_convert.errors import CheckpointError
from fcn_convert.formats.numpy_records import locate_array
from fcn_convert.formats.pickled_calls import warnings_of
from fcn_convert.formats.pickles import Node, Persistent, Pickle, read_pickle
from fcn_convert.formats.records import RecordError
from fcn_convert.formats.source import Files, Part, Readable
from fcn_convert.formats.state_dicts import Search
from fcn_convert.formats.torch_records import Storage, Tensor, declare, locate, moved, storage_of
from fcn_convert.formats.zip_directory import (
    Member,
    check_cases,
    check_stored,
    checksums,
    read_directory,
    text_of,
)
from fcn_convert.tensors import Index, TensorInfo, shown

PICKLE = "data.pkl"
MAX_VERSION = 10
"""Of the container, as caffe2/serialize/versions.h counts them; torch writes 3 by default."""


def recognises_members(names: Collection[str]) -> bool:
    """Return whether a zip file with these members is one of torch.save."""
    folders = folders_of(names)
    return bool(folders) and not any(f"{folder}constants.pkl" in names for folder in folders)


def read_members(files: Files, members: Mapping[str, Member]) -> Index:
    """Index a torch zip file; raises CheckpointError where it is malformed."""
    return _read(files, files.main, members, 0)


def read_inside(files: Files, member: Member, writer: str) -> Index:
    """Index a torch zip file that is a member of another zip file.

    writer: what writes the other one. Raises CheckpointError where either is malformed.
    """
    check_stored(files.main, [member], writer)
    part = Part(files.main, member.offset, member.nbytes)
    return _read(files, part, read_directory(part), member.offset)


def _read(files: Files, file: Readable, members: Mapping[str, Member], start: int) -> Index:
    """Index a torch zip file that begins at byte `start` of the first of the files."""
    check_stored(file, members.values())
    archive = Archive(file, members)
    search = Search(
        lambda name, tensor: moved(archive.locate(name, tensor), start),
        lambda name, array: locate_array(name, array, files, start),
    )
    try:
        pickle = archive.read()
        storages = _declared(pickle.persistents)
        search.run(pickle.root)
        for storage in storages:
            archive.member_of(storage)
    except RecordError as error:
        raise CheckpointError(f"{file.path}: {error}") from error
    sums = (replace(part, offset=start + part.offset) for part in checksums(members.values()))
    warnings = warnings_of(file.path, pickle.running)
    return replace(search.index("torch (zip)"), warnings=warnings, checksums=tuple(sums))


def _declared(persistents: Iterable[Persistent]) -> Collection[Storage]:
    """Return the storages that an object refers to; raises RecordError for one declared twice."""
    storages: dict[str, Storage] = {}
    for persistent in persistents:
        storage = None
        with suppress(RecordError):  # reported of the tensor, if a state dict has it
            storage = storage_of(persistent)
        if storage is not None:
            declare(storages, storage)
    return storages.values()


def folders_of(names: Iterable[str]) -> list[str]:
    """Return the folders that hold a `data.pkl`, each with its slash."""
    return [n.removesuffix(PICKLE) for n in names if n.count("/") == 1 and n.endswith(f"/{PICKLE}")]


class Archive:
    """A zip file of torch's: its object, and where the storages it refers to are.

    file: the whole file, or a part of one; offsets count from its beginning.
    """

    def __init__(self, file: Readable, members: Mapping[str, Member]) -> None:
        folders = folders_of(members)
        if len(folders) != 1:
            raise CheckpointError(
                f"{file.path}: is a zip file with {len(folders) or 'no'} {PICKLE}, "
                "expected one written by torch.save"
            )
        check_cases(file, members)
        self.file = file
        self.members = members
        self.folder = folders[0]

    def root(self) -> Node:
        """Return the pickled object."""
        return self.read().root

    def read(self) -> Pickle:
        """Read the pickle.

        Raises CheckpointError where values are not little-endian, or the file is of a version that
        is not known.
        """
        self._check_version()
        byteorder = self.members.get(f"{self.folder}byteorder")
        if byteorder and text_of(self.file, byteorder, 16) != b"little":
            raise CheckpointError(
                f"{self.file.path}: its values are not little-endian; "
                "load and save it with torch first"
            )
        pickle = self.members[self.folder + PICKLE]
        return read_pickle(self.file, pickle.offset, pickle.offset + pickle.nbytes)

    def _check_version(self) -> None:
        places = (f"{self.folder}.data/version", f"{self.folder}version")
        member = next((self.members[place] for place in places if place in self.members), None)
        if member is None:
            return
        text = text_of(self.file, member, 16).strip()
        if not text.isdigit() or not 0 < int(text) <= MAX_VERSION:
            raise CheckpointError(
                f"{self.file.path}: its `version` is {shown(text.decode('latin-1'))}, expected a "
                f"number of 1 to {MAX_VERSION}; it is damaged, or of a newer torch: save it again"
            )

    def member_of(self, storage: Storage) -> Member:
        """Return where a storage is; raises RecordError where it has another size than declared."""
        member = self.members.get(f"{self.folder}data/{storage.key}")
        if member is None:
            raise RecordError(f"its storage {shown(storage.key)} is not in the file")
        # Bytes that are left over are a part of an element, where one of them is not whole.
        if member.nbytes // storage.itemsize != storage.numel:
            raise RecordError(
                f"storage {shown(storage.key)} has {member.nbytes} bytes, "
                f"but is declared with {storage.numel * storage.itemsize}"
            )
        return member

    def locate(self, name: str, tensor: Tensor) -> TensorInfo:
        """Place a tensor of the object; raises RecordError where its storage does not fit."""
        member = self.member_of(tensor.storage)
        return locate(name, tensor, member.offset, member.nbytes)
