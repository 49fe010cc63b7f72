"""Holds a spec's flatten order against the trained weights."""

from __future__ import annotations

from collections.abc import Iterator

from fcn_convert.formats import Checkpoint
from fcn_convert.infer.evidence import read_sample, weigh, why_not
from fcn_convert.infer.readings import Reading, alike, readings
from fcn_convert.layers import DenseLayer, Resolved


def contradictions(checkpoint: Checkpoint, resolved: Resolved) -> Iterator[str]:
    """Yield a sentence for each layer whose weights clearly go with another order of its map.

    Reads some rows of each layer that reads a map of several places; needs torch.
    """
    for layer in resolved.layers:
        if layer.reads == "map" and max(layer.kernel) > 1 and not why_not(layer.weight):
            yield from _contradiction(checkpoint, layer)


def _contradiction(checkpoint: Checkpoint, layer: DenseLayer) -> Iterator[str]:
    fmap = layer.head.feature_map
    declared = Reading(fmap, layer.head.flatten)
    evidence = weigh([read_sample(checkpoint, layer.weight)], [declared, *readings([fmap])])
    best, own = evidence.best, evidence.score(declared)
    if best is None or own is None or not evidence.contradicts(declared):
        return
    orders = " or ".join(reading.flatten for reading in alike(best.reading, [fmap]))
    yield (
        f"{layer.weight.name}: its weights speak against flatten {declared.flatten} "
        f"(z = {own.z:.1f}) and for {orders} (z = {best.z:.1f}) of feature_map {fmap}: under that "
        "order, neighbouring places are looked at alike"
    )
