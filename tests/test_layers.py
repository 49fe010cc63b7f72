from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fcn_convert.errors import SpecError
from fcn_convert.layers import Resolved, resolve
from fcn_convert.spec import make_spec, parse_spec
from fcn_convert.tensors import DTYPES, LeftOut, StateDict, TensorInfo

Shapes = dict[str, tuple[int, ...]]

VGG: Shapes = {
    "features.0.weight": (64, 3, 3, 3),
    "features.28.weight": (512, 512, 3, 3),
    "classifier.0.weight": (4096, 25088),
    "classifier.0.bias": (4096,),
    "classifier.3.weight": (4096, 4096),
    "classifier.3.bias": (4096,),
    "classifier.6.weight": (1000, 4096),
    "classifier.6.bias": (1000,),
}


def state_dict(shapes: Shapes) -> StateDict:
    return StateDict(
        "", {name: TensorInfo(name, DTYPES["F32"], shape, 0) for name, shape in shapes.items()}
    )


def resolved(spec: str | dict[str, Any], shapes: Shapes) -> Resolved:
    parsed = parse_spec(spec, "spec.yaml") if isinstance(spec, str) else make_spec(spec)
    return resolve(parsed, state_dict(shapes))


def reads(spec: str | dict[str, Any], shapes: Shapes) -> dict[str, str]:
    return {layer.name: layer.reads for layer in resolved(spec, shapes).layers}


def problems(spec: str | dict[str, Any], shapes: Shapes) -> list[str]:
    with pytest.raises(SpecError, match=r"\S") as caught:
        resolved(spec, shapes)
    return list(caught.value.problems)


def dense(**shapes: tuple[int, int]) -> Shapes:
    """Weights of Dense layers by module name."""
    return {f"{name}.weight": shape for name, shape in shapes.items()}


# Rule 1: what is said.


@pytest.mark.parametrize(
    ("entries", "shapes", "expected"),
    [
        pytest.param(
            [{"name": "a", "reads": "map"}], dense(a=(5, 12)), {"a": (2, 2)}, id="reads-map"
        ),
        pytest.param(
            [{"name": "a", "reads": "dense"}],
            dense(a=(5, 7)),
            {"a": (1, 1)},
            id="reads-dense-first",
        ),
        pytest.param(
            ["a", {"name": "b", "reads": "dense"}],
            dense(a=(5, 12), b=(2, 9)),
            {"a": (2, 2), "b": (1, 1)},
            id="concatenated-before-it",
        ),
        pytest.param(
            ["a", {"name": "b", "reads": "map"}],
            dense(a=(12, 12), b=(2, 12)),
            {"a": (2, 2), "b": (2, 2)},
            id="both-fit-and-map-is-said",
        ),
        pytest.param(
            ["a", {"name": "b", "reads": "dense"}],
            dense(a=(12, 12), b=(2, 12)),
            {"a": (2, 2), "b": (1, 1)},
            id="both-fit-and-dense-is-said",
        ),
        pytest.param(
            [{"name": "*", "reads": "dense"}],
            dense(a=(5, 12), b=(2, 5)),
            {"a": (1, 1), "b": (1, 1)},
            id="said-of-a-glob",
        ),
    ],
)
def test_what_is_said_decides(
    entries: list[Any], shapes: Shapes, expected: dict[str, tuple[int, ...]]
) -> None:
    found = resolved({"feature_map": [3, 2, 2], "dense": entries}, shapes)
    assert {layer.name: layer.kernel for layer in found.layers} == expected


def test_reads_map_that_does_not_fit() -> None:
    spec = """\
feature_map: [3, 2, 2]
dense:
  - a
  - name: b
    reads: map
"""
    assert problems(spec, dense(a=(5, 12), b=(2, 5))) == [
        "b.weight has 5 input features, but feature_map 3×2×2 has 12 (spec.yaml:4)"
    ]


# Rule 2: arithmetic.


