"""The members of a zip file, by place: its directory, read strictly.

APPNOTE 6.3.10, https://pkware.cachefly.net/webdocs/casestudies/APPNOTE.TXT. The standard library's
`zipfile` forgives what must not be forgiven here: members that overlap, that are named twice, or
whose local header disagrees with the directory.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from fcn_convert.errors import CheckpointError
from fcn_convert.formats.source import Readable
from fcn_convert.tensors import MAX_TENSORS, Checksum, shown

LOCAL_SIGNATURE = b"PK\x03\x04"

# End of central directory, its zip64 locator and record, a directory entry, a local header.
_END = struct.Struct("<4s4H2LH")
_LOCATOR = struct.Struct("<4sLQL")
_END64 = struct.Struct("<4sQ2H2L4Q")
_ENTRY = struct.Struct("<4s6H3L5H2L")
_LOCAL = struct.Struct("<4s5H3L2H")

_MAX_COMMENT = 0xFFFF
_MAX_MEMBERS = MAX_TENSORS + 64
_MAX_DIRECTORY = MAX_TENSORS * 256
_IN_ZIP64 = 0xFFFFFFFF
_IN_ZIP64_SHORT = 0xFFFF
_STORED, _DEFLATED = 0, 8
_PART = 1 << 20
"""Bytes unpacked at a time."""
_ENCRYPTED = 0x2041
"""Flag bits 0 (encrypted), 6 (strongly) and 13 (directory masked)."""
_PATCH = 0x20
"""Flag bit 5: the data are what changes those of another file."""
_FOLDER = 0x10
"""The attribute of a folder, in DOS: torch takes no bytes of a member that has it."""


@dataclass(frozen=True, slots=True)
class Member:
    """A member: where its bytes begin in the file, how many, and their CRC-32 (0: none).

    method: how they are compressed; 0 where they are not. compressed: bytes in the file.
    """

    name: str
    offset: int
    nbytes: int
    crc: int
    method: int = 0
    compressed: int = 0


@dataclass(frozen=True, slots=True)
class _Entry:
    """A directory entry: the place of the local header, and what it must say again.

    attributes: those that DOS gives the file.
    """

    name: bytes
    flags: int
    attributes: int
    method: int
    crc: int
    compressed: int
    nbytes: int
    header: int


def read_directory(file: Readable) -> dict[str, Member]:
    """Return the members by name, in directory order.

    Raises CheckpointError where the file is truncated, encrypted or contradicts itself.
    """
    try:
        start, size, count = _find_directory(file)
        entries = list(_entries(file.pread(start, size), count))
        members: dict[str, Member] = {}
        end = 0
        for entry in sorted(entries, key=lambda e: e.header):
            member = _locate(file, entry, start)
            if entry.header < end:
                raise _ZipError(f"member {shown(member.name)} overlaps the one before")
            end = member.offset + member.compressed
            if member.name in members:
                raise _ZipError(f"member {shown(member.name)} is there twice")
            members[member.name] = member
    except _ZipError as error:
        raise CheckpointError(f"{file.path}: malformed zip file: {error}") from error
    return members


class _ZipError(ValueError):
    """A zip file that breaks its format; becomes a CheckpointError with the path."""


def _find_directory(file: Readable) -> tuple[int, int, int]:
    """Return the directory's offset, bytes and number of entries."""
    tail_start = max(0, file.size - _END.size - _MAX_COMMENT)
    tail = file.pread(tail_start, file.size - tail_start)
    at = tail.rfind(b"PK\x05\x06")
    while at >= 0:
        if at + _END.size <= len(tail):
            _, *disks, here, count, size, start, comment = _END.unpack_from(tail, at)
            break
        at = tail.rfind(b"PK\x05\x06", 0, at)
    else:
        raise _ZipError("its directory is missing; the file is probably truncated")
    if at + _END.size + comment != len(tail):
        # Others take this one all the same: an earlier one would be another archive.
        raise _ZipError(
            "its end record does not end where the file does: the file is truncated, or has "
            "bytes after it"
        )
    end = tail_start + at
    wide = _find_zip64(file, end)
    if set(disks) - ({0, _IN_ZIP64_SHORT} if wide else {0}) or here != count:
        raise _ZipError("it spans several disks")
    if wide:
        start, size, count, end = wide
    elif _IN_ZIP64 in (size, start):
        raise _ZipError("its zip64 locator is missing")
    if start + size != end:
        raise _ZipError("its directory does not end where the end record begins")
    if size > _MAX_DIRECTORY or count > _MAX_MEMBERS:
        raise _ZipError(f"it has more than {_MAX_MEMBERS} members, or very long names")
    return start, size, count


