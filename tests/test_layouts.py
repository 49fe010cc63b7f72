"""Arrays of Keras and MLX: through their layouts, and proved by an arithmetic of its own."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import nn

from fcn_convert import convert
from fcn_convert.errors import CheckpointError, SpecError
from fcn_convert.formats import layouts, open_checkpoint
from fcn_convert.layout_proof import as_the_layout_says
from fcn_convert.report import CheckFailedError
from fcn_convert.tensors import DTYPES, StateDict, TensorInfo

PATTERNS = sorted(
    {
        pattern
        for table in (
            layouts.DENSE,
            layouts.CONVOLUTION,
            layouts.TRANSPOSED,
            layouts.DEPTHWISE,
            layouts.MLX,
        )
        for pattern in table.values()
    }
)
MLX_MAP = {"feature_map": [4, 3, 2], "layout": "mlx"}


def rearranged(values: np.ndarray, pattern: str) -> np.ndarray:
    """The oracle: NumPy's transposition and reshape."""
    before, after = pattern.split(" -> ")
    names = before.split()
    order = [names.index(a) for a in after.replace("(", "").replace(")", "").split() if a != "1"]
    moved = values.transpose(order)
    if "(C M)" in after:
        moved = moved.reshape(-1, 1, *moved.shape[2:])
    return moved


@given(data=st.data(), pattern=st.sampled_from(PATTERNS), fortran=st.booleans())
def test_a_pattern_is_a_transposition(data: st.DataObject, pattern: str, *, fortran: bool) -> None:
    axes = len(pattern.split(" -> ", maxsplit=1)[0].split())
    shape = tuple(data.draw(st.lists(st.integers(1, 4), min_size=axes, max_size=axes)))
    values = np.arange(int(np.prod(shape)), dtype="f4").reshape(shape)
    stored = np.asfortranarray(values) if fortran else values
    strides = tuple(s // 4 for s in stored.strides) if fortran else None
    tensor = TensorInfo("w", DTYPES["F32"], shape, 0, strides)
    try:
        view = layouts.viewed(tensor, "v", pattern)
    except CheckpointError:
        assert fortran
        assert "(C M)" in pattern
        return
    expected = rearranged(values, pattern)
    proof = as_the_layout_says(StateDict("", {"v": view})).tensors["v"]
    for found in (view, proof):
        flat = stored.ravel(order="K")
        steps = found.strides or tuple(s // 4 for s in np.empty(found.shape, "f4").strides)
        read = np.ndarray(found.shape, "f4", flat, 0, tuple(s * 4 for s in steps))
        assert (read == expected).all()


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("conv1/kernel:0", ("conv1", "kernel")),
        ("conv1_1_W", ("conv1_1", "W")),
        ("fc6_b", ("fc6", "b")),
        ("vgg_16/fc6/weights", ("vgg_16.fc6", "weights")),
        ("block/conv_depthwise_kernel", ("block/conv".replace("/", "."), "depthwise_kernel")),
        ("fc.0", ("fc", "0")),
        ("W7", ("7", "W")),
        ("net/gamma12", ("net.12", "gamma")),
        ("rows2", ("", "rows2")),
        ("features.0.weight", ("features.0", "weight")),
    ],
)
def test_names_of_other_habits(name: str, expected: tuple[str, str]) -> None:
    assert layouts.split_name(name) == expected


def mlx_checkpoint(path: Path) -> nn.Sequential:
    torch.manual_seed(1)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(24, 5))
    state = net.state_dict()
    hwc = state["3.weight"].view(5, 4, 3, 2).permute(0, 2, 3, 1).reshape(5, 24)
    ohwi = state["0.weight"].permute(0, 2, 3, 1).contiguous()
    save_file({**state, "0.weight": ohwi, "3.weight": hwc.contiguous()}, path)
    return net


def fully_convolutional(net: nn.Sequential, path: Path) -> nn.Sequential:
    fcn = nn.Sequential(net[0], net[1], nn.Identity(), nn.Conv2d(4, 5, (3, 2)))
    fcn.load_state_dict(load_file(path), strict=True)
    return fcn


