"""Whose habit arrays are stored by, told from shapes; and inference in each layout."""

from __future__ import annotations

import os
import pickle
from importlib import import_module
from pathlib import Path
from typing import Any

import architectures
import further  # noqa: F401 - registers its families
import numpy as np
import pytest
import torch
import trained
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from fcn_convert import CheckFailedError, convert
from fcn_convert.cli import app
from fcn_convert.errors import SpecError
from fcn_convert.formats import Checkpoint
from fcn_convert.infer.storage import find_storage
from fcn_convert.spec import parse_spec
from fcn_convert.tensors import DTYPES, Index, StateDict, TensorInfo

ARCHITECTURES = list(architectures.every())
MLX_AXES = {3: (0, 2, 1), 4: (0, 2, 3, 1), 5: (0, 2, 3, 4, 1)}
KERAS_AXES = {2: (1, 0), 3: (2, 1, 0), 4: (2, 3, 1, 0), 5: (2, 3, 4, 1, 0)}
CANNOT_BE_TOLD = {
    "a net of Dense layers has no map",
    # Kernels of one column, or as wide as the words: no way round is likelier.
    "a pitch net flattened H, C, W, with kernels along H only",
    "a text net: convolutions over embedded words",
}


def told(shapes: dict[str, tuple[int, ...]], kind: str = "safetensors") -> str:
    tensors = {name: TensorInfo(name, DTYPES["F32"], shape, 0) for name, shape in shapes.items()}
    index = Index(kind, (StateDict("", tensors),), foreign_names=kind != "safetensors")
    return find_storage(Checkpoint(Path("a"), (), index), None).layout


def stored(shapes: dict[str, tuple[int, ...]], axes: dict[int, tuple[int, ...]]) -> Any:
    """Permute every kernel's shape."""
    return {
        name: tuple(shape[axis] for axis in axes[len(shape)])
        if name.endswith("weight") and len(shape) in axes
        else shape
        for name, shape in shapes.items()
    }


@pytest.mark.parametrize("architecture", ARCHITECTURES, ids=lambda a: a.name)
def test_every_family_is_told_in_every_layout(architecture: Any) -> None:
    shapes = architecture.shapes
    assert told(shapes) == told(shapes, "npz") == "torch"
    if architecture.name not in CANNOT_BE_TOLD:
        assert told(stored(shapes, MLX_AXES)) == "mlx"
        assert told(stored(shapes, MLX_AXES), "npz") == "mlx"
        assert told(stored(shapes, KERAS_AXES), "npz") == "keras"


@pytest.mark.parametrize(
    ("kind", "metadata", "remark"),
    [
        pytest.param(
            "safetensors",
            {},
            "PyTorch and MLX store kernels of these shapes alike",
            id="nobody says",
        ),
        pytest.param("safetensors", {"format": "pt"}, "", id="torch wrote it"),
        pytest.param("torch (zip)", {}, "", id="MLX writes no such files"),
    ],
)
def test_what_cannot_be_told_is_said(kind: str, metadata: dict[str, str], remark: str) -> None:
    shapes = {"conv.weight": (8, 3, 3, 3), "fc.weight": (5, 72)}
    tensors = {name: TensorInfo(name, DTYPES["F32"], shape, 0) for name, shape in shapes.items()}
    index = Index(kind, (StateDict("", tensors),), metadata=metadata)
    found = find_storage(Checkpoint(Path("a"), (), index), None)
    assert found.layout == "torch"
    assert bool(found.remark) == bool(remark)
    assert remark in found.remark


# Files of trained nets, stored by each habit: what `init` writes converts them to the same network.

RECIPE = trained.Recipe(24, 64, "HWC", 2)


@pytest.fixture(scope="module")
def net() -> dict[str, torch.Tensor]:
    return {name: tensor.contiguous() for name, tensor in trained.trained(RECIPE).items()}


def arrays(net: dict[str, torch.Tensor], axes: dict[int, tuple[int, ...]]) -> dict[str, Any]:
    return {n: t.permute(*axes.get(t.dim(), range(t.dim()))).numpy() for n, t in net.items()}


def in_keras_words(named: dict[str, Any]) -> dict[str, Any]:
    words = {"weight": "kernel", "bias": "bias"}
    return {f"{n.rpartition('.')[0]}/{words[n.rpartition('.')[2]]}:0": a for n, a in named.items()}


def save_mlx(net: dict[str, torch.Tensor], path: Path) -> None:
    save_file({n: torch.tensor(a.copy()) for n, a in arrays(net, MLX_AXES).items()}, path)


def save_npz(net: dict[str, torch.Tensor], path: Path, axes: dict[int, tuple[int, ...]]) -> None:
    named = arrays(net, axes)
    np.savez(path, **(in_keras_words(named) if 2 in axes else named))


SAVED = {
    "mlx.safetensors": save_mlx,
    "mlx.npz": lambda net, path: save_npz(net, path, MLX_AXES),
    "keras.npz": lambda net, path: save_npz(net, path, KERAS_AXES),
}


def init(path: Path) -> str:
    result = CliRunner().invoke(app, ["init", str(path)])
    assert (result.exit_code, result.stderr) == (0, "")
    return str(result.stdout)


