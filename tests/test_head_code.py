from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional
from typer.testing import CliRunner

from fcn_convert import FcnConvertError, convert
from fcn_convert.cli import app
from fcn_convert.head_code import code_of

FOLDER = Path(__file__).parent.parent / "sample_checkpoints"
SAMPLES = ("lenet.pth", "vgg.ckpt", "two_heads.pth", "sequence.safetensors")


class Case(NamedTuple):
    """Dense weights by module name, and what their spec says; biases unless left out."""

    layers: dict[str, tuple[int, int]]
    spec: dict[str, Any]
    new_names: set[str]
    without_bias: frozenset[str] = frozenset()
    more: Mapping[str, tuple[int, ...]] = MappingProxyType({})


MAP = {"feature_map": [3, 2, 2]}
PLANTED = "raise SystemExit('planted')"
ATTACKS = (
    f"a'); {PLANTED} #",
    f'b")\n{PLANTED}\nc',
    f"c\u2028{PLANTED}",
    f"d\r        {PLANTED}",
    f'e"""\n{PLANTED}\n"""',
    "f{self.__class__}",
    "super()",
    "self",
    "g\\",
)
CASES = {
    "attributes": Case({"fc1": (5, 12), "fc2": (4, 5)}, MAP, {"fc1", "fc2"}),
    "sequential": Case(
        {"classifier.1": (5, 12), "classifier.4": (4, 5)}, MAP, {"classifier.1", "classifier.4"}
    ),
    "nested": Case(
        {"net.head.0.fc": (5, 12), "net.head.1.fc": (4, 5)},
        MAP,
        {"net.head.0.fc", "net.head.1.fc"},
    ),
    "module-list": Case(
        {"heads.0": (5, 12), "heads.1": (4, 12)},
        {"heads": [{**MAP, "dense": ["heads.*"]}]},
        {"heads.0", "heads.1"},
    ),
    "no-bias": Case(
        {"fc.0": (5, 12), "fc.2": (4, 5)}, MAP, {"fc.0", "fc.2"}, frozenset({"fc.0", "fc.2"})
    ),
    "1-D": Case({"fc": (5, 12)}, {"feature_map": [3, 4]}, {"fc"}),
    "3-D": Case({"fc.0": (5, 24), "fc.3": (2, 5)}, {"feature_map": [3, 2, 2, 2]}, {"fc.0", "fc.3"}),
    "renamed": Case(
        {"classifier.0": (5, 12), "classifier.3": (4, 5)},
        {**MAP, "rename": {"classifier.0": "conv_head.a.0", "classifier.3": "conv_head.b"}},
        {"conv_head.a.0", "conv_head.b"},
    ),
    "numbers-at-the-top": Case({"0": (5, 12), "7": (4, 5)}, MAP, {"0", "7"}),
    "names-that-are-no-python": Case(
        {"class": (5, 12), "_fc-2": (4, 5), 'a"\n\\': (4, 5)}, MAP, {"class", "_fc-2", 'a"\n\\'}
    ),
    "names-that-attack": Case(
        dict.fromkeys(ATTACKS[:1], (5, 12)) | dict.fromkeys(ATTACKS[1:], (4, 5)),
        MAP,
        set(ATTACKS),
    ),
    "a-layer-within-a-layer": Case({"fc": (5, 12), "fc.0": (4, 5)}, MAP, {"fc", "fc.0"}),
    "a-far-number": Case({"fc.1": (5, 12), "fc.4000000": (4, 5)}, MAP, {"fc.1", "fc.4000000"}),
    "norms-between": Case(
        {"fc.1": (5, 12), "fc.4": (4, 5)},
        MAP,
        {"fc.1", "fc.2", "fc.3", "fc.4"},
        more={
            **{f"fc.2.{part}": (5,) for part in ("weight", "bias", "running_mean", "running_var")},
            "fc.2.num_batches_tracked": (),
            "fc.3.weight": (5,),
        },
    ),
}


def execute(code: str) -> nn.Module:
    namespace: dict[str, Any] = {}
    exec(compile(code, "head.py", "exec"), namespace)
    head: nn.Module = namespace["Head"]()
    return head.double()


def loaded(report: Path, output: Path) -> nn.Module:
    """Run the code and load what the converted file has under the head's names, strictly."""
    head = execute(code_of(report))
    tensors = load_file(output)
    head.load_state_dict(
        {name: tensors[name] for name in head.state_dict() if name in tensors}, strict=True
    )
    return head.eval()


def converted(case: Case, folder: Path) -> tuple[Path, Path, dict[str, Tensor]]:
    tensors = {f"{name}.weight": torch.randn(shape).double() for name, shape in case.layers.items()}
    for name, shape in case.layers.items():
        if name not in case.without_bias:
            tensors[f"{name}.bias"] = torch.randn(shape[0]).double()
    tensors |= {name: torch.rand(shape).double() for name, shape in case.more.items()}
    save_file(tensors, folder / "model.safetensors")
    convert(folder / "model.safetensors", case.spec, level="bytes")
    return folder / "model.fcn.report.json", folder / "model.fcn.safetensors", tensors


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_the_state_dict_is_that_of_the_converted_head(case: Case, tmp_path: Path) -> None:
    report, output, _ = converted(case, tmp_path)
    head = loaded(report, output)
    assert {name.rpartition(".")[0] for name in head.state_dict()} == case.new_names
    kinds = {type(head.get_submodule(name)) for name in case.new_names}
    assert kinds <= {nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.BatchNorm2d, nn.PReLU}


