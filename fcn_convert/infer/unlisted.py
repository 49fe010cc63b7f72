"""Dense layers that a spec forgets: they follow those that it lists, and stay Dense."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

from fcn_convert.errors import quoted
from fcn_convert.layers import Resolved, dense_weights
from fcn_convert.tensors import BIAS, StateDict, parent


def unlisted_doubts(resolved: Resolved, state_dict: StateDict) -> Iterator[str]:
    """Warn of layers in a row with listed ones that are not listed, and so stay Dense.

    Only where that is plain: the row does not branch and is in one module. A layer elsewhere may
    be another head, and kept as it is on purpose.
    """
    listed = {layer.name for layer in resolved.layers}
    for row in _rows_with_gaps(resolved, state_dict):
        left = [name for name in row if name not in listed]
        yield (
            f"{quoted(left)}: by its shapes in a row with {row[0]}, which becomes a convolution, "
            f"and not listed, so it stays Dense; list the whole row, `dense: [{', '.join(row)}]`"
        )


def _rows_with_gaps(resolved: Resolved, state_dict: StateDict) -> Iterator[tuple[str, ...]]:
    """Yield rows of Dense layers of which the spec lists the first, but not all."""
    layers = {layer.name: layer for layer in resolved.layers}
    weights = dense_weights(state_dict)
    given = {(parent(name), layer.weight.shape[0]) for name, layer in layers.items()}
    if not any((parent(n), w.shape[1]) in given for n, w in weights.items() if n not in layers):
        return  # as nearly always; a network is a long look at many tensors
    from fcn_convert.infer.chains import find_chains  # noqa: PLC0415 - only where it is needed
    from fcn_convert.infer.heads import find_heads  # noqa: PLC0415 - likewise
    from fcn_convert.infer.network import Network  # noqa: PLC0415 - likewise

    network = Network(state_dict)
    chains, _ = find_chains(network, find_heads(network))
    for chain in chains:
        names = chain.layers
        is_row = all(
            parent(before) == parent(after) and weights[before].shape[0] == weights[after].shape[1]
            for before, after in pairwise(names)
        )
        alike = len({name + BIAS in state_dict.tensors for name in names}) == 1
        begins = names[0] in layers and layers[names[0]].reads == "map"
        if is_row and alike and begins and not layers.keys() >= set(names):
            yield names
