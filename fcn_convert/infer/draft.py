"""The text that `init` writes: a spec with its reasons, or what is open as commented choices."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from fcn_convert.errors import SpecError, printable, quoted
from fcn_convert.formats import open_checkpoint
from fcn_convert.infer.proposal import (
    HeadProposal,
    Proposal,
    plain_spec,
    propose,
    smallest_spec,
)
from fcn_convert.infer.readings import Reading
from fcn_convert.spec_text import comments, spec_text
from fcn_convert.tensors import TensorInfo


@dataclass(frozen=True)
class SpecDraft:
    """A spec's text, why it says what it does, and what is left for its author to decide."""

    text: str
    reasons: tuple[str, ...]
    problems: tuple[str, ...]


def draft_spec(checkpoint: Path, state_dict: str | None = None) -> SpecDraft:
    """Write the smallest spec that converts a checkpoint, with the evidence as comments.

    state_dict: where in a wrapped checkpoint. Raises SpecError where nothing could be a head, and
    CheckpointError where the checkpoint is unusable or holds several state dicts.
    """
    with open_checkpoint(checkpoint) as opened:
        proposal = propose(opened, state_dict)
        notes = [f"{note}." for note in opened.index.notes]
    if not proposal.heads:
        raise SpecError(f"{checkpoint}: {_no_head(proposal)}")
    remarks = [f"Written by `fcn-convert init` for {checkpoint.name}.", *notes, *_others(proposal)]
    if proposal.spec is not None:
        over = [_reasons(head) for head in proposal.heads]
        reasons = tuple(reason for head in over for reason in head)
        return SpecDraft(spec_text(proposal.spec, remarks, over), reasons, ())
    problems = tuple(f"{checkpoint}: {problem}" for problem in _problems(proposal))
    return SpecDraft(_open(proposal, remarks), (), problems)


def _no_head(proposal: Proposal) -> str:
    found = {**proposal.other, **proposal.unclear}
    tensors = proposal.state_dict.tensors.values()
    flat = [tensor for tensor in tensors if len(tensor.shape) == 2]
    if not found and flat:
        return (
            f"has no Dense layer: no 2-D tensor is called a module's `.weight` ({_listed(flat)}); "
            "save each by its layer's name, as `fc1.weight` and `fc1.bias`"
        )
    if not found:
        kernels = any(t.name.endswith(".weight") and len(t.shape) > 2 for t in tensors)
        instead = ", as where all are convolutions already" if kernels else f" ({_listed(tensors)})"
        return f"has no Dense layer: no tensor has two axes{instead}"
    names: dict[str, list[str]] = {}
    for name, reason in found.items():
        names.setdefault(reason, []).append(name)
    listed = "; ".join(f"{quoted(layers, 4)}: {reason}" for reason, layers in names.items())
    return (
        f"none of its Dense layers is known to read a feature map ({listed}); if one reads a map, "
        "or a whole image, write a spec with that `feature_map` and the layers as `dense`"
    )


def _listed(tensors: Iterable[TensorInfo]) -> str:
    return quoted((f"{tensor.name} {list(tensor.shape)}" for tensor in tensors), 4)


def _problems(proposal: Proposal) -> Iterator[str]:
    """Say what is open, a sentence each."""
    yield from proposal.problems
    for name, reason in proposal.unclear.items():
        yield f"whether {name} belongs to a head cannot be told: {reason}"
    for head in proposal.heads:
        if head.decision.reading is None:
            names = quoted(head.chain.first, 4)
            yield (
                f"what {names} reads cannot be told from the file alone: "
                f"{'; '.join(head.decision.remarks)}; the candidates are written as comments"
            )


def _others(proposal: Proposal) -> Iterator[str]:
    """Say how arrays are stored, and sum up the Dense layers that are left alone."""
    if proposal.storage.remark:
        yield f"Layout: {proposal.storage.remark}."
    reasons = Counter(reason.split(",")[0] for reason in proposal.other.values())
    if reasons:
        listed = quoted((f"{reason} ({count})" for reason, count in reasons.items()), 6)
        yield f"Dense layers inside the network stay as they are: {listed}."
    for name, reason in proposal.unclear.items():
        yield f"Not known: {name}, {reason}."


def _reasons(head: HeadProposal) -> list[str]:
    names = quoted(head.chain.first, 4)
    return [f"{names}: {head.decision.remarks[0]}.", *(f"{r}." for r in head.decision.remarks[1:])]


def _open(proposal: Proposal, remarks: list[str]) -> str:
    """Write the choices as comments, so that the spec says nothing until one is taken."""
    lines = [*comments(remarks), "version: 1", "#"]
    if len(proposal.heads) == 1:
        [head] = proposal.heads
        lines += [*comments(_reasons(head)), "# Take one of these out of its comment:"]
        for reading in _choices(head):
            lines += ["#", *_commented(proposal, [reading], [])]
        return "\n".join(lines) + "\n"
    over = [[*_reasons(head), *_or(head)] for head in proposal.heads]
    first = [_choices(head)[0] for head in proposal.heads]
    lines.append("# Take this out of its comment, each head with what it really reads:")
    lines += _commented(proposal, first, over)
    return "\n".join(lines) + "\n"


def _choices(head: HeadProposal) -> tuple[Reading, ...]:
    decided = head.decision.reading
    return (decided,) if decided else head.decision.alternatives


def _or(head: HeadProposal) -> list[str]:
    return [
        f"or feature_map: {list(reading.feature_map.sizes)}, flatten: {reading.flatten}"
        for reading in _choices(head)[1:]
    ]


def _commented(proposal: Proposal, chosen: list[Reading], over: list[list[str]]) -> Iterator[str]:
    """Yield the lines of the spec with these readings, each as a comment."""
    heads = [(head.chain, r) for head, r in zip(proposal.heads, chosen, strict=True)]
    spec, _ = smallest_spec(heads, proposal)
    for line in spec_text(spec or plain_spec(heads, proposal), (), over).splitlines():
        yield f"# {printable(line)}"
