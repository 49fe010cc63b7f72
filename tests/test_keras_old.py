"""Files of Keras 1 and 2, made with h5py as those versions wrote them; and what such files hide."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional as F

from fcn_convert.conversion import convert
from fcn_convert.errors import CheckpointError
from fcn_convert.formats import open_checkpoint
from fcn_convert.hdf5_child import chunks as in_chunks

pytestmark = pytest.mark.heavy  # h5py, of the extra dev-heavy


@pytest.fixture(scope="module")
def h5py() -> Any:
    return import_module("h5py")


def some(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype("f4")


KERNEL, DENSE = some(3, 3, 2, 4, seed=1), some(24, 5, seed=2)
"""HWIO, and (in, out) of a map of H, W, C = 2, 3, 4."""
LAYERS: Mapping[str, Mapping[str, np.ndarray]] = {
    "block1_conv1": {"kernel": KERNEL, "bias": some(4, seed=3)},
    "block1_pool": {},
    "bn": {
        "gamma": some(4, seed=4),
        "beta": some(4, seed=5),
        "moving_mean": some(4, seed=6),
        "moving_variance": abs(some(4, seed=7)),
    },
    "flatten": {},
    "fc1": {"kernel": DENSE, "bias": some(5, seed=8)},
}
IN_KERAS_1 = {
    "kernel": "W_1:0",
    "bias": "b_1:0",
    "gamma": "gamma",
    "beta": "beta",
    "moving_mean": "running_mean",
    "moving_variance": "running_std:0",
}


def weight_name(version: int, layer: str, role: str) -> str:
    return f"{layer}_{IN_KERAS_1[role]}" if version == 1 else f"{layer}/{role}:0"


def save(
    h5py: Any, path: Path, version: int, group: str = "", layers: Any = LAYERS, **attributes: Any
) -> Path:
    """Write as `save_weights` did: names in attributes as byte strings."""
    with h5py.File(path, "w") as file:
        root = file.create_group(group) if group else file
        root.attrs["layer_names"] = [name.encode() for name in layers]
        for key, value in attributes.items():
            file.attrs[key] = value
        for name, arrays in layers.items():
            inner = root.create_group(name)
            names = [weight_name(version, name, role) for role in arrays]
            inner.attrs["weight_names"] = [text.encode() for text in names]
            for text, array in zip(names, arrays.values(), strict=True):
                inner[text] = array
    return path


def expected() -> torch.Tensor:
    """The answer of Keras's network, computed on its arrays as they are."""
    conv, norm, dense = LAYERS["block1_conv1"], LAYERS["bn"], LAYERS["fc1"]
    kernel = torch.from_numpy(np.einsum("hwio->oihw", conv["kernel"]).copy())
    x = F.conv2d(IMAGE, kernel, torch.from_numpy(conv["bias"]))
    mean, var, gamma, beta = (
        torch.from_numpy(norm[n]) for n in ("moving_mean", "moving_variance", "gamma", "beta")
    )
    x = F.batch_norm(x, mean, var, gamma, beta, eps=1e-3)
    flat = x.permute(0, 2, 3, 1).flatten(1)  # H, W, C
    return flat @ torch.from_numpy(dense["kernel"]) + torch.from_numpy(dense["bias"])


IMAGE = torch.randn(2, 2, 4, 5, generator=torch.Generator().manual_seed(3))


def answered(path: Path) -> torch.Tensor:
    net = nn.Sequential()
    net.add_module("block1_conv1", nn.Conv2d(2, 4, 3))
    net.add_module("bn", nn.BatchNorm2d(4, eps=1e-3))
    net.add_module("fc1", nn.Conv2d(4, 5, (2, 3)))
    net.load_state_dict(load_file(path), strict=True)
    return net.eval()(IMAGE).flatten(1)


