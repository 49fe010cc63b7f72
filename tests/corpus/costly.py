"""Small files that would cost much: time, memory or disk, by what they repeat."""

from __future__ import annotations

import io
import json
import struct
import warnings
from collections.abc import Callable

import torch
from torch import nn

from corpus import zips
from corpus.calls import dumped
from corpus.legacy import MAGIC, VERSION
from corpus.pickles import OVER, tensor, texts, torch_zip


def duplicated_key() -> bytes:
    """Each key is there once, but for the last."""
    return json.dumps({f"w{n}": 0 for n in range(100_000)}).encode()[:-1] + b', "w99999": 0}'


def calls_of_one_list() -> bytes:
    """Dictionaries made of the same long list, each of five bytes."""
    pair = b"(NNlq\x02"
    made = b"ccollections\nOrderedDict\nq\x00](" + pair + b"h\x02" * 300_000 + b"e\x85q\x01"
    return made + b"h\x00h\x01R0" * 20_000 + b"."


def shared_layers() -> bytes:
    """A dictionary of many layers, under as many names."""
    layer = {"kernel": tensor()}
    layers = {f"l{n}": layer for n in range(10_000)}
    return dumped({f"r{n}": layers for n in range(10_000)})


def heavy_pickles() -> bytes:
    """A file of torch before 1.6 of which three pickles take nearly all the memory there may be."""
    heavy = b"(" + b"]" * 1_500_000 + b"t"
    system = b"}" + texts("little_endian") + b"\x88s" + texts("x") + heavy + b"s."
    return b"".join([dumped(MAGIC), dumped(VERSION), system, b"}" + texts("x") + heavy + b"s."]) + (
        b"(" + b"]" * 1_500_000 + b"l."
    )


def scripted(change: Callable[[dict[str, bytes]], None]) -> bytes:
    """A TorchScript archive of one layer, after a change of its members."""
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of torch.jit as a whole
        torch.jit.save(torch.jit.script(nn.Linear(2, 2)), file)
    return zips.rezipped(file.getvalue(), change)


def modules_in_modules() -> bytes:
    """TorchScript of sixty modules, each of which has the one before it twice."""
    code = b"class M(Module):\n  __parameters__ = []\n  __buffers__ = []\n"
    made = b"\x80\x02c__torch__.m\nM\nq\x00)\x81q\x01"
    for at in range(2, 60):
        inner = b"".join(texts(name) + b"h" + bytes([at - 1]) for name in "ab")
        made += b"0h\x00)\x81}(" + inner + b"ubq" + bytes([at])
    new = {"archive/data.pkl": made + b".", "archive/code/__torch__/m.py": code}
    return scripted(lambda members: members.update(new))


def unclosed_quotes() -> bytes:
    """TorchScript whose list of parameters is one text that never ends, full of quotes."""

    def change(members: dict[str, bytes]) -> None:
        for name, code in members.items():
            if name.endswith(".py"):
                head, _, tail = code.partition(b"__parameters__ = [")
                texts = b'__parameters__ = ["' + b'\\"' * 50_000
                members[name] = head + texts + tail.replace(b'"', b"")

    return scripted(change)


def names_of_gigabytes() -> bytes:
    """A zip file whose directory has a few entries, each with a comment as long as can be."""
    raw = bytearray(zips.archive(*[zips.A] * 520))
    first, end = raw.index(b"PK\x01\x02"), len(raw) - 22
    entries = [raw[at : at + 49] for at in range(first, end, 49)]
    for entry in entries:
        struct.pack_into("<H", entry, 32, 0xFFFF)
    directory = b"".join(entry + bytes(0xFFFF) for entry in entries)
    struct.pack_into("<L", raw, end + 12, len(directory))
    return bytes(raw[:first]) + directory + bytes(raw[end:])


COSTLY: dict[str, tuple[Callable[[], bytes], str, str]] = {
    "json-of-a-key-twice": (duplicated_key, "it names 'w99999' twice", "index.json"),
    "calls-of-one-list": (lambda: torch_zip(calls_of_one_list()), OVER, "pt"),
    "layers-under-many-names": (
        lambda: torch_zip(shared_layers()),
        "holds more than 131072 tensors",
        "pt",
    ),
    "expanded-many-times": (
        lambda: torch_zip(
            dumped({f"w{n}": tensor(shape=(1 << 28,), stride=(0,)) for n in range(100)})
        ),
        "its tensors would take 107374182400 bytes",
        "pt",
    ),
    "torchscript-of-modules-in-modules": (
        modules_in_modules,
        "has more modules, or longer names of them, than any network",
        "pt",
    ),
    "torchscript-of-one-text": (unclosed_quotes, "in a form unknown here", "pt"),
    "zip-of-long-comments": (names_of_gigabytes, "members, or very long names", "pt"),
    "legacy-of-heavy-pickles": (heavy_pickles, OVER, "pt"),
}
"""Bytes, what is said of them, and the suffix of their file."""
