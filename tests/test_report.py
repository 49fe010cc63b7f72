from __future__ import annotations

import json
import re
import tracemalloc
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from hashlib import sha256
from io import StringIO
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import torch
from reports import GOLDEN
from rich.console import Console
from safetensors.torch import load_file, save_file

from fcn_convert import CheckFailedError, FcnConvertError, Report, convert, verify_conversion
from fcn_convert.errors import ExistsError, OutputError
from fcn_convert.proof import LEVELS, Check
from fcn_convert.report import FileEntry, LayerEntry, SpecFile, TensorEntry, Verdict
from fcn_convert.report.files import check_replaceable, write_report
from fcn_convert.report.json_view import SCHEMA, to_json
from fcn_convert.report.terminal import show
from fcn_convert.spec_schema import json_schema

FOLDER = Path(__file__).parent.parent / "sample_checkpoints"
SAMPLES = ("lenet.pth", "vgg.ckpt", "two_heads.pth", "sequence.safetensors")
every_sample = pytest.mark.parametrize("sample", SAMPLES, ids=lambda name: Path(name).stem)

SHA = "ab" * 32


@pytest.fixture(scope="module")
def schema() -> Any:
    return json.loads(SCHEMA.read_text("utf-8"))


def validated(report: Report, schema: Any) -> Any:
    """Hold the report as read back from JSON against its schema, and return it."""
    data = json.loads("".join(to_json(report)))
    jsonschema.Draft202012Validator(schema).validate(data)
    assert data == report.as_dict()  # as_dict is JSON's types already
    return data


def run(sample: str, folder: Path, **options: Any) -> Report:
    spec = (FOLDER / sample).with_suffix(".yaml")
    return convert(FOLDER / sample, spec, folder / "out.safetensors", **options)


# The schema


def objects(node: Any, at: str = "#") -> Iterator[tuple[str, Any]]:
    if isinstance(node, dict):
        if isinstance(node.get("properties"), dict) and "type" in node:
            yield at, node
        for key, value in node.items():
            yield from objects(value, f"{at}/{key}")


def test_the_schema_is_valid_by_its_own_meta_schema(schema: Any) -> None:
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    jsonschema.Draft202012Validator.check_schema(schema)


def test_every_property_is_described_and_no_other_is_allowed(schema: Any) -> None:
    found = list(objects(schema))
    assert len(found) > 10
    for at, node in found:
        assert node["additionalProperties"] is False, at
        assert node["required"] or at.endswith("/values"), at
        assert set(node["required"]) <= node["properties"].keys(), at
        for name, described in node["properties"].items():
            assert len(described["description"]) > 3, f"{at}/{name}"


# The reports of conversions and verifications


@pytest.mark.parametrize("level", LEVELS)
@every_sample
def test_a_report_is_what_its_schema_says(
    sample: str, level: Any, schema: Any, tmp_path: Path
) -> None:
    data = validated(run(sample, tmp_path, level=level), schema)
    assert data["verdict"] == {
        "text": "matches the spec",
        "passed": True,
        "level": level,
        "output": "written",
        "problems": [],
    }
    for entry in (data["source"], data["output"]):
        content = Path(entry["path"]).read_bytes()
        assert entry["bytes"] == len(content)
        digest = None if level == "shapes" else sha256(content).hexdigest()
        assert entry["sha256"] == digest
    spec = (FOLDER / sample).with_suffix(".yaml")
    assert data["spec_file"] == {
        "path": str(spec),
        "sha256": sha256(spec.read_bytes()).hexdigest(),
    }
    names = [check["name"] for check in data["layers"][0]["checks"]]
    assert names == list(LEVELS[: LEVELS.index(level) + 1])


@every_sample
def test_a_dry_runs_report_has_no_verdict_and_no_output(
    sample: str, schema: Any, tmp_path: Path
) -> None:
    data = validated(run(sample, tmp_path, dry_run=True), schema)
    assert data["verdict"] == {
        "text": "planned, nothing written",
        "passed": None,
        "level": None,
        "output": "not written",
        "problems": [],
    }
    assert data["source"]["sha256"] is data["output"]["sha256"] is None
    assert not any(layer["checks"] for layer in data["layers"])
    assert list(tmp_path.iterdir()) == []


@every_sample
def test_the_report_beside_the_output_is_the_one_returned(sample: str, tmp_path: Path) -> None:
    report = run(sample, tmp_path)
    written = (tmp_path / "out.report.json").read_text("ascii")
    assert json.loads(written) == report.as_dict()
    assert written.endswith("}\n")