@pytest.mark.parametrize("name", SAMPLES)
def test_the_samples(name: str, tmp_path: Path) -> None:
    """Every tensor of the head, the norms within it, too, is in the state dict."""
    source = Path(shutil.copy(FOLDER / name, tmp_path))
    shutil.copy((FOLDER / name).with_suffix(".yaml"), tmp_path)
    convert(source, level="bytes")
    output = source.with_suffix(".fcn.safetensors")
    head = loaded(source.with_suffix(".fcn.report.json"), output)
    of_the_trunk = {name for name in load_file(output) if name.startswith("features")}
    assert head.state_dict().keys() == load_file(output).keys() - of_the_trunk


@pytest.mark.parametrize("form", ["attributes", "sequential", "renamed", "numbers-at-the-top"])
def test_the_forward_of_a_chain_is_the_chain(form: str, tmp_path: Path) -> None:
    report, output, tensors = converted(CASES[form], tmp_path)
    maps = torch.randn(2, 3, 4, 5).double()
    first, second = CASES[form].layers
    found = loaded(report, output)(maps)
    assert found.shape == (2, 4, 3, 4)
    window = maps[:, :, 2:4, 1:3].flatten(1)
    hidden = functional.linear(window, tensors[f"{first}.weight"], tensors[f"{first}.bias"])
    expected = functional.linear(hidden, tensors[f"{second}.weight"], tensors[f"{second}.bias"])
    torch.testing.assert_close(found[:, :, 2, 1], expected)


NORM = dict.fromkeys(("weight", "bias", "running_mean", "running_var"), (5,))


def test_a_norm_beside_the_layers_is_applied(tmp_path: Path) -> None:
    more = {f"bn1.{part}": shape for part, shape in NORM.items()}
    case = Case({"fc1": (5, 12), "fc2": (4, 5)}, MAP, {"fc1", "bn1", "fc2"}, more=more)
    report, output, tensors = converted(case, tmp_path)
    maps = torch.randn(2, 3, 2, 2).double()
    hidden = functional.linear(maps.flatten(1), tensors["fc1.weight"], tensors["fc1.bias"])
    normed = functional.batch_norm(
        hidden, *(tensors[f"bn1.{n}"] for n in ("running_mean", "running_var", "weight", "bias"))
    )
    expected = functional.linear(normed, tensors["fc2.weight"], tensors["fc2.bias"])
    torch.testing.assert_close(loaded(report, output)(maps)[..., 0, 0], expected)


@pytest.mark.parametrize("norm", ["norm", "fc.2"], ids=["beside", "in a Sequential"])
def test_what_has_tensors_but_is_not_known_stops_the_forward(norm: str, tmp_path: Path) -> None:
    names = ("fc.1", "fc.3") if norm == "fc.2" else ("fc1", "fc2")
    more = {f"{norm}.{part}": (5,) for part in ("weight", "bias")}
    case = Case({names[0]: (5, 12), names[1]: (4, 5)}, MAP, set(), more=more)
    report, output, _ = converted(case, tmp_path)
    with pytest.raises(NotImplementedError, match=f"{norm}: a place in this head and tensors"):
        loaded(report, output)(torch.zeros(1, 3, 2, 2).double())


def test_norms_of_several_layers_of_one_width_stop_the_forward(tmp_path: Path) -> None:
    more = {f"{name}.{part}": shape for name in ("a", "b") for part, shape in NORM.items()}
    case = Case({"fc1": (5, 12), "fc2": (5, 5), "fc3": (4, 5)}, MAP, set(), more=more)
    report, output, _ = converted(case, tmp_path)
    with pytest.raises(NotImplementedError, match="a, b: a place in this head"):
        loaded(report, output)(torch.zeros(1, 3, 2, 2).double())


def test_a_norm_that_may_follow_a_convolution_is_a_comment(tmp_path: Path) -> None:
    more = {f"bn.{part}": shape for part, shape in NORM.items()} | {"conv.weight": (5, 3, 3, 3)}
    case = Case({"fc1": (5, 12), "fc2": (4, 5)}, MAP, set(), more=more)
    report, output, _ = converted(case, tmp_path)
    assert "# bn has as many channels: if it follows here, make it and apply it" in code_of(report)
    assert loaded(report, output)(torch.zeros(1, 3, 2, 2).double()).shape == (1, 4, 1, 1)


def test_what_the_report_notes_of_the_source_is_in_the_introduction(tmp_path: Path) -> None:
    report, _, _ = converted(CASES["attributes"], tmp_path)
    data = json.loads(report.read_text())
    report.write_text(json.dumps({**data, "notes": ["epsilon 0.001\nimport os"]}))
    assert "# Note: epsilon 0.001\\nimport os.\n" in code_of(report)


