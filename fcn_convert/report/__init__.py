"""The report: everything that was done and checked, as one object that every view is made of."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, is_dataclass, replace
from math import isfinite
from typing import Any, Literal

from fcn_convert.errors import FcnConvertError
from fcn_convert.infer.findings import Finding
from fcn_convert.proof import Check, Level
from fcn_convert.report.model_entry import ModelEntry, model_problems, model_warnings
from fcn_convert.spec import Reads

SCHEMA_VERSION = 1
MATCHES, DIFFERS = "matches the spec", "does not match the spec"
MODEL_DIFFERS = "does not answer as the model does"
PLANNED = "planned, nothing written"
TensorAction = Literal["kept", "renamed", "transposed", "left out"]
"""What was done with a tensor that is not a rewritten weight."""


@dataclass(frozen=True)
class PartEntry:
    """One of several files: its name in their folder, size in bytes, and sha256."""

    name: str
    bytes: int
    sha256: str | None


@dataclass(frozen=True)
class FileEntry:
    """A checkpoint: its path, container, size in bytes, and sha256 (None where not computed).

    files: where there are several; then each has a sha256, and not the whole.
    """

    path: str
    format: str
    bytes: int
    sha256: str | None
    files: tuple[PartEntry, ...] = ()


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
    reads: Reads
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
    action: TensorAction
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
