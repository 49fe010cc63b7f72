from __future__ import annotations

import ast
from collections.abc import Callable
from math import prod
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional

import fcn_convert
from fcn_convert import CheckFailedError, activations, convert, layers, plan, rereading
from fcn_convert.activations.answers import StoredLayer
from fcn_convert.digests import Digests
from fcn_convert.formats import open_checkpoint
from fcn_convert.proof import LEVELS, Check, Level, Proof
from fcn_convert.spec import Spec, make_spec
from fcn_convert.verify import verify
from fcn_convert.workers import Workers

Tensors = dict[str, Tensor]
AXES = {2: "CL", 3: "CHW", 4: "CDHW"}


def generated(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def convolution(weight: Tensor, sizes: dict[str, int], flatten: str) -> Tensor:
    """The oracle: einsum by the axes' names."""
    split = weight.reshape(weight.shape[0], *(sizes[axis] for axis in flatten))
    pattern = f"o{flatten}->o{''.join(sizes)}".lower()
    return torch.einsum(pattern, split).contiguous()


def classifier(dtype: torch.dtype = torch.float32) -> Tensors:
    """A map 3×2×2, flattened W, H, C; then a Dense layer of 5 that reads it and one of 2."""
    made = generated()
    return {
        "features.weight": torch.randn(3, 1, 3, 3, generator=made),
        "features.steps": torch.tensor(7),
        "head.0.weight": torch.randn(5, 12, generator=made).to(dtype),
        "head.0.bias": torch.randn(5, generator=made).to(dtype),
        "head.2.weight": torch.randn(2, 5, generator=made).to(dtype),
    }


SIZES = {"C": 3, "H": 2, "W": 2}
SPEC = {"feature_map": SIZES, "flatten": "WHC"}


def by_hand(tensors: Tensors) -> Tensors:
    return {
        **tensors,
        "head.0.weight": convolution(tensors["head.0.weight"], SIZES, "WHC"),
        "head.2.weight": tensors["head.2.weight"].reshape(2, 5, 1, 1),
    }


def saved(path: Path, tensors: Tensors) -> Path:
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path)
    return path


def proved(
    tmp_path: Path,
    before: Tensors,
    after: Tensors,
    level: Level,
    spec: dict[str, Any] | None = None,
) -> Proof:
    source = saved(tmp_path / "source.safetensors", before)
    output = saved(tmp_path / "output.safetensors", after)
    return proof_of(make_spec(spec or SPEC), source, output, level)


def proof_of(spec: Spec, source: Path, output: Path, level: Level) -> Proof:
    with (
        open_checkpoint(source) as original,
        open_checkpoint(output) as converted,
        Digests(2) as digests,
    ):
        return verify(spec, original, converted, level, digests, lambda _: None)


def compared(
    tmp_path: Path, before: Tensors, after: Tensors, spec: dict[str, Any], layer: int = 0
) -> Check:
    """The activations check by itself, without the check of bytes before it."""
    source = saved(tmp_path / "source.safetensors", before)
    output = saved(tmp_path / "output.safetensors", after)
    with open_checkpoint(source) as original, open_checkpoint(output) as converted:
        dense = layers.resolve(make_spec(spec), original.state_dict(None)).layers[layer]
        found = converted.state_dict(None).tensors
        convolution = found[dense.weight.name], found[dense.bias.name] if dense.bias else None
        with Workers(2) as helpers:
            return activations.compare(
                dense,
                StoredLayer(original, dense.weight, dense.bias),
                StoredLayer(converted, *convolution),
                lambda _: None,
                helpers,
            )


def single(weight: Tensor, bias: Tensor | None = None) -> Tensors:
    return {"fc.weight": weight, **({} if bias is None else {"fc.bias": bias})}


every_level = pytest.mark.parametrize("level", LEVELS, ids=LEVELS)
reading_levels = pytest.mark.parametrize("level", LEVELS[1:], ids=LEVELS[1:])


# What must pass.


