"""Report files: the suffix chooses the view."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from importlib import import_module
from pathlib import Path

from fcn_convert.atomic import check_target, write_text
from fcn_convert.errors import OutputError
from fcn_convert.report import Report
from fcn_convert.report.batch import BatchReport

AnyReport = Report | BatchReport

VIEWS: Mapping[str, tuple[str, str]] = {
    ".json": ("json_view", "to_json"),
    ".md": ("markdown", "to_markdown"),
    ".html": ("html", "to_html"),
    ".xml": ("junit", "to_junit"),
}
"""Module and function of each view of a conversion; imported when it is asked for."""
BATCH_VIEWS: Mapping[str, tuple[str, str]] = {
    ".json": ("json_view", "to_json"),
    ".md": ("batch_views", "to_markdown"),
    ".html": ("html", "batch_to_html"),
    ".xml": ("batch_views", "to_junit"),
}
"""The same for a batch; there is one for each suffix."""


def check_suffix(path: Path, views: Iterable[str] = VIEWS) -> None:
    """Raise OutputError unless one of the views is known by the path's suffix."""
    if path.suffix not in views:
        known = ", ".join(views)
        raise OutputError(f"{path}: no report has the suffix {path.suffix!r}; known are {known}")


def check_paths(
    paths: Iterable[Path], inputs: Iterable[Path], views: Iterable[str] = VIEWS
) -> None:
    """Raise OutputError unless a report may be written to each path; inputs are only read."""
    for path in paths:
        check_suffix(path, views)
        check_target(path, replace=True, inputs=inputs)


def write_report(report: AnyReport, path: Path) -> None:
    """Write a report, in place of an older one; raises OutputError."""
    views = BATCH_VIEWS if isinstance(report, BatchReport) else VIEWS
    module, function = views[path.suffix]
    text: str | Iterable[str] = getattr(import_module(f"fcn_convert.report.{module}"), function)(
        report
    )
    write_text(path, [text] if isinstance(text, str) else text, replace=True)
