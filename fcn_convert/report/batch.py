"""The report of a batch: what came of each of many conversions, as one object."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from fcn_convert.errors import FcnConvertError, ReportError, quoted
from fcn_convert.report.making import versions
from fcn_convert.report.reading import read_report

MAX_SHARDS = 1_000_000

Outcome = Literal["converted", "up to date", "check failed", "unusable", "bug"]
STATUSES: Mapping[Outcome, int] = {
    "converted": 0,
    "up to date": 0,
    "check failed": 1,
    "unusable": 2,
    "bug": 70,
}
"""The exit status of each outcome; a batch exits with the largest."""


@dataclass(frozen=True)
class Piece:
    """One conversion of a batch.

    report: the path of its own report; None where there is none. bytes: the source's size, None
    where it could not be read. traceback: of a bug of ours.
    """

    source: str
    output: str
    outcome: Outcome
    seconds: float = 0.0
    report: str | None = None
    layers: int | None = None
    bytes: int | None = None
    problems: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    traceback: str | None = None


@dataclass(frozen=True)
class Shard:
    """A part of a batch: the `number`-th of `count`, from 1."""

    number: int
    count: int

    @property
    def exists(self) -> bool:
        """Whether there is such a part, of a plausible number of parts."""
        return 1 <= self.number <= self.count <= MAX_SHARDS

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"


@dataclass(frozen=True)
class BatchReport:
    """A batch, or one machine's shard of it, in the order of its sources."""

    pieces: tuple[Piece, ...]
    shard: Shard | None
    versions: dict[str, str]
    schema_version: Literal[1] = 1

    @property
    def status(self) -> int:
        """The worst exit status of any piece."""
        return max((STATUSES[piece.outcome] for piece in self.pieces), default=0)

    @property
    def totals(self) -> dict[str, int]:
        """Count the pieces by outcome, every outcome included."""
        outcomes = [piece.outcome for piece in self.pieces]
        return {outcome: outcomes.count(outcome) for outcome in STATUSES}

    def as_dict(self) -> dict[str, Any]:
        """Return the report as JSON's types; its schema is `batch_schema.json` beside this file."""
        plain = asdict(self)
        pieces = [
            {
                key: list(value) if isinstance(value, tuple) else value
                for key, value in piece.items()
            }
            for piece in plain["pieces"]
        ]
        return {
            "schema_version": self.schema_version,
            "status": self.status,
            "totals": self.totals,
            **plain,
            "pieces": pieces,
        }


def make_batch_report(pieces: Iterable[Piece], shard: Shard | None = None) -> BatchReport:
    """Put together what came of the pieces."""
    return BatchReport(tuple(pieces), shard, versions())


def read_batch_report(path: Path) -> BatchReport:
    """Return the report in a JSON file; raises FcnConvertError where it holds none."""
    report = read_report(path, BatchReport, "a batch, as `fcn-convert batch --report` writes it")
    if report.shard and not report.shard.exists:
        raise ReportError(f"{path}: there is no shard {report.shard}")
    return report


def merged(reports: Mapping[str, BatchReport]) -> BatchReport:
    """Join reports, by their names for messages; raises FcnConvertError where they do not fit.

    Each output may stand in one of them only, and of shards there must be every one.
    """
    origin: dict[str, str] = {}
    for name, report in reports.items():
        for piece in report.pieces:
            if piece.output in origin:
                raise FcnConvertError(
                    f"{piece.output} is in {origin[piece.output]} and in {name}; "
                    "merge reports of different conversions"
                )
            origin[piece.output] = name
    _check_shards(reports)
    pieces = [piece for report in reports.values() for piece in report.pieces]
    names = sorted({name for report in reports.values() for name in report.versions})
    used = {
        name: ", ".join(
            sorted({report.versions.get(name, "unknown") for report in reports.values()})
        )
        for name in names
    }
    return BatchReport(tuple(sorted(pieces, key=lambda piece: piece.output)), None, used)


def _check_shards(reports: Mapping[str, BatchReport]) -> None:
    shards = {report.shard for report in reports.values() if report.shard}
    for count in sorted({shard.count for shard in shards}):
        missing = sorted({*range(1, count + 1)} - {s.number for s in shards if s.count == count})
        if missing:
            listed = quoted(f"{number}/{count}" for number in missing)
            raise FcnConvertError(f"the reports of these shards are missing: {listed}")
