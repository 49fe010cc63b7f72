"""What a container format is to the rest of the program."""

from __future__ import annotations

from typing import Protocol

from fcn_convert.formats.source import Files
from fcn_convert.tensors import Index

HEAD_BYTES = 512


class Reader(Protocol):
    """One container format."""

    def recognises(self, head: bytes) -> bool:
        """Return whether a file that starts with these (at most HEAD_BYTES) is of the format."""
        ...

    def read_index(self, files: Files) -> Index:
        """Return the index of the first of the files, and of those it names.

        Raises CheckpointError where they are malformed. A tensor's `file` is its number in
        `files.opened`; 0 is the first.
        """
        ...
