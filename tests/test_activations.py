from __future__ import annotations

import os
import zlib
from collections.abc import Iterator
from math import prod
from pathlib import Path
from threading import Barrier, Thread, get_ident
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from served import TORCH, Server, serving
from threads import torch_threads

from fcn_convert import (
    CheckFailedError,
    activations,
    convert,
    digests,
    rereading,
    verify_conversion,
    workers,
)
from fcn_convert.activations import answers
from fcn_convert.activations.comparison import Comparison
from fcn_convert.activations.drawn import FurthestFeatures, SpreadCounter
from fcn_convert.activations.inputs import Inputs
from fcn_convert.errors import CheckpointError
from fcn_convert.layers import DenseLayer, resolve
from fcn_convert.proof import AnswersCheck
from fcn_convert.report import Report
from fcn_convert.spec import make_spec
from fcn_convert.tensors import DTYPES, StateDict, TensorInfo
from fcn_convert.torch_library import functional
from fcn_convert.torch_settings import SETTINGS


@pytest.fixture
def source(tmp_path: Path) -> Path:
    made = torch.Generator().manual_seed(0)
    weight = torch.randn(64, 64, generator=made)
    save_file({"fc.weight": weight}, tmp_path / "source.safetensors")
    torch.save({"fc.weight": weight.T.contiguous().T}, tmp_path / "column-major.pt")
    return tmp_path / "source.safetensors"


def seeded(number: int, shape: tuple[int, ...]) -> torch.Tensor:
    """A map of the layer `fc`, in Python's own numbers: 0 and 1 of its size, 2 the larger one."""

    def mixed(bits: int) -> int:
        bits = (bits ^ bits >> 16) * 0x85EBCA6B % 2**32
        bits = (bits ^ bits >> 13) * 0xC2B2AE35 % 2**32
        return bits ^ bits >> 16

    seed = zlib.crc32(b"fc") + number
    values = [4 * mixed(mixed(place) ^ seed) / 2**32 - 2 for place in range(prod(shape))]
    return torch.tensor(values, dtype=torch.float64).view(shape)


def outputs(report: Report) -> dict[str, float | int | str | None]:
    return dict(report.layers[0].checks[2].values)


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (activations, answers, rereading):
        monkeypatch.setattr(module, "BOX_BYTES", 1024)
    monkeypatch.setattr(workers, "cores", lambda: 3)


@pytest.mark.parametrize("name", ["source.safetensors", "column-major.pt"])
@pytest.mark.usefixtures("small_blocks")
def test_every_output_is_compared_whatever_the_blocks(source: Path, name: str) -> None:
    spec = {"feature_map": [16, 2, 2]}
    report = convert(source.with_name(name), spec, source.with_name("out.safetensors"))
    assert report.verdict.passed
    # Two maps of one cell, and one with (2 + 1) × (1 + 1) windows.
    assert outputs(report)["outputs"] == 64 * (2 + 3 * 2)


@pytest.mark.parametrize("part", [1, 4, 14, 30, 1 << 16])
@pytest.mark.parametrize("flatten", ["CHW", "HWC", "WCH"])
@pytest.mark.parametrize("column_major", [False, True], ids=["row-major", "column-major"])
@pytest.mark.usefixtures("small_blocks")
def test_what_is_compared_does_not_depend_on_the_parts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: int, flatten: str, *, column_major: bool
) -> None:
    monkeypatch.setattr(rereading, "BOX_BYTES", 64)
    monkeypatch.setattr(answers, "PART", part)
    monkeypatch.setattr(activations, "ROWS", 3)
    weight, bias = torch.randn(7, 60), torch.randn(7)
    stored = weight.T.contiguous().T if column_major else weight
    torch.save({"fc.weight": stored, "fc.bias": bias}, tmp_path / "net.pt")
    spec = {"feature_map": {"C": 5, "H": 4, "W": 3}, "flatten": flatten}
    output = tmp_path / "out.safetensors"
    found = outputs(convert(tmp_path / "net.pt", spec, output))
    assert found["outputs"] == 7 * (2 + 3 * 2)
    # 61 terms of at most 2 · |w|, twice; see activations/comparison.py.
    sums = weight.double().abs().sum(1) + bias.double().abs()
    assert found["bound"] == pytest.approx(2 * 61 * 2**-53 * 2 * float(sums.max()), rel=1e-9, abs=0)
    tensors = load_file(output)
    tensors["fc.weight"][6, 4, 3, 2] += 1e-3
    save_file(tensors, output)
    with pytest.raises(CheckFailedError, match="8 of 56 outputs differ from the Dense layer's"):
        verify_conversion(tmp_path / "net.pt", output, spec)


