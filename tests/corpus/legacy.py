"""Files of torch before 1.6, written by hand: what torch no longer writes, and lies."""

from __future__ import annotations

import struct

import torch

from corpus.calls import Id, Made, dumped

MAGIC, VERSION = 0x1950A86A20F9469CFC6C, 1001
SYSTEM = {
    "protocol_version": VERSION,
    "little_endian": True,
    "type_sizes": {"short": 2, "int": 4, "long": 4},
}


def legacy(
    data: object, *storages: tuple[str, bytes, int], keys: object = None, **header: object
) -> bytes:
    said = {"magic": MAGIC, "version": VERSION, "system": SYSTEM, **header}
    parts = [dumped(said["magic"]), dumped(said["version"]), dumped(said["system"])]
    parts += [data if isinstance(data, bytes) else dumped(data)]
    parts += [dumped([key for key, _, _ in storages] if keys is None else keys)]
    return b"".join([*parts, *(struct.pack("<q", n) + raw for _, raw, n in storages)])


FLOATS = struct.pack("<6f", *range(6))

STORAGE = ("storage", torch.FloatStorage, "k", "cpu", 6)


def stored(*value: object) -> Id:
    """A reference to a storage."""
    return Id(value)


def v1(identity: Id, offset: int, shape: object, strides: object) -> Made:
    return Made(torch._utils._rebuild_tensor, identity, offset, shape, strides)


GOOD = {"w": v1(stored(*STORAGE), 0, (2, 3), (3, 1))}

K = ("k", FLOATS, 6)


def with_id(*value: object) -> dict[str, object]:
    return {"w": v1(stored(*value), 0, (2, 3), (3, 1))}


MALFORMED: dict[str, tuple[bytes, str]] = {
    "version": (legacy(GOOD, K, version=1000), "are not torch's magic number and protocol version"),
    "version-is-nested": (legacy(GOOD, K, version=[[[]]]), "are not torch's magic number"),
    "version-of-5000-digits": (legacy(GOOD, K, version=10**5000), "are not torch's magic number"),
    "big-endian": (legacy(GOOD, K, system={"little_endian": False}), "its values are big-endian"),
    "system-is-a-list": (legacy(GOOD, K, system=[1]), "its values are big-endian"),
    "keys-are-a-dict": (legacy(GOOD, K, keys={"k": 1}), "its list of storages is malformed"),
    "keys-are-numbers": (legacy(GOOD, K, keys=[1]), "its list of storages is malformed"),
    "keys-are-doubled": (legacy(GOOD, K, K), "names 'k' twice or without need"),
    "key-unknown": (legacy(GOOD, ("x", FLOATS, 6)), "names 'x' twice or without need"),
    "storage-missing": (legacy(GOOD), "tensor 'w' cannot be read: its storage 'k' is not in"),
    "more-elements": (legacy(GOOD, ("k", FLOATS, 7)), "has 7 elements, but is declared with 6"),
    "fewer-elements": (legacy(GOOD, ("k", FLOATS, 5)), "has 5 elements, but is declared with 6"),
    "elements-negative": (legacy(GOOD, ("k", FLOATS, -1)), "has -1 elements, but is declared"),
    "values-cut": (legacy(GOOD, ("k", FLOATS[:-1], 6)), "is truncated: storage 'k' ends at byte"),
    "count-cut": (legacy(GOOD, K)[: -len(FLOATS) - 3], "ends at byte .*, 3 too early"),
    "two-sizes": (
        legacy({**GOOD, "v": v1(stored(*STORAGE[:4], 5), 0, (1,), (1,))}, K),
        "storage 'k' is declared with two sizes",
    ),
    **{
        f"two-types-{kind.__name__}": (
            legacy({**GOOD, "v": v1(stored("storage", kind, *STORAGE[2:]), 0, (1,), (1,))}, K),
            "storage 'k' is declared with two sizes or types",
        )
        for kind in (torch.DoubleStorage, torch.IntStorage)
    },
    "claims-exabytes": (
        legacy(with_id(*STORAGE[:4], 2**60), ("k", FLOATS, 2**60)),
        "is truncated: storage 'k' ends at byte",
    ),
    "four-parts": (legacy(with_id(*STORAGE[:4]), K), "a storage's id has 4 parts, expected 5 or 6"),
    "seven-parts": (legacy(with_id(*STORAGE, None, 1), K), "a storage's id has 7 parts"),
    "view-is-a-number": (legacy(with_id(*STORAGE, 1), K), "the view of storage 'k' is malformed"),
    "view-of-two": (legacy(with_id(*STORAGE, ("v", 1)), K), "the view of storage 'k' is malformed"),
    "view-negative": (legacy(with_id(*STORAGE, ("v", -1, 2)), K), "view of storage 'k' is not a n"),
    "view-beyond": (legacy(with_id(*STORAGE, ("v", 3, 4)), K), "reaches beyond its 6 elements"),
    "view-without-a-key": (legacy(with_id(*STORAGE, (1, 0, 2)), K), "the view of .* is malformed"),
    "two-views-of-one-key": (
        legacy(
            {
                "w": v1(stored(*STORAGE, ("v", 0, 3)), 0, (3,), (1,)),
                "v": v1(stored(*STORAGE, ("v", 3, 3)), 0, (3,), (1,)),
            },
            K,
        ),
        "two views of storages have the key 'v'",
    ),
    "view-of-its-storage's-key": (
        legacy(with_id(*STORAGE, ("k", 3, 3)), K),
        "a storage and a view of one have the same key",
    ),
    "beyond-its-view": (
        legacy({"w": v1(stored(*STORAGE, ("v", 0, 2)), 0, (3,), (1,))}, K),
        "it reaches byte 12 of storage 'k', which has 8",
    ),
}
