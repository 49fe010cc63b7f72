from __future__ import annotations

import time
from itertools import permutations
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from corpus.specs import BAD, YAML_CASES
from hypothesis import given, settings
from hypothesis import strategies as st
from ruamel.yaml import YAML

from fcn_convert.errors import SpecError
from fcn_convert.spec import MAX_SPEC_BYTES, Dense, Spec, load_spec, make_spec, parse_spec
from fcn_convert.spec_schema import json_schema

AXES = ("CL", "CHW", "CDHW")
SCHEMA = jsonschema.Draft202012Validator(json_schema())


def problems(text: str) -> list[str]:
    with pytest.raises(SpecError, match=r"\S") as caught:
        parse_spec(text, "spec.yaml")
    return list(caught.value.problems)


def plain(text: str) -> Any:
    """The oracle: what a YAML library makes of a text, for the JSON Schema."""
    return YAML(typ="safe", pure=True).load(text)


# What can be said.

WHOLE = """\
version: 1
state_dict: model_ema
layout: torch
heads:
  - feature_map: {C: 64, H: 3, W: 3}
    flatten: WHC
    dense: [dense4, dense5_1, {name: dense5_2, reads: dense}]
  - feature_map:
      - 8
      - 5
    dense:
      - name: tail.*
        reads: map
rename:
  classifier.1: conv_classifier.0
  "7": ''
"""


def test_every_key() -> None:
    spec = parse_spec(WHOLE, "spec.yaml")
    assert (spec.state_dict, spec.layout, spec.source) == ("model_ema", "torch", "spec.yaml")
    assert dict(spec.rename) == {"classifier.1": "conv_classifier.0", "7": ""}
    assert dict(spec.rename_lines) == {"classifier.1": 15, "7": 16}
    first, second = spec.heads
    assert (first.feature_map.axes, first.feature_map.sizes) == ("CHW", (64, 3, 3))
    assert (first.flatten, first.line) == ("WHC", 5)
    assert first.dense == (
        Dense("dense4", None, 7),
        Dense("dense5_1", None, 7),
        Dense("dense5_2", "dense", 7),
    )
    assert (second.feature_map.axes, second.feature_map.sizes) == ("CL", (8, 5))
    assert (second.flattened_as("torch").flatten, second.line) == ("CL", 8)
    assert second.dense == (Dense("tail.*", "map", 12),)


def test_one_line_is_enough() -> None:
    spec = parse_spec("feature_map: [512, 7, 7]          # C, then the spatial axes\n")
    (head,) = spec.heads
    assert (head.flatten, head.dense, head.line) == ("", None, 1)
    assert [head.flattened_as(layout).flatten for layout in ("torch", "keras", "mlx")] == [
        "CHW",
        "HWC",
        "HWC",
    ]
    assert (head.feature_map.channels, head.feature_map.kernel) == (512, (7, 7))
    assert (head.feature_map.features, str(head.feature_map)) == (25088, "512×7×7")
    assert (spec.state_dict, spec.layout, dict(spec.rename)) == (None, None, {})


@given(data=st.data())
def test_maps_as_lists_and_mappings(data: st.DataObject) -> None:
    axes = data.draw(st.sampled_from(AXES))
    sizes = [data.draw(st.integers(1, 2**31 - 1)) for _ in axes]
    flatten = "".join(data.draw(st.permutations(axes)))
    shuffled = data.draw(st.permutations(list(zip(axes, sizes, strict=True))))
    listed = ", ".join(map(str, sizes))
    mapped = ", ".join(f"{axis}: {size}" for axis, size in shuffled)
    specs = [
        parse_spec(f"feature_map: [{listed}]\nflatten: {flatten}\n"),
        parse_spec(f"feature_map: {{{mapped}}}\nflatten: {flatten}\n"),
        make_spec({"feature_map": dict(shuffled), "flatten": flatten}),
    ]
    for spec in specs:
        (head,) = spec.heads
        assert (head.feature_map.axes, head.feature_map.sizes) == (axes, tuple(sizes))
        assert head.flatten == flatten


