from __future__ import annotations

import os
from pathlib import Path
from threading import get_ident

import pytest
import torch
from safetensors.torch import save_file

from fcn_convert import activations, convert, digests
from fcn_convert.activations import answers
from fcn_convert.errors import CheckpointError
from fcn_convert.formats import strided
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
    for module in (activations, answers, strided):
        monkeypatch.setattr(module, "BLOCK_BYTES", 1024)
    monkeypatch.setattr(activations, "threads_to_compute", lambda: 3)


@pytest.mark.parametrize("name", ["source.safetensors", "column-major.pt"])
@pytest.mark.usefixtures("small_blocks")
def test_every_output_is_compared_whatever_the_blocks(source: Path, name: str) -> None:
    spec = {"feature_map": [16, 2, 2]}
    report = convert(source.with_name(name), spec, source.with_name("out.safetensors"))
    assert report.verdict.passed
    # Two maps of one cell, and one with (2 + 1) × (1 + 1) windows.
    assert outputs(report)["outputs"] == 64 * (2 + 3 * 2)


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
