"""The maps that Keras's configurations tell, against Keras's own shapes."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

from fcn_convert import convert
from fcn_convert.cli import app
from fcn_convert.formats import open_checkpoint
from fcn_convert.formats.keras_config import read_config
from fcn_convert.formats.keras_maps import flattened_maps

Layers = list[tuple[str, dict[str, Any]]]

CONV: tuple[str, dict[str, Any]] = ("Conv2D", {"filters": 8, "kernel_size": [3, 3]})
DENSE: tuple[str, dict[str, Any]] = ("Dense", {"units": 5, "name": "fc"})
VALID = {"padding": "valid", "strides": [1, 1]}


def layer(kind: str, settings: dict[str, Any], at: int) -> dict[str, Any]:
    return {"class_name": kind, "config": {"name": f"layer_{at}", **settings}}


def sequential(layers: Layers, shape: list[int | None]) -> dict[str, Any]:
    listed = [layer(kind, settings, at) for at, (kind, settings) in enumerate(layers)]
    listed[0]["config"]["batch_input_shape"] = [None, *shape]
    return {"class_name": "Sequential", "config": {"name": "net", "layers": listed}}


def maps_of(data: dict[str, Any]) -> dict[str, tuple[str, tuple[int, ...]] | None]:
    found = flattened_maps(read_config(Path("net.h5"), data))
    return {name: (flat.axes, flat.sizes) if flat else None for name, flat in found.items()}


CONV_VALID = (CONV[0], CONV[1] | VALID)
FIRST = {"data_format": "channels_first"}
FLATTEN: tuple[str, dict[str, Any]] = ("Flatten", {})


@pytest.mark.parametrize(
    ("layers", "shape", "expected"),
    [
        pytest.param([CONV_VALID, FLATTEN, DENSE], [9, 7, 3], ("HWC", (7, 5, 8)), id="last"),
        pytest.param(
            [("Conv2D", CONV_VALID[1] | FIRST), FLATTEN, DENSE],
            [3, 9, 7],
            ("CHW", (8, 7, 5)),
            id="first",
        ),
        pytest.param(
            [("Conv2D", CONV_VALID[1] | FIRST), ("Flatten", FIRST), DENSE],
            [3, 9, 7],
            ("HWC", (7, 5, 8)),
            id="first, moved last by the flatten",
        ),
        pytest.param(
            [CONV_VALID, ("Permute", {"dims": [3, 1, 2]}), FLATTEN, DENSE],
            [9, 7, 3],
            ("CHW", (8, 7, 5)),
            id="permuted",
        ),
        pytest.param(
            [CONV_VALID, ("Reshape", {"target_shape": [-1]}), ("Dropout", {}), DENSE],
            [9, 7, 3],
            ("HWC", (7, 5, 8)),
            id="reshaped to one axis",
        ),
        pytest.param(
            [("Reshape", {"target_shape": [9, 7, 3]}), CONV_VALID, FLATTEN, DENSE],
            [189],
            ("HWC", (7, 5, 8)),
            id="reshaped to a map",
        ),
        pytest.param(
            [("Conv1D", {"filters": 4, "kernel_size": [3], "padding": "valid"}), FLATTEN, DENSE],
            [10, 2],
            ("LC", (8, 4)),
            id="1-D",
        ),
        pytest.param(
            [CONV_VALID, ("GlobalAveragePooling2D", {}), DENSE],
            [None, None, 3],
            ("HWC", (1, 1, 8)),
            id="pooled, of any size",
        ),
        pytest.param([CONV_VALID, FLATTEN, DENSE], [None, None, 3], None, id="of any size"),
        pytest.param(
            [CONV_VALID, ("Fancy>Attention", {}), FLATTEN, DENSE], [9, 7, 3], None, id="unknown"
        ),
        pytest.param([CONV_VALID, FLATTEN, DENSE], [2, 2, 3], None, id="too small"),
        pytest.param([FLATTEN, DENSE], [9, 7, 3], None, id="no convolution"),
    ],
)
def test_a_row_of_layers(
    layers: Layers, shape: list[int | None], expected: tuple[str, tuple[int, ...]] | None
) -> None:
    found = maps_of(sequential(layers, shape))
    assert found == ({} if expected is None else {"fc": expected})


def test_an_input_that_only_the_whole_model_has() -> None:
    data = sequential([CONV_VALID, FLATTEN, DENSE], [9, 7, 3])
    shape = data["config"]["layers"][0]["config"].pop("batch_input_shape")
    assert maps_of(data) == {}
    data["config"]["build_input_shape"] = shape
    assert maps_of(data) == {"fc": ("HWC", (7, 5, 8))}


@pytest.mark.parametrize("broken", [None, 7, "x", [], {}, [-1, 0], [[1], [2]]])
@pytest.mark.parametrize(
    ("kind", "key"),
    [
        ("Conv2D", "kernel_size"),
        ("Conv2D", "filters"),
        ("MaxPooling2D", "strides"),
        ("ZeroPadding2D", "padding"),
        ("Cropping2D", "cropping"),
        ("Reshape", "target_shape"),
        ("Permute", "dims"),
        ("Concatenate", "axis"),
    ],
)
def test_settings_that_mean_nothing_tell_nothing_false(kind: str, key: str, broken: Any) -> None:
    maps_of(sequential([CONV_VALID, (kind, {key: broken}), FLATTEN, DENSE], [9, 7, 3]))


def network(path: Path, config: dict[str, Any] | None, features: int = 280) -> None:
    """Write a file as Keras 2 does: a convolution of 8 channels, and the Dense layer `fc`."""
    h5py = import_module("h5py")
    rng = np.random.default_rng(2)
    with h5py.File(path, "w") as file:
        if config is not None:
            file.attrs["model_config"] = json.dumps(config)
        file.attrs["backend"] = "tensorflow"
        weights = file.create_group("model_weights")
        weights.attrs["layer_names"] = [b"layer_0", b"fc"]
        for name, shape in (("layer_0", (3, 3, 3, 8)), ("fc", (features, 5))):
            group = weights.create_group(name)
            group.attrs["weight_names"] = [f"{name}/kernel:0".encode()]
            group[f"{name}/kernel:0"] = rng.standard_normal(shape).astype("f4")


@pytest.mark.heavy
def test_init_takes_map_and_order_from_the_configuration(tmp_path: Path) -> None:
    path = tmp_path / "net.h5"
    network(path, sequential([CONV_VALID, FLATTEN, DENSE], [9, 7, 3]))
    result = CliRunner().invoke(app, ["init", str(path), "-o", str(tmp_path / "net.yaml")])
    assert result.exit_code == 0, result.stderr
    text = (tmp_path / "net.yaml").read_text()
    assert text.endswith("feature_map: [8, 7, 5]\n")  # HWC, as Keras does: not said
    assert "the file's configuration gives it 8×7×5 HWC" in text
    convert(path, tmp_path / "net.yaml", tmp_path / "o.safetensors")
    h5py = import_module("h5py")
    with h5py.File(path) as file:
        dense = file["model_weights/fc/fc/kernel:0"][()]
    seen = load_file(tmp_path / "o.safetensors")["fc.weight"]
    assert torch.equal(seen, torch.tensor(dense.reshape(7, 5, 8, 5).transpose(3, 2, 0, 1).copy()))


@pytest.mark.heavy
def test_without_a_configuration_the_order_is_that_of_keras(tmp_path: Path) -> None:
    path = tmp_path / "net.h5"
    network(path, None, features=8 * 5 * 5)
    result = CliRunner().invoke(app, ["init", str(path)])
    assert result.exit_code == 0, result.stderr
    assert "flatten HWC, as Keras does, is assumed" in " ".join(
        result.stdout.replace("#", "").split()
    )
    assert "flatten:" not in result.stdout
    report = convert(path, {"feature_map": [8, 5, 5]}, tmp_path / "o.safetensors")
    assert report.layers[0].flatten == "HWC"


@pytest.mark.heavy
@pytest.mark.parametrize(
    "text",
    [
        pytest.param(json.dumps, id="to_json"),
        pytest.param(lambda data: json.dumps(data["config"]), id="get_config"),
    ],
)
def test_a_configuration_beside_weights_with_names_is_used(
    tmp_path: Path, text: Callable[[dict[str, Any]], str]
) -> None:
    network(tmp_path / "net.h5", None)
    data = sequential([CONV_VALID, FLATTEN, DENSE], [9, 7, 3])
    (tmp_path / "net.json").write_text(text(data), encoding="utf-8")
    result = CliRunner().invoke(app, ["init", str(tmp_path / "net.h5")])
    assert result.exit_code == 0, result.stderr
    assert "the file's configuration gives it 8×7×5 HWC" in result.stdout
    refused = CliRunner().invoke(
        app, ["init", str(tmp_path / "net.h5"), "--force", "-o", str(tmp_path / "net.json")]
    )
    assert "is the same file as" in str(refused.exception)


@pytest.mark.heavy
@pytest.mark.parametrize(
    ("text", "said"),
    [
        pytest.param('{"loss": [1, 0.5]}', "describes no model of Keras", id="history"),
        pytest.param('["cat", "dog"]', "describes no model of Keras", id="labels"),
        pytest.param('{"class_name": "Seq', "is not JSON", id="cut off"),
        pytest.param('{"layers": [' + "[" * 99_999, "", id="deep"),
    ],
)
def test_what_lies_beside_weights_with_names_and_is_no_configuration_is_told_of(
    tmp_path: Path, text: str, said: str
) -> None:
    network(tmp_path / "net.h5", None)
    (tmp_path / "net.json").write_text(text, encoding="utf-8")
    report = convert(tmp_path / "net.h5", {"feature_map": [8, 7, 5]}, tmp_path / "o.safetensors")
    [note] = report.notes
    assert "net.json" in note
    assert said in note
    assert note.endswith("; it is not used")


@pytest.mark.heavy
def test_a_spec_that_the_configuration_contradicts_is_a_warning(tmp_path: Path) -> None:
    path = tmp_path / "net.h5"
    network(path, sequential([CONV_VALID, FLATTEN, DENSE], [9, 7, 3]))
    agreeing = convert(path, {"feature_map": [8, 7, 5]}, tmp_path / "a.safetensors")
    assert agreeing.warnings == ()
    for spec, said in (
        ({"feature_map": [8, 5, 7]}, "not 8×5×7 flattened HWC"),
        ({"feature_map": [8, 7, 5], "flatten": "CHW"}, "not 8×7×5 flattened CHW"),
    ):
        report = convert(path, spec, tmp_path / "o.safetensors", force=True)
        assert report.warnings == (
            f"fc reads 8×7×5 flattened HWC, as the file's configuration says, {said}",
        )


@pytest.fixture(scope="module")
def keras() -> Any:
    os.environ["KERAS_BACKEND"] = "torch"
    return import_module("keras")


def plain(keras: Any) -> Any:
    k = keras.layers
    return keras.Sequential(
        [
            k.Input((52, 47, 3)),
            k.Resizing(40, 33),
            k.Lambda(lambda x: x / 255, name="scale"),
            k.Cropping2D(((5, 2), (0, 1))),
            k.ZeroPadding2D((1, 2)),
            k.Conv2D(6, 5, strides=2, padding="same", activation="relu"),
            k.BatchNormalization(),
            k.SeparableConv2D(7, 3, padding="valid"),
            k.MaxPooling2D(3, strides=2, padding="same"),
            k.Conv2D(4, 3, dilation_rate=2, padding="valid"),
            k.UpSampling2D((2, 3)),
            k.DepthwiseConv2D(3, depth_multiplier=2),
            k.AveragePooling2D((2, 3)),
            k.Flatten(name="flat"),
            k.Dropout(0.5),
            k.Dense(9, name="fc"),
            k.Dense(2, name="last"),
        ]
    )


def branched(keras: Any) -> Any:
    k = keras.layers
    image = k.Input((17, 12, 3), name="image")
    stem = k.Conv2D(8, 3, padding="same", name="stem")(image)
    gate = k.GlobalAveragePooling2D(keepdims=True)(stem)
    gated = k.Multiply()([stem, k.Conv2D(8, 1)(gate)])
    both = k.Concatenate()([gated, k.Conv2D(5, 1)(gated)])
    inner = keras.Sequential([k.Input((17, 12, 13)), k.MaxPooling2D(2)], name="inner")
    flat = k.Flatten(name="flat")(inner(both))
    return keras.Model(image, [k.Dense(4, name="fc")(flat), k.Dense(2, name="other")(flat)])


def one_dimensional(keras: Any) -> Any:
    k = keras.layers
    return keras.Sequential(
        [
            k.Input((50, 2)),
            k.ZeroPadding1D(2),
            k.Conv1D(6, 5, strides=3, padding="causal"),
            k.Cropping1D((1, 2)),
            k.MaxPooling1D(2),
            k.Flatten(name="flat"),
            k.Dense(3, name="fc"),
        ]
    )


def volumes(keras: Any) -> Any:
    k = keras.layers
    return keras.Sequential(
        [
            k.Input((9, 10, 11, 1)),
            k.Conv3D(4, 3),
            k.MaxPooling3D((1, 2, 2), padding="same"),
            k.Flatten(name="flat"),
            k.Dense(3, name="fc"),
        ]
    )


@pytest.mark.heavy
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("build", [plain, branched, one_dimensional, volumes])
def test_keras_has_the_same_shapes(keras: Any, build: Any) -> None:
    model = build(keras)
    expected = tuple(model.get_layer("flat").input.shape[1:])
    found = maps_of(json.loads(model.to_json()))
    readers = {"fc", "other"} if build is branched else {"fc"}
    axes = {2: "LC", 3: "HWC", 4: "DHWC"}[len(expected)]
    assert found == dict.fromkeys(readers, (axes, expected))


@pytest.mark.heavy
@pytest.mark.filterwarnings("ignore")
def test_what_comes_from_no_map_is_told_from_what_does(keras: Any) -> None:
    k = keras.layers
    image, numbers = k.Input((9, 8, 3)), k.Input((4,))
    conv = k.Conv2D(6, 3)(image)
    gate = k.Dense(6, name="gate")(k.GlobalAveragePooling2D()(conv))
    gated = k.Multiply()([conv, k.Reshape((1, 1, 6))(gate)])
    fc = k.Dense(5, name="fc")(k.Flatten()(gated))
    beside = k.Dense(5, name="beside")(numbers)
    after = k.LSTM(5)(k.Reshape((42, 6))(conv))
    outputs = [
        k.Dense(2, name="both")(k.Concatenate()([fc, k.Dense(3, name="other")(fc)])),
        k.Dense(2, name="mixed")(k.Concatenate()([fc, beside])),
        k.Dense(2, name="added")(k.Add()([fc, beside])),
        k.Dense(2, name="recurrent")(after),
        k.Dense(2, name="flat and numbers")(k.Concatenate()([k.Flatten()(conv), numbers])),
    ]
    found = maps_of(json.loads(keras.Model([image, numbers], outputs).to_json()))
    none = ("beside", "mixed", "added", "recurrent", "flat and numbers")
    assert found == {
        "gate": ("HWC", (1, 1, 6)),
        "fc": ("HWC", (7, 6, 6)),
        **dict.fromkeys(none),
    }


@pytest.mark.heavy
@pytest.mark.filterwarnings("ignore")
def test_a_layer_that_is_used_again_gives_each_time_what_it_is_given(keras: Any) -> None:
    k = keras.layers
    one, other = k.Input((9, 8, 2)), k.Input((8, 9, 2))
    conv, flat, shared = k.Conv2D(4, 3), k.Flatten(), k.Dense(3, name="shared")
    inner = keras.Sequential([k.Conv2D(4, 3), k.Flatten(), k.Dense(3, name="fc")], name="inner")
    outputs = [
        k.Dense(3, name="a")(flat(conv(one))),
        k.Dense(3, name="b")(flat(conv(other))),
        shared(flat(conv(one))),
        shared(flat(conv(other))),
        inner(one),
        inner(k.ReLU()(one)),
    ]
    found = maps_of(json.loads(keras.Model([one, other], outputs).to_json()))
    expected = {"a": ("HWC", (7, 6, 4)), "b": ("HWC", (6, 7, 4)), "inner.fc": ("HWC", (7, 6, 4))}
    assert found == expected


def functional(name: str, layers: list[dict[str, Any]], last: str) -> dict[str, Any]:
    config = {"name": name, "layers": layers, "output_layers": [[last, 0, 0]]}
    return {"class_name": "Functional", "name": name, "config": config}


def test_layers_that_read_each_other_and_models_used_without_end_are_not_known() -> None:
    circle = [layer("Dense", {"name": name}, 0) for name in "ab"]
    for one, other in zip(circle, "ba", strict=True):
        one |= {"name": one["config"]["name"], "inbound_nodes": [[[other, 0, 0, {}]]]}
    assert maps_of(functional("m", circle, "a")) == {}
    inner = functional("m0", [layer("ReLU", {}, 0) | {"inbound_nodes": []}], "layer_0")
    for depth in range(1, 30):
        uses = [[[["x", 0, 0, {}]]], [[["x", 0, 0, {}]]]]
        inner = functional(f"m{depth}", [inner | {"inbound_nodes": uses[0] * 2}], f"m{depth - 1}")
    assert maps_of(inner) == {}


# Keras 1


def first(rows: int, columns: int, filters: int, **more: Any) -> tuple[str, dict[str, Any]]:
    """Return a convolution as Keras 1.2 wrote it."""
    size = {"nb_filter": filters, "nb_row": rows, "nb_col": columns}
    usual = {"border_mode": "valid", "subsample": [1, 1], "dim_ordering": "tf"}
    return "Convolution2D", {**size, **usual, **more}


FC: tuple[str, dict[str, Any]] = ("Dense", {"output_dim": 2, "name": "fc"})
SAME = {"border_mode": "same", "subsample": [2, 4]}


@pytest.mark.parametrize(
    ("layers", "shape", "expected"),
    [
        pytest.param(
            [
                first(64, 1, 16),
                ("BatchNormalization", {"mode": 0, "axis": 1}),
                ("SpatialDropout2D", {"p": 0.2}),
                ("Permute", {"dims": [3, 2, 1]}),
                first(2, 64, 4, **SAME),
                first(8, 8, 4, **SAME),
                FLATTEN,
                FC,
            ],
            [64, 385, 1],
            ("HWC", (4, 25, 4)),  # 385 / 4 and again, each rounded up
            id="of EEG, published",
        ),
        pytest.param(
            [
                *[first(5, 5, n, subsample=[2, 2]) for n in (24, 36, 48)],
                first(3, 3, 64),
                first(3, 3, 64),
                ("Dropout", {"p": 0.5}),
                FLATTEN,
                FC,
            ],
            [66, 200, 3],
            ("HWC", (1, 18, 64)),  # as NVIDIA's paper says
            id="that drives",
        ),
        pytest.param(
            [
                first(3, 3, 8, dim_ordering="th"),
                (
                    "MaxPooling2D",
                    {"pool_size": [2, 2], "strides": [2, 2], "border_mode": "valid"}
                    | {"dim_ordering": "th"},
                ),
                FLATTEN,
                FC,
            ],
            [3, 9, 7],
            ("CHW", (8, 3, 2)),
            id="channels first",
        ),
        pytest.param(
            [
                (
                    "Convolution1D",
                    {"nb_filter": 4, "filter_length": 20, "subsample_length": 1}
                    | {"border_mode": "valid"},
                ),
                ("MaxPooling1D", {"pool_length": 2, "stride": 2, "border_mode": "valid"}),
                FLATTEN,
                FC,
            ],
            [152, 1],
            ("LC", (66, 4)),
            id="1-D",
        ),
        pytest.param(
            [
                (
                    "Convolution3D",
                    {"nb_filter": 2, "border_mode": "valid", "dim_ordering": "tf"}
                    | {"subsample": [1, 1, 2]}
                    | {f"kernel_dim{n}": n for n in (1, 2, 3)},
                ),
                FLATTEN,
                FC,
            ],
            [5, 6, 7, 1],
            ("DHWC", (5, 5, 3, 2)),
            id="3-D",
        ),
    ],
)
def test_what_keras_1_wrote(
    layers: Layers, shape: list[int | None], expected: tuple[str, tuple[int, ...]]
) -> None:
    assert maps_of(sequential(layers, shape)) == {"fc": expected}


@pytest.mark.parametrize(
    ("mode", "channels"), [("concat", 8), ("sum", 4), ("max", 4), ("cos", None)]
)
def test_maps_that_keras_1_merged(mode: str, channels: int | None) -> None:
    def node(kind: str, settings: dict[str, Any], name: str, *reads: str) -> dict[str, Any]:
        uses = [[[read, 0, 0] for read in reads]] if reads else []
        return layer(kind, settings | {"name": name}, 0) | {"name": name, "inbound_nodes": uses}

    layers = [
        node("InputLayer", {"batch_input_shape": [None, 6, 5, 1]}, "in"),
        node(*first(3, 3, 4), "a", "in"),
        node(*first(3, 3, 4), "b", "in"),
        node("Merge", {"mode": mode, "concat_axis": -1}, "both", "a", "b"),
        node("Flatten", {}, "flat", "both"),
        node("Dense", {"output_dim": 2}, "fc", "flat"),
    ]
    expected = {"fc": ("HWC", (4, 3, channels))} if channels else {}
    assert maps_of(functional("m", layers, "fc")) == expected


TH = {"dim_ordering": "th"}
CONV_1D = {"nb_filter": 4, "filter_length": 3, "subsample_length": 2, "border_mode": "full"}


@pytest.mark.parametrize(
    ("layers", "shape", "expected"),
    [
        pytest.param(
            [first(3, 3, 8, **TH), ("ZeroPadding2D", {"padding": [1, 2]}), FLATTEN, FC],
            [3, 9, 7],
            ("CHW", (8, 7 + 1 + 1, 5 + 2 + 2)),
            id="padded, channels first, which a padding does not say",
        ),
        pytest.param(
            [("UpSampling2D", {"size": [2, 3]}), first(3, 3, 8, **TH), FLATTEN, FC],
            [3, 9, 7],
            ("CHW", (8, 2 * 9 - 2, 3 * 7 - 2)),
            id="as a later layer says",
        ),
        pytest.param(
            [
                first(3, 3, 8, **TH),
                ("Cropping2D", {"cropping": [[1, 0], [0, 1]]}),
                ("Permute", {"dims": [2, 3, 1]}),
                first(1, 1, 2),
                FLATTEN,
                FC,
            ],
            [3, 9, 7],
            None,
            id="two orders, and nothing tells which",
        ),
        pytest.param(
            [first(3, 3, 8), ("ZeroPadding2D", {"padding": [1, 2, 3, 4]}), FLATTEN, FC],
            [9, 7, 3],
            ("HWC", (7 + 1 + 2, 5 + 3 + 4, 8)),
            id="top, bottom, left, right",
        ),
        pytest.param(
            [first(3, 3, 8), ("ZeroPadding2D", {"padding": {"top_pad": 3}}), FLATTEN, FC],
            [9, 7, 3],
            ("HWC", (7 + 3, 5, 8)),
            id="padding by name",
        ),
        pytest.param(
            [
                ("ZeroPadding1D", {"padding": {"left_pad": 2, "right_pad": 1}}),
                ("Convolution1D", CONV_1D | {"border_mode": "valid", "subsample_length": 1}),
                FLATTEN,
                FC,
            ],
            [10, 1],
            ("LC", (10 + 2 + 1 - 2, 4)),
            id="padding by name, 1-D",
        ),
        pytest.param(
            [("Convolution1D", CONV_1D), FLATTEN, FC],
            [10, 1],
            ("LC", (6, 4)),  # of 10 + 3 - 1 places, every other one
            id="full",
        ),
        pytest.param(
            [
                ("AtrousConvolution2D", first(3, 3, 8)[1] | {"atrous_rate": [2, 1]}),
                ("SReLU", {}),
                FLATTEN,
                FC,
            ],
            [9, 7, 3],
            ("HWC", (9 - 4, 7 - 2, 8)),
            id="atrous",
        ),
    ],
)
def test_what_keras_1_did_not_say_or_said_otherwise(
    layers: Layers, shape: list[int | None], expected: tuple[str, tuple[int, ...]] | None
) -> None:
    assert maps_of(sequential(layers, shape)) == ({"fc": expected} if expected else {})


def branch(name: str, filters: int, columns: int = 7) -> dict[str, Any]:
    """Return a model of one layer, as Keras 1 wrote it into a Merge."""
    kind, settings = first(3, 3, filters)
    settings |= {"name": name, "batch_input_shape": [None, 9, columns, 3]}
    return {"class_name": "Sequential", "config": [layer(kind, settings, 0)]}


def merging(mode: str, *branches: Any, **more: Any) -> list[dict[str, Any]]:
    """Return the layers of a Sequential that merges others."""
    settings = {"name": f"merge_{mode}", "mode": mode, "mode_type": "raw", "concat_axis": -1}
    merge = layer("Merge", {**settings, **more, "layers": list(branches)}, 0)
    return [merge, layer("Flatten", {"name": "flat"}, 1), layer(FC[0], FC[1], 2)]


OUTER = [
    merging("concat", branch("a", 4), branch("b", 8), name="inner")[0],
    layer("ELU", {"name": "elu"}, 0),
]
GRAPH = functional(
    "graph",
    [
        layer("InputLayer", {"name": "in", "batch_input_shape": [None, 9, 7, 3]}, 0)
        | {"inbound_nodes": []},
        layer(*first(3, 3, 2, name="c"), 0) | {"inbound_nodes": [[["in", 0, 0]]]},
        layer(*first(1, 1, 99, name="d"), 0) | {"inbound_nodes": [[["c", 0, 0]]]},
    ],
    "c",
)


@pytest.mark.parametrize(
    ("layers", "expected"),
    [
        pytest.param(merging("concat", branch("a", 4), branch("b", 8)), 12, id="joined"),
        pytest.param(merging("mul", branch("a", 4), branch("b", 4)), 4, id="multiplied"),
        pytest.param(
            merging("concat", GRAPH, branch("b", 8)), 10, id="the output of a graph, not its last"
        ),
        pytest.param(
            merging("concat", {"class_name": "Sequential", "config": OUTER}, branch("e", 1)),
            13,
            id="merged twice",
        ),
        pytest.param(merging("dot", branch("a", 4), branch("b", 4)), None, id="a product"),
        pytest.param(
            merging("sum", branch("a", 4), branch("b", 4), mode_type="function"),
            None,
            id="a function that is called as a mode",
        ),
        pytest.param(
            merging("concat", branch("a", 4), branch("b", 8, columns=8)), None, id="of two sizes"
        ),
        pytest.param(merging("concat", branch("a", 4), branch("a", 8)), None, id="of one name"),
        pytest.param(merging("concat", branch("a", 4), 7, None), None, id="of nothing"),
    ],
)
@pytest.mark.parametrize("whole", [True, False], ids=["to_json", "get_config"])
def test_models_that_keras_1_merged(
    layers: list[dict[str, Any]], expected: int | None, *, whole: bool
) -> None:
    data: Any = {"class_name": "Sequential", "config": layers} if whole else layers
    assert maps_of(data) == ({"fc": ("HWC", (7, 5, expected))} if expected else {})


def test_merges_inside_of_each_other_without_end_are_not_followed() -> None:
    inner = branch("a", 4)
    for at in range(400):
        merge = layer("Merge", {"name": f"m{at}", "mode": "sum", "layers": [inner]}, 0)
        inner = {"class_name": "Sequential", "config": [merge]}
    assert maps_of(inner) == {}


@pytest.mark.heavy
@pytest.mark.filterwarnings("ignore")
def test_keras_has_the_sizes_of_what_keras_1_wrote(keras: Any) -> None:
    k = keras.layers
    rows = [
        (
            k.Conv2D(6, (5, 3), strides=(2, 1), padding="same"),
            first(5, 3, 6, subsample=[2, 1], border_mode="same"),
        ),
        (
            k.MaxPooling2D((3, 2), strides=(2, 2)),
            ("MaxPooling2D", {"pool_size": [3, 2], "strides": [2, 2], "border_mode": "valid"}),
        ),
        (
            k.SeparableConv2D(7, 3),
            ("SeparableConvolution2D", first(3, 3, 7)[1] | {"depth_multiplier": 1}),
        ),
        (k.ZeroPadding2D(((1, 2), (0, 3))), ("ZeroPadding2D", {"padding": [1, 2, 0, 3]})),
        (
            k.Conv2D(4, 3, dilation_rate=(1, 2)),
            ("AtrousConvolution2D", first(3, 3, 4)[1] | {"atrous_rate": [1, 2]}),
        ),
        (k.UpSampling2D((2, 3)), ("UpSampling2D", {"size": [2, 3]})),
        (k.Flatten(), FLATTEN),
    ]
    model = keras.Sequential([k.Input((52, 47, 3)), *(new for new, _ in rows)])
    expected = tuple(model.layers[-1].input.shape[1:])
    found = maps_of(sequential([*(old for _, old in rows), FC], [52, 47, 3]))
    assert found == {"fc": ("HWC", expected)}


@pytest.mark.heavy
def test_the_configuration_of_another_model_is_not_used(tmp_path: Path) -> None:
    path = tmp_path / "net.h5"
    network(path, None)
    other = [("Conv2DTranspose", {"filters": 3}), FLATTEN, ("Dense", {"name": "other"})]
    (tmp_path / "net.json").write_text(json.dumps(sequential(other, [9, 7, 3])), encoding="utf-8")
    report = convert(path, {"feature_map": [8, 7, 5]}, tmp_path / "o.safetensors")
    [note] = report.notes
    assert note.endswith("net.json: describes a model without the layer 'fc'; it is not used")
    assert load_file(tmp_path / "o.safetensors")["layer_0.weight"].shape == (8, 3, 3, 3)


@pytest.mark.heavy
@pytest.mark.parametrize("broken", ["a zip file cut off", "a FIFO"])
def test_what_is_no_configuration_hides_none(tmp_path: Path, broken: str) -> None:
    path = tmp_path / "net.h5"
    network(path, None)
    if broken == "a FIFO":
        os.mkfifo(tmp_path / "net.keras")  # to open it would wait for ever
    else:
        (tmp_path / "net.keras").write_bytes(b"PK\x03\x04, and no more")
    data = sequential([CONV_VALID, FLATTEN, DENSE], [9, 7, 3])["config"]["layers"]
    (tmp_path / "net.json").write_text(json.dumps(data), encoding="utf-8")
    with open_checkpoint(path) as checkpoint:
        flat = checkpoint.state_dict(None).flattened["fc"]
        [note] = checkpoint.index.notes
        assert [file.path.name for file in checkpoint.files] == ["net.h5", "net.json"]
    assert flat is not None
    assert (flat.axes, flat.sizes) == ("HWC", (7, 5, 8))
    assert "net.keras: " in note


@pytest.mark.heavy
def test_a_file_is_not_its_own_configuration(tmp_path: Path) -> None:
    network(tmp_path / "net.keras", None)  # HDF5, as Keras 2 wrote by any name
    with open_checkpoint(tmp_path / "net.keras") as checkpoint:
        assert len(checkpoint.files) == 1
        assert checkpoint.index.notes == ()