@every_level
def test_a_conversion_made_by_hand_passes(tmp_path: Path, level: Level) -> None:
    before = classifier()
    proof = proved(tmp_path, before, by_hand(before), level)
    assert proof.problems == ()
    assert set(proof.checks) == set(before)
    names = [check.name for check in proof.checks["head.0.weight"]]
    assert names == list(LEVELS[: LEVELS.index(level) + 1])
    kept = [check.name for check in proof.checks["features.weight"]]
    assert kept == list(LEVELS[: min(LEVELS.index(level), 1) + 1])
    assert all(check.passed for checks in proof.checks.values() for check in checks)
    count = 0 if level == "shapes" else 1
    assert (len(proof.read), len(proof.written)) == (count, count)


@st.composite
def maps(draw: st.DrawFn) -> tuple[dict[str, int], str]:
    axes = AXES[draw(st.integers(2, 4))]
    sizes = {axis: draw(st.integers(1, 4)) for axis in axes}
    return sizes, "".join(draw(st.permutations(axes)))


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    shape=maps(),
    features_out=st.integers(1, 4),
    bias=st.booleans(),
    block=st.sampled_from([8, 64, 1 << 22]),
)
def test_every_order_passes_against_einsum(
    tmp_path: Path, shape: tuple[dict[str, int], str], features_out: int, *, bias: bool, block: int
) -> None:
    sizes, flatten = shape
    weight = torch.randn(features_out, prod(sizes.values()), generator=generated())
    biases = torch.randn(features_out, generator=generated(1)) if bias else None
    spec = {"feature_map": sizes, "flatten": flatten, "dense": [{"name": "fc", "reads": "map"}]}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rereading, "BOX_BYTES", block)
        proof = proved(
            tmp_path,
            single(weight, biases),
            single(convolution(weight, sizes, flatten), biases),
            "activations",
            spec,
        )
    assert proof.problems == ()
    assert [check.passed for check in proof.checks["fc.weight"]] == [True] * 3


def test_max_abs_diff_and_bound_are_reported(tmp_path: Path) -> None:
    before = classifier()
    proof = proved(tmp_path, before, by_hand(before), "activations")
    _, values, answers = proof.checks["head.0.weight"]
    assert values.values == {"max_abs_diff": 0.0, "differing": 0}
    # 2 maps of one cell, and one map with 4 × 3 windows less the kernel: (2+2-2+1) × (2+1-2+1).
    assert answers.values["outputs"] == 5 * (2 + 3 * 2)
    assert 0.0 <= answers.values["max_abs_diff"] <= answers.values["bound"] < 1e-12
    assert 0.0 <= answers.values["larger_map_max_abs_diff"] <= answers.values["bound"]
    assert 0.0 <= answers.values["stored_dtype_max_abs_diff"] < 1e-4


@pytest.mark.parametrize(
    "features_in",
    [pytest.param(n, id=f"n={n}") for n in (1, 2, 9, 576, 9216, 25088)],
)
def test_true_rounding_passes(tmp_path: Path, features_in: int) -> None:
    side = {25088: (512, 7, 7), 9216: (256, 6, 6), 576: (64, 3, 3), 9: (1, 3, 3)}
    sizes = dict(zip("CHW", side.get(features_in, (features_in, 1, 1)), strict=True))
    weight = torch.randn(3, features_in, generator=generated(), dtype=torch.float64)
    after = single(convolution(weight, sizes, "HWC"))
    spec = {"feature_map": sizes, "flatten": "HWC"}
    check = compared(tmp_path, single(weight), after, spec)
    assert check.passed, check.problem
    # A bound that proves something lies far below the answers themselves, about sqrt(n).
    assert check.values["bound"] < 1e-6 * features_in**0.5


@pytest.mark.parametrize(
    "scale", [pytest.param(s, id=f"{s:g}") for s in (5e-324, 1e-310, 1e-300, 1e300, 1e306)]
)
def test_extreme_doubles_pass(tmp_path: Path, scale: float) -> None:
    sizes = {"C": 8, "H": 3, "W": 3}
    weight = torch.randn(4, 72, generator=generated(), dtype=torch.float64) * scale
    after = single(convolution(weight, sizes, "HWC"))
    spec = {"feature_map": sizes, "flatten": "HWC"}
    source = saved(tmp_path / "source.safetensors", single(weight))
    saved(tmp_path / "output.safetensors", after)
    check = compared(tmp_path, single(weight), after, spec)
    assert check.passed, check.problem
    convert(source, spec, tmp_path / "converted.safetensors")  # and its report is JSON


