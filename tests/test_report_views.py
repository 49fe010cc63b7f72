from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
import torch
from markdown_it import MarkdownIt
from reports import CASES, HOSTILE, failed, report_of, same_as_golden, shown
from safetensors.torch import load_file, save_file

from fcn_convert import CheckFailedError, convert, verify_conversion
from fcn_convert.proof import Check
from fcn_convert.report import LayerEntry
from fcn_convert.report.files import VIEWS, write_report
from fcn_convert.report.junit import to_junit
from fcn_convert.report.markdown import code, prose, to_markdown
from fcn_convert.report.words import agreement, number

SAMPLES = Path(__file__).parent.parent / "sample_checkpoints"


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("suffix", VIEWS)
def test_every_view_is_as_it_was_last_looked_at(case: str, suffix: str, tmp_path: Path) -> None:
    write_report(CASES[case], tmp_path / f"report{suffix}")
    text = (tmp_path / f"report{suffix}").read_text("utf-8")
    same_as_golden(f"{case}{suffix}", text)
    assert text.endswith("\n")


# Markdown


def rendered(markdown: str) -> ET.Element:
    """Render as GitHub does, and return the elements; raises where it is not well-formed."""
    html = MarkdownIt("commonmark", {"xhtmlOut": True}).enable("table").render(markdown)
    return ET.fromstring(f"<root>{html}</root>")


OURS = {"root", "h3", "p", "ul", "li", "strong", "code", "pre", "details", "summary"} | {
    "table",
    "thead",
    "tbody",
    "tr",
    "th",
    "td",
}


@pytest.mark.parametrize("name", HOSTILE, ids=ascii)
def test_markdown_shows_a_hostile_name_as_it_is(name: str) -> None:
    page = rendered(to_markdown(report_of(name)))
    assert {element.tag for element in page.iter()} <= OURS
    name = shown(name)
    cells = ["".join(cell.itertext()) for cell in page.iter("td")]
    assert f"{name} → {name}{name}" in cells
    assert {name, f"for {name}", f"in/{name}.pth", f"out/{name}.safetensors"} <= set(cells)
    assert {len(row) for row in page.iter("tr")} == {5, 6, 8}
    items = ["".join(item.itertext()) for item in page.iter("li")]
    assert f"⚠️ {name} is unlikely" in items
    assert f"a note on {name}" in items
    assert len(page.findall(".//h3")) == 1
    assert [block.tag for block in page.iter() if block.tag == "pre"] == ["pre"]


@pytest.mark.parametrize("text", ["@octocat", "see #12", "www.evil.example", "http://x", ":bug:"])
def test_nothing_that_github_makes_links_of_stays_in_one_piece(text: str) -> None:
    assert re.search(r"@\w|#\d|www\.|:/|:b", text)
    assert not re.search(r"@\w|#\d|www\.|:/|:b", prose(f"a {text}").replace("&#", ""))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("classifier.1", "`classifier.1`", id="plain"),
        pytest.param("a → b", "`a → b`", id="arrow"),
        pytest.param(" a", "<code>&#32;a</code>", id="blank"),
        pytest.param("a|b", "<code>a&#124;b</code>", id="pipe"),
        pytest.param("a`b", "<code>a&#96;b</code>", id="backtick"),
    ],
)
def test_a_name_in_code_is_as_plain_as_it_can_be(text: str, expected: str) -> None:
    assert code(text) == expected


def test_the_verdict_comes_first_and_problems_next() -> None:
    lines = to_markdown(failed()).splitlines()
    assert lines[0].startswith("### ❌ does not match the spec")
    assert "no output was written" in lines[0]
    assert next(line for line in lines[1:] if line.startswith("- ")).startswith("- fc")


# JUnit


@pytest.mark.parametrize("name", HOSTILE, ids=ascii)
def test_junit_is_xml_whatever_a_tensor_is_called(name: str) -> None:
    report = report_of(name)
    problem = f"{name} differs"
    bad = (*report.layers[0].checks[:1], Check("bytes", False, problem))
    report = replace(
        report,
        verdict=replace(report.verdict, passed=False, problems=(problem, "nowhere")),
        layers=(replace(report.layers[0], checks=bad), *report.layers[1:]),
    )
    root = ET.fromstring(to_junit(report))
    cases = {case.get("name"): case for case in root.iter("testcase")}
    name = shown(name)
    assert cases.keys() >= {f"{name}.weight: bytes", f"{name}: bytes", "score.weight: shapes"}
    failures = {case: e.text for case, found in cases.items() for e in found.iter("failure")}
    assert failures == {f"{name}.weight: bytes": f"{name} differs", "whole file": "nowhere"}


