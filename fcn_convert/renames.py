"""The new name of every tensor, by the prefixes that a spec renames."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from fcn_convert.spec import Spec
from fcn_convert.tensors import BIAS, WEIGHT, StateDict, why_no_name


def renamed(spec: Spec, state_dict: StateDict, problems: list[str]) -> dict[str, str]:
    """Apply the renames to every tensor's name; the longest matching prefix wins."""
    lengths = sorted({len(prefix) for prefix in spec.rename}, reverse=True)
    used: set[str] = set()
    names: dict[str, str] = {}
    for name in state_dict.tensors:
        ends = (length for length in lengths if name[length : length + 1] in {"", "."})
        prefix = next((p for end in ends if (p := name[:end]) in spec.rename), None)
        if prefix is None:
            names[name] = name
        else:
            used.add(prefix)
            rest = name[len(prefix) :]
            names[name] = spec.rename[prefix] + rest if spec.rename[prefix] else rest[1:]
    for prefix in spec.rename:
        if prefix not in used:
            at = spec.at(spec.rename_lines.get(prefix))
            problems.append(f"rename: no tensor's name starts with {prefix}{at}")
    problems += _clashes(names)
    return names


def _clashes(names: Mapping[str, str]) -> Iterator[str]:
    old_names: dict[str, str] = {}
    for old, new in names.items():
        if old and not new:
            yield f"rename: {old} would have no name left"
        elif new != old and ("" in new.split(".") or why_no_name(new)):
            yield f"rename: {old} would be called {new!r}, which no tensor can be"
        elif new in old_names:
            yield f"rename: {old_names[new]} and {old} would both be called {new}"
        old_names[new] = old


def torn_apart(layers: Iterable[str], names: Mapping[str, str]) -> Iterator[str]:
    """Yield what is wrong with layers whose tensors are not a module's under their new names.

    layers: names of modules, as they are before the renames.
    """
    for layer in layers:
        weight = names[layer + WEIGHT]
        module = weight.removesuffix(WEIGHT)
        if module == weight:
            yield (
                f"rename: {layer + WEIGHT} would be called {weight}, which is not a module's weight"
            )
        elif names.get(layer + BIAS, module + BIAS) != module + BIAS:
            bias = names[layer + BIAS]
            yield f"rename: the weight and the bias of {layer} would be called {weight} and {bias}"
