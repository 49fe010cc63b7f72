"""JSON of a bounded size, read strictly: an object that names a key twice is refused."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

from fcn_convert.errors import CheckpointError
from fcn_convert.tensors import shown

MAX_JSON = 12 << 20
"""Bytes: the index of 100,000 tensors, or a model's whole configuration."""
MAX_CONTAINERS = 250_000
"""Lists and objects: two characters that take a hundred bytes of memory."""


def parse_json(path: Path, what: str, raw: bytes) -> Any:
    """Return the data of a JSON text; raises CheckpointError for anything else."""
    if len(raw) > MAX_JSON:
        raise CheckpointError(f"{path}: {what} has {len(raw)} bytes, over {MAX_JSON}")
    if raw.count(b"{") + raw.count(b"[") > MAX_CONTAINERS:
        raise CheckpointError(f"{path}: {what} is JSON of more than {MAX_CONTAINERS} parts")
    try:
        return json.loads(raw.decode("utf-8"), object_pairs_hook=_unique, parse_int=_integer)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: {what} is not JSON: {error}") from error


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        ((twice, _),) = Counter(key for key, _ in pairs).most_common(1)
        raise ValueError(f"it names {shown(twice)} twice")
    return found


def _integer(digits: str) -> int:
    if len(digits) > 20:
        raise ValueError(f"{digits[:24]} does not fit in 64 bits")
    return int(digits)