DTYPES = [
    torch.float64,
    torch.float32,
    torch.float16,
    torch.bfloat16,
    torch.float8_e4m3fn,
    torch.float8_e5m2,
    torch.float8_e8m0fnu,
    torch.float8_e4m3fnuz,
    torch.float8_e5m2fnuz,
    torch.int64,
    torch.int32,
    torch.int16,
    torch.int8,
    torch.uint64,
    torch.uint32,
    torch.uint16,
    torch.uint8,
    torch.bool,
    torch.complex64,
]


@pytest.mark.parametrize(
    "dtype", DTYPES, ids=[str(dtype).removeprefix("torch.") for dtype in DTYPES]
)
def test_every_dtype_passes_or_is_said_not_to_be_computed(
    tmp_path: Path, dtype: torch.dtype
) -> None:
    itemsize = dtype.itemsize
    raw = torch.randint(
        0, 2 if dtype == torch.bool else 96, (5, 12 * itemsize), generator=generated()
    )
    weight = raw.to(torch.uint8).view(dtype)
    whole = {"uint8": torch.uint8, "bool": torch.uint8}.get(
        str(dtype), {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[itemsize]
    )
    after = convolution(weight.view(whole), SIZES, "WHC").view(dtype)
    proof = proved(tmp_path, single(weight), single(after), "activations", SPEC)
    shapes, values, answers = proof.checks["fc.weight"]
    assert shapes.passed
    assert values.passed
    assert answers.passed, answers.problem  # torch widens all of these to float64
    assert "stored_dtype_max_abs_diff" in answers.values


@pytest.mark.parametrize("order", ["CHW", "HWC", "CWH"])
def test_an_output_of_another_order_is_told_which(tmp_path: Path, order: str) -> None:
    before = classifier()
    other = convolution(before["head.0.weight"], SIZES, order)
    proof = proved(tmp_path, before, {**by_hand(before), "head.0.weight": other}, "bytes")
    (problem,) = proof.problems
    assert problem.endswith(f"; it is the original under flatten {order}, not under the spec's WHC")


def test_the_first_difference_is_the_first_of_all(tmp_path: Path) -> None:
    weight = torch.zeros(1024, 64 * 64).t().contiguous().t()  # a box is a few columns of many rows
    other = convolution(weight, {"C": 64, "H": 8, "W": 8}, "CHW")
    other[1023, 0, 0, 0] = other[0, 63, 7, 7] = 1
    source, output = tmp_path / "source.pt", tmp_path / "output.safetensors"
    torch.save(single(weight), source)
    spec = make_spec({"feature_map": [64, 8, 8]})
    (problem,) = proof_of(spec, source, saved(output, single(other)), "bytes").problems
    assert "in 2 of 4194304 elements, first at [0, 63, 7, 7]" in problem


def test_an_output_of_no_order_is_told_none(tmp_path: Path) -> None:
    before = classifier()
    other = {**by_hand(before), "head.0.weight": torch.zeros(5, 3, 2, 2)}
    (problem,) = proved(tmp_path, before, other, "bytes").problems
    assert "flatten" not in problem


def test_a_dtype_that_an_older_torch_lacks_is_compared_but_not_computed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(torch, "float8_e8m0fnu")
    before = raw_file(tmp_path / "a.safetensors", "F8_E8M0", [20, 4], bytes(range(80)))
    report = convert(before, {"feature_map": [1, 2, 2]}, tmp_path / "b.safetensors")
    assert [check.passed for check in report.layers[0].checks] == [True, True, None]
    after = raw_file(tmp_path / "c.safetensors", "F8_E8M0", [20, 1, 2, 2], bytes(80))
    proof = proof_of(make_spec({"feature_map": [1, 2, 2]}), before, after, "bytes")
    assert "differs from the original in 79 of 80" in proof.problems[0]


def test_sub_byte_weights_are_compared_but_not_computed(tmp_path: Path) -> None:
    before = raw_file(tmp_path / "f4.safetensors", "F4", [2, 4], bytes(range(4)))
    after = raw_file(tmp_path / "f4.fcn.safetensors", "F4", [2, 1, 2, 2], bytes(range(4)))
    proof = proof_of(make_spec({"feature_map": [1, 2, 2]}), before, after, "activations")
    assert proof.problems == ()
    assert [check.passed for check in proof.checks["fc.weight"]] == [True, True, None]
    assert "F4" in proof.checks["fc.weight"][2].problem

    raw_file(after, "F4", [2, 1, 2, 2], b"\x00\x01\x02\x13")
    proof = proof_of(make_spec({"feature_map": [1, 2, 2]}), before, after, "bytes")
    (problem,) = proof.problems
    assert "fc.weight differs" in problem


def raw_file(path: Path, dtype: str, shape: list[int], data: bytes) -> Path:
    header = (
        f'{{"fc.weight":{{"dtype":"{dtype}","shape":{shape},"data_offsets":[0,{len(data)}]}}}}'
    ).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header + data)
    return path


