"""Zip files by hand: every way to lie about a member, and unusual ones that are right."""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch


def saved(values: dict[str, torch.Tensor] | None = None) -> bytes:
    buffer = io.BytesIO()
    torch.save({"w": torch.arange(6.0).reshape(2, 3)} if values is None else values, buffer)
    return buffer.getvalue()


@dataclass(frozen=True)
class Part:
    """A member to be written by hand: what its two headers say, right or wrong."""

    name: bytes
    data: bytes
    flags: int = 0
    method: int = 0
    extra: bytes = b""
    local_extra: bytes = b""
    descriptor: bytes = b""
    local: dict[str, int] | None = None
    central: dict[str, int] | None = None
    local_name: bytes | None = None
    attributes: int = 0
    disk: int = 0

    def sizes(self, said: dict[str, int] | None) -> dict[str, int]:
        size = len(self.data)
        return {"crc": zlib.crc32(self.data), "packed": size, "size": size, **(said or {})}


def archive(
    *parts: Part, comment: bytes = b"", end: dict[str, int] | None = None, prefix: bytes = b""
) -> bytes:
    """Write a zip file as APPNOTE 4.3 has it, and with the lies the parts ask for."""
    out, directory = bytearray(prefix), bytearray()
    for part in parts:
        at = len(out)
        said = part.sizes(part.local)
        local_name = part.name if part.local_name is None else part.local_name
        out += b"PK\x03\x04" + struct.pack(
            "<HHHHHLLLHH",
            *(20, said.get("flags", part.flags), said.get("method", part.method), 0, 0),
            *(said["crc"], said["packed"], said["size"]),
            *(len(local_name), len(part.local_extra)),
        )
        out += local_name + part.local_extra + part.data + part.descriptor
        said = part.sizes(part.central)
        directory += b"PK\x01\x02" + struct.pack(
            "<HHHHHHLLLHHHHHLL",
            *(20, 20, part.flags, part.method, 0, 0, said["crc"], said["packed"], said["size"]),
            *(len(part.name), len(part.extra), 0, part.disk, 0, part.attributes),
            said.get("header", at),
        )
        directory += part.name + part.extra
    said = {
        "disk": 0,
        "count": len(parts),
        "size": len(directory),
        "start": len(out),
        **(end or {}),
    }
    return bytes(
        out
        + directory
        + b"PK\x05\x06"
        + struct.pack(
            "<HHHHLLH",
            *(said["disk"], said["disk"], said.get("here", said["count"]), said["count"]),
            *(said["size"], said["start"], said.get("comment", len(comment))),
        )
        + comment
    )


A = Part(b"m/a", b"aaaa")

B = Part(b"m/b", b"bbbbbb")


def zip64_field(*values: int) -> bytes:
    return struct.pack(f"<HH{len(values)}Q", 1, 8 * len(values), *values)


FULL = 0xFFFFFFFF

STREAMED = replace(
    A,
    flags=8,
    local={"crc": 0, "packed": 0, "size": 0},
    descriptor=b"PK\x07\x08" + struct.pack("<LLL", zlib.crc32(b"aaaa"), 4, 4),
)

ACCEPTED = {
    "data-descriptor": archive(STREAMED, B),
    "data-descriptor-and-sizes": archive(replace(STREAMED, local=None), B),
    "data-descriptor-and-one-size": archive(replace(STREAMED, local={"crc": 0, "packed": 0}), B),
    "zip64-sizes": archive(
        replace(
            A,
            extra=zip64_field(4, 4, 0),
            local_extra=zip64_field(4, 4),
            local={"packed": FULL, "size": FULL},
            central={"packed": FULL, "size": FULL, "header": FULL},
        ),
        B,
    ),
    "zip64-after-another-field": archive(
        replace(A, extra=b"xy\x02\x00zz" + zip64_field(4), central={"size": FULL}), B
    ),
    "padding-field": archive(replace(A, local_extra=b"FB\x03\x00ZZZ"), B),
    "no-crc": archive(replace(A, local={"crc": 0}, central={"crc": 0}), B),
    "comment-with-a-signature": archive(A, B, comment=b"PK\x05\x06 and more"),
    "empty-member": archive(Part(b"m/empty", b""), A, B),
    "folder": archive(Part(b"m/", b"", attributes=0x10), A, B),
    "attributes": archive(replace(A, attributes=0x81A40020), B),
    "name-not-utf8": archive(Part(b"m/\xff", b""), A, B),
}


