"""The spec of a checkpoint, as far as its shapes and weights tell it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from fcn_convert.errors import SpecError
from fcn_convert.formats import Checkpoint
from fcn_convert.infer.chains import Chain, find_chains
from fcn_convert.infer.decision import Decision, decide
from fcn_convert.infer.heads import find_heads
from fcn_convert.infer.network import Network
from fcn_convert.infer.readings import Reading, readings
from fcn_convert.infer.storage import Storage, find_storage
from fcn_convert.layers import resolve
from fcn_convert.spec import Dense, Head, Spec, usual_order
from fcn_convert.tensors import StateDict

if TYPE_CHECKING:
    from fcn_convert.infer.evidence import Sample
    from fcn_convert.infer.scores import Evidence

MAX_BRANCHES = 8
"""Layers on one map that are looked at."""
MAX_WEIGHED = 32
"""Heads whose weights are looked at: some megabytes each, and up to a fifth of a second."""
TOO_MANY = f"the weights of the first {MAX_WEIGHED} heads alone are looked at"


@dataclass(frozen=True)
class HeadProposal:
    """A head, what its weights say, and what was decided.

    evidence: None where the weights were not looked at. sample: of the first layer, for pictures.
    """

    chain: Chain
    decision: Decision
    evidence: Evidence | None
    sample: Sample | None


@dataclass(frozen=True)
class Proposal:
    """What a checkpoint's Dense layers are, and the spec that converts them.

    path: where the state dict is, as the spec should say it. storage: how its arrays are stored.
    unclear: Dense layers that may belong to a head, with what is not known of them. other: those
    that do not, with the reason. spec: None where anything is open. problems: why the spec that
    shapes and weights give would not convert.
    """

    path: str | None
    state_dict: StateDict
    storage: Storage
    heads: tuple[HeadProposal, ...]
    unclear: Mapping[str, str]
    other: Mapping[str, str]
    spec: Spec | None = None
    problems: tuple[str, ...] = ()


def propose(checkpoint: Checkpoint, path: str | None = None) -> Proposal:
    """Find the heads of a network and the map that each reads.

    path: where the state dict is; None where it is found anyway. Raises CheckpointError where
    there is none, or several and no path.
    """
    storage = find_storage(checkpoint, path)
    state_dict = checkpoint.state_dict(path, storage.layout)
    network = Network(state_dict)
    dense = find_heads(network)
    chains, unclear = find_chains(network, dense)
    heads = (
        *(_weighed(checkpoint, network, chain) for chain in chains[:MAX_WEIGHED]),
        *(_unweighed(chain, TOO_MANY) for chain in chains[MAX_WEIGHED:]),
    )
    proposal = Proposal(path, state_dict, storage, heads, unclear, dense.other)
    if not heads or unclear or any(head.decision.reading is None for head in heads):
        return proposal
    chosen = [(head.chain, head.decision.reading) for head in heads if head.decision.reading]
    spec, problems = smallest_spec(chosen, proposal)
    return replace(proposal, spec=spec, problems=problems)


def _weighed(checkpoint: Checkpoint, network: Network, chain: Chain) -> HeadProposal:
    """Look at the weights of the layers that read a map, and decide what it is."""
    found = readings(chain.maps.candidates)
    if not any(reading.is_spatial for reading in found):
        return _unweighed(chain, "")
    from fcn_convert.infer import evidence  # noqa: PLC0415 - imports torch

    weights = [network.dense[name] for name in chain.first]
    reasons = [evidence.why_not(weight) for weight in weights]
    usable = [weight for weight, reason in zip(weights, reasons, strict=True) if not reason]
    if not usable:
        return _unweighed(chain, reasons[0])
    samples = [evidence.read_sample(checkpoint, weight) for weight in usable[:MAX_BRANCHES]]
    weighed = evidence.weigh(samples, found)
    return HeadProposal(chain, decide(chain.maps, weighed, ""), weighed, samples[0])


def _unweighed(chain: Chain, reason: str) -> HeadProposal:
    return HeadProposal(chain, decide(chain.maps, None, reason), None, None)


def _nothing(_: Chain) -> None:
    return None


def _names(chain: Chain) -> tuple[Dense, ...]:
    return tuple(Dense(name) for name in chain.layers)


def _names_and_reads(chain: Chain) -> tuple[Dense, ...]:
    return tuple(Dense(name, "map" if name in chain.first else "dense") for name in chain.layers)


def smallest_spec(
    chosen: Sequence[tuple[Chain, Reading]], proposal: Proposal
) -> tuple[Spec | None, tuple[str, ...]]:
    """Return the shortest spec that gives every layer the kernel it should have.

    None where there is none, and the problems of the longest one.
    """
    wanted = {
        name: reading.feature_map.kernel if name in chain.first else None
        for chain, reading in chosen
        for name in chain.layers
    }
    problems: tuple[str, ...] = ()
    for listing in (_nothing, _names, _names_and_reads):
        spec = plain_spec(chosen, proposal, listing)
        try:
            layers = resolve(spec, proposal.state_dict).layers
        except SpecError as error:
            problems = error.problems
            continue
        found = {layer.name: layer.kernel if layer.reads == "map" else None for layer in layers}
        if _without_ones(found) == _without_ones(wanted):
            return spec, ()
    return None, problems


def plain_spec(
    chosen: Sequence[tuple[Chain, Reading]],
    proposal: Proposal,
    listing: Callable[[Chain], tuple[Dense, ...] | None] = _nothing,
) -> Spec:
    """Return a spec of these readings that states no defaults; listing: how layers are listed."""
    storage = proposal.storage
    heads = tuple(
        Head(fmap, "" if order == usual_order(fmap.axes, storage.layout) else order, listing(chain))
        for chain, reading in chosen
        for fmap, order in [(reading.feature_map, reading.flatten)]
    )
    # An order against the convention of a container's layout is clearer beside it.
    is_said = storage.is_said and not any(head.flatten for head in heads)
    is_default = is_said or storage.layout == "torch"
    return Spec(heads, proposal.path, None if is_default else storage.layout)


def _without_ones(kernels: Mapping[str, tuple[int, ...] | None]) -> dict[str, object]:
    """Take a kernel of ones for none: whether a layer reads a pooled map or another is the same."""
    return {
        name: kernel if kernel and max(kernel) > 1 else None for name, kernel in kernels.items()
    }