@pytest.mark.parametrize(
    ("weight", "spec"),
    [
        pytest.param((0, 12), {"feature_map": [3, 2, 2], "flatten": "HWC"}, id="no-outputs"),
        pytest.param(
            (4, 0),
            {"feature_map": [3, 2, 2], "dense": [{"name": "fc", "reads": "dense"}]},
            id="no-inputs",
        ),
    ],
)
def test_empty_weights_pass_or_are_not_computed(
    tmp_path: Path, weight: tuple[int, int], spec: dict[str, Any]
) -> None:
    source = saved(tmp_path / "source.safetensors", single(torch.zeros(weight)))
    report = convert(source, spec, tmp_path / "out.safetensors")
    assert report.verdict.passed
    assert report.layers[0].checks[2].passed in {True, None}


# What must not.


def flip_a_bit(tensors: Tensors) -> None:
    tensors["features.weight"].view(torch.uint8).flatten()[5] ^= 1


def flip_a_bit_of_an_integer(tensors: Tensors) -> None:
    tensors["features.steps"] ^= 1 << 40


def one_ulp(tensors: Tensors) -> None:
    tensors["head.0.weight"].view(torch.int32)[4, 2, 1, 1] += 1


def one_ulp_of_the_second(tensors: Tensors) -> None:
    tensors["head.2.weight"].view(torch.int32)[0, 3, 0, 0] += 1


def one_ulp_of_a_bias(tensors: Tensors) -> None:
    tensors["head.0.bias"].view(torch.int32)[4] += 1


def swap_height_and_width(tensors: Tensors) -> None:
    tensors["head.0.weight"] = tensors["head.0.weight"].transpose(2, 3)


def negative_zero(tensors: Tensors) -> None:
    tensors["head.0.weight"][0, 0, 0, 0] = -0.0


def drop_kept(tensors: Tensors) -> None:
    del tensors["features.weight"]


def drop_rewritten(tensors: Tensors) -> None:
    del tensors["head.2.weight"]


def leave_dense(tensors: Tensors) -> None:
    tensors["head.2.weight"] = tensors["head.2.weight"].flatten(1)


def wrong_shape(tensors: Tensors) -> None:
    tensors["head.0.weight"] = tensors["head.0.weight"].reshape(5, 2, 3, 2)


def wrong_kept_shape(tensors: Tensors) -> None:
    tensors["features.weight"] = tensors["features.weight"].flatten(1)


def wrong_dtype(tensors: Tensors) -> None:
    tensors["head.0.weight"] = tensors["head.0.weight"].view(torch.int32)


def wider(tensors: Tensors) -> None:
    tensors["head.0.bias"] = tensors["head.0.bias"].double()


def extra(tensors: Tensors) -> None:
    tensors["head.9.weight"] = torch.zeros(1)


def renamed(tensors: Tensors) -> None:
    tensors["tail.2.weight"] = tensors.pop("head.2.weight")


