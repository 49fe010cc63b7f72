"""Torch distributed checkpoints: a folder of `.metadata` and the files that its processes wrote.

The layout is that of torch/distributed/checkpoint/filesystem.py: `.metadata` is a pickle, which
torch's own reader loads with everything that it names; by name and position it places each tensor,
or chunk of one, at a range of a `.distcp` file, and each such range is a file of torch.save. A
tensor of one chunk is read where it is; one of several is put together in the scratch file.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from math import prod

from fcn_convert.errors import CheckpointError, printable
from fcn_convert.formats.pickle_machine import Call, Global, Node, Opaque
from fcn_convert.formats.records import RecordError, Unreadable, check_naturals
from fcn_convert.formats.source import Files, Part
from fcn_convert.formats.state_dicts import Search
from fcn_convert.formats.strided import Block, BlockReader, blocks, placed
from fcn_convert.formats.torch_records import (
    TORCH_DTYPES,
    Record,
    Storage,
    Tensor,
    attributes_of,
    class_name,
    mapping_of,
    members_of,
    moved,
    tensor_of,
    torch_sizes_of,
)
from fcn_convert.formats.torch_zip import Archive
from fcn_convert.formats.zip_directory import check_stored, checksums, read_directory
from fcn_convert.tensors import (
    MAX_TENSORS,
    Checksum,
    Dtype,
    Index,
    TensorInfo,
    shown,
    size_in_bits,
)

METADATA = "torch.distributed.checkpoint.metadata.Metadata"
OTHERWISE = (
    "let torch itself convert it, with `python -m torch.distributed.checkpoint.format_utils "
    "dcp_to_torch FOLDER FILE.pth`, which runs whatever code the .metadata pickle names"
)
MAX_PATH = 16
"""Names that lead to a tensor through nested dictionaries."""
MAX_CHUNKS = 8 * MAX_TENSORS
"""Chunks of all tensors together."""


def is_metadata(root: Node) -> bool:
    """Return whether a pickle's object is the metadata of a distributed checkpoint."""
    return isinstance(root, Call) and class_name(root) == METADATA


def index_of(files: Files, root: Node) -> Index:
    """Index the checkpoint whose metadata was read from the first file.

    Raises CheckpointError where it is malformed, or kept in a way that is not read here.
    """
    try:
        saved = _Saved(files, attributes_of(root))
        search = Search(saved.locate, _no_array)
        search.run(saved.tree())
    except RecordError as error:
        raise CheckpointError(f"{files.main.path}: {error}; {OTHERWISE}") from error
    return replace(search.index("torch distributed"), checksums=tuple(saved.checksums))


def _no_array(name: str, _: object) -> TensorInfo:
    raise RecordError(f"{shown(name)} is an array of NumPy's, which no such file holds")


@dataclass(frozen=True, slots=True)
class _Chunk:
    """A box of a tensor: the index of its first element, and its sizes."""

    offsets: tuple[int, ...]
    sizes: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class _Range:
    """Where a chunk is: the number of its file, and a range of it."""

    file: int
    start: int
    nbytes: int


