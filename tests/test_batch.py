from __future__ import annotations

import fcntl
import json
import os
import pickle
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from hashlib import sha256
from io import StringIO
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import jsonschema
import pytest
import torch
from markdown_it import MarkdownIt
from reports import same_as_golden
from rich.console import Console
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner, Result

from fcn_convert.batch import perform, run
from fcn_convert.batch.jobs import BatchError, Job, chosen, part, which_shard
from fcn_convert.batch.watch import StoppedError, Watch, size_of
from fcn_convert.beside import CHECKPOINT_SUFFIXES
from fcn_convert.cli import app
from fcn_convert.conversion import convert
from fcn_convert.errors import ExistsError, FcnConvertError, ReportError, SpecError
from fcn_convert.report import CheckFailedError
from fcn_convert.report.batch import BatchReport, Piece, Shard, make_batch_report, merged
from fcn_convert.report.batch_views import show, to_junit, to_markdown
from fcn_convert.report.files import BATCH_VIEWS, write_report
from fcn_convert.report.json_view import BATCH_SCHEMA, to_json

SAMPLES = Path(__file__).parent.parent / "sample_checkpoints"
MAKEFILE = SAMPLES.with_name("Makefile")
QUICK = ("--verify", "bytes")


def invoke(*arguments: str | Path, **environment: str) -> Result:
    env = {"NO_COLOR": None, "SLURM_ARRAY_TASK_ID": None, **environment}
    return CliRunner().invoke(app, list(map(str, arguments)), env=env)


def save(path: Path, *, seed: int = 0, spec: str | None = "feature_map: [2, 2, 2]\n") -> Path:
    """Write a checkpoint with one head, and its spec beside it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    generator = torch.Generator().manual_seed(seed)
    tensors = {
        "conv.weight": torch.randn(2, 1, 3, 3, generator=generator),
        "fc.weight": torch.randn(3, 8, generator=generator),
    }
    save_file(tensors, path)
    if spec is not None:
        path.with_suffix(".yaml").write_text(spec)
    return path


def pieces(result: Result) -> dict[str, str]:
    """Return the outcome of each source's name, as the JSON report says it."""
    report = json.loads(result.stdout)
    jsonschema.validate(report, json.loads(BATCH_SCHEMA.read_text("utf-8")))
    return {Path(piece["source"]).name: piece["outcome"] for piece in report["pieces"]}


def batch(*arguments: str | Path, **environment: str) -> Result:
    return invoke("batch", *arguments, "--json", *QUICK, **environment)


# Which checkpoints


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name in ("a.pth", "sub/a.ckpt", "sub/deep/b.safetensors", ".hidden/c.pth"):
        save(tmp_path / "in" / name)
    for name in ("a.yaml", "a.fcn.safetensors", "notes.txt", "a.fcn.report.json", ".d.pth"):
        (tmp_path / "in" / name).write_text("feature_map: [2, 2, 2]")
    return tmp_path / "in"


def outputs(*sources: str | Path, folder: str = "out") -> dict[str, str]:
    jobs = chosen(list(map(str, sources)), Path(folder), None, None)
    return {job.output: job.source for job in jobs}


def test_a_folder_is_searched_and_its_sub_folders_are_kept(tree: Path) -> None:
    assert outputs(tree) == {
        "out/a.fcn.safetensors": f"{tree}/a.pth",
        "out/sub/a.fcn.safetensors": f"{tree}/sub/a.ckpt",
        "out/sub/deep/b.fcn.safetensors": f"{tree}/sub/deep/b.safetensors",
    }


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        pytest.param("**/*.safetensors", ["sub/deep/b"], id="recursive"),
        pytest.param("*", ["a", "notes", "sub/a", "sub/deep/b"], id="everything-but-ours"),
        pytest.param("sub/*.ckpt", ["a"], id="in-a-fixed-folder"),
        pytest.param("[a]*", ["a"], id="brackets"),
    ],
)
def test_a_glob_is_expanded_and_keeps_what_follows_its_fixed_part(
    tree: Path, pattern: str, found: list[str]
) -> None:
    assert list(outputs(f"{tree}/{pattern}")) == [f"out/{name}.fcn.safetensors" for name in found]


def test_make_and_batch_find_the_same_suffixes_and_each_is_found(tmp_path: Path) -> None:
    listed = re.search(r"^SUFFIXES_READ := (.*)$", MAKEFILE.read_text("utf-8"), re.MULTILINE)
    assert listed
    assert {f".{suffix}" for suffix in listed[1].split()} == {*CHECKPOINT_SUFFIXES} - {
        ".index.json"
    }
    for suffix in listed[1].split():
        (tmp_path / f"net-{suffix}.{suffix.upper()}").touch()
    assert len(outputs(tmp_path)) == len(listed[1].split())


def distributed(folder: Path) -> Path:
    folder.mkdir(parents=True)
    for name in (".metadata", "__0_0.distcp", "__1_0.distcp"):
        (folder / name).write_bytes(bytes(10))
    return folder