@pytest.mark.parametrize(
    ("change", "caught_at", "message"),
    [
        pytest.param(change, caught_at, message, id=change.__name__.replace("_", "-"))
        for change, caught_at, message in (
            (
                flip_a_bit,
                "bytes",
                r"features\.weight differs .* in 1 of 27 elements, first at \[0, 0, 0, 1\]",
            ),
            (
                flip_a_bit_of_an_integer,
                "bytes",
                r"features\.steps differs .* in 1 of 1 elements, first at \[\]",
            ),
            (
                one_ulp,
                "bytes",
                r"head\.0\.weight differs .* in 1 of 60 elements, first at \[4, 2, 1, 1\]",
            ),
            (one_ulp_of_the_second, "bytes", r"head\.2\.weight differs .* first at \[0, 3, 0, 0\]"),
            (one_ulp_of_a_bias, "bytes", r"head\.0\.bias differs .* first at \[4\]"),
            (swap_height_and_width, "bytes", r"head\.0\.weight differs .* in 30 of 60"),
            (negative_zero, "bytes", r"head\.0\.weight differs .* in 1 of 60"),
            (drop_kept, "shapes", r"features\.weight is missing"),
            (drop_rewritten, "shapes", r"head\.2\.weight is missing"),
            (
                leave_dense,
                "shapes",
                r"head\.2\.weight has the shape \[2, 5\], expected \[2, 5, 1, 1\]",
            ),
            (
                wrong_shape,
                "shapes",
                r"head\.0\.weight has the shape \[5, 2, 3, 2\], expected \[5, 3, 2, 2\]",
            ),
            (wrong_kept_shape, "shapes", r"features\.weight has the shape \[3, 9\]"),
            (wrong_dtype, "shapes", r"head\.0\.weight is I32, expected F32"),
            (wider, "shapes", r"head\.0\.bias is F64, expected F32"),
            (extra, "shapes", r"no origin: head\.9\.weight"),
            (renamed, "shapes", r"head\.2\.weight is missing"),
        )
    ],
)
@every_level
def test_a_change_is_caught(
    tmp_path: Path, level: Level, change: Callable[[Tensors], None], caught_at: Level, message: str
) -> None:
    before = classifier()
    before["head.0.weight"][0, 0] = 0.0
    after = {name: tensor.clone() for name, tensor in by_hand(before).items()}
    change(after)
    problems = " · ".join(proved(tmp_path, before, after, level).problems)
    if LEVELS.index(level) < LEVELS.index(caught_at):
        assert problems == ""  # what a level does not read, it does not vouch for
        return
    with pytest.raises(AssertionError, match=message):
        raise AssertionError(problems)


def test_swapped_sizes_of_a_rectangle_are_a_wrong_shape(tmp_path: Path) -> None:
    weight = torch.randn(2, 24, generator=generated())
    after = single(convolution(weight, {"C": 2, "H": 4, "W": 3}, "CHW"))
    proof = proved(tmp_path, single(weight), after, "shapes", {"feature_map": [2, 3, 4]})
    (problem,) = proof.problems
    assert problem == "fc.weight has the shape [2, 2, 4, 3], expected [2, 2, 3, 4]"


@pytest.mark.parametrize("wrong", ["CHW", "CWH", "HCW", "HWC", "WCH"])
@reading_levels
def test_a_wrong_flatten_order_fails_against_a_reference(
    tmp_path: Path, level: Level, wrong: str
) -> None:
    before = classifier()
    proof = proved(tmp_path, before, by_hand(before), level, {**SPEC, "flatten": wrong})
    assert any("head.0.weight differs" in problem for problem in proof.problems)
    if level == "activations":
        assert any("more than rounding" in problem for problem in proof.problems)


@pytest.mark.parametrize("wrong", ["CHW", "CWH", "HCW", "HWC", "WCH"])
def test_activations_alone_catch_a_wrong_order(tmp_path: Path, wrong: str) -> None:
    before = classifier()
    right = compared(tmp_path, before, by_hand(before), SPEC)
    assert right.passed
    check = compared(tmp_path, before, by_hand(before), {**SPEC, "flatten": wrong})
    assert check.passed is False
    assert check.problem.startswith("head.0.weight: ")
    assert check.values["max_abs_diff"] > 0.01 > check.values["bound"]


@pytest.mark.parametrize(
    "dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64], ids=str
)
def test_activations_alone_catch_one_ulp_of_the_stored_dtype(
    tmp_path: Path, dtype: torch.dtype
) -> None:
    before = classifier(dtype)
    after = by_hand(before)
    whole = {2: torch.int16, 4: torch.int32, 8: torch.int64}[dtype.itemsize]
    after["head.0.weight"].view(whole)[3, 1, 0, 1] += 1
    check = compared(tmp_path, before, after, SPEC)
    # One ulp of a double is what rounding itself does, and only the bytes can tell.
    assert check.passed is (dtype == torch.float64)