def _find_zip64(file: Readable, end: int) -> tuple[int, int, int, int] | None:
    """Return the same as the end record at `end`, and its own offset, if there is a zip64 one."""
    if end < _LOCATOR.size:
        return None
    signature, disk, at, disks = _LOCATOR.unpack(file.pread(end - _LOCATOR.size, _LOCATOR.size))
    if signature != b"PK\x06\x07":
        return None
    if at + _END64.size != end - _LOCATOR.size:  # others look there, whatever it says
        raise _ZipError("its zip64 record is not right before the locator")
    signature, _, _, _, *others, here, count, size, start = _END64.unpack(
        file.pread(at, _END64.size)
    )
    if signature != b"PK\x06\x06":
        raise _ZipError("its zip64 end record is missing")
    if any((disk, *others)) or disks > 1 or here != count:
        raise _ZipError("it spans several disks")
    return start, size, count, at


def _entries(directory: bytes, count: int) -> Iterator[_Entry]:
    at = 0
    for _ in range(count):
        if at + _ENTRY.size > len(directory):
            raise _ZipError(f"its directory has fewer entries than the {count} of its end record")
        (signature, _, _, flags, method, _, _, crc, compressed, nbytes, *rest, header) = (
            _ENTRY.unpack_from(directory, at)
        )
        if signature != b"PK\x01\x02":
            raise _ZipError("its directory is malformed")
        name_length, extra_length, comment_length, disk, _, attributes = rest
        if disk:
            raise _ZipError("it spans several disks")
        at += _ENTRY.size
        name = directory[at : at + name_length]
        extra = directory[at + name_length : at + name_length + extra_length]
        at += name_length + extra_length + comment_length
        nbytes, compressed, header = _widened(extra, nbytes, compressed, header)
        yield _Entry(name, flags, attributes, method, crc, compressed, nbytes, header)
    if at != len(directory):
        raise _ZipError(f"its directory has other bytes than the {count} entries of its end record")


def _widened(extra: bytes, *values: int) -> Iterator[int]:
    """Replace each value that is too large for 32 bits by its 64 bits in the zip64 extra field."""
    wide = iter(_zip64_values(extra) if _IN_ZIP64 in values else ())
    for value in values:
        if value == _IN_ZIP64:
            value = next(wide, -1)
            if value < 0:
                raise _ZipError("a zip64 size is missing")
        yield value


def _zip64_values(extra: bytes) -> tuple[int, ...]:
    at = 0
    while at + 4 <= len(extra):
        kind, length = struct.unpack_from("<2H", extra, at)
        if kind == 1:
            field = extra[at + 4 : at + 4 + length]
            return struct.unpack_from(f"<{len(field) // 8}Q", field)
        at += 4 + length
    return ()