def test_mlx_layout(tmp_path: Path) -> None:
    net = mlx_checkpoint(tmp_path / "m.safetensors")
    images = torch.randn(2, 3, 5, 4)
    expected = net(images)
    report = convert(tmp_path / "m.safetensors", MLX_MAP, tmp_path / "o.safetensors")
    answers = fully_convolutional(net, tmp_path / "o.safetensors")(images).flatten(1)
    assert torch.allclose(expected, answers, atol=1e-6)
    actions = {entry.name: entry.action for entry in report.tensors}
    assert actions["0.weight"] == "transposed"
    assert report.spec["layout"] == "mlx"
    assert report.layers[0].flatten == "HWC"


def test_a_wrong_transposition_fails_the_proof(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mlx_checkpoint(tmp_path / "m.safetensors")
    viewed = layouts.viewed

    def wrong(tensor: TensorInfo, name: str, pattern: str = "") -> TensorInfo:
        # The spatial axes change places, which a kernel of 3×3 does not show in its shape.
        swapped = viewed(tensor, name, pattern.replace("-> O I H W", "-> O I W H"))
        right = viewed(tensor, name, pattern)
        return TensorInfo(
            name, tensor.dtype, right.shape, tensor.offset, swapped.strides, stored=right.stored
        )

    monkeypatch.setattr(layouts, "viewed", wrong)
    with pytest.raises(CheckFailedError, match=r"0\.weight differs from the original"):
        convert(tmp_path / "m.safetensors", MLX_MAP, tmp_path / "o.safetensors")
    assert not (tmp_path / "o.safetensors").exists()


def test_what_mlx_quantized_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    save_file({"fc.weight": torch.zeros(4, 8, dtype=torch.int32), "fc.scales": torch.ones(4)}, path)
    with (
        open_checkpoint(path) as checkpoint,
        pytest.raises(CheckpointError, match=r"fc\.weight is quantized by MLX"),
    ):
        checkpoint.state_dict(None, "mlx")


def test_tensorflow_arrays_by_name(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    arrays = {
        "conv1_W": rng.standard_normal((3, 3, 3, 4)).astype("f4"),
        "conv1_b": rng.standard_normal(4).astype("f4"),
        "fc6_W": rng.standard_normal((24, 5)).astype("f4"),
        "fc6_b": rng.standard_normal(5).astype("f4"),
    }
    np.savez(tmp_path / "m.npz", **arrays)
    spec = {"feature_map": [4, 3, 2], "layout": "keras"}
    convert(tmp_path / "m.npz", spec, tmp_path / "o.safetensors")
    found = load_file(tmp_path / "o.safetensors")
    assert torch.equal(found["conv1.weight"], torch.tensor(arrays["conv1_W"]).permute(3, 2, 0, 1))
    kernel = torch.tensor(arrays["fc6_W"]).view(3, 2, 4, 5).permute(3, 2, 0, 1)
    assert torch.equal(found["fc6.weight"], kernel)


def paddle_state(net: nn.Sequential) -> dict[str, np.ndarray]:
    """Return what paddle.save keeps of a network: Linear weights the other way round."""
    names = {"2.running_mean": "2._mean", "2.running_var": "2._variance"}
    state = {names.get(name, name): value.numpy() for name, value in net.state_dict().items()}
    del state["2.num_batches_tracked"]
    return {
        name: np.ascontiguousarray(value.T) if value.ndim == 2 else value
        for name, value in state.items()
    }


PADDLE_TABLE = {"0.weight": "conv2d_0.w_0", "4.weight": "linear_0.w_0", "5.weight": "linear_1.w_0"}


@pytest.mark.parametrize("tabled", [True, False], ids=["pdparams", "layout"])
def test_paddle_layout(tmp_path: Path, *, tabled: bool) -> None:
    torch.manual_seed(3)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.BatchNorm2d(4), nn.Flatten())
    net.append(nn.Linear(24, 24)).append(nn.Linear(24, 5))
    images = torch.randn(2, 3, 5, 4)
    net(images)
    expected = net.eval()(images)
    table = {"StructuredToParameterName@@": PADDLE_TABLE} if tabled else {}
    path = tmp_path / "m.pdparams"
    path.write_bytes(pickle.dumps({**paddle_state(net), **table}))
    spec: dict[str, Any] = {
        "feature_map": [4, 3, 2],
        "dense": ["4", {"name": "5", "reads": "dense"}],
    }
    spec |= {} if tabled else {"layout": "paddle"}
    report = convert(path, spec, tmp_path / "o.safetensors")
    fcn = nn.Sequential(
        *list(net)[:3], nn.Identity(), nn.Conv2d(4, 24, (3, 2)), nn.Conv2d(24, 5, 1)
    )
    fcn.load_state_dict(load_file(tmp_path / "o.safetensors"), strict=True)
    assert torch.allclose(expected, fcn(images).flatten(1), atol=1e-6)
    assert report.layers[0].flatten == "CHW"


@pytest.mark.parametrize(
    ("layer", "beside", "table", "expected"),
    [
        ("words", {}, {"words.weight": "embedding_0.w_0"}, (7, 3)),
        ("words", {}, {"words.weight": "linear_0.w_0"}, (3, 7)),
        ("embed", {}, {"embed.weight": "linear_0.w_0"}, (3, 7)),
        ("embed", {}, {}, (7, 3)),
        ("embed", {"embed.bias": (3,)}, {}, (3, 7)),
    ],
)
def test_embeddings_of_paddle_stay(
    layer: str, beside: dict[str, tuple[int]], table: dict[str, str], expected: tuple[int, int]
) -> None:
    arrays = {f"{layer}.weight": (7, 3), **beside}
    tensors = {n: TensorInfo(n, DTYPES["F32"], shape, 0) for n, shape in arrays.items()}
    found = layouts.in_paddle_layout(StateDict("", tensors), table)
    assert found.tensors[f"{layer}.weight"].shape == expected


def test_chainer_keeps_arrays_as_torch_does(tmp_path: Path) -> None:
    arrays = {
        "predictor/conv1/W": np.ones((4, 3, 3, 3), np.float32),
        "predictor/bn1/gamma": np.ones(4, np.float32),
        "predictor/bn1/avg_mean": np.ones(4, np.float32),
        "predictor/bn1/avg_var": np.ones(4, np.float32),
        "predictor/bn1/N": np.array(7),
        "predictor/fc/W": np.arange(120, dtype=np.float32).reshape(5, 24),
    }
    np.savez(tmp_path / "m.npz", **arrays)
    convert(tmp_path / "m.npz", {"feature_map": [4, 3, 2]}, tmp_path / "o.safetensors")
    found = load_file(tmp_path / "o.safetensors")
    assert {"predictor.bn1.running_mean", "predictor.bn1.running_var"} <= set(found)
    expected = torch.tensor(arrays["predictor/fc/W"]).view(5, 4, 3, 2)
    assert torch.equal(found["predictor.fc.weight"], expected)


# Keras's own files, written by Keras.


@pytest.fixture(scope="module")
def keras() -> Any:
    os.environ["KERAS_BACKEND"] = "torch"
    return import_module("keras")


def trained(keras: Any, name: str = "net") -> Any:
    layers = keras.layers
    model = keras.Sequential(
        [
            layers.Input((7, 6, 3)),
            layers.Conv2D(4, 3, name="conv", activation="relu"),
            layers.BatchNormalization(name="bn"),
            layers.SeparableConv2D(5, 2, name="sep"),
            layers.DepthwiseConv2D(2, name="depth"),
            layers.Flatten(),
            layers.Dense(6, name="fc1", activation="relu"),
            layers.BatchNormalization(name="bn1"),
            layers.Dense(2, name="fc2"),
        ],
        name=name,
    )
    rng = np.random.default_rng(5)
    model.set_weights([np.abs(rng.standard_normal(w.shape)) / 2 for w in model.get_weights()])
    return model


def in_torch() -> nn.Sequential:
    net = nn.Sequential()
    net.add_module("conv", nn.Conv2d(3, 4, 3))
    net.add_module("relu", nn.ReLU())
    net.add_module("bn", nn.BatchNorm2d(4, eps=1e-3))
    sep = nn.Sequential()
    sep.add_module("depthwise", nn.Conv2d(4, 4, 2, groups=4, bias=False))
    sep.add_module("pointwise", nn.Conv2d(4, 5, 1))
    net.add_module("sep", sep)
    net.add_module("depth", nn.Conv2d(5, 5, 2, groups=5))
    net.add_module("fc1", nn.Conv2d(5, 6, (3, 2)))
    net.add_module("relu1", nn.ReLU())
    net.add_module("bn1", nn.BatchNorm2d(6, eps=1e-3))
    net.add_module("fc2", nn.Conv2d(6, 2, 1))
    return net.eval()


def save_weights(model: Any, path: Path) -> None:
    model.save_weights(path)
    path.with_name("m.json").write_text(model.to_json())


def save_on_windows(model: Any, path: Path) -> None:
    """Save as Keras 2.13 did there: the groups' names are joined by backslashes."""
    save_weights(model, path)
    h5py = import_module("h5py")
    names: list[str] = []
    with h5py.File(path) as file:
        file.visit(names.append)
        arrays = {name: file[name][()] for name in names if isinstance(file[name], h5py.Dataset)}
    with h5py.File(path, "w") as file:
        for name, array in arrays.items():
            group, _, variable = name.partition("/vars/")
            file.require_group(group.replace("/", "\\"))[f"vars/{variable}"] = array


SAVED: dict[str, tuple[str, Callable[[Any, Path], None]]] = {
    "keras": ("m.keras", lambda model, path: model.save(path)),
    "h5": ("m.h5", lambda model, path: model.save(path)),
    "weights": ("m.weights.h5", save_weights),
    "weights of windows": ("m.weights.h5", save_on_windows),
}


@pytest.mark.heavy
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("form", SAVED)
def test_keras_and_torch_predict_the_same(keras: Any, tmp_path: Path, form: str) -> None:
    model = trained(keras)
    name, save = SAVED[form]
    save(model, tmp_path / name)
    report = convert(tmp_path / name, {"feature_map": [5, 3, 2]}, tmp_path / "o.safetensors")
    net = in_torch()
    net.load_state_dict(load_file(tmp_path / "o.safetensors"), strict=True)
    images = np.random.default_rng(1).standard_normal((3, 7, 6, 3)).astype("f4")
    expected = model.predict(images, verbose=0)
    answers = net(torch.tensor(images).permute(0, 3, 1, 2)).flatten(1).detach().numpy()
    assert np.allclose(expected, answers, rtol=1e-4, atol=1e-4)
    assert report.verdict.passed
    assert {e.action for e in report.tensors if e.name == "conv.weight"} == {"transposed"}


@pytest.mark.heavy
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("suffix", ["keras", "h5"])
def test_nested_models_of_keras(keras: Any, tmp_path: Path, suffix: str) -> None:
    inner = trained(keras, "inner")
    image = keras.Input((7, 6, 3))
    outer = keras.Model(image, keras.layers.Dense(3, name="out")(inner(image)))
    outer.compile(optimizer="adam", loss="mse")
    outer.fit(np.zeros((2, 7, 6, 3)), np.zeros((2, 3)), verbose=0)
    outer.save(tmp_path / f"m.{suffix}")
    with open_checkpoint(tmp_path / f"m.{suffix}") as checkpoint:
        found = checkpoint.state_dict(None)
    assert {"inner.conv.weight", "inner.sep.pointwise.bias", "out.weight"} <= set(found.tensors)
    assert {entry.reason for entry in found.left_out} == {"optimizer state"}


@pytest.mark.heavy
@pytest.mark.filterwarnings("ignore")
def test_bare_weights_are_named_by_their_groups(keras: Any, tmp_path: Path) -> None:
    model = trained(keras)
    model.save(tmp_path / "m.keras")
    model.save_weights(tmp_path / "bare.weights.h5")
    spec = {"feature_map": [5, 3, 2]}
    convert(tmp_path / "m.keras", spec, tmp_path / "m.safetensors")
    report = convert(tmp_path / "bare.weights.h5", spec, tmp_path / "bare.safetensors")
    groups = {"conv2d": "conv", "batch_normalization_1": "bn1", "batch_normalization": "bn"}
    groups |= {"separable_conv2d": "sep", "depthwise_conv2d": "depth"}
    groups |= {"dense_1": "fc2", "dense": "fc1"}
    found = {}
    for name, value in load_file(tmp_path / "bare.safetensors").items():
        group, _, rest = name.partition(".")
        found[f"{groups[group]}.{rest}"] = value
    expected = load_file(tmp_path / "m.safetensors")
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert "no configuration lies beside it" in " ".join(report.notes)


@pytest.mark.heavy
@pytest.mark.parametrize(
    ("count", "expected"),
    [
        (4, ["weight", "bias", "running_mean", "running_var"]),
        (3, ["vars.0", "vars.1", "vars.2"]),
        (2, ["running_mean", "running_var"]),
    ],
)
def test_what_a_group_does_not_tell_keeps_its_number(
    count: int, expected: list[str], tmp_path: Path
) -> None:
    h5py = import_module("h5py")
    with h5py.File(tmp_path / "m.weights.h5", "w") as file:
        file["layers/conv2d/vars/0"] = np.zeros((3, 3, 1, 5), "f4")
        for at in range(count):
            file[f"layers/functional/layers/batch_normalization_2/vars/{at}"] = np.zeros(5, "f4")
    with open_checkpoint(tmp_path / "m.weights.h5") as checkpoint:
        found = checkpoint.state_dict(None).tensors
    norm = "functional.batch_normalization_2"
    assert set(found) == {"conv2d.weight", *(f"{norm}.{role}" for role in expected)}


@pytest.mark.heavy
@pytest.mark.filterwarnings("ignore")
def test_the_layout_of_keras_is_not_to_be_denied(keras: Any, tmp_path: Path) -> None:
    trained(keras).save(tmp_path / "m.keras")
    spec = {"feature_map": [5, 3, 2], "layout": "torch"}
    with pytest.raises(SpecError, match=r"whose layout is keras, not torch"):
        convert(tmp_path / "m.keras", spec, tmp_path / "o.safetensors")


@pytest.mark.heavy
def test_hdf5_of_others_and_what_leads_elsewhere(tmp_path: Path) -> None:
    h5py = import_module("h5py")
    arrays = {"fc_w": np.arange(12, dtype="f4").reshape(3, 4), "packed": np.ones((50, 9), "f4")}
    with h5py.File(tmp_path / "m.h5", "w") as file:
        file["fc_w"] = arrays["fc_w"]
        file.create_dataset("packed", data=arrays["packed"], compression="gzip", shuffle=True)
    with open_checkpoint(tmp_path / "m.h5") as checkpoint:
        found = checkpoint.state_dict(None)
        assert set(found.tensors) == {"fc.weight", "packed"}
    with h5py.File(tmp_path / "m.h5", "a") as file:
        file["link"] = h5py.ExternalLink("/etc/passwd", "/")
    with pytest.raises(CheckpointError, match="'link' is a link to elsewhere"):
        open_checkpoint(tmp_path / "m.h5")


@pytest.mark.heavy
def test_an_attribute_of_hdf5_that_claims_gigabytes(tmp_path: Path) -> None:
    h5py = import_module("h5py")
    with h5py.File(tmp_path / "m.h5", "w") as file:
        file["w"] = np.ones((3, 4), "f4")
        file.attrs["layer_names"] = np.arange(0x0123, dtype="u1")
    raw = (tmp_path / "m.h5").read_bytes()
    count = (0x0123).to_bytes(8, "little")
    assert count in raw
    (tmp_path / "m.h5").write_bytes(raw.replace(count, (1 << 34).to_bytes(8, "little")))
    with pytest.raises(
        CheckpointError, match=r"attribute 'layer_names' is over 16 MB|malformed HDF5"
    ):
        open_checkpoint(tmp_path / "m.h5")


@pytest.mark.heavy
def test_an_array_of_hdf5_in_millions_of_chunks(tmp_path: Path) -> None:
    h5py = import_module("h5py")
    with h5py.File(tmp_path / "m.h5", "w") as file:
        for name in "ab":
            file.create_dataset(name, (1 << 15, 2), "f4", chunks=(1, 2))
        file.create_dataset("c", (1 << 22,), "f4", chunks=(1,))
    with pytest.raises(CheckpointError, match=r"array 'c' .* more than 65536 chunks"):
        open_checkpoint(tmp_path / "m.h5")


def test_a_state_dict_read_by_a_layout_is_not_reported_as_another(tmp_path: Path) -> None:
    weights = {
        "conv.weight": np.ones((4, 3, 3, 2), np.float32),
        "fc.weight": np.ones((5, 36), np.float32),
    }
    np.savez(tmp_path / "net.npz", **weights)
    report = convert(
        tmp_path / "net.npz",
        {"feature_map": [4, 3, 3], "layout": "mlx"},
        tmp_path / "out.safetensors",
        level="bytes",
    )
    assert "left out" not in report.totals
