"""The report as JSON: what other programs read."""

from __future__ import annotations

import json
from importlib.resources import files

from fcn_convert.report import Report
from fcn_convert.report.batch import BatchReport

SCHEMA = files("fcn_convert.report").joinpath("schema.json")
"""The report's JSON Schema."""
BATCH_SCHEMA = files("fcn_convert.report").joinpath("batch_schema.json")
"""A batch's."""


def to_json(report: Report | BatchReport) -> str:
    """Return the report by its schema, indented, ending with a newline."""
    return json.dumps(report.as_dict(), indent=2, ensure_ascii=True, allow_nan=False) + "\n"