@every_sample
def test_totals_count_what_the_files_hold(sample: str, schema: Any, tmp_path: Path) -> None:
    data = validated(run(sample, tmp_path), schema)
    written = load_file(tmp_path / "out.safetensors")
    actions = Counter(entry["action"] for entry in data["tensors"])
    assert data["totals"] == {"rewritten": len(data["layers"]), **actions}
    assert data["totals"]["rewritten"] + data["totals"]["kept"] == len(written)
    assert data["totals"].get("left out", 0) == {"vgg.ckpt": 3}.get(sample, 0)
    for layer in data["layers"]:
        assert list(written[f"{layer['new_name']}.weight"].shape) == layer["new_shape"]
    kept = [entry for entry in data["tensors"] if entry["action"] == "kept"]
    sizes = {n: t.numel() * t.element_size() for n, t in written.items()}
    assert {entry["new_name"]: entry["bytes"] for entry in kept}.items() <= sizes.items()


@every_sample
def test_the_resolved_spec_is_a_spec_that_gives_the_same_output(
    sample: str, tmp_path: Path
) -> None:
    report = run(sample, tmp_path)
    jsonschema.Draft202012Validator(json_schema()).validate(report.as_dict()["spec"])
    again = convert(FOLDER / sample, report.as_dict()["spec"], tmp_path / "again.safetensors")
    assert again.output.sha256 == report.output.sha256
    assert again.spec_file is None
    assert again.spec == report.spec


@every_sample
def test_module_lines_make_layers_of_the_new_shapes(sample: str, tmp_path: Path) -> None:
    for layer in run(sample, tmp_path, dry_run=True).layers:
        module = eval(layer.module, {"nn": torch.nn})  # it is meant to be pasted
        assert tuple(module.weight.shape) == layer.new_shape
        assert (module.bias is not None) == layer.bias


# Failed checks


def broken(tmp_path: Path) -> tuple[Path, Path]:
    """Convert lenet, then change one value of a rewritten weight."""
    run("lenet.pth", tmp_path)
    output = tmp_path / "out.safetensors"
    tensors = load_file(output)
    tensors["classifier.1.weight"][0, 0, 0, 0] += 1
    save_file(tensors, output)
    return FOLDER / "lenet.pth", output


@pytest.mark.parametrize("level", LEVELS[1:])
def test_the_report_of_a_failed_verification_says_what_differs(
    level: Any, schema: Any, tmp_path: Path
) -> None:
    original, output = broken(tmp_path)
    with pytest.raises(
        CheckFailedError, match=r"1 of 12096 elements, first at \[0, 0, 0, 0\]"
    ) as e:
        verify_conversion(original, output, reports=[tmp_path / "v.json"], level=level)
    data = validated(e.value.report, schema)
    assert json.loads((tmp_path / "v.json").read_text()) == data
    assert data["verdict"]["text"] == "does not match the spec"
    assert data["verdict"]["passed"] is False
    assert data["verdict"]["output"] == "only read"
    assert len(data["verdict"]["problems"]) == LEVELS.index(level)
    difference = data["layers"][0]["checks"][1]["values"]
    assert difference["differing"] == 1
    assert difference["max_abs_diff"] == pytest.approx(1)


def test_a_verification_that_fails_by_shapes_has_no_sha256_and_names_the_container(
    schema: Any,
) -> None:
    source = FOLDER / "lenet.pth"
    with pytest.raises(CheckFailedError, match=r"classifier\.1\.weight has the shape") as failed:
        verify_conversion(source, source, level="bytes")
    data = validated(failed.value.report, schema)
    assert data["output"]["format"] == data["source"]["format"] == "torch (zip)"
    assert data["output"]["sha256"] is None


def test_a_passed_verification_only_reads(schema: Any, tmp_path: Path) -> None:
    run("vgg.ckpt", tmp_path)
    report = verify_conversion(FOLDER / "vgg.ckpt", tmp_path / "out.safetensors")
    assert validated(report, schema)["verdict"]["output"] == "only read"


def unlikely(tmp_path: Path) -> Path:
    """Write a checkpoint whose spec gives a warning: C as a Keras user writes it."""
    tensors = {"conv.weight": torch.ones(8, 3, 3, 3), "fc.weight": torch.ones(4, 8 * 2 * 2)}
    save_file(tensors, tmp_path / "net.safetensors")
    (tmp_path / "net.yaml").write_text("feature_map: [2, 2, 8]\n")
    return tmp_path / "net.safetensors"


