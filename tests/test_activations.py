from __future__ import annotations

import os
import zlib
from pathlib import Path
from threading import get_ident

import pytest
import torch
from safetensors.torch import load_file, save_file

from fcn_convert import (
    CheckFailedError,
    activations,
    convert,
    digests,
    rereading,
    verify_conversion,
)
from fcn_convert.activations import answers, comparison
from fcn_convert.activations.drawn import FurthestFeatures, SpreadCounter
from fcn_convert.activations.inputs import Inputs
from fcn_convert.errors import CheckpointError
from fcn_convert.proof import AnswersCheck
from fcn_convert.report import Report


@pytest.fixture
def source(tmp_path: Path) -> Path:
    made = torch.Generator().manual_seed(0)
    weight = torch.randn(64, 64, generator=made)
    save_file({"fc.weight": weight}, tmp_path / "source.safetensors")
    torch.save({"fc.weight": weight.T.contiguous().T}, tmp_path / "column-major.pt")
    return tmp_path / "source.safetensors"


def outputs(report: Report) -> dict[str, float | int | str | None]:
    return dict(report.layers[0].checks[2].values)


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (activations, answers, rereading):
        monkeypatch.setattr(module, "BOX_BYTES", 1024)
    monkeypatch.setattr(activations, "threads_to_compute", lambda: 3)


@pytest.mark.parametrize("name", ["source.safetensors", "column-major.pt"])
@pytest.mark.usefixtures("small_blocks")
def test_every_output_is_compared_whatever_the_blocks(source: Path, name: str) -> None:
    spec = {"feature_map": [16, 2, 2]}
    report = convert(source.with_name(name), spec, source.with_name("out.safetensors"))
    assert report.verdict.passed
    # Two maps of one cell, and one with (2 + 1) × (1 + 1) windows.
    assert outputs(report)["outputs"] == 64 * (2 + 3 * 2)


@pytest.mark.parametrize(
    ("shares", "lowest", "counts"),
    [
        pytest.param([1.0], 0, [1], id="a-share-of-1-is-within"),
        pytest.param([1.0 + 2**-40], 1, [1], id="more-is-beyond"),
        pytest.param([0.5, 0.25001, 0.1], -3, [1, 0, 2], id="several"),
        pytest.param([2.0**-1000, float("inf")], -64, [1, *[0] * 127, 1], id="ends"),
    ],
)
def test_differences_are_counted_by_powers_of_two(
    shares: list[float], lowest: int, counts: list[int]
) -> None:
    counter = SpreadCounter()
    for share in shares:  # in steps, as slices of features come
        apart = torch.tensor([0.0, 4 * share], dtype=torch.float64)
        counter.add(apart, torch.full((2,), 4.0, dtype=torch.float64))
    spread = counter.spread()
    assert (spread.equal, spread.lowest, list(spread.counts)) == (len(shares), lowest, counts)


def test_a_feature_is_as_far_apart_as_its_worst_cell() -> None:
    furthest, answers_ = FurthestFeatures(), torch.arange(24.0).view(8, 1, 3)
    furthest.add(torch.tensor([[5.0, 0.0, 1.0], [5.0, 10.0, float("inf")]]))
    inputs = Inputs((torch.zeros(2, 1, 1), torch.zeros(1, 1, 6)), torch.zeros(8, 1))
    shown = furthest.larger_map(inputs, answers_, -answers_)
    assert shown.features == (2, 1, 0)
    assert shown.dense[0] == (8, 11, 14, 17, 20, 23)
    assert shown.convolution[1] == (-7, -10, -13, -16, -19, -22)


def drawn(report: Report) -> AnswersCheck:
    check = report.layers[0].checks[2]
    assert isinstance(check, AnswersCheck)
    return check


def test_every_output_is_in_the_spread_and_none_beyond_the_bound(source: Path) -> None:
    report = convert(source, {"feature_map": [16, 2, 2]}, source.with_name("out.safetensors"))
    spread = drawn(report).spread
    assert spread.equal + sum(spread.counts) == outputs(report)["outputs"]
    assert spread.lowest + len(spread.counts) <= 1


