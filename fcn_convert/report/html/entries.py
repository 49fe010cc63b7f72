"""What the pages say of layers and tensors: put in order, and cut where there are too many."""

from __future__ import annotations

from dataclasses import dataclass

from fcn_convert.infer.findings import Finding, ReadingFound
from fcn_convert.proof import AnswersCheck, Check
from fcn_convert.report import LayerEntry, Report, TensorEntry
from fcn_convert.report.words import largest_of_outputs

LIMIT = 1000
"""Rows of one table: a page of a hundred thousand would not open. The JSON report has all."""
PICTURES = 24
"""Layers that are drawn."""
NOTABLE = ("left out", "transposed", "renamed", "kept")
"""Actions; those that change something come first."""


@dataclass(frozen=True)
class LayerPage:
    """A layer with what its weights say of the spec, and what can be drawn of its answers."""

    entry: LayerEntry
    finding: Finding | None
    answers: AnswersCheck | None

    @property
    def patterns(self) -> list[ReadingFound]:
        """The readings of the map that have a mean kernel: the best, and its runner-up."""
        readings = self.finding.readings if self.finding else ()
        return [reading for reading in readings if reading.pattern]

    @property
    def weight(self) -> float | None:
        """The largest difference of the weights; None where it is not known."""
        found = (c.values.get("max_abs_diff") for c in self.entry.checks if c.name == "bytes")
        value = next(found, None)
        return value if isinstance(value, float) else None

    @property
    def outputs(self) -> float | None:
        """The largest difference of the outputs; None where none were computed."""
        return largest_of_outputs(self.answers) if self.answers else None

    @property
    def bound(self) -> float | None:
        """The greatest bound of any output."""
        value = self.answers.values["bound"] if self.answers else None
        return value if isinstance(value, float) else None

    @property
    def problems(self) -> list[str]:
        """What does not hold."""
        return [check.problem for check in self.entry.checks if check.passed is False]


def layers_of(report: Report) -> list[LayerPage]:
    """Return the layers in the order of the report."""
    findings = {finding.layer: finding for finding in report.evidence}
    return [
        LayerPage(entry, findings.get(entry.name), _answers(entry.checks))
        for entry in report.layers
    ]


def _answers(checks: tuple[Check, ...]) -> AnswersCheck | None:
    return next((check for check in checks if isinstance(check, AnswersCheck)), None)


def tensors_of(report: Report) -> list[TensorEntry]:
    """Return the other tensors: first what differs, then what was left out or changed."""

    def order(entry: TensorEntry) -> tuple[bool, int]:
        failed = any(check.passed is False for check in entry.checks)
        return not failed, NOTABLE.index(entry.action)

    return sorted(report.tensors, key=order)
