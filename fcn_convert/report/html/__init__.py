"""The reports as HTML pages to look at: one file each, with nothing loaded from elsewhere.

Whatever comes from a file passes `_shown` and is escaped, and stands in text, never in an attribute
(pictures and numbers are made here). Should that fail, the page's own policy lets a browser run
no script and take no style but the two that are in it, known by their hashes.
"""

from __future__ import annotations

import json
from base64 import b64encode
from functools import cache
from hashlib import sha256
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from fcn_convert.errors import printable
from fcn_convert.report import Report, words
from fcn_convert.report.batch import STATUSES, BatchReport
from fcn_convert.report.batch_views import numbers, summary
from fcn_convert.report.html.diagram import diagram
from fcn_convert.report.html.drawings import histogram, kernel_pictures, larger_map
from fcn_convert.report.html.entries import LIMIT, PICTURES, layers_of, tensors_of
from fcn_convert.report.words import heads

if TYPE_CHECKING:
    from jinja2 import Environment

TEMPLATES = files("fcn_convert.report.html").joinpath("templates")


def to_html(report: Report) -> str:
    """Return the report of a conversion or a verification as a page."""
    drawn = [
        (axes, order, diagram(axes, order, dense[:PICTURES]), len(dense) - PICTURES)
        for axes, order, dense in heads(report)
    ]
    return page(
        "conversion.html",
        report=report,
        warnings=[text for text in report.warnings if text not in report.verdict.problems],
        heads=drawn,
        layers=layers_of(report),
        tensors=tensors_of(report),
        spec=json.dumps(report.spec, indent=1, ensure_ascii=False).split("\n"),
    )


def batch_to_html(report: BatchReport) -> str:
    """Return the report of a batch as a page."""
    return page(
        "batch.html",
        report=report,
        summary=summary(report),
        numbers=numbers,
        statuses=STATUSES,
        failed=[piece for piece in report.pieces if piece.problems],
        warned=[piece for piece in report.pieces if piece.warnings],
    )


def page(template: str, **data: Any) -> str:
    """Return a page made by a template, ending with a newline."""
    text: str = _environment().get_template(template).render(data)
    return text.rstrip("\n") + "\n"


@cache
def _environment() -> Environment:
    """Return what renders the templates; imported late, as only pages need it."""
    from jinja2 import Environment, PackageLoader, StrictUndefined  # noqa: PLC0415

    environment = Environment(
        loader=PackageLoader("fcn_convert.report.html"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_shown,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    style, script = (_own(name) for name in ("style.css", "sort.js"))
    environment.globals |= {
        "style": style,
        "script": script,
        "policy": (
            f"default-src 'none'; img-src data:; base-uri 'none'; form-action 'none'; "
            f"style-src '{_hash(style)}'; script-src '{_hash(script)}'"
        ),
        "words": words,
        "histogram": histogram,
        "kernel_pictures": kernel_pictures,
        "larger_map": larger_map,
        "LIMIT": LIMIT,
        "PICTURES": PICTURES,
    }
    return environment


def _shown(value: Any) -> Any:
    """Return what a template prints: a text from a file with escapes for what is not printable."""
    return value if hasattr(value, "__html__") or not isinstance(value, str) else printable(value)


def _own(name: str) -> Any:
    """Return one of our own files as it is: the style or the script."""
    from markupsafe import Markup  # noqa: PLC0415 - comes with jinja2

    return Markup(TEMPLATES.joinpath(name).read_text("utf-8"))  # noqa: S704 - of this package


def _hash(text: str) -> str:
    return f"sha256-{b64encode(sha256(text.encode()).digest()).decode()}"