def test_the_features_that_are_furthest_apart_are_shown(
    source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(comparison, "SLICE", 5)
    spec, output = {"feature_map": [16, 2, 2]}, source.with_name("out.safetensors")
    convert(source, spec, output)
    tensors = load_file(output)
    for feature, more in ((7, 1.0), (41, 2.0), (3, 4.0)):
        tensors["fc.weight"][feature] += more
    save_file(tensors, output)
    with pytest.raises(CheckFailedError, match="differ from the Dense layer's") as failed:
        verify_conversion(source, output, spec)
    check = drawn(failed.value.report)
    shown = check.larger_map
    assert shown.features[:3] == (3, 41, 7)
    assert shown.sizes == (3, 2)
    rows = load_file(source)["fc.weight"]
    layer = failed.value.report.layers[0]
    (feature, dense, convolution) = (
        shown.features[1], torch.tensor(shown.dense[1]), torch.tensor(shown.convolution[1])
    )  # fmt: skip
    assert layer.new_shape == (64, 16, 2, 2)
    seed = torch.Generator().manual_seed(zlib.crc32(b"fc"))
    torch.randn((2, 16, 2, 2), generator=seed, dtype=torch.float64)
    larger = torch.randn((1, 16, 4, 3), generator=seed, dtype=torch.float64)
    windows = torch.stack(
        [larger[0, :, y : y + 2, x : x + 2].flatten() for y in range(3) for x in range(2)]
    )
    torch.testing.assert_close(
        dense, (windows @ rows[feature].double()).float(), rtol=1e-5, atol=1e-5
    )
    moved = (windows @ (rows[feature].double() + 2)).float()
    torch.testing.assert_close(convolution, moved, rtol=1e-5, atol=1e-5)
    beyond = sum(check.spread.counts[max(0, 1 - check.spread.lowest) :])
    assert f"{beyond} of {outputs(failed.value.report)['outputs']} outputs" in check.problem


@pytest.mark.usefixtures("small_blocks")
def test_blocks_are_computed_in_several_threads(
    source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: set[int] = set()
    scratch = answers.Scratch.__init__

    def spy(self: answers.Scratch) -> None:
        threads.add(get_ident())
        scratch(self)

    monkeypatch.setattr(answers.Scratch, "__init__", spy)
    convert(source, {"feature_map": [16, 2, 2]}, source.with_name("out.safetensors"))
    assert threads
    assert get_ident() not in threads


def test_settings_of_torch_are_as_before(source: Path) -> None:
    before = torch.get_num_threads(), bool(torch.backends.mkldnn.enabled)
    convert(source, {"feature_map": [16, 2, 2]}, source.with_name("out.safetensors"))
    assert (torch.get_num_threads(), bool(torch.backends.mkldnn.enabled)) == before


@pytest.mark.parametrize("chunk", [1, 7, 64, 1 << 20])
def test_damage_is_found_however_a_file_is_cut_into_chunks(
    source: Path, monkeypatch: pytest.MonkeyPatch, chunk: int
) -> None:
    monkeypatch.setattr(digests, "CHUNK_BYTES", chunk)
    path = source.with_name("damaged.pt")
    weight = torch.full((4, 4), 1.5)
    torch.save({"fc.weight": weight}, path)
    spec = {"feature_map": [1, 2, 2]}
    convert(path, spec, source.with_name("out.safetensors"), level="bytes")
    at = path.read_bytes().index(weight.numpy().tobytes())
    with open(path, "r+b") as file:
        os.pwrite(file.fileno(), b"\x01", at + 5)
    with pytest.raises(CheckpointError, match="is damaged: the checksum of"):
        convert(path, spec, source.with_name("more.safetensors"), level="bytes")
    assert not source.with_name("more.safetensors").exists()


def test_what_torch_cannot_compute_is_a_warning(tmp_path: Path) -> None:
    source = tmp_path / "net.safetensors"
    header = b'{"fc.weight":{"dtype":"F4","shape":[3,4],"data_offsets":[0,6]}}'
    source.write_bytes(len(header).to_bytes(8, "little") + header + bytes(6))
    report = convert(source, {"feature_map": [4, 1, 1]})
    assert report.verdict.passed
    warning = "fc.weight: no activations were compared: torch has no dtype F4"
    assert warning in report.warnings
    with pytest.raises(CheckFailedError, match="no activations were compared"):
        convert(source, {"feature_map": [4, 1, 1]}, force=True, strict=True)


def test_a_bug_of_ours_is_no_reason_not_to_compare(
    source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_: object) -> Inputs:
        raise RuntimeError("shapes do not fit")

    monkeypatch.setattr(activations, "make_inputs", broken)
    with pytest.raises(RuntimeError, match="shapes do not fit"):
        convert(source, {"feature_map": [16, 2, 2]})
    assert not source.with_name("source.fcn.safetensors").exists()
