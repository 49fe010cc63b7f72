"""The report: everything that was done and checked, as one object that every view is made of."""

from __future__ import annotations

import platform
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, is_dataclass, replace
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from math import isfinite, prod
from pathlib import Path
from typing import Any, Literal

from fcn_convert.errors import FcnConvertError
from fcn_convert.formats import Checkpoint
from fcn_convert.infer.findings import Finding, warnings_of
from fcn_convert.layers import DenseLayer, Resolved
from fcn_convert.proof import Check, Level, Proof
from fcn_convert.report.model_entry import ModelEntry, model_problems, model_warnings
from fcn_convert.spec import Spec
from fcn_convert.tensors import WEIGHT, LeftOut, StateDict, TensorInfo

SCHEMA_VERSION = 1
MATCHES, DIFFERS = "matches the spec", "does not match the spec"
MODEL_DIFFERS = "does not answer as the model does"
PLANNED = "planned, nothing written"
WHOLE_FILE = "(the whole file)"
PACKAGES = ("fcn-convert", "torch", "numpy", "safetensors")
"""What computes, and what values change places by."""


@dataclass(frozen=True)
class PartEntry:
    """One of several files: its name in their folder, size in bytes, and sha256."""

    name: str
    bytes: int
    sha256: str | None


@dataclass(frozen=True)
class FileEntry:
    """A checkpoint: its path, container, size in bytes, and sha256 (None where not computed).

    files: where it lies in several; then each has a sha256, and not the whole.
    """

    path: str
    format: str
    bytes: int
    sha256: str | None
    files: tuple[PartEntry, ...] = ()


def entry_of(checkpoint: Checkpoint, digests: Sequence[str], path: Path) -> FileEntry:
    """Describe an open checkpoint that lies, or is to lie, at `path`.

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


@dataclass(frozen=True)
class SpecFile:
    """The spec's file, as it was read."""

    path: str
    sha256: str


@dataclass(frozen=True)
class StoredEntry:
    """How the file has a tensor that PyTorch has otherwise.

    axes: as stored and as PyTorch has them, as a pattern; empty where only the name differs.
    """

    name: str
    shape: tuple[int, ...]
    axes: str


@dataclass(frozen=True)
class LayerEntry:
    """A Dense layer and the convolution it became.

    module: the line that makes the convolution in PyTorch. old_shape, new_shape: of the weight.
    stored: None where the file has it as PyTorch does.
    """

    name: str
    new_name: str
    reads: str
    flatten: str
    feature_map: dict[str, int]
    kernel: tuple[int, ...]
    dtype: str
    old_shape: tuple[int, ...]
    new_shape: tuple[int, ...]
    bias: bool
    module: str
    checks: tuple[Check, ...]
    stored: StoredEntry | None = None


@dataclass(frozen=True)
class TensorEntry:
    """Any other tensor or entry: what was done with it, and why."""

    name: str
    new_name: str | None
    dtype: str | None
    shape: tuple[int, ...] | None
    bytes: int | None
    action: str
    reason: str
    checks: tuple[Check, ...]
    stored: StoredEntry | None = None


@dataclass(frozen=True)
class Verdict:
    """Whether the output matches the spec, at which level, and what does not.

    output: what became of the file; where it was not written, an older one stays.
    """

    text: str
    passed: bool | None
    level: Level | None
    output: Literal["written", "not written", "only read"]
    problems: tuple[str, ...]


@dataclass(frozen=True)
class Report:
    """A conversion or a verification, whole."""

    verdict: Verdict
    source: FileEntry
    output: FileEntry
    spec: dict[str, Any]
    spec_file: SpecFile | None
    layers: tuple[LayerEntry, ...]
    tensors: tuple[TensorEntry, ...]
    ties: tuple[tuple[str, ...], ...]
    warnings: tuple[str, ...]
    notes: tuple[str, ...]
    versions: dict[str, str]
    model: ModelEntry | None = None
    evidence: tuple[Finding, ...] = ()

    def with_model(self, model: ModelEntry, *, strict: bool = False) -> Report:
        """Return the report with what running the model showed, which can fail it, too.

        strict: a warning is a problem.
        """
        warnings = list(model_warnings(model))
        problems = [*model_problems(model), *(warnings if strict else ())]
        verdict = replace(
            self.verdict,
            text=self.verdict.text if model.passed else MODEL_DIFFERS,
            passed=self.verdict.passed and not problems,
            problems=(*self.verdict.problems, *problems),
        )
        return replace(self, model=model, verdict=verdict, warnings=(*self.warnings, *warnings))

    @property
    def totals(self) -> dict[str, int]:
        """Count the layers that are rewritten, and the other tensors and entries by action."""
        counts = Counter(entry.action for entry in self.tensors)
        return {"rewritten": len(self.layers), **dict(sorted(counts.items()))}

    def fields(self) -> Iterator[tuple[str, Any]]:
        """Yield what the report as JSON holds, by name, in its order."""
        yield "schema_version", SCHEMA_VERSION
        yield from vars(self).items()
        yield "totals", self.totals

    def as_dict(self) -> dict[str, Any]:
        """Return the report as JSON's types; its schema is `schema.json` beside this file."""
        return {name: as_json(value) for name, value in self.fields()}


def as_json(value: Any) -> Any:
    """Return JSON's own types: lists for tuples, texts for the numbers that it lacks."""
    kind = type(value)
    if kind in _JSON:
        return value
    if kind is float:
        return value if isfinite(value) else str(value)
    if kind is tuple or kind is list:
        return [as_json(inner) for inner in value]
    fields = vars(value) if is_dataclass(kind) else value
    return {key: as_json(inner) for key, inner in fields.items()}


_JSON = {str, int, bool, type(None)}


class CheckFailedError(FcnConvertError):
    """A check failed; the report says which, and what became of the output."""

    def __init__(self, report: Report) -> None:
        self.report = report
        super().__init__(*report.verdict.problems)


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
    """Warn of a layer that a passed verdict would seem to speak of as of the others."""
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


def _action(tensor: TensorInfo, name: str) -> tuple[str, str]:
    """Return in a word and in a sentence what becomes of a tensor that is no Dense weight."""
    stored = tensor.stored
    if stored and stored.pattern:
        return "transposed", f"its axes are stored as {stored.pattern.partition(' -> ')[0]}"
    if name != tensor.name:
        return "renamed", "the spec renames it"
    if stored and stored.name != name:
        return "renamed", "PyTorch's name for it"
    return "kept", "no Dense weight of a head"


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