def test_a_distributed_checkpoint_is_one_source_called_as_its_folder(tmp_path: Path) -> None:
    whole = distributed(tmp_path / "in" / "epoch.3")
    (tmp_path / "in" / "other").mkdir()
    (tmp_path / "in" / "other" / ".metadata").touch()  # of somebody else's
    expected = {"out/epoch.3.fcn.safetensors": str(whole / ".metadata")}
    assert outputs(whole.parent) == outputs(whole) == outputs(whole / ".metadata") == expected


@pytest.mark.parametrize("variant", ["", ".fp16"])
def test_an_index_stands_for_its_shards_whatever_its_variant(tmp_path: Path, variant: str) -> None:
    index = tmp_path / f"model.safetensors.index{variant}.json"
    names = [f"model{variant}-0000{at}-of-00002.safetensors" for at in (1, 2)]
    for path in (index, *(tmp_path / name for name in names)):
        path.write_text("{}")
    assert outputs(f"{index}") == {f"out/model{variant}.fcn": str(index)}
    assert outputs(tmp_path) == {f"out/{tmp_path.name}/model{variant}.fcn": str(index)}


@pytest.mark.parametrize("name", ["model.safetensors.index.json", ".metadata", "model.pth", ""])
def test_the_size_of_a_source_is_that_of_its_files(tmp_path: Path, name: str) -> None:
    folder = distributed(tmp_path / "in")
    for other in ("a-00001-of-00002.bin", "a-00002-of-00002.bin", "model.pth"):
        (folder / other).write_bytes(bytes(100))
    (folder / "model.safetensors.index.json").write_bytes(bytes(5))
    sizes = {"model.safetensors.index.json": 205, ".metadata": 30, "model.pth": 100, "": 335}
    assert size_of(Job(str(folder / name), None, "out")) == sizes[name]


def test_one_output_of_two_specs_is_refused(tree: Path, tmp_path: Path) -> None:
    manifest = tmp_path / "batch.yaml"
    entry = "- {source: in/a.pth, output: o.safetensors, spec: in/a.yaml}\n"
    manifest.write_text(entry * 2)
    assert len(chosen([], None, None, manifest)) == 1
    manifest.write_text(entry + entry.replace("a.yaml", "b.yaml"))
    with pytest.raises(BatchError, match=r"a\.pth, .*a\.pth would all become .*o\.safetensors"):
        chosen([], None, None, manifest)
    assert tree.exists()


def test_a_file_is_taken_whatever_it_is_called_and_an_output_of_ours_never(tree: Path) -> None:
    odd = shutil.copy(tree / "a.pth", tree / "weights[1]")
    assert outputs(odd, tree / "a.fcn.safetensors", tree / "a.pth") == {
        "out/a.fcn.safetensors": f"{tree}/a.pth",
        "out/weights[1].fcn.safetensors": str(odd),
    }


def test_the_shards_of_an_index_are_no_checkpoints_of_their_own(tmp_path: Path) -> None:
    for name in ("m.safetensors.index.json", "m-00001-of-00002.safetensors", "x.safetensors"):
        (tmp_path / name).write_text("{}")
    sources = [Path(source).name for source in outputs(tmp_path).values()]
    assert sources == ["m.safetensors.index.json", "x.safetensors"]


def test_folders_of_shards_do_not_become_one_output(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.safetensors.index.json").write_text("{}")
    assert list(outputs(tmp_path / "one", tmp_path / "two")) == [
        "out/one/model.fcn",
        "out/two/model.fcn",
    ]
    monkeypatch.chdir(tmp_path / "one")
    assert list(outputs(".", "../two")) == ["out/one/model.fcn", "out/two/model.fcn"]


def test_one_file_twice_is_one_conversion(tree: Path) -> None:
    assert len(outputs(tree, tree / "a.pth", f"{tree}/*.pth")) == 3


def test_two_sources_of_one_output_are_an_error_that_names_both(tree: Path) -> None:
    save(tree / "other" / "a.pth")
    with pytest.raises(
        BatchError, match=r"in/a\.pth, \S+/other/a\.pth would all become out/a\.fcn\.safetensors"
    ):
        outputs(tree / "a.pth", tree / "other" / "a.pth")


def test_an_output_that_is_an_input_is_an_error(tree: Path) -> None:
    (tree / "b.safetensors").symlink_to(tree / "a.fcn.safetensors")
    with pytest.raises(BatchError, match=r"a\.fcn\.safetensors: is an input of this batch"):
        chosen([str(tree / "a.pth"), str(tree / "b.safetensors")], tree, None, None)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        pytest.param([], "nothing to convert", id="nothing"),
        pytest.param(["a.fcn.safetensors", "-o", "o"], "is an output of ours", id="ours"),
        pytest.param(["--manifest", "m.yaml"], "convert: m.yaml has no entry", id="empty-manifest"),
        pytest.param(
            ["--manifest", "m.yaml", "a.fcn.safetensors", "-o", "o"],
            "convert: a.fcn.safetensors is an output of ours, m.yaml has no entry",
            id="ours-and-an-empty-manifest",
        ),
        pytest.param(["a.pth"], "--out-dir DIR is missing", id="no-folder"),
        pytest.param(["none/*.pth", "-o", "out"], "no checkpoint found", id="empty-glob"),
        pytest.param(["empty", "-o", "out"], "empty: no checkpoint found", id="empty-folder"),
        pytest.param(["a.pth", "-o", "file"], "file: is not a folder", id="no-such-folder"),
        pytest.param(["a.pth", "-o", "o", "--shard", "0/3"], "expected I/N", id="shard-0"),
        pytest.param(["a.pth", "-o", "o", "--shard", "1/9999999"], "1000000 at", id="many-shards"),
        pytest.param(["a.pth", "-o", "o", "--shard", f"1/{'9' * 5000}"], "expected", id="shard-9…"),
        pytest.param(["a.pth", "-o", "o", "--report", "r.txt"], "no report has", id="report"),
        pytest.param(["a.pth", "-o", "o", "--report", "a.yaml"], "no report has", id="spec"),
        pytest.param(["a.json", "-o", "o", "--report", "a.json"], "only read", id="source"),
    ],
)
def test_a_batch_that_cannot_be_started_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    save(tmp_path / "a.pth")
    save(tmp_path / "a.json")
    (tmp_path / "file").write_text("")
    (tmp_path / "m.yaml").write_text("[]\n")
    (tmp_path / "empty").mkdir()
    result = invoke("batch", *arguments)
    assert isinstance(result.exception, FcnConvertError)
    assert message in str(result.exception)
    assert not (tmp_path / "o").exists()


