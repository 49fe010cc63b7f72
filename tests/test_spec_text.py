from __future__ import annotations

from dataclasses import replace
from itertools import permutations
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ruamel.yaml import YAML

from fcn_convert.spec import Spec, make_spec, parse_spec
from fcn_convert.spec_text import WIDTH, spec_text
from fcn_convert.tensors import Layout

AXES = {2: "CL", 3: "CHW", 4: "CDHW"}

# Everything that a name in a file can be, and words that YAML takes for something else.
names = st.text(min_size=1, max_size=20) | st.sampled_from(
    [
        "null",
        "Yes",
        "~",
        "1e-5",
        "0x10",
        "7",
        "-",
        "- a",
        "a: b",
        "#",
        "*",
        "[a]",
        "é",
        "1.0",
        "\x85",
    ]
)
sizes = st.lists(st.integers(1, 4096), min_size=2, max_size=4)
entries = names | st.fixed_dictionaries({"name": names, "reads": st.sampled_from(["map", "dense"])})


@st.composite
def heads(draw: st.DrawFn) -> dict[str, Any]:
    feature_map = draw(sizes)
    orders = ["".join(order) for order in permutations(AXES[len(feature_map)])]
    head = {"feature_map": feature_map, "flatten": draw(st.sampled_from(orders))}
    dense = draw(st.none() | st.lists(entries, min_size=1, max_size=12))
    return {**head, **({"dense": dense} if dense else {})}


@st.composite
def specs(draw: st.DrawFn) -> Spec:
    data = {"heads": draw(st.lists(heads(), min_size=1, max_size=3))}
    layouts = st.sampled_from(get_args(Layout))
    data |= draw(st.fixed_dictionaries({}, optional={"state_dict": names, "layout": layouts}))
    return make_spec({**data, "rename": draw(st.dictionaries(names, st.text(max_size=9)))})


def without_lines(spec: Spec) -> Spec:
    """A spec less where its parts stand in which file."""
    plain = [
        replace(
            head,
            line=None,
            dense=head.dense and tuple(replace(entry, line=None) for entry in head.dense),
        )
        for head in spec.heads
    ]
    return replace(spec, heads=tuple(plain), source="", rename_lines={})


def said(spec: Spec) -> Spec:
    """Return a spec with the orders said that it leaves to the layout."""
    layout = spec.layout or "torch"
    return replace(spec, heads=tuple(head.flattened_as(layout) for head in spec.heads))


@given(spec=specs(), remarks=st.lists(st.text(max_size=300), max_size=3))
def test_what_is_written_reads_as_the_same_spec(spec: Spec, remarks: list[str]) -> None:
    text = spec_text(spec, remarks, [remarks] * len(spec.heads))
    assert said(without_lines(parse_spec(text))) == said(without_lines(spec))


@given(spec=specs())
def test_an_independent_reader_finds_no_default_and_no_repetition(spec: Spec) -> None:
    data = YAML(typ="safe", pure=True).load(spec_text(spec))
    keys = {"state_dict", "layout", "feature_map", "flatten", "dense", "heads", "rename"}
    assert set(data) <= keys
    assert ("heads" in data) == (len(spec.heads) > 1)
    usual = {"CHW", "CL", "CDHW"}
    if data.get("layout") in {"keras", "mlx"}:
        usual = {"HWC", "LC", "DHWC"}
    for head in data.get("heads", [data]):
        assert head.get("flatten") not in usual


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        pytest.param({"feature_map": [512, 7, 7]}, "feature_map: [512, 7, 7]\n", id="one line"),
        pytest.param(
            {
                "feature_map": {"C": 64, "H": 3, "W": 3},
                "flatten": "WHC",
                "dense": ["dense4", {"name": "dense5_2", "reads": "dense"}],
                "state_dict": "model_ema",
                "rename": {"classifier.1": "conv", "module": ""},
            },
            "state_dict: model_ema\n"
            "feature_map: [64, 3, 3]\n"
            "flatten: WHC\n"
            "dense: [dense4, {name: dense5_2, reads: dense}]\n"
            "rename:\n"
            "  classifier.1: conv\n"
            '  module: ""\n',
            id="every key",
        ),
        pytest.param(
            {"heads": [{"feature_map": [4, 2], "dense": ["a"]}, {"feature_map": [8, 2]}]},
            "heads:\n  - feature_map: [4, 2]\n    dense: [a]\n  - feature_map: [8, 2]\n",
            id="two heads",
        ),
        pytest.param(
            {"feature_map": [4, 2], "dense": ["a" * 60, "b" * 60]},
            f"feature_map: [4, 2]\ndense:\n  - {'a' * 60}\n  - {'b' * 60}\n",
            id="a long list",
        ),
    ],
)
def test_the_text_is_what_one_would_write(data: dict[str, Any], expected: str) -> None:
    assert spec_text(make_spec(data)) == expected


def test_remarks_stand_over_what_they_are_about_and_hold_no_line_break() -> None:
    spec = make_spec({"heads": [{"feature_map": [4, 2]}, {"feature_map": [8, 2]}]})
    text = spec_text(spec, ["a\nfeature_map: [1, 1]", "word " * 60], [["first"], ["second"]])
    lines = text.splitlines()
    assert lines[0] == r"# a\nfeature_map: [1, 1]"
    assert max(map(len, lines)) <= WIDTH
    at = lines.index("  # second")
    assert lines[at - 2 : at + 2] == [
        "  # first",
        "  - feature_map: [4, 2]",
        "  # second",
        "  - feature_map: [8, 2]",
    ]
