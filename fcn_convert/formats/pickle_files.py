"""Plain pickles: a dictionary of arrays or tensors, as `pickle.dump` writes it, in any protocol."""

from __future__ import annotations

from fcn_convert.errors import CheckpointError
from fcn_convert.formats.numpy_records import locate_array
from fcn_convert.formats.pickles import Node, read_pickle
from fcn_convert.formats.source import Files
from fcn_convert.formats.state_dicts import MODULE_NOTE, Search
from fcn_convert.formats.torch_records import RecordError, Tensor
from fcn_convert.tensors import Index, TensorInfo

_TEXT_STARTS = (
    *(b"(dp", b"(d.", b"(lp", b"(ip", b"}q", b"]q"),
    *(b"ccopy_reg\n", b"ccollections\n", b"cnumpy"),
)
"""How pickles of protocols 0 and 1 begin that hold dictionaries, lists or objects."""
_BINARY_STARTS = b"}](\x95ccN)\x8f\x8c"
"""Opcodes that can follow the two bytes of the protocol."""


def recognises(head: bytes) -> bool:
    """Return whether a file starts like a pickle of a dictionary, a list or an object."""
    if head.startswith(_TEXT_STARTS):
        return True
    return len(head) > 3 and head[0] == 0x80 and 2 <= head[1] <= 5 and head[2] in _BINARY_STARTS


def read_index(files: Files) -> Index:
    """Index a pickle; raises CheckpointError where it is malformed."""
    root = read_pickle(files.main, 0, files.main.size).root
    return index_of(files, root, "pickle")


def index_of(files: Files, root: Node, kind: str) -> Index:
    """Index what a pickle without storages of torch's holds."""
    search = Search(_no_storage, lambda name, array: locate_array(name, array, files))
    try:
        search.run(root)
    except RecordError as error:
        raise CheckpointError(f"{files.main.path}: {error}") from error
    notes = (MODULE_NOTE,) if search.from_modules else ()
    return Index(kind, tuple(search.found), tuple(search.left_out), notes, foreign_names=True)


def _no_storage(_name: str, _tensor: Tensor) -> TensorInfo:
    raise RecordError("it refers to a storage outside of the pickle; save it with torch.save")