def test_the_report_of_a_batch_lies_in_its_new_folder_but_takes_no_other_ones_place(
    tree: Path, tmp_path: Path
) -> None:
    out = tmp_path / "new"
    for own in (out / "a.fcn.report.json", out / "sub" / ".." / "A.fcn.report.json"):
        refused = batch(tree / "a.pth", "-o", out, "--report", own)
        assert "is the report of one conversion" in str(refused.exception)
        assert not out.exists()
    for outcome in ("converted", "up to date"):
        result = batch(tree / "a.pth", "-o", out, "--report", out / "sum.json")
        assert (result.exit_code, pieces(result)) == (0, {"a.pth": outcome})
    assert json.loads((out / "sum.json").read_text())["totals"]["up to date"] == 1
    config = tree / "config.json"  # of Keras, say, or an index of shards: it is no source by itself
    config.write_text("{}")
    refused = batch(tree / "a.pth", "-o", out, "--report", config, "--force")
    assert "already exists and is not a report" in str(refused.exception)
    assert config.read_text() == "{}"


# The manifest


def test_a_manifest_names_source_spec_and_output(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tree / "m.yaml").write_text(
        "- source: a.pth\n- {source: sub/a.ckpt, spec: a.yaml, output: ../x/y.safetensors}\n"
    )
    monkeypatch.chdir(tmp_path)
    jobs = chosen([], Path("out"), None, tree / "m.yaml")
    assert [(job.source, job.spec, job.output) for job in jobs] == [
        (f"{tree}/sub/a.ckpt", f"{tree}/a.yaml", f"{tree}/../x/y.safetensors"),
        (f"{tree}/a.pth", None, "out/a.fcn.safetensors"),
    ]
    result = batch("--manifest", tree / "m.yaml", "--out-dir", "out")
    assert (result.exit_code, pieces(result)) == (
        0,
        {"a.ckpt": "converted", "a.pth": "converted"},
    )
    assert load_file(tmp_path / "x" / "y.safetensors")["fc.weight"].shape == (3, 2, 2, 2)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param("source: a\n", r"a manifest is a list .*\(m\.yaml:1\)", id="mapping"),
        pytest.param('- {source: "a\\0"}', r"source: .*\(m\.yaml:1\)", id="nul"),
        pytest.param('- {source: "\\ud800"}', r"source: .*\(m\.yaml:1\)", id="surrogate"),
        pytest.param(
            "- source: a\n- sauce: b\n",
            r"'sauce', did you mean 'source'\? \(m\.yaml:2\)",
            id="key",
        ),
        pytest.param("- output: b\n", r"source is missing \(m\.yaml:1\)", id="missing"),
        pytest.param("- a.pth\n", r"should be a mapping .*\(m\.yaml:1\)", id="text"),
        pytest.param("- source: 3\n", r"valid string.*\(m\.yaml:1\)", id="number"),
        pytest.param("- {source: a, spec: }\n", r"valid string.*\(m\.yaml:1\)", id="null"),
        pytest.param("", r"the file is empty \(m\.yaml:1\)", id="empty"),
        pytest.param("- source: a\n", r"gives no output", id="no-output"),
    ],
)
def test_a_wrong_manifest_is_told_with_its_line(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "m.yaml").write_text(text)
    with pytest.raises((SpecError, BatchError), match=message):
        chosen([], None, None, tmp_path / "m.yaml")


# Shards


@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_shards_are_every_job_once_and_of_even_size(count: int) -> None:
    jobs = [Job(f"{at}", None, f"{at}") for at in range(5)]
    shards = [part(jobs, Shard(number, count)) for number in range(1, count + 1)]
    assert sorted(job.source for shard in shards for job in shard) == [j.source for j in jobs]
    assert max(map(len, shards)) - min(map(len, shards)) <= 1


