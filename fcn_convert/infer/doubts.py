"""Holds a spec's flatten order against the trained weights."""

from __future__ import annotations

from collections.abc import Iterator

from fcn_convert.formats import Checkpoint
from fcn_convert.infer.evidence import Sample, read_sample, weigh, why_not
from fcn_convert.infer.findings import Finding, Pattern, ReadingFound, not_computed, read_maps
from fcn_convert.infer.readings import Reading, alike, readings
from fcn_convert.infer.scores import CLEAR_Z, Evidence
from fcn_convert.layers import DenseLayer, Resolved


def findings(checkpoint: Checkpoint, resolved: Resolved) -> Iterator[Finding]:
    """Yield what the weights of each layer that reads a map say of its flatten order.

    Reads some rows of each; needs torch.
    """
    for layer in read_maps(resolved):
        reason = why_not(layer.weight)
        yield not_computed(layer.name, reason) if reason else _finding(checkpoint, layer)


def _finding(checkpoint: Checkpoint, layer: DenseLayer) -> Finding:
    declared = Reading(layer.head.feature_map, layer.head.flatten)
    others = (r for r in readings([declared.feature_map]) if r.structure != declared.structure)
    sample = read_sample(checkpoint, layer.weight)
    evidence = weigh([sample], [declared, *others])
    found = tuple(_found(evidence, at, declared, sample) for at in range(len(evidence.scores)))
    best, own = evidence.best, evidence.score(declared)
    if best is None or own is None:
        z = max((reading.z for reading in found), default=0.0)
        reason = f"z = {z:.1f} at best, {CLEAR_Z:.0f} would count"
        return Finding(layer.name, "says nothing", reason, evidence.rows, found)
    if not evidence.contradicts(declared):
        return Finding(layer.name, "supports", "", evidence.rows, found)
    orders = " or ".join(r.flatten for r in alike(best.reading, [declared.feature_map]))
    reason = (
        f"{layer.weight.name}: its weights speak against flatten {declared.flatten} "
        f"(z = {own.z:.1f}) and for {orders} (z = {best.z:.1f}) of feature_map "
        f"{declared.feature_map}: under that order, neighbouring places are looked at alike"
    )
    return Finding(layer.name, "contradicts", reason, evidence.rows, found)


def _found(evidence: Evidence, at: int, declared: Reading, sample: Sample) -> ReadingFound:
    score = evidence.scores[at]
    pattern = None
    if at < 2:
        sizes, values = sample.pattern(score.reading)
        pattern = Pattern(sizes, tuple(values))
    return ReadingFound(
        score.reading.flatten,
        score.reading == declared,
        round(score.z, 3),
        round(score.weights, 4),
        round(score.strengths, 4),
        pattern,
    )