def end64(
    raw: bytes,
    *,
    at: int = 0,
    start: int | None = None,
    count: int = 2,
    here: int | None = None,
    disk: int = 0,
    disks: int = 1,
) -> bytes:
    """Put a zip64 end record and its locator before the end record, whose numbers it repeats."""
    _, size, place = struct.unpack("<HLL", raw[-12:-2])
    record = b"PK\x06\x06" + struct.pack(
        "<QHHLLQQQQ",
        *(44, 45, 45, disk, disk, count if here is None else here, count, size),
        place if start is None else start,
    )
    locator = b"PK\x06\x07" + struct.pack("<LQL", disk, len(raw) - 22 + at, disks)
    return raw[:-22] + record + locator + raw[-22:]


PLAIN = archive(A, B)

MALFORMED: dict[str, tuple[bytes, str]] = {
    "compressed-size-differs": (
        archive(replace(A, central={"packed": 3}), B),
        "'m/a' is not compressed, but has two sizes",
    ),
    "encrypted": (archive(replace(A, flags=1), B), "'m/a' is encrypted"),
    "strongly-encrypted": (archive(replace(A, flags=0x40), B), "'m/a' is encrypted"),
    "directory-masked": (archive(replace(A, flags=0x2000), B), "'m/a' is encrypted"),
    "encrypted-in-its-header-only": (archive(replace(A, local={"flags": 1}), B), "disagrees"),
    "two-of-one-name": (archive(A, replace(B, name=b"m/a")), "'m/a' is there twice"),
    "two-of-one-place": (
        archive(A, replace(A, name=b"m/b", central={"header": 0})),
        "disagrees with the directory",
    ),
    "twice-the-same": (archive(A, replace(A, central={"header": 0})), "overlaps the one before"),
    "overlapping": (
        # The data of the first holds the second, header and all.
        archive(
            Part(b"m/a", archive(B)[: 30 + 3 + 6]),
            replace(B, central={"header": 30 + 3}),
        ),
        "'m/b' overlaps the one before",
    ),
    "local-name-differs": (archive(replace(A, local_name=b"m/x"), B), "local header of .* disagr"),
    "local-size-differs": (archive(replace(A, local={"size": 5}), B), "local header of .* disagr"),
    "local-packed-differs": (
        archive(replace(A, local={"packed": 5}), B),
        "header of member 'm/a' disagrees",
    ),
    "local-method-differs": (archive(replace(A, local={"method": 8}), B), "disagrees"),
    "local-crc-differs": (archive(replace(A, local={"crc": 1}), B), "'m/a' has another CRC"),
    "local-crc-alone": (archive(replace(A, central={"crc": 0}), B), "'m/a' has another CRC"),
    "local-signature-garbled": (
        archive(A, B)
        .replace(b"PK\x03\x04", b"PK\x03\x05")
        .replace(b"PK\x03\x05", b"PK\x03\x04", 1),
        "'m/b' lies outside",
    ),
    "local-zip64-differs": (
        archive(replace(A, local_extra=zip64_field(5, 5), local={"packed": FULL, "size": FULL}), B),
        "header of member 'm/a' disagrees",
    ),
    "streamed-but-sizes-differ": (
        archive(replace(STREAMED, local={"packed": 5, "size": 5}), B),
        "header of member 'm/a' disagrees",
    ),
    "streamed-but-one-size-differs": (
        archive(replace(STREAMED, local={"packed": 0, "size": 5}), B),
        "header of member 'm/a' disagrees",
    ),
    "streamed-empty-but-sizes-differ": (
        archive(replace(STREAMED, data=b"", local={"packed": 5, "size": 5}), B),
        "header of member 'm/a' disagrees",
    ),
    "member-beyond-the-file": (
        archive(A, replace(B, central={"packed": 999, "size": 999})),
        "'m/b' lies outside",
    ),
    "header-beyond-the-file": (
        archive(A, replace(B, central={"header": 0xFFFFFFF0})),
        "'m/b' lies outside of the file",
    ),
    "header-in-zip64-beyond-the-file": (
        archive(A, replace(B, central={"header": FULL}, extra=zip64_field(2**64 - 1))),
        "'m/b' lies outside of the file",
    ),
    "header-points-elsewhere": (archive(A, replace(B, central={"header": 1})), "lies outside"),
    "member-in-the-directory": (
        archive(A, replace(B, central={"header": len(PLAIN) - 60})),
        "'m/b' lies outside of the file",
    ),
    "zip64-size-missing": (
        archive(replace(A, central={"size": FULL}), B),
        "a zip64 size is missing",
    ),
    "zip64-size-cut": (
        archive(replace(A, central={"size": FULL}, extra=b"\x01\x00\x08\x00abc"), B),
        "a zip64 size is missing",
    ),
    "more-entries-said": (archive(A, B, end={"count": 3}), "fewer entries than the 3"),
    "fewer-entries-said": (archive(A, B, end={"count": 1}), "other bytes than the 1 entries"),
    "no-entries-said": (archive(A, B, end={"count": 0}), "other bytes than the 0 entries"),
    "directory-size-wrong": (archive(A, B, end={"size": 10}), "does not end where the end record"),
    "directory-elsewhere": (archive(A, B, end={"start": 5}), "does not end where the end record"),
    "directory-garbled": (PLAIN.replace(b"PK\x01\x02", b"PK\x01\x03"), "directory is malformed"),
    "several-disks": (archive(A, B, end={"disk": 1}), "spans several disks"),
    "disks-in-a-zip64-record-that-is-missing": (
        archive(A, B, end={"disk": 0xFFFF}),
        "spans several disks",
    ),
    "zip64-on-several-disks": (end64(archive(A, B, end={"disk": 1})), "spans several disks"),
    "zip64-of-another-disk": (end64(PLAIN, disk=1), "spans several disks"),
    "zip64-of-two-disks": (end64(PLAIN, disks=2), "spans several disks"),
    "zip64-entries-elsewhere": (end64(PLAIN, here=1), "spans several disks"),
    "member-of-another-disk": (archive(replace(A, disk=1), B), "spans several disks"),
    "entries-elsewhere": (archive(A, B, end={"here": 1}), "spans several disks"),
    "folder-with-bytes": (archive(replace(A, attributes=0x10), B), "is a patch or a folder"),
    "patch": (archive(replace(A, flags=0x20), B), "is a patch or a folder"),
    "comment-cut": (archive(A, B, comment=b"hello")[:-1], "does not end where the file does"),
    "comment-of-signatures": (
        archive(A, B, comment=b"PK\x05\x06" * 16_000),
        "does not end where the file does",
    ),
    "comment-that-others-take-for-the-archive": (
        archive(A, B, comment=archive(B, A) + b"."),
        "does not end where the file does",
    ),
    "comment-longer-than-said": (
        archive(A, B, end={"comment": 1}),
        "does not end where the file does",
    ),
    "bytes-before-it": (PLAIN[:4] + b"..." + PLAIN[4:], "does not end where the end record"),
    "bytes-after-it": (PLAIN + b".", "truncated, or has bytes after it"),
    "only-a-signature": (PLAIN[:4], "its directory is missing"),
    "65535-entries-said": (archive(A, B, end={"count": 0xFFFF}), "fewer entries than the 65535"),
    "zip64-locator-missing": (
        archive(A, B, end={"start": FULL}),
        "its zip64 locator is missing",
    ),
    "zip64-locator-outside": (end64(PLAIN, at=2**60), "is not right before the locator"),
    "zip64-locator-elsewhere": (end64(PLAIN, at=-1), "is not right before the locator"),
    "zip64-directory-elsewhere": (end64(PLAIN, start=1), "does not end where the end record"),
    "zip64-of-2**63-entries": (end64(PLAIN, count=2**63), "more than 131136 members"),
}


