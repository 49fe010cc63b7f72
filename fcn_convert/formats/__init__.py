"""Containers: each becomes the same index of tensors, recognised by content, not by suffix.

To add one, write a module with the two functions of `Reader` and name it in `READERS`;
`tests/toy_format.py` is a whole one, in a page. One that is a zip file has the functions of
`ZipReader` instead, and is named in `ZIP_READERS`; `npz.py` is the example. The suffixes
that folders are searched for are in `CHECKPOINT_SUFFIXES` (beside.py). What cannot be read has a
sentence in `signatures.py`.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Self

from fcn_convert.beside import shard_of
from fcn_convert.errors import CheckpointError, SpecError
from fcn_convert.formats import (
    folders,
    keras_files,
    npy,
    pickle_files,
    safetensors,
    sharded,
    signatures,
    torch_legacy,
    zip_files,
)
from fcn_convert.formats.layouts import LAYOUTS, named_as_torch
from fcn_convert.formats.reader import HEAD_BYTES, Reader
from fcn_convert.formats.source import Files, Scratch, SourceFile
from fcn_convert.tensors import Index, StateDict, shown, why_no_name

# The order matters only for the last: any small number looks like a safetensors header's length.
READERS: tuple[Reader, ...] = (
    zip_files,
    torch_legacy,
    npy,
    keras_files,
    pickle_files,
    sharded,
    safetensors,
)

MIN_REPEATED, MAX_TIMES = 1 << 30, 16
"""Bytes that tensors which share values may take in the output: a small file of expanded or tied
ones could fill a disk. And how many times its own size those of a large file may take."""


class Checkpoint:
    """An open checkpoint: its files and their index.

    path: what the user named, a file or a folder.
    """

    def __init__(self, path: Path, files: tuple[SourceFile, ...], index: Index) -> None:
        self.path = path
        self.files = files
        self.index = index
        self._taken: dict[tuple[str | None, str | None], StateDict] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for file in self.files:
            file.close()

    @property
    def stored(self) -> tuple[SourceFile, ...]:
        """The files on the disk, without what was unpacked from them."""
        return tuple(file for file in self.files if not isinstance(file, Scratch))

    @property
    def nbytes(self) -> int:
        """Size of all files together, in bytes."""
        return sum(file.size for file in self.stored)

    def state_dict(self, path: str | None, layout: str | None = None) -> StateDict:
        """Return the state dict at `path`, or the only one, as PyTorch names and orders its arrays.

        layout: whose convention arrays follow; None for what the container says, or PyTorch's.
        Raises CheckpointError as `Index.state_dict` does, SpecError for a layout that is not the
        container's.
        """
        if (path, layout) not in self._taken:
            self._taken[path, layout] = self._state_dict(path, layout)
        return self._taken[path, layout]

    def _state_dict(self, path: str | None, layout: str | None) -> StateDict:
        own = self.index.layout
        if own and layout not in {None, own}:
            raise SpecError(
                f"{self.path} is {self.index.format}, whose layout is {own}, not {layout}"
            )
        try:
            found = self.index.state_dict(path)
            self._check_size(found)
            if not own:
                if self.index.foreign_names and layout in {None, "torch", "paddle"}:
                    found = named_as_torch(found)
                found = LAYOUTS[layout or "torch"](found)
            _check_names(found)
        except CheckpointError as error:
            raise CheckpointError(f"{self.path}: {error}") from None
        return found

    def _check_size(self, found: StateDict) -> None:
        stored = sum(file.size for file in self.files)
        nbytes = sum(tensor.nbytes for tensor in found.tensors.values())
        if nbytes > max(MIN_REPEATED, MAX_TIMES * stored):
            raise CheckpointError(
                f"its tensors would take {nbytes} bytes, but all its values have {stored}: they "
                "share them, by strides of 0 or by overlapping; save contiguous copies of them"
            )

    def check_unchanged(self) -> None:
        """Raise CheckpointError if a file was written to since it was opened."""
        for file in self.files:
            file.check_unchanged()


def _check_names(found: StateDict) -> None:
    for name in found.tensors:
        if why := why_no_name(name):
            raise CheckpointError(
                f"tensor {shown(name)} cannot be written: its name {why}; save it by another name"
            )


def open_checkpoint(path: Path) -> Checkpoint:
    """Open a checkpoint of any known container and index it.

    path: a file, or a folder that holds one. Raises CheckpointError, with the path, where it is
    unreadable, unknown or malformed.
    """
    main = folders.main_file(path) if os.path.isdir(path) else path
    files = Files(SourceFile(main))
    try:
        index = _reader(files.main).read_index(files)
        if not index.shards and (shard := shard_of(main.name)):
            index = replace(index, warnings=(*index.warnings, _incomplete(main, *shard)))
        return Checkpoint(path, tuple(files.opened), index)
    except BaseException:
        files.close()
        raise


def _incomplete(path: Path, number: int, total: int) -> str:
    return (
        f"{path}: is shard {number} of {total} by its name, and no other shard is read; name "
        "the index, or their folder, to convert the whole checkpoint"
    )


def _reader(file: SourceFile) -> Reader:
    """Return the reader of a file by its content; raises CheckpointError where there is none."""
    head = file.pread(0, min(HEAD_BYTES, file.size))
    last = min(signatures.TAIL_BYTES, file.size)
    tail = file.pread(file.size - last, last)
    sentence = signatures.by_name(file.path.name) or signatures.known(head, tail)
    if sentence is None:
        for reader in READERS:
            if reader.recognises(head):
                return reader
        sentence = signatures.unknown(head)
    raise CheckpointError(f"{file.path}: {sentence}")
