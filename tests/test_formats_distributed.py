"""Torch distributed checkpoints, written by torch itself, read without loading what they name."""

from __future__ import annotations

import dataclasses
import itertools
import os
import pickle
import re
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as dcp
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.distributed.checkpoint import DefaultSavePlanner, SavePlan
from torch.distributed.checkpoint.filesystem import FileSystemWriter
from torch.distributed.checkpoint.metadata import ChunkStorageMetadata, MetadataIndex
from torch.distributed.checkpoint.planner import WriteItemType

from fcn_convert.conversion import convert, verify_conversion
from fcn_convert.errors import CheckpointError
from fcn_convert.formats import open_checkpoint
from fcn_convert.formats.strided import read_values

pytestmark = [
    # torch's own: it saves without a process group, and reads storages in an old way.
    pytest.mark.filterwarnings("ignore:.*distributed.*:UserWarning"),
    pytest.mark.filterwarnings("ignore:TypedStorage is deprecated"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]

SPEC = {"feature_map": [3, 2, 4]}


def net() -> nn.Sequential:
    torch.manual_seed(4)
    return nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(24, 5))


def trained() -> dict[str, Any]:
    """A model with its optimizer, as a trainer saves both."""
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    model(torch.randn(2, 1, 4, 6)).sum().backward()
    optimizer.step()
    return {"model": model.state_dict(), "optim": optimizer.state_dict(), "epoch": 3}


def save(state: dict[str, Any], folder: Path, planner: DefaultSavePlanner | None = None) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dcp.save(state, checkpoint_id=folder, planner=planner, no_dist=True)
    return folder


def read(path: Path, chosen: str | None = None) -> dict[str, bytes]:
    with open_checkpoint(path) as checkpoint:
        tensors = checkpoint.state_dict(chosen).tensors
        return {n: bytes(read_values(checkpoint.files[t.file], t)) for n, t in tensors.items()}


def raw(state: dict[str, Tensor]) -> dict[str, bytes]:
    return {name: t.contiguous().numpy().tobytes() for name, t in state.items()}


class Chunks(DefaultSavePlanner):
    """Saves tensors in the chunks that a sharding over several processes would give.

    cuts: where each axis of a tensor is cut, by its name.
    """

    def __init__(self, **cuts: Sequence[Sequence[int]]) -> None:
        super().__init__()
        self.cuts = {name.replace("_", ".").replace("..", "_"): cut for name, cut in cuts.items()}

    def create_local_plan(self) -> SavePlan:
        plan = super().create_local_plan()
        items = [new for item in plan.items for new in self.split(item)]
        self.plan = dataclasses.replace(plan, items=items)
        return self.plan

    def split(self, item: Any) -> Iterator[Any]:
        name = item.index.fqn
        if name not in self.cuts:
            yield item
            return
        axes = zip(self.state_dict[name].shape, self.cuts[name], strict=True)
        spans = [list(itertools.pairwise([0, *cut, size])) for size, cut in axes]
        for at, box in enumerate(itertools.product(*spans)):
            offsets = torch.Size(begin for begin, _ in box)
            sizes = torch.Size(end - begin for begin, end in box)
            chunk = ChunkStorageMetadata(offsets, sizes)
            yield dataclasses.replace(
                item,
                type=WriteItemType.SHARD,
                index=MetadataIndex(name, offsets, at),
                tensor_data=dataclasses.replace(item.tensor_data, chunk=chunk),
            )

    def resolve_data(self, item: Any) -> Any:
        if item.index.fqn not in self.cuts:
            return super().resolve_data(item)
        chunk = item.tensor_data.chunk
        return self.state_dict[item.index.fqn][
            tuple(slice(a, a + n) for a, n in zip(chunk.offsets, chunk.sizes, strict=True))
        ]


# What is read.


@pytest.mark.parametrize("by", ["folder", "file"])
def test_a_checkpoint_of_one_process(tmp_path: Path, by: str) -> None:
    state = trained()
    folder = save(state, tmp_path / "step-3")
    found = read(folder if by == "folder" else folder / ".metadata")
    assert found == raw(state["model"])
    with open_checkpoint(folder) as checkpoint:
        assert checkpoint.index.format == "torch distributed"
        assert [s.path for s in checkpoint.index.state_dicts] == ["model"]
        assert {entry.name for entry in checkpoint.index.left_out} == {"optim", "epoch"}
        assert all(file.path.suffix != "" for file in checkpoint.files[1:])  # nothing unpacked


