from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from reports import HOSTILE, shown
from test_report_html import Page
from typer.testing import CliRunner, Result

from fcn_convert.cli import app
from fcn_convert.cli.inspect_view import picture
from fcn_convert.errors import FcnConvertError

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


def test_many_entries_of_one_place_are_summed_up(tmp_path: Path) -> None:
    net = {"fc.weight": torch.randn(5, 4)}
    few = {f"seen.{at}": at for at in range(2)}
    torch.save({**net, **few, **{f"epochs.{at}": "lr" for at in range(9)}}, tmp_path / "a.pth")
    text = invoke("inspect", tmp_path / "a.pth").stdout
    assert "beside it: epochs (9 entries), not a tensor: 'lr'" in text
    assert "beside it: seen.1, not a tensor: 1" in text
    assert "epochs.3" not in text
    assert len(json.loads(invoke("inspect", tmp_path / "a.pth", "--json").stdout)["left_out"]) == 11


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


def test_a_page_shows_what_the_terminal_does_and_draws_the_best_two_kernels(tmp_path: Path) -> None:
    source = shutil.copy(FOLDER / "vgg.ckpt", tmp_path)
    result = invoke("inspect", source, "--report", tmp_path / "r.html")
    assert (result.exit_code, result.stdout) == (0, invoke("inspect", source).stdout)
    page = Page((tmp_path / "r.html").read_text("utf-8"))
    found = json.loads(invoke("inspect", source, "--json").stdout)
    for line in (
        "state dict state_dict: 10 tensors",
        "64×2×2 CHW",
        "the map is read by classifier.0",
    ):
        assert line in page.text
    assert page.within("h3") == ["classifier.0, classifier.3, classifier.6"]
    pictures = [dict(attrs)["viewbox"] or "" for tag, attrs in page.elements if tag == "svg"]
    sizes = [pattern["sizes"][::-1] for pattern in found["heads"][0]["patterns"]]
    assert [[float(n) for n in picture.split()[2:]] for picture in pictures] == sizes
    cells = page.within("td")
    assert {tensor["name"] for tensor in found["tensors"]} <= set(cells)
    assert {f"{score['z']:.1f}" for score in found["heads"][0]["evidence"]} <= set(cells)


def page_of(name: str, folder: Path) -> Page:
    tensors = {f"{name}conv.weight": torch.ones(4, 3, 3, 3), f"{name}fc.weight": torch.ones(5, 36)}
    torch.save(tensors, folder / "net.pth")
    result = invoke("inspect", folder / "net.pth", "--report", folder / "r.html")
    assert result.exit_code == 0, result.output
    return Page((folder / "r.html").read_text("utf-8"))


@pytest.mark.parametrize("name", [n for n in HOSTILE if "\ud800" not in n], ids=ascii)
def test_no_element_of_a_page_comes_from_a_name(name: str, tmp_path: Path) -> None:
    def kinds(page: Page) -> set[tuple[str, tuple[str, ...]]]:
        return {(tag, tuple(key for key, _ in attrs)) for tag, attrs in page.elements}

    page = page_of(name, tmp_path)
    assert kinds(page) <= kinds(page_of("plain", tmp_path))
    assert page.count("script") == 1
    assert f"{shown(name)}fc.weight".strip() in page.within("td")


def test_a_page_of_several_state_dicts_says_that_none_is_taken(tmp_path: Path) -> None:
    net = {"conv.weight": torch.randn(4, 3, 3, 3), "fc.weight": torch.randn(5, 36)}
    torch.save({"model": net, "ema": {n: t + 1 for n, t in net.items()}}, tmp_path / "a.pth")
    assert invoke("inspect", tmp_path / "a.pth", "--report", tmp_path / "r.html").exit_code == 0
    page = Page((tmp_path / "r.html").read_text("utf-8"))
    assert page.within("h2") == ["No network is chosen"]
    assert page.count("table") == 0


@pytest.mark.parametrize(
    ("report", "message"),
    [
        pytest.param("r.md", "no report has the suffix '.md'; known are .html", id="suffix"),
        pytest.param("net.html", "is the same file as", id="source"),
        pytest.param("none/r.html", "its folder does not exist", id="folder"),
    ],
)
def test_a_page_that_cannot_be_written_is_one_sentence(
    report: str, message: str, tmp_path: Path
) -> None:
    source = shutil.copy(FOLDER / "vgg.ckpt", tmp_path / "net.html")
    before = source.read_bytes()
    result = CliRunner().invoke(app, ["inspect", str(source), "--report", str(tmp_path / report)])
    assert isinstance(result.exception, FcnConvertError)
    assert message in str(result.exception)
    assert source.read_bytes() == before


def test_the_reading_that_is_taken_stands_first(tmp_path: Path) -> None:
    torch.manual_seed(2)  # by chance another reading than the assumed one scores best
    state = {"conv.weight": torch.randn(16, 3, 3, 3), "fc.weight": torch.randn(40, 16 * 9)}
    torch.save(state, tmp_path / "m.pth")
    [head] = json.loads(invoke("inspect", tmp_path / "m.pth", "--json").stdout)["heads"]
    first, *others = head["evidence"]
    assert {key: first[key] for key in head["reading"]} == head["reading"]
    assert max(score["z"] for score in others) > first["z"]
    assert head["patterns"][0]["feature_map"] == head["reading"]["feature_map"]