CONFIG = {
    "class_name": "Sequential",
    "config": [
        {"class_name": "Convolution2D", "config": {"name": "block1_conv1", "dim_ordering": "tf"}},
        {"class_name": "MaxPooling2D", "config": {"name": "block1_pool"}},
        {"class_name": "BatchNormalization", "config": {"name": "bn", "epsilon": 1e-3}},
        {"class_name": "Flatten", "config": {"name": "flatten"}},
        {"class_name": "Dense", "config": {"name": "fc1"}},
    ],
}


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("whole", [False, True], ids=["weights", "model"])
def test_old_files_answer_as_keras_did(
    h5py: Any, tmp_path: Path, version: int, *, whole: bool
) -> None:
    about = {"keras_version": b"2.1.6", "backend": b"tensorflow"} if version == 2 else {}
    if whole:
        about["model_config"] = json.dumps(CONFIG).encode()
    group = "model_weights" if whole else ""
    path = save(h5py, tmp_path / "vgg.h5", version, group, **about)
    with h5py.File(path, "a") as file:
        if whole:
            file["optimizer_weights/Adam/iterations:0"] = np.array(3)
    report = convert(path, {"feature_map": [4, 2, 3]}, tmp_path / "o.safetensors")
    assert torch.allclose(answered(tmp_path / "o.safetensors"), expected(), atol=1e-5)
    assert report.source.format == ("Keras 1 (h5)" if version == 1 else "Keras (h5)")
    assert any("taken as TensorFlow's" in note for note in report.notes) == (version == 1)


def test_an_embedding_of_keras_1_stays(h5py: Any, tmp_path: Path) -> None:
    layers = {**LAYERS, "embedding_1": {"kernel": some(9, 4)}}
    path = save(h5py, tmp_path / "m.h5", 1, layers=layers)
    with open_checkpoint(path) as checkpoint:
        found = checkpoint.state_dict(None).tensors
    assert found["embedding_1.weight"].shape == (9, 4)
    assert found["fc1.weight"].shape == (5, 24)


def test_the_order_of_theano_is_refused(h5py: Any, tmp_path: Path) -> None:
    theano = {"kernel": some(4, 2, 3, 3), "bias": some(4)}
    path = save(h5py, tmp_path / "m.h5", 1, layers={**LAYERS, "block1_conv1": theano})
    with pytest.raises(CheckpointError, match=r"'block1_conv1' is \[4, 2, 3, 3\], in the order of"):
        open_checkpoint(path)


def test_the_order_of_theano_is_refused_where_only_the_configuration_tells_it(
    h5py: Any, tmp_path: Path
) -> None:
    square = {"kernel": some(3, 2, 3, 3), "bias": some(3)}  # as many columns as outputs
    settings = {"name": "block1_conv1", "dim_ordering": "th"}
    config = {"class_name": "Convolution2D", "config": settings}
    about = {"model_config": json.dumps({**CONFIG, "config": [config]}).encode()}
    layers = {"block1_conv1": square}
    path = save(h5py, tmp_path / "m.h5", 1, "model_weights", layers, **about)
    with pytest.raises(CheckpointError, match=r"'block1_conv1' is \[3, 2, 3, 3\], in the order of"):
        open_checkpoint(path)


def test_the_backend_of_theano_is_refused(h5py: Any, tmp_path: Path) -> None:
    path = save(h5py, tmp_path / "m.h5", 2, backend=b"theano")
    with pytest.raises(CheckpointError, match="was written with Theano, which flips kernels"):
        open_checkpoint(path)


# Chunks.


class Chunked:
    """An array in chunks, as h5py shows it, which counts how often each chunk is unpacked."""

    def __init__(self, values: np.ndarray, chunks: tuple[int, ...]) -> None:
        self.values, self.shape, self.dtype, self.chunks = (
            *(values, values.shape, values.dtype),
            chunks,
        )
        self.unpacked: Counter[tuple[int, ...]] = Counter()
        numbers = [
            np.arange(size) // chunk for size, chunk in zip(values.shape, chunks, strict=True)
        ]
        self._chunk_of = np.stack(np.meshgrid(*numbers, indexing="ij"), -1)

    def __getitem__(self, at: Any) -> np.ndarray:
        touched = self._chunk_of[at].reshape(-1, len(self.shape))
        self.unpacked.update({tuple(map(int, chunk)) for chunk in touched})
        return self.values[at]


