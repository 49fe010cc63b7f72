"""Files that honest libraries write, given to the real command: converted, with every value."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from corpus.valid import SPEC, VALID
from safetensors.torch import load_file
from served import TORCH, Server, serving


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with serving(TORCH) as started:
        yield started


def raw(tensor: torch.Tensor) -> bytes:
    return bytes(tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy())


@pytest.mark.parametrize("case", VALID)
def test_good_input_converts(server: Server, tmp_path: Path, case: str) -> None:
    folder = tmp_path / "work"
    folder.mkdir()
    (folder / "s.yaml").write_text(SPEC + "dense: [fc]\n")
    name, expected = VALID[case](folder)
    arguments = ["convert", name, "--spec", "s.yaml", "-o", "out", "-q"]
    run = server.run(folder, [*arguments, "--verify", "bytes", "--report", "r.json"])
    assert (run.status, run.stdout, run.stderr) == (0, "", "")
    [output] = folder.glob("out*") if (folder / "out").is_dir() else [folder / "out"]
    parts = output.glob("*.safetensors") if output.is_dir() else [output]
    found = {key: tensor for part in parts for key, tensor in load_file(part).items()}
    assert found.keys() == expected.keys()
    assert found["fc.weight"].shape == (5, 3, 2, 2)
    for key, tensor in expected.items():
        assert found[key].dtype == tensor.dtype
        assert raw(found[key]) == raw(tensor), key
