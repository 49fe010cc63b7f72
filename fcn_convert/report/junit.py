"""The report as JUnit XML, which CI systems show as tests: one case per check and tensor."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from xml.etree.ElementTree import Element, SubElement, indent, tostring

from fcn_convert.errors import printable
from fcn_convert.proof import Check
from fcn_convert.report import Report
from fcn_convert.report.words import only_of_the_whole

WHOLE = "whole file"


def to_junit(report: Report) -> str:
    """Return the report as JUnit XML; a check that could not be computed is a skipped case."""
    root = Element("testsuites", name="fcn-convert")
    path = printable(report.source.path)
    suite = SubElement(root, "testsuite", name=path)
    # A plan has no cases: nothing of it was checked.
    if report.verdict.passed is not None:
        for name, checks in _checked(report):
            for check in checks:
                case = SubElement(
                    suite, "testcase", classname=path, name=printable(f"{name}: {check.name}")
                )
                _conclude(case, check)
        whole = SubElement(suite, "testcase", classname=path, name=WHOLE)
        problems = only_of_the_whole(report)
        if problems:
            fail(whole, "failure", problems)
    if report.warnings:
        SubElement(suite, "system-err").text = "\n".join(map(printable, report.warnings))
    return document(root)


def document(root: Element) -> str:
    """Count each suite's cases, and return the document, indented, ending with a newline."""
    for parent in (root, *root.iter("testsuite")):
        for attribute, tag in (
            ("tests", "testcase"),
            ("failures", "failure"),
            ("errors", "error"),
            ("skipped", "skipped"),
        ):
            parent.set(attribute, str(sum(1 for _ in parent.iter(tag))))
    indent(root)
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{tostring(root, encoding="unicode")}\n'


def fail(case: Element, kind: str, problems: Iterable[str]) -> None:
    """Let a case fail: `failure` for a check, `error` for what could not be checked at all."""
    text = "\n".join(map(printable, problems))
    # The first line as a title; a reader that shows the body shows the others, too.
    SubElement(case, kind, message=text.split("\n")[0], type=kind).text = text


def _checked(report: Report) -> Iterator[tuple[str, tuple[Check, ...]]]:
    for layer in report.layers:
        yield f"{layer.name}.weight", layer.checks
    for entry in report.tensors:
        yield entry.name, entry.checks


def _conclude(case: Element, check: Check) -> None:
    if check.passed is None:
        SubElement(case, "skipped", message=printable(check.problem))
    elif not check.passed:
        fail(case, "failure", [check.problem])
