"""Zip files: distinguished by their members, each kind read by a module of its own."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Protocol

from fcn_convert.beside import CHECKPOINT_SUFFIXES
from fcn_convert.errors import CheckpointError, quoted
from fcn_convert.formats import (
    keras_files,
    npz,
    stable_baselines,
    torch_exported,
    torch_script,
    torch_zip,
)
from fcn_convert.formats.source import Files
from fcn_convert.formats.zip_directory import LOCAL_SIGNATURE, Member, read_directory
from fcn_convert.tensors import Index, shown

EMPTY_SIGNATURE = b"PK\x05\x06"


class ZipReader(Protocol):
    """One kind of zip file."""

    def recognises_members(self, names: Collection[str]) -> bool:
        """Return whether a zip file with these members is of the kind."""
        ...

    def read_members(self, files: Files, members: Mapping[str, Member]) -> Index:
        """Return the index; raises CheckpointError where the file is malformed."""
        ...


ZIP_READERS: tuple[ZipReader, ...] = (
    torch_script,
    torch_zip,
    torch_exported,
    stable_baselines,
    keras_files,
    npz,
)


def recognises(head: bytes) -> bool:
    """Return whether a file starts like a zip file."""
    return head.startswith((LOCAL_SIGNATURE, EMPTY_SIGNATURE))


def read_index(files: Files) -> Index:
    """Index a zip file; raises CheckpointError where it is malformed, or of no kind known here."""
    members = read_directory(files.main)
    for reader in ZIP_READERS:
        if reader.recognises_members(members):
            return reader.read_members(files, members)
    found = f"its members are {quoted(map(shown, members))}" if members else "it is empty"
    inside = [name for name in members if name.lower().endswith(CHECKPOINT_SUFFIXES)]
    advice = f"unpack it, and convert the one with the weights: {quoted(map(shown, inside))}"
    raise CheckpointError(
        f"{files.main.path}: is a zip file without {torch_zip.PICKLE}, and not an archive known "
        f"here ({found}); "
        f"{advice if inside else 'if a checkpoint is inside it, unpack it first'}"
    )
