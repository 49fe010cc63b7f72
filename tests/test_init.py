from __future__ import annotations

import json
import shlex
import shutil
import warnings
from collections.abc import Callable
from math import prod
from pathlib import Path

import jsonschema
import pytest
import torch
import torch.distributed.checkpoint as dcp
from safetensors.torch import save_file
from typer.testing import CliRunner, Result

from fcn_convert import CheckFailedError, convert
from fcn_convert.cli import app
from fcn_convert.errors import SpecError
from fcn_convert.report.json_view import SCHEMA
from fcn_convert.spec import load_spec, parse_spec

FOLDER = Path(__file__).parent.parent / "sample_checkpoints"


def invoke(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, list(map(str, arguments)))


def uncommented(text: str, choice: int) -> str:
    """Take one of the commented choices out of its comment, as a user would."""
    after = text[text.index("Take ") :].split("\n", 1)[1]
    choices = [block for block in after.split("\n#\n") if "feature_map" in block]
    lines = choices[choice].removeprefix("#\n").strip().split("\n")
    return "\n".join(line.removeprefix("# ") for line in lines)


@pytest.mark.parametrize("file", ["lenet.pth", "vgg.ckpt", "sequence.safetensors"])
def test_the_spec_that_init_writes_converts_as_the_samples_own(file: str, tmp_path: Path) -> None:
    source = Path(shutil.copy(FOLDER / file, tmp_path))
    spec = tmp_path / "written.yaml"
    result = invoke("init", source, "-o", spec)
    assert (result.exit_code, result.stdout) == (0, "")
    command = shlex.join(["fcn-convert", "convert", str(source), "--spec", str(spec)])
    assert result.stderr.endswith(f"{spec}: written; next: `{command}`\n")
    assert invoke("init", source).stdout == spec.read_text("utf-8")
    convert(source, spec, tmp_path / "a.safetensors", level="bytes")
    convert(source, FOLDER / source.with_suffix(".yaml").name, tmp_path / "b.safetensors")
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()


