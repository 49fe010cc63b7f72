"""Report files: the suffix chooses the view."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from importlib import import_module
from pathlib import Path

from fcn_convert.atomic import check_regular, write_text
from fcn_convert.errors import ExistsError, OutputError
from fcn_convert.formats.source import SourceFile
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
BEGINNINGS: Mapping[str, bytes] = {
    ".json": rb"\s*{\s*"
    rb'"schema_version":\s*\d+,\s*("verdict":\s*{\s*"text":|"status":\s*\d+,\s*"totals":)',
    ".md": "### (✅|❌|📝) (matches|does not|planned|\\d+ conversion)".encode(),
    ".html": rb'<!DOCTYPE html>.{1,60}<meta name="generator" content="fcn-convert">',
    ".xml": rb'<\?xml version="1.0" encoding="UTF-8"\?>\n<testsuites name="fcn-convert',
    ".png": rb"\x89PNG\r\n\x1a\n.{29}tEXtSoftware\0fcn-convert",
}
"""How a report or a picture of ours begins: a run writes them anew, and replaces nothing else."""
BEGINNING_BYTES = 256


def check_replaceable(path: Path, inputs: Iterable[Path] = (), *, replace: bool = False) -> None:
    """Raise OutputError unless a report or a picture may be written to a path.

    There may be nothing, an empty file, or an older one of ours. replace: or another's.
    """
    check_regular(path, inputs)
    if replace or not os.path.lexists(path):
        return
    with SourceFile(path) as file:
        beginning = file.pread(0, min(file.size, BEGINNING_BYTES))
    if beginning and not re.match(BEGINNINGS[path.suffix], beginning, re.DOTALL):
        raise ExistsError(
            f"{path}: already exists and is not a report or picture of ours; only those are "
            "replaced; name another file, or remove this one"
        )


def check_paths(
    paths: Iterable[Path],
    inputs: Iterable[Path],
    views: Iterable[str] = VIEWS,
    *,
    replace: bool = False,
) -> None:
    """Raise OutputError unless a report may be written to each path.

    inputs: are only read. replace: whatever regular file is there.
    """
    for path in paths:
        check_suffix(path, views)
        check_replaceable(path, inputs, replace=replace)


def check_suffix(path: Path, views: Iterable[str] = VIEWS) -> None:
    """Raise OutputError unless there is a view for the suffix."""
    if path.suffix not in views:
        known = ", ".join(views)
        raise OutputError(f"{path}: no report has the suffix {path.suffix!r}; known are {known}")


def write_report(report: AnyReport, path: Path, *, replace: bool = False) -> None:
    """Write a report, in place of an older one or, to replace, of any; raises OutputError."""
    check_replaceable(path, replace=replace)  # it may have appeared since it was looked for
    views = BATCH_VIEWS if isinstance(report, BatchReport) else VIEWS
    module, function = views[path.suffix]
    text: str | Iterable[str] = getattr(import_module(f"fcn_convert.report.{module}"), function)(
        report
    )
    write_text(path, [text] if isinstance(text, str) else text, replace=os.path.lexists(path))
