from __future__ import annotations

from math import isfinite, prod
from pathlib import Path
from typing import Any

import architectures
import pytest
import survey
import torch
import trained
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from fcn_convert.formats import open_checkpoint
from fcn_convert.infer.chains import find_chains
from fcn_convert.infer.decision import decide
from fcn_convert.infer.evidence import PATTERN_SIZE, Sample, read_sample, weigh, why_not
from fcn_convert.infer.heads import find_heads
from fcn_convert.infer.maps import Maps, candidate_maps
from fcn_convert.infer.network import Network
from fcn_convert.infer.proposal import MAX_WEIGHED, Proposal, propose
from fcn_convert.infer.readings import Reading, alike, readings
from fcn_convert.infer.scores import CLEAR_Z, Evidence, Score
from fcn_convert.layers import resolve
from fcn_convert.spec import FeatureMap
from fcn_convert.tensors import DTYPES, StateDict, TensorInfo

ARCHITECTURES = list(architectures.every())


def index_of(shapes: dict[str, tuple[int, ...]]) -> StateDict:
    return StateDict(
        "", {name: TensorInfo(name, DTYPES["F32"], shape, 0) for name, shape in shapes.items()}
    )


# Shapes: the survey over published families.


@pytest.mark.parametrize("order", survey.ORDERS, ids=lambda order: f"{order[0]}-{order[1]}")
@pytest.mark.parametrize("architecture", ARCHITECTURES, ids=lambda a: a.name)
def test_no_family_is_answered_wrongly_and_what_the_file_decides_is_told(
    architecture: Any, order: tuple[str, str]
) -> None:
    answer = survey.ask(architecture, *order)
    assert answer.verdict == ("right" if answer.is_decidable else "open"), answer.said


def test_the_survey_asks_in_every_order() -> None:
    answers = survey.survey()
    assert len(answers) == len(ARCHITECTURES) * len(survey.ORDERS)
    decidable = [answer for answer in answers if answer.is_decidable]
    assert sum(answer.verdict == "right" for answer in decidable) >= 0.95 * len(decidable)
    assert not [answer for answer in answers if answer.verdict == "wrong"]


@pytest.mark.parametrize(
    ("shapes", "name", "reason"),
    [
        pytest.param(
            {"a.weight": (4, 8), "a.bias": (4, 8)}, "a", "a norm over two axes", id="norm"
        ),
        pytest.param(
            {"l.0.q_proj.weight": (8, 8), "l.0.k_proj.weight": (8, 8), "l.0.out.weight": (8, 8)},
            "l.0.out",
            "attention",
            id="attention",
        ),
        pytest.param(
            {
                "b.0.conv.weight": (64, 3, 3, 3),
                "b.0.se.0.weight": (4, 64),
                "b.0.se.2.weight": (64, 4),
            },
            "b.0.se.0",
            "squeeze-and-excite, 64 → 4 → 64",
            id="squeeze-and-excite",
        ),
        pytest.param(
            {
                f"b.{at}.mlp.{part}": shape
                for at in (0, 1)
                for part, shape in (
                    ("fc1.weight", (32, 8)),
                    ("fc2.weight", (8, 32)),
                )
            },
            "b.1.mlp.fc2",
            "a block's MLP, 8 → 32 → 8, 2 times",
            id="mlp",
        ),
        pytest.param(
            {"words.embedding.weight": (30000, 300)},
            "words.embedding",
            "an embedding, by its name and for want of a bias",
            id="embedding",
        ),
        pytest.param(
            {"rnn.weight_hh_l0": (128, 32), "out.weight": (10, 32)},
            "out",
            "reads the recurrent layer rnn",
            id="recurrent",
        ),
        pytest.param(
            {"0.weight": (32, 8), "2.weight": (3, 32, 3, 3)}, "0", "2 goes on from it", id="decoder"
        ),
        pytest.param(
            {
                "start.weight": (64, 144),
                "conv.weight": (16, 1, 3, 3),
                "fc.weight": (50, 144),
            },
            "start",
            "comes before every convolution",
            id="first",
        ),
    ],
)
def test_what_is_no_head_has_its_reason(
    shapes: dict[str, tuple[int, ...]], name: str, reason: str
) -> None:
    dense = find_heads(Network(index_of(shapes)))
    assert dense.other[name] == reason
    assert name not in dense.heads


