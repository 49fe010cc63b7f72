"""A checkpoint's names beside its model's: a wrapper puts a part, or a prefix, into all of them."""

from __future__ import annotations

from collections.abc import Iterable

WRAPPERS = {"module", "_orig_mod"}
"""What data parallelism and torch.compile put into the names of what they wrap."""
COUNTER = ".num_batches_tracked"
"""Of a BatchNorm; old files have none."""


def names_in_model(file: Iterable[str], model: Iterable[str]) -> dict[str, str]:
    """Return the model's name of each tensor of a file; its own where they have nothing in common.

    They may differ by what wrappers put in, and by one prefix in front of all of the file's names,
    or of the model's.
    """
    theirs = {_unwrapped(name): name for name in file}
    mine = {_unwrapped(name): name for name in model}
    own = {name: name for name in theirs.values()}
    wanted = [name for name in mine if not name.endswith(COUNTER)]
    for prefix in _prefixes(theirs, wanted):
        if all(prefix + name in theirs for name in wanted):
            return own | {theirs[prefix + n]: mine[n] for n in mine if prefix + n in theirs}
    for prefix in _prefixes(wanted, list(theirs)):
        if all(prefix + name in mine for name in theirs):
            return {name: mine[prefix + key] for key, name in theirs.items()}
    return own


def _prefixes(longer: Iterable[str], shorter: list[str]) -> list[str]:
    """Return what stands before the first of the shorter names, the shortest first."""
    first = min(shorter, default="")
    found = {n.removesuffix(first) for n in longer if n == first or n.endswith(f".{first}")}
    return sorted(found, key=len)


def _unwrapped(name: str) -> str:
    return ".".join(part for part in name.split(".") if part not in WRAPPERS)