def test_a_strict_conversion_with_a_warning_says_that_no_output_was_written(
    schema: Any, tmp_path: Path
) -> None:
    with pytest.raises(CheckFailedError, match="has 2 channels") as failed:
        convert(unlikely(tmp_path), strict=True)
    data = validated(failed.value.report, schema)
    assert data["verdict"]["text"] == "matches the spec"
    assert data["verdict"]["output"] == "not written"
    assert not (tmp_path / "net.fcn.safetensors").exists()
    assert json.loads((tmp_path / "net.fcn.report.json").read_text()) == data
    assert "no output was written" in shown(failed.value.report)


# Entries


def test_state_dicts_that_were_not_chosen_are_left_out_by_name(schema: Any, tmp_path: Path) -> None:
    model = {"conv.weight": torch.ones(4, 2, 3, 3), "fc.weight": torch.ones(5, 16)}
    averaged = {name: tensor + 1 for name, tensor in model.items()}
    torch.save({"model": model, "ema": averaged, "epoch": 3}, tmp_path / "net.pth")
    report = convert(tmp_path / "net.pth", {"feature_map": [4, 2, 2], "state_dict": "ema"})
    left_out = {e["name"]: e["reason"] for e in validated(report, schema)["tensors"][1:]}
    assert left_out.keys() == {"model", "epoch"}
    assert left_out["model"] == "another state dict (2 tensors); ema was taken"


def test_ties_and_renames_are_reported(schema: Any, tmp_path: Path) -> None:
    shared = torch.ones(4, 8)
    tensors = {"a.weight": shared, "b.weight": shared, "norm.weight": torch.ones(2)}
    torch.save(tensors, tmp_path / "net.pth")
    spec = {"feature_map": [2, 2, 2], "dense": ["a"], "rename": {"norm": "bn", "a": "conv"}}
    data = validated(convert(tmp_path / "net.pth", spec), schema)
    assert data["ties"] == [["a.weight", "b.weight"]]
    assert [(e["name"], e["new_name"], e["action"]) for e in data["tensors"]] == [
        ("b.weight", "b.weight", "kept"),
        ("norm.weight", "bn.weight", "renamed"),
    ]
    assert [(e["name"], e["new_name"]) for e in data["layers"]] == [("a", "conv")]
    assert data["totals"] == {"rewritten": 1, "kept": 1, "renamed": 1}


def test_numbers_that_json_lacks_become_texts(schema: Any) -> None:
    values = {"max_abs_diff": float("inf"), "bound": float("nan"), "larger_map_max_abs_diff": 0.0}
    check = Check("activations", False, "fc: differs", values)
    report = replace(HANDMADE, layers=(replace(HANDMADE.layers[0], checks=(check,)),))
    data = validated(report, schema)
    found = data["layers"][0]["checks"][0]["values"]
    assert found == {"max_abs_diff": "inf", "bound": "nan", "larger_map_max_abs_diff": 0.0}


def test_a_report_of_many_tensors_is_made_in_pieces(schema: Any) -> None:
    kept = next(entry for entry in HANDMADE.tensors if entry.action == "kept")
    tensors = tuple(replace(kept, name=f"blocks.{number}") for number in range(20_000))
    report = replace(HANDMADE, tensors=tensors)
    tracemalloc.start()
    try:
        size = sum(len(piece) for piece in to_json(report))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < size / 4
    validated(report, schema)


def test_a_report_that_cannot_be_written_is_one_error(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"nowhere.r\.json: its folder does not exist"):
        write_report(HANDMADE, tmp_path / "nowhere" / "r.json")


@pytest.mark.parametrize("path", sorted(GOLDEN.iterdir()), ids=lambda path: path.name)
def test_a_report_replaces_a_report_of_ours_or_an_empty_file_and_nothing_else(
    path: Path, tmp_path: Path
) -> None:
    older = tmp_path / f"r{path.suffix}"
    for text in (path.read_text("utf-8"), ""):
        older.write_text(text, "utf-8")
        write_report(HANDMADE, older)
        assert older.read_text("utf-8") not in {path.read_text("utf-8"), ""}
    for text in ('{"schema_version": 1, "name": 2}', f"mine\n{path.read_text('utf-8')}"):
        older.write_text(text, "utf-8")
        with pytest.raises(ExistsError, match=r"already exists and is not a report"):
            write_report(HANDMADE, older)
        assert older.read_text("utf-8") == text
        write_report(HANDMADE, older, replace=True)
        check_replaceable(older)


