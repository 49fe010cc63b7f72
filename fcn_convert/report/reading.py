"""Reports that are read back: by `code`, by `report merge`, and by a batch that goes on."""

from __future__ import annotations

from pathlib import Path

from fcn_convert.errors import ReportError
from fcn_convert.formats.source import SourceFile

MAX_REPORT_BYTES = 1 << 28
"""A conversion of half a million tensors, or a batch of as many conversions."""


def read_report(path: Path) -> bytes:
    """Return a JSON report's text; raises CheckpointError or, if too large, ReportError."""
    with SourceFile(path) as file:
        if file.size > MAX_REPORT_BYTES:
            raise ReportError(f"{path}: has {file.size} bytes, more than any report")
        return file.pread(0, file.size)
