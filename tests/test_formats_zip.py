from __future__ import annotations

import io
import struct
import zipfile
import zlib
from pathlib import Path

import pytest
import torch
from corpus.zips import (
    ACCEPTED,
    MALFORMED,
    NOT_OF_TORCH,
    PLAIN,
    A,
    B,
    Part,
    archive,
    end64,
    rezipped,
    saved,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fcn_convert.errors import CheckpointError
from fcn_convert.formats import open_checkpoint
from fcn_convert.formats.source import SourceFile
from fcn_convert.formats.zip_directory import Member, read_directory


def read(path: Path, raw: bytes) -> dict[str, Member]:
    path.write_bytes(raw)
    with SourceFile(path) as file:
        return read_directory(file)


def test_hand_written_is_what_zipfile_reads(tmp_path: Path) -> None:
    raw = archive(A, B, comment=b"c")
    with zipfile.ZipFile(io.BytesIO(raw)) as oracle:
        assert oracle.testzip() is None
        assert oracle.read("m/b") == b"bbbbbb"
    members = read(tmp_path / "z", raw)
    assert [(m.name, m.nbytes, m.crc) for m in members.values()] == [
        ("m/a", 4, zlib.crc32(b"aaaa")),
        ("m/b", 6, zlib.crc32(b"bbbbbb")),
    ]
    assert raw[members["m/b"].offset :].startswith(b"bbbbbb")


def check_against_zipfile(path: Path, raw: bytes) -> None:
    members = read(path, raw)
    with zipfile.ZipFile(io.BytesIO(raw)) as oracle:
        infos = oracle.infolist()
        assert {n: (m.nbytes, m.crc) for n, m in members.items()} == {
            i.filename: (i.file_size, i.CRC) for i in infos
        }
        for info in infos:
            member = members[info.filename]
            assert raw[member.offset : member.offset + member.nbytes] == oracle.read(info)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("zip") / "m.zip"


class Unseekable(io.RawIOBase):
    """A file on which zipfile writes data descriptors, because it cannot go back."""

    def __init__(self) -> None:
        self.raw = bytearray()

    def writable(self) -> bool:
        return True

    def write(self, data: object) -> int:
        view = memoryview(data)  # type: ignore[arg-type]
        self.raw += view
        return view.nbytes


@settings(max_examples=100, suppress_health_check=list(HealthCheck))
@given(
    members=st.dictionaries(
        st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=8),
        st.binary(max_size=20),
        max_size=5,
    ),
    # zipfile itself takes a signature in a comment for the end record.
    comment=st.binary(max_size=40).filter(lambda comment: b"PK\5\6" not in comment),
    zip64=st.booleans(),
    streamed=st.booleans(),
)
def test_files_of_zipfile(
    place: Path, members: dict[str, bytes], comment: bytes, *, zip64: bool, streamed: bool
) -> None:
    unseekable, buffer = Unseekable(), io.BytesIO()
    with zipfile.ZipFile(unseekable if streamed else buffer, "w", zipfile.ZIP_STORED) as out:  # type: ignore[type-var]
        for name, data in members.items():
            with out.open(zipfile.ZipInfo(name), "w", force_zip64=zip64) as member:
                member.write(data)
        out.comment = comment
    check_against_zipfile(place, bytes(unseekable.raw) if streamed else buffer.getvalue())


def test_files_of_torch(tmp_path: Path) -> None:
    check_against_zipfile(tmp_path / "m", saved({str(i): torch.ones(i) for i in range(40)}))


def test_zip64_directory_of_zipfile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zipfile, "ZIP_FILECOUNT_LIMIT", 2)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as out:
        for name in ("a", "b", "c", "d"):
            out.writestr(name, name * 9)
    raw = buffer.getvalue()
    assert b"PK\x06\x06" in raw
    assert b"PK\x06\x07" in raw
    check_against_zipfile(tmp_path / "m", raw)


@pytest.mark.parametrize("case", ACCEPTED)
def test_unusual_but_right(tmp_path: Path, case: str) -> None:
    raw = ACCEPTED[case]
    members = read(tmp_path / "m", raw)
    for part in (A, B):
        member = members[part.name.decode()]
        assert raw[member.offset : member.offset + member.nbytes] == part.data