def test_junit_counts_one_case_per_check_and_tensor_and_one_for_the_whole() -> None:
    report = CASES["passed"]
    root = ET.fromstring(to_junit(report))
    checks = [check for entry in (*report.layers, *report.tensors) for check in entry.checks]
    suite = root[0]
    assert len(suite.findall("testcase")) == len(checks) + 1
    for element in (root, suite):
        counted = {key: int(element.attrib[key]) for key in ("tests", "failures", "skipped")}
        assert counted == {"tests": len(checks) + 1, "failures": 0, "skipped": 1}
    skipped = next(case for case in suite if case.find("skipped") is not None)
    assert skipped.attrib["name"] == "score.weight: activations"


# Of real conversions


@pytest.mark.parametrize(
    "sample", ["lenet.pth", "vgg.ckpt", "two_heads.pth", "sequence.safetensors"]
)
def test_the_views_of_the_samples(sample: str, tmp_path: Path) -> None:
    paths = [tmp_path / f"r{suffix}" for suffix in VIEWS]
    spec = (SAMPLES / sample).with_suffix(".yaml")
    report = convert(SAMPLES / sample, spec, tmp_path / "out.safetensors", reports=paths)
    page = rendered((tmp_path / "r.md").read_text("utf-8"))
    cells = ["".join(cell.itertext()) for cell in page.iter("td")]
    assert {entry.module for entry in report.layers} <= set(cells)
    root = ET.fromstring((tmp_path / "r.xml").read_text("utf-8"))
    assert root.attrib["failures"] == root.attrib["errors"] == "0"
    written = load_file(tmp_path / "out.safetensors")
    assert len(root.findall(".//testcase")) == 2 * len(written) + len(report.layers) + 1


def test_a_dry_run_has_no_case_and_no_verdict(tmp_path: Path) -> None:
    report = convert(SAMPLES / "lenet.pth", output=tmp_path / "out.safetensors", dry_run=True)
    assert ET.fromstring(to_junit(report)).attrib["tests"] == "0"
    assert to_markdown(report).startswith("### 📝 planned, nothing written\n")


def test_a_failed_verification_fails_its_cases(tmp_path: Path) -> None:
    source, output = SAMPLES / "lenet.pth", tmp_path / "out.safetensors"
    convert(source, output=output)
    tensors = load_file(output)
    tensors["classifier.1.weight"][0, 0, 0, 0] += 1
    save_file({**tensors, "extra": torch.ones(1)}, output)
    with pytest.raises(CheckFailedError):
        verify_conversion(source, output, level="bytes", reports=[tmp_path / "r.xml"])
    root = ET.fromstring((tmp_path / "r.xml").read_text("utf-8"))
    names = [case.get("name") for case in root.iter("testcase") if case.find("failure") is not None]
    assert names == ["classifier.1.weight: bytes", "whole file"]


# Words


@pytest.mark.parametrize(
    ("furthest", "said"),
    [
        (0.0, "every output of these layers agrees exactly"),
        (4.9e-15, "every output of these layers agrees to 14 decimals"),
        (5.1e-15, "every output of these layers agrees to 13 decimals"),
        (0.004, "every output of these layers agrees to 2 decimals"),
        (0.006, "every output of these layers agrees within rounding"),
        (1e300, "every output of these layers agrees within rounding"),
    ],
)
def test_agreement_counts_decimals_of_the_worst_output(furthest: float, said: str) -> None:
    first = report_of("fc").layers[0]
    entries = tuple(answered(first, apart) for apart in (furthest, furthest / 3))
    report = replace(CASES["passed"], layers=entries)
    assert agreement(report) == said
    failed = replace(report.verdict, problems=("the model answers otherwise",))
    assert agreement(replace(report, verdict=failed)) is None


def answered(entry: LayerEntry, apart: float) -> LayerEntry:
    """Say of a layer that its outputs on the larger map are this far apart."""
    *others, answers = entry.checks
    values = {**answers.values, "max_abs_diff": 0.0, "larger_map_max_abs_diff": apart}
    return replace(entry, checks=(*others, replace(answers, values=values)))


@pytest.mark.parametrize("case", CASES)
def test_agreement_is_not_claimed_where_an_output_differs_or_was_not_computed(case: str) -> None:
    assert agreement(CASES[case]) is None


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (0.0, "0"),
        (1.84e-15, "1.8e-15"),
        (5.92, "5.92"),
        (2e9, "2.0e+09"),
        (float("inf"), "inf"),
        (None, "unknown"),
        ("NaN", "NaN"),
    ],
)
def test_a_number_is_short(value: float | str | None, said: str) -> None:
    assert number(value) == said
