"""NumPy's files, `.npy` and `.npz`, whose headers, sizes or members lie."""

from __future__ import annotations

import io
import pickle
import struct
import zipfile
import zlib
from collections.abc import Callable

import numpy as np

from corpus.zips import Part, archive

VALUES = np.arange(20, dtype="<f4").reshape(5, 4)


def npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def with_header(text: str, data: bytes = VALUES.tobytes(), length: int | None = None) -> bytes:
    raw = text.encode("latin-1")
    said = struct.pack("<H", len(raw) if length is None else length)
    return b"\x93NUMPY\x01\x00" + said + raw + data


def header(descr: str = "'<f4'", order: str = "False", shape: str = "(5, 4)") -> bytes:
    return with_header(f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}, }}\n")


def npz(*members: tuple[str, bytes], how: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", how) as out:
        for name, data in members:
            out.writestr(name, data)
    return buffer.getvalue()


def bomb() -> bytes:
    """An array of 4 GB of zeros, in 4 MB."""
    count = 1 << 30
    text = f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({count},), }}\n"
    squeeze = zlib.compressobj(9, zlib.DEFLATED, -15)
    packed, crc, part = squeeze.compress(with_header(text, b"")), 0, bytes(1 << 20)
    packed += b"".join(squeeze.compress(part) for _ in range(count * 4 >> 20)) + squeeze.flush()
    size = 10 + len(text) + count * 4
    said = {"crc": crc, "packed": len(packed), "size": size % (1 << 32)}
    return archive(Part(b"w.npy", packed, method=8, local=said, central=said))


def deflated(change: Callable[[bytes], bytes] = bytes, **said: int) -> bytes:
    """Write an array in a deflated member by hand, its bytes and its sizes changed."""
    data = npy(VALUES)
    squeeze = zlib.compressobj(9, zlib.DEFLATED, -15)
    packed = change(squeeze.compress(data) + squeeze.flush())
    told = {"crc": zlib.crc32(data), "packed": len(packed), "size": len(data), **said}
    return archive(Part(b"w.npy", packed, method=8, local=told, central=told))


MALFORMED: dict[str, tuple[bytes, str]] = {
    "npy-cut-in-its-magic": (npy(VALUES)[:8], "it does not start like an array"),
    "npy-cut-in-its-header": (npy(VALUES)[:60], "its header is truncated"),
    "npy-values-cut": (npy(VALUES)[:-1], r"F32 \[5, 4\] needs 80 bytes, but there are 79"),
    "npy-trailing-bytes": (npy(VALUES) + b".", "needs 80 bytes, but there are 81"),
    "npy-version-9": (npy(VALUES).replace(b"Y\x01", b"Y\x09", 1), "does not start like an array"),
    "npy-header-of-code": (
        with_header("{'descr': __import__('os').system('touch marker'), 'shape': (5, 4)}\n"),
        "its header is malformed",
    ),
    "npy-header-of-nests": (with_header("{" * 60_000), "its header is malformed"),
    "npy-length-lies": (with_header("{}", length=60_000), "its header is truncated"),
    "npy-shape-overflows": (header(shape=f"({2**40}, {2**40})"), "needs"),
    "npy-shape-negative": (header(shape="(-5, 4)"), "its header is malformed"),
    "npy-shape-huge": (header(shape=f"({2**62},)"), "needs"),
    "npy-shape-of-20-digits": (header(shape="(99999999999999999999,)"), "header is malformed"),
    "npy-shape-of-digits-apart": (header(shape="(2 0,)"), "its header is malformed"),
    "npy-shape-is-no-tuple": (header(shape="(20)"), "its header is malformed"),
    "npy-shape-with-nothing-between": (header(shape="(5,,4)"), "its header is malformed"),
    "npy-shape-of-a-leading-zero": (header(shape="(05, 4)"), "its header is malformed"),
    "npy-order-is-a-number": (header(order="1"), "its header is malformed"),
    "npy-two-shapes": (
        with_header("{'descr': '<f4', 'shape': (5, 4), 'shape': (4, 5)}\n"),
        "its header is malformed",
    ),
    "npy-version-1.9": (npy(VALUES).replace(b"\x01\x00", b"\x01\x09", 1), "does not start like"),
    **{
        f"npz-{code}-beside-weights": (
            npz(("w.npy", npy(VALUES)), ("v.npy", npy(np.zeros(3, dtype=code)))),
            "v is an array of NumPy's dtype .*: safetensors holds",
        )
        for code in ("c16", "V2")
    },
    "npy-shape-of-65-axes": (header(shape=f"({'1, ' * 65})"), "its shape is not 64 sizes at most"),
    "npy-dtype-unknown": (header(descr="'<q9'"), "an array of NumPy's dtype"),
    "npy-big-endian": (npy(VALUES.astype(">f4")), "its values are big-endian"),
    "npy-structured": (header(descr="[('a', '<f4')]"), "it is a structured array"),
    "npy-of-objects-that-call": (
        header(descr="'|O'").removesuffix(VALUES.tobytes()) + b"cos\nsystem\n(S'touch marker'\ntR.",
        "holds no state dict",
    ),
    "npy-of-objects-cut": (header(descr="'|O'").removesuffix(VALUES.tobytes()), "it is truncated"),
    "npz-member-cut": (npz(("w.npy", npy(VALUES)[:-1])), "'w' cannot be read: F32 .* needs 80"),
    "npz-member-climbs": (npz(("../w.npy", npy(VALUES)[:-1])), "cannot be read"),
    "npz-bomb": (bomb(), "unpacks to more than|is damaged|cannot be read"),
    "npz-damaged": (
        npz(("w.npy", npy(np.ones((40, 40)))), how=zipfile.ZIP_DEFLATED).replace(b"\x00", b"\x01"),
        r"m\.npz: ",
    ),
    "npz-not-deflated": (
        deflated(lambda raw: b"\xff" * len(raw)),
        "is damaged: member 'w.npy': Er",
    ),
    "npz-deflated-and-cut": (deflated(lambda raw: raw[:-9]), "does not unpack to what"),
    "npz-of-another-crc": (deflated(crc=1), "does not unpack to what"),
    "npz-of-more-than-said": (deflated(size=207), "does not unpack to what"),
    "npz-of-less-than-said": (deflated(size=209), "does not unpack to what"),
    "npz-of-lzma": (
        npz(("w.npy", npy(VALUES)), how=zipfile.ZIP_LZMA),
        "compressed by method 14, which is not known here",
    ),
    "npz-name-reserved": (
        npz(("w.weight.npy", npy(VALUES)), ("__metadata__.npy", npy(VALUES))),
        "tensor '__metadata__' cannot be written: its name is reserved by safetensors",
    ),
    "npz-name-of-no-text": (
        npz(("x.weight.npy", npy(VALUES))).replace(b"x.weight.npy", b"\xff.weight.npy"),
        r"tensor '\\udcff\.weight' cannot be written: its name is not valid Unicode text",
    ),
    "pickle-of-too-few-bytes": (
        pickle.dumps({"w": VALUES}, 4).replace(b"K\x05K\x04\x86", b"K\x06K\x04\x86"),
        r"'w' cannot be read: it has 80 bytes, but F32 \[6, 4\] needs 96",
    ),
}
