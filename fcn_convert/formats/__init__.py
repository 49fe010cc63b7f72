"""Containers: each becomes the same index of tensors, recognised by content, not by suffix.

To add one, write a module with the two functions of `Reader` and name it in `READERS`;
`safetensors.py` is the example.
"""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from fcn_convert.errors import CheckpointError
from fcn_convert.formats import safetensors, torch_legacy, torch_zip
from fcn_convert.formats.source import SourceFile
from fcn_convert.tensors import Index, StateDict

HEAD_BYTES = 512
_TAR = slice(257, 262)
"""Where the header of a tar file says `ustar`."""


class Reader(Protocol):
    """One container format."""

    def recognises(self, head: bytes) -> bool:
        """Return whether a file that starts with these (at most HEAD_BYTES) is of the format."""
        ...

    def read_index(self, file: SourceFile) -> Index:
        """Return the file's index; raises CheckpointError where the file is malformed."""
        ...


# The order matters only for the last: any small number looks like a safetensors header's length.
READERS: tuple[Reader, ...] = (torch_zip, torch_legacy, safetensors)


class Checkpoint:
    """An open checkpoint: its files and their index."""

    def __init__(self, files: tuple[SourceFile, ...], index: Index) -> None:
        self.files = files
        self.index = index

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for file in self.files:
            file.close()

    @property
    def path(self) -> Path:
        """The file the user named."""
        return self.files[0].path

    @property
    def nbytes(self) -> int:
        """Size of all files together, in bytes."""
        return sum(file.size for file in self.files)

    def state_dict(self, path: str | None) -> StateDict:
        """Return the state dict at `path`, or the only one; see `Index.state_dict`."""
        try:
            return self.index.state_dict(path)
        except CheckpointError as error:
            raise CheckpointError(f"{self.path}: {error}") from None

    def check_unchanged(self) -> None:
        """Raise CheckpointError if a file was written to since it was opened."""
        for file in self.files:
            file.check_unchanged()


def open_checkpoint(path: Path) -> Checkpoint:
    """Open a checkpoint of any known container and index it.

    Raises CheckpointError, with the path, where it is unreadable, unknown or malformed.
    """
    file = SourceFile(path)
    try:
        head = file.pread(0, min(HEAD_BYTES, file.size))
        for reader in READERS:
            if reader.recognises(head):
                return Checkpoint((file,), reader.read_index(file))
        raise CheckpointError(f"{path}: {_unknown(head)}")
    except BaseException:
        file.close()
        raise


def _unknown(head: bytes) -> str:
    """Say what a file is that no reader recognises."""
    if head[_TAR] == b"ustar":
        return (
            "is a tar file, the form of torch.save before 0.1.10; "
            "load and save it with torch, or unpack it, first"
        )
    found = f"it starts with {head[:8]!r}" if head else "it is empty"
    return f"is no checkpoint known here ({found}); expected safetensors or a file of torch.save"