def test_a_bare_state_dict(tmp_path: Path) -> None:
    assert read(save(net().state_dict(), tmp_path / "c")) == raw(net().state_dict())


def test_ema_beside_the_model(tmp_path: Path) -> None:
    model = net().state_dict()
    ema = {name: tensor + 1 for name, tensor in model.items()}
    folder = save({"model": model, "ema": ema}, tmp_path / "c")
    with pytest.raises(CheckpointError, match=r"holds model .*, ema .*choose one with"):
        read(folder)
    assert read(folder, "ema") == raw(ema)


def test_several_files_dtypes_and_strides(tmp_path: Path) -> None:
    state = {
        "half": torch.randn(4, 6).half(),
        "brain": torch.randn(4, 6).bfloat16().view(torch.int16),
        "columns": torch.randn(6, 4).T,
        "part": torch.randn(10, 6)[3:7],
        "number": torch.tensor(3),
        "none": torch.zeros(0, 4),
        "flags": torch.tensor([True, False]),
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dcp.save(
            state, storage_writer=FileSystemWriter(tmp_path / "c", thread_count=3), no_dist=True
        )
    assert len(list((tmp_path / "c").glob("*.distcp"))) > 1
    assert read(tmp_path / "c") == raw(state)


@pytest.mark.parametrize(
    "cuts",
    [
        pytest.param({"3_weight": [[2], []]}, id="rows"),
        pytest.param({"3_weight": [[], [7, 16]]}, id="columns"),
        pytest.param({"3_weight": [[2, 4], [8]]}, id="both"),
        pytest.param({"3_weight": [[5], []]}, id="an-empty-one"),
        pytest.param({"0_weight": [[1], [], [2], [1, 2]], "3_bias": [[3]]}, id="convolution"),
    ],
)
def test_tensors_in_chunks(tmp_path: Path, cuts: dict[str, Any]) -> None:
    state = net().state_dict()
    folder = save(state, tmp_path / "c", Chunks(**cuts))
    loaded = {name: torch.zeros_like(tensor) for name, tensor in state.items()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dcp.load(loaded, checkpoint_id=folder, no_dist=True)  # torch reads it likewise
    assert raw(loaded) == raw(state)
    assert read(folder) == raw(state)


def test_chunks_in_column_major_order(tmp_path: Path) -> None:
    state = {"w": torch.randn(24, 6).T}
    assert read(save(state, tmp_path / "c", Chunks(w=[[2, 3], [10]]))) == raw(state)


def test_chunks_of_the_optimizer_are_left_alone(
    tmp_path: Path,
) -> None:
    chunks = Chunks(optim_state_4_momentum__buffer=[[2], []])
    folder = save(trained(), tmp_path / "c", chunks)
    with open_checkpoint(folder) as checkpoint:
        assert len(checkpoint.files) == 2


RANK = """
import sys, torch, torch.distributed as dist, torch.distributed.checkpoint as dcp
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Replicate, Shard, distribute_tensor
rank, folder = int(sys.argv[1]), sys.argv[2]
dist.init_process_group("gloo", init_method=f"file://{folder}.rendezvous", rank=rank, world_size=2)
mesh = init_device_mesh("cpu", (2,))
state = torch.load(f"{folder}.pth")
how = {"3.weight": Shard(0), "0.weight": Shard(0), "3.bias": Shard(0), "1.weight": Replicate()}
shards = {n: distribute_tensor(t, mesh, [how[n]]) if n in how else t for n, t in state.items()}
dcp.save({"model": shards}, checkpoint_id=folder)
dist.destroy_process_group()
"""


@pytest.mark.heavy  # two processes that import torch
def test_two_processes(tmp_path: Path) -> None:
    folder = tmp_path / "c"
    torch.save(net().state_dict(), f"{folder}.pth")
    ranks = [
        subprocess.Popen([sys.executable, "-W", "ignore", "-c", RANK, str(rank), str(folder)])
        for rank in range(2)
    ]
    assert [rank.wait(timeout=120) for rank in ranks] == [0, 0]
    assert len(list(folder.glob("*.distcp"))) == 2
    assert read(folder) == raw(net().state_dict())


@pytest.mark.parametrize("cuts", [{}, {"model_3_weight": [[2], [8]]}], ids=["whole", "chunks"])
def test_a_conversion(tmp_path: Path, cuts: dict[str, Any]) -> None:
    state = trained()
    folder = save(state, tmp_path / "step-3.0", Chunks(**cuts))
    (tmp_path / "step-3.0.yaml").write_text("feature_map: [3, 2, 4]\nflatten: HWC\n")
    report = convert(folder)
    out = load_file(tmp_path / "step-3.0.fcn.safetensors")
    weight = state["model"]["3.weight"].reshape(5, 2, 4, 3).permute(0, 3, 1, 2)
    assert torch.equal(out["3.weight"], weight)
    assert set(out) == set(state["model"])
    assert {part.name for part in report.source.files} == {".metadata", "__0_0.distcp"}
    verify_conversion(folder / ".metadata", tmp_path / "step-3.0.fcn.safetensors")


# What is refused.


def resaved(folder: Path, change: Callable[[Any], None]) -> None:
    """Change the metadata as torch's own objects, and pickle them again."""
    path = folder / ".metadata"
    data = pickle.loads(path.read_bytes())
    change(data)
    path.write_bytes(pickle.dumps(data, protocol=4))


def place_of(data: Any, name: str) -> Any:
    return next(info for index, info in data.storage_data.items() if index.fqn == name)


def elsewhere(data: Any) -> None:
    place_of(data, "3.weight").relative_path = "../x.distcp"


def no_such_file(data: Any) -> None:
    place_of(data, "3.weight").relative_path = "__9_0.distcp"


def beyond(data: Any) -> None:
    place_of(data, "3.weight").offset = 1 << 20


def huge(data: Any) -> None:
    place_of(data, "3.weight").length = 1 << 70


def of_another(data: Any) -> None:
    place_of(data, "3.weight").offset = place_of(data, "3.bias").offset
    place_of(data, "3.weight").length = place_of(data, "3.bias").length


def compressed(data: Any) -> None:
    place_of(data, "3.weight").transform_descriptors = ["zstd"]


def not_stored(data: Any) -> None:
    data.storage_data = {i: p for i, p in data.storage_data.items() if i.fqn != "3.weight"}


def other_dtype(data: Any) -> None:
    data.state_dict_metadata["3.weight"].properties.dtype = torch.float64


def larger(data: Any) -> None:
    data.state_dict_metadata["3.weight"].size = torch.Size([6, 24])


def overlap(data: Any) -> None:
    chunk = data.state_dict_metadata["3.weight"].chunks[0]
    data.state_dict_metadata["3.weight"].chunks = [chunk, chunk]


def hole(data: Any) -> None:
    data.state_dict_metadata["3.weight"].chunks = [
        ChunkStorageMetadata(torch.Size([0, 0]), torch.Size([2, 24])),
        ChunkStorageMetadata(torch.Size([3, 0]), torch.Size([2, 24])),
    ]


def ragged(data: Any) -> None:
    data.state_dict_metadata["3.weight"].chunks = [
        ChunkStorageMetadata(torch.Size([0, 0]), torch.Size([2, 24])),
        ChunkStorageMetadata(torch.Size([2, 0]), torch.Size([3, 12])),
        ChunkStorageMetadata(torch.Size([2, 12]), torch.Size([3, 12])),
    ]


def nothing(data: Any) -> None:
    chunk = data.state_dict_metadata["3.weight"].chunks[0]
    chunk.sizes = torch.Size([5, 0])


def overflowing(data: Any) -> None:
    data.state_dict_metadata["3.weight"].size = torch.Size([1 << 40, 1 << 40])


def two_places(data: Any) -> None:
    data.planner_data["3.weight"] = ("3.bias",)


def in_a_tensor(data: Any) -> None:
    data.planner_data["3.bias"] = ("3.weight", "x")


def nowhere(data: Any) -> None:
    data.planner_data["3.weight"] = ()


def no_storage(data: Any) -> None:
    data.storage_data = None


def no_tensors(data: Any) -> None:
    data.state_dict_metadata = None


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (elsewhere, r"names the file '\.\./x\.distcp', which is not in its folder"),
        (no_such_file, "__9_0.distcp: No such file"),
        (beyond, "'3.weight' cannot be read: its chunk reaches beyond __0_0.distcp"),
        (huge, "the place of '3.weight' is not a natural number of 64 bits"),
        (of_another, r"__0_0\.distcp does not hold F32 \[5, 24\] of it"),
        (compressed, "'3.weight' is stored in a changed form, say compressed"),
        (not_stored, r"its chunk at \[0, 0\] is in no file"),
        (other_dtype, r"does not hold F64 \[5, 24\] of it"),
        (larger, "its chunks end at 5 along axis 0, of 6"),
        (overlap, "its chunks are not a grid"),
        (hole, "its chunks do not follow each other along axis 0"),
        (nothing, "its chunks end at 0 along axis 0, of 5"),
        (ragged, "its chunks do not follow each other along axis 1"),
        (overflowing, "the size of '3.weight', .* overflows"),
        (two_places, "'3.bias' is there twice"),
        (in_a_tensor, "'3.weight' is a tensor and a dictionary at once"),
        (nowhere, "its `planner_data` does not lead to a tensor"),
        (no_storage, "has no `storage_data`"),
        (no_tensors, "has no `state_dict_metadata`"),
    ],
)
def test_what_does_not_fit(tmp_path: Path, change: Callable[[Any], None], sentence: str) -> None:
    folder = save(net().state_dict(), tmp_path / "c")
    resaved(folder, change)
    with pytest.raises(CheckpointError, match=sentence) as caught:
        open_checkpoint(folder)
    if change not in {elsewhere, no_such_file}:
        assert re.search("dcp_to_torch FOLDER FILE.pth`, which runs whatever", str(caught.value))


