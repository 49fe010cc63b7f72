"""The report as JSON: what other programs read."""

from __future__ import annotations

import json
from collections.abc import Iterator
from importlib.resources import files
from typing import Any

from fcn_convert.report import Report, TensorEntry, as_json
from fcn_convert.report.batch import BatchReport

SCHEMA = files("fcn_convert.report").joinpath("schema.json")
"""The report's JSON Schema."""
BATCH_SCHEMA = files("fcn_convert.report").joinpath("batch_schema.json")
"""A batch's."""
PIECE = 256
"""Tensors whose text is made at a time."""


def to_json(report: Report | BatchReport) -> Iterator[str]:
    """Yield the report by its schema, indented, and each other tensor on a line.

    In pieces, for there may be a hundred thousand of those.
    """
    if isinstance(report, BatchReport):
        yield _indented(report.as_dict()) + "\n"
        return
    between = "{"
    for name, value in report.fields():
        yield f"{between}\n  {json.dumps(name)}: "
        if name == "tensors":
            yield from _lines(report.tensors)
        else:
            yield _indented(as_json(value)).replace("\n", "\n  ")
        between = ","
    yield "\n}\n"


def _lines(entries: tuple[TensorEntry, ...]) -> Iterator[str]:
    """Yield a list with a line for each: indenting them would take longer than all the rest."""
    encode = json.JSONEncoder(allow_nan=False).encode
    between = "["
    for start in range(0, len(entries), PIECE):
        yield between
        between = ","
        yield ",".join(f"\n    {encode(as_json(e))}" for e in entries[start : start + PIECE])
    yield "\n  ]" if entries else "[]"


def _indented(value: Any) -> str:
    return json.dumps(value, indent=2, allow_nan=False)
