"""What it takes to add a container: a module like toy_format.py, named in READERS."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
import torch
import toy_format
from safetensors.torch import load_file
from torch import Tensor

from fcn_convert import convert
from fcn_convert.errors import CheckpointError
from fcn_convert.formats import READERS


@pytest.fixture(autouse=True)
def _known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fcn_convert.formats.READERS", (*READERS[:-1], toy_format, READERS[-1]))


def saved(path: Path, tensors: dict[str, Tensor]) -> Path:
    parts = [toy_format.MAGIC]
    for name, tensor in tensors.items():
        parts += [struct.pack("<HB", len(name), tensor.dim()), name.encode("ascii")]
        parts += [struct.pack(f"<{tensor.dim()}I", *tensor.shape), tensor.numpy().tobytes()]
    path.write_bytes(b"".join(parts))
    return path


def test_a_container_of_ones_own_is_converted_and_verified(tmp_path: Path) -> None:
    weight, bias = torch.randn(5, 24), torch.randn(5)
    source = saved(tmp_path / "net.toy", {"fc.weight": weight, "fc.bias": bias})
    report = convert(source, {"feature_map": [6, 2, 2], "flatten": "HWC"})
    assert (report.source.format, report.verdict.passed) == ("toy", True)
    found = load_file(report.output.path)
    expected = weight.view(5, 2, 2, 6).permute(0, 3, 1, 2)
    assert torch.equal(found["fc.weight"], expected)
    assert torch.equal(found["fc.bias"], bias)


@pytest.mark.parametrize("left", [5, 12, 90])
def test_one_that_is_cut_is_refused(tmp_path: Path, left: int) -> None:
    source = saved(tmp_path / "net.toy", {"fc.weight": torch.randn(5, 24)})
    source.write_bytes(source.read_bytes()[:left])
    with pytest.raises(CheckpointError, match=r"net\.toy: .*(too early|beyond the file)"):
        convert(source, {"feature_map": [6, 2, 2]})
