"""Tensors of torch in plain pickles: `pickle.dump` of a state dict, where `torch.save` was meant.

There a storage is a call of `torch.storage._load_from_bytes` with a file of torch.save in its old
form, as a byte string: a file in the file, read as every other. Before torch 0.4 it is a call of
its class with the list of its values.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial

from fcn_convert.errors import CheckpointError
from fcn_convert.formats import torch_legacy
from fcn_convert.formats.numpy_records import place_of
from fcn_convert.formats.pickle_machine import MAX_OPERATIONS, Call, Global, Node, only_argument
from fcn_convert.formats.records import RecordError
from fcn_convert.formats.source import Files, Part
from fcn_convert.formats.torch_records import STORAGE_DTYPES, Storage, Tensor, locate, moved
from fcn_convert.tensors import DTYPES, TensorInfo

LOADER = "torch.storage._load_from_bytes"
_CODES = {
    "DoubleStorage": "d",
    "FloatStorage": "f",
    "HalfStorage": "e",
    "LongStorage": "q",
    "IntStorage": "i",
    "ShortStorage": "h",
    "CharStorage": "b",
    "ByteStorage": "B",
}
"""How the values of each kind of storage are packed, as `struct` has it."""
_MODULES = ("torch", "torch.cuda")
_PART = 1 << 14
"""Values packed at a time."""


@dataclass
class PickledStorages:
    """The storages of one pickle.

    places: per key, the number of the file and the range of the values. known: by the identity of
    the byte string, which is kept, so that nothing else gets that identity. listed: values of all
    storages that were lists.
    """

    files: Files
    places: dict[str, tuple[int, int, int]] = field(default_factory=dict)
    known: dict[int, tuple[Node, Storage]] = field(default_factory=dict)
    listed: int = 0

    @property
    def calls(self) -> Mapping[str, Callable[[Node], Node]]:
        """What makes storages, by dotted names: `known` of a pickle that is read."""
        listed = {f"{m}.{kind}": partial(self.unlist, kind) for m in _MODULES for kind in _CODES}
        return {LOADER: self.load, **listed}

    def unlist(self, kind: str, arguments: Node) -> Node:
        """Return the storage that its class and the list of its values stand for.

        A call without a list stays one. Raises CheckpointError where the list holds anything but
        numbers of its kind, or where one list is given to more storages than tensors may share.
        """
        values = only_argument(arguments)
        if not isinstance(values, list):
            return Call(Global("torch", kind), arguments)
        self.listed += len(values)
        if self.listed > MAX_OPERATIONS:  # each value takes one at least
            raise CheckpointError(
                f"{self.files.main.path}: its storages would have more than {MAX_OPERATIONS} "
                "values, out of lists that they share"
            )
        number, scratch = self.files.scratch()
        start = scratch.size
        for at in range(0, len(values), _PART):
            part = values[at : at + _PART]
            try:
                scratch.append(struct.pack(f"<{len(part)}{_CODES[kind]}", *part))
            except (struct.error, OverflowError) as error:
                raise CheckpointError(
                    f"{self.files.main.path}: a storage that was saved by pickle.dump, a {kind}, "
                    "lists something other than numbers of its kind"
                ) from error
        dtype = DTYPES[STORAGE_DTYPES[kind]]
        key = self._placed(number, start, scratch.size - start)
        return Storage(key, kind, dtype, dtype.itemsize, len(values), 0, len(values))

    def load(self, arguments: Node) -> Storage:
        """Return the storage that a call of the loader stands for, under a key of its own.

        Raises CheckpointError where its byte string is not such a file.
        """
        values = only_argument(arguments)
        if id(values) not in self.known:
            try:
                self.known[id(values)] = values, self._read(values)
            except RecordError as error:
                raise CheckpointError(
                    f"{self.files.main.path}: a tensor that was saved by pickle.dump cannot be "
                    f"read: {error}; load it and save its state dict with torch.save"
                ) from error
        return self.known[id(values)][1]

    def _read(self, values: Node) -> Storage:
        number, start, nbytes = place_of(values, self.files)
        part = Part(self.files.opened[number], start, nbytes)
        storage, at, length = torch_legacy.read_storage(part)
        return replace(storage, key=self._placed(number, start + at, length))

    def _placed(self, number: int, start: int, nbytes: int) -> str:
        """Note where a storage's values are, and return a key of its own."""
        key = str(len(self.places))
        self.places[key] = number, start, nbytes
        return key

    def locate(self, name: str, tensor: Tensor) -> TensorInfo:
        """Place a tensor; raises RecordError where it does not fit its storage, or has none."""
        if tensor.storage.key not in self.places:
            raise RecordError(
                "it refers to a storage outside of the pickle; save it with torch.save"
            )
        number, start, nbytes = self.places[tensor.storage.key]
        return moved(locate(name, tensor, start, nbytes), 0, number)