@pytest.mark.parametrize(
    ("dense", "is_head"),
    [pytest.param((10, 144), True, id="classes"), pytest.param((784, 100), False, id="decoder")],
)
def test_a_layer_before_every_convolution_may_be_the_head_where_there_is_no_other(
    dense: tuple[int, int], *, is_head: bool
) -> None:
    shapes = {"out.weight": dense, "conv.weight": (16, 1, 3, 3)}
    assert find_heads(Network(index_of(shapes))).heads == (("out",) if is_head else ())


@pytest.mark.parametrize("hidden", [32, 64], ids=["an-earlier-width", "the-last-width"])
@pytest.mark.parametrize("names", ["stem body fc1.0 fc2.0", "a b fc1.0 fc2.0", "z y wide.0 out.0"])
def test_a_hidden_layer_as_wide_as_a_convolution_is_no_head_of_its_own(
    hidden: int, names: str
) -> None:
    sizes = ((32, 1, 3, 3), (64, 32, 3, 3), (hidden, 64 * 49), (10, hidden))
    shapes = {f"{name}.weight": size for name, size in zip(names.split(), sizes, strict=True)}
    network = Network(index_of(shapes))
    chains, unclear = find_chains(network, find_heads(network))
    assert [chain.layers for chain in chains] == [tuple(names.split()[2:])]
    assert not unclear


def test_what_one_direction_of_a_recurrent_layer_gives_is_read_by_nobody() -> None:
    shapes = {
        "conv.weight": (16, 1, 3, 3),
        "both.forward_gru.recurrent_kernel": (32, 96),
        "both.backward_gru.recurrent_kernel": (32, 96),
        "reads_both.weight": (10, 64),
        "reads_a_map.weight": (10, 32),
    }
    dense = find_heads(Network(index_of(shapes)))
    assert dense.other == {"reads_both": "reads the recurrent layer both.forward_gru"}
    assert dense.heads == ("reads_a_map",)


@pytest.mark.parametrize(("name", "is_head"), [("qlinear", True), ("q_linear", False)])
def test_a_layer_for_quantized_training_is_no_query(name: str, *, is_head: bool) -> None:
    shapes = {"conv.weight": (8, 1, 3, 3), f"fc1.{name}.weight": (32, 288)}
    dense = find_heads(Network(index_of(shapes)))
    assert (f"fc1.{name}" in dense.heads) == is_head


@pytest.mark.parametrize(
    ("kernels", "features", "expected"),
    [
        pytest.param([(8, 3, 3, 3)], 72, "8×3×3", id="square"),
        pytest.param([(8, 3, 5)], 40, "8×5", id="1-D"),
        pytest.param([(8, 3, 3, 3)], 48, None, id="no square"),
        pytest.param([(8, 1, 9, 1), (8, 8, 3, 1)], 32, "8×4×1", id="kernels along H only"),
        pytest.param([(8, 1, 1, 9), (8, 8, 1, 3)], 32, "8×1×4", id="kernels along W only"),
        pytest.param([(8, 3, 3, 3, 3)], 64, None, id="3-D is never told"),
        pytest.param([(8, 3, 3, 3, 3)], 8, "8×1×1×1", id="3-D, pooled"),
    ],
)
def test_the_map_follows_from_channels_and_kernels(
    kernels: list[tuple[int, ...]], features: int, expected: str | None
) -> None:
    shapes = {f"conv{at}.weight": kernel for at, kernel in enumerate(kernels)}
    maps = candidate_maps(Network(index_of({**shapes, "fc.weight": (10, features)})), "fc")
    assert (maps.likeliest and str(maps.likeliest)) == expected
    assert all(fmap.features == features for fmap in maps.candidates)


def test_the_map_before_a_head_is_found_where_the_input_has_as_many_channels() -> None:
    shapes = {
        "conv1.weight": (32, 2, 3, 3),
        "conv2.weight": (128, 32, 3, 3),
        "act_conv.weight": (2, 128, 1, 1),
        "act_fc.weight": (64, 128),
        "val_conv.weight": (2, 128, 1, 1),
        "val_fc.weight": (64, 128),
    }
    for head in ("act_fc", "val_fc"):
        maps = candidate_maps(Network(index_of(shapes)), head)
        assert str(maps.likeliest) == "2×8×8"  # and not 128 channels of the trunk, pooled
        assert FeatureMap("CHW", (128, 1, 1)) in maps.candidates


