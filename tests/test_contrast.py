"""A declared map that is not the one that the weights were trained on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import trained
from safetensors.torch import save_file
from torch.nn.functional import avg_pool2d, avg_pool3d

from fcn_convert.formats import open_checkpoint
from fcn_convert.infer.doubts import findings
from fcn_convert.infer.findings import Finding
from fcn_convert.layers import resolve
from fcn_convert.spec import make_spec
from fcn_convert.tensors import FlattenedMap

SIZES = (16, 6, 8)
WRONG = {
    "H and W as one": (16, 48, 1),
    "two channels as one, along H": (8, 12, 8),
    "two channels as one, along W": (8, 6, 16),
    "four channels as one": (4, 12, 16),
    "each channel as four": (64, 3, 4),
    "each channel as two": (32, 3, 8),
    "another factoring": (16, 4, 12),
}


def smooth(order: str, window: tuple[int, int] = (3, 3), sizes: Any = SIZES) -> torch.Tensor:
    """Weights (48, features) that vary smoothly over the map, flattened in an order."""
    torch.manual_seed(0)
    c, h, w = sizes
    maps = torch.randn(48, c, h + window[0] - 1, w + window[1] - 1)
    maps = avg_pool2d(maps, window, stride=1)
    return maps.permute(0, *(1 + "CHW".index(axis) for axis in order)).flatten(1)


def said_of(
    weight: torch.Tensor, sizes: tuple[int, ...], order: str, path: Path, channels: int = 16
) -> Finding:
    tensors = {"conv.weight": torch.randn(channels, 3, 3, 3), "fc.weight": weight.contiguous()}
    save_file(tensors, path / "a.safetensors")
    spec = make_spec({"feature_map": list(sizes), "flatten": order, "dense": ["fc"]})
    with open_checkpoint(path / "a.safetensors") as checkpoint:
        state_dict = checkpoint.state_dict(None)
        [finding] = findings(checkpoint, state_dict, resolve(spec, state_dict))
    return finding


@pytest.mark.parametrize("order", ["CHW", "HWC", "WHC"])
@pytest.mark.parametrize("sizes", WRONG.values(), ids=WRONG)
def test_a_wrong_factoring_is_contradicted_and_the_right_one_named(
    sizes: tuple[int, ...], order: str, tmp_path: Path
) -> None:
    found = said_of(smooth(order), sizes, order, tmp_path)
    assert found.outcome == "contradicts"
    assert f"16×6×8 {order}" in found.reason
    best = next(reading for reading in found.readings if reading.feature_map)
    assert best.feature_map in {(16, 6, 8), (16, 8, 6)}
    assert [reading.declared for reading in found.readings].count(True) == 1


@pytest.mark.parametrize("order", ["CHW", "HWC", "HCW"])
@pytest.mark.parametrize("window", [(3, 3), (2, 2)], ids=["smooth", "less smooth"])
def test_h_and_w_that_changed_places_are_told(
    window: tuple[int, int], order: str, tmp_path: Path
) -> None:
    found = said_of(smooth(order, window), (16, 8, 6), order, tmp_path)
    assert found.outcome == "contradicts"
    assert ", or for feature_map 16×6×8:" in found.reason
    best = found.readings[0]
    assert best.feature_map == ()
    assert f"for {best.flatten} (z" in found.reason


@pytest.mark.parametrize("seed", range(10, 14))
def test_a_swap_is_told_where_little_was_learnt_and_channels_differ(
    seed: int, tmp_path: Path
) -> None:
    sizes = (16, 14, 6)
    weight = smooth("CHW", (2, 2), sizes)
    torch.manual_seed(seed)
    weight = weight + 1.2 * torch.randn_like(weight)
    weight = (weight.view(48, 16, -1) * (torch.rand(16) + 0.3)[:, None]).flatten(1)
    assert said_of(weight, (16, 6, 14), "CHW", tmp_path).outcome == "contradicts"
    assert said_of(weight, sizes, "CHW", tmp_path).outcome == "supports"


@pytest.mark.parametrize("order", ["CHW", "HWC", "WHC", "HCW"])
@pytest.mark.parametrize(
    ("window", "sizes"),
    [
        pytest.param((3, 3), SIZES, id="smooth"),
        pytest.param((1, 3), (8, 4, 24), id="along W only"),
        pytest.param((3, 1), (8, 24, 4), id="along H only"),
        pytest.param((2, 2), (32, 2, 2), id="2 × 2"),
        pytest.param((5, 5), (4, 12, 12), id="very smooth"),
    ],
)
def test_the_right_map_is_never_contradicted(
    window: tuple[int, int], sizes: tuple[int, int, int], order: str, tmp_path: Path
) -> None:
    found = said_of(smooth(order, window, sizes), sizes, order, tmp_path)
    assert found.outcome in {"supports", "says nothing"}, found.reason


@pytest.mark.parametrize("order", ["CHW", "HWC", "WHC", "HCW"])
def test_channels_that_are_alike_do_not_contradict_an_order(order: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    maps = avg_pool3d(torch.randn(48, 17, 10, 6), (2, 5, 1), stride=1)
    weight = maps.permute(0, *(1 + "CHW".index(axis) for axis in order)).flatten(1)
    found = said_of(weight, (16, 6, 6), order, tmp_path)
    assert found.outcome in {"supports", "says nothing"}, found.reason


def test_a_map_that_weights_go_with_less_contradicts_nothing(tmp_path: Path) -> None:
    """Along H places are unlike, and two channels a little alike: 16×2×8 HCW has the latter."""
    torch.manual_seed(0)
    half, other = (avg_pool2d(torch.randn(48, 8, 4, 5), (1, 2), stride=1) for _ in range(2))
    maps = torch.cat([half, 0.15 * half + 0.98 * other], 1)
    weight = (maps * torch.linspace(0.3, 3, 16)[:, None, None]).flatten(1)
    found = said_of(weight, (16, 4, 4), "CHW", tmp_path)
    assert found.outcome == "supports", found.reason


def test_what_the_file_states_is_not_doubted(tmp_path: Path) -> None:
    """As of a table, whose columns are no neighbours, while its channels look like some."""
    save_file({"fc.weight": smooth("CHW").contiguous()}, tmp_path / "a.safetensors")
    spec = make_spec({"feature_map": list(SIZES), "flatten": "HWC", "dense": ["fc"]})
    outcomes = {}
    with open_checkpoint(tmp_path / "a.safetensors") as checkpoint:
        silent = checkpoint.state_dict(None)
        for axes, sizes in (("HWC", (6, 8, 16)), ("CHW", SIZES), ("", ())):
            stated = {"fc": FlattenedMap(axes, sizes)} if axes else {}
            state_dict = replace(silent, flattened=stated)
            [found] = findings(checkpoint, state_dict, resolve(spec, state_dict))
            outcomes[axes] = found.outcome
            assert len(found.readings) > 1
    assert outcomes == {"HWC": "says nothing", "CHW": "contradicts", "": "contradicts"}


NOTHING = {
    "random": torch.randn_like,
    "uniform": torch.rand_like,
    "constant": torch.ones_like,
    "zeros": torch.zeros_like,
    "NaN": lambda w: torch.full_like(w, float("nan")),
    "bfloat16": lambda w: torch.randn_like(w).bfloat16(),
    "float16": lambda w: torch.randn_like(w).half(),
    "pruned": lambda w: torch.randn_like(w) * (torch.rand(w.shape[1]) > 0.7),
    "pruned one by one": lambda w: torch.randn_like(w) * (torch.rand_like(w) > 0.9),
    "orthogonal": lambda w: torch.nn.init.orthogonal_(torch.empty_like(w)),
    "four rows": lambda w: torch.randn(4, w.shape[1]),
    "rows alike": lambda w: torch.randn(1, w.shape[1]).expand(48, -1),
}


@pytest.mark.parametrize("sizes", [SIZES, *WRONG.values()], ids=["right", *WRONG])
@pytest.mark.parametrize("make", NOTHING.values(), ids=NOTHING)
def test_weights_without_a_pattern_contradict_no_map(
    make: Any, sizes: tuple[int, ...], tmp_path: Path
) -> None:
    torch.manual_seed(1)
    assert said_of(make(smooth("CHW")), sizes, "CHW", tmp_path).outcome == "says nothing"


@pytest.mark.parametrize("order", ["CHW", "HWC"])
def test_on_a_trained_net(order: str, tmp_path: Path) -> None:
    net = trained.trained(trained.Recipe(12, 48, order, 20, pool=False))
    weight = net["classifier.0.weight"]
    assert said_of(weight, (12, 6, 6), order, tmp_path).outcome == "supports"
    found = said_of(weight, (12, 36, 1), order, tmp_path, channels=12)
    assert found.outcome == "contradicts"
    assert f"12×6×6 {order}" in found.reason
