"""The output of a sharded checkpoint: a folder of the same shards with an index of its own."""

from __future__ import annotations

import ctypes
import errno
import json
import os
import shutil
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor
from typer.testing import CliRunner, Result

from fcn_convert import conversion, shard_folder
from fcn_convert.batch import perform
from fcn_convert.batch.jobs import find_sources, make_jobs
from fcn_convert.cli import app
from fcn_convert.conversion import convert, verify_conversion
from fcn_convert.errors import CheckpointError, OutputError
from fcn_convert.formats import open_checkpoint
from fcn_convert.report import CheckFailedError
from fcn_convert.turns import Turn

INDEX = "model.safetensors.index.json"
SPEC = {"feature_map": [3, 2, 4]}
HWC = {**SPEC, "flatten": "HWC"}


def tensors(seed: int = 0) -> dict[str, dict[str, Tensor]]:
    """Three shards: a trunk, a head, and the head's end."""
    torch.manual_seed(seed)
    return {
        "model-00001-of-00003": {
            "conv.weight": torch.randn(3, 1, 3, 3),
            "bn.running_mean": torch.randn(3),
            "bn.num_batches_tracked": torch.tensor(7),
        },
        "model-00002-of-00003": {
            "head.0.weight": torch.randn(5, 24),
            "head.0.bias": torch.randn(5),
        },
        "model-00003-of-00003": {"head.2.weight": torch.randn(2, 5), "head.2.bias": torch.randn(2)},
    }


def merged(shards: Mapping[str, Mapping[str, Tensor]]) -> dict[str, Tensor]:
    return {name: tensor for shard in shards.values() for name, tensor in shard.items()}


def expected(flatten: str = "CHW", seed: int = 0) -> dict[str, Tensor]:
    """The oracle: PyTorch's own reshape and permute."""
    found = merged(tensors(seed))
    weight = found["head.0.weight"]
    found["head.0.weight"] = (
        weight.reshape(5, 3, 2, 4)
        if flatten == "CHW"
        else weight.reshape(5, 2, 4, 3).permute(0, 3, 1, 2).contiguous()
    )
    found["head.2.weight"] = found["head.2.weight"].reshape(2, 5, 1, 1)
    return found


def saved(folder: Path, kind: str = "safetensors", seed: int = 0) -> Path:
    """Write the shards and their index as transformers does; return the index."""
    folder.mkdir(parents=True)
    weight_map = {}
    for stem, shard in tensors(seed).items():
        name = f"pytorch_{stem}.bin" if kind == "bin" else f"{stem}.safetensors"
        if kind == "bin":
            torch.save(shard, folder / name)
        else:
            save_file(shard, folder / name, {"format": "pt"})
        weight_map |= dict.fromkeys(shard, name)
    total = sum(tensor.nbytes for tensor in merged(tensors()).values())
    path = folder / ("pytorch_model.bin.index.json" if kind == "bin" else INDEX)
    path.write_text(json.dumps({"metadata": {"total_size": total}, "weight_map": weight_map}))
    return path


@pytest.fixture
def index(tmp_path: Path) -> Path:
    return saved(tmp_path / "vgg")


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def loaded(folder: Path) -> dict[str, Tensor]:
    """Load as transformers does: the index says which shard holds what."""
    weight_map = json.loads((folder / INDEX).read_text())["weight_map"]
    assert list(weight_map) == sorted(weight_map)
    shards = {name: load_file(folder / name) for name in sorted(set(weight_map.values()))}
    assert {path.name for path in folder.iterdir()} == {INDEX, *shards}
    assert {n: name for name, shard in shards.items() for n in shard} == weight_map
    return merged(shards)


