"""Puts a report together from what was read, planned and proved."""

from __future__ import annotations

import platform
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from math import prod
from pathlib import Path
from typing import Any

from fcn_convert.formats import Checkpoint
from fcn_convert.infer.findings import Finding, warnings_of
from fcn_convert.layers import DenseLayer, Resolved
from fcn_convert.proof import Check, Proof
from fcn_convert.report import (
    DIFFERS,
    MATCHES,
    PLANNED,
    FileEntry,
    LayerEntry,
    PartEntry,
    Report,
    SpecFile,
    StoredEntry,
    TensorAction,
    TensorEntry,
    Verdict,
)
from fcn_convert.spec import Spec
from fcn_convert.tensors import WEIGHT, LeftOut, StateDict, TensorInfo

WHOLE_FILE = "(the whole file)"
PACKAGES = ("fcn-convert", "torch", "numpy", "safetensors")
"""What computes, and what values change places by."""


def entry_of(checkpoint: Checkpoint, digests: Sequence[str], path: Path) -> FileEntry:
    """Describe an open checkpoint that is, or will be, at `path`.

    digests: sha256 of each of its files; empty where they were not computed.
    """
    known: Sequence[str | None] = digests or [None] * len(checkpoint.stored)
    files = tuple(
        PartEntry(file.path.name, file.size, digest)
        for file, digest in zip(checkpoint.stored, known, strict=True)
    )
    form, nbytes = checkpoint.index.format, checkpoint.nbytes
    if len(files) == 1:
        return FileEntry(str(path), form, nbytes, known[0])
    return FileEntry(str(path), form, nbytes, None, files)


def make_report(  # noqa: PLR0913 - a report is made of everything there is
    spec: Spec,
    resolved: Resolved,
    original: Checkpoint,
    output: FileEntry,
    proof: Proof | None,
    evidence: tuple[Finding, ...] = (),
    *,
    strict: bool = False,
    writes: bool = True,
) -> Report:
    """Put together what is known; without a proof the report is of a plan.

    evidence: what the weights say of the spec; where they contradict it, that is a warning, too.
    strict: a warning is a problem. writes: whether a passed check puts the output in place.
    """
    state_dict = original.state_dict(spec.state_dict, spec.layout)
    checks = proof.checks if proof else {}
    warnings = (*resolved.warnings, *warnings_of(evidence), *_not_compared(resolved, checks))
    return Report(
        verdict=_verdict(proof, warnings if strict else (), writes=writes),
        source=entry_of(original, proof.read if proof else (), original.path),
        output=output,
        spec=_resolved_spec(spec, resolved, state_dict),
        spec_file=SpecFile(*spec.file) if spec.file else None,
        layers=tuple(_layer(layer, resolved, checks) for layer in resolved.layers),
        tensors=tuple(_others(resolved, original, state_dict, checks)),
        ties=state_dict.ties,
        warnings=warnings,
        notes=original.index.notes,
        versions=versions(),
        evidence=evidence,
    )


def _not_compared(resolved: Resolved, checks: Mapping[str, tuple[Check, ...]]) -> Iterator[str]:
    """Warn of a layer that a passed verdict would seem to cover like the others."""
    for layer in resolved.layers:
        for check in checks.get(layer.weight.name, ()):
            if check.passed is None:
                yield f"{layer.weight.name}: no {check.name} were compared: {check.problem}"


def _verdict(proof: Proof | None, warnings: tuple[str, ...], *, writes: bool) -> Verdict:
    if proof is None:
        return Verdict(PLANNED, False if warnings else None, None, "not written", warnings)
    problems = (*proof.problems, *warnings)
    return Verdict(
        DIFFERS if proof.problems else MATCHES,
        not problems,
        proof.level,
        "only read" if not writes else "not written" if problems else "written",
        problems,
    )


def _resolved_spec(spec: Spec, resolved: Resolved, state_dict: StateDict) -> dict[str, Any]:
    """Return the spec with everything said that it left out."""
    heads = [
        {
            "feature_map": dict(zip(head.feature_map.axes, head.feature_map.sizes, strict=True)),
            "flatten": head.flatten,
            "dense": [
                {"name": layer.name, "reads": layer.reads}
                for layer in resolved.layers
                if layer.head is head
            ],
        }
        for head in resolved.heads
    ]
    whole = {"version": 1, "layout": state_dict.layout, "heads": heads, "rename": dict(spec.rename)}
    return {**whole, **({"state_dict": state_dict.path} if state_dict.path else {})}


