from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner, Result

from fcn_convert.cli import app
from fcn_convert.cli.inspect_view import picture

FOLDER = Path(__file__).parent.parent / "sample_checkpoints"


def invoke(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, list(map(str, arguments)))


def test_a_checkpoint_is_shown_whole(tmp_path: Path) -> None:
    source = shutil.copy(FOLDER / "vgg.ckpt", tmp_path)
    result = invoke("inspect", source)
    assert result.exit_code == 0
    text = result.stdout
    assert "vgg.ckpt (torch (zip)" in text
    assert "state dict state_dict: 10 tensors (10 F32)" in text
    assert "beside it: optimizer" in text
    assert "head classifier.0, classifier.3, classifier.6: 64×2×2 CHW" in text
    assert "the map is read by classifier.0" in text
    assert "features.2" in text
    assert "features.2.weight" not in text
    assert "features.2.weight" in invoke("inspect", source, "-v").stdout


def test_json_holds_what_torch_finds(tmp_path: Path) -> None:
    source = shutil.copy(FOLDER / "two_heads.pth", tmp_path)
    found = json.loads(invoke("inspect", source, "--json").stdout)
    tensors = torch.load(source, weights_only=True)
    assert {t["name"]: tuple(t["shape"]) for t in found["tensors"]} == {
        name: tuple(tensor.shape) for name, tensor in tensors.items()
    }
    elements = sum(tensor.numel() for tensor in tensors.values())
    assert found["state_dicts"][0]["elements"] == elements
    assert sum(module["elements"] for module in found["modules"]) == elements
    [head] = found["heads"]
    assert head["reading"] is None
    assert {"feature_map": [24, 2, 3], "flatten": "WHC"} in head["alternatives"]
    assert head["patterns"][0]["sizes"] == [3, 2]
    assert head["evidence"][0]["z"] >= head["evidence"][1]["z"]


def test_several_state_dicts_are_listed_and_none_is_taken(tmp_path: Path) -> None:
    net = {"module.conv.weight": torch.randn(4, 3, 3, 3), "module.fc.weight": torch.randn(5, 36)}
    other = {name: tensor + 1 for name, tensor in net.items()}
    torch.save({"model": net, "ema": other}, tmp_path / "a.pth")
    text = invoke("inspect", tmp_path / "a.pth").stdout
    assert "state dict model: 2 tensors (2 F32), 288 elements, 1.15 kB, all under module." in text
    assert "no network is chosen" in text
    assert "head module.fc" in invoke("inspect", tmp_path / "a.pth", "--state-dict", "ema").stdout


def test_names_from_the_file_are_no_markup_and_nothing_a_terminal_obeys(tmp_path: Path) -> None:
    name = "[/foo]\x1b[2J"
    torch.save({f"{name}.weight": torch.randn(4, 8)}, tmp_path / "a.pth")
    for arguments in ((), ("-v",)):
        result = invoke("inspect", tmp_path / "a.pth", *arguments)
        assert result.exit_code == 0
        assert "\x1b" not in result.stdout
        assert r"[/foo]\x1b[2J" in result.stdout


@pytest.mark.parametrize(
    ("sizes", "values", "expected"),
    [
        pytest.param([2, 2], [1, 0.5, -1, 0], ["|██▒▒|", "|    |"], id="2-D"),
        pytest.param([3], [0.25, 1, 0.75], ["|░░██▓▓|"], id="1-D"),
        pytest.param([2, 1, 1], [1, 0], ["|██|", "|  |"], id="3-D"),
    ],
)
def test_a_pattern_is_shades(sizes: list[int], values: list[float], expected: list[str]) -> None:
    assert picture(sizes, values) == expected
