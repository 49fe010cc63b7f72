"""Reports that are read back: by `code`, by `report merge`, and by a batch that goes on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TypeVar

from fcn_convert.errors import CheckpointError, ReportError, printable
from fcn_convert.formats.source import SourceFile

MAX_REPORT_BYTES = 1 << 27
MAX_REPORT_PARTS = 4_000_000
"""What takes memory of its own when JSON is read: a report of 130,000 tensors has 3,200,000."""

Kind = TypeVar("Kind")


def read_report(path: Path, kind: type[Kind], what: str) -> Kind:
    """Return a JSON report as a dataclass or a pydantic model that says what is needed.

    what: the report that it has to be, for messages. Raises ReportError where the file cannot be
    read, is too large, or is not that report.
    """
    from pydantic import TypeAdapter, ValidationError  # noqa: PLC0415 - slow to import

    try:
        data = json.loads(_raw(path), parse_constant=_refused)
        return TypeAdapter(kind).validate_python(data)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        place = ".".join(map(str, first["loc"]))
        problem = f"at {place[:100]}, {first['msg'][:200]}" if place else first["msg"][:200]
    except (ValueError, RecursionError) as error:
        problem = str(error)[:200]
    raise ReportError(f"{path}: is not a JSON report of {what}: {printable(problem)}")


def _raw(path: Path) -> bytes:
    try:
        with SourceFile(path) as file:
            if file.size > MAX_REPORT_BYTES:
                raise ReportError(f"{path}: has {file.size} bytes, more than any report")
            raw = file.pread(0, file.size)
    except CheckpointError as error:
        raise ReportError(*error.problems) from error
    if raw.count(b"{") + raw.count(b"[") + raw.count(b",") > MAX_REPORT_PARTS:
        raise ReportError(f"{path}: is JSON of more parts than any report has")
    return raw


def _refused(constant: str) -> float:
    raise ValueError(f"{constant} is not a number in JSON")