def _locate(file: Readable, entry: _Entry, limit: int) -> Member:
    """Check a member's local header against its entry; all of it ends before `limit`."""
    name = entry.name.decode("utf-8", "surrogateescape")
    if entry.flags & _ENCRYPTED:
        raise _ZipError(f"member {shown(name)} is encrypted")
    if entry.flags & _PATCH or (entry.attributes & _FOLDER and entry.nbytes):
        raise _ZipError(f"member {shown(name)} is a patch or a folder, and has bytes")
    if not entry.method and entry.compressed != entry.nbytes:
        raise _ZipError(f"member {shown(name)} is not compressed, but has two sizes")
    if entry.header + _LOCAL.size > limit:
        raise _ZipError(f"member {shown(name)} lies outside of the file")
    signature, _, flags, method, _, _, crc, compressed, nbytes, name_length, extra_length = (
        _LOCAL.unpack(file.pread(entry.header, _LOCAL.size))
    )
    offset = entry.header + _LOCAL.size + name_length + extra_length
    if signature != LOCAL_SIGNATURE or offset + entry.compressed > limit:
        raise _ZipError(f"member {shown(name)} lies outside of the file")
    local_name = file.pread(entry.header + _LOCAL.size, name_length)
    extra = file.pread(offset - extra_length, extra_length)
    sizes = zip(_widened(extra, nbytes, compressed), (entry.nbytes, entry.compressed), strict=True)
    # With flag bit 3 the sizes and the CRC follow the data, and the header may hold zeros for them:
    # macOS's own archiver does so for the compressed size alone.
    agrees = all(local == size or (flags & 8 and local == 0) for local, size in sizes)
    if local_name != entry.name or method != entry.method or flags & _ENCRYPTED or not agrees:
        raise _ZipError(f"the local header of member {shown(name)} disagrees with the directory")
    if crc and crc != entry.crc:
        raise _ZipError(
            f"the local header of member {shown(name)} has another CRC than the directory"
        )
    return Member(name, offset, entry.nbytes, entry.crc, entry.method, entry.compressed)


def check_stored(file: Readable, members: Iterable[Member], writer: str = "torch.save") -> None:
    """Raise CheckpointError where a member is compressed, so that its bytes are not in the file.

    writer: what writes such files.
    """
    for member in members:
        if member.method:
            raise CheckpointError(
                f"{file.path}: malformed zip file: member {shown(member.name)} is compressed, "
                f"which {writer} never does; unpack it and zip it without compression (zip -0), "
                "or save it again"
            )


def check_cases(file: Readable, names: Iterable[str]) -> None:
    """Raise CheckpointError where two names differ only in case: torch takes one for the other.

    Other readers tell them apart, NumPy's for one.
    """
    known: dict[str, str] = {}
    for name in names:
        other = known.setdefault(name.lower(), name)
        if other != name:
            raise CheckpointError(
                f"{file.path}: malformed zip file: members {shown(other)} and {shown(name)} have "
                "one name to torch, which does not tell upper from lower case"
            )


def text_of(file: Readable, member: Member, limit: int) -> bytes:
    """Return a small member's bytes, inflated where they are; raises CheckpointError beyond."""
    if member.nbytes > limit:
        raise CheckpointError(
            f"{file.path}: member {shown(member.name)} has {member.nbytes} bytes, over {limit}"
        )
    return b"".join(unpacked(file, member))


def unpacked(file: Readable, member: Member) -> Iterator[bytes]:
    """Yield a member's bytes in parts; raises CheckpointError where they are not as declared."""
    if member.method not in {_STORED, _DEFLATED}:
        raise CheckpointError(
            f"{file.path}: member {shown(member.name)} is compressed by method {member.method}, "
            "which is not known here; pack it again with deflate, or without compression"
        )
    left, crc = member.nbytes, 0
    for part in _inflated(file, member) if member.method else _raw(file, member):
        left -= len(part)
        crc = zlib.crc32(part, crc)
        if left < 0:
            break
        yield part
    if left or (member.crc and crc != member.crc):  # 0: not computed
        raise CheckpointError(
            f"{file.path}: is damaged: member {shown(member.name)} does not unpack to what the "
            "directory says of it"
        )


def _raw(file: Readable, member: Member) -> Iterator[bytes]:
    for at in range(0, member.compressed, _PART):
        yield file.pread(member.offset + at, min(_PART, member.compressed - at))


def _inflated(file: Readable, member: Member) -> Iterator[bytes]:
    inflate = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        for raw in _raw(file, member):
            part = inflate.decompress(raw, _PART)
            yield part
            # A full part means that there may be more to come, even where no input is left.
            while inflate.unconsumed_tail or len(part) == _PART:
                part = inflate.decompress(inflate.unconsumed_tail, _PART)
                yield part
    except zlib.error as error:
        raise CheckpointError(
            f"{file.path}: is damaged: member {shown(member.name)}: {error}"
        ) from error


def checksums(members: Iterable[Member]) -> tuple[Checksum, ...]:
    """Return what the directory says of its stored members; a CRC of 0 was not computed."""
    return tuple(
        Checksum(m.name, m.offset, m.nbytes, m.crc) for m in members if m.crc and not m.method
    )