def test_zip64_end_record_by_hand(tmp_path: Path) -> None:
    assert set(read(tmp_path / "m", end64(PLAIN))) == {"m/a", "m/b"}


@pytest.mark.parametrize("case", MALFORMED)
def test_malformed_is_refused_in_one_sentence(tmp_path: Path, case: str) -> None:
    raw, message = MALFORMED[case]
    path = tmp_path / "m.pt"
    path.write_bytes(raw)
    with pytest.raises(CheckpointError, match=message) as caught:
        open_checkpoint(path)
    assert str(caught.value).startswith(f"{path}: malformed zip file: ")
    assert "\n" not in str(caught.value)


def test_truncated_at_every_byte(tmp_path: Path) -> None:
    raw = saved({"w": torch.ones(1)})
    path = tmp_path / "m.pt"
    for length in range(4, len(raw)):
        path.write_bytes(raw[:length])
        with pytest.raises(CheckpointError, match="its directory is missing"):
            open_checkpoint(path)


@pytest.mark.parametrize("case", NOT_OF_TORCH)
def test_not_of_torch(tmp_path: Path, case: str) -> None:
    change, message = NOT_OF_TORCH[case]
    path = tmp_path / "m.pt"
    path.write_bytes(rezipped(saved(), change))
    with pytest.raises(CheckpointError, match=message) as caught:
        open_checkpoint(path).state_dict(None)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def test_tensor_beyond_its_declared_storage(tmp_path: Path) -> None:
    raw = saved({"w": torch.arange(2.0)})
    pickled = zipfile.ZipFile(io.BytesIO(raw)).read("archive/data.pkl")
    assert pickled.count(b"K\x02t") == 1  # the storage's number of elements ends its id
    shorter = pickled.replace(b"K\x02t", b"K\x01t")
    path = tmp_path / "m.pt"
    changed = {"archive/data.pkl": shorter, "archive/data/0": bytes(4)}
    path.write_bytes(rezipped(raw, lambda m: m.update(changed)))
    with pytest.raises(CheckpointError, match="it reaches byte 8 of storage '0', which has 4"):
        open_checkpoint(path)


def test_compressed_by_zipfile(tmp_path: Path) -> None:
    buffer, path = io.BytesIO(), tmp_path / "m.pt"
    with (
        zipfile.ZipFile(io.BytesIO(saved())) as old,
        zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as new,
    ):
        for name in old.namelist():
            new.writestr(name, old.read(name))
    path.write_bytes(buffer.getvalue())
    with pytest.raises(CheckpointError, match=r"is compressed, which torch\.save never does"):
        open_checkpoint(path)


def test_a_compressed_file_of_keras_is_not_said_to_be_torchs(tmp_path: Path) -> None:
    path = tmp_path / "m.keras"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as out:
        out.writestr("config.json", "{}")
        out.writestr("model.weights.h5", b"x" * 99)
    with pytest.raises(CheckpointError, match=r"is compressed, which Keras never does; .*again$"):
        open_checkpoint(path)


def test_rezipped_with_a_comment_is_read(tmp_path: Path) -> None:
    buffer, path = io.BytesIO(rezipped(saved(), lambda _: None)), tmp_path / "m.pt"
    with zipfile.ZipFile(buffer, "a") as out:
        out.comment = b"zipped again"
    path.write_bytes(buffer.getvalue())
    with open_checkpoint(path) as checkpoint:
        found = checkpoint.state_dict(None).tensors["w"]
    values = buffer.getvalue()[found.offset : found.offset + found.nbytes]
    assert values == struct.pack("<6f", *range(6))


def test_members_of_a_hundred_thousand_bytes_of_name(tmp_path: Path) -> None:
    name = b"m/" + b"n" * 65_000
    with pytest.raises(CheckpointError, match=r"'m/nnn.*n'… is encrypted") as caught:
        read(tmp_path / "m", archive(Part(name, b"", flags=1)))
    assert len(str(caught.value)) < 400
