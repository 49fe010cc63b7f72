"""The report as JSON: what other programs read."""

from __future__ import annotations

import json
from importlib.resources import files

from fcn_convert.report import Report

SCHEMA = files("fcn_convert.report").joinpath("schema.json")
"""The report's JSON Schema."""


def to_json(report: Report) -> str:
    """Return the report by `schema.json`, indented, ending with a newline."""
    return json.dumps(report.as_dict(), indent=2, ensure_ascii=True, allow_nan=False) + "\n"