def test_the_bound_is_no_looser_than_it_must_be(tmp_path: Path) -> None:
    before = classifier(torch.float64)
    after = by_hand(before)
    after["head.0.weight"][3, 1, 0, 1] += 1e-11
    check = compared(tmp_path, before, after, SPEC)
    assert check.passed is False
    assert 1e-15 < check.values["bound"] < 1e-12


def test_activations_alone_catch_a_changed_bias(tmp_path: Path) -> None:
    before = classifier()
    after = by_hand(before)
    after["head.0.bias"] = after["head.0.bias"] + 1e-3
    assert compared(tmp_path, before, after, SPEC).passed is False


def test_activations_alone_see_the_second_layer(tmp_path: Path) -> None:
    before = classifier()
    after = by_hand(before)
    assert compared(tmp_path, before, after, SPEC, layer=1).passed
    after["head.2.weight"] = after["head.2.weight"].flip(1)
    assert compared(tmp_path, before, after, SPEC, layer=1).passed is False


@pytest.mark.parametrize("planted", [float("nan"), float("inf"), float("-inf")], ids=str)
def test_non_finite_weights_pass_in_place_and_fail_when_moved(
    tmp_path: Path, planted: float
) -> None:
    before = classifier()
    before["head.0.weight"][2, 7] = planted
    proof = proved(tmp_path, before, by_hand(before), "activations")
    assert proof.problems == ()
    assert all(check.passed for check in proof.checks["head.0.weight"])

    moved = by_hand(before)
    moved["head.0.weight"] = moved["head.0.weight"].roll(1, 0)
    assert compared(tmp_path, before, moved, SPEC).passed is False
    proof = proved(tmp_path, before, moved, "bytes")
    assert any("head.0.weight differs" in problem for problem in proof.problems)


def test_infinity_of_the_other_sign_fails(tmp_path: Path) -> None:
    before = classifier()
    before["head.0.weight"][2, 7] = float("inf")
    after = by_hand(before)
    after["head.0.weight"][after["head.0.weight"].isinf()] = float("-inf")
    assert compared(tmp_path, before, after, SPEC).passed is False


@pytest.mark.parametrize("where", ["original", "output"])
def test_a_nan_on_one_side_only_fails_in_words(tmp_path: Path, where: str) -> None:
    before = classifier()
    after = {name: tensor.clone() for name, tensor in by_hand(before).items()}
    (before if where == "original" else after)["head.0.weight"].view(5, -1)[2, 7] = float("nan")
    check = compared(tmp_path, before, after, SPEC)
    assert check.passed is False
    assert "not finite" in check.problem


def test_another_nan_payload_is_another_value(tmp_path: Path) -> None:
    before = classifier()
    before["features.weight"].view(torch.int32)[0, 0, 0, 0] = 0x7FC00001
    after = {name: tensor.clone() for name, tensor in by_hand(before).items()}
    after["features.weight"].view(torch.int32)[0, 0, 0, 0] = 0x7FC00002
    (problem,) = proved(tmp_path, before, after, "bytes").problems
    assert "features.weight differs" in problem


def test_max_abs_diff_is_the_difference(tmp_path: Path) -> None:
    before = classifier()
    before["head.0.weight"].fill_(1.0)
    after = {name: tensor.clone() for name, tensor in by_hand(before).items()}
    after["head.0.weight"][1, 2, 0, 0] = 1.5
    after["head.0.weight"][3, 0, 0, 0] = -1.0
    values = proved(tmp_path, before, after, "bytes").checks["head.0.weight"][1].values
    assert values == {"max_abs_diff": 2.0, "differing": 2}


def test_half_precision_that_overflows_is_still_reported(tmp_path: Path) -> None:
    before = {"fc.weight": torch.full((2, 4), 3e4).half()}
    after = {"fc.weight": torch.full((2, 1, 2, 2), -3e4).half()}
    check = compared(tmp_path, before, after, {"feature_map": [1, 2, 2]})
    assert check.passed is False
    assert check.values["stored_dtype_max_abs_diff"] != float("inf")


