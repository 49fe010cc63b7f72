"""Report files: the suffix chooses the view."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

from fcn_convert.atomic import write_text
from fcn_convert.errors import OutputError
from fcn_convert.report import Report

VIEWS = {
    ".json": ("json_view", "to_json"),
    ".md": ("markdown", "to_markdown"),
    ".xml": ("junit", "to_junit"),
}
"""Module and function of each view; imported when it is asked for."""


def check_suffix(path: Path) -> None:
    """Raise OutputError unless a view is known by the path's suffix."""
    if path.suffix not in VIEWS:
        known = ", ".join(VIEWS)
        raise OutputError(f"{path}: no report has the suffix {path.suffix!r}; known are {known}")


def write_report(report: Report, path: Path) -> None:
    """Write a report, in place of an older one; raises OutputError."""
    module, function = VIEWS[path.suffix]
    text: str = getattr(import_module(f"fcn_convert.report.{module}"), function)(report)
    write_text(path, text, replace=True)