@given(st.dictionaries(st.text(min_size=1, max_size=12), st.lists(st.integers(0, 600), max_size=5)))
def test_any_names_and_shapes_give_an_answer(shapes: dict[str, list[int]]) -> None:
    found = {f"{name}.weight": tuple(sizes) for name, sizes in shapes.items()}
    network = Network(index_of(found))
    dense = find_heads(network)
    assert set(dense.heads) | dense.other.keys() == set(network.dense)
    for name in dense.heads:
        for fmap in candidate_maps(network, name).candidates:
            assert fmap.features == network.dense[name].shape[1]


# Readings: what weights can tell apart.


def places(reading: Reading) -> torch.Tensor:
    """Where each element of the map, in the axes' own order, stands in the vector."""
    index = torch.arange(reading.feature_map.features).view(reading.sizes)
    return index.permute([reading.flatten.index(axis) for axis in reading.feature_map.axes])


def neighbours(reading: Reading) -> set[tuple[int, int]]:
    """The pairs of elements of the vector that are neighbours on the map."""
    index = places(reading)
    return {
        (int(a), int(b))
        for axis in range(1, index.dim())
        for a, b in zip(
            index.narrow(axis, 0, index.shape[axis] - 1).flatten(),
            index.narrow(axis, 1, index.shape[axis] - 1).flatten(),
            strict=True,
        )
    }


@given(st.lists(st.integers(1, 4), min_size=2, max_size=4))
def test_readings_are_alike_where_they_have_the_same_neighbours(sizes: list[int]) -> None:
    fmap = FeatureMap({2: "CL", 3: "CHW", 4: "CDHW"}[len(sizes)], tuple(sizes))
    swapped = FeatureMap(fmap.axes, (sizes[0], *reversed(sizes[1:])))
    found = readings([fmap, swapped])
    for reading in found:
        same = alike(reading, [fmap, swapped])
        assert reading.structure in {other.structure for other in same}
        for other in same:
            assert neighbours(other) == neighbours(reading)
        # Each is given once, however many orders write it.
        assert len({(o.feature_map, *places(o).flatten().tolist()) for o in same}) == len(same)


# Weights.


def smooth(channels: int, height: int, width: int, order: str, rows: int = 48) -> torch.Tensor:
    """Weights (rows, features) that vary smoothly over the map, flattened in an order."""
    maps = torch.randn(rows, channels, height + 2, width + 2)
    maps = torch.nn.functional.avg_pool2d(maps, 3, stride=1)
    return maps.permute(0, *(1 + "CHW".index(axis) for axis in order)).flatten(1)