@pytest.mark.parametrize(
    ("values", "shard"),
    [
        pytest.param({}, None, id="no-array"),
        pytest.param({"ID": "0", "COUNT": "4", "MIN": "0", "STEP": "1"}, Shard(1, 4), id="from-0"),
        pytest.param({"ID": "4", "COUNT": "4", "MIN": "1", "STEP": "1"}, Shard(4, 4), id="from-1"),
        pytest.param({"ID": "8", "COUNT": "4", "MIN": "0", "STEP": "4"}, Shard(3, 4), id="step"),
        pytest.param({"ID": "7", "COUNT": "1", "MIN": "7", "STEP": "1"}, Shard(1, 1), id="one"),
    ],
)
def test_the_shard_of_a_slurm_array(values: Mapping[str, str], shard: Shard | None) -> None:
    assert which_shard(None, {f"SLURM_ARRAY_TASK_{name}": v for name, v in values.items()}) == shard


@pytest.mark.parametrize(
    "values",
    [
        pytest.param({"ID": "7", "COUNT": "3", "MIN": "1", "STEP": "1"}, id="gaps"),
        pytest.param({"ID": "x", "COUNT": "3", "MIN": "1"}, id="no-number"),
        pytest.param({"ID": "1"}, id="no-count"),
    ],
)
def test_a_slurm_array_that_does_not_count_is_an_error_unless_a_shard_is_said(
    values: Mapping[str, str],
) -> None:
    environment = {f"SLURM_ARRAY_TASK_{name}": value for name, value in values.items()}
    with pytest.raises(BatchError, match=r"say --shard I/N"):
        which_shard(None, environment)
    assert which_shard("2/3", environment) == Shard(2, 3)


def test_the_reports_of_all_shards_are_merged_to_the_whole(tree: Path, tmp_path: Path) -> None:
    reports = [tmp_path / f"{number}.json" for number in (1, 2)]
    for task, path in enumerate(reports):
        shard = {f"SLURM_ARRAY_TASK_{n}": v for n, v in (("ID", str(task)), ("COUNT", "2"))}
        assert batch(tree, "-o", tmp_path / "o", "--report", path, **shard).exit_code == 0
    out = tmp_path / "all.json"
    merge = invoke("report", "merge", *reports, "-o", out, "-o", tmp_path / "all.md", "--json")
    assert merge.exit_code == 0
    assert pieces(merge) == {
        "a.pth": "converted",
        "a.ckpt": "converted",
        "b.safetensors": "converted",
    }
    assert json.loads(out.read_text())["shard"] is None
    assert (tmp_path / "all.md").read_text().startswith("### ✅ 3 conversions: 3 converted\n")
    missing = invoke("report", "merge", reports[1], "-o", out)
    assert str(missing.exception) == "the reports of these shards are missing: 1/2"
    for count, message in (
        (9, "1/9, 3/9, 4/9, 5/9, 6/9, 7/9, 8/9, 9/9"),
        (10**6, "1/1000000, .* 9/1000000 and 999991 more"),
        (3 * 10**6, "there is no shard 2/3000000"),
        (1, "there is no shard 2/1"),
        (2.5, "is not a JSON report of a batch.* at shard.count, Input should be a valid int.*"),
    ):
        edit_report(reports[1], "shard", "count", value=count)
        missing = invoke("report", "merge", reports[1], "-o", out)
        assert re.search(f"{message}$", str(missing.exception)), count
    edit_report(reports[1], "shard", "count", value=2)
    twice = invoke("report", "merge", *reports, reports[0], out, "-o", tmp_path / "x.json")
    assert "merge reports of different conversions" in str(twice.exception)
    over = invoke("report", "merge", *reports, "-o", reports[0])
    assert "only read" in str(over.exception)


@pytest.mark.parametrize(
    "text", ["{}", "[]", "x", "null", "[" * 10**5, "NaN"], ids=lambda text: text[:4]
)
def test_what_is_no_report_of_a_batch_cannot_be_merged(tmp_path: Path, text: str) -> None:
    (tmp_path / "r.json").write_text(text)
    result = invoke("report", "merge", tmp_path / "r.json", "-o", tmp_path / "o.json")
    assert "is not a JSON report of a batch" in str(result.exception)


@pytest.mark.parametrize(
    ("place", "value"),
    [
        pytest.param(("schema_version",), 2, id="later-version"),
        pytest.param(("pieces", 0, "source"), 1, id="source-is-a-number"),
        pytest.param(("pieces", 0, "outcome"), "done", id="unknown-outcome"),
        pytest.param(("pieces", 0, "seconds"), "long", id="seconds-are-text"),
        pytest.param(("pieces", 0, "seconds"), float("nan"), id="seconds-are-nan"),
        pytest.param(("pieces", 0, "seconds"), 10**400, id="seconds-fit-nowhere"),
        pytest.param(("pieces", 0, "layers"), [], id="layers-are-a-list"),
        pytest.param(("pieces", 0, "warnings"), [{}], id="warning-is-an-object"),
        pytest.param(("pieces", 0, "traceback"), 7, id="traceback-is-a-number"),
        pytest.param(("pieces",), {"0": {}}, id="pieces-are-an-object"),
        pytest.param(("shard",), [1, 2], id="shard-is-a-list"),
        pytest.param(("versions", "torch"), 2.1, id="version-is-a-number"),
    ],
)
def test_a_changed_report_is_not_merged(
    tmp_path: Path, place: tuple[str | int, ...], value: Any
) -> None:
    path = tmp_path / "r.json"
    report = make_batch_report([Piece("a", "a.out", "converted", 1.0)])
    path.write_text(json.dumps(report.as_dict()))
    assert invoke("report", "merge", path, "-o", tmp_path / "o.json").exit_code == 0
    edit_report(path, *place, value=value)
    result = invoke("report", "merge", path, "-o", tmp_path / "p.json")
    assert isinstance(result.exception, ReportError)
    assert "is not a JSON report of a batch" in str(result.exception)