def test_a_report_in_the_way_of_the_default_one_is_said_to_be_that(tmp_path: Path) -> None:
    (tmp_path / "out.report.json").write_text('{"mine": 1}')
    with pytest.raises(ExistsError, match=r"report\.json: already exists .*; reports go there by"):
        run("lenet.pth", tmp_path)
    with pytest.raises(ExistsError, match=r"or remove this one$"):
        run("lenet.pth", tmp_path, reports=[tmp_path / "out.report.json"])
    assert [path.name for path in tmp_path.iterdir()] == ["out.report.json"]


def test_a_report_that_is_in_place_is_not_said_to_be_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[Path] = []

    def sync(folder: Path) -> None:
        synced.append(folder)
        if len(synced) == 2:  # the folder of the report, after that of the output
            raise OSError(24, "Too many open files")

    monkeypatch.setattr("fcn_convert.atomic.sync_folder", sync)
    with pytest.raises(OutputError) as error:
        run("lenet.pth", tmp_path, level="bytes")
    report, output = tmp_path / "out.report.json", tmp_path / "out.safetensors"
    assert report.exists()
    assert str(error.value) == (
        f"{report} is in place, but a power failure may undo that: its folder cannot be synced "
        f"(Too many open files); the output {output} is in place"
    )


def test_a_full_disk_is_an_error_and_leaves_the_older_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "r.json"
    write_report(HANDMADE, path)
    older = path.read_bytes()

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.write", full)
    with pytest.raises(OutputError, match=r"r\.json: No space left on device$"):
        write_report(HANDMADE, path)
    assert path.read_bytes() == older
    assert list(tmp_path.iterdir()) == [path]


def test_an_unknown_suffix_is_refused_before_any_work(tmp_path: Path) -> None:
    with pytest.raises(
        FcnConvertError, match=r"no report has the suffix '\.docx'; known are \.json"
    ):
        run("lenet.pth", tmp_path, reports=[tmp_path / "report.docx"])
    assert list(tmp_path.iterdir()) == []


# The terminal view


def checks(**measured: float) -> tuple[Check, ...]:
    answers = {"max_abs_diff": 1e-15, "larger_map_max_abs_diff": 2.5e-15, "bound": 3e-13}
    return (
        Check("shapes", True),
        Check("bytes", True, "", {"max_abs_diff": 0.0, "differing": 0}),
        Check("activations", True, "", {**answers, **measured}),
    )


HANDMADE = Report(
    verdict=Verdict("matches the spec", True, "activations", "written", ()),
    source=FileEntry("in/net.pth", "torch (zip)", 999_600, SHA),
    output=FileEntry("out/net.safetensors", "safetensors", 2_345_678, SHA),
    spec={
        "version": 1,
        "layout": "torch",
        "heads": [
            {
                "feature_map": {"C": 2, "H": 3, "W": 4},
                "flatten": "CHW",
                "dense": [{"name": "[/foo]", "reads": "map"}],
            }
        ],
        "rename": {},
    },
    spec_file=SpecFile("net.yaml", SHA),
    layers=(
        LayerEntry(
            name="[/foo]",
            new_name="[bold]x\x1b[31m",
            reads="map",
            flatten="CHW",
            feature_map={"C": 2, "H": 3, "W": 4},
            kernel=(3, 4),
            dtype="F32",
            old_shape=(5, 24),
            new_shape=(5, 2, 3, 4),
            bias=True,
            module="nn.Conv2d(2, 5, kernel_size=(3, 4))",
            checks=checks(),
        ),
        LayerEntry(
            name="fc",
            new_name="fc",
            reads="dense",
            flatten="CHW",
            feature_map={"C": 2, "H": 3, "W": 4},
            kernel=(1, 1),
            dtype="F8_E8M0",
            old_shape=(3, 5),
            new_shape=(3, 5, 1, 1),
            bias=False,
            module="nn.Conv2d(5, 3, kernel_size=1, bias=False)",
            checks=(*checks()[:2], Check("activations", None, "torch cannot compute: no")),
        ),
    ),
    tensors=(
        TensorEntry(
            "a\nb", "a\nb", "I64", (), 8, "kept", "not a Dense weight of a head", checks()[:2]
        ),
        TensorEntry("n.w", "m.w", "F32", (2,), 8, "renamed", "the spec renames it", checks()[:2]),
        *(
            TensorEntry(f"left{i}", None, None, None, None, "left out", "not a tensor", ())
            for i in range(8)
        ),
    ),
    ties=(("a\nb", "n.w"),),
    warnings=("unlikely",),
    notes=(),
    versions={"python": "3.11", "fcn-convert": "0.1.0", "torch": "2.13.0", "safetensors": "0.8.0"},
)


