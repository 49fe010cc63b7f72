"""HDF5 files, written by h5py and changed after it: what they say of themselves is not so."""

from __future__ import annotations

import io
import zipfile
import zlib
from collections.abc import Callable
from importlib import import_module
from typing import Any

import numpy as np

CRASHED = r"HDF5's library crashed on it \(Segmentation fault\): the file is damaged"
TOO_LONG = "HDF5's library was at work on it for too long: the file is damaged"
TOO_LARGE = "HDF5's library needs over 144 MB of memory to read it"
TWICE = "is a group that is in the file twice, by two links"
VALUES = np.arange(20, dtype="<f4").reshape(5, 4)


def written(fill: Callable[[Any], None], libver: str = "earliest") -> bytes:
    """The bytes of a file with two arrays, and what else is put in; h5py is an extra's."""
    h5py = import_module("h5py")
    stream = io.BytesIO()
    with h5py.File(stream, "w", libver=libver) as file:
        file["fc/weight"] = VALUES
        file["fc/bias"] = VALUES[:, 0]
        fill(file)
    return stream.getvalue()


def changed(raw: bytes, old: bytes, new: bytes) -> bytes:
    """Put other bytes where the file has some."""
    assert old in raw
    assert len(old) == len(new)
    return raw.replace(old, new)


def keras(file: Any) -> None:
    """Put in the attributes of Keras."""
    file.attrs["backend"] = "tensorflow"
    file.attrs["layer_names"] = ["fc"]
    file["fc"].attrs["weight_names"] = ["weight", "bias"]


def number(value: int, nbytes: int = 8) -> bytes:
    return value.to_bytes(nbytes, "little")


# Each was found by changing bytes at random: HDF5 2.0 crashes, works for ever, or takes memory.


def text_beyond_its_heap() -> bytes:
    """A text among others that says it is longer than all of them: HDF5 looks for the next."""
    return changed(written(keras), number(10) + b"tensorflow", number(1000) + b"tensorflow")


def text_of_no_kind() -> bytes:
    """An attribute of a variable length, neither of texts nor of lists: HDF5 calls what is not."""
    kind = b"\x19\x01\x01\x00" + number(16, 4)
    return changed(written(keras), kind, b"\x19\x63" + kind[2:])


def text_of_a_gigabyte() -> bytes:
    """A text whose length is allocated before it is looked for."""
    raw = written(keras)
    place = raw.index(b"GCOL")
    return changed(raw, number(10, 4) + number(place), number(1 << 30, 4) + number(place))


def groups_within_groups(file: Any) -> None:
    """Forty groups, each of which has the next one twice: a million million to go through."""
    group = file
    for _ in range(40):
        inner = group.create_group("a")
        group["b"] = inner
        group = inner


def groups_in_a_row(file: Any) -> None:
    group = file
    for _ in range(100):
        group = group.create_group("g")


def one_array_under_many_names(file: Any) -> None:
    group = file.create_group("n" * 60_000).id
    for at in range(400):
        group.links.create_hard(b"%d" % at + b"x" * 60_000, file.id, b"fc/weight")


def many_names(file: Any) -> None:
    for at in range(9):
        file.attrs[f"layer_names{at}"] = np.full(20_000, b"ab", "S2")


def chunk(raw: bytes, shape: tuple[int, int] = (50, 4), **filters: Any) -> bytes:
    """An array of one chunk, of any bytes."""

    def fill(file: Any) -> None:
        dataset = file.create_dataset("w", shape, "f4", chunks=shape, **filters)
        dataset.id.write_direct_chunk((0, 0), raw)

    return written(fill)


def bomb(file: Any) -> None:
    """Gigabytes of zeros, in chunks of a few kilobytes."""
    shape, chunks = (1 << 11, 1 << 20), (1, 1 << 20)
    dataset = file.create_dataset("w", shape, "f4", chunks=chunks, compression="gzip")
    packed = zlib.compress(bytes(4 << 20))
    for at in range(300):
        dataset.id.write_direct_chunk((at, 0), packed)


def linked(kind: str) -> Callable[[Any], None]:
    def fill(file: Any) -> None:
        h5py = import_module("h5py")
        there = {"soft": h5py.SoftLink("/fc"), "external": h5py.ExternalLink("x.h5", "/")}
        file["elsewhere"] = there[kind]

    return fill


def shape_beyond_its_values() -> bytes:
    return changed(written(lambda _: None), number(5) + number(4), number(9) + number(4))


def place_beyond_the_file() -> bytes:
    raw = written(lambda _: None)
    return changed(raw, number(raw.index(VALUES.tobytes())), number(1 << 40))


def in_keras_zip(raw: bytes) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("config.json", "{}")
        archive.writestr("model.weights.h5", raw)
    return stream.getvalue()


def of_any_kind(file: Any) -> None:
    file["big"] = VALUES.astype(">f4")


MALFORMED: dict[str, tuple[Callable[[], bytes], str]] = {
    "crashes": (text_of_no_kind, CRASHED),
    "works-for-ever": (text_beyond_its_heap, TOO_LONG),
    "takes-memory": (text_of_a_gigabyte, TOO_LARGE),
    "member-crashes": (lambda: in_keras_zip(text_of_no_kind()), CRASHED),
    "groups-within-groups": (lambda: written(groups_within_groups), TWICE),
    "group-within-itself": (lambda: written(lambda f: f.update(a=f["/"])), TWICE),
    "groups-in-a-row": (lambda: written(groups_in_a_row), "has groups nested deeper than 64"),
    "long-names": (lambda: written(one_array_under_many_names), "or longer names, than any model"),
    "many-names": (lambda: written(many_names), "names more layers and weights than any model"),
    "bomb": (lambda: written(bomb), "unpacks to more than 1073741824 bytes"),
    "chunk-short": (
        lambda: chunk(zlib.compress(bytes(796)), compression="gzip"),
        "'w' cannot be read: a chunk of it has 796 bytes where there should be 800",
    ),
    "chunk-of-noise": (
        lambda: chunk(b"x\x9c" + bytes(range(200)), compression="gzip"),
        "malformed HDF5 file: Error -3 while decompressing",
    ),
    "link-soft": (lambda: written(linked("soft")), "'elsewhere' is a link to elsewhere"),
    "link-external": (lambda: written(linked("external")), "'elsewhere' is a link to elsewhere"),
    "shape-lies": (shape_beyond_its_values, "'fc/weight' cannot be read: it has 80 bytes"),
    "place-lies": (place_beyond_the_file, "invalid dataset size|it ends at byte 10995"),
    "big-endian": (lambda: written(of_any_kind), "'big' cannot be read: its values are big-endian"),
    "name-reserved": (
        lambda: written(lambda f: f.update(__metadata__=VALUES)),
        "tensor '__metadata__' cannot be written: its name is reserved by safetensors",
    ),
    "cut": (lambda: written(keras)[:-900], "malformed HDF5 file: "),
    "nothing-but-its-beginning": (lambda: written(keras)[:8], "malformed HDF5 file: "),
    "superblock-of-noise": (lambda: written(keras)[:8] + bytes(range(256)) * 4, "malformed HDF5"),
}
"""Bytes, and what is said of them; needs h5py, to write as well as to read."""