def same(found: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> bool:
    return found.keys() == wanted.keys() and all(
        (found[n].dtype, found[n].shape) == (t.dtype, t.shape)
        and found[n].numpy().tobytes() == t.numpy().tobytes()
        for n, t in wanted.items()
    )


def invoke(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, list(map(str, arguments)))


# What is written.


@pytest.mark.parametrize("flatten", ["CHW", "HWC"])
@pytest.mark.parametrize("kind", ["safetensors", "bin"])
@pytest.mark.parametrize("by", ["index", "folder"])
def test_the_same_shards_with_a_new_index(tmp_path: Path, kind: str, flatten: str, by: str) -> None:
    source = saved(tmp_path / "vgg", kind)
    before = contents(source.parent)
    out = tmp_path / "out"
    report = convert(source if by == "index" else source.parent, {**SPEC, "flatten": flatten}, out)
    assert same(loaded(out), expected(flatten))
    names = {f"{stem}.safetensors" for stem in tensors()}
    assert {path.name for path in out.iterdir()} == {INDEX, *names}
    metadata = json.loads((out / INDEX).read_text())["metadata"]
    assert metadata["total_size"] == sum(t.nbytes for t in expected().values())
    assert contents(source.parent) == before
    assert (report.verdict.output, report.verdict.passed) == ("written", True)
    assert (tmp_path / "out.report.json").exists()


def test_a_shard_with_nothing_to_rewrite_is_copied_as_it_is(index: Path, tmp_path: Path) -> None:
    convert(index, SPEC, tmp_path / "out")
    first, second, third = (f"{stem}.safetensors" for stem in tensors())
    source, out = contents(index.parent), contents(tmp_path / "out")
    assert out[first] == source[first]
    assert out[second] != source[second]
    assert out[third] != source[third]


@pytest.mark.parametrize(
    ("texts", "copied"),
    [(None, False), ({"format": "pt", "epoch": "3"}, True), ({"format": "mlx"}, False)],
    ids=["none", "pt", "mlx"],
)
def test_the_texts_of_a_shard(
    index: Path, tmp_path: Path, texts: dict[str, str] | None, *, copied: bool
) -> None:
    name = "model-00001-of-00003.safetensors"
    save_file(tensors()["model-00001-of-00003"], index.with_name(name), texts)
    convert(index, SPEC, tmp_path / "out")
    assert (index.with_name(name).read_bytes() == (tmp_path / "out" / name).read_bytes()) == copied
    with safe_open(tmp_path / "out" / name, "pt") as written:
        assert written.metadata()["format"] == "pt"
    assert same(loaded(tmp_path / "out"), expected())


def test_a_renamed_tensor_makes_its_shard_another(index: Path, tmp_path: Path) -> None:
    convert(index, {**SPEC, "rename": {"conv": "features.0"}}, tmp_path / "out")
    wanted = expected()
    wanted["features.0.weight"] = wanted.pop("conv.weight")
    assert same(loaded(tmp_path / "out"), wanted)


def test_one_file_where_it_is_named_as_one(index: Path, tmp_path: Path) -> None:
    report = convert(index, HWC, tmp_path / "one.safetensors")
    assert same(load_file(tmp_path / "one.safetensors"), expected("HWC"))
    assert (report.output.format, report.output.files) == ("safetensors", ())


@pytest.mark.parametrize("by", ["index", "folder", "folder with a dot", "variant"])
def test_where_things_lie_by_default(tmp_path: Path, by: str) -> None:
    folder = tmp_path / ("vgg.v2" if by == "folder with a dot" else "vgg")
    source = saved(folder)
    if by == "variant":
        source = source.rename(folder / "model.safetensors.index.fp16.json")
    stem = {"index": folder / "model", "variant": folder / "model.fp16"}.get(by, folder)
    stem.with_name(f"{stem.name}.yaml").write_text("feature_map: [3, 2, 4]\n")
    done = invoke("convert", folder if by.startswith("folder") else source)
    assert done.exit_code == 0, done.output
    assert same(loaded(stem.with_name(f"{stem.name}.fcn")), expected())
    assert stem.with_name(f"{stem.name}.fcn.report.json").exists()
    assert f"→ {stem}.fcn (" in done.output


def test_the_folder_that_one_is_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved(tmp_path / "vgg")
    monkeypatch.chdir(tmp_path / "vgg")
    convert(".", SPEC)
    assert same(loaded(tmp_path / "vgg.fcn"), expected())


def test_shards_that_are_links_into_a_cache(tmp_path: Path) -> None:
    """As huggingface_hub lays them out: snapshots hold links to blobs."""
    index = saved(tmp_path / "snapshots" / "abc")
    blobs = tmp_path / "blobs"
    blobs.mkdir()
    for path in list(index.parent.iterdir()):
        path.rename(blobs / sha256(path.name.encode()).hexdigest())
        path.symlink_to(f"../../blobs/{sha256(path.name.encode()).hexdigest()}")
    before = contents(blobs)
    convert(index.parent, SPEC, tmp_path / "out")
    assert same(loaded(tmp_path / "out"), expected())
    assert not any(path.is_symlink() for path in (tmp_path / "out").iterdir())
    for place in (blobs, index.parent):
        with pytest.raises(OutputError, match=r"which is only read"):
            convert(index.parent, SPEC, place, force=True)
    assert contents(blobs) == before


def test_two_shards_that_would_get_one_name(tmp_path: Path) -> None:
    shard = {"fc.weight": torch.randn(5, 24)}
    torch.save(shard, tmp_path / "a.bin")
    torch.save({"x": torch.ones(1)}, tmp_path / "a.pt")
    index = tmp_path / "m.bin.index.json"
    index.write_text(json.dumps({"weight_map": {"fc.weight": "a.bin", "x": "a.pt"}}))
    with pytest.raises(CheckpointError, match=r"a\.pt: would be called a\.safetensors, as another"):
        convert(index, SPEC, tmp_path / "out")
    convert(index, SPEC, tmp_path / "out.safetensors")
    assert set(load_file(tmp_path / "out.safetensors")) == {"fc.weight", "x"}


def test_the_report_has_each_file(index: Path, tmp_path: Path) -> None:
    report = convert(index, SPEC, tmp_path / "out")
    for entry, folder in ((report.source, index.parent), (report.output, tmp_path / "out")):
        wanted = {n: (len(raw), sha256(raw).hexdigest()) for n, raw in contents(folder).items()}
        assert {part.name: (part.bytes, part.sha256) for part in entry.files} == wanted
        assert entry.bytes == sum(size for size, _ in wanted.values())
        assert (entry.format, entry.sha256) == ("sharded safetensors", None)


def test_the_same_bytes_every_time(index: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        convert(index, HWC, tmp_path / name)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


def test_permissions_are_those_of_any_new_file(index: Path, tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        convert(index, SPEC, tmp_path / "out")
    finally:
        os.umask(before)
    assert (tmp_path / "out").stat().st_mode & 0o777 == 0o750
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "out").iterdir()} == {0o640}


# Verified, in batches, as code.


def test_the_folder_is_verified_as_any_output(index: Path, tmp_path: Path) -> None:
    made = convert(index, HWC, tmp_path / "out")
    report = verify_conversion(index, tmp_path / "out", HWC)
    assert (report.layers, report.output) == (made.layers, made.output)
    with pytest.raises(CheckFailedError, match=r"head\.0\.weight differs"):
        verify_conversion(index, tmp_path / "out", SPEC)


@pytest.mark.parametrize(
    ("how", "sentence"),
    [
        ("value", r"head\.0\.weight differs from the original in 1 of 120"),
        ("kept", r"conv\.weight differs"),
        ("lacks", r"head\.2\.bias is missing in the output"),
    ],
)
def test_an_output_that_was_changed(index: Path, tmp_path: Path, how: str, sentence: str) -> None:
    out = tmp_path / "out"
    convert(index, HWC, out)
    first, second, third = sorted(path for path in out.iterdir() if path.name != INDEX)
    if how == "lacks":
        save_file({"head.2.weight": load_file(third)["head.2.weight"]}, third)
        data = json.loads((out / INDEX).read_text())
        del data["weight_map"]["head.2.bias"]
        (out / INDEX).write_text(json.dumps(data))
    else:
        path, name = {"value": (second, "head.0.weight"), "kept": (first, "conv.weight")}[how]
        changed = load_file(path)
        changed[name].view(-1)[3] += 1
        save_file(changed, path)
    with pytest.raises(CheckFailedError, match=sentence):
        verify_conversion(index, out, HWC)


def test_a_failed_check_leaves_no_folder(
    index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = conversion.write

    def spoilt(file: object, checkpoint: object, descriptor: int, advance: object) -> None:
        write(file, checkpoint, descriptor, advance)  # type: ignore[arg-type]
        if getattr(file, "name", "").startswith("model-00002"):
            os.pwrite(descriptor, b"\x55", os.fstat(descriptor).st_size - 1)

    monkeypatch.setattr(conversion, "write", spoilt)
    with pytest.raises(CheckFailedError, match=r"differs from the original in 1"):
        convert(index, SPEC, tmp_path / "out")
    assert {path.name for path in tmp_path.iterdir()} == {"vgg", "out.report.json"}


def test_dry_run_json_and_code(index: Path, tmp_path: Path) -> None:
    spec = tmp_path / "s.yaml"
    spec.write_text("feature_map: [3, 2, 4]\n")
    done = invoke("convert", index, "--spec", spec, "--dry-run", "--json")
    planned = json.loads(done.stdout)["output"]
    assert planned["path"] == str(index.with_name("model.fcn"))
    assert planned["format"] == "sharded safetensors"
    done = invoke("convert", index, "--spec", spec, "-o", tmp_path / "out", "--json")
    assert len(json.loads(done.stdout)["output"]["files"]) == 4
    code = invoke("code", tmp_path / "out.report.json").stdout
    assert "nn.Conv2d(3, 5, kernel_size=(2, 4))" in code
    loading = code.partition("# from safetensors.torch")[2]
    lines = [line.removeprefix("# ") for line in f"# from safetensors.torch{loading}".splitlines()]
    scope: dict[str, object] = {}
    exec("\n".join([*code.splitlines(), *lines]), scope)  # strictly, so both agree
    assert scope["head"].state_dict().keys() <= expected().keys()  # type: ignore[attr-defined]


def test_a_batch_of_folders(tmp_path: Path) -> None:
    for name in ("a", "b"):
        index = saved(tmp_path / "in" / name)
        index.with_name("model.yaml").write_text("feature_map: [3, 2, 4]\n")
    out = tmp_path / "out"

    def run() -> list[str]:
        jobs = make_jobs(find_sources([str(tmp_path / "in")]), out, None)
        return [perform(job).outcome for job in jobs]

    assert run() == ["converted", "converted"]
    assert same(loaded(out / "a" / "model.fcn"), expected())
    assert run() == ["up to date", "up to date"]
    shard = tmp_path / "in" / "a" / "model-00001-of-00003.safetensors"
    save_file({n: t + 1 for n, t in load_file(shard).items()}, shard, {"format": "pt"})
    assert run() == ["converted", "up to date"]
    (out / "b" / "model.fcn" / "model-00003-of-00003.safetensors").unlink()
    assert run()[1] != "up to date"
    with pytest.raises(Exception, match="no checkpoint found"):
        list(find_sources([str(out / "a")]))  # outputs of ours are no sources


# What is replaced.


def other_file(folder: Path) -> None:
    (folder / "notes.txt").write_text("mine")


def other_folder(folder: Path) -> None:
    (folder / "more").mkdir()


def others_index(folder: Path) -> None:
    data = json.loads((folder / INDEX).read_text())
    del data["metadata"]["written_by"]
    (folder / INDEX).write_text(json.dumps(data))


def link(folder: Path) -> None:
    path = next(folder.glob("*1-of*"))
    path.rename(folder.parent / "moved")
    path.symlink_to("../moved")


def no_index(folder: Path) -> None:
    (folder / INDEX).unlink()


def broken_index(folder: Path) -> None:
    (folder / INDEX).write_text("{")


def listed_index(folder: Path) -> None:
    (folder / INDEX).write_text('{"metadata": {"written_by": "fcn-convert"}, "weight_map": [[1]]}')


@pytest.mark.parametrize(
    "change", [other_file, other_folder, others_index, link, no_index, broken_index, listed_index]
)
def test_only_a_folder_of_ours_is_replaced(index: Path, tmp_path: Path, change: object) -> None:
    out = tmp_path / "out"
    convert(index, SPEC, out)
    change(out)  # type: ignore[operator]
    before = contents(tmp_path)
    with pytest.raises(OutputError, match=r"holds more than an index and its shards of ours \("):
        convert(index, HWC, out, force=True)
    assert contents(tmp_path) == before


def test_a_folder_of_ours_is_replaced_when_forced(index: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    convert(index, SPEC, out)
    inode = out.stat().st_ino
    with pytest.raises(OutputError, match="out: already exists; --force, or force=True, repl"):
        convert(index, HWC, out)
    assert same(loaded(out), expected())
    convert(index, HWC, out, force=True)
    assert same(loaded(out), expected("HWC"))
    assert out.stat().st_ino != inode
    assert {path.name for path in tmp_path.iterdir()} == {"vgg", "out", "out.report.json"}


@pytest.mark.parametrize("name", ["vgg", f"vgg/{INDEX}", "vgg/model-00001-of-00003.safetensors"])
@pytest.mark.parametrize("force", [False, True], ids=["", "force"])
def test_no_input_is_replaced(index: Path, tmp_path: Path, name: str, *, force: bool) -> None:
    before = contents(tmp_path)
    with pytest.raises(OutputError, match="which is only read"):
        convert(index, SPEC, tmp_path / name, force=force)
    assert contents(tmp_path) == before


def test_an_output_of_ours_is_no_input_and_output_at_once(index: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    convert(index, {**SPEC, "dense": ["head.0"]}, out)
    before = contents(tmp_path)
    with pytest.raises(OutputError, match=r"out: .* which is only read"):
        convert(out, {"feature_map": [5, 1, 1], "dense": ["head.2"]}, out, force=True)
    assert contents(tmp_path) == before


@pytest.mark.parametrize("kind", ["file", "link", "link to nothing", "fifo"])
def test_what_is_no_folder_is_not_replaced(index: Path, tmp_path: Path, kind: str) -> None:
    out = tmp_path / "out"
    (tmp_path / "other").mkdir()
    match kind:
        case "file":
            out.write_text("mine")
        case "link":
            out.symlink_to("other")
        case "link to nothing":
            out.symlink_to("nowhere")
        case _:
            os.mkfifo(out)
    with pytest.raises(OutputError, match="out: exists and is not a folder"):
        convert(index, SPEC, out, force=True)
    assert {path.name for path in tmp_path.iterdir()} == {"vgg", "out", "other"}


def test_a_report_does_not_lie_in_the_folder(index: Path, tmp_path: Path) -> None:
    convert(index, SPEC, tmp_path / "out")
    with pytest.raises(OutputError, match=r"r\.json: is in the output, a folder"):
        convert(index, SPEC, tmp_path / "out", reports=[tmp_path / "out" / "r.json"], force=True)


@pytest.mark.parametrize("lacking", ["call", "file system"])
def test_where_folders_cannot_change_places(
    index: Path, tmp_path: Path, lacking: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Library:
        if lacking == "file system":

            def renameat2(self, *_: object) -> int:
                ctypes.set_errno(errno.EINVAL)
                return -1

    out = tmp_path / "out"
    convert(index, SPEC, out)
    before = contents(tmp_path)
    monkeypatch.setattr(ctypes, "CDLL", lambda *_, **__: Library())
    with pytest.raises(OutputError, match="cannot be replaced in one step on this system"):
        convert(index, HWC, out, force=True)
    assert contents(tmp_path) == before


def test_the_folder_of_a_source_is_told_by_its_index_alone(index: Path, tmp_path: Path) -> None:
    spec = tmp_path / "vgg" / "model.yaml"
    spec.write_text("feature_map: [3, 2, 4]\n")
    for place in (index.parent, tmp_path):
        with pytest.raises(
            OutputError, match=r"vgg: holds .* which is only read|more than an index"
        ):
            convert(index, spec, place, force=True)


def test_the_system_refuses_to_exchange(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        shard_folder._exchange(tmp_path / "a", tmp_path / "b")


# What killed runs leave.


def test_a_left_draft_is_removed_and_one_with_an_owner_is_not(index: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    left = shard_folder.FolderDraft(out, replace=False)
    left.create()
    with left.file("model-00001-of-00003.safetensors") as descriptor:
        os.write(descriptor, b"half")
    convert(index, SPEC, out)
    assert left.path.exists()  # its owner lives: it holds the lock
    os.close(left._descriptor)
    convert(index, SPEC, out, force=True)
    assert not left.path.exists()
    assert {path.name for path in tmp_path.iterdir()} == {"vgg", "out", "out.report.json"}


def test_a_draft_is_no_checkpoint_for_a_batch(index: Path) -> None:
    draft = shard_folder.FolderDraft(index.with_name("out"), replace=False)
    draft.create()
    shutil.copytree(
        index.parent, draft.path, ignore=lambda *_: [draft.path.name], dirs_exist_ok=True
    )
    assert [found for found, _ in find_sources([str(index.parent)])] == [index]
    draft.remove()


def test_a_target_that_appears_meanwhile_stays(
    index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    rename = os.rename

    def late(old: Path, new: Path) -> None:
        out.mkdir()
        (out / "mine").write_text("mine")
        rename(old, new)

    monkeypatch.setattr(os, "rename", late)
    with pytest.raises(OutputError, match="out: Directory not empty"):
        convert(index, SPEC, out)
    assert contents(out) == {"mine": b"mine"}
    assert {path.name for path in tmp_path.iterdir()} == {"vgg", "out"}


def test_a_folder_of_ours_that_appears_meanwhile_is_not_replaced(
    index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, other = tmp_path / "out", tmp_path / "other"
    convert(index, HWC, other, reports=[])
    before = contents(other)
    monkeypatch.setattr(Turn, "note", lambda *_: other.rename(out))  # after the last look for it
    with pytest.raises(OutputError, match="out: Directory not empty"):
        convert(index, SPEC, out)
    assert contents(out) == before
    assert {path.name for path in tmp_path.iterdir()} == {"vgg", "out"}


@pytest.mark.parametrize("name", ["notes.txt", "mine.safetensors"])
def test_what_comes_into_an_older_folder_meanwhile_stays(
    index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    out = tmp_path / "out"
    convert(index, SPEC, out)
    (out / "model-00001-of-00003.safetensors").write_bytes(b"older")
    before = contents(out)
    exchange = shard_folder._exchange
    times = []

    def late(one: Path, other: Path) -> None:
        if not times:
            (out / name).write_text("mine")
        times.append(one)
        exchange(one, other)

    monkeypatch.setattr(shard_folder, "_exchange", late)
    with pytest.raises(OutputError, match=rf"holds more than .* \({name}\)"):
        convert(index, SPEC, out, force=True)
    assert contents(out) == {**before, name: b"mine"}
    assert {path.name for path in tmp_path.iterdir()} == {"vgg", "out", "out.report.json"}


def test_what_came_into_a_folder_that_a_killed_run_replaced_stays(
    index: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    convert(index, SPEC, out)
    left = shard_folder.FolderDraft(out, replace=True)
    left.create()
    left._let_go()  # as its end does
    shutil.copytree(out, left.path, dirs_exist_ok=True)
    for name in ("notes.txt", "mine.safetensors"):
        (left.path / name).write_text("mine")
    for _ in range(2):
        convert(index, SPEC, out, force=True)
        found = contents(left.path)
        assert set(found) == {"notes.txt", "mine.safetensors", INDEX}
        assert found["mine.safetensors"] == b"mine"


def test_more_shards_than_files_may_be_open(tmp_path: Path) -> None:
    count = 40
    weight_map = {"fc.weight": "s-0.safetensors"}
    for at in range(count):
        shard = {"fc.weight": torch.randn(5, 24)} if not at else {f"x{at}": torch.randn(3)}
        save_file(shard, tmp_path / f"s-{at}.safetensors")
        weight_map |= dict.fromkeys(shard, f"s-{at}.safetensors")
    (tmp_path / INDEX).write_text(json.dumps({"weight_map": weight_map}))
    draft = shard_folder.FolderDraft(tmp_path / "out", replace=False)
    draft.create()
    before = len(os.listdir("/proc/self/fd"))
    for at in range(count):
        with draft.file(f"{at}.safetensors"):
            assert len(os.listdir("/proc/self/fd")) <= before + shard_folder.MAX_OPEN + 1
    draft.remove()
    convert(tmp_path / INDEX, SPEC, tmp_path / "out")
    with open_checkpoint(tmp_path / "out") as checkpoint:
        assert len(checkpoint.index.shards) == count