# An output that torch saved.


def test_an_output_of_torch_save_is_read(tmp_path: Path) -> None:
    before = classifier()
    source = saved(tmp_path / "source.safetensors", before)
    output = tmp_path / "output.pt"
    torch.save(by_hand(before), output)
    assert proof_of(make_spec(SPEC), source, output, "activations").problems == ()


@every_level
def test_the_right_bytes_under_other_strides_are_not_the_right_values(
    tmp_path: Path, level: Level
) -> None:
    before = classifier()
    after = by_hand(before)
    source = saved(tmp_path / "source.safetensors", before)
    output = tmp_path / "output.pt"
    # The same bytes in the file, but H and W change places as the tensor is read.
    after["head.0.weight"] = after["head.0.weight"].transpose(2, 3)
    torch.save(after, output)
    problems = " ".join(proof_of(make_spec(SPEC), source, output, level).problems)
    assert "head.0.weight" in problems
    assert "row-major" in problems


# A mistake in the plan itself.


def planted(layer: layers.DenseLayer, order: tuple[int, ...]) -> plan.Action:
    features_out, _ = layer.weight.shape
    if layer.reads == "dense":
        return plan.Reshape((*layer.weight.shape, 1, 1))
    return plan.Permute((features_out, 2, 2, 3), order)


@pytest.mark.parametrize(
    "order",
    [pytest.param((0, 3, 1, 2), id="h-and-w-swapped"), pytest.param(None, id="not-permuted")],
)
@reading_levels
def test_a_wrong_order_planted_in_the_plan_fails(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    level: Level,
    order: tuple[int, ...] | None,
) -> None:
    source = saved(tmp_path / "source.safetensors", classifier())
    output = tmp_path / "output.safetensors"
    convert(source, SPEC, output, level=level)  # right without the mistake
    output.unlink()

    def wrong(layer: layers.DenseLayer) -> plan.Action:
        if layer.reads == "map" and order is None:
            return plan.Reshape((5, 3, 2, 2))
        return planted(layer, order or ())

    monkeypatch.setattr(plan, "_rewrite", wrong)
    with pytest.raises(CheckFailedError, match=r"head\.0\.weight differs from the original"):
        convert(source, SPEC, output, level=level)
    assert not output.exists()


def test_a_1x1_kernel_planted_in_the_plan_fails_on_shapes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = saved(tmp_path / "source.safetensors", classifier())
    monkeypatch.setattr(plan, "_rewrite", lambda layer: plan.Reshape((*layer.weight.shape, 1, 1)))
    with pytest.raises(CheckFailedError, match=r"\[5, 12, 1, 1\], expected \[5, 3, 2, 2\]"):
        convert(source, SPEC, tmp_path / "output.safetensors", level="shapes")


# The oracle for activations: torch itself, on the files as they lie on disk.


def test_the_converted_file_computes_the_same(tmp_path: Path) -> None:
    before = classifier(torch.float64)
    source = saved(tmp_path / "source.safetensors", before)
    convert(source, SPEC, tmp_path / "output.safetensors")
    after = load_file(tmp_path / "output.safetensors")
    maps = torch.randn(4, 3, 2, 2, generator=generated(), dtype=torch.float64)
    vectors = torch.einsum("nchw->nwhc", maps).reshape(4, 12)
    expected = functional.linear(vectors, before["head.0.weight"], before["head.0.bias"])
    found = functional.conv2d(maps, after["head.0.weight"], after["head.0.bias"])
    torch.testing.assert_close(found.flatten(1), expected, rtol=0, atol=1e-12)


# Independence.


PACKAGE = Path(fcn_convert.__file__).parent
PROVERS = [
    *(PACKAGE / f"{name}.py" for name in ("verify", "digests", "proof")),
    *sorted((PACKAGE / "activations").glob("*.py")),
]


@pytest.mark.parametrize("path", PROVERS, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_the_proof_knows_neither_plan_nor_writer(path: Path) -> None:
    source = path.read_text("utf-8")
    imported: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom):
            imported.add(node.module or "")
            imported |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            imported |= {alias.name for alias in node.names}
    assert not imported & {"fcn_convert.plan", "fcn_convert.write", "fcn_convert.conversion"}
    assert "importlib" not in source