@pytest.mark.parametrize(
    ("feature_map", "shapes", "expected"),
    [
        pytest.param([3, 2, 2], dense(a=(5, 12)), {"a": "map"}, id="one-layer"),
        pytest.param(
            [3, 2, 2],
            dense(a=(5, 12), b=(7, 5), c=(2, 7)),
            {"a": "map", "b": "dense", "c": "dense"},
            id="chain",
        ),
        pytest.param(
            [3, 2, 2],
            dense(a=(5, 12), b=(2, 5), c=(4, 5)),
            {"a": "map", "b": "dense", "c": "dense"},
            id="fan",
        ),
        pytest.param(
            [3, 2, 2],
            dense(a=(5, 12), b=(7, 12)),
            {"a": "map", "b": "map"},
            id="two-branches-on-one-flatten",
        ),
        pytest.param(
            [3, 2, 2],
            dense(a=(5, 12), b=(2, 5), c=(7, 12), d=(2, 7)),
            {"a": "map", "b": "dense", "c": "map", "d": "dense"},
            id="two-branches-of-two",
        ),
        pytest.param(
            [12, 1, 1],
            dense(a=(12, 12), b=(2, 12)),
            {"a": "map", "b": "map"},
            id="pooled-where-it-does-not-matter",
        ),
        pytest.param([6, 2], dense(a=(12, 12)), {"a": "map"}, id="1-D-map"),
        pytest.param([1, 2, 3, 2], dense(a=(12, 12)), {"a": "map"}, id="3-D-map"),
        pytest.param(
            [3, 2, 2],
            dense(a=(5, 12), b=(12, 5)),
            {"a": "map", "b": "dense"},
            id="a-decoder-gives-as-many-as-the-map-has",
        ),
    ],
)
def test_arithmetic_decides(
    feature_map: list[int], shapes: Shapes, expected: dict[str, str]
) -> None:
    names = [name.removesuffix(".weight") for name in shapes]
    assert reads({"feature_map": feature_map, "dense": names}, shapes) == expected


@pytest.mark.parametrize(
    ("feature_map", "kernel", "one"),
    [
        pytest.param([6, 2], (2,), (1,), id="1-D"),
        pytest.param([2, 3, 2], (3, 2), (1, 1), id="2-D"),
        pytest.param([1, 2, 3, 2], (2, 3, 2), (1, 1, 1), id="3-D"),
    ],
)
def test_kernels(feature_map: list[int], kernel: tuple[int, ...], one: tuple[int, ...]) -> None:
    first, second = resolved({"feature_map": feature_map}, dense(a=(5, 12), b=(2, 5))).layers
    assert (first.kernel, second.kernel) == (kernel, one)


def test_the_message_shows_the_numbers_and_the_line() -> None:
    (problem,) = problems("feature_map: [512, 6, 6]\ndense: [classifier.0]", VGG)
    assert problem == (
        "classifier.0.weight has 25088 input features, but feature_map 512×6×6 has 18432 "
        "(spec.yaml:2)"
    )


def test_a_head_without_dense_shows_its_own_line() -> None:
    spec = "version: 1\nfeature_map: [512, 6, 6]"
    (problem,) = problems(spec, VGG)
    assert problem.startswith("no Dense layer reads the map: ")
    assert "feature_map 512×6×6 has 18432 features" in problem
    assert "classifier.0 takes 25088, classifier.3 takes 4096" in problem
    assert problem.endswith("(spec.yaml:2)")


def test_both_readings_fit() -> None:
    spec = "feature_map: [3, 2, 2]\ndense: [a, b]"
    (problem,) = problems(spec, dense(a=(12, 12), b=(2, 12)))
    assert problem == (
        "b.weight has 12 input features, as feature_map 3×2×2 has 12 and as an earlier layer "
        "gives: say `reads: map` or `reads: dense` (spec.yaml:2)"
    )


def test_neither_reading_fits() -> None:
    spec = "feature_map: [3, 2, 2]\ndense:\n- a\n- b\n- c"
    (problem,) = problems(spec, dense(a=(5, 12), b=(7, 5), c=(2, 9)))
    assert problem == (
        "c.weight has 9 input features, but feature_map 3×2×2 has 12 and earlier layers give 5, 7: "
        "say `reads: dense` if something is concatenated or gated before it (spec.yaml:5)"
    )


def test_the_first_layer_does_not_read_a_later_one() -> None:
    spec = "feature_map: [3, 2, 2]\ndense: [b, a]"
    assert problems(spec, dense(a=(5, 12), b=(2, 5))) == [
        "b.weight has 5 input features, but feature_map 3×2×2 has 12 (spec.yaml:2)"
    ]


