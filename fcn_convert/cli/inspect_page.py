"""What `fcn-convert inspect` shows, as a page to look at."""

from __future__ import annotations

from fcn_convert.cli.inspect_view import EVIDENCE, about, evidence, not_heads, reading_of, remarks
from fcn_convert.infer.findings import Pattern
from fcn_convert.infer.inspection import Inspection
from fcn_convert.report.html import page


def to_html(found: Inspection) -> str:
    """Return a page of everything, with the mean kernels of the best two readings drawn."""
    heads = [
        {
            "layers": head["layers"],
            "reading": reading_of(head),
            "known": head["reading"] is not None,
            "remarks": list(remarks(head)),
            "evidence": [(score, *evidence(score)) for score in head["evidence"]],
            "patterns": [
                Pattern(tuple(pattern["sizes"]), tuple(pattern["values"]))
                for pattern in head["patterns"]
            ],
        }
        for head in found.heads
    ]
    about_it, *lines = about(found)
    return page(
        "inspection.html",
        found=found,
        title=about_it,
        lines=lines,
        heads=heads,
        headings=EVIDENCE,
        others=list(not_heads(found)) if not found.problem else [],
    )