def test_a_fan_gives_an_answer_a_layer(tmp_path: Path) -> None:
    layers = {"dense4": (7, 12), "dense5_1": (2, 7), "dense5_2": (4, 7), "dense5_3": (10, 7)}
    report, output, _ = converted(Case(layers, MAP, set()), tmp_path)
    answers = loaded(report, output)(torch.randn(1, 3, 2, 3).double())
    assert [answer.shape for answer in answers] == [(1, n, 1, 2) for n in (2, 4, 10)]


def test_two_maps_are_two_arguments(tmp_path: Path) -> None:
    spec = {
        "heads": [
            {"feature_map": [3, 2, 2], "dense": ["policy"]},
            {"feature_map": [1, 2, 2], "dense": ["value.0", "value.2"]},
        ]
    }
    layers = {"policy": (6, 12), "value.0": (5, 4), "value.2": (1, 5)}
    report, output, _ = converted(Case(layers, spec, set()), tmp_path)
    head = loaded(report, output)
    policy, value = head(
        maps_0=torch.randn(1, 3, 2, 2).double(), maps_1=torch.randn(1, 1, 2, 2).double()
    )
    assert policy.shape == (1, 6, 1, 1)
    assert value.shape == (1, 1, 1, 1)


def test_what_is_gated_before_a_layer_is_an_argument_of_its_own(tmp_path: Path) -> None:
    spec = {**MAP, "dense": ["fc1", {"name": "fc2", "reads": "dense"}]}
    report, output, _ = converted(Case({"fc1": (5, 12), "fc2": (4, 9)}, spec, set()), tmp_path)
    answers = loaded(report, output)(
        torch.randn(1, 3, 2, 2).double(), before_fc2=torch.randn(1, 9, 1, 1).double()
    )
    assert [answer.shape[1] for answer in answers] == [5, 4]
    assert "the report does not say what this layer reads" in code_of(report)


def test_what_the_report_does_not_know_is_said(tmp_path: Path) -> None:
    report, _, _ = converted(CASES["sequential"], tmp_path)
    code = code_of(report)
    assert "nn.Identity(),  # classifier.2: an activation or a Dropout goes here" in code
    assert "the report does not know them" in code


def test_the_dtype_is_in_the_lines_that_load(tmp_path: Path) -> None:
    save_file({"fc.weight": torch.randn(2, 12).bfloat16()}, tmp_path / "model.safetensors")
    convert(tmp_path / "model.safetensors", MAP, level="bytes")
    assert "head = Head().to(torch.bfloat16)" in code_of(tmp_path / "model.fcn.report.json")


def test_nothing_of_a_report_is_pasted_as_code(tmp_path: Path) -> None:
    """A report from elsewhere is text of others: what it says is quoted or made anew."""
    report, output, _ = converted(CASES["attributes"], tmp_path)
    data = json.loads(report.read_text())
    data["layers"][0]["module"] = "print('planted')"
    data["output"]["path"] = "x\nraise SystemExit('planted')"
    report.write_text(json.dumps(data))
    assert not re.search(r"^\s*[^#]*planted", code_of(report), re.MULTILINE)
    loaded(report, output)


def changed(path: tuple[str | int, ...], value: Any, report: Path) -> None:
    data = json.loads(report.read_text())
    inner = data
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    report.write_text(json.dumps(data))


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        pytest.param(("schema_version",), 2, "at schema_version, Input should be 1", id="version"),
        pytest.param(("layers",), [], "no rewritten layer", id="no-layers"),
        pytest.param(("layers", 0, "new_shape"), [1, 2], "at layers.0.new_shape", id="2-D"),
        pytest.param(("layers", 0, "new_shape", 0), "5", "at layers.0.new_shape.0", id="text"),
        pytest.param(("layers", 0, "dtype"), "F31", "is not a dtype of safetensors", id="dtype"),
        pytest.param(("layers", 0, "new_name"), "a." * 5000, "at layers.0.new_name", id="deep"),
        pytest.param(("spec", "heads"), [], "at spec.heads", id="no-heads"),
    ],
)
def test_a_changed_report_is_refused(
    path: tuple[str | int, ...], value: Any, message: str, tmp_path: Path
) -> None:
    report, _, _ = converted(CASES["attributes"], tmp_path)
    changed(path, value, report)
    with pytest.raises(FcnConvertError, match=re.escape(message)):
        code_of(report)


@pytest.mark.parametrize("text", ["", "[]", "{", "\xff", "{}"], ids=repr)
def test_what_is_no_report_is_one_sentence(text: str, tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    path.write_text(text, encoding="latin-1")
    with pytest.raises(FcnConvertError, match=r"report\.json: is not a JSON report of a conv"):
        code_of(path)


def test_the_command_prints_what_runs(tmp_path: Path) -> None:
    report, _, _ = converted(CASES["sequential"], tmp_path)
    result = CliRunner().invoke(app, ["code", str(report)])
    assert result.exit_code == 0
    assert result.stdout == code_of(report)
    execute(result.stdout)