def test_a_pooled_map_is_hinted_at() -> None:
    spec = "feature_map: [512, 7, 7]\ndense: [fc]"
    (problem,) = problems(spec, dense(fc=(1000, 512)))
    assert problem == (
        "fc.weight has 512 input features, but feature_map 512×7×7 has 25088; "
        "it reads a pooled map: write [512, 1, 1] (spec.yaml:2)"
    )


def test_a_pooled_map_is_hinted_at_in_1d() -> None:
    (problem,) = problems({"feature_map": [64, 9], "dense": ["fc"]}, dense(fc=(10, 64)))
    assert "write [64, 1]" in problem


@given(data=st.data())
def test_a_reading_is_never_guessed(data: st.DataObject) -> None:
    """What resolves without being told has exactly one reading, by the rules' own words."""
    sizes = data.draw(st.lists(st.integers(1, 3), min_size=2, max_size=4))
    count = 1
    for size in sizes:
        count *= size
    some = st.sampled_from([count, 5, 7, 12])
    shapes = data.draw(st.lists(st.tuples(some, some), min_size=1, max_size=4))
    named = {f"l{at}": shape for at, shape in enumerate(shapes)}
    try:
        found = reads({"feature_map": sizes, "dense": list(named)}, dense(**named))
    except SpecError:
        return
    earlier: list[int] = []
    for name, (features_out, features_in) in named.items():
        as_map, as_dense = features_in == count, features_in in earlier
        assert as_map or as_dense
        assert not (as_map and as_dense) or count == sizes[0]
        assert found[name] == ("map" if as_map else "dense")
        earlier.append(features_out)


# Rule 3: `dense` left out.


