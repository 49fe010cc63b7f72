"""The report as Markdown, for a pull request or a job's summary: the verdict first, details folded.

Written for GitHub's and GitLab's dialects. Every text that comes from a file is escaped, so that a
tensor's name is shown as it is: no markup, no HTML, no table cell, no mention of a user.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence

from fcn_convert.errors import printable
from fcn_convert.report import FileEntry, LayerEntry, Report
from fcn_convert.report.words import (
    DIFFERENCES,
    agreement,
    axes,
    differences,
    heads,
    model_lines,
    names,
    no_digest,
    picture_line,
    shape,
    size,
    totals,
    verdict,
    verdict_of,
)

MARKS = {True: "✅", False: "❌", None: "📝"}
_IN_A_SPAN = re.compile(r"[^`|\\<&]+")
"""What a code span shows as it is, in a table's cell, too."""
_ACTIVE = re.compile(r"[\\`*_\[\]|~$]")
"""What Markdown may act on in running text."""
_AT_THE_START = re.compile(r"\d+[.)]|[^\w]|_")
"""What Markdown may take for a list, a heading or code where a line begins."""
_LINKED = re.compile(r"[@#]|:(?=\S)|www(?=\.)")
"""What may begin a mention, a reference, an emoji or a link: these are made of the rendered text,
whatever was escaped, so an empty comment cuts it in two."""


def to_markdown(report: Report) -> str:
    """Return the report as Markdown, ending with a newline."""
    return "\n".join(_lines(report)).rstrip("\n") + "\n"


def code(text: str) -> str:
    """Show a name in a fixed width and nothing but the name."""
    text = printable(text)
    if _IN_A_SPAN.fullmatch(text) and text == text.strip():
        return f"`{text}`"
    # An entity is never markup, wherever it stands.
    return f"<code>{''.join(c if c.isalnum() else f'&#{ord(c)};' for c in text)}</code>"


def prose(text: str) -> str:
    """Show a sentence that may hold names from a file."""
    text = printable(text)
    first = f"&#{ord(text[0])};" if _AT_THE_START.match(text) else ""
    rest = text[1:] if first else text
    rest = rest.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return first + _LINKED.sub(r"\g<0><!-- -->", _ACTIVE.sub(r"\\\g<0>", rest))


def table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    """Yield a table's lines; the cells are Markdown already."""
    yield f"| {' | '.join(headings)} |"
    yield f"|{' --- |' * len(headings)}"
    for row in rows:
        yield f"| {' | '.join(row)} |"


def folded(summary: str, lines: Iterable[str]) -> Iterator[str]:
    """Yield lines that are shown when they are asked for."""
    yield from (f"<details><summary>{summary}</summary>", "", *lines, "", "</details>", "")


def _lines(report: Report) -> Iterator[str]:
    yield f"### {MARKS[report.verdict.passed]} {prose(verdict(report))}"
    yield ""
    output = f" ({size(report.output.bytes)})" if report.output.bytes else ""
    yield (
        f"{code(report.source.path)} ({report.source.format}, {size(report.source.bytes)})"
        f" → {code(report.output.path)}{output}"
    )
    yield ""
    for problem in report.verdict.problems:
        yield f"- {prose(problem)}"
    for warning in report.warnings:
        if warning not in report.verdict.problems:
            yield f"- ⚠️ {prose(warning)}"
    yield ""
    yield from _heads(report)
    for line in model_lines(report.model) if report.model else ():
        yield f"- {prose(line.strip())}"
    for drawn in report.model.pictures if report.model else ():
        yield f"- {prose(f'picture of {picture_line(drawn)}')}"
    yield ""
    yield prose("; ".join(filter(None, (totals(report), agreement(report)))))
    yield ""
    yield from folded("what became of every other tensor", _tensors(report))
    yield from folded("provenance", _provenance(report))


def _heads(report: Report) -> Iterator[str]:
    for feature_map, flatten, layers in heads(report):
        yield f"**Head** on a feature map {axes(feature_map)}, flattened {', '.join(flatten)}"
        yield ""
        headings = ("layer", "Dense weight", "becomes", "as", *DIFFERENCES, "verdict")
        yield from table(headings, map(_layer, layers))
        yield ""


def _layer(layer: LayerEntry) -> tuple[str, ...]:
    return (
        code(names(layer.name, layer.new_name)),
        f"{shape(layer.old_shape)} {layer.dtype}",
        shape(layer.new_shape),
        code(layer.module),
        *differences(layer.checks),
        verdict_of(layer.checks),
    )


def _tensors(report: Report) -> Iterator[str]:
    rows = (
        (
            code(names(entry.name, entry.new_name)),
            shape(entry.shape),
            entry.dtype or "",
            entry.action,
            prose(entry.reason),
            verdict_of(entry.checks),
        )
        for entry in report.tensors
    )
    yield from table(("tensor", "shape", "dtype", "action", "reason", "verdict"), rows)
    if report.ties:
        yield ""
    for tie in report.ties:
        yield f"- tied in the source, each written in full: {', '.join(map(code, tie))}"


def _provenance(report: Report) -> Iterator[str]:
    yield from table(("", "file", "container", "bytes", "sha256"), _files(report))
    yield ""
    for note in report.notes:
        yield f"- {prose(note)}"
    listed = ", ".join(f"{name} {version}" for name, version in report.versions.items())
    yield f"- made with {prose(listed)}"
    yield ""
    yield from ("The spec, as resolved:", "", "```json")
    # ASCII, and no line of it can end the fence: each begins with a blank, a brace or a quote.
    yield json.dumps(report.spec, indent=1)
    yield "```"


def _files(report: Report) -> Iterator[tuple[str, ...]]:
    both: tuple[tuple[str, FileEntry], ...] = (("source", report.source), ("output", report.output))
    for role, entry in both:
        digest = code(entry.sha256) if entry.sha256 else no_digest(entry)
        yield role, code(entry.path), entry.format, str(entry.bytes), digest
        for part in entry.files:
            digest = code(part.sha256) if part.sha256 else "not computed"
            yield "", code(part.name), "", str(part.bytes), digest
    if report.spec_file:
        yield "spec", code(report.spec_file.path), "YAML", "", code(report.spec_file.sha256)