@pytest.mark.usefixtures("small_blocks")
def test_each_part_of_the_maps_is_made_once(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers, "PART", 16)
    made: list[str] = []
    for name in ("flattened", "maps"):
        real = getattr(Inputs, name)

        def spy(*arguments: Any, name: str = name, real: Any = real) -> Any:
            made.append(name)
            return real(*arguments)

        monkeypatch.setattr(Inputs, name, spy)
    convert(source, {"feature_map": [16, 2, 2]}, source.with_name("out.safetensors"))
    assert sorted(made) == 4 * ["flattened"] + 4 * ["maps"]


@pytest.mark.parametrize("part", [12, 1 << 16], ids=["parts-of-a-map", "whole-maps"])
@pytest.mark.parametrize("name", ["source.safetensors", "column-major.pt"])
@pytest.mark.usefixtures("small_blocks")
def test_no_two_threads_add_to_the_same_sums(
    source: Path, monkeypatch: pytest.MonkeyPatch, name: str, part: int
) -> None:
    monkeypatch.setattr(answers, "PART", part)
    seen: list[tuple[object, set[int]]] = []
    compute = activations._compute

    def spy(jobs: list[tuple[int, Any]], *others: Any) -> None:
        for _, job in jobs:
            (group,) = job.args
            rows = [range(box.start[0], box.start[0] + box.shape[0]) for box in group]
            seen.append((job.func.__self__, set().union(*rows)))
        compute(jobs, *others)

    monkeypatch.setattr(activations, "_compute", spy)
    convert(source.with_name(name), {"feature_map": [16, 2, 2]}, source.with_name("o.safetensors"))
    for owner in {owner for owner, _ in seen}:
        rows = [at for other, group in seen if other is owner for at in group]
        assert sorted(rows) == list(range(64))


@pytest.mark.parametrize("flatten", ["CHW", "HWC", "WCH", "HCW"])
def test_maps_are_flattened_as_the_spec_says(flatten: str) -> None:
    sizes = {"C": 3, "H": 4, "W": 2}
    inputs = Inputs(layer_of(sizes, flatten))
    own, larger = [seeded(number, (3, 4, 2)) for number in (0, 1)], seeded(2, (3, 6, 3))
    windows = [larger[:, y : y + 4, x : x + 2] for y in range(3) for x in range(2)]
    order = ["CHW".index(axis) for axis in flatten]
    expected = torch.stack([one.permute(order).flatten() for one in (*own, *windows)])
    assert inputs.cells == (3, 2)
    assert torch.equal(inputs.flattened(0, 24), expected)
    assert torch.equal(inputs.flattened(5, 9), expected[:, 5:14])
    native, grown = inputs.maps((1, 2, 0), (2, 1, 2))
    assert torch.equal(native, torch.stack(own)[:, 1:3, 2:3])
    assert torch.equal(grown[0], larger[1:3, 2:5, :])


def layer_of(sizes: dict[str, int], flatten: str) -> DenseLayer:
    weight = TensorInfo("fc.weight", DTYPES["F32"], (1, prod(sizes.values())), 0)
    spec = make_spec({"feature_map": sizes, "flatten": flatten})
    (layer,) = resolve(spec, StateDict("", {"fc.weight": weight})).layers
    return layer


