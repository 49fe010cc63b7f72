"""Files that are not checkpoints, or cannot be read here: what each is, and what to do about it."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

TAIL_BYTES = 8
_TABLE_MAGIC = bytes.fromhex("57fb808b247547db")
"""How the tables (LevelDB's) that hold TensorFlow's checkpoints end."""
_TAR = slice(257, 262)
_ONNX_FIELDS = b"\x12\x1a\x22\x2a\x32\x3a\x42\x72"
"""Which fields of a protobuf can follow an ONNX model's version."""
_LENGTH = rb"[\x80-\xff]+[\x00-\x7f]"
"""A length of 128 or more, as a protobuf has it."""
_META_GRAPH = re.compile(rb"\n" + _LENGTH + rb"\x12" + _LENGTH + rb"\n")
_CORE_ML = re.compile(rb"\x08[\x01-\x1f]\x12[\x80-\xff]*[\x00-\x7f]\n[\x00-\x7f]\n[\x01-\x7f][ -~]")
"""A version, and a description whose first input has a name."""
_PADDLE_PROGRAM = re.compile(rb"\n" + _LENGTH + rb"\x08\x00\x10\xff{9}\x01")
_PADDLE_PARAMETERS = re.compile(rb"\0{16}.\0\0\0\x08.\x10", re.DOTALL)
_MSGPACK = re.compile(
    rb"(?:[\x81-\x8f]|\xde..)(?:[\xa1-\xbf]|\xd9.)"
    rb"(?:params|batch_stats|step|target|opt_state|model|ema_params)",
    re.DOTALL,
)
"""A mapping whose first key is one of those that a Flax training state has."""
_SHOWN = 24


@dataclass(frozen=True, slots=True)
class Signature:
    """How a kind of file begins (or ends), and the rest of the sentence about it."""

    matches: Callable[[bytes, bytes], bool]
    sentence: str


def _begins(*starts: bytes) -> Callable[[bytes, bytes], bool]:
    return lambda head, _: head.startswith(starts)


def _markup(*starts: bytes) -> Callable[[bytes, bytes], bool]:
    return lambda head, _: head.lstrip(b"\xef\xbb\xbf \t\r\n").lower().startswith(starts)


def _is_onnx(head: bytes, _: bytes) -> bool:
    return (
        head[:1] == b"\x08"
        and b"\x02" < head[1:2] < b"\x20"
        and head[2:3] in {*map(_byte, _ONNX_FIELDS)}
    )


def _is_zlib(head: bytes, _: bytes) -> bool:
    """Return whether a zlib stream begins: its two bytes, and no length of a safetensors header."""
    start = int.from_bytes(head[:2], "big")
    return head[:1] == b"\x78" and start % 31 == 0 and any(head[4:8])


def _matches(*patterns: re.Pattern[bytes]) -> Callable[[bytes, bytes], bool]:
    return lambda head, _: any(pattern.match(head) for pattern in patterns)


def _is_caffe(head: bytes, _: bytes) -> bool:
    """Return whether a protobuf begins with a net's name, and layers of either version follow."""
    end = 2 + head[1] if len(head) > 1 else 0
    name = head[2:end]
    return (
        head[:1] == b"\x0a"
        and name.isascii()
        and name.decode("latin-1").isprintable()
        and (head[end:].startswith((b"\xa2\x06", b"\x12")))
    )


def _byte(value: int) -> bytes:
    return bytes([value])


def _is_graph(head: bytes, _: bytes) -> bool:
    return head[:1] == b"\x0a" and any(op in head for op in (b"Placeholder", b"Const", b"Input"))


_PACKED = "unpack it first, and convert what is inside"
_TENSORFLOW = (
    "load it with TensorFlow and save its arrays by name, with numpy.savez or, of a Keras model, "
    "with model.save('model.h5')"
)

SIGNATURES: tuple[Signature, ...] = (
    Signature(
        _begins(b"\x04\x22\x4d\x18"),
        "is compressed with LZ4, as joblib does: load it with joblib and save its state dict with "
        "torch.save",
    ),
    Signature(
        _is_zlib,
        "is compressed with zlib, as joblib does: load it with joblib and save its state dict with "
        "torch.save",
    ),
    Signature(_begins(b"\x1f\x8b"), f"is compressed with gzip: {_PACKED} (gunzip)"),
    Signature(_begins(b"\xfd7zXZ\0"), f"is compressed with xz: {_PACKED} (unxz)"),
    Signature(_begins(b"\x28\xb5\x2f\xfd"), f"is compressed with zstd: {_PACKED} (unzstd)"),
    Signature(_begins(b"BZh"), f"is compressed with bzip2: {_PACKED} (bunzip2)"),
    Signature(_begins(b"7z\xbc\xaf\x27\x1c"), f"is a 7z archive: {_PACKED}"),
    Signature(_begins(b"Rar!"), f"is a RAR archive: {_PACKED}"),
    Signature(
        lambda head, _: head[_TAR] == b"ustar",
        "is a tar file: unpack it first, and convert the checkpoint inside; if it is of torch.save "
        "before 0.1.10, load and save it with torch",
    ),
    Signature(
        _begins(b"version https://git-lfs"),
        "is a Git LFS pointer, not the file itself: fetch that with `git lfs pull`",
    ),
    Signature(
        _markup(b"<!doctype html", b"<html"),
        "is a web page: the download got a page instead of the file; download it again, "
        "with its direct link",
    ),
    Signature(_markup(b"<?xml"), "is XML, often a server's error message; download the file again"),
    Signature(
        _begins(b"GGUF", b"lmgg", b"tjgg", b"fmgg"),
        "is a GGUF or GGML file, made for llama.cpp: convert the checkpoint it was made of",
    ),
    Signature(
        _matches(_CORE_ML),
        "is a Core ML model, made for Apple's devices: convert the model it was made of",
    ),
    Signature(
        _is_onnx,
        "is an ONNX model, whose weights have lost their modules' names: convert the checkpoint "
        "it was exported from",
    ),
    Signature(
        lambda head, _: head[4:8] == b"TFL3",
        "is a TensorFlow Lite model: convert the model it was made of",
    ),
    Signature(_begins(b"\x08\x01\x12"), f"is a TensorFlow SavedModel's graph: {_TENSORFLOW}"),
    Signature(
        _is_caffe,
        "is a Caffe model: load it with Caffe and save its blobs by name, as conv1.weight and "
        "conv1.bias, with numpy.savez",
    ),
    Signature(_is_graph, f"is a frozen graph of TensorFlow: {_TENSORFLOW}"),
    Signature(
        _matches(_META_GRAPH),
        f"is the graph of a checkpoint of TensorFlow, without its values: {_TENSORFLOW}",
    ),
    Signature(
        _matches(_PADDLE_PROGRAM, _PADDLE_PARAMETERS),
        "is a model that Paddle exported for inference, whose parameters have no names: save its "
        "state_dict() with paddle.save",
    ),
    Signature(
        lambda _, tail: tail == _TABLE_MAGIC,
        f"is a checkpoint of TensorFlow, or its index: {_TENSORFLOW}",
    ),
    Signature(
        _begins(b"model_checkpoint_path:"),
        f"is a text that names a checkpoint of TensorFlow: {_TENSORFLOW}",
    ),
    Signature(
        _matches(_MSGPACK),
        "is msgpack, as Flax writes it: load it with flax.serialization.msgpack_restore and save "
        "its arrays by name, with numpy.savez",
    ),
    Signature(
        _begins(b"MATLAB 5.0"),
        "is a MATLAB file: load it with scipy.io.loadmat and save its arrays by name, "
        "with numpy.savez",
    ),
    Signature(
        _begins(b"\x12\x01\0\0\0\0\0\0" + bytes(8)),
        "is a parameter file of MXNet: load it with MXNet and save its arrays by name, "
        "with numpy.savez",
    ),
    Signature(
        _begins(*(bytes([0, 0, 0, 0, minor, 0, 0, 0]) for minor in (1, 2))),
        "is a weight file of Darknet, which holds no names: load it with the model's own code and "
        "save its state_dict()",
    ),
    Signature(_begins(b"\x7fELF", b"MZ"), "is a program or a library, not a checkpoint"),
    Signature(
        _begins(b"\x89PNG", b"\xff\xd8\xff", b"%PDF"), "is an image or a document, not a checkpoint"
    ),
    Signature(
        lambda head, _: len(head) > 16 and not any(head),
        "begins with nothing but zeros: it was probably not written or downloaded in full",
    ),
)


_TENSORFLOW_DATA = re.compile(r"\.data-\d{5}-of-\d{5}$")


def by_name(name: str) -> str | None:
    """Return what to say of a file known only by its name: raw values may begin with anything."""
    if _TENSORFLOW_DATA.search(name):
        return (
            "is the part of a TensorFlow checkpoint that holds the values, whose names and places "
            f"are in the .index beside it: {_TENSORFLOW}"
        )
    return None


def known(head: bytes, tail: bytes) -> str | None:
    """Return what to say of a file of a known kind that cannot be read; None for all others.

    head: the first bytes of the file. tail: the last TAIL_BYTES.
    """
    return next((s.sentence for s in SIGNATURES if s.matches(head, tail)), None)


def unknown(head: bytes) -> str:
    """Return what to say of a file of no known kind."""
    if not head:
        return "is empty: it was probably not written or downloaded in full"
    text = head[:_SHOWN]
    is_text = all(byte in b"\t\n\r" or 32 <= byte < 127 for byte in text)
    found = f"a text that starts with {text!r}" if is_text else f"it starts with {head[:8]!r}"
    return (
        f"is not a checkpoint known here ({found}); expected one of PyTorch, safetensors, NumPy or "
        "Keras, as the README lists them"
    )
