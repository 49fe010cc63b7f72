"""Goes through the groups of a file, by h5py."""

from __future__ import annotations

import re
from math import prod
from typing import Any

from fcn_convert.hdf5_child.answers import Answers, RefusedError
from fcn_convert.hdf5_child.chunks import FILTERS, lengths, rows
from fcn_convert.hdf5_child.limits import Limits

MAX_DEPTH = 64
MAX_ATTRIBUTE = 16 << 20
MAX_TEXTS, MIN_TEXTS = 64 << 20, 4096
"""Bytes of an attribute's texts, were each as long as the file; and texts that are always read: as
many as an attribute of the usual kind, of 64 KB, can have."""
MAX_NAMES = 1 << 17
"""Texts of all attributes together."""
MAX_CHUNKS = 1 << 16
"""Chunks of all arrays together, even if each is a single value."""
_ATTRIBUTES = re.compile(r"(layer_names|weight_names)\d*|model_config|backend")
"""What Keras writes and is read here."""


class Walk:
    """Goes through the groups of a file, and says what it finds."""

    def __init__(self, h5py: Any, size: int, limits: Limits, answers: Answers) -> None:
        self.h5py = h5py
        self.size = size
        self.limits = limits
        self.answers = answers
        self.places: set[int] = set()
        self.chunks = self.names = 0

    def group(self, path: str, group: Any, depth: int) -> None:
        """Say all that a group, by its identifier in HDF5, holds."""
        if depth > MAX_DEPTH:
            raise RefusedError(f"has groups nested deeper than {MAX_DEPTH}")
        place = self.h5py.h5o.get_info(group).addr
        if place in self.places:  # what is in it would be read again and again
            raise RefusedError("is a group that is in the file twice, by two links", "entry", path)
        self.places.add(place)
        self.answers.say("group", path)
        if self.h5py.h5a.get_num_attrs(group):
            attributes = self.h5py.Group(group).attrs
            for name in filter(_ATTRIBUTES.fullmatch, attributes):
                self.answers.say("attribute", path, name, self._texts(attributes, name))
        for name in group:
            self._entry(f"{path}/{_text(name)}" if path else _text(name), name, group, depth)

    def _texts(self, attributes: Any, name: str) -> Any:
        """Return an attribute that is a text or a list of texts; None for any other."""
        stored = attributes.get_id(name)
        shape = stored.shape or ()
        if shape == (0,):
            return []
        if len(shape) > 1 or stored.dtype.kind not in "SO":
            return None
        # What is read is allocated first, as large as the file says.
        if prod(shape) * stored.dtype.itemsize > MAX_ATTRIBUTE:
            raise RefusedError(f"is over {MAX_ATTRIBUTE >> 20} MB", "attribute", name)
        # Texts of no fixed length can all be the same part of the file, copied for each.
        most = max(MAX_TEXTS // self.size, MIN_TEXTS)
        if stored.dtype.hasobject and prod(shape) > most:
            reason = f"has over {most} texts of no fixed length"
            raise RefusedError(reason, "attribute", name)
        self.names += prod(shape)
        if self.names > MAX_NAMES:
            raise RefusedError("names more layers and weights than any model has")
        value = attributes[name]
        return _plain(value.tolist() if hasattr(value, "tolist") else value)

    def _entry(self, path: str, name: bytes, group: Any, depth: int) -> None:
        h5py = self.h5py
        if b"/" in name or name == b".":
            raise RefusedError("has a name that leads elsewhere", "entry", path)
        if group.links.get_info(name).type != h5py.h5l.TYPE_HARD:
            raise RefusedError("is a link to elsewhere, which is not followed", "entry", path)
        entry = h5py.h5o.open(group, name)
        if isinstance(entry, h5py.h5g.GroupID):
            self.group(path, entry, depth + 1)
        elif isinstance(entry, h5py.h5d.DatasetID):
            try:
                self.dataset(path, h5py.Dataset(entry))
            except RefusedError as error:
                reason, *_ = error.args
                raise RefusedError(f"cannot be read: {reason}", "array", path) from error

    def dataset(self, path: str, dataset: Any) -> None:
        """Say where an array's values are, or what they are."""
        dtype, shape = dataset.dtype, dataset.shape
        if shape is None or dtype.kind not in "biufc" or dtype.itemsize > 8:
            self.answers.say("left out", path, dtype.str[:16])
            return
        code = dtype.str
        if dtype.itemsize == 2 and dataset.attrs.get("dtype") == "bfloat16":
            code = "bfloat16"
        nbytes = prod(shape) * dtype.itemsize
        offset = self._offset(dataset, nbytes)
        if offset is not None:
            self.answers.say("array", path, code, shape, offset)
        else:
            self._unpack(path, code, dataset)

    def _unpack(self, path: str, code: str, dataset: Any) -> None:
        filters = self._filters(dataset) if dataset.chunks else []
        parts = rows(dataset)
        self.answers.say("unpacked", path, code, dataset.shape)
        self.answers.send()  # what is refused there need not be unpacked
        if dataset.chunks:
            for stored in lengths(dataset, filters):
                self.limits.allow(stored)
        for values in parts:
            self.answers.say("values", values.nbytes, values=values)
            self.limits.allow(values.nbytes)

    def _offset(self, dataset: Any, nbytes: int) -> int | None:
        """Return where the values lie in row-major order; None where they have to be unpacked."""
        properties, h5d = dataset.id.get_create_plist(), self.h5py.h5d
        layout = properties.get_layout()
        if (
            layout not in {h5d.CONTIGUOUS, h5d.CHUNKED, h5d.COMPACT}
            or properties.get_external_count()
        ):
            raise RefusedError("its values lie in other files")
        if not nbytes:
            return 0
        if layout == h5d.CHUNKED:
            return None
        offset: int | None = dataset.id.get_offset()
        if offset is None and layout == h5d.CONTIGUOUS:
            raise RefusedError("its values were never written")
        stored, form = dataset.id.get_storage_size(), dataset.id.get_type()
        if stored != prod(dataset.shape) * form.get_size():
            raise RefusedError(f"it has {stored} bytes, which is not what its shape needs")
        # HDF5 has numbers of other forms, too, which h5py reads as the nearest one of NumPy's.
        is_plain = form == self.h5py.h5t.py_create(dataset.dtype, logical=True)
        return offset if layout == h5d.CONTIGUOUS and is_plain else None

    def _filters(self, dataset: Any) -> list[int]:
        """Return by which filters an array was compressed, and count its chunks."""
        properties = dataset.id.get_create_plist()
        filters = [properties.get_filter(at)[0] for at in range(properties.get_nfilters())]
        unknown = [number for number in filters if number not in FILTERS]
        if unknown:
            raise RefusedError(f"it is compressed by HDF5's filter {unknown[0]}, not known here")
        sizes = zip(dataset.shape, dataset.chunks, strict=True)
        self.chunks += prod(-(-size // chunk) for size, chunk in sizes)
        if self.chunks > MAX_CHUNKS:
            raise RefusedError(f"with it the file has more than {MAX_CHUNKS} chunks")
        return filters


def _text(name: bytes) -> str:
    return name.decode("utf-8", "surrogateescape")


def _plain(value: Any) -> Any:
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return value if isinstance(value, str) else None