@pytest.mark.parametrize(
    ("features_out", "fmap"),
    [
        pytest.param((1, 1), ([64, 128, 128], [64, 256, 128]), id="a-large-map"),
        pytest.param((10, 10), ([1 << 19, 1, 1], [1 << 20, 1, 1]), id="many-channels"),
        pytest.param((1 << 18, 1 << 19), ([2, 2, 2], [2, 2, 2]), id="many-outputs"),
    ],
)
def test_memory_does_not_grow_with_a_layer(
    tmp_path: Path, server: Server, features_out: tuple[int, int], fmap: tuple[list[int], list[int]]
) -> None:
    peaks = []
    for count, sizes in zip(features_out, fmap, strict=True):  # the second is twice as large
        save_file({"fc.weight": torch.zeros(count, prod(sizes))}, tmp_path / "net.safetensors")
        (tmp_path / "net.yaml").write_text(f"feature_map: {sizes}\ndense: [fc]\n")
        runs = [server.run(tmp_path, ["convert", "net.safetensors", "--force"]) for _ in range(2)]
        assert [run.status for run in runs] == [0, 0], runs[0].stderr
        peaks.append([run.peak for run in runs])
    # Whether a second thread helps, which has memory of its own, depends on what else is running.
    assert min(peaks[1]) < 1.1 * max(peaks[0])


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with serving(TORCH) as started:
        yield started


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
    furthest, answers_ = FurthestFeatures((6,)), torch.arange(24.0).view(8, 1, 3)
    shares = torch.tensor([[5.0, 0.0, 1.0], [5.0, 10.0, float("inf")]])
    furthest.add(shares.view(2, 1, 3), answers_, -answers_)
    shown = furthest.larger_map()
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
    monkeypatch.setattr(activations, "ROWS", 5)
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
    larger = seeded(2, (16, 4, 3))
    windows = torch.stack(
        [larger[:, y : y + 2, x : x + 2].flatten() for y in range(3) for x in range(2)]
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
    scratch = answers.ThreadMemory.__init__
    all_of_them = Barrier(3, timeout=60)  # who is alone there fails

    def spy(self: answers.ThreadMemory) -> None:
        threads.add(get_ident())
        all_of_them.wait()
        scratch(self)

    monkeypatch.setattr(answers.ThreadMemory, "__init__", spy)
    convert(source, {"feature_map": [16, 2, 2]}, source.with_name("out.safetensors"))
    assert len(threads) == 3


def test_settings_of_torch_are_as_before(source: Path) -> None:
    before = torch.get_num_threads(), bool(torch.backends.mkldnn.enabled)
    convert(source, {"feature_map": [16, 2, 2]}, source.with_name("out.safetensors"))
    assert (torch.get_num_threads(), bool(torch.backends.mkldnn.enabled)) == before


@pytest.fixture
def three_threads() -> Iterator[None]:
    with torch_threads(3):
        yield


@pytest.mark.usefixtures("three_threads")
@pytest.mark.parametrize("leaves", ["first", "last"])
def test_each_thread_computes_by_itself_and_has_its_own_number_back(leaves: str) -> None:
    seen: list[int] = []
    step = Barrier(2, timeout=30)

    def other() -> None:
        with SETTINGS:
            step.wait()
            step.wait()
            seen.append(torch.get_num_threads())
        seen.append(torch.get_num_threads())

    thread = Thread(target=other)
    thread.start()
    step.wait()
    with SETTINGS:
        with SETTINGS:
            pass
        if leaves == "first":
            step.wait()
            thread.join()
        assert (torch.get_num_threads(), torch.backends.mkldnn.enabled) == (1, False)
    assert torch.get_num_threads() == 3
    if leaves == "last":
        step.wait()
        thread.join()
    assert torch.backends.mkldnn.enabled
    assert seen == [1, 3]


@pytest.mark.usefixtures("small_blocks", "three_threads")
@pytest.mark.parametrize("flatten", ["CHW", "HWC"])
def test_every_thread_that_computes_enters(
    source: Path, monkeypatch: pytest.MonkeyPatch, flatten: str
) -> None:
    """Each would wait for others at every step, and in vain on a busy machine."""
    threads: list[int] = []

    def counts(owner: object, name: str) -> None:
        real = getattr(owner, name)

        def spy(*arguments: Any) -> Any:
            threads.append(torch.get_num_threads())
            return real(*arguments)

        monkeypatch.setattr(owner, name, spy)

    counts(functional, "linear")
    counts(functional, "conv2d")
    counts(Comparison, "add")
    counts(torch.Tensor, "copy_")
    spec = {"feature_map": [16, 2, 2], "flatten": flatten}
    convert(source, spec, source.with_name("out.safetensors"))
    assert threads
    assert set(threads) == {1}


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

    monkeypatch.setattr(activations, "Inputs", broken)
    with pytest.raises(RuntimeError, match="shapes do not fit"):
        convert(source, {"feature_map": [16, 2, 2]})
    assert not source.with_name("source.fcn.safetensors").exists()