def rezipped(raw: bytes, change: Callable[[dict[str, bytes]], object]) -> bytes:
    """Write the members of a zip file anew, after a change of them."""
    with zipfile.ZipFile(io.BytesIO(raw)) as old:
        members = {name: old.read(name) for name in old.namelist()}
    change(members)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as new:
        for name, data in members.items():
            new.writestr(name, data)
    return buffer.getvalue()


def moved(members: dict[str, bytes], to: str) -> None:
    for name in list(members):
        members[name.replace("archive/", to)] = members.pop(name)


NOT_OF_TORCH: dict[str, tuple[Callable[[dict[str, bytes]], object], str]] = {
    "no-pickle": (lambda m: m.pop("archive/data.pkl"), "a zip file without data.pkl"),
    "pickle-in-no-folder": (lambda m: moved(m, ""), "a zip file without data.pkl"),
    "pickle-too-deep": (lambda m: moved(m, "a/b/"), "a zip file without data.pkl"),
    "two-pickles": (lambda m: m.update({"x/data.pkl": b"N."}), "a zip file with 2 data.pkl"),
    "torchscript": (lambda m: m.update({"archive/constants.pkl": b""}), "a TorchScript archive"),
    "byteorder-of-17-bytes": (
        lambda m: m.update({"archive/byteorder": b"little" + bytes(11)}),
        "'archive/byteorder' has 17 bytes, over 16",
    ),
    "big-endian": (lambda m: m.update({"archive/byteorder": b"big"}), "not little-endian"),
    "pickle-of-another-case": (
        lambda m: m.update({"archive/DATA.PKL": b"N."}),
        "'archive/data.pkl' and 'archive/DATA.PKL' have one name to torch",
    ),
    "storage-of-another-case": (
        lambda m: m.update({"archive/Data/0": bytes(24)}),
        "'archive/data/0' and 'archive/Data/0' have one name to torch",
    ),
    "storage-missing": (
        lambda m: m.pop("archive/data/0"),
        "tensor 'w' cannot be read: its storage '0' is not in the file",
    ),
    "storage-short": (
        lambda m: m.update({"archive/data/0": bytes(23)}),
        "storage '0' has 23 bytes, but is declared with 24",
    ),
    "storage-long": (
        lambda m: m.update({"archive/data/0": bytes(28)}),
        "storage '0' has 28 bytes, but is declared with 24",
    ),
    **{
        f"version-{text.decode().strip() or 'empty'}": (
            lambda m, text=text: m.update({"archive/version": text}),
            "its `version` is .*, expected a number of 1 to 10",
        )
        for text in (b"", b"0\n", b"11", b"-3", b"abc\n")
    },
    "storage-empty": (
        lambda m: m.update({"archive/data/0": b""}),
        "storage '0' has 0 bytes, but is declared with 24",
    ),
    "pickle-empty": (
        lambda m: m.update({"archive/data.pkl": b""}),
        "malformed pickle at byte .*: it is truncated",
    ),
    "pickle-is-text": (
        lambda m: m.update({"archive/data.pkl": b"hello"}),
        "malformed pickle at byte .*: its memo has no object 101",
    ),
}