def test_a_net_written_in_numpy_alone(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    arrays = {
        "W1": rng.standard_normal((8, 1, 3, 3)),
        "b1": np.zeros(8),
        "W2": rng.standard_normal((8 * 5 * 5, 20)),
        "b2": np.zeros(20),
        "W3": rng.standard_normal((20, 10)),
        "b3": np.zeros(10),
    }
    (tmp_path / "params.pkl").write_bytes(pickle.dumps(arrays))
    (tmp_path / "params.yaml").write_text(init(tmp_path / "params.pkl"))
    convert(tmp_path / "params.pkl", output=tmp_path / "o.safetensors")
    found = load_file(tmp_path / "o.safetensors")
    assert set(found) == {"1.weight", "1.bias", "2.weight", "2.bias", "3.weight", "3.bias"}
    assert torch.equal(found["1.weight"], torch.tensor(arrays["W1"]))
    kernel = torch.tensor(arrays["W2"]).T.reshape(20, 8, 5, 5)
    assert torch.equal(found["2.weight"], kernel)


def test_chainers_arrays_come_in_no_order(tmp_path: Path) -> None:
    shapes = {
        "fc4/W": (10, 20),
        "fc3/W": (20, 200),
        "conv2/W": (8, 6, 3, 3),
        "conv1/W": (6, 1, 3, 3),
    }
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "m.npz", **{name: rng.standard_normal(s) for name, s in shapes.items()})
    spec = parse_spec(init(tmp_path / "m.npz"))
    assert [str(head.feature_map) for head in spec.heads] == ["8×5×5"]


@pytest.mark.parametrize("file", SAVED)
def test_init_and_convert_in_every_layout(
    net: dict[str, torch.Tensor], file: str, tmp_path: Path
) -> None:
    SAVED[file](net, tmp_path / file)
    text = init(tmp_path / file)
    layout = file.partition(".")[0]
    assert "flatten" not in text.replace("flattened", "")  # the layout's own
    assert "the weights agree: 24×3×3 HWC" in text
    shown = CliRunner().invoke(app, ["inspect", str(tmp_path / file)]).stdout
    assert f"layout: {layout} (by their shapes, " in shown
    assert "head classifier.0, classifier.2: 24×3×3 HWC" in shown
    spec = parse_spec(text)
    assert (spec.layout, str(spec.heads[0].feature_map)) == (layout, "24×3×3")
    report = convert(tmp_path / file, spec, tmp_path / "out.safetensors")
    assert [finding.outcome for finding in report.evidence] == ["supports"]
    assert report.warnings == ()
    # The oracle: the same net, as torch saves it.
    save_file(net, tmp_path / "torch.safetensors")
    own = {"feature_map": [24, 3, 3], "flatten": "HWC"}
    convert(tmp_path / "torch.safetensors", own, tmp_path / "same.safetensors")
    found = load_file(tmp_path / "out.safetensors")
    expected = load_file(tmp_path / "same.safetensors")
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.parametrize("file", ["mlx.safetensors", "mlx.npz"])
def test_convert_warns_where_shapes_clearly_speak_for_a_layout(
    net: dict[str, torch.Tensor], file: str, tmp_path: Path
) -> None:
    SAVED[file](net, tmp_path / file)
    spec = {"feature_map": [24, 3, 3], "flatten": "HWC"}
    options: Any = {"level": "shapes", "output": tmp_path / "o.safetensors", "force": True}
    [warning] = convert(tmp_path / file, spec, **options).warnings
    assert "add `layout: mlx` to the spec" in warning
    assert convert(tmp_path / file, {**spec, "layout": "torch"}, **options).warnings == ()
    assert convert(tmp_path / file, {**spec, "layout": "mlx"}, **options).warnings == ()
    with pytest.raises(CheckFailedError, match="add `layout: mlx`"):
        convert(tmp_path / file, spec, strict=True, **options)


def test_what_does_not_fit_in_the_wrong_layout_names_the_right_one(
    net: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    SAVED["keras.npz"](net, tmp_path / "keras.npz")
    with pytest.raises(
        SpecError, match=r"classifier.0 takes 64, classifier(.|\n)*add `layout: keras`"
    ):
        convert(tmp_path / "keras.npz", {"feature_map": [24, 3, 3]})


@pytest.fixture(scope="module")
def keras() -> Any:
    os.environ["KERAS_BACKEND"] = "torch"
    return import_module("keras")


@pytest.mark.heavy
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("suffix", ["keras", "h5"])
def test_init_on_files_of_keras(
    keras: Any, net: dict[str, torch.Tensor], suffix: str, tmp_path: Path
) -> None:
    layers = keras.layers
    model = keras.Sequential(
        [
            layers.Input((8, 8, 1)),
            layers.Conv2D(16, 3, padding="same", activation="relu"),
            layers.Conv2D(24, 3, activation="relu"),
            layers.MaxPooling2D(),
            layers.Flatten(),
            layers.Dense(64, activation="relu"),
            layers.Dense(10),
        ]
    )
    model.set_weights(list(arrays(net, KERAS_AXES).values()))
    model.save(tmp_path / f"m.{suffix}")
    text = init(tmp_path / f"m.{suffix}")
    assert "configuration gives it 24×3×3 HWC" in text
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    assert lines == ["feature_map: [24, 3, 3]"]  # the container says the layout
    report = convert(tmp_path / f"m.{suffix}", parse_spec(text), tmp_path / "out.safetensors")
    assert report.layers[0].flatten == "HWC"
    assert [finding.outcome for finding in report.evidence] == ["supports"]