def shown(report: Report, *, every_tensor: bool = False, **options: Any) -> str:
    file = StringIO()
    show(report, Console(file=file, width=40, **options), every_tensor=every_tensor)
    return file.getvalue()


LAYERS = """\
in/net.pth (torch (zip), 1 MB) → out/net.safetensors (2.35 MB)
head on a feature map C 2 × H 3 × W 4, flattened C, H, W
layer                     Dense weight    becomes       as                                          weight diff  outputs diff  bound    verdict
[/foo] → [bold]x\\x1b[31m  (5, 24) F32     (5, 2, 3, 4)  nn.Conv2d(2, 5, kernel_size=(3, 4))         0            2.5e-15       3.0e-13  agrees
fc                        (3, 5) F8_E8M0  (3, 5, 1, 1)  nn.Conv2d(5, 3, kernel_size=1, bias=False)  0                                   agrees (activations not computed)
"""  # noqa: E501 - lines of a log are not wrapped
END = """\
tied in the source, each written in full: a\\nb, n.w
tensors: 2 rewritten, 1 kept, 8 left out (left0, left1, left2, left3, left4, left5 and 2 more), 1 renamed
verdict: matches the spec, with 1 warning (checked: activations)
"""  # noqa: E501 - likewise


def test_the_terminal_view_in_a_log() -> None:
    assert shown(HANDMADE) == LAYERS + END


def test_a_pipe_to_something_narrow_gets_a_narrow_table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    console = Console(file=StringIO())
    show(HANDMADE, console, every_tensor=False)
    assert isinstance(console.file, StringIO)
    _, _, headings, *_ = console.file.getvalue().splitlines()
    assert headings.split() == [
        "layer",
        "Dense",
        "weight",
        "becomes",
        "weight",
        "outputs",
        "verdict",
    ]


def test_verbose_lists_every_tensor_between_layers_and_verdict() -> None:
    text = shown(HANDMADE, every_tensor=True)
    assert text.startswith(LAYERS)
    assert text.endswith(END)
    rows = [re.split(r" {2,}", line) for line in text[len(LAYERS) : -len(END)].splitlines()]
    assert rows[:5] == [
        [""],
        ["tensor", "shape", "dtype", "action", "reason", "verdict"],
        ["a\\nb", "()", "I64", "kept", "not a Dense weight of a head", "agrees"],
        ["n.w → m.w", "(2,)", "F32", "renamed", "the spec renames it", "agrees"],
        ["left0", "left out", "not a tensor"],
    ]
    assert len(rows) == 12


def test_a_failed_check_is_shown_by_its_layer_and_the_verdict() -> None:
    failing = (
        *checks()[:1],
        Check("bytes", False, "fc.weight differs", {"max_abs_diff": 0.125, "differing": 1}),
        Check("activations", False, "fc.weight: 1 of 9", dict(checks()[2].values)),
    )
    report = replace(
        HANDMADE,
        verdict=Verdict("does not match the spec", False, "activations", "not written", ("p\x07",)),
        layers=(replace(HANDMADE.layers[1], checks=failing),),
    )
    lines = shown(report).splitlines()
    assert lines[-1] == (
        "verdict: does not match the spec (checked: activations); no output was written"
    )
    row = next(line for line in lines if line.startswith("fc"))
    assert row.split()[-4:] == ["0.125", "2.5e-15", "3.0e-13", "differs"]


def test_only_a_terminal_gets_colour_and_its_own_width(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    assert "\x1b[" not in shown(HANDMADE)
    text = shown(HANDMADE, force_terminal=True)
    assert "\x1b[1;32mverdict: matches the spec" in text
    assert "\x1b[31m" not in text  # the name's own escape
    assert "  Dense weight  (5, 24) F32" in text  # 40 columns are too few for a table
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b[1;32m" not in shown(HANDMADE, force_terminal=True)


@pytest.mark.parametrize(
    ("nbytes", "words"),
    [
        pytest.param(0, "0 B", id="nothing"),
        pytest.param(999, "999 B", id="bytes"),
        pytest.param(1000, "1 kB", id="kilobyte"),
        pytest.param(999_499, "999 kB", id="below-a-megabyte"),
        pytest.param(999_500, "1 MB", id="rounds-to-a-megabyte"),
        pytest.param(553_433_881, "553 MB", id="vgg16"),
        pytest.param(7_000_000_000_000, "7 TB", id="terabytes"),
    ],
)
def test_sizes_in_words(nbytes: int, words: str) -> None:
    report = replace(HANDMADE, source=replace(HANDMADE.source, bytes=nbytes))
    assert shown(report).splitlines()[0].split("(zip), ")[1].startswith(f"{words}) →")