@dataclass
class _Saved:
    """What the metadata says is saved, and what was found of it."""

    files: Files
    metadata: dict[Node, Node]
    chunks: dict[str, list[_Chunk]] = field(default_factory=dict)
    ranges: dict[tuple[str, tuple[int, ...]], _Range] = field(default_factory=dict)
    read: dict[_Range, tuple[Archive, Record | None]] = field(default_factory=dict)
    checksums: list[Checksum] = field(default_factory=list)
    count: int = 0

    def tree(self) -> dict[Node, Node]:
        """Return the dictionary that was saved, with a record for each tensor."""
        self.ranges = dict(self._ranges())
        entries = mapping_of(self.metadata.get("state_dict_metadata"))
        if entries is None:
            raise RecordError("has no `state_dict_metadata`")
        paths = mapping_of(self.metadata.get("planner_data")) or {}
        root: dict[Node, Node] = {}
        for name, entry in entries.items():
            if not isinstance(name, str):
                raise RecordError("names a tensor by something that is not text")
            _put(root, _path(paths.get(name, (name,))), self._leaf(name, entry))
        return root

    def _leaf(self, name: str, entry: Node) -> Node:
        """Return the record of a tensor; anything else, a pickled value, stays what it is."""
        described = attributes_of(entry)
        if "chunks" not in described:
            return entry
        properties = described.get("properties")
        state = properties.state if isinstance(properties, Call) else ()
        named = state[0] if isinstance(state, tuple) and state else None
        dtype = TORCH_DTYPES.get(named.name) if isinstance(named, Global) else None
        if dtype is None:
            if not isinstance(named, Global):
                return Unreadable("of a dtype that is not named")
            return Unreadable(f"of dtype {printable(named.path[:60])}")
        shape = torch_sizes_of(described.get("size"), "sizes")
        if size_in_bits(shape, dtype.bits) is None:
            raise RecordError(f"the size of {shown(name)}, {list(shape)}, overflows")
        self.count += len(members_of(described["chunks"]))
        if self.count > MAX_CHUNKS:
            raise RecordError(f"has more than {MAX_CHUNKS} chunks")
        self.chunks[name] = list(_chunks(described["chunks"]))
        numel = prod(shape)
        storage = Storage(name, "", dtype, dtype.itemsize, numel, 0, numel)
        return Tensor(storage, dtype, 0, shape, ())

    def _ranges(self) -> Iterator[tuple[tuple[str, tuple[int, ...]], _Range]]:
        """Yield where each chunk is, by its tensor's name and its offsets."""
        stored = mapping_of(self.metadata.get("storage_data"))
        if stored is None:
            raise RecordError("has no `storage_data`")
        numbers: dict[str, int] = {}
        for key, value in stored.items():
            index = attributes_of(key.node) if isinstance(key, Opaque) else {}
            place = attributes_of(value)
            name, path = index.get("fqn"), place.get("relative_path")
            if not isinstance(name, str) or not isinstance(path, str):
                raise RecordError("its `storage_data` does not name tensors and files")
            if place.get("transform_descriptors"):
                raise RecordError(f"{shown(name)} is stored in a changed form, say compressed")
            start, nbytes = place.get("offset", -1), place.get("length", -1)
            check_naturals(f"the place of {shown(name)}", start, nbytes)
            offset = index.get("offset")
            if offset is None:  # a pickled value, no tensor
                continue
            if path not in numbers:
                numbers[path] = self.files.sibling(path)
            yield (name, torch_sizes_of(offset, "offsets")), _Range(numbers[path], start, nbytes)

    def locate(self, name: str, tensor: Tensor) -> TensorInfo:
        """Place a tensor: in its file, or in the scratch file where it is saved in chunks."""
        path = tensor.storage.key
        whole = _Chunk((0,) * len(tensor.shape), tensor.shape)
        stored = self.chunks[path] or [whole]
        chunks = [chunk for chunk in stored if prod(chunk.sizes)]
        if chunks == [whole] or not prod(tensor.shape):
            return self._piece(name, path, tensor.dtype, whole)
        _check_grid(tensor.shape, chunks)
        number, scratch = self.files.scratch()
        start = scratch.reserve(prod(tensor.shape) * tensor.dtype.itemsize)
        result = TensorInfo(name, tensor.dtype, tensor.shape, start, file=number)
        reader = BlockReader()
        for chunk in chunks:
            piece = self._piece(name, path, tensor.dtype, chunk)
            for block in blocks(piece):
                values = reader.read(self.files.opened[piece.file], piece, block)
                first = tuple(map(sum, zip(chunk.offsets, block.start, strict=True)))
                for at, part in placed(values, result, Block(first, block.shape)):
                    scratch.write(start + at, part)
        return result

    def _piece(self, name: str, path: str, dtype: Dtype, chunk: _Chunk) -> TensorInfo:
        """Return a chunk as the file of torch.save that holds it describes it."""
        place = self.ranges.get((path, chunk.offsets))
        if place is None:
            raise RecordError(f"its chunk at {list(chunk.offsets)} is in no file")
        archive, record = self._file_at(place)
        if isinstance(record, Unreadable):
            raise RecordError(f"it is {record.reason}")
        if record is None or (record.dtype, record.shape) != (dtype, chunk.sizes):
            raise RecordError(
                f"{archive.file.path.name} does not hold {dtype.name} {list(chunk.sizes)} of it"
            )
        return moved(archive.locate(name, record), place.start, place.file)

    def _file_at(self, place: _Range) -> tuple[Archive, Record | None]:
        """Read the file of torch.save that a range is, once, and the tensor that it holds."""
        if place not in self.read:
            file = self.files.opened[place.file]
            if place.start + place.nbytes > file.size:
                raise RecordError(f"its chunk reaches beyond {file.path.name}, which is truncated")
            part = Part(file, place.start, place.nbytes)
            members = read_directory(part)
            check_stored(part, members.values())
            archive = Archive(part, members)
            self.read[place] = archive, tensor_of(archive.root())
            self.checksums += [
                replace(crc, offset=place.start + crc.offset, file=place.file)
                for crc in checksums(members.values())
            ]
        return self.read[place]


def _chunks(nodes: Node) -> Iterator[_Chunk]:
    for node in members_of(nodes):
        described = attributes_of(node)
        offsets = torch_sizes_of(described.get("offsets"), "offsets")
        sizes = torch_sizes_of(described.get("sizes"), "sizes")
        if len(offsets) != len(sizes):
            raise RecordError(f"a chunk has {len(offsets)} offsets, but {len(sizes)} sizes")
        yield _Chunk(offsets, sizes)


def _check_grid(shape: tuple[int, ...], chunks: Sequence[_Chunk]) -> None:
    """Raise RecordError unless the chunks are a grid that covers the shape, each place once."""
    cells = 1
    for axis, size in enumerate(shape):
        end = 0
        spans = sorted({(c.offsets[axis], c.sizes[axis]) for c in chunks if len(c.sizes) > axis})
        for start, length in spans:
            if start != end:
                raise RecordError(f"its chunks do not follow each other along axis {axis}")
            end += length
        if end != size:
            raise RecordError(f"its chunks end at {end} along axis {axis}, of {size}")
        cells *= len(spans)
    ranks = {len(chunk.sizes) for chunk in chunks}
    if cells != len(chunks) or len(set(chunks)) != cells or ranks != {len(shape)}:
        raise RecordError("its chunks are not a grid")


def _path(node: Node) -> tuple[str | int, ...]:
    """Return the keys that lead to a tensor in the dictionary that was saved."""
    keys = members_of(node)
    if not 0 < len(keys) <= MAX_PATH or not all(isinstance(key, str | int) for key in keys):
        raise RecordError("its `planner_data` does not lead to a tensor")
    return tuple(keys)


def _put(root: dict[Node, Node], path: tuple[str | int, ...], leaf: Node) -> None:
    for key in path[:-1]:
        root = root.setdefault(key, {})
        if not isinstance(root, dict):
            raise RecordError(f"{shown(str(key))} is a tensor and a dictionary at once")
    if path[-1] in root:
        raise RecordError(f"{shown(str(path[-1]))} is there twice")
    root[path[-1]] = leaf
