"""Pickles data with calls and references in it, as a checkpoint has them."""

from __future__ import annotations

import io
import pickle
import re
from typing import Any


class Made:
    """Pickles as a call of any function, with any state."""

    def __init__(self, function: object, *arguments: object, state: object = None) -> None:
        self.reduced = (function, arguments, state)

    def __reduce__(self) -> Any:
        return self.reduced


class Id:
    """Pickles as a reference out of the pickle."""

    def __init__(self, value: object) -> None:
        self.value = value


class TorchPickler(pickle.Pickler):
    def persistent_id(self, obj: object) -> object:
        return obj.value if isinstance(obj, Id) else None


def dumped(data: object, splices: dict[str, bytes] | None = None, *, protocol: int = 2) -> bytes:
    """Pickle data; where `Id(name)` stands for a splice, put its bytes."""
    buffer = io.BytesIO()
    TorchPickler(buffer, protocol).dump(data)
    raw = buffer.getvalue()
    for name, splice in (splices or {}).items():
        size = bytes([len(name)])
        raw, count = re.subn(
            rb"X%b\x00\x00\x00%b(?:q.|r....)Q" % (re.escape(size), name.encode()),
            lambda _, new=splice: new,
            raw,
            flags=re.DOTALL,
        )
        assert count == 1
    return raw
