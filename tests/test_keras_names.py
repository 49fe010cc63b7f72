"""Which layer the weights of a Keras file belong to, where its names do not say it plainly."""

from __future__ import annotations

import json
import os
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fcn_convert.errors import CheckpointError
from fcn_convert.formats import open_checkpoint

pytestmark = pytest.mark.heavy  # h5py, and Keras: of the extra dev-heavy

KERNEL = np.random.default_rng(1).standard_normal((3, 3, 1, 4)).astype("f4")
BIAS, DENSE = np.arange(4, dtype="f4"), np.ones((144, 3), "f4")


@pytest.fixture(scope="module")
def h5py() -> Any:
    return import_module("h5py")


@pytest.fixture(scope="module")
def keras() -> Any:
    os.environ["KERAS_BACKEND"] = "torch"
    return import_module("keras")


def shapes(path: Path) -> dict[str, tuple[int, ...]]:
    with open_checkpoint(path) as checkpoint:
        return {name: t.shape for name, t in checkpoint.state_dict(None).tensors.items()}


def save(h5py: Any, path: Path, weights: dict[str, dict[str, np.ndarray]], **more: Any) -> Path:
    """Write arrays by the names that each group lists."""
    with h5py.File(path, "w") as file:
        file.attrs.update(more)
        root = file.create_group("model_weights")
        root.attrs["layer_names"] = [group.encode() for group in weights]
        for group, arrays in weights.items():
            inner = root.create_group(group)
            inner.attrs["weight_names"] = [name.encode() for name in arrays]
            for name, array in arrays.items():
                inner[name] = array
    return path


def test_a_model_inside_of_a_model_of_keras_1(h5py: Any, tmp_path: Path) -> None:
    inner = {"convolution2d_1_W:0": KERNEL, "convolution2d_1_b:0": BIAS}
    path = save(h5py, tmp_path / "m.h5", {"inner": inner, "fc": {"fc_W:0": DENSE}})
    assert shapes(path) == {
        "inner.convolution2d_1.weight": (4, 1, 3, 3),
        "inner.convolution2d_1.bias": (4,),
        "fc.weight": (3, 144),
    }
    theano = {"convolution2d_1_W": KERNEL.T.copy(), "convolution2d_1_b": BIAS}
    with pytest.raises(CheckpointError, match=r"'inner\.convolution2d_1' is .* order of Theano"):
        shapes(save(h5py, tmp_path / "t.h5", {"inner": theano}))


@pytest.mark.parametrize("suffix", ["", "_1", "_2_1"])
def test_variables_that_tensorflow_counted_on(h5py: Any, tmp_path: Path, suffix: str) -> None:
    conv = {"class_name": "Conv2D", "config": {"name": "conv" + suffix[:-2], "filters": 4}}
    inner = {"class_name": "Sequential", "config": {"name": "inner", "layers": [conv]}}
    fc = {"class_name": "Dense", "config": {"name": "fc"}}
    config = {"class_name": "Sequential", "config": {"name": "m", "layers": [inner, fc]}}
    weights = {
        "inner": {f"conv{suffix}/kernel:0": KERNEL, f"conv{suffix}/bias:0": BIAS},
        "fc": {"fc/kernel:0": DENSE},
    }
    path = save(h5py, tmp_path / "m.h5", weights, model_config=json.dumps(config))
    assert shapes(path) == {
        f"inner.conv{suffix[:-2]}.weight": (4, 1, 3, 3),
        f"inner.conv{suffix[:-2]}.bias": (4,),
        "fc.weight": (3, 144),
    }


def test_weights_that_only_the_layers_further_out_tell_apart(h5py: Any, tmp_path: Path) -> None:
    weights = {
        "net": {
            "net//conv/kernel:0": KERNEL,
            "net//conv/bias:0": BIAS,
            "net/a/cell/kernel:0": DENSE,
            "net/b/cell/kernel:0": DENSE + 1,
        }
    }
    assert shapes(save(h5py, tmp_path / "m.h5", weights)) == {
        "net.net.conv.weight": (4, 1, 3, 3),
        "net.net.conv.bias": (4,),
        "net.a.cell.weight": (3, 144),
        "net.b.cell.weight": (3, 144),
    }


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("suffix", ["h5", "keras"])
def test_a_layer_that_runs_both_ways(keras: Any, tmp_path: Path, suffix: str) -> None:
    k = keras.layers
    net = keras.Sequential([k.Input((6, 3)), k.Bidirectional(k.LSTM(4)), k.Dense(2, name="fc")])
    path = tmp_path / f"m.{suffix}"
    net.save(path)
    found = shapes(path)
    assert found["fc.weight"] == (2, 8)
    assert sorted(found.values()) == sorted([(2,), (2, 8), *[(3, 16), (4, 16), (16,)] * 2])


@pytest.mark.filterwarnings("ignore")
def test_many_names_of_no_fixed_length_in_a_large_file(keras: Any, tmp_path: Path) -> None:
    k = keras.layers
    net = keras.Sequential([k.Input((64,)), *(k.Dense(64, name=f"d{at}") for at in range(99))])
    net.compile("adam")
    net.optimizer.build(net.trainable_variables)
    path = tmp_path / "m.h5"
    net.save(path)
    assert path.stat().st_size > 4 << 20
    assert len(shapes(path)) == 198


def test_an_attribute_whose_texts_are_all_the_same_part_of_a_file(
    h5py: Any, tmp_path: Path
) -> None:
    path = tmp_path / "m.h5"
    with h5py.File(path, "w") as file:
        file["w"] = np.ones((3, 4), "f4")
        file.attrs["layer_names"] = ["x" * 1_234_567, *("y" * 5 for _ in range(999))]
    raw = path.read_bytes()
    # A text is said by its length, where it lies, and its number there.
    at = raw.index((1_234_567).to_bytes(4, "little"))
    assert raw[at + 16 : at + 20] == (5).to_bytes(4, "little")
    path.write_bytes(raw[:at] + raw[at : at + 16] * 1000 + raw[at + 16_000 :])
    with pytest.raises(CheckpointError, match="HDF5's library needs over 144 MB of memory"):
        open_checkpoint(path)


def test_more_texts_than_any_attribute_of_keras_has(h5py: Any, tmp_path: Path) -> None:
    path = tmp_path / "m.h5"
    with h5py.File(path, "w", libver="latest") as file:
        file["w"] = np.ones((300, 400), "f4")
        file.attrs["layer_names"] = ["x"] * (1 << 17)
    with pytest.raises(CheckpointError, match=r"'layer_names' has over \d+ texts of no fixed leng"):
        open_checkpoint(path)
