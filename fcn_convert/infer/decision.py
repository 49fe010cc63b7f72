"""One reading out of many, by shapes and weights together, or the honest answer that there is none.

Shapes come first: they name the maps. The weights choose between those, and between the orders; a
map that only they speak for must win clearly.
"""

from __future__ import annotations

from dataclasses import dataclass

from fcn_convert.infer.maps import Maps
from fcn_convert.infer.readings import Reading, alike
from fcn_convert.infer.scores import CLEAR_Z, LESS_CLEAR, Evidence, Score
from fcn_convert.infer.storage import WRITERS
from fcn_convert.spec import FeatureMap

MAX_ALTERNATIVES = 6
CLEARLY_BEST = 0.75
"""The part of the best z-score that the runner-up may have, where only weights decide on a map."""


@dataclass(frozen=True)
class Decision:
    """What a head reads, why, and where it is open, what it may read.

    reading: None where it cannot be told; then alternatives are given, likeliest first.
    """

    reading: Reading | None
    remarks: tuple[str, ...]
    alternatives: tuple[Reading, ...] = ()


def decide(maps: Maps, evidence: Evidence | None, reason: str) -> Decision:
    """Decide on a map and its order.

    evidence: None where weights were not looked at, for the reason given.
    """
    fmap = maps.likeliest
    if fmap is not None and maps.sureness == "stated":
        return Decision(maps.usual(fmap), (_because(maps, fmap),))
    best = evidence.best if evidence else None
    if evidence is None or best is None:
        return _by_shapes(maps, reason or _nothing(evidence))
    if fmap is not None and not maps.usual(fmap).is_spatial:
        return _pooled(maps, fmap, evidence, best)
    if fmap is None:
        return _by_weights(maps, evidence, best)
    own = _best_of(maps, fmap, evidence)
    because = _because(maps, fmap)
    if own.z < CLEARLY_BEST * best.z:
        doubt = f"but the weights go with another map: {_shown(best)}, against {_shown(own)}"
        return Decision(
            None, (because, doubt), (*alike(best.reading, maps.candidates), maps.usual(fmap))
        )
    return _order(maps, fmap, evidence, (because,))


def _by_shapes(maps: Maps, reason: str) -> Decision:
    fmap = maps.likeliest
    if fmap is None:
        shown = tuple(map(maps.usual, maps.candidates[:MAX_ALTERNATIVES]))
        return Decision(None, (f"shapes leave several maps, and {reason}",), shown)
    usual, remarks = maps.usual(fmap), [_because(maps, fmap)]
    if usual.is_spatial:
        habit = f"as {WRITERS[maps.layout]} does"
        remarks.append(f"{reason}: flatten {usual.flatten}, {habit}, is assumed")
    return Decision(usual, tuple(remarks))


def _pooled(maps: Maps, fmap: FeatureMap, evidence: Evidence, best: Score) -> Decision:
    """Decide on a map of one place, which has no neighbours to go by."""
    usual, because = maps.usual(fmap), _because(maps, fmap)
    if not evidence.contradicts(usual):
        return Decision(usual, (because,))
    doubt = f"but the weights look like those on a map of several places, {_shown(best)}"
    return Decision(None, (because, doubt), (usual, *alike(best.reading, maps.candidates)))


def _by_weights(maps: Maps, evidence: Evidence, best: Score) -> Decision:
    """Decide between maps that shapes leave open."""
    swapped = dict.fromkeys(r.feature_map for r in alike(best.reading, maps.candidates))
    # A map with channels from elsewhere in the network is not a rival to one of those before it.
    near = set(maps.channels) if best.reading.feature_map.channels in maps.channels else None
    close = [
        score
        for score in evidence.scores
        if near is None or score.reading.feature_map.channels in near
    ]
    rival = next((score for score in close if score.reading.feature_map not in swapped), None)
    if rival is not None and rival.z > CLEARLY_BEST * best.z:
        shown = [
            reading
            for score in close
            if score.z > CLEARLY_BEST * best.z
            for reading in alike(score.reading, maps.candidates)
        ]
        # Whatever the weights go with: what shapes put first is offered, too.
        first = maps.usual(maps.candidates[0])
        if first not in shown[:MAX_ALTERNATIVES]:
            shown.insert(MAX_ALTERNATIVES - 1, first)
        remark = f"shapes leave several maps, and the weights choose none: {_shown(best)}"
        return Decision(None, (f"{remark}, {_shown(rival)}",), tuple(shown[:MAX_ALTERNATIVES]))
    named = " or ".join(map(str, swapped))
    remark = f"shapes leave several maps; the weights go with {named}"
    return _order(maps, best.reading.feature_map, evidence, (remark,))


