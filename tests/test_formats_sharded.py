"""Indexes of shards, clause by clause: what writers make is read, what does not fit is told."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from fcn_convert.errors import CheckpointError
from fcn_convert.formats import open_checkpoint
from fcn_convert.formats.json_text import MAX_JSON
from fcn_convert.formats.source import MAX_FILES
from fcn_convert.formats.strided import read_values

INDEX = "model.safetensors.index.json"
FIRST, SECOND = "model-00001-of-00002", "model-00002-of-00002"


def halves() -> dict[str, dict[str, Tensor]]:
    torch.manual_seed(2)
    first = {"conv.weight": torch.randn(3, 1, 3, 3), "conv.bias": torch.randn(3)}
    return {FIRST: first, SECOND: {"fc.weight": torch.randn(5, 24), "fc.bias": torch.randn(5)}}


def sharded(folder: Path, kind: str = "safetensors") -> Path:
    """Write two shards, and return their index."""
    folder.mkdir(exist_ok=True)
    weight_map = {}
    for stem, tensors in halves().items():
        name = f"{stem}.{kind}"
        weight_map |= dict.fromkeys(tensors, name)
        if kind == "bin":
            torch.save(tensors, folder / name)
        else:
            save_file(tensors, folder / name, {"format": "pt"})
    path = folder / (INDEX if kind == "safetensors" else "pytorch_model.bin.index.json")
    path.write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return path


@pytest.fixture
def index(tmp_path: Path) -> Path:
    return sharded(tmp_path / "net")


def change(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def remap(path: Path, **names: Any) -> None:
    """Change which file the index names for some tensors; None removes one."""
    weight_map = {**json.loads(path.read_text())["weight_map"], **names}
    change(path, weight_map={n: file for n, file in weight_map.items() if file is not None})


def read(path: Path) -> dict[str, bytes]:
    with open_checkpoint(path) as checkpoint:
        tensors = checkpoint.state_dict(None).tensors
        return {n: bytes(read_values(checkpoint.files[t.file], t)) for n, t in tensors.items()}


def wanted() -> dict[str, bytes]:
    return {n: t.numpy().tobytes() for shard in halves().values() for n, t in shard.items()}


# What is read.


@pytest.mark.parametrize("kind", ["safetensors", "bin"])
@pytest.mark.parametrize("by", ["index", "folder"])
def test_shards(tmp_path: Path, kind: str, by: str) -> None:
    path = sharded(tmp_path / "net", kind)
    assert read(path if by == "index" else path.parent) == wanted()
    with open_checkpoint(path) as checkpoint:
        shards = checkpoint.index.shards
    assert [(shard.name, shard.names) for shard in shards] == [
        (f"{stem}.{kind}", frozenset(tensors)) for stem, tensors in halves().items()
    ]


def test_shards_of_arrays_of_numpy(tmp_path: Path) -> None:
    arrays = {"a.bin": {"w": np.ones((3, 4), "f4")}, "b.bin": {"v": np.arange(5.0)}}
    for name, shard in arrays.items():
        torch.save(shard, tmp_path / name)
    path = tmp_path / "m.index.json"
    path.write_text(json.dumps({"weight_map": {"w": "a.bin", "v": "b.bin"}}))
    assert read(path) == {"w": np.ones((3, 4), "f4").tobytes(), "v": np.arange(5.0).tobytes()}


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed], ids=["stored", "deflated"])
def test_a_shard_of_npz(tmp_path: Path, save: Callable[..., None]) -> None:
    save(tmp_path / "a.npz", w=np.arange(5.0))
    path = tmp_path / "m.index.json"
    path.write_text(json.dumps({"weight_map": {"w": "a.npz"}}))
    assert read(path) == {"w": np.arange(5.0).tobytes()}


@pytest.mark.parametrize("what", ["shards", "all", "folder"])
def test_links_as_in_a_cache_are_followed(index: Path, tmp_path: Path, what: str) -> None:
    blobs = tmp_path / "blobs"
    blobs.mkdir()
    for path in list(index.parent.iterdir()):
        if what == "all" or path != index:
            path.rename(blobs / path.stem)
            path.symlink_to(Path("../blobs") / path.stem)
    if what == "folder":
        (tmp_path / "linked").symlink_to("net")
        index = tmp_path / "linked"
    assert read(index) == wanted()


# Names of files.


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        pytest.param("/etc/passwd", "names the file '/etc/passwd', which is not in", id="absolute"),
        pytest.param("../net.safetensors", r"names the file '\.\./net", id="up"),
        pytest.param("..", r"names the file '\.\.', which", id="dots"),
        pytest.param(".", r"names the file '\.', which", id="dot"),
        pytest.param("./a.safetensors", r"names the file '\./a", id="here"),
        pytest.param("sub/a.safetensors", "names the file 'sub/a", id="below"),
        pytest.param("", "names the file '', which", id="empty"),
        pytest.param("a\0.safetensors", r"names the file 'a\\x00", id="nul"),
        pytest.param("\ud800", r"\\ud800': is not a file name", id="surrogate"),
        pytest.param("\x1b[2J", r"net/\x1b\[2J: No such file", id="escape"),
        pytest.param("a" * 300, "File name too long", id="long"),
        pytest.param("none.safetensors", r"none\.safetensors: No such file", id="missing"),
        pytest.param(3, "names no file for 'fc.weight'", id="number"),
        pytest.param(["a"], "names no file for 'fc.weight'", id="list"),
        pytest.param(INDEX, "index.json: is not a shard of safetensors", id="itself"),
    ],
)
def test_names_of_shards(index: Path, name: Any, sentence: str) -> None:
    remap(index, **{"fc.weight": name, "fc.bias": name})
    with pytest.raises(CheckpointError, match=sentence):
        open_checkpoint(index)


def fifo(path: Path) -> None:
    os.mkfifo(path)


def folder(path: Path) -> None:
    path.mkdir()


def dangling(path: Path) -> None:
    path.symlink_to("nowhere")


def loop(path: Path) -> None:
    path.symlink_to(path.name)


def empty(path: Path) -> None:
    path.write_bytes(b"")


def two_state_dicts(path: Path) -> None:
    torch.save({"model": halves()[SECOND], "ema": {"fc.weight": torch.ones(5, 24)}}, path)


def pointer(path: Path) -> None:
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3\n")


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (fifo, "is not a regular file"),
        (folder, "is not a regular file"),
        (dangling, "No such file"),
        (loop, "Too many levels"),
        (empty, "is not a shard of"),
        (pointer, "is not a shard of"),
        (two_state_dicts, "holds 2 state dicts, expected one"),
    ],
)
def test_what_is_no_shard(index: Path, make: Callable[[Path], None], sentence: str) -> None:
    path = index.with_name(f"{SECOND}.safetensors")
    path.unlink()
    make(path)
    with pytest.raises(CheckpointError, match=rf"{SECOND}\.safetensors: {sentence}"):
        open_checkpoint(index)


def test_a_truncated_shard(index: Path) -> None:
    path = index.with_name(f"{SECOND}.safetensors")
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match=f"{SECOND}.*it is truncated"):
        open_checkpoint(index)


def test_more_shards_than_any_model_has(tmp_path: Path) -> None:
    weight_map = {}
    for at in range(MAX_FILES):
        save_file({f"t{at}": torch.ones(1)}, tmp_path / f"{at}.safetensors")
        weight_map[f"t{at}"] = f"{at}.safetensors"
    path = tmp_path / INDEX
    path.write_text(json.dumps({"weight_map": weight_map}))
    with pytest.raises(CheckpointError, match=f"names more than {MAX_FILES} files"):
        open_checkpoint(path)


# Which tensors are where.


def doubled_tensor(index: Path) -> None:
    """The second shard holds a tensor of the first one, too."""
    both = {**halves()[SECOND], "conv.bias": halves()[FIRST]["conv.bias"]}
    save_file(both, index.with_name(f"{SECOND}.safetensors"))


def doubled_shard(index: Path) -> None:
    """Both names are of one file."""
    path = index.with_name(f"{SECOND}.safetensors")
    path.unlink()
    os.link(index.with_name(f"{FIRST}.safetensors"), path)


def swapped_shards(index: Path) -> None:
    first, second = (index.with_name(f"{stem}.safetensors") for stem in (FIRST, SECOND))
    spare = index.with_name("spare")
    first.rename(spare)
    second.rename(first)
    spare.rename(second)


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        pytest.param(
            lambda i: remap(i, missing=f"{FIRST}.safetensors"),
            f"{FIRST}.safetensors: lacks missing, against {INDEX}; the two are not of one",
            id="in the index only",
        ),
        pytest.param(
            lambda i: remap(i, **{"fc.bias": None}),
            f"{SECOND}.safetensors: holds fc.bias, against",
            id="in the shard only",
        ),
        pytest.param(
            lambda i: remap(i, **{"fc.bias": f"{FIRST}.safetensors"}),
            f"{FIRST}.safetensors: lacks fc.bias, against",
            id="in the other shard",
        ),
        pytest.param(doubled_tensor, f"{SECOND}.safetensors: holds conv.bias", id="in both shards"),
        pytest.param(
            doubled_shard, f"{SECOND}.*lacks fc.bias, fc.weight and holds conv", id="twice"
        ),
        pytest.param(swapped_shards, f"{FIRST}.*lacks conv.bias", id="swapped"),
    ],
)
def test_tensors_and_shards_that_do_not_fit(
    index: Path, spoil: Callable[[Path], None], sentence: str
) -> None:
    spoil(index)
    with pytest.raises(CheckpointError, match=sentence):
        open_checkpoint(index)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        pytest.param('{"weight_map": {"w": "a", "w": "b"}}', "names 'w' twice", id="tensor-twice"),
        pytest.param(
            '{"weight_map": {"w": "a"}, "weight_map": {}}',
            "names 'weight_map' twice",
            id="map-twice",
        ),
        pytest.param('{"weight_map": {}}', "names 0 tensors; expected 1 to", id="none"),
        pytest.param('{"weight_map": []}', "is JSON without a `weight_map`", id="list"),
        pytest.param('{"metadata": {}}', "is JSON without a `weight_map`", id="no-map"),
        pytest.param('{"weight_map": {"w": "a"}', "is not JSON", id="cut"),
        pytest.param('{"a":' * 100_000, "is not JSON", id="deep"),
        pytest.param('{"weight_map": {"w": "a\udcff"}}', "is not JSON", id="not-utf-8"),
    ],
)
def test_texts_that_are_no_index(tmp_path: Path, text: str, sentence: str) -> None:
    path = tmp_path / INDEX
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(CheckpointError, match=sentence):
        open_checkpoint(path)


def test_an_index_of_more_bytes_than_any(tmp_path: Path) -> None:
    path = tmp_path / INDEX
    path.write_bytes(b'{"weight_map": {"w": "a"}}' + b" " * MAX_JSON)
    with pytest.raises(CheckpointError, match=r"is JSON of \d+ bytes, more than any index"):
        open_checkpoint(path)


# total_size: what writers are known for is read without a word, other numbers are told of, and
# what no writer's mistake explains is an error.

TENSORS = sum(tensor.nbytes for shard in halves().values() for tensor in shard.values())


def files_of(index: Path) -> int:
    return sum(path.stat().st_size for path in index.parent.glob("*.safetensors"))


@pytest.mark.parametrize(
    "metadata",
    [
        pytest.param({"total_size": TENSORS}, id="tensors"),
        pytest.param({"total_size": float(TENSORS)}, id="as-a-fraction"),
        pytest.param({"total_size": "files"}, id="files"),
        pytest.param({"total_parameters": 1}, id="not-said"),
        pytest.param({}, id="nothing"),
        pytest.param(None, id="null"),
    ],
)
def test_sizes_that_writers_give(index: Path, metadata: dict[str, Any] | None) -> None:
    if metadata == {"total_size": "files"}:  # mlx-lm's first
        metadata = {"total_size": files_of(index)}
    change(index, metadata=metadata)
    assert read(index) == wanted()
    assert open_checkpoint(index).index.notes == ()


def test_tied_tensors_are_counted_once_or_twice(tmp_path: Path) -> None:
    weight = torch.randn(5, 24)
    torch.save({"fc.weight": weight, "tied.weight": weight}, tmp_path / "a.bin")
    path = tmp_path / "m.index.json"
    names = {"fc.weight": "a.bin", "tied.weight": "a.bin"}
    notes = {}
    for times in (1, 2, 3):
        metadata = {"total_size": times * weight.nbytes}
        path.write_text(json.dumps({"metadata": metadata, "weight_map": names}))
        notes[times] = len(open_checkpoint(path).index.notes)
    assert notes == {1: 0, 2: 0, 3: 1}


@pytest.mark.parametrize("said", [0, 1, TENSORS // 2, TENSORS * 2, TENSORS * 8, TENSORS - 0.125])
def test_sizes_of_other_shards_are_told_of(index: Path, said: float) -> None:
    change(index, metadata={"total_size": said})
    assert read(index) == wanted()
    (note,) = open_checkpoint(index).index.notes
    assert note == (
        f"the index declares {said:.0f} bytes of tensors, and the shards hold {TENSORS}: it may be "
        "older than they are"
    )


@pytest.mark.parametrize(
    ("metadata", "sentence"),
    [
        pytest.param(
            {"total_size": 10**15}, "declares 1000000000000000 bytes of .* some are", id="far"
        ),
        pytest.param({"total_size": -1}, "its `total_size` is not a size: '-1'", id="negative"),
        pytest.param({"total_size": "1 GB"}, "is not a size: '1 GB'", id="text"),
        pytest.param({"total_size": True}, "is not a size: 'True'", id="true"),
        pytest.param({"total_size": [1]}, "is not a size", id="list"),
        pytest.param({"total_size": float("nan")}, "is not a size: 'nan'", id="nan"),
        pytest.param({"total_size": float("inf")}, "is not a size: 'inf'", id="infinite"),
        pytest.param({"total_size": 10**30}, "is not JSON: .* does not fit in 64 bits", id="huge"),
        pytest.param([1], "its `metadata` is not an object", id="metadata-list"),
        pytest.param("x", "its `metadata` is not an object", id="metadata-text"),
    ],
)
def test_sizes_that_are_lies(index: Path, metadata: Any, sentence: str) -> None:
    change(index, metadata=metadata)
    with pytest.raises(CheckpointError, match=sentence):
        open_checkpoint(index)


def test_a_size_just_too_far(index: Path) -> None:
    change(index, metadata={"total_size": 16 * files_of(index)})
    assert read(index) == wanted()
    change(index, metadata={"total_size": 16 * files_of(index) + 1})
    with pytest.raises(CheckpointError, match="some are missing"):
        open_checkpoint(index)


def test_shards_in_the_old_form_of_torch(tmp_path: Path) -> None:
    path = sharded(tmp_path / "net", "bin")
    for stem, tensors in halves().items():
        buffer = io.BytesIO()
        torch.save(tensors, buffer, _use_new_zipfile_serialization=False)
        path.with_name(f"{stem}.bin").write_bytes(buffer.getvalue())
    assert read(path) == wanted()


def test_nothing_stays_open_after_an_error(index: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    remap(index, **{"fc.bias": "none"})
    with pytest.raises(CheckpointError):
        open_checkpoint(index)
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_folder_with_the_index_of_a_variant_is_read_by_it(tmp_path: Path) -> None:
    names = [f"model.fp16-0000{number}-of-00002.safetensors" for number in (1, 2)]
    for name, tensors in zip(names, halves().values(), strict=True):
        save_file(tensors, tmp_path / name)
    pairs = zip(names, halves().values(), strict=True)
    weight_map = {tensor: name for name, tensors in pairs for tensor in tensors}
    index = {"weight_map": weight_map}
    (tmp_path / "model.safetensors.index.fp16.json").write_text(json.dumps(index))
    with open_checkpoint(tmp_path) as checkpoint:
        assert checkpoint.state_dict(None).tensors.keys() == weight_map.keys()


def test_a_shard_alone_is_warned_of_and_shards_without_their_index_are_refused(
    tmp_path: Path,
) -> None:
    names = [f"model-0000{number}-of-00002.safetensors" for number in (1, 2)]
    for name, tensors in zip(names, halves().values(), strict=True):
        save_file(tensors, tmp_path / name)
    said = "is shard 2 of 2 by its name, and no other shard is read"
    with open_checkpoint(tmp_path / names[1]) as checkpoint:
        [warning] = checkpoint.index.warnings
    assert said in warning
    with pytest.raises(
        CheckpointError, match=r"holds 2 shards \(.*\) without the index that names"
    ):
        open_checkpoint(tmp_path)
    weight_map = {
        name: file for file, each in zip(names, halves().values(), strict=True) for name in each
    }
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": weight_map}))
    with open_checkpoint(index) as checkpoint:
        assert not checkpoint.index.warnings
    (tmp_path / names[0]).rename(tmp_path / "net-00001-of-00001.safetensors")
    with open_checkpoint(tmp_path / "net-00001-of-00001.safetensors") as checkpoint:
        assert not checkpoint.index.warnings
