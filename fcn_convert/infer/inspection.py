"""What a checkpoint holds, as data: state dicts, modules, tensors, heads and their evidence."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import takewhile
from math import prod
from pathlib import Path
from typing import Any

from fcn_convert.errors import CheckpointError
from fcn_convert.formats import Checkpoint, open_checkpoint
from fcn_convert.infer.proposal import HeadProposal, Proposal, propose
from fcn_convert.infer.readings import Reading
from fcn_convert.infer.scores import Score
from fcn_convert.infer.storage import Storage
from fcn_convert.tensors import LeftOut, StateDict, TensorInfo, natural_key

MODULE_DEPTH = 2
"""Components of a name under which tensors are summed up."""
SHOWN_SCORES = 5
"""Readings given with their evidence, best first; of two of them also the pattern."""


@dataclass(frozen=True)
class Inspection:
    """A checkpoint, by what it is, what it holds and what its Dense layers are.

    problem: why there are no heads to speak of, say because there are several state dicts; else
    empty. layout: whose convention arrays follow, and what that rests on where it is in doubt.
    The other fields are JSON's own types.
    """

    file: dict[str, Any]
    state_dicts: list[dict[str, Any]]
    left_out: list[dict[str, str]]
    problem: str
    layout: dict[str, str]
    modules: list[dict[str, Any]]
    tensors: list[dict[str, Any]]
    heads: list[dict[str, Any]]
    unclear: dict[str, str]
    other_dense: dict[str, str]


def inspect_checkpoint(checkpoint: Path, state_dict: str | None = None) -> Inspection:
    """Look at a checkpoint; raises CheckpointError where it is unusable.

    state_dict: where in a wrapped checkpoint the network is; default: the only one.
    """
    with open_checkpoint(checkpoint) as opened:
        proposal, problem = _proposal(opened, state_dict)
        chosen, index = proposal and proposal.state_dict, opened.index
        return Inspection(
            file={
                "path": str(opened.path),
                "format": index.format,
                "bytes": opened.nbytes,
                "notes": list(index.notes),
                "warnings": list(index.warnings),
                "metadata": dict(index.metadata),
            },
            state_dicts=[_summary(found) for found in index.state_dicts],
            left_out=_left_out([*index.left_out, *(chosen.left_out if chosen else ())]),
            problem=problem,
            layout=_layout(proposal.storage) if proposal else {},
            modules=_modules(chosen.tensors.values()) if chosen else [],
            tensors=[_tensor(tensor) for tensor in chosen.tensors.values()] if chosen else [],
            heads=[_head(head) for head in proposal.heads] if proposal else [],
            unclear=dict(proposal.unclear) if proposal else {},
            other_dense=dict(proposal.other) if proposal else {},
        )


def _proposal(opened: Checkpoint, path: str | None) -> tuple[Proposal | None, str]:
    """Return what the network is, or why there is none to speak of."""
    try:
        return propose(opened, path), ""
    except CheckpointError as error:
        return None, str(error)


def _layout(storage: Storage) -> dict[str, str]:
    return {"name": storage.layout, "remark": storage.remark}


def _summary(found: StateDict) -> dict[str, Any]:
    tensors = found.tensors.values()
    return {
        "path": found.path,
        "tensors": len(found.tensors),
        "elements": sum(prod(tensor.shape) for tensor in tensors),
        "bytes": sum(tensor.nbytes for tensor in tensors),
        "dtypes": dict(Counter(tensor.dtype.name for tensor in tensors)),
        "prefix": _prefix(list(found.tensors)),
        "ties": [list(tie) for tie in found.ties],
        "unreadable": _left_out(found.unreadable),
    }


def _prefix(names: list[str]) -> str:
    """Return the whole components that all names begin with, as `module.`."""
    levels = zip(*(name.split(".")[:-1] for name in names), strict=False)
    shared = takewhile(lambda components: len(set(components)) == 1, levels)
    return "".join(f"{components[0]}." for components in shared) if len(names) > 1 else ""


def _left_out(entries: Iterable[LeftOut]) -> list[dict[str, str]]:
    return [{"name": entry.name, "reason": entry.reason} for entry in entries]


def _modules(tensors: Iterable[TensorInfo]) -> list[dict[str, Any]]:
    """Sum up the tensors by the first components of their names."""
    found: dict[str, list[TensorInfo]] = {}
    for tensor in tensors:
        *parts, _ = tensor.name.split(".")
        found.setdefault(".".join(parts[:MODULE_DEPTH]), []).append(tensor)
    return [
        {
            "name": name,
            "tensors": len(held),
            "elements": sum(prod(tensor.shape) for tensor in held),
            "bytes": sum(tensor.nbytes for tensor in held),
        }
        for name, held in sorted(found.items(), key=lambda item: natural_key(item[0]))
    ]


def _tensor(tensor: TensorInfo) -> dict[str, Any]:
    return {
        "name": tensor.name,
        "dtype": tensor.dtype.name,
        "shape": list(tensor.shape),
        "bytes": tensor.nbytes,
    }


def _head(head: HeadProposal) -> dict[str, Any]:
    decided = head.decision.reading
    scores = _ranked(head)[:SHOWN_SCORES]
    return {
        "layers": list(head.chain.layers),
        "reads_the_map": list(head.chain.first),
        "reading": _reading(decided) if decided else None,
        "alternatives": [_reading(reading) for reading in head.decision.alternatives],
        "candidate_maps": [list(fmap.sizes) for fmap in head.chain.maps.candidates],
        "remarks": list(head.decision.remarks),
        "evidence": [
            {
                **_reading(score.reading),
                "z": round(score.z, 2),
                "weights": round(score.weights, 4),
                "strengths": round(score.strengths, 4),
            }
            for score in scores
        ],
        "patterns": [_pattern(head, score.reading) for score in scores[:2]],
    }


def _ranked(head: HeadProposal) -> list[Score]:
    """Return how readings go with the weights: that which was decided on, then the best first."""
    if head.evidence is None:
        return []
    decided = head.decision.reading
    own = head.evidence.score(decided) if decided else None
    others = [score for score in head.evidence.scores if score is not own]
    return [replace(own, reading=decided), *others] if own and decided else others


def _reading(reading: Reading) -> dict[str, Any]:
    return {"feature_map": list(reading.feature_map.sizes), "flatten": reading.flatten}


def _pattern(head: HeadProposal, reading: Reading) -> Mapping[str, Any]:
    """Return how the kernels' places go with the middle one, row-major over the map."""
    sizes, values = head.sample.pattern(reading) if head.sample else ((), [])
    return {**_reading(reading), "sizes": list(sizes), "values": values}
