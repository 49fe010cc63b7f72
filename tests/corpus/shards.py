"""Sharded checkpoints, and indexes that do not fit their shards, or lead elsewhere."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file


def sharded(folder: Path, shards: Mapping[str, Mapping[str, torch.Tensor]]) -> Path:
    folder.mkdir(exist_ok=True)
    weight_map = {}
    for name, tensors in shards.items():
        weight_map |= dict.fromkeys(tensors, name)
        if name.endswith(".bin"):
            torch.save(dict(tensors), folder / name)
        else:
            save_file(dict(tensors), folder / name, {"format": "pt"})
    kind = "pytorch_model.bin" if ".bin" in name else "model.safetensors"
    path = folder / f"{kind}.index.json"
    path.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": weight_map}))
    return path


SHARDS = {
    "model-1.safetensors": {"fc.weight": torch.arange(20.0).reshape(5, 4)},
    "model-2.safetensors": {"fc.bias": torch.ones(5), "conv.weight": torch.ones(1, 1, 2, 2)},
}
FIRST, SECOND = SHARDS
INDEX = "model.safetensors.index.json"
Change = Callable[[Path, dict[str, str]], object]
"""Of the folder, and of which file the index names for a tensor."""


def at(name: object) -> Change:
    """The index names a file for `fc.bias` that is not where it says."""
    return lambda _, names: names.update({"fc.bias": name})


def moved(folder: Path) -> None:
    (folder / "elsewhere").mkdir()
    (folder / SECOND).rename(folder / "elsewhere" / SECOND)


def doubled(folder: Path) -> None:
    save_file({**SHARDS[SECOND], "fc.weight": torch.ones(5, 4)}, folder / SECOND)


def replaced(make: Callable[[Path], object]) -> Change:
    def change(folder: Path, _: object) -> None:
        (folder / SECOND).unlink()
        make(folder / SECOND)

    return change


OUTSIDE = "names the file .*, which is not in its folder"
MALFORMED: dict[str, tuple[Change, str]] = {
    "lacks": (lambda _, names: names.update(missing=FIRST), "lacks missing, against model.safe"),
    "holds": (lambda _, names: names.pop("fc.bias"), "holds fc.bias, against"),
    "elsewhere": (at(FIRST), "model-1.safetensors: lacks fc.bias"),
    "climbs": (at(f"../{SECOND}"), OUTSIDE),
    "climbs-by-backslash": (at(f"..\\{SECOND}"), "No such file"),
    "absolute": (at(f"/etc/{SECOND}"), OUTSIDE),
    "in-a-folder": (lambda f, names: (moved(f), at(f"elsewhere/{SECOND}")(f, names)), OUTSIDE),
    "dot": (at("."), OUTSIDE),
    "dots": (at(".."), OUTSIDE),
    "no-name": (at(""), OUTSIDE),
    "nul": (at("a\0b"), OUTSIDE),
    "name-of-a-megabyte": (
        lambda _, names: names.update(dict.fromkeys(names, "n" * 1_000_000)),
        "File name too long",
    ),
    "name-is-a-surrogate": (at("\ud800"), "is not a file name"),
    "name-is-an-escape": (at("\x1b[31m"), r"\\x1b\[31m: No such file"),
    "a-number": (at(3), "names no file for 'fc.bias'"),
    "a-list": (at([SECOND]), "names no file for 'fc.bias'"),
    "itself": (
        lambda _, names: names.update(dict.fromkeys(names, INDEX)),
        "is not a shard of safetensors or of torch.save",
    ),
    "file-missing": (lambda folder, _: (folder / SECOND).unlink(), f"{SECOND}: No such file"),
    "file-is-a-folder": (replaced(Path.mkdir), f"{SECOND}: is not a regular file"),
    "file-is-a-fifo": (replaced(os.mkfifo), f"{SECOND}: is not a regular file"),
    "file-is-a-loop": (replaced(lambda path: path.symlink_to(SECOND)), "Too many levels"),
    "file-is-a-device": (replaced(lambda path: path.symlink_to("/dev/zero")), "not a regular"),
    "file-truncated": (
        lambda folder, _: os.truncate(folder / SECOND, 200),
        f"{SECOND}: tensors end at byte .*: it is truncated",
    ),
    "file-empty": (replaced(Path.touch), "is not a shard of safetensors or of torch.save"),
    "file-is-a-page": (
        replaced(lambda path: path.write_text("<html>")),
        "is not a shard of safetensors or of torch.save",
    ),
    "file-of-another-tensor": (
        lambda folder, _: save_file({"x": torch.ones(1)}, folder / SECOND),
        f"{SECOND}: lacks conv.weight, fc.bias and holds x",
    ),
    "tensor-in-two-files": (lambda folder, _: doubled(folder), f"{SECOND}: holds fc.weight"),
    "no-tensors": (lambda _, names: names.clear(), "names 0 tensors; expected 1 to"),
    "more-files-than-any": (
        lambda folder, names: (
            names.update({f"w{i}": f"{i:03}" for i in range(600)}),
            [save_file({f"w{i}": torch.ones(1)}, folder / f"{i:03}") for i in range(600)],
        ),
        "names more than 512 files",
    ),
}

MAP = '"weight_map": {"fc.bias": "model-2.safetensors"'
TEXTS: dict[str, tuple[bytes, str]] = {
    "no-map": (b'{"metadata": {}}', "is JSON without a `weight_map`"),
    "map-is-a-list": (b'{"weight_map": []}', "is JSON without a `weight_map`"),
    "tensor-named-twice": (f'{{{MAP}, "fc.bias": "x"}}}}'.encode(), "it names 'fc.bias' twice"),
    "two-maps": (f"{{{MAP}}}, {MAP}}}}}".encode(), "it names 'weight_map' twice"),
    "unfinished": (f"{{{MAP}}}".encode(), "the file is not JSON"),
    "not-utf8": (b'{"weight_map": {"\xff": "a"}}', "the file is not JSON"),
    "nested": (b'{"weight_map": ' + b'{"a": ' * 100_000, "the file is not JSON"),
    "nested-lists": (b'{"a": ' + b"[" * 1_000_000, "the file is not JSON|more than 250000 parts"),
    "number-of-5000-digits": (b'{"a": ' + b"9" * 5000 + b"}", "the file is not JSON"),
    "over-12-MB": (b'{"a": "' + b"x" * (17 << 20), "is JSON of .* bytes, more than any index"),
    "many-small-objects": (b'{"a": [' + b"{}," * 3_000_000 + b"0]}", "more than 250000 parts"),
    "many-small-texts": (b'{"a": [' + b'"ab",' * 2_300_000 + b"0]}", "without a `weight_map`"),
}


def broken(folder: Path, change: Change) -> Path:
    """Write shards and their index, with a change of either."""
    path = sharded(folder, SHARDS)
    data = json.loads(path.read_text())
    change(folder, data["weight_map"])
    path.write_text(json.dumps(data))
    return path