def test_other_dtypes_are_told(tmp_path: Path) -> None:
    folder = save({"w": torch.randn(4, 6).to(torch.complex128)}, tmp_path / "c")
    with pytest.raises(CheckpointError, match=r"w is of dtype torch\.complex128"):
        read(folder)


def test_truncated_files(tmp_path: Path) -> None:
    folder = save(net().state_dict(), tmp_path / "c")
    path = folder / "__0_0.distcp"
    whole = path.read_bytes()
    for length in range(0, len(whole), 211):
        path.write_bytes(whole[:length])
        with pytest.raises(CheckpointError):
            open_checkpoint(folder)
    path.write_bytes(whole)
    metadata = (folder / ".metadata").read_bytes()
    for length in range(0, len(metadata), 17):
        (folder / ".metadata").write_bytes(metadata[:length])
        with pytest.raises(CheckpointError):
            open_checkpoint(folder)


def test_a_damaged_chunk(tmp_path: Path) -> None:
    folder = save(net().state_dict(), tmp_path / "c")
    with open_checkpoint(folder) as checkpoint:
        at = checkpoint.state_dict(None).tensors["3.weight"].offset
    with (folder / "__0_0.distcp").open("r+b") as file:
        os.pwrite(file.fileno(), b"\x55\x55", at)
    with pytest.raises(CheckpointError, match="is damaged: the checksum of 'archive/data/0'"):
        convert(folder, SPEC, level="bytes")


class Marker:
    """Leaves a file behind where it is unpickled as pickle does."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (str(self.path), "w")


def test_nothing_that_the_metadata_names_is_run(tmp_path: Path) -> None:
    folder = save(net().state_dict(), tmp_path / "c")

    def plant(data: Any) -> None:
        data.storage_meta = Marker(tmp_path / "marker")
        data.planner_data["3.weight"] = ("3.weight",)

    resaved(folder, plant)
    assert read(folder) == raw(net().state_dict())
    assert not (tmp_path / "marker").exists()
    pickle.loads((folder / ".metadata").read_bytes()).storage_meta.close()
    assert (tmp_path / "marker").exists()  # as torch's own reader does
