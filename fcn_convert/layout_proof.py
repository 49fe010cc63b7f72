"""Where the values of a foreign layout's tensors are: worked out for the proof, from axis names.

Shares no arithmetic with `formats/layouts.py`, by which the conversion reads arrays: here the place
of an element is counted out from the stored shape, there strides change places.
"""

from __future__ import annotations

import re
from dataclasses import replace
from math import prod

from fcn_convert.tensors import StateDict, Stored, TensorInfo, is_row_major

_AXIS = re.compile(r"\(([^)]*)\)|(\S+)")


def as_the_layout_says(found: StateDict) -> StateDict:
    """Return a state dict with shapes and strides that follow from the stored axes alone."""
    tensors = {name: _seen(t, t.stored) if t.stored else t for name, t in found.tensors.items()}
    return replace(found, tensors=tensors)


def _seen(tensor: TensorInfo, stored: Stored) -> TensorInfo:
    if not stored.pattern:
        return replace(tensor, shape=stored.shape, strides=stored.strides)
    names, _, wanted = stored.pattern.partition("->")
    size = dict(zip(names.split(), stored.shape, strict=True))
    axes = [(joined or alone).split() for joined, alone in _AXIS.findall(wanted)]
    shape = tuple(prod(size.get(axis, 1) for axis in group) for group in axes)
    # One step along an axis is one step along the last of those that it joins.
    strides = tuple(_step(group, names.split(), stored) for group in axes)
    return replace(tensor, shape=shape, strides=None if is_row_major(shape, strides) else strides)


def _step(group: list[str], names: list[str], stored: Stored) -> int:
    """Return how many elements of the file are between two neighbours along an axis."""
    longer = [axis for axis in group if axis in names and stored.shape[names.index(axis)] > 1]
    if not longer:
        return 1
    position = names.index(longer[-1])
    if stored.strides is not None:
        return stored.strides[position]
    # All axes after it in the file pass between two of its elements.
    return prod(stored.shape[position + 1 :])