def test_a_report_of_more_parts_than_any_has_takes_no_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "r.json").write_text("[[],{},1]")
    monkeypatch.setattr("fcn_convert.report.reading.MAX_REPORT_PARTS", 4)
    result = invoke("report", "merge", tmp_path / "r.json", "-o", tmp_path / "o.json")
    assert "is JSON of more parts than any report has" in str(result.exception)


def test_a_merge_exits_with_the_worst_status_and_joins_versions(tmp_path: Path) -> None:
    good = make_batch_report([Piece("a", "a.out", "converted", 1.0)])
    bad = replace(
        make_batch_report([Piece("b", "b.out", "check failed", 1.0)]),
        versions={**good.versions, "torch": "1"},
    )
    for name, report in (("good", good), ("bad", bad)):
        (tmp_path / f"{name}.json").write_text("".join(to_json(report)))
    files = (tmp_path / "bad.json", tmp_path / "good.json")
    assert invoke("report", "merge", *files, "-o", tmp_path / "o.json").exit_code == 1
    assert merged({"a": good, "b": bad}).versions["torch"] == f"1, {good.versions['torch']}"


# What is done, and what is left alone


def stamp(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_ino, found.st_mtime_ns


def test_every_sample_is_converted_with_its_own_report_beside_it(tmp_path: Path) -> None:
    result = invoke("batch", SAMPLES, "--out-dir", tmp_path, "--json", "-j", "3")
    assert (result.exit_code, set(pieces(result).values())) == (0, {"converted"})
    for piece in json.loads(result.stdout)["pieces"]:
        output = Path(piece["output"])
        own = json.loads(Path(piece["report"]).read_text())
        assert own["output"]["sha256"] == sha256(output.read_bytes()).hexdigest()
        assert own["verdict"]["passed"]
        assert (piece["bytes"], piece["layers"]) == (own["source"]["bytes"], len(own["layers"]))
    assert len(list(tmp_path.iterdir())) == 8


def test_what_is_up_to_date_is_left_alone_whatever_its_times_say(
    tree: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    assert batch(tree, "-o", out).exit_code == 0
    before = {path: stamp(path) for path in out.rglob("*.fcn.*")}
    for path in tree.rglob("*"):
        os.utime(path)
    again = batch(tree, "-o", out)
    assert set(pieces(again).values()) == {"up to date"}
    assert {path: stamp(path) for path in out.rglob("*.fcn.*")} == before


def change_source(tree: Path, _out: Path) -> None:
    times = (tree / "a.pth").stat()
    save(tree / "a.pth", seed=1)
    os.utime(tree / "a.pth", ns=(times.st_atime_ns, times.st_mtime_ns))  # same size, same time


def change_spec(tree: Path, _out: Path) -> None:
    (tree / "a.yaml").write_text("feature_map: [2, 2, 2]\nflatten: HWC\n")


def remove_output(_tree: Path, out: Path) -> None:
    (out / "a.fcn.safetensors").unlink()


def edit_report(path: Path, *keys: str | int, value: Any) -> None:
    data = json.loads(path.read_text())
    inner = data
    for key in keys[:-1]:
        inner = inner[key]
    inner[keys[-1]] = value
    path.write_text(json.dumps(data))


def other_version(_tree: Path, out: Path) -> None:
    edit_report(out / "a.fcn.report.json", "versions", "fcn-convert", value="0.0.1")


def lower_level(_tree: Path, out: Path) -> None:
    edit_report(out / "a.fcn.report.json", "verdict", "level", value="shapes")


@pytest.mark.parametrize(
    "change", [change_source, change_spec, remove_output, other_version, lower_level]
)
def test_what_is_out_of_date_is_done_again(tree: Path, tmp_path: Path, change: Any) -> None:
    out = tmp_path / "out"
    batch(tree, "-o", out)
    change(tree, out)
    assert pieces(batch(tree, "-o", out)) == {
        "a.pth": "converted",
        "a.ckpt": "up to date",
        "b.safetensors": "up to date",
    }
    flatten = (0, 2, 3, 1) if change is change_spec else (0, 1, 2, 3)
    expected = load_file(tree / "a.pth")["fc.weight"]
    found = load_file(out / "a.fcn.safetensors")["fc.weight"].permute(flatten)
    assert found.flatten(1).equal(expected)


@pytest.mark.parametrize(
    "change", ["bytes", "report", "other-report", "no-report", "parts", "no-file's-name"]
)
def test_an_output_of_another_origin_is_not_replaced_without_force(
    tree: Path, tmp_path: Path, change: str
) -> None:
    out = tmp_path / "out"
    batch(tree / "a.pth", "-o", out)
    output, report = out / "a.fcn.safetensors", out / "a.fcn.report.json"
    if change == "bytes":
        raw = bytearray(output.read_bytes())
        raw[-1] ^= 1
        output.write_bytes(raw)
    elif change == "no-report":
        report.unlink()
    elif change in ("parts", "no-file's-name"):
        name = 7 if change == "parts" else "a\0b"
        entry = {"name": name, "bytes": 1, "sha256": None}
        edit_report(report, "output", "files", value=[entry])
    else:
        report.write_text("[[" if change == "report" else '{"verdict": {"level": "bytes"}}')
    before = output.read_bytes()
    refused = batch(tree / "a.pth", "-o", out)
    assert (refused.exit_code, pieces(refused)) == (2, {"a.pth": "unusable"})
    assert "already exists" in refused.stderr
    assert output.read_bytes() == before
    assert pieces(batch(tree / "a.pth", "-o", out, "--force")) == {"a.pth": "converted"}
    assert pieces(batch(tree / "a.pth", "-o", out)) == {"a.pth": "up to date"}
    assert pieces(batch(tree / "a.pth", "-o", out, "--force")) == {"a.pth": "converted"}
    assert load_file(output)["fc.weight"].flatten(1).equal(load_file(tree / "a.pth")["fc.weight"])


def test_without_a_sha256_nothing_is_up_to_date_but_an_output_of_ours_may_be_replaced(
    tree: Path, tmp_path: Path
) -> None:
    for _ in range(2):
        result = invoke("batch", tree, "-o", tmp_path / "o", "--json", "--verify", "shapes")
        assert set(pieces(result).values()) == {"converted"}


def test_strict_does_not_take_what_was_made_with_a_warning(tmp_path: Path) -> None:
    save(tmp_path / "a.pth", spec="feature_map: [4, 2, 1]\n")
    assert pieces(batch(tmp_path / "a.pth", "-o", tmp_path)) == {"a.pth": "converted"}
    lax = batch(tmp_path / "a.pth", "-o", tmp_path)
    assert pieces(lax) == {"a.pth": "up to date"}
    assert lax.stderr.startswith("warning: ")
    strict = batch(tmp_path / "a.pth", "-o", tmp_path, "--strict")
    assert (strict.exit_code, pieces(strict)) == (1, {"a.pth": "check failed"})


# Failures


def test_one_failure_stops_no_other_and_the_worst_status_is_the_batchs(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tree / "broken.pth").write_bytes(b"nothing")
    save(tree / "unspecified.pth", spec=None)
    save(tree / "odd.pth", spec="feature_map: [3, 2, 2]\nflaten: x\n")
    result = batch(tree, "-o", tmp_path / "o")
    assert result.exit_code == 2
    found = pieces(result)
    assert {name for name, outcome in found.items() if outcome == "converted"} == {
        "a.pth", "a.ckpt", "b.safetensors",
    }  # fmt: skip
    assert {name for name, outcome in found.items() if outcome == "unusable"} == {
        "broken.pth", "unspecified.pth", "odd.pth",
    }  # fmt: skip
    assert len([line for line in result.stderr.splitlines() if line.startswith("error: ")]) == 3

    import fcn_convert.batch as module  # noqa: PLC0415

    def bug(_source: str, *_: object, **__: object) -> None:
        raise ZeroDivisionError("planted")

    monkeypatch.setattr(module, "convert", bug)
    worse = batch(tree, "-o", tmp_path / "p")
    assert worse.exit_code == 70
    assert "Traceback (most recent call last):" in worse.stderr
    assert "ZeroDivisionError: planted" in worse.stderr
    assert json.loads(worse.stdout)["pieces"][0]["traceback"].startswith("Traceback")


def test_a_failed_check_has_its_report_and_no_output(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fcn_convert import conversion  # noqa: PLC0415

    real = conversion.write

    def flip(plan: Any, checkpoint: Any, descriptor: int, *rest: Any) -> None:
        real(plan, checkpoint, descriptor, *rest)
        os.pwrite(descriptor, b"\x55", os.fstat(descriptor).st_size - 1)

    monkeypatch.setattr(conversion, "write", flip)
    result = batch(tree / "a.pth", "-o", tmp_path / "o", "--report", tmp_path / "r.xml")
    assert (result.exit_code, pieces(result)) == (1, {"a.pth": "check failed"})
    assert [path.name for path in (tmp_path / "o").iterdir()] == ["a.fcn.report.json"]
    failure = next(ET.parse(tmp_path / "r.xml").iter("failure"))
    assert "differs from the original" in failure.attrib["message"]


@pytest.fixture
def job(tmp_path: Path) -> Job:
    (tmp_path / "out").mkdir()
    source = save(tmp_path / "in" / "a.safetensors")
    return Job(str(source), None, str(tmp_path / "out" / "a.fcn.safetensors"), "bytes")


PLACES_AND_WAITS = """
import sys
from pathlib import Path
from fcn_convert.atomic import FileDraft

draft = FileDraft(Path(sys.argv[1]), replace=False)
draft.create()
draft.write(b"what another run made")
draft.put_in_place()
print("in place", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def other_run(job: Job) -> Iterator[subprocess.Popen[str]]:
    """Another run of the job, which has put its output in place, and no report yet."""
    command = [sys.executable, "-c", PLACES_AND_WAITS, job.output]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, **pipes, text=True) as process:
        assert process.stdout
        assert process.stdout.readline() == "in place\n"
        yield process
        process.kill()


def test_a_job_run_again_replaces_what_a_killed_worker_did_not_report(
    job: Job, other_run: subprocess.Popen[str]
) -> None:
    other_run.kill()
    other_run.wait()
    piece = perform(job)
    assert (piece.outcome, piece.problems) == ("converted", ())
    assert [path.name for path in Path(job.output).parent.iterdir() if path.name[0] == "."] == []
    assert perform(job).outcome == "up to date"


def test_a_job_run_again_waits_for_a_worker_that_lives_or_dies_later(
    job: Job, other_run: subprocess.Popen[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    waited = []

    def flock(descriptor: int, how: int) -> None:
        if how == fcntl.LOCK_SH:  # to wait: now the other one ends
            other_run.kill()
            other_run.wait()
            waited.append(how)
        real(descriptor, how)

    real = fcntl.flock
    monkeypatch.setattr("fcn_convert.turns.fcntl.flock", flock)
    piece = perform(job)
    assert (piece.outcome, piece.problems) == ("converted", ())
    assert waited


def test_an_output_that_took_the_place_of_a_killed_runs_is_not_replaced(
    job: Job, other_run: subprocess.Popen[str]
) -> None:
    other_run.kill()
    other_run.wait()
    Path(job.output).unlink()
    Path(job.output).write_bytes(b"what another run mine")  # of the same size, perhaps its number
    piece = perform(job)
    assert piece.outcome == "unusable"
    assert "already exists" in piece.problems[0]
    assert Path(job.output).read_bytes() == b"what another run mine"


def test_a_pool_that_loses_a_job_loses_no_other() -> None:
    class Losing(ThreadPoolExecutor):
        def submit(self, _: Any, /, job: Any, *__: Any) -> Any:  # type: ignore[override]
            lost = job.source == "b"
            return super().submit(
                (lambda: 1 / 0) if lost else lambda: Piece(job.source, "", "converted", 0.0)
            )

    with Losing() as pool:
        jobs = [Job(name, None, name) for name in "abc"]
        found = {job.source: piece for job, piece in run(jobs, pool)}
    assert [found[name].outcome for name in "abc"] == ["converted", "unusable", "converted"]
    assert found["b"].problems == (
        "b: was lost by the pool that ran it: ZeroDivisionError: division by zero",
    )


# Interrupted, and run again

ENDLESS = """
import os, signal, sys, threading, time
from fcn_convert.__main__ import main
import fcn_convert.conversion as path
real, begun = path.write, threading.Barrier(2)
def write(plan, checkpoint, descriptor, advance, *rest):
    real(plan, checkpoint, descriptor, advance, *rest)
    if not plan_is_first(checkpoint):
        if begun.wait() == 0:
            os.kill(os.getpid(), signal.{signal})
        while True:
            advance(0)
            time.sleep(0.01)
def plan_is_first(checkpoint):
    return checkpoint.path.name == "a.pth"
path.write = write
main()
"""


@pytest.mark.parametrize(("name", "status"), [("SIGINT", 130), ("SIGTERM", 143)])
def test_an_interrupted_batch_leaves_no_draft_and_goes_on_when_run_again(
    tree: Path, tmp_path: Path, name: str, status: int
) -> None:
    out = tmp_path / "out"
    assert batch(tree / "a.pth", "-o", out).exit_code == 0
    arguments = ["batch", str(tree), "-o", str(out), *QUICK, "-j", "3"]
    done = subprocess.run(
        [sys.executable, "-c", ENDLESS.format(signal=name), *arguments],
        capture_output=True, text=True, check=False, timeout=60,
        env={**os.environ, "PYTHONPATH": str(SAMPLES.parent)},
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (status, "", "")
    assert {path.name for path in out.rglob("*") if path.is_file()} == {
        "a.fcn.safetensors", "a.fcn.report.json",
    }  # fmt: skip
    assert pieces(batch(tree, "-o", out)) == {
        "a.pth": "up to date",
        "a.ckpt": "converted",
        "b.safetensors": "converted",
    }


def test_hashing_can_be_stopped_too(tree: Path, tmp_path: Path) -> None:
    batch(tree / "a.pth", "-o", tmp_path)
    watch = Watch(lambda *_: None)
    watch.stop()
    job = Job(str(tree / "a.pth"), None, str(tmp_path / "a.fcn.safetensors"), "bytes")
    with pytest.raises(StoppedError):
        perform(job, watch.follow(job))


def test_progress_counts_pieces_and_the_bytes_of_sources(tree: Path, tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    watch = Watch(lambda *now: told.append(now))
    jobs = chosen([str(tree)], tmp_path, None, None)
    with ThreadPoolExecutor(1) as pool:
        for job, _ in run(jobs, pool, watch.follow):
            watch.finished(job)
    total = sum(os.path.getsize(job.source) for job in jobs)
    assert told[-1] == (3, total)
    assert all(0 <= nbytes <= total for _, nbytes in told)
    assert len(told) > 6


# Plain data, and the views


@pytest.mark.parametrize(
    "error",
    [
        FcnConvertError(*map(str, range(60))),
        SpecError("one", "two"),
        ExistsError("x" * 9999),
        BatchError("nothing"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_error_can_be_sent_to_another_machine(error: FcnConvertError) -> None:
    sent = pickle.loads(pickle.dumps(error))
    assert (type(sent), sent.problems, str(sent)) == (type(error), error.problems, str(error))


def test_a_failed_check_can_be_sent_with_its_report(tmp_path: Path) -> None:
    source = save(tmp_path / "a.safetensors", spec="feature_map: [4, 2, 1]\n")  # no such C
    with pytest.raises(CheckFailedError) as caught:
        convert(source, strict=True)
    sent = pickle.loads(pickle.dumps(caught.value))
    assert sent.report == caught.value.report
    assert sent.problems == caught.value.problems


def test_a_job_and_a_piece_can_be_sent_to_another_machine(tree: Path, tmp_path: Path) -> None:
    job = Job(str(tree / "a.pth"), None, str(tmp_path / "a.fcn.safetensors"), "bytes")
    piece = perform(pickle.loads(pickle.dumps(job)))
    assert pickle.loads(pickle.dumps(piece)) == piece
    assert piece.outcome == "converted"


HANDMADE = BatchReport(
    (
        Piece("in/a|<b>.pth", "out/a.x", "check failed", 2.5, "out/a.json", 2, 1000, ("a < b",)),
        Piece("in/b.pth", "out/b.x", "up to date", 0.0, "out/b.json", 3, 999_500, warnings=("w",)),
        Piece("in/c.pth", "out/c.x", "converted", 1.25, "out/c.json", 1, 5),
        Piece("in/d\x1b.pth", "out/d.x", "unusable", 0.1, problems=("is\nbroken", "and more")),
        Piece("in/e.pth", "out/e.x", "bug", 0.1, problems=("E: x",), traceback="Trace\n  back"),
    ),
    Shard(2, 3),
    {"python": "3.11", "fcn-convert": "0.1.0", "torch": "2.13", "safetensors": "0.8"},
)


@pytest.mark.parametrize("suffix", BATCH_VIEWS)
def test_every_view_is_as_it_was_last_looked_at(suffix: str, tmp_path: Path) -> None:
    write_report(HANDMADE, tmp_path / f"batch{suffix}")
    same_as_golden(f"batch{suffix}", (tmp_path / f"batch{suffix}").read_text("utf-8"))


def test_the_views_tell_what_failed_and_nothing_of_a_name_is_markup() -> None:
    html = (
        MarkdownIt("commonmark", {"xhtmlOut": True}).enable("table").render(to_markdown(HANDMADE))
    )
    page = ET.fromstring(f"<root>{html}</root>")
    assert {element.tag for element in page.iter()} <= {
        *("root", "h3", "ul", "li", "p", "code", "details", "summary"),
        *("table", "thead", "tbody", "tr", "th", "td"),
    }
    items = ["".join(item.itertext()) for item in page.iter("li")]
    assert items[:2] == ["in/a|<b>.pth check failed: a < b", "in/d\\x1b.pth unusable: is\\nbroken"]
    root = ET.fromstring(to_junit(HANDMADE))
    counts = [root.attrib[name] for name in ("tests", "failures", "errors", "skipped")]
    assert counts == ["5", "1", "2", "1"]


@pytest.mark.parametrize(("width", "lines"), [(80, 3), (120, 3)])
def test_the_table_fits_a_terminal(width: int, lines: int) -> None:
    console = Console(file=StringIO(), force_terminal=True, width=width, color_system=None)
    piece = replace(
        HANDMADE.pieces[2], source=f"models/{'deep/' * 6}vgg16_bn-6c64b313.pth", output="out/deep.x"
    )
    show(replace(HANDMADE, pieces=(piece,)), console)
    assert isinstance(console.file, StringIO)
    found = console.file.getvalue().splitlines()
    rows = found[1:-1]
    assert max(map(len, found)) <= width
    assert ("out/deep.x" in rows[0]) == (width == 120)
    assert "converted" in rows[0]
    assert len(rows) <= lines


def test_the_table_has_a_row_for_each_and_the_sum(tree: Path, tmp_path: Path) -> None:
    result = invoke("batch", tree, "-o", tmp_path / "o", *QUICK)
    assert result.stderr == ""
    assert len([line for line in result.stdout.splitlines() if " converted" in line]) == 3 + 1
    assert result.stdout.endswith("\n3 conversions: 3 converted\n")
    quiet = invoke("batch", tree, "-o", tmp_path / "o", *QUICK, "-q")
    assert (quiet.exit_code, quiet.output) == (0, "")