@pytest.mark.parametrize("order", ["CHW", "HWC", "HCW"])
@pytest.mark.parametrize("sizes", [(32, 7, 7), (16, 3, 5), (64, 2, 2)], ids=str)
def test_smooth_weights_tell_map_and_order(sizes: tuple[int, int, int], order: str) -> None:
    torch.manual_seed(0)
    c, h, w = sizes
    maps = [FeatureMap("CHW", (c, a, h * w // a)) for a in range(1, h * w + 1) if h * w % a == 0]
    maps += [FeatureMap("CHW", (c // 4, 2 * h, 2 * w)), FeatureMap("CHW", (4 * c, h * w, 1))][:1]
    evidence = weigh([Sample(smooth(*sizes, order))], readings(maps))
    assert evidence.best is not None
    right = Reading(FeatureMap("CHW", sizes), order)
    assert evidence.best.reading.structure == right.structure
    assert not evidence.contradicts(right)
    wrong = Reading(FeatureMap("CHW", sizes), "CHW" if order == "HWC" else "HWC")
    assert order == "HCW" or evidence.contradicts(wrong)


@pytest.mark.parametrize(
    "spoil",
    [
        pytest.param(lambda w: w * torch.logspace(-6, 6, w.shape[0])[:, None], id="scaled rows"),
        pytest.param(lambda w: w.index_fill(1, torch.arange(0, 490, 2), 0), id="dead places"),
        pytest.param(lambda w: w.index_fill(0, torch.tensor([3]), float("nan")), id="a row of NaN"),
        pytest.param(lambda w: w + torch.randn(w.shape[0], 1) * 100, id="rows far from zero"),
        pytest.param(lambda w: w.double() * 1e300, id="huge"),
        pytest.param(lambda w: w.bfloat16(), id="bfloat16"),
        pytest.param(lambda w: w.to(torch.float8_e4m3fn), id="float8"),
        pytest.param(lambda w: (w * 100).to(torch.int8), id="int8"),
        pytest.param(lambda w: w[:10], id="ten outputs"),
    ],
)
def test_the_evidence_stands_what_checkpoints_hold(spoil: Any) -> None:
    torch.manual_seed(0)
    fmap = FeatureMap("CHW", (32, 7, 7))
    evidence = weigh([Sample(spoil(smooth(32, 7, 7, "CHW")))], readings([fmap]))
    assert evidence.best is not None
    assert evidence.best.reading == Reading(fmap, "CHW")


@pytest.mark.parametrize(
    "weight",
    [
        pytest.param(torch.zeros(8, 96), id="zeros"),
        pytest.param(torch.ones(8, 96), id="ones"),
        pytest.param(torch.full((8, 96), float("inf")), id="infinite"),
        pytest.param(torch.eye(96)[:8], id="one entry a row"),
        pytest.param(torch.nn.init.orthogonal_(torch.empty(64, 96)), id="orthogonal"),
        pytest.param(torch.rand(4, 96), id="four rows"),
        # Pruned channels of random weights: what is 0 is alike, but says nothing of an order.
        pytest.param(torch.randn(64, 96) * (torch.rand(96) > 0.5), id="pruned at random"),
    ],
)
def test_weights_without_a_pattern_say_nothing(weight: torch.Tensor) -> None:
    found = readings([FeatureMap("CHW", (24, 2, 2)), FeatureMap("CHW", (6, 4, 4))])
    evidence = weigh([Sample(weight)], found)
    assert evidence.best is None
    assert all(isfinite(score.z) for score in evidence.scores)
    assert not any(evidence.contradicts(reading) for reading in found)


@pytest.mark.parametrize("seed", range(20))
def test_z_scores_of_random_weights_are_those_of_chance(seed: int) -> None:
    torch.manual_seed(seed)
    fmap = FeatureMap("CHW", (16, 6, 4))
    evidence = weigh([Sample(torch.randn(40, 384))], readings([fmap]))
    assert all(
        abs(score.weights_z) < 4.5 and abs(score.strengths_z) < 4.5 for score in evidence.scores
    )


def test_the_pattern_is_smooth_around_the_middle_under_the_right_order_only() -> None:
    torch.manual_seed(0)
    sample = Sample(smooth(32, 5, 5, "HWC"))
    fmap = FeatureMap("CHW", (32, 5, 5))
    sizes, right = sample.pattern(Reading(fmap, "HWC"))
    _, wrong = sample.pattern(Reading(fmap, "CHW"))
    assert sizes == (5, 5)
    assert right[12] == wrong[12] == 1
    for at in (7, 11, 13, 17):
        assert right[at] > 0.4
        assert abs(wrong[at]) < 0.2


def test_the_pattern_of_a_large_map_is_bounded() -> None:
    sample = Sample(torch.randn(4, 200 * 100))
    sizes, values = sample.pattern(Reading(FeatureMap("CHW", (1, 200, 100)), "CHW"))
    assert sizes == (PATTERN_SIZE, PATTERN_SIZE)
    assert len(values) == prod(sizes)


@pytest.mark.parametrize(
    ("weight", "reason"),
    [
        pytest.param(torch.zeros(3, 96), "3 output features are too few", id="few"),
        pytest.param(torch.zeros(8, 96, dtype=torch.bool), "BOOL weights", id="bool"),
        pytest.param(torch.zeros(8, 96, dtype=torch.complex64), "C64 weights", id="complex"),
        pytest.param(torch.zeros(8, (1 << 19) + 1), "input features are too many", id="wide"),
    ],
)
def test_what_is_not_looked_at_is_said(weight: torch.Tensor, reason: str) -> None:
    name = {torch.float32: "F32", torch.bool: "BOOL", torch.complex64: "C64"}[weight.dtype]
    assert reason in why_not(TensorInfo("w", DTYPES[name], tuple(weight.shape), 0))


@pytest.mark.parametrize("form", ["row-major", "column-major", "sliced"])
def test_a_sample_is_rows_of_the_weight_however_it_is_stored(tmp_path: Path, form: str) -> None:
    weight = torch.randn(600, 96)
    stored = {
        "row-major": weight,
        "column-major": weight.t().contiguous().t(),
        "sliced": torch.cat([weight, weight], 1)[:, :96],
    }[form]
    torch.save({"fc.weight": stored}, tmp_path / "a.pth")
    with open_checkpoint(tmp_path / "a.pth") as checkpoint:
        info = checkpoint.state_dict(None).tensors["fc.weight"]
        sample = read_sample(checkpoint, info)
    assert sample.rows == 256
    torch.testing.assert_close(sample.columns, Sample(weight[: 256 * 2 : 2]).columns)


# Both together, on nets that are trained here.


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("nets")


def proposal_for(tensors: dict[str, torch.Tensor], path: Path) -> Proposal:
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path)
    with open_checkpoint(path) as checkpoint:
        return propose(checkpoint)


@pytest.mark.parametrize("recipe", trained.RECIPES, ids=str)
def test_trained_nets_tell_their_family_of_orders(recipe: Any, folder: Path) -> None:
    [head] = proposal_for(trained.trained(recipe), folder / f"{recipe}.safetensors").heads
    assert head.evidence is not None
    assert head.evidence.best is not None
    assert head.evidence.best.reading.feature_map.sizes == recipe.sizes
    first = recipe.order.startswith("C")
    assert head.evidence.best.reading.flatten == ("CHW" if first else "HWC")
    own = Reading(FeatureMap("CHW", recipe.sizes), recipe.order)
    other = Reading(FeatureMap("CHW", recipe.sizes), "HWC" if first else "CHW")
    assert not head.evidence.contradicts(own)
    assert head.evidence.contradicts(other)
    if first:
        assert head.decision.reading == own
    else:  # which axis is H is invisible, so nothing is stated
        assert head.decision.reading is None
        assert {r.flatten for r in head.decision.alternatives} == {"HWC", "WHC"}


@pytest.mark.parametrize("recipe", trained.RECIPES, ids=str)
def test_untrained_nets_tell_nothing_but_their_shapes(recipe: Any, folder: Path) -> None:
    [head] = proposal_for(trained.untrained(recipe), folder / f"{recipe}-new.safetensors").heads
    assert head.evidence is not None
    assert head.evidence.best is None
    assert max(abs(score.z) for score in head.evidence.scores) < CLEAR_Z
    assert head.decision.reading == Reading(FeatureMap("CHW", recipe.sizes), "CHW")


SAMPLES = {
    "lenet.pth": ("16×3×3 CHW", ("16×3×3 CHW",)),
    "vgg.ckpt": ("64×2×2 CHW", ("64×2×2 CHW",)),
    "sequence.safetensors": ("48×4 CL", ("48×4 CL",)),
    "two_heads.pth": (None, ("24×3×2 HWC", "24×2×3 WHC")),
}


@pytest.mark.parametrize("file", SAMPLES)
def test_the_samples_specs_are_found_or_are_among_the_candidates(file: str) -> None:
    path = Path(__file__).parent.parent / "sample_checkpoints" / file
    with open_checkpoint(path) as checkpoint:
        state_dict = checkpoint.state_dict(None)
        proposal = propose(checkpoint)
    [head] = proposal.heads
    decided, candidates = SAMPLES[file]
    assert (head.decision.reading and str(head.decision.reading)) == decided
    shown = [str(reading) for reading in head.decision.alternatives]
    assert set(candidates) <= {decided, *shown}
    if proposal.spec is not None:
        assert proposal.spec.heads[0].dense is None  # one line is enough
        assert resolve(proposal.spec, state_dict).layers


def test_a_choice_is_offered_between_maps_of_the_channels_before_it() -> None:
    near = [FeatureMap("CHW", (128, *plane)) for plane in ((8, 3), (6, 4), (12, 2))]
    far = [FeatureMap("CHW", (64, *plane)) for plane in ((16, 3), (12, 4), (24, 2))]
    scores = [
        Score(Reading(fmap, "CHW"), 0.1, 0.1, 20 - at / 10, 20 - at / 10)
        for at, pair in enumerate(zip(near, far, strict=True))
        for fmap in pair
    ]
    maps = Maps((*near, *far), "open", (128,))
    decision = decide(maps, Evidence(64, tuple(scores)), "")
    assert decision.reading is None
    offered = {reading.feature_map for reading in decision.alternatives}
    assert set(near) <= offered
    assert {fmap.channels for fmap in offered} == {128}


@pytest.mark.parametrize("kernel", [(1, 5), (5, 1)], ids=["along W", "along H"])
def test_a_row_is_taken_where_no_kernel_looks_along_the_other_axis_unless_weights_say_no(
    kernel: tuple[int, int],
) -> None:
    """As of nine sensors whose signals are convolved one by one: the map is 9 × 20, and no row."""
    torch.manual_seed(0)
    shapes = {"conv.weight": (8, 8, *kernel), "fc.weight": (48, 8 * 180)}
    maps = candidate_maps(Network(index_of(shapes)), "fc")
    row, places = ((1, 180), (9, 20)) if kernel[0] == 1 else ((180, 1), (20, 9))
    assert maps.likeliest == FeatureMap("CHW", (8, *row))
    axis = "H" if kernel[0] == 1 else "W"
    for sizes, is_row in ((row, True), (places, False)):
        weights = Sample(smooth(8, *sizes, "CHW"))
        decision = decide(maps, weigh([weights], readings(maps.candidates)), "")
        assert f"taken for a row, as no kernel looks along {axis}" in decision.remarks[0]
        right = Reading(FeatureMap("CHW", (8, *sizes)), "CHW")
        if is_row:
            assert decision.reading == right
        else:
            assert decision.reading is None
            assert decision.alternatives[0] == right


def test_what_shapes_put_first_is_offered_where_weights_go_with_others() -> None:
    first = FeatureMap("CHW", (64, 4, 4))
    others = [FeatureMap("CHW", (c, 1024 // c // 2, 2)) for c in (1, 2, 4, 8, 16, 32, 128)]
    scores = [Score(Reading(fmap, "CHW"), 0.1, 0.1, 10.0, 10.0) for fmap in others]
    decision = decide(Maps((first, *others), "open", (64,)), Evidence(64, tuple(scores)), "")
    assert decision.reading is None
    assert Reading(first, "CHW") in decision.alternatives


def test_a_layer_follows_the_one_with_most_modules_around_both() -> None:
    shapes = {"conv.weight": (8, 1, 3, 3), "head.out.weight": (10, 64)}
    shapes |= {"head.pre.fc.weight": (64, 32), "zoo.x.fc.weight": (64, 32)}
    network = Network(index_of(shapes))
    chains, unclear = find_chains(network, find_heads(network))
    assert not unclear
    [chain] = chains  # both read the map; what follows comes after them
    assert chain.first == ("head.pre.fc", "zoo.x.fc")
    assert chain.layers == ("head.pre.fc", "head.out", "zoo.x.fc")


def test_of_more_layers_than_any_network_has_none_is_looked_at() -> None:
    shapes = {"conv.weight": (8, 1, 1, 1), "fc0.weight": (8, 32)}
    network = Network(index_of(shapes | {f"fc{at}.weight": (8, 8) for at in range(1, 1001)}))
    chains, unclear = find_chains(network, find_heads(network))
    assert (chains, len(unclear)) == ([], 1001)
    assert set(unclear.values()) == {"there are over 1000 such layers"}


def test_of_very_many_heads_some_are_looked_at_and_the_others_say_so(tmp_path: Path) -> None:
    tensors = {}
    for channels in range(8, 8 + MAX_WEIGHED + 2):
        tensors[f"net{channels}.conv.weight"] = torch.randn(channels, 3, 3, 3)
        tensors[f"net{channels}.fc.weight"] = torch.randn(4, channels * 9)
    save_file(tensors, tmp_path / "m.safetensors")
    with open_checkpoint(tmp_path / "m.safetensors") as checkpoint:
        heads = propose(checkpoint).heads
    assert [head.evidence is None for head in heads] == [False] * MAX_WEIGHED + [True] * 2
    assert {head.decision.reading.feature_map.kernel for head in heads} == {(3, 3)}
    assert "first 32 heads alone are looked at" in heads[-1].decision.remarks[-1]
