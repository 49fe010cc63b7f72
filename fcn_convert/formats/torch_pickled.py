"""Tensors of torch in plain pickles: `pickle.dump` of a state dict, where `torch.save` was meant.

There a storage is a call of `torch.storage._load_from_bytes` with a file of torch.save in its old
form, as a byte string: a file in the file, read as every other.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from fcn_convert.errors import CheckpointError
from fcn_convert.formats import torch_legacy
from fcn_convert.formats.numpy_records import place_of
from fcn_convert.formats.pickle_machine import Node
from fcn_convert.formats.source import Files, Part
from fcn_convert.formats.torch_records import RecordError, Storage, Tensor, locate, moved
from fcn_convert.tensors import TensorInfo

LOADER = "torch.storage._load_from_bytes"


@dataclass
class PickledStorages:
    """The storages of one pickle.

    places: per key, the number of the file and the range of the values. known: by the identity of
    the byte string, which is kept, so that nothing else gets that identity.
    """

    files: Files
    places: dict[str, tuple[int, int, int]] = field(default_factory=dict)
    known: dict[int, tuple[Node, Storage]] = field(default_factory=dict)

    def load(self, arguments: Node) -> Storage:
        """Return the storage that a call of the loader stands for, under a key of its own.

        Raises CheckpointError where its byte string is no such file.
        """
        (values,) = arguments if isinstance(arguments, tuple) and len(arguments) == 1 else (None,)
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
        key = str(len(self.places))
        self.places[key] = number, start + at, length
        return replace(storage, key=key)

    def locate(self, name: str, tensor: Tensor) -> TensorInfo:
        """Place a tensor; raises RecordError where it does not fit its storage, or has none."""
        if tensor.storage.key not in self.places:
            raise RecordError(
                "it refers to a storage outside of the pickle; save it with torch.save"
            )
        number, start, nbytes = self.places[tensor.storage.key]
        return moved(locate(name, tensor, start, nbytes), 0, number)
