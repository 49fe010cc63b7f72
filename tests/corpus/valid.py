"""Files that honest libraries write, and that must convert: odd, old, or full of other things."""

from __future__ import annotations

import argparse
import dataclasses
import datetime as dt
import enum
import fractions
import functools
import json
import pathlib
import pickle
import struct
import uuid
import warnings
import zipfile
from collections import Counter, OrderedDict, defaultdict, deque, namedtuple
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import nn
from torch.utils.serialization import config

from corpus import shards, zips

Tensors = dict[str, torch.Tensor]
Make = Callable[[Path], tuple[str, Tensors]]
"""Writes a file into a folder; returns its name, and the tensors that it holds."""

SPEC = "feature_map: [3, 2, 2]\n"


def tensors(dtype: torch.dtype = torch.float32) -> Tensors:
    generator = torch.Generator().manual_seed(5)
    shapes = {"fc.weight": (5, 12), "fc.bias": (5,), "conv.weight": (3, 1, 2, 2)}
    return {n: torch.randn(s, generator=generator).to(dtype) for n, s in shapes.items()}


STATE = tensors()


class Net(nn.Module):
    """With everything that a module can have."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 3, 2)
        self.fc = nn.Linear(12, 5)
        self.act = torch.relu
        self.hook = self.fc.register_forward_hook(print)
        self.register_buffer("kept", torch.ones(2))
        self.register_buffer("transient", torch.ones(2), persistent=False)
        self.register_parameter("none", None)


class Color(enum.Enum):
    RED = 1


@dataclasses.dataclass
class Settings:
    rate: float = 0.1
    place: Path = Path("x")


class Slotted:
    __slots__ = ("a",)

    def __init__(self) -> None:
        self.a = 1


class Words(dict):  # type: ignore[type-arg]
    pass


class Sub(torch.Tensor):
    pass


Pair = namedtuple("Pair", "a b")  # noqa: PYI024 - as old code has them


def odd_tensors() -> dict[str, object]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns that most of these are not finished
        quantized = torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8)
        by_channel = torch.quantize_per_channel(
            torch.ones(2, 2), torch.ones(2), torch.zeros(2), 0, torch.qint8
        )
        rows = torch.eye(3).to_sparse_csr()
        nested = torch.nested.nested_tensor([torch.ones(2), torch.ones(3)])
    return {
        "quantized": quantized,
        "quantized-by-channel": by_channel,
        "sparse": torch.eye(3).to_sparse(),
        "sparse-rows": rows,
        "nested": nested,
        "meta": torch.empty(2, device="meta"),
        "complex": torch.zeros(2, dtype=torch.complex128),
        "expanded": torch.ones(1).expand(10**5, 10**5),
        "matrix": torch.ones(4, 4),
        "storage": torch.ones(3).untyped_storage(),
        "subclass": torch.ones(2).as_subclass(Sub),
        "buffer": nn.Buffer(torch.ones(2)),
        "module": nn.CrossEntropyLoss(),
        "big-endian": np.zeros(2, ">f4"),
        "long-double": np.zeros(2, "g"),
        "objects": np.array([{}], dtype=object),
        "texts": np.array(["a"]),
        "dates": np.array(["2020-01-01"], dtype="datetime64[D]"),
        "records": np.zeros(2, dtype=[("a", "f4")]),
    }


THINGS: dict[str, object] = {
    "path": Path("a/b"),
    "windows-path": pathlib.PureWindowsPath("c:\\x"),
    "namespace": argparse.Namespace(a=1, b=[Path("x")]),
    "time": dt.datetime(2026, 1, 2, tzinfo=dt.UTC),
    "defaultdict": defaultdict(list, a=[1]),
    "enum": Color.RED,
    "function": warnings.warn,
    "partial": functools.partial(int, base=2),
    "dataclass": Settings(),
    "slots": Slotted(),
    "dict-of-a-class": Words(a=1),
    "named-tuple": Pair(1, 2),
    "size": torch.Size([1, 2]),
    "dtype": torch.float32,
    "device": torch.device("cuda:0"),
    "numpy-scalar": np.float32(3),
    "numpy-bool": np.bool_(True),
    "array": np.arange(3),
    "generator": np.random.default_rng(1),
    "random-state": torch.get_rng_state(),
    "set": {1, 2},
    "frozenset": frozenset([1]),
    "bytes": b"x" * 20_000,
    "bytearray": bytearray(b"a"),
    "complex": 1 + 2j,
    "range": range(3),
    "slice": slice(1, 2),
    "uuid": uuid.UUID(int=5),
    "fraction": fractions.Fraction(1, 2),
    "ellipsis": ...,
    "class": Net,
    "builtin": len,
    "counter": Counter("aab"),
    "deque": deque([1], maxlen=2),
    "ordered": OrderedDict(a=1),
    "long": 10**40,
    "nan": float("nan"),
    "text": "é" * 2_000_000,
    "exception": ValueError("x"),
    "scalar": torch.tensor(3),
}


def saved(data: object, name: str = "m.pt", **options: Any) -> Make:
    """A file of torch.save, whose network is STATE."""

    def make(folder: Path) -> tuple[str, Tensors]:
        torch.save(data, folder / name, **options)
        return name, STATE

    return make


def rezipped(change: Callable[[dict[str, bytes]], object]) -> Make:
    def make(folder: Path) -> tuple[str, Tensors]:
        (folder / "m.pt").write_bytes(zips.rezipped(zips.saved(STATE), change))
        return "m.pt", STATE

    return make


def prefixed(members: dict[str, bytes], new: str) -> None:
    for name in list(members):
        members[name.replace("archive/", new)] = members.pop(name)


def without(members: dict[str, bytes], *parts: str) -> None:
    for name in [name for name in members if name.endswith(parts)]:
        del members[name]


def aligned(folder: Path) -> tuple[str, Tensors]:
    with config.patch({"save.storage_alignment": 4096}):
        return saved(STATE)(folder)


def without_checksums(folder: Path) -> tuple[str, Tensors]:
    before = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(compute_crc32=False)
    try:
        return saved(STATE)(folder)
    finally:
        torch.serialization.set_crc32_options(before)


def whole(*, zipped: bool, wrap: Callable[[nn.Module], object]) -> Make:
    def make(folder: Path) -> tuple[str, Tensors]:
        net = Net()
        name, _ = saved(wrap(net), _use_new_zipfile_serialization=zipped)(folder)
        return name, dict(net.state_dict())

    return make


def trained(net: nn.Module) -> dict[str, object]:
    optimizer = torch.optim.Adam(net.parameters())
    return {"net": net.state_dict(), "optimizer": optimizer.state_dict(), "o": optimizer}


def of_state(name: str, state: Tensors) -> Make:
    def make(folder: Path) -> tuple[str, Tensors]:
        torch.save(state, folder / name)
        return name, state

    return make


def headed(change: Callable[[dict[str, Any]], object] = lambda _: None, **how: Any) -> Make:
    """A safetensors file whose header is written anew, with blanks after it."""

    def make(folder: Path) -> tuple[str, Tensors]:
        path = folder / "m.safetensors"
        save_file(STATE, path, {"format": "pt"})
        raw = path.read_bytes()
        (length,) = struct.unpack("<Q", raw[:8])
        header = json.loads(raw[8 : 8 + length])
        change(header)
        text = json.dumps(header, **how).encode() + b" \t\r\n  "
        path.write_bytes(struct.pack("<Q", len(text)) + text + raw[8 + length :])
        return path.name, STATE

    return make


def empty_tensors(folder: Path) -> tuple[str, Tensors]:
    state = {**STATE, "none": torch.empty(0), "rows": torch.empty(0, 3), "scalar": torch.ones(())}
    save_file(state, folder / "m.safetensors")
    return "m.safetensors", state


def linked_shards(folder: Path) -> tuple[str, Tensors]:
    """As in the Hugging Face cache: every file is a link to a blob elsewhere."""
    blobs = folder / "blobs"
    state = {"s-1.safetensors": {"fc.weight": STATE["fc.weight"]}}
    state["s-2.safetensors"] = {n: t for n, t in STATE.items() if n != "fc.weight"}
    index = shards.sharded(blobs, state)
    (folder / "m").mkdir()
    for path in (index, *(blobs / name for name in state)):
        (folder / "m" / path.name).symlink_to(f"../blobs/{path.name}")
    return f"m/{index.name}", STATE


def numpy_arrays(write: Callable[[Path, dict[str, np.ndarray]], None], name: str) -> Make:
    def make(folder: Path) -> tuple[str, Tensors]:
        write(folder / name, {n: t.numpy() for n, t in STATE.items()})
        return name, STATE

    return make


def comment(folder: Path) -> tuple[str, Tensors]:
    made = saved(STATE)(folder)
    with zipfile.ZipFile(folder / "m.pt", "a") as out:
        out.comment = b"copied by hand"
    return made


BIG = torch.randn(100, 12)
KEYS = {"a b.weight": BIG[:5].clone(), "ключ": BIG[0].clone(), "": BIG[1].clone()}

NO_TENSORS = {n: x for n, x in THINGS.items() if not isinstance(x, torch.Tensor | np.ndarray)}

VALID: dict[str, Make] = {
    **{f"protocol-{n}": saved(STATE, pickle_protocol=n) for n in (2, 3, 4, 5)},
    **{
        f"legacy-protocol-{n}": saved(
            STATE, pickle_protocol=n, _use_new_zipfile_serialization=False
        )
        for n in (2, 4)
    },
    **{f"beside-{name}": saved({"model": STATE, "x": x}) for name, x in THINGS.items()},
    "among-all-of-them": saved({**STATE, **NO_TENSORS}),
    "among-all-of-them-in-a-legacy-file": saved(
        {**STATE, **NO_TENSORS}, _use_new_zipfile_serialization=False
    ),
    **{f"beside-odd-{name}": saved({"model": STATE, "x": x}) for name, x in odd_tensors().items()},
    "aligned": aligned,
    "without-checksums": without_checksums,
    "of-an-odd-name": saved(STATE, "odd name.v1.2 (é).pth.tar"),
    "with-folders": rezipped(lambda m: m.update({"archive/": b"", "archive/data/": b""})),
    "of-a-mac": rezipped(lambda m: m.update({"__MACOSX/archive/._data.pkl": b"x", ".DS": b""})),
    "of-another-folder": rezipped(lambda m: prefixed(m, "my model v1.0/")),
    "of-1.6": rezipped(lambda m: without(m, "version", "byteorder", "_id", "alignment")),
    "with-an-unused-storage": rezipped(lambda m: m.update({"archive/data/99": bytes(100)})),
    "with-code": rezipped(lambda m: m.update({"archive/code/x.py": b"x"})),
    "with-a-comment": comment,
    "a-module": whole(zipped=True, wrap=lambda net: net),
    "a-module-in-a-legacy-file": whole(zipped=False, wrap=lambda net: net),
    "a-module-beside-its-optimizer": whole(zipped=True, wrap=lambda net: {"m": net, "n": 1}),
    "a-trainer's": whole(zipped=True, wrap=trained),
    "in-a-list": saved([STATE]),
    "in-a-tuple-with-its-epoch": saved((STATE, 3)),
    "with-an-optimizer-in-a-list": saved([STATE, {"state": {}, "param_groups": []}]),
    "wrapped-four-times": saved({"a": {"b": {"c": STATE}}}),
    "with-a-dictionary-among-it": saved({**STATE, "extra": {"mean": torch.ones(3)}}),
    "odd-keys": of_state("m.pt", {**KEYS, "fc.weight": BIG[:5].clone()}),
    "numbers-as-keys": saved({**STATE, 0: torch.ones(2)}),
    "a-slice-of-a-larger-tensor": of_state("m.pt", {"fc.weight": BIG[10:15]}),
    "a-transposed-tensor": of_state("m.pt", {"fc.weight": BIG[:12, :5].reshape(12, 5).t()}),
    "tied-weights": of_state("m.pt", {"fc.weight": BIG[:5], "tied.weight": BIG[:5]}),
    "expanded": of_state("m.pt", {"fc.weight": BIG[:1].expand(5, 12)}),
    **{
        f"of-{dtype}".replace("torch.", ""): of_state("m.pt", tensors(dtype))
        for dtype in (torch.float16, torch.bfloat16, torch.float64, torch.float8_e4m3fn)
    },
    "safetensors": headed(),
    "safetensors-indented": headed(indent=4),
    "safetensors-without-metadata": headed(lambda header: header.pop("__metadata__")),
    "safetensors-of-null-metadata": headed(lambda header: header.update(__metadata__=None)),
    "safetensors-of-empty-tensors": empty_tensors,
    "shards-that-are-links": linked_shards,
    "arrays-in-a-file-of-torch": saved({n: t.numpy() for n, t in STATE.items()}),
    "npz": numpy_arrays(lambda path, state: np.savez(path, **state), "m.npz"),
    "npz-compressed": numpy_arrays(lambda path, state: np.savez_compressed(path, **state), "m.npz"),
    "pickle": numpy_arrays(lambda path, state: path.write_bytes(pickle.dumps(state)), "m.pkl"),
}
