from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import further  # noqa: F401 - registers its families
import pytest
from architectures import Architecture, Net, every
from survey import ORDERS

from fcn_convert import CheckFailedError, convert
from fcn_convert.infer.unlisted import unlisted_doubts
from fcn_convert.layers import resolve
from fcn_convert.spec import make_spec

FOLDER = Path(__file__).parent.parent / "sample_checkpoints"
FAMILIES = {family.name: family for family in every()}
CONVOLUTIONAL = {"conv.weight": (16, 3, 3, 3), "conv.bias": (16,)}

Listed = Sequence[tuple[tuple[int, ...], Sequence[str]]]


def warnings(family: Architecture, order: str, prefix: str, listed: Listed) -> list[str]:
    heads = [
        {"feature_map": list(sizes), "dense": [prefix + name for name in names]}
        for sizes, names in listed
    ]
    state_dict = family.state_dict(order, prefix)
    return list(unlisted_doubts(resolve(make_spec({"heads": heads}), state_dict), state_dict))


@pytest.mark.parametrize("family", [f for f in FAMILIES.values() if f.heads], ids=lambda f: f.name)
def test_nothing_is_said_where_every_layer_of_a_head_is_listed(family: Architecture) -> None:
    for order, prefix in ORDERS:
        assert not warnings(family, order, prefix, family.heads)
        for head in family.heads:  # the others may stay Dense on purpose
            if len({sizes for sizes, _ in family.heads}) == len(family.heads):
                assert not warnings(family, order, prefix, [head])


@pytest.mark.parametrize(
    ("name", "listed", "forgotten"),
    [
        pytest.param("vgg16", ["classifier.0"], "classifier.3, classifier.6", id="vgg16"),
        pytest.param("vgg16", ["classifier.0", "classifier.6"], "classifier.3", id="one-between"),
        pytest.param("lenet", ["fc1", "fc2"], "fc3", id="lenet-without-modules"),
        pytest.param("yolo v1", ["fcs.1"], "fcs.4", id="yolo"),
        pytest.param("a 1-D sequence net", ["out.0"], "out.3", id="1-D"),
    ],
)
@pytest.mark.parametrize("order", ["registration", "sorted"])
def test_the_rest_of_a_row_is_named(
    name: str, listed: list[str], forgotten: str, order: str
) -> None:
    [(sizes, row)] = FAMILIES[name].heads
    [warning] = warnings(FAMILIES[name], order, "", [(sizes, listed)])
    assert warning.startswith(f"{forgotten}: by its shapes in a row with {listed[0]}")
    assert warning.endswith(f"list the whole row, `dense: [{', '.join(row)}]`")


def branches(net: Net) -> None:
    net.linear("fc.policy", 32, 6)
    net.linear("fc.value", 32, 1)


def elsewhere(net: Net) -> None:
    net.linear("margin.fc", 32, 10)


def embedding(net: Net) -> None:
    net.linear("fc.classes", 32, 100, bias=False)


def attention(net: Net) -> None:
    for name in ("query", "key", "value"):
        net.linear(f"fc.{name}", 32, 32)


def recurrent(net: Net) -> None:
    net.shapes["fc.lstm.weight_ih_l0"] = net.shapes["fc.lstm.weight_hh_l0"] = (128, 32)
    net.linear("fc.out", 32, 10)


def earlier(net: Net) -> None:
    net.shapes = {"fc.a.weight": (64, 32), "fc.a.bias": (64,), **net.shapes}


@pytest.mark.parametrize(
    "add",
    [branches, elsewhere, embedding, attention, recurrent, earlier],
    ids=lambda function: function.__name__,
)
def test_nothing_is_said_of_what_may_be_something_else(add: object) -> None:
    assert callable(add)
    net = Net({**CONVOLUTIONAL})
    net.linear("fc.first", 16 * 4, 32)
    add(net)
    family = Architecture("", net.shapes, (), ())
    assert not warnings(family, "registration", "", [((16, 2, 2), ["fc.first"])])


def test_a_forgotten_layer_is_a_warning_of_the_conversion(tmp_path: Path) -> None:
    spec = {"feature_map": [64, 2, 2], "dense": ["classifier.0", "classifier.3"]}
    report = convert(FOLDER / "vgg.ckpt", spec, tmp_path / "out.safetensors", level="shapes")
    [warning] = report.warnings
    assert warning.startswith("classifier.6: by its shapes in a row with classifier.0, which")
    assert {e.name: e.action for e in report.tensors}["classifier.6.weight"] == "kept"
    with pytest.raises(CheckFailedError, match=r"classifier\.6: by its shapes"):
        convert(FOLDER / "vgg.ckpt", spec, tmp_path / "strict.safetensors", strict=True)
    assert not (tmp_path / "strict.safetensors").exists()