def _order(maps: Maps, fmap: FeatureMap, evidence: Evidence, because: tuple[str, ...]) -> Decision:
    """Decide on the flatten order of a map, as far as weights tell."""
    own, default = _best_of(maps, fmap, evidence), maps.usual(fmap)
    usual = evidence.score(default) or own
    candidates = maps.candidates if maps.likeliest is None else (fmap,)
    said = f"neighbours under it are alike: {_shown(own)}"
    if usual.z >= CLEARLY_BEST * own.z:
        agrees = "agree" if usual.z >= own.z else "do not speak against it"
        agree = f"the weights {agrees}: {_shown(usual)}{_against(usual, evidence)}"
        invisible = "" if len(fmap.kernel) == 1 else "; a swap of H and W would look the same"
        return Decision(default, (*because, agree + invisible))
    same = alike(own.reading, candidates)
    if usual.z > LESS_CLEAR * own.z:
        remark = f"the weights leave the flatten order open: {_shown(own)}, {_shown(usual)}"
        return Decision(None, (*because, remark), (*same, default))
    rivals = [
        s
        for s in evidence.scores
        if s.reading.feature_map == fmap and s is not own and s.z > CLEARLY_BEST * own.z
    ]
    if len(same) == 1 and not rivals:
        return Decision(same[0], (*because, f"{said}, against {_shown(usual)}"))
    every = (*same, *(r for s in rivals for r in alike(s.reading, candidates)))
    near = f"; {_shown(rivals[0])} is not far from it" if rivals else ""
    remark = (
        f"the weights show that it is not flattened {default.flatten} ({_shown(usual)}, against "
        f"{_shown(own)}{near}), but not which axis is H and which is W"
    )
    return Decision(None, (*because, remark), every)


def _best_of(maps: Maps, fmap: FeatureMap, evidence: Evidence) -> Score:
    own = (score for score in evidence.scores if _is_of(score.reading, fmap))
    return next(own, Score(maps.usual(fmap), 0.0, 0.0, 0.0, 0.0))


def _is_of(reading: Reading, fmap: FeatureMap) -> bool:
    """Return whether a reading is of a map, or weights cannot tell it from one that is."""
    return reading.feature_map == fmap or bool(alike(reading, (fmap,)))


def _against(score: Score, evidence: Evidence) -> str:
    """Show the best order of the same map whose channels are placed otherwise in the vector."""
    reading = score.reading
    same = (s for s in evidence.scores if s.reading.feature_map == reading.feature_map)
    other = next((s for s in same if _family(s.reading) != _family(reading)), None)
    return f", against {_shown(other)}" if other else ""


def _family(reading: Reading) -> tuple[bool, ...]:
    return tuple(is_channel for is_channel, _ in reading.structure)


def _because(maps: Maps, fmap: FeatureMap) -> str:
    """Say what a map that the file or its shapes tell rests on."""
    if maps.sureness == "stated":
        return f"the file's configuration gives it {maps.usual(fmap)}"
    before = "1 channel comes" if fmap.channels == 1 else f"{fmap.channels} channels come"
    channels = f"{before} before it"
    if fmap.features == fmap.channels:
        return f"{channels}, as many as its inputs: a pooled map"
    left = f"{channels}, so that {fmap.features // fmap.channels} places are left"
    if maps.sureness == "square":
        return f"{left}: taken for a square"
    if maps.sureness == "row":
        axis = fmap.axes[1 + fmap.kernel.index(1)]
        return f"{left}: taken for a row, as no kernel looks along {axis}"
    return left


def _nothing(evidence: Evidence | None) -> str:
    best = evidence.scores[0].z if evidence and evidence.scores else 0.0
    return f"the weights say nothing (z = {best:.1f} at best, {CLEAR_Z:.0f} would count)"


def _shown(score: Score) -> str:
    return f"{score.reading} z = {score.z:.1f}"
