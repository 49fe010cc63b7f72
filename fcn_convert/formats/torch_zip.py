"""Files of torch.save since 1.6: a zip file of `data.pkl` and one member per storage.

The layout is that of `_save` in torch/serialization.py: all members lie in one folder; storage
`7` is the member `data/7`; `byteorder` says how its values are stored.
"""

from __future__ import annotations

from fcn_convert.errors import CheckpointError
from fcn_convert.formats.pickles import read_pickle
from fcn_convert.formats.source import SourceFile
from fcn_convert.formats.state_dicts import MODULE_NOTE, Search
from fcn_convert.formats.torch_records import RecordError, Tensor, locate
from fcn_convert.formats.zip_directory import LOCAL_SIGNATURE, Member, read_directory
from fcn_convert.tensors import Checksum, Index, TensorInfo, shown

PICKLE = "data.pkl"


def recognises(head: bytes) -> bool:
    """Return whether a file starts like a zip file."""
    return head.startswith(LOCAL_SIGNATURE)


def read_index(file: SourceFile) -> Index:
    """Index a torch zip file; raises CheckpointError where it is malformed or another zip file."""
    members = read_directory(file)
    folder = _folder(file, members)
    byteorder = members.get(f"{folder}byteorder")
    if byteorder and file.pread(byteorder.offset, min(byteorder.nbytes, 16)) != b"little":
        raise CheckpointError(
            f"{file.path}: its values are not little-endian; load and save it with torch first"
        )
    pickle = members[folder + PICKLE]
    root = read_pickle(file, pickle.offset, pickle.offset + pickle.nbytes).root
    search = Search(lambda name, tensor: _locate(name, tensor, folder, members))
    try:
        search.run(root)
    except RecordError as error:
        raise CheckpointError(f"{file.path}: {error}") from error
    notes = (MODULE_NOTE,) if search.from_modules else ()
    # A CRC of 0 means that it was not computed.
    checksums = tuple(
        Checksum(m.name, m.offset, m.nbytes, m.crc) for m in members.values() if m.crc
    )
    found, left_out = tuple(search.found), tuple(search.left_out)
    return Index("torch (zip)", found, left_out, notes, checksums=checksums)


def _folder(file: SourceFile, members: dict[str, Member]) -> str:
    """Return the folder that holds `data.pkl`, with its slash."""
    folders = [
        n.removesuffix(PICKLE) for n in members if n.count("/") == 1 and n.endswith(f"/{PICKLE}")
    ]
    if len(folders) != 1:
        raise CheckpointError(
            f"{file.path}: is a zip file with {len(folders) or 'no'} {PICKLE}, "
            "expected one written by torch.save"
        )
    if f"{folders[0]}constants.pkl" in members:
        raise CheckpointError(
            f"{file.path}: is a TorchScript archive; load it with torch.jit.load and save its "
            "state_dict() with torch.save"
        )
    return folders[0]


def _locate(name: str, tensor: Tensor, folder: str, members: dict[str, Member]) -> TensorInfo:
    storage = tensor.storage
    member = members.get(f"{folder}data/{storage.key}")
    if member is None:
        raise RecordError(f"its storage {shown(storage.key)} is not in the file")
    if member.nbytes < storage.numel * storage.itemsize:
        raise RecordError(
            f"storage {shown(storage.key)} has {member.nbytes} bytes, "
            f"but is declared with {storage.numel * storage.itemsize}"
        )
    return locate(name, tensor, member.offset, member.nbytes)
