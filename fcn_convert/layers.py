"""Which Dense layer reads what: a spec against the names and shapes of a checkpoint.

Every disagreement between the two is found here and reported at once. Nothing is guessed: where
shapes leave several readings, the error shows the numbers and asks.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Container, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from fnmatch import filter as matching

from fcn_convert.errors import MAX_PROBLEMS, SpecError, quoted
from fcn_convert.renames import renamed, torn_apart
from fcn_convert.shape_doubts import inapplicable, shape_doubts
from fcn_convert.spec import MAX_DENSE, Dense, Head, Reads, Spec
from fcn_convert.tensors import BIAS, WEIGHT, StateDict, TensorInfo, natural_key, parent

NORMED = ("weight_g", "weight_orig", "original", "original0")
"""Ends of the names under which weight and spectral norm keep the parts of the weight."""
NAMELESS = (
    "`weight` is of a Dense layer saved by itself, which has no name; save it in a network, "
    "torch.save(nn.Sequential(layer).state_dict(), ...), where it is called 0"
)


@dataclass(frozen=True)
class DenseLayer:
    """A Dense layer that becomes a convolution.

    weight: of shape (features_out, features_in). bias: of shape (features_out,), if any.
    reads: `map` where it reads the flattened feature map, `dense` where it reads another layer.
    """

    name: str
    weight: TensorInfo
    bias: TensorInfo | None
    head: Head
    reads: Reads

    @property
    def kernel(self) -> tuple[int, ...]:
        """The convolution's kernel: the map's spatial sizes, or 1 along each."""
        spatial = self.head.feature_map.kernel
        return spatial if self.reads == "map" else (1,) * len(spatial)


@dataclass(frozen=True)
class Resolved:
    """A spec applied to a checkpoint: its layers in forward order, and the output's names.

    heads: the spec's, each with its flatten order. names: the new name of every tensor by its old
    one.
    """

    heads: tuple[Head, ...]
    layers: tuple[DenseLayer, ...]
    names: Mapping[str, str]
    warnings: tuple[str, ...]


def resolve(spec: Spec, state_dict: StateDict) -> Resolved:
    """Find the layers a spec means; raises SpecError with everything that does not fit."""
    spec = replace(spec, heads=tuple(h.flattened_as(state_dict.layout) for h in spec.heads))
    search = _Search(spec, state_dict)
    layers = search.layers()
    problems = search.problems
    names = renamed(spec, state_dict, problems)
    for head in spec.heads:
        problems += inapplicable(spec, head, state_dict)
    problems = problems or list(torn_apart((layer.name for layer in layers), names))
    if problems:
        raise SpecError(*problems)
    return Resolved(spec.heads, layers, names, tuple(shape_doubts(spec, layers, state_dict)))


def dense_weights(state_dict: StateDict) -> dict[str, TensorInfo]:
    """Return the 2-D weights of modules by module name, in natural order."""
    found = {
        name.removesuffix(WEIGHT): tensor
        for name, tensor in state_dict.tensors.items()
        if len(tensor.shape) == 2 and name.endswith(WEIGHT)
    }
    return {name: found[name] for name in sorted(found, key=natural_key)}


class _Search:
    """The search for the Dense layers of every head.

    problems: what does not fit, a sentence each.
    """

    def __init__(self, spec: Spec, state_dict: StateDict) -> None:
        self.spec = spec
        self.tensors = state_dict.tensors
        self.left_out = {entry.name for entry in state_dict.left_out}
        self.weights = dense_weights(state_dict)
        self.problems: list[str] = []

    def layers(self) -> tuple[DenseLayer, ...]:
        """Return the layers in forward order, head by head, as far as they are found."""
        bare = self.tensors.get("weight")
        if not self.weights and bare is not None and len(bare.shape) == 2:
            raise SpecError(NAMELESS)
        listed = [self._listed(head) for head in self.spec.heads]
        named = {entry.name for entries in listed for entry in entries or ()}
        found = [
            self._only_reading(head, named) if entries is None else entries
            for head, entries in zip(self.spec.heads, listed, strict=True)
        ]
        counts = Counter(entry.name for entries in found for entry in entries)
        self.problems += [
            f"{name} is named twice, or two heads would take it; a layer belongs to one head once"
            for name in sorted((n for n, times in counts.items() if times > 1), key=natural_key)
        ]
        if counts.total() > MAX_DENSE:
            raise SpecError(
                *self.problems,
                f"the heads would have {counts.total()} Dense layers, over {MAX_DENSE}",
            )
        heads = zip(self.spec.heads, found, strict=True)
        return tuple(layer for head, entries in heads for layer in self._of(head, entries))

    def _listed(self, head: Head) -> list[Dense] | None:
        """Expand the globs of a head; None where it names no layers."""
        if head.dense is None:
            return None
        expanded: list[Dense] = []
        for entry in head.dense:
            if entry.name in self.weights:
                expanded.append(entry)
                continue
            matches = matching(self.weights, entry.name)
            expanded += [Dense(name, entry.reads, entry.line) for name in matches]
            if not matches:
                # Of the problems that are not shown only the number is given.
                shown = len(self.problems) < MAX_PROBLEMS
                reason = self._why_not_dense(entry.name) if shown else "is not a Dense layer"
                self.problems.append(f"{entry.name} {reason}{self.spec.at(entry.line)}")
        return expanded

    def _why_not_dense(self, name: str) -> str:
        weight = self.tensors.get(name + WEIGHT)
        if weight is not None:
            return (
                f"is not a Dense layer: its weight has the shape {list(weight.shape)}, "
                "expected 2 axes"
            )
        if name in self.tensors:
            module = parent(name) or "without its last part"
            return f"is a tensor; name its module, {module}"
        inside = [tensor for tensor in self.tensors if tensor.startswith(f"{name}.")]
        if any(tensor.endswith(NORMED) for tensor in inside):
            return (
                f"has no plain weight but {quoted(inside)}: "
                "remove its weight or spectral norm before saving"
            )
        listed = quoted(self.weights) or "none"
        return f"is not a Dense layer of the checkpoint; its Dense layers are {listed}"

    def _only_reading(self, head: Head, named: Container[str]) -> list[Dense]:
        """Return the layers of a head that names none, if shapes leave one reading."""
        weights = {n: w for n, w in self.weights.items() if n not in named}
        by_inputs: dict[int, list[str]] = defaultdict(list)
        for name, weight in weights.items():
            by_inputs[weight.shape[1]].append(name)
        first = by_inputs.pop(head.feature_map.features, [])
        chain = list(first)
        for name in chain:  # grows while it is walked: each layer brings those that can read it
            chain += by_inputs.pop(weights[name].shape[0], [])
        if len(first) == 1 and len(chain) == len(weights):
            return [Dense(name) for name in chain]
        listed = quoted(f"{n} {list(w.shape)}" for n, w in weights.items())
        shown = f"feature_map {head.feature_map} has {head.feature_map.features} features"
        if not weights:
            why = "no Dense layer is left to read the map, as where all are convolutions already"
            self.problems.append(f"{why}{self.spec.at(head.line)}")
            return []
        if not first:
            inputs = quoted(f"{name} takes {weight.shape[1]}" for name, weight in weights.items())
            self.problems.append(
                f"no Dense layer reads the map: {shown}, but {inputs}; correct its sizes, "
                f"or the layout{self.spec.at(head.line)}"
            )
            return []
        if len(first) == 1:
            reason = f"{shown}, which {first[0]} reads, but not every other layer follows from it"
        else:
            reason = f"{shown}, and {len(first)} Dense layers have as many inputs"
        self.problems.append(
            f"the Dense layers cannot be told from their shapes: {reason}; list them in forward "
            f"order as `dense: [...]`, out of: {listed}{self.spec.at(head.line)}"
        )
        return []

    def _of(self, head: Head, entries: Iterable[Dense]) -> Iterator[DenseLayer]:
        """Decide for each layer, in forward order, whether it reads the map or another layer."""
        earlier: list[int] = []
        for entry in entries:
            weight, bias = self.weights[entry.name], self.tensors.get(entry.name + BIAS)
            features_out, features_in = weight.shape
            at = self.spec.at(entry.line or head.line)
            reads, doubt = _reads(head, entry, features_in, earlier)
            if reads is None:
                self.problems.append(
                    f"{entry.name}{WEIGHT} has {features_in} input features, {doubt}{at}"
                )
            elif entry.name + BIAS in self.left_out:
                self.problems.append(f"{entry.name}{BIAS} is not a tensor, so it would be lost{at}")
            elif bias is not None and bias.shape != (features_out,):
                self.problems.append(
                    f"{bias.name} has {list(bias.shape)}, expected [{features_out}]{at}"
                )
            else:
                yield DenseLayer(entry.name, weight, bias, head, reads)
            earlier.append(features_out)


def _reads(
    head: Head, entry: Dense, features_in: int, earlier: list[int]
) -> tuple[Reads | None, str]:
    """Return what a layer reads, or None and why that cannot be told."""
    fmap = head.feature_map
    fits_map, fits_dense = features_in == fmap.features, features_in in earlier
    shown = f"feature_map {fmap} has {fmap.features}"
    if entry.reads == "dense":
        return "dense", ""
    if fits_map and (entry.reads == "map" or not fits_dense):
        return "map", ""
    if fits_map:
        if fmap.features == fmap.channels:  # both readings are the same kernel
            return "map", ""
        return None, f"as {shown} and as an earlier layer gives: say `reads: map` or `reads: dense`"
    if entry.reads == "map" or not earlier:
        pooled = f"; it reads a pooled map: write {[fmap.channels] + [1] * len(fmap.kernel)}"
        return None, f"but {shown}{pooled if features_in == fmap.channels else ''}"
    if fits_dense:
        return "dense", ""
    return None, (
        f"but {shown} and earlier layers give {quoted(map(str, earlier))}: "
        "say `reads: dense` if something is concatenated or gated before it"
    )
