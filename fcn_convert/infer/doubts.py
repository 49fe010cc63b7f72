"""Compares a spec's map and flatten order with the trained weights."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from fcn_convert.formats import Checkpoint
from fcn_convert.infer.contrast import speaks_for
from fcn_convert.infer.evidence import Sample, read_sample, weigh, why_not
from fcn_convert.infer.findings import Finding, Pattern, ReadingFound, not_computed, read_maps
from fcn_convert.infer.maps import candidate_maps, planes
from fcn_convert.infer.network import Network
from fcn_convert.infer.readings import Reading, alike, readings
from fcn_convert.infer.scores import CLEAR_Z, LESS_CLEAR, Evidence, Score
from fcn_convert.layers import DenseLayer, Resolved
from fcn_convert.shape_doubts import stated_map
from fcn_convert.spec import FeatureMap
from fcn_convert.tensors import StateDict

MAX_MAPS = 4
"""Maps of either kind that a declared one is compared with, the squarest first, in every order."""


def findings(
    checkpoint: Checkpoint, state_dict: StateDict, resolved: Resolved
) -> Iterator[Finding]:
    """Yield what the weights of each layer that reads a map say of the map and its flatten order.

    Reads some rows of each; needs torch.
    """
    network = Network(state_dict)
    for layer in read_maps(resolved):
        reason = why_not(layer.weight)
        if reason:
            yield not_computed(layer.name, reason)
            continue
        found = _finding(layer, read_sample(checkpoint, layer.weight), _maps(network, layer))
        declared = layer.head.feature_map, layer.head.flatten
        is_stated = stated_map(layer, state_dict) == declared
        yield _overruled(found) if is_stated and found.outcome == "contradicts" else found


def _overruled(finding: Finding) -> Finding:
    """Return what is left of a doubt where the file itself says what the layer reads.

    Weights of places that are not neighbours, as of a table's columns, look like any map's.
    """
    reason = "the file's configuration says what is read, and the weights look like something else"
    return replace(finding, outcome="says nothing", reason=reason)


def _maps(network: Network, layer: DenseLayer) -> list[FeatureMap]:
    """Return the declared map, those that shapes speak for, and those with as many channels."""
    declared = layer.head.feature_map
    shapes = candidate_maps(network, layer.name)
    near = [fmap for fmap in shapes.candidates if fmap.channels in shapes.channels]
    places = declared.features // declared.channels
    same = [FeatureMap("CHW", (declared.channels, *sizes)) for sizes in planes(places)]
    maps = [*near[:MAX_MAPS], *(same[:MAX_MAPS] if declared.axes == "CHW" else ())]
    return [declared, *(fmap for fmap in maps if fmap.axes == declared.axes)]


def _finding(layer: DenseLayer, sample: Sample, maps: list[FeatureMap]) -> Finding:
    declared = Reading(layer.head.feature_map, layer.head.flatten)
    others = [r for r in readings(maps) if r.structure != declared.structure]
    evidence = weigh([sample], [declared, *(_of_map(declared.feature_map, r) for r in others)])
    rival = next((s for s in evidence.scores if _contradicts(s, declared, evidence, sample)), None)
    shown = [
        score
        for score in evidence.scores
        if score is rival or score.reading.feature_map == declared.feature_map
    ]
    found = tuple(_found(score, at, declared, sample) for at, score in enumerate(shown))
    if rival is not None:
        reason = f"{layer.weight.name}: {_against(rival, declared, evidence, maps)}"
        return Finding(layer.name, "contradicts", reason, evidence.rows, found)
    if shown[0].z >= CLEAR_Z:
        return Finding(layer.name, "supports", "", evidence.rows, found)
    reason = f"z = {shown[0].z:.1f} at best, {CLEAR_Z:.0f} would count"
    return Finding(layer.name, "says nothing", reason, evidence.rows, found)


def _of_map(feature_map: FeatureMap, reading: Reading) -> Reading:
    """Return the reading as one of this map, if it has one that no weight can tell from it."""
    return next(iter(alike(reading, [feature_map])), reading)


def _contradicts(rival: Score, declared: Reading, evidence: Evidence, sample: Sample) -> bool:
    """Return whether weights clearly go with a reading and not with the declared one."""
    own = evidence.score(declared)
    if rival is own or own is None or rival.z < CLEAR_Z:
        return False
    if rival.reading.feature_map == declared.feature_map:
        if own.z <= LESS_CLEAR * rival.z:
            return True
        # Where C is elsewhere, neighbours are compared with channels, which may be alike, too.
        if rival.reading.flatten.index("C") != declared.flatten.index("C"):
            return False
    elif rival.z <= own.z:
        return False  # some of its neighbours may be alike, but all of the declared one's are more
    return speaks_for(sample, rival.reading, declared)


def _against(rival: Score, declared: Reading, evidence: Evidence, maps: list[FeatureMap]) -> str:
    """Say what the weights speak against, and what for."""
    own = evidence.score(declared)
    z = own.z if own else 0.0
    supported = alike(rival.reading, maps)
    orders = [r.flatten for r in supported if r.feature_map == declared.feature_map]
    if not orders:
        return (
            f"its weights speak against feature_map {declared} (z = {z:.1f}) and for "
            f"{' or '.join(map(str, supported))} (z = {rival.z:.1f}): the weights of "
            "neighbours that only the latter has are more alike"
        )
    swapped = next((r.feature_map for r in supported if r.flatten == declared.flatten), None)
    return (
        f"its weights speak against flatten {declared.flatten} (z = {z:.1f}) and for "
        f"{' or '.join(dict.fromkeys(orders))} (z = {rival.z:.1f}) of feature_map "
        f"{declared.feature_map}{f', or for feature_map {swapped}' if swapped else ''}: under that "
        "order, the weights of neighbouring places are alike"
    )


def _found(score: Score, at: int, declared: Reading, sample: Sample) -> ReadingFound:
    reading, pattern = score.reading, None
    if at < 2:
        sizes, values = sample.pattern(reading)
        pattern = Pattern(sizes, tuple(values))
    other = reading.feature_map != declared.feature_map
    return ReadingFound(
        reading.flatten,
        reading == declared,
        round(score.z, 3),
        round(score.weights, 4),
        round(score.strengths, 4),
        pattern,
        reading.feature_map.sizes if other else (),
    )