def _layer(
    layer: DenseLayer, resolved: Resolved, checks: Mapping[str, tuple[Check, ...]]
) -> LayerEntry:
    weight, fmap = layer.weight, layer.head.feature_map
    features_out, features_in = weight.shape
    channels = features_in // prod(layer.kernel)
    return LayerEntry(
        name=layer.name,
        new_name=resolved.names[weight.name].removesuffix(WEIGHT),
        reads=layer.reads,
        flatten=layer.head.flatten,
        feature_map=dict(zip(fmap.axes, fmap.sizes, strict=True)),
        kernel=layer.kernel,
        dtype=weight.dtype.name,
        old_shape=weight.shape,
        new_shape=(features_out, channels, *layer.kernel),
        bias=layer.bias is not None,
        module=convolution_line(channels, features_out, layer.kernel, bias=layer.bias is not None),
        checks=checks.get(weight.name, ()),
        stored=_stored(weight),
    )


def convolution_line(
    channels: int, features_out: int, kernel: tuple[int, ...], *, bias: bool
) -> str:
    """Return the line of Python that makes the convolution."""
    size = kernel[0] if len(set(kernel)) == 1 and max(kernel) == 1 else kernel
    shown = f"({kernel[0]},)" if isinstance(size, tuple) and len(size) == 1 else str(size)
    without = "" if bias else ", bias=False"
    return f"nn.Conv{len(kernel)}d({channels}, {features_out}, kernel_size={shown}{without})"


def _others(
    resolved: Resolved,
    original: Checkpoint,
    state_dict: StateDict,
    checks: Mapping[str, tuple[Check, ...]],
) -> Iterator[TensorEntry]:
    rewritten = {layer.weight.name for layer in resolved.layers}
    for name, tensor in state_dict.tensors.items():
        if name not in rewritten:
            yield _kept(tensor, resolved.names[name], checks.get(name, ()))
    for entry in (
        *state_dict.left_out,
        *_not_chosen(original, state_dict),
        *original.index.left_out,
    ):
        yield TensorEntry(entry.name, None, None, None, None, "left out", entry.reason, ())


def _not_chosen(original: Checkpoint, chosen: StateDict) -> Iterator[LeftOut]:
    taken = chosen.path or WHOLE_FILE
    for other in original.index.state_dicts:
        if other.path != chosen.path:  # reading it by a layout makes another object
            reason = f"another state dict ({other.size}); {taken} was taken"
            yield LeftOut(other.path or WHOLE_FILE, reason)


def _stored(tensor: TensorInfo) -> StoredEntry | None:
    stored = tensor.stored
    return StoredEntry(stored.name, stored.shape, stored.pattern) if stored else None


def _kept(tensor: TensorInfo, name: str, checks: tuple[Check, ...]) -> TensorEntry:
    action, reason = _action(tensor, name)
    return TensorEntry(
        tensor.name,
        name,
        tensor.dtype.name,
        tensor.shape,
        tensor.nbytes,
        action,
        reason,
        checks,
        _stored(tensor),
    )


def _action(tensor: TensorInfo, name: str) -> tuple[TensorAction, str]:
    """Return in a word and a sentence what becomes of a tensor that is not a Dense weight."""
    stored = tensor.stored
    if stored and stored.pattern:
        return "transposed", f"its axes are stored as {stored.pattern.partition(' -> ')[0]}"
    if name != tensor.name:
        return "renamed", "the spec renames it"
    if stored and stored.name != name:
        return "renamed", "PyTorch's name for it"
    return "kept", "not a Dense weight of a head"


def versions() -> dict[str, str]:
    """Return the versions that results can depend on; reads metadata, imports nothing."""
    found = {"python": platform.python_version()}
    return found | {name: _version(name) for name in PACKAGES}


@cache
def _version(package: str) -> str:
    """Return an installed version; reading it takes a millisecond, as long as a small file."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "unknown"
