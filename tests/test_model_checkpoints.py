"""Checkpoints that do not have their model's names or layout, and factories that fail."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from typer.testing import CliRunner, Result

from fcn_convert.cli import app
from fcn_convert.errors import ModelError
from fcn_convert.model.factory import make_model
from fcn_convert.model.names import names_in_model
from fcn_convert.spec import parse_spec

CODE = """
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, (3, 5), 2)
        self.fc1 = nn.Linear(8 * 7 * 6, 20)
        self.fc2 = nn.Linear(20, 5)

    def forward(self, x):
        print("forward")
        maps = self.conv(x).relu().permute(0, 2, 3, 1)
        return self.fc2(self.fc1(maps.flatten(1)).relu())


def wrapped():
    return nn.DataParallel(Net())


made = Net()
"""
Tensors = dict[str, Tensor]


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, list(map(str, arguments)))


def torch_file(change: Callable[[str], str]) -> Callable[[Tensors, Path], Path]:
    def save(tensors: Tensors, folder: Path) -> Path:
        torch.save({change(name): tensor for name, tensor in tensors.items()}, folder / "net.pth")
        return folder / "net.pth"

    return save


def keras_file(tensors: Tensors, folder: Path) -> Path:
    arrays: dict[str, Any] = {}
    for name, tensor in tensors.items():
        layer, _, role = name.rpartition(".")
        axes = {4: (2, 3, 1, 0), 2: (1, 0), 1: (0,)}[tensor.dim()]
        kind = {"weight": "kernel", "bias": "bias"}[role]
        arrays[f"{layer}/{kind}:0"] = tensor.permute(axes).numpy()
    np.savez(folder / "net.npz", **arrays)
    return folder / "net.npz"


def mlx_file(tensors: Tensors, folder: Path) -> Path:
    path = folder / "net.safetensors"
    order = (0, 2, 3, 1)
    save_file(
        {n: t.permute(order).contiguous() if t.dim() == 4 else t for n, t in tensors.items()}, path
    )
    return path


FILES = {
    "same-names": (torch_file(str), "fc1", "torch"),
    "data-parallel": (torch_file(lambda name: f"module.{name}"), "module.fc1", "torch"),
    "lightning-and-compiled": (
        torch_file(lambda name: f"net._orig_mod.{name}"),
        "net._orig_mod.fc1",
        "torch",
    ),
    "a-compiled-part": (
        torch_file(lambda name: name.replace("fc1", "fc1._orig_mod")),
        "fc1._orig_mod",
        "torch",
    ),
    "keras": (keras_file, "fc1", "keras"),
    "mlx": (mlx_file, "fc1", "mlx"),
}
"""How to save, the head's name there, and the layout: PyTorch's is said, since a kernel of 3×5 that
reads 3 channels looks like MLX's."""


@pytest.mark.parametrize("factory", ["Net", "wrapped", "made"])
@pytest.mark.parametrize(("save", "name", "layout"), FILES.values(), ids=FILES)
def test_a_checkpoint_of_the_model_is_known_by_its_shapes(
    save: Callable[[Tensors, Path], Path],
    name: str,
    layout: str,
    factory: str,
    tmp_path: Path,
) -> None:
    code = tmp_path / "a folder" / "net.py"
    code.parent.mkdir()
    code.write_text(CODE)
    source = save(make_model(f"{code}:Net").state_dict(), tmp_path)
    options = ("--model", f"{code}:{factory}", "--input", "3,16,16")
    done = run("init", source, *options)
    assert done.exit_code == 0
    assert "forward" in done.stderr
    spec = parse_spec(done.stdout)  # nothing but the spec is printed there
    [head] = spec.heads
    assert spec.layout == layout
    assert head.feature_map.sizes == (8, 7, 6)
    assert (head.flatten or "HWC") == "HWC"
    assert next((entry.name, entry.reads) for entry in head.dense or ()) == (name, "map")
    source.with_suffix(".yaml").write_text(done.stdout)
    assert run("convert", source, "--verify", "bytes", "-q").exit_code == 0
    converted = source.with_suffix(".fcn.safetensors")
    done = run("verify", source, converted, "--verify", "shapes", "--json", *options)
    assert done.exit_code == 0
    model = json.loads(done.stdout)["model"]
    assert model["passed"] is True
    assert model["culprits"] == []