@pytest.mark.parametrize(
    ("axes", "order"),
    [
        pytest.param(axes, "".join(order), id="".join(order))
        for axes in AXES
        for order in permutations(axes)
    ],
)
def test_every_flatten_order(axes: str, order: str) -> None:
    text = f"feature_map: {[2] * len(axes)}\nflatten: {order}"
    assert parse_spec(text).heads[0].flatten == order
    assert SCHEMA.is_valid(plain(text))


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("\ufefffeature_map: [1, 2, 2]", id="byte-order-mark"),
        pytest.param("feature_map: [1, 2, 2]\r\nflatten: HWC\r\n", id="crlf"),
        pytest.param("---\nfeature_map: [1, 2, 2]\n...\n", id="document-markers"),
        pytest.param('{"feature_map": [1, 2, 2]}', id="json"),
        pytest.param("# nothing\n\nfeature_map:\n- 1\n- 2\n- 2\n", id="block-list"),
        pytest.param("feature_map: [0x1, 0b10, 2]", id="other-bases"),
    ],
)
def test_forms_of_yaml(tmp_path: Path, text: str) -> None:
    if "0b" in text:
        text = text.replace("0b10", "0o2")  # YAML 1.2 has no binary numbers
    path = tmp_path / "s.yaml"
    path.write_bytes(text.encode("utf-8"))
    (head,) = load_spec(path).heads
    assert head.feature_map.sizes == (1, 2, 2)


def test_keys_are_names_as_written() -> None:
    spec = parse_spec("feature_map: [1, 2]\nrename:\n  0: a\n  no: b\n  1e-5: c\n  1_0: d\n")
    assert dict(spec.rename) == {"0": "a", "no": "b", "1e-5": "c", "1_0": "d"}


def test_a_spec_without_lines() -> None:
    assert make_spec({"feature_map": [1, 2]}).at(None) == ""
    assert Spec((), source="a.yaml").at(3) == " (a.yaml:3)"


# What cannot.


@pytest.mark.parametrize(("text", "expected"), BAD)
def test_what_is_wrong_is_said_with_its_line(text: str, expected: list[str]) -> None:
    found = problems(text)
    assert len(found) == len(expected), found
    for problem, pattern in zip(found, expected, strict=True):
        with pytest.raises(AssertionError, match=pattern):
            raise AssertionError(problem)
        assert "spec.yaml:" in problem


@pytest.mark.parametrize("text", [pytest.param(case.values[0], id=case.id) for case in BAD])
def test_the_json_schema_refuses_the_same(text: str) -> None:
    accepted = "2.0" in text  # to JSON 2.0 is an integer
    assert SCHEMA.is_valid(plain(text)) is accepted


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(WHOLE, id="whole"),
        pytest.param("feature_map: [512, 7, 7]", id="one-line"),
        pytest.param("feature_map: {C: 1, L: 2}", id="1-D"),
        pytest.param("feature_map: {W: 1, H: 2, D: 1, C: 9}", id="3-D"),
        pytest.param("feature_map: [1, 2, 2]\nrename: {}", id="no-renames"),
        pytest.param("feature_map: [1, 2, 2]\nrename: {a: ''}", id="removed-prefix"),
        pytest.param("feature_map: [1, 2, 2]\ndense: ['*', {name: a}]", id="dense-forms"),
    ],
)
def test_the_json_schema_accepts_the_same(text: str) -> None:
    parse_spec(text)
    SCHEMA.validate(plain(text))


def test_the_json_schema_is_one() -> None:
    jsonschema.Draft202012Validator.check_schema(json_schema())
    assert json_schema()["$schema"].endswith("2020-12/schema")
    described = json_schema()["properties"]
    assert all(entry.get("description") for entry in described.values())
    assert all(entry.get("default", 0) is not None for entry in described.values())


def test_all_problems_at_once() -> None:
    text = """\
version: 3
feature_map: [512, 0, 7]
flattn: HWC
dense:
  - fc1
  - {name: fc2, reads: nothing}
rename:
  a: 1
  a: b
layout: keras9
"""
    found = problems(text)
    lines = sorted(int(problem.rpartition(":")[2].rstrip(")")) for problem in found)
    assert lines == [1, 2, 3, 6, 8, 9, 10]


# What YAML can do and a spec must not.


@pytest.mark.parametrize(("text", "message"), YAML_CASES)
def test_what_yaml_can_do(text: str, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        parse_spec(text, "spec.yaml")


def bomb() -> str:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{at}: &a{at} [{', '.join([f'*a{at - 1}'] * 9)}]" for at in range(1, 30)]
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param(bomb(), r"^anchors and aliases", id="billion-laughs"),
        pytest.param("a: " + "[" * 100_000, r"nested too deeply \(spec\.yaml:1\)$", id="lists"),
        pytest.param("{a: " * 50_000, r"nested too deeply", id="mappings"),
        pytest.param(
            "\n".join(" " * at + "a:" for at in range(600)), r"nested too deeply .*:\d+", id="block"
        ),
        pytest.param("- " * 50_000, r"nested too deeply", id="lists-in-a-line"),
        pytest.param("? " * 50_000, r"nested too deeply", id="keys-of-keys"),
    ],
)
def test_bombs_are_quick(text: str, message: str) -> None:
    before = time.process_time()
    with pytest.raises(SpecError, match=message):
        parse_spec(text, "spec.yaml")
    assert time.process_time() - before < 5