def test_the_next_command_takes_no_name_for_an_option(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(FOLDER / "lenet.pth", tmp_path / "-x.pth")
    monkeypatch.chdir(tmp_path)
    result = invoke("init", "-o", "./-y.yaml", "--", "-x.pth")
    assert result.stderr.endswith("next: `fcn-convert convert ./-x.pth --spec ./-y.yaml`\n")
    assert invoke(*shlex.split(result.stderr.split("`")[1])[1:]).exit_code == 0


def test_what_the_file_does_not_tell_is_left_to_its_author(tmp_path: Path) -> None:
    source = Path(shutil.copy(FOLDER / "two_heads.pth", tmp_path))
    result = invoke("init", source, "-o", tmp_path / "two_heads.yaml")
    assert result.exit_code == 2
    assert "error: " in result.stderr
    assert "cannot be told from the file alone" in result.stderr
    command = shlex.join(["fcn-convert", "convert", str(source)])
    assert result.stderr.endswith(f"choose there, then run `{command}`\n")
    text = (tmp_path / "two_heads.yaml").read_text("utf-8")
    assert "the weights go with 24×3×2 or 24×2×3." in text
    assert "the weights leave the flatten order open: " in text
    with pytest.raises(SpecError, match="neither `feature_map"):
        load_spec(tmp_path / "two_heads.yaml")
    with pytest.raises(SpecError, match="neither `feature_map"):
        convert(source)
    choices = [parse_spec(uncommented(text, at)).heads[0] for at in range(2)]
    assert [(str(head.feature_map), head.flatten) for head in choices] == [
        ("24×3×2", "HWC"),
        ("24×2×3", "WHC"),  # the sample's own
    ]


def test_every_head_gets_its_map(tmp_path: Path) -> None:
    shapes = {
        "trunk.weight": (32, 3, 3, 3),
        "policy_conv.weight": (2, 32, 1, 1),
        "policy.weight": (10, 50),
        "value_conv.weight": (1, 32, 1, 1),
        "value.weight": (8, 25),
        "value2.weight": (1, 8),
    }
    torch.save({name: torch.randn(s) for name, s in shapes.items()}, tmp_path / "go.pth")
    result = invoke("init", tmp_path / "go.pth")
    assert result.exit_code == 0
    heads = parse_spec(result.stdout).heads
    assert [(str(h.feature_map), [d.name for d in h.dense or ()]) for h in heads] == [
        ("2×5×5", ["policy"]),
        ("1×5×5", ["value", "value2"]),
    ]
    (tmp_path / "go.yaml").write_text(result.stdout, encoding="utf-8")
    assert len(convert(tmp_path / "go.pth", level="bytes").layers) == 3


def test_several_open_heads_are_written_as_one_choice(tmp_path: Path) -> None:
    shapes = {"a.conv.weight": (4, 3, 3, 3), "b.conv.weight": (8, 3, 3, 3)}
    shapes |= {"a.fc.weight": (5, 24), "b.fc.weight": (5, 48)}
    torch.save({name: torch.randn(s) for name, s in shapes.items()}, tmp_path / "a.pth")
    result = invoke("init", tmp_path / "a.pth")
    assert result.exit_code == 2
    block = result.stdout[result.stdout.index("# heads:") :]
    spec = parse_spec("\n".join(line.removeprefix("# ") for line in block.splitlines()))
    assert [str(head.feature_map) for head in spec.heads] == ["4×2×3", "8×2×3"]
    assert "or feature_map: [4, 3, 2], flatten: CHW" in result.stdout


@pytest.mark.parametrize(
    ("shapes", "problem"),
    [
        pytest.param(
            {"conv.weight": (8, 3, 3, 3)}, "no tensor has two axes, as where all are", id="none"
        ),
        pytest.param({"labels": (9,)}, "no tensor has two axes (labels [9])", id="no network"),
        pytest.param(
            {"arr_0": (8, 3, 3, 3), "arr_2": (72, 5)},
            "no 2-D tensor is called a module's `.weight` (arr_2 [72, 5]); save each by",
            id="no names",
        ),
        pytest.param(
            {"fc.weight": (8, 30)}, "none of its Dense layers is known to read", id="no map"
        ),
    ],
)
def test_a_file_without_a_head_is_refused(
    shapes: dict[str, tuple[int, ...]], problem: str, tmp_path: Path
) -> None:
    save_file({n: torch.randn(s) for n, s in shapes.items()}, tmp_path / "a.safetensors")
    result = invoke("init", tmp_path / "a.safetensors")
    assert isinstance(result.exception, SpecError)
    assert problem in str(result.exception)


def test_a_norm_on_the_flattened_map_is_said(tmp_path: Path) -> None:
    tensors = {"conv.weight": torch.randn(4, 3, 3, 3), "fc.weight": torch.randn(10, 36)}
    torch.save({**tensors, "norm.running_mean": torch.randn(36)}, tmp_path / "a.pth")
    result = invoke("init", tmp_path / "a.pth")
    assert result.exit_code == 2


def test_an_existing_spec_and_the_checkpoint_stay(tmp_path: Path) -> None:
    source = Path(shutil.copy(FOLDER / "lenet.pth", tmp_path))
    spec = tmp_path / "lenet.yaml"
    spec.write_text("mine", encoding="utf-8")
    refused = invoke("init", source, "-o", spec)
    assert "already exists; --force, or force=True, replaces it" in str(refused.exception)
    assert spec.read_text("utf-8") == "mine"
    assert "is the same file as" in str(invoke("init", source, "-o", source, "--force").exception)
    assert source.read_bytes() == (FOLDER / "lenet.pth").read_bytes()
    assert invoke("init", source, "-o", spec, "--force").exit_code == 0
    assert "feature_map:" in spec.read_text("utf-8")


def shards(folder: Path) -> tuple[Path, list[Path]]:
    """Write a checkpoint of one shard; return it, and its files."""
    shard, index = folder / "a.safetensors", folder / "model.safetensors.index.json"
    tensors = {"conv.weight": torch.randn(3, 1, 2, 2), "fc.weight": torch.randn(5, 12)}
    save_file(tensors, shard)
    index.write_text(json.dumps({"weight_map": dict.fromkeys(tensors, shard.name)}))
    return folder, [shard, index]


def index(folder: Path) -> tuple[Path, list[Path]]:
    _, files = shards(folder)
    return files[-1], files


def distributed(folder: Path) -> tuple[Path, list[Path]]:
    with warnings.catch_warnings(action="ignore"):
        dcp.save({"fc.weight": torch.randn(5, 12)}, checkpoint_id=folder, no_dist=True)
    return folder, list(folder.iterdir())


@pytest.mark.parametrize("make", [shards, index, distributed], ids=lambda make: make.__name__)
def test_no_file_of_a_checkpoint_is_written_to(
    make: Callable[[Path], tuple[Path, list[Path]]], tmp_path: Path
) -> None:
    source, files = make(tmp_path)
    before = [path.read_bytes() for path in files]
    for path in files:
        refused = invoke("init", source, "-o", path, "--force")
        assert "is the same file as" in str(refused.exception)
    assert [path.read_bytes() for path in files] == before


def test_the_file_of_the_model_is_not_written_to(tmp_path: Path) -> None:
    code = tmp_path / "net.py"
    code.write_text("mine")
    options = ("--model", f"{code}:Net", "--input", "1,8,8", "--force")
    refused = invoke("init", FOLDER / "lenet.pth", "-o", code, *options)
    assert "is the same file as" in str(refused.exception)
    assert code.read_text() == "mine"


def test_names_from_the_file_hold_no_line_break(tmp_path: Path) -> None:
    name = "fc\nfeature_map: [1, 1]\x1b[2J"
    shapes = {"conv.weight": (4, 3, 3, 3), f"{name}.weight": (5, 36), "a.weight": (5, 36)}
    torch.save({n: torch.randn(s) for n, s in shapes.items()}, tmp_path / "a.pth")
    result = invoke("init", tmp_path / "a.pth")
    assert "\x1b" not in result.stdout
    assert [dense.name for dense in parse_spec(result.stdout).heads[0].dense or ()] == [name, "a"]


def test_convert_without_a_spec_says_how_to_get_one(tmp_path: Path) -> None:
    source = Path(shutil.copy(FOLDER / "lenet.pth", tmp_path))
    with pytest.raises(SpecError, match=r"run `fcn-convert init \S+lenet.pth -o \S+lenet.yaml`"):
        convert(source)


def test_one_of_several_state_dicts_is_chosen(tmp_path: Path) -> None:
    def net(channels: int) -> dict[str, torch.Tensor]:
        shapes = {"conv.weight": (channels, 3, 3, 3), "fc.weight": (10, channels * 9)}
        return {name: torch.randn(shape) for name, shape in shapes.items()}

    torch.save({"model": net(4), "ema": net(8)}, tmp_path / "a.pth")
    assert "choose one" in str(invoke("init", tmp_path / "a.pth").exception)
    text = invoke("init", tmp_path / "a.pth", "--state-dict", "ema").stdout
    spec = parse_spec(text)
    assert (spec.state_dict, str(spec.heads[0].feature_map)) == ("ema", "8×3×3")


# What convert says of it.


@pytest.mark.parametrize(
    ("file", "change", "orders"),
    [
        pytest.param("lenet.pth", "flatten: HWC", "CHW or CWH", id="lenet"),
        pytest.param("vgg.ckpt", "flatten: HWC", "CHW or CWH", id="vgg"),
        pytest.param("sequence.safetensors", "flatten: LC", "CL", id="sequence"),
    ],
)
def test_convert_warns_where_weights_speak_against_the_order(
    file: str, change: str, orders: str, tmp_path: Path
) -> None:
    source = Path(shutil.copy(FOLDER / file, tmp_path))
    own = (FOLDER / file).with_suffix(".yaml").read_text("utf-8")
    spec, output = tmp_path / "spec.yaml", tmp_path / "out.safetensors"
    spec.write_text(own, encoding="utf-8")
    right = convert(source, spec, output)
    assert right.warnings == ()
    assert [finding.outcome for finding in right.evidence] == ["supports"]
    spec.write_text(f"{own}{change}\n", encoding="utf-8")
    report = convert(source, spec, output, force=True)
    [warning] = report.warnings
    assert f"speak against {change.replace(':', '')} (z = " in warning
    assert f"for {orders} (z = " in warning
    assert report.verdict.passed
    [finding] = report.evidence
    assert (finding.outcome, finding.reason) == ("contradicts", warning)
    assert [reading.declared for reading in finding.readings].index(True) > 0
    best, second = (finding.readings[at].pattern for at in (0, 1))
    assert best is not None
    assert second is not None
    assert prod(best.sizes) == len(best.values)
    jsonschema.validate(report.as_dict(), json.loads(SCHEMA.read_text("utf-8")))
    before = output.read_bytes()
    for dry_run in (True, False):
        with pytest.raises(CheckFailedError, match="speak against"):
            convert(source, spec, output, force=True, strict=True, dry_run=dry_run)
    assert output.read_bytes() == before
    unread = convert(source, spec, output, force=True, level="bytes")
    assert unread.warnings == ()
    assert [finding.outcome for finding in unread.evidence] == ["not computed"]


def test_what_a_written_spec_rests_on_is_said_on_stderr(tmp_path: Path) -> None:
    torch.manual_seed(0)  # weights that say nothing, for a map that could be 2 × 8 as well
    state = {"conv.weight": torch.randn(32, 3, 3, 3), "fc.weight": torch.randn(10, 32 * 16)}
    torch.save(state, tmp_path / "m.pth")
    spec = tmp_path / "m.yaml"
    result = invoke("init", tmp_path / "m.pth", "-o", spec)
    assert (result.exit_code, result.stdout) == (0, "")
    assert f"{spec}: fc: 32 channels come before it" in result.stderr
    assert "taken for a square" in result.stderr
    assert "flatten CHW, as PyTorch does, is assumed" in result.stderr
    assert invoke("init", tmp_path / "m.pth").stderr == ""
