from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from importlib.resources import files
from math import prod
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import torch
from corpus.calls import Made
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from fcn_convert import CheckFailedError, Report, conversion, convert, plan, verify_conversion
from fcn_convert.errors import CheckpointError, FcnConvertError, OutputError, SpecError
from fcn_convert.proof import LEVELS, Level
from fcn_convert.report.files import VIEWS
from fcn_convert.spec import make_spec

SPEC = {"feature_map": [3, 2, 4], "flatten": "HWC"}
SCHEMA = json.loads(files("fcn_convert.report").joinpath("schema.json").read_text("utf-8"))


every_level = pytest.mark.parametrize("level", LEVELS, ids=LEVELS)


def generated(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def classifier() -> dict[str, Tensor]:
    made = generated()
    return {
        "features.weight": torch.randn(3, 1, 3, 3, generator=made),
        "head.0.weight": torch.randn(5, 24, generator=made),
        "head.0.bias": torch.randn(5, generator=made),
        "head.2.weight": torch.randn(2, 5, generator=made),
    }


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "model.safetensors"
    save_file(classifier(), path)
    return path


@pytest.fixture
def output(tmp_path: Path) -> Path:
    return tmp_path / "out.safetensors"


def listed(folder: Path) -> set[str]:
    return {entry.name for entry in folder.iterdir()}


def read_report(path: Path) -> dict[str, Any]:
    """Read a report, which must be as its schema says."""
    report: dict[str, Any] = json.loads(path.read_text("utf-8"))
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    jsonschema.Draft202012Validator(SCHEMA).validate(report)
    return report


def plant_a_mistake(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the plan forget to permute: the shapes are right, the values are not."""
    right = plan._rewrite
    monkeypatch.setattr(plan, "_rewrite", lambda layer: plan.Reshape(right(layer).shape))


# The textbook pair, literally.


class Classifier(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 64, 3, padding=1), nn.ReLU())
        self.classifier = nn.Sequential(
            nn.Flatten(), nn.Linear(64 * 7 * 7, 100), nn.ReLU(), nn.Linear(100, 10)
        )

    def forward(self, images: Tensor) -> Tensor:
        found: Tensor = self.classifier(self.features(images))
        return found


class FullyConvolutional(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 64, 3, padding=1), nn.ReLU())
        self.conv_classifier = nn.Sequential(
            nn.Conv2d(64, 100, 7), nn.ReLU(), nn.Conv2d(100, 10, 1)
        )

    def forward(self, images: Tensor) -> Tensor:
        found: Tensor = self.conv_classifier(self.features(images))
        return found


TEXTBOOK = """\
feature_map: [64, 7, 7]
dense: [classifier.1, classifier.3]
rename:
  classifier.1: conv_classifier.0
  classifier.3: conv_classifier.2
"""


@pytest.mark.parametrize("form", ["zip", "legacy", "safetensors", "wrapped"])
def test_the_textbook_pair(tmp_path: Path, form: str) -> None:
    torch.manual_seed(0)
    trained = Classifier().eval()
    source = tmp_path / "textbook.pt"
    if form == "safetensors":
        save_file(trained.state_dict(), source)
    else:
        optimizer = torch.optim.Adam(trained.parameters())
        wrapped = {"epoch": 3, "model": trained.state_dict(), "optimizer": optimizer.state_dict()}
        data = wrapped if form == "wrapped" else trained.state_dict()
        torch.save(data, source, _use_new_zipfile_serialization=form != "legacy")
    source.with_suffix(".yaml").write_text(TEXTBOOK)

    report = convert(source)

    assert report.verdict.text == "matches the spec"
    assert [layer.module for layer in report.layers] == [
        "nn.Conv2d(64, 100, kernel_size=(7, 7))",
        "nn.Conv2d(100, 10, kernel_size=1)",
    ]
    rewritten = FullyConvolutional().eval()
    rewritten.load_state_dict(load_file(tmp_path / "textbook.fcn.safetensors"), strict=True)
    trained, rewritten = trained.double(), rewritten.double()
    images = torch.randn(4, 3, 7, 7, generator=generated(), dtype=torch.float64)
    with torch.inference_mode():
        torch.testing.assert_close(
            rewritten(images).flatten(1), trained(images), rtol=0, atol=1e-12
        )
        # On a larger image each cell is the classifier on its window of the feature map.
        larger = torch.randn(1, 3, 9, 8, generator=generated(), dtype=torch.float64)
        cells, maps = rewritten(larger), trained.features(larger)
        assert cells.shape == (1, 10, 3, 2)
        for row in range(3):
            for column in range(2):
                window = maps[:, :, row : row + 7, column : column + 7]
                expected = trained.classifier(window)
                found = cells[:, :, row, column]
                torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


# Published shapes, in files that are all hole.


def sparse_file(path: Path, shapes: Mapping[str, tuple[int, ...]]) -> Path:
    header: dict[str, Any] = {}
    end = 0
    for name, shape in shapes.items():
        begin, end = end, end + 4 * prod(shape)
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text)
    os.truncate(path, 8 + len(text) + end)
    return path


@pytest.mark.parametrize(
    ("features_in", "feature_map", "module"),
    [
        pytest.param(25088, [512, 7, 7], "nn.Conv2d(512, 4096, kernel_size=(7, 7))", id="VGG-16"),
        pytest.param(9216, [256, 6, 6], "nn.Conv2d(256, 4096, kernel_size=(6, 6))", id="AlexNet"),
        pytest.param(
            8192, [512, 1, 4, 4], "nn.Conv3d(512, 4096, kernel_size=(1, 4, 4))", id="C3D-fc6"
        ),
    ],
)
def test_published_shapes(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    features_in: int,
    feature_map: list[int],
    module: str,
) -> None:
    # Holes stay holes only where the copy goes through lseek, so do not copy: shapes are asked.
    monkeypatch.setattr(os, "copy_file_range", lambda _s, d, n, _at, to: sparse_copy(d, n, to))
    shapes = {
        "fc6.weight": (4096, features_in),
        "fc6.bias": (4096,),
        "fc7.weight": (4096, 4096),
        "fc8.weight": (1000, 4096),
    }
    source = sparse_file(tmp_path / "published.safetensors", shapes)
    output = tmp_path / "out.safetensors"
    report = convert(source, {"feature_map": feature_map}, output, level="shapes")
    assert report.verdict.passed
    assert report.layers[0].module == module
    length = int.from_bytes(output.read_bytes()[:8], "little")
    with output.open("rb") as file:
        header = json.loads(file.read(8 + length)[8:])
    ones = [1] * (len(feature_map) - 1)
    assert header["fc6.weight"]["shape"] == [4096, *feature_map]
    assert header["fc7.weight"]["shape"] == [4096, 4096, *ones]
    assert header["fc8.weight"]["shape"] == [1000, 4096, *ones]
    assert header["fc6.bias"]["shape"] == [4096]


def sparse_copy(descriptor: int, length: int, target: int) -> int:
    os.truncate(descriptor, max(os.fstat(descriptor).st_size, target + length))
    return length


# What is written where.


def test_defaults_lie_beside_the_checkpoint(tmp_path: Path) -> None:
    save_file(classifier(), tmp_path / "net.v2.pth")
    (tmp_path / "net.v2.yaml").write_text("feature_map: [3, 2, 4]\n")
    report = convert(tmp_path / "net.v2.pth")
    assert listed(tmp_path) == {
        "net.v2.pth",
        "net.v2.yaml",
        "net.v2.fcn.safetensors",
        "net.v2.fcn.report.json",
    }
    assert report.output.path == str(tmp_path / "net.v2.fcn.safetensors")


@pytest.mark.parametrize(
    "form",
    [
        pytest.param(lambda path: path, id="path"),
        pytest.param(str, id="text"),
        pytest.param(lambda _: make_spec(SPEC), id="spec"),
        pytest.param(lambda _: SPEC, id="mapping"),
    ],
)
def test_forms_of_a_spec(
    source: Path, output: Path, tmp_path: Path, form: Callable[[Path], Any]
) -> None:
    path = tmp_path / "other.yaml"
    path.write_text(json.dumps(SPEC))  # JSON is YAML
    report = convert(str(source), form(path), str(output), level="bytes")
    assert report.verdict.passed
    assert report.spec["heads"][0]["flatten"] == "HWC"
    expected = classifier()["head.0.weight"].view(5, 2, 4, 3).permute(0, 3, 1, 2)
    assert bytes(load_file(output)["head.0.weight"].numpy()) == bytes(expected.contiguous().numpy())


def test_no_spec(source: Path) -> None:
    with pytest.raises(SpecError, match=r"has no spec: expected model\.yaml beside it"):
        convert(source)
    assert listed(source.parent) == {"model.safetensors"}


@every_level
def test_the_report_says_what_was_done(source: Path, output: Path, level: Level) -> None:
    report = convert(source, SPEC, output, level=level)
    assert isinstance(report, Report)
    data = read_report(output.with_suffix(".report.json"))
    assert data["schema_version"] == 1
    assert data["verdict"]["passed"] is True
    assert data["verdict"]["text"] == "matches the spec"
    first = data["layers"][0]
    assert (first["old_shape"], first["new_shape"]) == ([5, 24], [5, 3, 2, 4])
    assert [check["name"] for check in first["checks"]] == [*LEVELS[: LEVELS.index(level) + 1]]
    kept = {entry["name"]: entry["action"] for entry in data["tensors"]}
    assert kept == {"features.weight": "kept", "head.0.bias": "kept"}
    for entry, path in ((data["source"], source), (data["output"], output)):
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        assert entry["sha256"] == (None if level == "shapes" else digest)
        assert entry["bytes"] == path.stat().st_size
    assert data == json.loads(json.dumps(report.as_dict()))


def test_several_reports(source: Path, output: Path, tmp_path: Path) -> None:
    paths = [tmp_path / "a.json", tmp_path / "b.json"]
    convert(source, SPEC, output, reports=paths, level="bytes")
    assert paths[0].read_bytes() == paths[1].read_bytes()
    assert listed(tmp_path) == {source.name, output.name, "a.json", "b.json"}


def test_no_reports(source: Path, output: Path, tmp_path: Path) -> None:
    convert(source, SPEC, output, reports=[], level="bytes")
    assert listed(tmp_path) == {source.name, output.name}


def test_a_dry_run_writes_nothing(source: Path, output: Path, tmp_path: Path) -> None:
    report = convert(source, SPEC, output, dry_run=True)
    assert listed(tmp_path) == {source.name}
    assert report.verdict.passed is None
    assert report.verdict.text == "planned, nothing written"
    assert [layer.new_shape for layer in report.layers] == [(5, 3, 2, 4), (2, 5, 1, 1)]


def test_the_same_conversion_twice_is_the_same_file(source: Path, tmp_path: Path) -> None:
    convert(source, SPEC, tmp_path / "a.safetensors", level="bytes")
    convert(source, SPEC, tmp_path / "b.safetensors", level="bytes")
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()


@every_level
def test_progress_ends_at_its_total(source: Path, output: Path, level: Level) -> None:
    told: list[tuple[int, int]] = []
    convert(source, SPEC, output, level=level, progress=lambda *both: told.append(both))
    assert len({total for _, total in told}) == 1
    assert max(done for done, _ in told) == told[0][1]
    told.clear()
    verify_conversion(source, output, SPEC, level=level, progress=lambda *both: told.append(both))
    assert max((done / total for done, total in told), default=1) == 1  # of shapes nothing is told


# When a check fails.


def test_a_failing_check_leaves_no_output(
    source: Path, output: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant_a_mistake(monkeypatch)
    with pytest.raises(CheckFailedError, match=r"head\.0\.weight differs") as caught:
        convert(source, SPEC, output)
    assert listed(tmp_path) == {source.name, "out.report.json"}
    data = read_report(tmp_path / "out.report.json")
    assert data["verdict"]["passed"] is False
    assert data["verdict"]["text"] == "does not match the spec"
    assert any("head.0.weight" in problem for problem in data["verdict"]["problems"])
    assert caught.value.report.verdict.passed is False


def test_a_failing_check_keeps_the_older_output(
    source: Path, output: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output.write_bytes(b"older")
    before = output.stat().st_ino
    plant_a_mistake(monkeypatch)
    with pytest.raises(CheckFailedError, match=r"head\.0\.weight differs"):
        convert(source, SPEC, output, force=True, level="bytes")
    assert (output.read_bytes(), output.stat().st_ino) == (b"older", before)
    assert listed(tmp_path) == {source.name, output.name, "out.report.json"}


@pytest.mark.parametrize("strict", [True, False], ids=["strict", "lenient"])
def test_a_warning(source: Path, output: Path, *, strict: bool) -> None:
    spec = {"feature_map": [4, 2, 3]}
    if not strict:
        report = convert(source, spec, output, level="bytes")
        assert len(report.warnings) == 1
        assert report.verdict.passed
        return
    with pytest.raises(CheckFailedError, match=r"no convolution .* 4 channels"):
        convert(source, spec, output, strict=True, level="bytes")
    assert not output.exists()
    data = read_report(output.with_suffix(".report.json"))
    assert data["verdict"]["passed"] is False
    assert data["verdict"]["text"] == "matches the spec"


@pytest.mark.parametrize("moment", ["write", "verify"])
@pytest.mark.parametrize(
    "error", [KeyboardInterrupt, MemoryError, OSError], ids=lambda e: e.__name__
)
def test_nothing_is_left_when_it_breaks_off(
    source: Path,
    output: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    moment: str,
    error: type[BaseException],
) -> None:
    def breaks(*_: object) -> None:
        raise error(5, "broken off")

    monkeypatch.setattr(conversion, moment, breaks)
    with pytest.raises((error, OutputError), match="broken off"):
        convert(source, SPEC, output)
    assert listed(tmp_path) == {source.name}


def test_a_source_written_to_meanwhile(
    source: Path, output: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = conversion.write

    def touched(*arguments: Any) -> None:
        write(*arguments)
        os.utime(source, ns=(1, 1))

    monkeypatch.setattr(conversion, "write", touched)
    with pytest.raises(CheckpointError, match=r"model\.safetensors: was written to while"):
        convert(source, SPEC, output)
    assert listed(tmp_path) == {source.name}


# Paths that are refused.


def same(source: Path, _tmp_path: Path) -> Path:
    return source


def hard_link(source: Path, tmp_path: Path) -> Path:
    path = tmp_path / "link.safetensors"
    path.hardlink_to(source)
    return path


def symlink(source: Path, tmp_path: Path) -> Path:
    path = tmp_path / "link.safetensors"
    path.symlink_to(source)
    return path


def other_way_round(source: Path, tmp_path: Path) -> Path:
    (tmp_path / "folder").mkdir()
    return tmp_path / "folder" / ".." / source.name


def through_a_linked_folder(source: Path, tmp_path: Path) -> Path:
    (tmp_path / "folder").symlink_to(tmp_path)
    return tmp_path / "folder" / source.name


@pytest.mark.parametrize("which", ["source", "spec"])
@pytest.mark.parametrize("force", [True, False], ids=["force", "no-force"])
@pytest.mark.parametrize(
    "name",
    [same, hard_link, symlink, other_way_round, through_a_linked_folder],
    ids=lambda function: function.__name__.replace("_", "-"),
)
def test_inputs_are_never_written_to(
    source: Path,
    tmp_path: Path,
    which: str,
    name: Callable[[Path, Path], Path],
    *,
    force: bool,
) -> None:
    spec = source.with_suffix(".yaml")
    spec.write_text("feature_map: [3, 2, 4]")
    before = source.read_bytes(), spec.read_bytes()
    target = name(source if which == "source" else spec, tmp_path)
    names = listed(tmp_path)
    with pytest.raises(OutputError, match=r"is the same file as .* only read|not a regular file"):
        convert(source, None, target, force=force, reports=[])
    assert (source.read_bytes(), spec.read_bytes()) == before
    assert listed(tmp_path) == names


def test_an_input_is_known_in_capitals_where_the_file_system_knows_it(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    capitals, before = tmp_path / source.name.upper(), source.read_bytes()
    lstat = os.lstat

    def regardless_of_case(path: str | Path, **options: Any) -> os.stat_result:
        return lstat(source if Path(path) == capitals else path, **options)

    monkeypatch.setattr(os, "lstat", regardless_of_case)
    with pytest.raises(OutputError, match=r"is the same file as .*, which is only read"):
        convert(source, SPEC, capitals, force=True)
    assert source.read_bytes() == before


@pytest.mark.parametrize(
    "name",
    [same, hard_link, symlink, through_a_linked_folder],
    ids=lambda function: function.__name__.replace("_", "-"),
)
def test_a_report_does_not_replace_the_spec(
    source: Path, output: Path, tmp_path: Path, name: Callable[[Path, Path], Path]
) -> None:
    spec = tmp_path / "spec.json"
    spec.write_text('{"feature_map": [3, 2, 4]}')
    path = name(spec, tmp_path).with_suffix(".json")
    if name in {hard_link, symlink}:
        (tmp_path / "link.safetensors").rename(path)
    with pytest.raises(OutputError, match=r"is the same file as .* only read|not a regular file"):
        convert(source, spec, output, reports=[path])
    assert spec.read_text() == '{"feature_map": [3, 2, 4]}'
    assert not output.exists()


def test_a_full_disk_names_the_output(
    source: Path, output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.copy_file_range", full)
    with pytest.raises(OutputError, match=rf"^{output}: No space left on device$"):
        convert(source, SPEC, output)
    assert listed(output.parent) == {source.name}


def test_an_existing_output_is_refused_without_force(source: Path, output: Path) -> None:
    output.write_bytes(b"older")
    with pytest.raises(OutputError, match=r"out\.safetensors: already exists; --force, or"):
        convert(source, SPEC, output, level="bytes")
    assert output.read_bytes() == b"older"
    convert(source, SPEC, output, level="bytes", force=True)
    assert load_file(output)["head.0.weight"].shape == (5, 3, 2, 4)


def folder(path: Path) -> None:
    path.mkdir()


def pipe(path: Path) -> None:
    os.mkfifo(path)


def dangling(path: Path) -> None:
    path.symlink_to("nowhere")


def loop(path: Path) -> None:
    path.symlink_to(path.name)


@pytest.mark.parametrize(
    "make", [folder, pipe, dangling, loop], ids=lambda function: function.__name__
)
@pytest.mark.parametrize("force", [True, False], ids=["force", "no-force"])
def test_only_regular_files_are_replaced(
    source: Path, output: Path, make: Callable[[Path], None], *, force: bool
) -> None:
    make(output)
    before = os.lstat(output)
    with pytest.raises(OutputError, match=r"exists and is not a regular file"):
        convert(source, SPEC, output, force=force)
    assert os.lstat(output).st_ino == before.st_ino


@pytest.mark.parametrize(
    ("report", "message"),
    [
        pytest.param("out.safetensors", r"no report has the suffix '\.safetensors'", id="suffix"),
        pytest.param("report", r"no report has the suffix ''", id="no-suffix"),
        pytest.param("nowhere/report.json", r"its folder does not exist", id="no-folder"),
        pytest.param("folder.json", r"is not a regular file", id="folder"),
    ],
)
def test_report_paths_are_checked_first(
    source: Path, output: Path, tmp_path: Path, report: str, message: str
) -> None:
    (tmp_path / "folder.json").mkdir()
    with pytest.raises(OutputError, match=message):
        convert(source, SPEC, output, reports=[tmp_path / report])
    assert not output.exists()


@pytest.mark.parametrize(
    ("name", "better"),
    [
        *(
            (f"o.{suffix}", "o.safetensors")
            for suffix in ["pth", "PT", "bin", "ckpt", "h5", "keras", "npz", "pkl"]
        ),
        *(
            (f"o.{suffix}", "o.safetensors")
            for suffix in ["json", "html", "md", "xml", "yaml", "yml"]
        ),
        ("o.tar.pt", "o.tar.safetensors"),
        ("o.safetensors.index.json", "o.safetensors"),
    ],
    ids=lambda name: name.partition(".")[2],
)
@pytest.mark.parametrize("dry_run", [True, False], ids=["dry-run", "convert"])
def test_an_output_is_not_called_what_it_is_not(
    source: Path, tmp_path: Path, name: str, better: str, *, dry_run: bool
) -> None:
    with pytest.raises(OutputError) as error:
        convert(source, SPEC, tmp_path / name, reports=[], force=True, dry_run=dry_run)
    assert str(error.value).endswith(f"does not stand for; name it {tmp_path / better}")
    assert listed(tmp_path) == {source.name}


@pytest.mark.parametrize(
    "name", ["o", "o.fcn", "o.st", "o.v1.2", "o.pth.fcn", "pth", "safetensors"]
)
def test_a_name_of_any_other_suffix_is_taken(source: Path, tmp_path: Path, name: str) -> None:
    convert(source, SPEC, tmp_path / name, reports=[], level="shapes")
    assert listed(tmp_path) == {source.name, name}


def test_every_suffix_of_a_report_is_one_that_no_output_has(source: Path, tmp_path: Path) -> None:
    for suffix in VIEWS:
        with pytest.raises(OutputError, match="does not stand for"):
            convert(source, SPEC, tmp_path / f"o{suffix}", dry_run=True)


@pytest.mark.parametrize(
    ("checkpoint", "target", "message"),
    [
        pytest.param("missing.pt", "o.safetensors", r"missing\.pt: No such file", id="no-source"),
        pytest.param("/dev/null", "o.safetensors", r"is not a regular file", id="no-file"),
        pytest.param("model.safetensors", "no/o.safetensors", r"folder does not", id="no-folder"),
        pytest.param(
            "model.safetensors", ".", r"it is a folder: name a file in it", id="to-a-folder"
        ),
        pytest.param("model.safetensors", "x" * 300, r"name too long", id="long-name"),
    ],
)
def test_unusable_paths(
    source: Path, tmp_path: Path, checkpoint: str, target: str, message: str
) -> None:
    with pytest.raises(FcnConvertError, match=message):
        convert(tmp_path / checkpoint, SPEC, tmp_path / target)
    assert listed(tmp_path) == {source.name}


def test_the_longest_name_there_is(source: Path, tmp_path: Path) -> None:
    target = tmp_path / ("x" * (255 - len(".safetensors")) + ".safetensors")
    convert(source, SPEC, target, reports=[], level="bytes")
    assert target.exists()


# Heads.


def test_two_heads(tmp_path: Path, output: Path) -> None:
    made = generated()
    tensors = {
        "trunk.weight": torch.randn(3, 1, 2, 2, generator=made),
        "left.weight": torch.randn(4, 24, generator=made),
        "left.out.weight": torch.randn(2, 4, generator=made),
        "right.weight": torch.randn(5, 27, generator=made),
    }
    torch.save(tensors, tmp_path / "two.pt")
    spec = {
        "heads": [
            {"feature_map": [3, 2, 4], "flatten": "WHC", "dense": ["left", "left.out"]},
            {"feature_map": {"C": 3, "L": 9}, "flatten": "LC", "dense": ["right"]},
        ]
    }
    report = convert(tmp_path / "two.pt", spec, output)
    assert [layer.kernel for layer in report.layers] == [(2, 4), (1, 1), (9,)]
    found = load_file(output)
    expected = {
        "trunk.weight": tensors["trunk.weight"],
        "left.weight": torch.einsum("owhc->ochw", tensors["left.weight"].view(4, 4, 2, 3)),
        "left.out.weight": tensors["left.out.weight"].view(2, 4, 1, 1),
        "right.weight": torch.einsum("olc->ocl", tensors["right.weight"].view(5, 9, 3)),
    }
    assert {name: (t.shape, bytes(t.numpy())) for name, t in found.items()} == {
        name: (t.shape, bytes(t.contiguous().numpy())) for name, t in expected.items()
    }


# Verifying later.


def test_verify_conversion_agrees(source: Path, output: Path, tmp_path: Path) -> None:
    made = convert(source, SPEC, output)
    before = listed(tmp_path)
    report = verify_conversion(source, output, SPEC)
    assert report.verdict == replace(made.verdict, output="only read")
    assert report.layers == made.layers
    assert report.output == made.output
    assert listed(tmp_path) == before  # no report unless one is named
    verify_conversion(source, output, SPEC, reports=[tmp_path / "again.json"])
    assert read_report(tmp_path / "again.json")["verdict"]["passed"] is True


def test_verify_conversion_warns_of_what_the_converted_file_asks_to_run(
    source: Path, output: Path, tmp_path: Path
) -> None:
    convert(source, SPEC, output, level="bytes")
    poisoned = tmp_path / "poisoned.pth"
    torch.save({**load_file(output), "note": Made(os.system, "exit 1")}, poisoned)
    report = verify_conversion(source, poisoned, SPEC, level="bytes")
    assert report.verdict.passed
    (warning,) = report.warnings
    assert warning.startswith(f"{poisoned}: ")
    assert "posix.system" in warning


@pytest.mark.parametrize("run", [convert, verify_conversion], ids=["convert", "verify"])
def test_a_level_that_does_not_exist_is_refused(source: Path, output: Path, run: Any) -> None:
    paths = {"output": output} if run is convert else {"converted": source}
    with pytest.raises(ValueError, match=r"level is 'activation'; expected one of shapes, bytes"):
        run(source, spec=SPEC, level="activation", **paths)
    assert not output.exists()


def test_verify_conversion_raises_with_the_report(source: Path, output: Path) -> None:
    convert(source, SPEC, output)
    path = output.with_name("bad.json")
    with pytest.raises(CheckFailedError, match=r"head\.0\.weight differs"):
        verify_conversion(source, output, {"feature_map": [3, 2, 4]}, reports=[path])
    assert read_report(path)["verdict"]["passed"] is False
    assert output.exists()


@pytest.mark.parametrize("named", ["shard.safetensors", "model.safetensors.index.json"])
@pytest.mark.parametrize("as_report", [False, True], ids=["output", "report"])
def test_no_file_of_a_sharded_checkpoint_is_replaced(
    tmp_path: Path, named: str, *, as_report: bool
) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    tensors = {"fc.weight": torch.randn(5, 24), "fc.bias": torch.randn(5)}
    save_file(tensors, folder / "shard.safetensors")
    (folder / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": dict.fromkeys(tensors, "shard.safetensors")})
    )
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    target = tmp_path / "o.safetensors" if as_report else folder / named
    reports = [folder / named] if as_report else []
    with pytest.raises(OutputError, match=r"is the same file as|no report has the suffix"):
        convert(folder, {"feature_map": [4, 3, 2]}, target, reports=reports, force=True)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert not (tmp_path / "o.safetensors").exists()


def test_the_digest_of_one_shard_is_not_given_for_all(tmp_path: Path) -> None:
    tensors = {"fc.weight": torch.randn(5, 24)}
    save_file(tensors, tmp_path / "shard.safetensors")
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"fc.weight": "shard.safetensors"}}))
    report = convert(index, {"feature_map": [4, 3, 2]}, tmp_path / "o.safetensors")
    assert report.source.sha256 is None
    assert report.output.sha256 is not None