@settings(max_examples=200)
@given(text=st.text(alphabet="feature_map: [1,2]{}&*!|>-'\"\n\t#%@`?\x00é", max_size=60))
def test_no_text_is_a_bug(text: str) -> None:
    try:
        parse_spec(text)
    except SpecError as error:
        assert error.problems  # noqa: PT017 - any other exception is the failure


# Files.


def test_a_file(tmp_path: Path) -> None:
    path = tmp_path / "net.yaml"
    path.write_text("feature_map: [1, 2, 2]\nflaten: HWC\n")
    with pytest.raises(
        SpecError, match=r"^unknown key 'flaten', did you mean 'flatten'\? \(net\.yaml:2\)$"
    ):
        load_spec(path)


AT_THE_TOP = "feature_map, flatten, dense, version, state_dict, layout, heads, rename"


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        pytest.param({"feature_maps": [1, 2, 2]}, "'feature_maps', did you mean 'feature_map'?"),
        pytest.param({"Flatten": "CHW"}, "'Flatten', did you mean 'flatten'?"),
        pytest.param({"layers": ["fc"]}, f"'layers', known are {AT_THE_TOP}"),
        pytest.param({"feature_map": {"c": 1}}, "'feature_map.c', did you mean 'C'?"),
        pytest.param(
            {"heads": [{"feature_map": [1, 2], "dence": ["a"]}]},
            "'heads.0.dence', did you mean 'dense'?",
        ),
        pytest.param(
            {"heads": [{"feature_map": [1, 2], "layout": "mlx"}]},
            "'heads.0.layout', known are feature_map, flatten, dense",
        ),
        pytest.param(
            {"heads": [{"feature_map": {"C": 1, "L": 2, "x": 3}, "dense": ["a"]}]},
            "'heads.0.feature_map.x', known are C, L, D, H, W",
        ),
        pytest.param(
            {"dense": [{"name": "fc", "read": "map"}]}, "'dense.0.read', did you mean 'reads'?"
        ),
    ],
    ids=lambda value: value.split("'")[1] if isinstance(value, str) else "",
)
def test_an_unknown_key_is_told_what_it_may_be_meant_for(spec: dict[str, Any], said: str) -> None:
    with pytest.raises(SpecError) as error:
        make_spec({"feature_map": [1, 2, 2], **spec} if "heads" not in spec else spec)
    assert f"unknown key {said}" in error.value.problems


def test_what_should_be_a_list_is_said_to_be_none() -> None:
    with pytest.raises(SpecError, match=r"^dense: should be a list in brackets, found 'fc'$"):
        make_spec({"feature_map": [1, 2, 2], "dense": "fc"})


def test_a_file_that_is_not_utf8(tmp_path: Path) -> None:
    path = tmp_path / "net.yaml"
    path.write_bytes(b"feature_map: [1, 2, 2]\n# \xff\n")
    with pytest.raises(SpecError, match=r"^the file is not UTF-8 \(net\.yaml:2\)$"):
        load_spec(path)


def test_a_file_larger_than_any_spec(tmp_path: Path) -> None:
    path = tmp_path / "net.yaml"
    path.write_bytes(b"#" * (MAX_SPEC_BYTES + 1))
    with pytest.raises(SpecError, match=r"net\.yaml: has 131073 bytes, more than any spec"):
        load_spec(path)


@pytest.mark.parametrize("name", ["missing.yaml", ""], ids=["missing", "a-folder"])
def test_a_file_that_cannot_be_read(tmp_path: Path, name: str) -> None:
    with pytest.raises(SpecError, match=r"No such file|is not a regular file"):
        load_spec(tmp_path / name)


@pytest.mark.parametrize(
    "data",
    [
        pytest.param([], id="list"),
        pytest.param(None, id="none"),
        pytest.param("feature_map", id="text"),
    ],
)
def test_a_mapping_that_is_none(data: Any) -> None:
    with pytest.raises(SpecError, match="not a mapping of keys to values"):
        make_spec(data)
