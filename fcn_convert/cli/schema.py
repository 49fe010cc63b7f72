"""`fcn-convert schema`."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from fcn_convert.cli.streams import stdout


def schema(
    of: Annotated[
        Literal["spec", "report", "batch"], typer.Argument(help="What the schema describes.")
    ] = "spec",
) -> None:
    """Print the JSON Schema of the spec, for editors, or of a report."""
    import json

    if of == "spec":
        from fcn_convert.spec_schema import json_schema

        text = json.dumps(json_schema(), indent=2)
    else:
        from fcn_convert.report.json_view import BATCH_SCHEMA, SCHEMA

        text = (SCHEMA if of == "report" else BATCH_SCHEMA).read_text("utf-8").rstrip()
    with stdout() as stream:
        stream.write(text + "\n")