@pytest.mark.parametrize(
    ("shapes", "expected"),
    [
        pytest.param(
            VGG,
            {"classifier.0": "map", "classifier.3": "dense", "classifier.6": "dense"},
            id="vgg",
        ),
        pytest.param(
            dense(fc10=(3, 7), fc9=(7, 25088)), {"fc9": "map", "fc10": "dense"}, id="natural-order"
        ),
        pytest.param(
            dense(b=(2, 7), c=(4, 7), a=(7, 25088)),
            {"a": "map", "b": "dense", "c": "dense"},
            id="fan",
        ),
        pytest.param(
            dense(z=(7, 25088), b=(4, 5), a=(5, 7)),
            {"z": "map", "a": "dense", "b": "dense"},
            id="forward-order-against-the-alphabet",
        ),
    ],
)
def test_dense_left_out_where_shapes_leave_one_reading(
    shapes: Shapes, expected: dict[str, str]
) -> None:
    found = reads({"feature_map": [512, 7, 7]}, shapes)
    assert list(found.items()) == list(expected.items())


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        pytest.param(
            dense(a=(5, 12), b=(2, 12)),
            r"2 Dense layers have as many inputs; .* out of: a \[5, 12\], b \[2, 12\] \(spec",
            id="two-first-layers",
        ),
        pytest.param(
            dense(a=(5, 7)),
            r"no Dense layer reads the map: .*, but a takes 7; correct",
            id="none-fits",
        ),
        pytest.param(
            dense(a=(5, 12), emb=(1000, 64)),
            r"which a reads, but not every other layer follows from it; .* emb \[1000, 64\]",
            id="an-embedding-beside-it",
        ),
        pytest.param(
            dense(a=(5, 12), b=(2, 9)), r"which a reads, but not every other", id="concatenated"
        ),
        pytest.param(
            {"conv.weight": (2, 3, 3, 3)},
            r"no Dense layer is left to read the map, as where",
            id="no-dense-layer",
        ),
    ],
)
def test_dense_left_out_is_refused(shapes: Shapes, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        resolved("feature_map: [3, 2, 2]", shapes)


@pytest.mark.parametrize("spec", [{}, {"dense": ["weight"]}], ids=["unnamed", "named"])
def test_a_layer_saved_by_itself_has_no_name(spec: dict[str, Any]) -> None:
    found = problems({"feature_map": [3, 2, 2], **spec}, {"weight": (5, 12), "bias": (5,)})
    (problem,) = found
    assert "saved by itself, which has no name" in problem
    assert "nn.Sequential(layer)" in problem


def test_many_candidates_are_cut() -> None:
    shapes = dense(**{f"l{at}": (5, 12) for at in range(30)})
    (problem,) = problems({"feature_map": [3, 2, 2]}, shapes)
    assert "and 22 more" in problem


def test_a_head_that_names_its_layers_leaves_the_rest_to_the_other() -> None:
    spec = {"heads": [{"feature_map": [3, 2, 2], "dense": ["a"]}, {"feature_map": [3, 2, 2]}]}
    assert reads(spec, dense(a=(5, 12), b=(7, 12))) == {"a": "map", "b": "map"}


def test_two_heads_do_not_share_a_layer_that_neither_names() -> None:
    spec = {
        "heads": [{"feature_map": [3, 2, 2]}, {"feature_map": [3, 2, 2], "flatten": "HWC"}],
    }
    found = problems(spec, dense(a=(5, 12), b=(2, 5)))
    assert [problem.split()[0] for problem in found] == ["a", "b"]
    assert all("belongs to one head once" in problem for problem in found)


# Names and globs.


@pytest.mark.parametrize(
    ("entries", "expected"),
    [
        pytest.param(["classifier.*"], ["classifier.0", "classifier.3", "classifier.6"], id="all"),
        pytest.param(
            ["*.0", "*.[36]"], ["classifier.0", "classifier.3", "classifier.6"], id="sets"
        ),
        pytest.param(
            ["classifier.?"], ["classifier.0", "classifier.3", "classifier.6"], id="one-character"
        ),
        pytest.param(["classifier.0"], ["classifier.0"], id="exact"),
    ],
)
def test_globs(entries: list[str], expected: list[str]) -> None:
    found = resolved({"feature_map": [512, 7, 7], "dense": entries}, VGG)
    assert [layer.name for layer in found.layers] == expected


def test_globs_expand_in_natural_order() -> None:
    shapes = dense(fc10=(3, 5), fc9=(5, 4), fc2=(4, 6), fc=(6, 12))
    found = resolved({"feature_map": [3, 2, 2], "dense": ["fc*"]}, shapes)
    assert [layer.name for layer in found.layers] == ["fc", "fc2", "fc9", "fc10"]


def test_an_exact_name_with_brackets_is_no_glob() -> None:
    found = resolved({"feature_map": [3, 2, 2], "dense": ["fc[1]"]}, {"fc[1].weight": (5, 12)})
    assert [layer.name for layer in found.layers] == ["fc[1]"]


@pytest.mark.parametrize(
    "entries",
    [
        pytest.param(["a", "a"], id="twice-in-a-head"),
        pytest.param(["a", "*"], id="by-name-and-glob"),
        pytest.param(["?", "*"], id="by-two-globs"),
    ],
)
def test_a_layer_named_twice(entries: list[str]) -> None:
    spec = {"feature_map": [3, 2, 2], "dense": entries}
    with pytest.raises(SpecError, match=r"^a is named twice"):
        resolved(spec, dense(a=(5, 12)))


def test_a_layer_in_two_heads() -> None:
    head = {"feature_map": [3, 2, 2], "dense": ["a"]}
    with pytest.raises(SpecError, match=r"^a is named twice.*one head once$"):
        resolved({"heads": [head, head]}, dense(a=(5, 12)))


@pytest.mark.parametrize(
    ("name", "shapes", "message"),
    [
        pytest.param(
            "features.0",
            VGG,
            r"^features\.0 is not a Dense layer: its weight has the shape \[64, 3, 3, 3\], "
            r"expected 2 axes \(spec\.yaml:2\)$",
            id="convolution",
        ),
        pytest.param(
            "norm",
            {**VGG, "norm.weight": (4096,)},
            r"^norm is not a Dense layer: its weight has the shape \[4096\]",
            id="layer-norm",
        ),
        pytest.param(
            "classifier.0.weight", VGG, r"is a tensor; name its module, classifier\.0", id="tensor"
        ),
        pytest.param(
            "classifier.9",
            VGG,
            r"^classifier\.9 is not a Dense layer of the checkpoint; its Dense layers are "
            r"classifier\.0, classifier\.3, classifier\.6 \(spec\.yaml:2\)$",
            id="missing",
        ),
        pytest.param("features.*", VGG, r"^features\.\* is not a Dense layer", id="glob-of-none"),
        pytest.param(
            "fc",
            {"fc.weight_g": (5, 1), "fc.weight_v": (5, 12), "fc.bias": (5,)},
            r"has no plain weight but fc\.weight_g.* norm before saving",
            id="weight-norm",
        ),
        pytest.param(
            "fc",
            {"fc.parametrizations.weight.original0": (5, 1)},
            r"has no plain weight",
            id="parametrized-weight-norm",
        ),
        pytest.param(
            "fc",
            {"fc.parametrizations.weight.original": (5, 12)},
            r"has no plain weight",
            id="parametrized-spectral-norm",
        ),
        pytest.param("fc", {"fc.weight_orig": (5, 12)}, r"has no plain weight", id="spectral-norm"),
    ],
)
def test_what_is_no_dense_layer(name: str, shapes: Shapes, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        resolved(f"feature_map: [512, 7, 7]\ndense: ['{name}']", shapes)


def test_a_bias_of_another_length() -> None:
    shapes = {**dense(a=(5, 12)), "a.bias": (6,)}
    with pytest.raises(SpecError, match=r"^a\.bias has \[6\], expected \[5\] \(spec\.yaml:1\)$"):
        resolved("feature_map: [3, 2, 2]", shapes)


# What a fully convolutional network cannot apply.


def test_a_norm_on_the_flattened_map() -> None:
    shapes = {
        **dense(fc=(5, 12)),
        "bn.weight": (12,),
        "bn.bias": (12,),
        "bn.running_mean": (12,),
    }
    (problem,) = problems("feature_map: [3, 2, 2]", shapes)
    assert problem.startswith(
        "bn.weight, bn.bias, bn.running_mean: one value for each of the 12 elements of feature_map "
        "3×2×2, as of a BatchNorm1d on the flattened map"
    )
    assert problem.endswith("(spec.yaml:1)")


@pytest.mark.parametrize(
    ("feature_map", "shapes"),
    [
        pytest.param([12, 1, 1], {**dense(fc=(5, 12)), "bn.weight": (12,)}, id="pooled-map"),
        pytest.param(
            [3, 2, 2],
            {**dense(a=(12, 12)), "a.bias": (12,), "conv.weight": (3, 3, 1, 1)},
            id="the-bias-of-a-layer-that-gives-as-many",
        ),
        pytest.param(
            [3, 2, 2],
            {**dense(fc=(5, 12)), "bn.weight": (5,), "conv.weight": (3, 3, 1, 1)},
            id="a-norm-after-the-first-dense-layer",
        ),
    ],
)
def test_norms_that_can_be_applied(feature_map: list[int], shapes: Shapes) -> None:
    assert resolved({"feature_map": feature_map}, shapes).warnings == ()


@pytest.mark.parametrize(
    ("feature_map", "warned"),
    [
        pytest.param([512, 7, 7], False, id="channels-first"),
        pytest.param([7, 7, 512], True, id="as-keras-writes-it"),
        pytest.param([64, 56, 7], False, id="of-an-earlier-convolution"),
        pytest.param([256, 14, 7], True, id="of-none"),
    ],
)
def test_a_c_that_nothing_has_is_warned_of(feature_map: list[int], *, warned: bool) -> None:
    found = resolved(f"feature_map: {feature_map}", VGG).warnings
    assert len(found) == warned
    for warning in found:
        assert f"has {feature_map[0]} channels" in warning
        assert "sizes are given as C, H, W (spec.yaml:1)" in warning


@pytest.mark.parametrize(
    ("shapes", "warned"),
    [
        pytest.param({}, False, id="nothing-to-tell-by"),
        pytest.param({"bn.running_mean": (4,)}, True, id="other-norm"),
        pytest.param({"bn.running_mean": (3,)}, False, id="norm"),
        pytest.param({"c.weight": (8, 3, 3, 3)}, False, id="transposed-or-input"),
    ],
)
def test_channels_of_norms_count(shapes: Shapes, *, warned: bool) -> None:
    found = resolved({"feature_map": [3, 2, 2]}, {**dense(fc=(5, 12)), **shapes})
    assert len(found.warnings) == warned


# Renames.


@pytest.mark.parametrize(
    ("rename", "old", "new"),
    [
        pytest.param({"fc": "head"}, "fc.weight", "head.weight", id="module"),
        pytest.param({"fc": "a.b.c"}, "fc.weight", "a.b.c.weight", id="deeper"),
        pytest.param({"net": ""}, "net.norm.weight", "norm.weight", id="away"),
        pytest.param({"net.norm.weight": "w"}, "net.norm.weight", "w", id="one-tensor"),
        pytest.param({"f": "x"}, "fc.weight", None, id="not-part-of-a-component"),
        pytest.param({"weight": "x"}, "fc.weight", None, id="not-the-end"),
        pytest.param({"fc.": "x"}, "fc.weight", None, id="trailing-dot"),
    ],
)
def test_whole_components_are_renamed(rename: dict[str, str], old: str, new: str | None) -> None:
    spec = {"feature_map": [3, 2, 2], "rename": rename}
    if new is None:
        with pytest.raises(SpecError, match=r"^rename: no tensor's name starts with "):
            resolved(spec, dense(fc=(5, 12)))
    else:
        shapes = {**dense(fc=(5, 12)), "net.norm.weight": (3,)}
        assert resolved(spec, shapes).names[old] == new


def test_the_longest_prefix_wins() -> None:
    rename = {"classifier": "c", "classifier.0": "first", "features.0.weight": "w", "features": "f"}
    names = resolved({"feature_map": [512, 7, 7], "rename": rename}, VGG).names
    assert names == {
        "features.0.weight": "w",
        "features.28.weight": "f.28.weight",
        "classifier.0.weight": "first.weight",
        "classifier.0.bias": "first.bias",
        "classifier.3.weight": "c.3.weight",
        "classifier.3.bias": "c.3.bias",
        "classifier.6.weight": "c.6.weight",
        "classifier.6.bias": "c.6.bias",
    }


def test_names_may_change_places() -> None:
    spec = {"feature_map": [3, 2, 2], "rename": {"a": "b", "b": "a"}}
    names = resolved(spec, dense(a=(5, 12), b=(2, 5))).names
    assert names == {"a.weight": "b.weight", "b.weight": "a.weight"}


@pytest.mark.parametrize(
    ("rename", "message"),
    [
        pytest.param("a: b", r"^rename: a\.weight and b\.weight would both be", id="clash"),
        pytest.param("a: x\n  b: x", r"would both be called x\.weight$", id="clash-of-two"),
        pytest.param(
            "z: x", r"^rename: no tensor's name starts with z \(spec\.yaml:4\)$", id="no-match"
        ),
        pytest.param(
            "a.weight: ''", r"^rename: a\.weight would have no name left$", id="nothing-left"
        ),
        pytest.param(
            "a.weight: __metadata__", r"a\.weight would be called '__metadata__'", id="reserved"
        ),
        pytest.param(
            "a: ''", r"^rename: a\.weight would be called weight, which is not a", id="no-module"
        ),
        pytest.param("a.weight: a.w", r"called a\.w, which is not a module's w", id="no-weight"),
        pytest.param(
            "a.bias: c.bias",
            r"^rename: the weight and the bias of a would be called a\.weight and c\.bias$",
            id="torn-apart",
        ),
        pytest.param("a: x.", r"a\.weight would be called 'x\.\.weight'", id="trailing-dot"),
        pytest.param("a: .x", r"a\.weight would be called '\.x\.weight'", id="leading-dot"),
        pytest.param(
            'a: "\\ud800"', r"a\.weight would be called '\\ud800\.weight'", id="surrogate"
        ),
    ],
)
def test_renames_that_cannot_be(rename: str, message: str) -> None:
    spec = f"feature_map: [3, 2, 2]\ndense: [a, b]\nrename:\n  {rename}\n"
    with pytest.raises(SpecError, match=message):
        resolved(spec, {**dense(a=(5, 12), b=(2, 5)), "a.bias": (5,)})


def test_an_odd_name_that_is_not_renamed_stays() -> None:
    shapes = {**dense(fc=(5, 12)), "": (3,), "odd..name": (3,)}
    assert resolved({"feature_map": [3, 2, 2]}, shapes).names == {name: name for name in shapes}


# Everything at once.


def test_all_problems_are_reported_at_once() -> None:
    spec = """\
feature_map: [512, 6, 6]
dense:
  - classifier.0
  - features.0
  - nothing
rename:
  z: y
  classifier.3: classifier.6
"""
    found = problems(spec, VGG)
    starts = ["features.0 is no", "nothing is not", "classifier.0.weight has 25088", "rename: no"]
    assert [problem.startswith(start) for problem, start in zip(found, starts, strict=False)] == [
        True
    ] * 4
    assert [problem.rpartition(" ")[2] for problem in found[:4]] == [
        "(spec.yaml:4)",
        "(spec.yaml:5)",
        "(spec.yaml:3)",
        "(spec.yaml:7)",
    ]
    assert sum("would both be called classifier.6" in problem for problem in found) == 2


# What a converted network would lose, or could not use.


def test_a_bias_that_is_no_tensor_is_not_lost() -> None:
    weights = state_dict({"fc.weight": (8, 36)})
    holds = StateDict("", weights.tensors, left_out=(LeftOut("fc.bias", "not a tensor: numpy"),))
    with pytest.raises(SpecError, match=r"fc\.bias is not a tensor, so it would be lost"):
        resolve(make_spec({"feature_map": [4, 3, 3]}), holds)


def test_a_norm_that_may_be_on_the_flattened_map_is_a_warning() -> None:
    shapes: Shapes = {
        "0.weight": (36, 3, 1, 1),
        "1.weight": (4, 36, 1, 1),
        "3.weight": (36,),
        "3.running_mean": (36,),
        "4.weight": (5, 36),
    }
    [warning] = resolved({"feature_map": [4, 3, 3]}, shapes).warnings
    assert warning.startswith("3.weight, 3.running_mean: as many values as feature_map 4×3×3 has")


@pytest.mark.parametrize(
    "extra",
    [
        pytest.param({"0.weight": (36, 4, 1, 1), "0.bias": (36,)}, id="bias-of-a-convolution"),
        pytest.param({"0.weight_v": (36,)}, id="vector-of-a-spectral-norm"),
    ],
)
def test_what_is_no_norm_is_no_warning(extra: Shapes) -> None:
    assert not resolved({"feature_map": [4, 3, 3]}, extra | {"4.weight": (5, 36)}).warnings


@pytest.mark.parametrize(
    ("width", "warned"), [pytest.param(3, True, id="odd"), pytest.param(2, False, id="even")]
)
def test_packed_values_that_torch_cannot_load(width: int, *, warned: bool) -> None:
    weight = TensorInfo("fc.weight", DTYPES["F4"], (8, 4 * width), 0)
    found = resolve(
        make_spec({"feature_map": [2, 2, width]}), StateDict("", {"fc.weight": weight})
    ).warnings
    assert [w.startswith("fc.weight: torch loads F4 only") for w in found] == [True] * warned


@pytest.mark.parametrize(
    ("kernel", "warned"),
    [((3, 3), True), ((3,), False), ((3, 3, 3), True)],
    ids=["of-a-2-D-net", "of-a-1-D-net", "of-a-3-D-net"],
)
def test_a_map_of_other_axes_than_the_kernels_is_warned_of(
    kernel: tuple[int, ...], *, warned: bool
) -> None:
    shapes = {"conv.weight": (6, 3, *kernel), **dense(a=(5, 12))}
    warnings = resolved({"feature_map": [6, 2]}, shapes).warnings
    assert any("has 1 spatial axes, L, and no kernel" in warning for warning in warnings) is warned


@pytest.mark.parametrize(
    ("channels", "norm", "warned"),
    [
        pytest.param(3, "head.1", True, id="a-norm-on-the-flattened-map-most-likely"),
        pytest.param(3, "features.norm5", False, id="a-norm-that-ends-the-trunk"),
        pytest.param(6, "head.1", False, id="two-poolings-side-by-side"),
        pytest.param(12, "head.1", False, id="as-many-channels"),
    ],
)
def test_a_pooled_map_that_only_a_norm_is_as_wide_as(
    channels: int, norm: str, *, warned: bool
) -> None:
    shapes = {"features.conv.weight": (channels, 3, 3, 3), **dense(**{"head.2": (5, 12)})}
    shapes |= {f"{norm}.running_mean": (12,), f"{norm}.weight": (12,)}
    warnings = resolved({"feature_map": [12, 1, 1]}, shapes).warnings
    assert any(w.startswith(f"{norm}: a norm of 12 values") for w in warnings) is warned