@pytest.mark.parametrize(
    ("shape", "chunks"),
    [
        ((30, 4), (30, 4)),
        ((30, 4), (7, 3)),
        ((30, 4), (1, 4)),
        ((30, 4), (30, 1)),
        ((3, 5, 8, 6), (1, 1, 8, 6)),
        ((3, 5, 8, 6), (2, 2, 2, 2)),
        ((3, 5, 8, 6), (1, 5, 8, 6)),
        ((100,), (9,)),
    ],
    ids=str,
)
@pytest.mark.parametrize("enough", [4, 64, 4 << 20])
def test_each_chunk_is_unpacked_once(
    shape: tuple[int, ...], chunks: tuple[int, ...], enough: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(in_chunks, "_ENOUGH", enough)
    dataset = Chunked(some(*shape), chunks)
    assert b"".join(in_chunks.rows(dataset)) == dataset.values.tobytes()
    assert set(dataset.unpacked.values()) == {1}


@pytest.mark.parametrize("chunks", [(2, 1 << 24), (4, 1 << 10)], ids=["large", "across all rows"])
def test_chunks_that_have_to_be_unpacked_all_at_once_are_refused(
    h5py: Any, tmp_path: Path, chunks: tuple[int, int]
) -> None:
    path = save(h5py, tmp_path / "m.h5", 2)
    with h5py.File(path, "a") as file:
        del file["fc1/fc1/kernel:0"]
        file.create_dataset("fc1/fc1/kernel:0", (4, 1 << 24), "f4", chunks=chunks)
    with pytest.raises(CheckpointError, match="over 32 MB of it have to be unpacked at a time"):
        open_checkpoint(path)


# What leads elsewhere, and code.


def test_external_storage_is_refused_and_not_opened(h5py: Any, tmp_path: Path) -> None:
    fifo = tmp_path / "elsewhere.raw"
    os.mkfifo(fifo)  # to open it would wait for ever
    path = save(h5py, tmp_path / "m.h5", 2)
    with h5py.File(path, "a") as file:
        del file["fc1/fc1/kernel:0"]
        place = [(str(fifo), 0, 480)]
        file.create_dataset("fc1/fc1/kernel:0", (24, 5), "f4", external=place)
    with pytest.raises(CheckpointError, match=r"'fc1/fc1/kernel:0' .*its values lie in other"):
        open_checkpoint(path)


def test_virtual_datasets_are_refused_and_not_opened(h5py: Any, tmp_path: Path) -> None:
    path = save(h5py, tmp_path / "m.h5", 2)
    fifo = tmp_path / "elsewhere.h5"
    layout = h5py.VirtualLayout((24, 5), "f4")
    layout[:] = h5py.VirtualSource(str(fifo), "x", (24, 5))
    with h5py.File(path, "a") as file:
        del file["fc1/fc1/kernel:0"]
        file.create_virtual_dataset("fc1/fc1/kernel:0", layout)
    os.mkfifo(fifo)
    with pytest.raises(CheckpointError, match="its values lie in other files"):
        open_checkpoint(path)


@pytest.mark.parametrize("kind", ["external", "soft"])
def test_links_are_not_followed(h5py: Any, tmp_path: Path, kind: str) -> None:
    path = save(h5py, tmp_path / "m.h5", 2)
    with h5py.File(path, "a") as file:
        del file["fc1/fc1/kernel:0"]
        other = str(tmp_path / "elsewhere.h5")
        target = h5py.SoftLink("/bn") if kind == "soft" else h5py.ExternalLink(other, "/x")
        file["fc1/fc1/kernel:0"] = target
    os.mkfifo(tmp_path / "elsewhere.h5")
    with pytest.raises(CheckpointError, match="is a link to elsewhere, which is not followed"):
        open_checkpoint(path)


def test_the_code_of_a_lambda_layer_is_not_run(h5py: Any, tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    code = f"__import__('pathlib').Path({str(marker)!r}).touch()"
    # A function of Keras 1 and 2 is its marshalled bytecode, in base 64: here it is a text.
    function = {"class_name": "Lambda", "config": {"name": "code", "function": [code, None, None]}}
    config = {**CONFIG, "config": [function, *CONFIG["config"]]}
    about = {"model_config": json.dumps(config).encode()}
    path = save(h5py, tmp_path / "m.h5", 2, "model_weights", **about)
    convert(path, {"feature_map": [4, 2, 3]}, tmp_path / "o.safetensors")
    assert torch.allclose(answered(tmp_path / "o.safetensors"), expected(), atol=1e-5)
    assert not marker.exists()