@pytest.mark.parametrize(
    ("file", "model", "expected"),
    [
        pytest.param(["a.w", "b"], ["a.w", "b"], ["a.w", "b"], id="same"),
        pytest.param(["p.q.a", "p.q.b"], ["a", "b"], ["a", "b"], id="prefix"),
        pytest.param(["a", "b"], ["p.q.a", "p.q.b"], ["p.q.a", "p.q.b"], id="models-prefix"),
        pytest.param(["p.a", "p.b", "x"], ["a", "b"], ["a", "b", "x"], id="more"),
        pytest.param(["p.a"], ["a", "b"], ["p.a"], id="too-few"),
        pytest.param(["p.a", "q.b"], ["a", "b"], ["p.a", "q.b"], id="two-prefixes"),
        pytest.param(["xa", "xb"], ["a", "b"], ["xa", "xb"], id="no-component"),
        pytest.param(
            ["module.n.w", "module.n.running_mean"],
            ["n.w", "n.running_mean", "n.num_batches_tracked"],
            ["n.w", "n.running_mean"],
            id="no-counter",
        ),
    ],
)
def test_names_differ_by_wrappers_and_one_prefix(
    file: list[str], model: list[str], expected: list[str]
) -> None:
    assert list(map(names_in_model(file, model).__getitem__, file)) == expected


FACTORIES = """
import sys
from torch import nn

def needs(argument): return nn.Linear(1, 1)
def leaves(): sys.exit(3)
def loops(): return loops()
def number(): return 3
"""


@pytest.mark.parametrize(
    ("name", "message"),
    [
        pytest.param("f.py:needs", r"fails: TypeError: needs\(\) missing .*without arg", id="args"),
        pytest.param("f.py:leaves", r"fails \(f.py:6: .*SystemExit: 3; expected", id="exit"),
        pytest.param("f.py:loops", r"fails \(f.py:7: .*RecursionError", id="recursion"),
        pytest.param("f.py:number", "gives int, expected an nn.Module", id="number"),
        pytest.param("exits.py:f", r"fails \(exits.py:1: .*SystemExit: bye", id="import-exits"),
        pytest.param("raises.py:f", r"fails \(raises.py:1: .*ZeroDivisionError", id="raises"),
        pytest.param("text.py:f", r"text.py:f: fails: SyntaxError: invalid syntax", id="text"),
        pytest.param("binary.py:f", r"binary.py:f: fails: \w+Error: ", id="binary"),
        pytest.param("f.txt:f", r"f.txt: is not a Python file; expected `package", id="suffix"),
    ],
)
def test_a_factory_that_fails_is_one_sentence(
    name: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "f.py").write_text(FACTORIES)
    (tmp_path / "f.txt").write_text(FACTORIES)
    (tmp_path / "exits.py").write_text("raise SystemExit('bye')\n")
    (tmp_path / "raises.py").write_text("1 / 0\n")
    (tmp_path / "text.py").write_text("this is a text\n")
    (tmp_path / "binary.py").write_bytes(bytes(range(256)))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelError, match=message) as caught:
        make_model(name)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_called_as_a_module_of_pythons_takes_no_place(tmp_path: Path) -> None:
    (tmp_path / "json.py").write_text(
        "from dataclasses import dataclass\nfrom torch import nn\n"
        "@dataclass\nclass Size:\n    of: int\n"
        "def make():\n    return nn.Linear(Size(3).of, 2)\n"
    )
    assert make_model(f"{tmp_path / 'json.py'}:make").weight.shape == (2, 3)
    assert sys.modules["json"] is json


def test_a_file_with_more_than_the_model_is_one_sentence(tmp_path: Path) -> None:
    code = tmp_path / "net.py"
    code.write_text(CODE)
    tensors = make_model(f"{code}:Net").state_dict()
    source = torch_file(str)({**tensors, "loss.weight": torch.ones(3)}, tmp_path)
    source.with_suffix(".yaml").write_text("feature_map: [8, 7, 6]\nflatten: HWC\n")
    assert run("convert", source, "--verify", "bytes", "-q").exit_code == 0
    options = ("--model", f"{code}:Net", "--input", "3,16,16", "--verify", "shapes")
    done = run("verify", source, source.with_suffix(".fcn.safetensors"), *options)
    assert 'Unexpected key(s) in state_dict: "loss.weight". Expected the' in str(done.exception)
