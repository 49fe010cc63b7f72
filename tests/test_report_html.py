"""The HTML views, as a parser sees them; `test_browser.py` shows them to a browser."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from reports import ANSWERS, CASES, HOSTILE, head, layer, model, report_of, shown

from fcn_convert import Report
from fcn_convert.proof import Check, LargerMap, Spread
from fcn_convert.report import TensorEntry
from fcn_convert.report.batch import BatchReport, Piece
from fcn_convert.report.html import batch_to_html, to_html
from fcn_convert.report.html.diagram import diagram
from fcn_convert.report.html.drawings import AXIS, histogram, larger_map
from fcn_convert.report.html.entries import LIMIT, PICTURES

VOID = {"meta", "img", "br"}


class Page(HTMLParser):
    """The elements of a page with their attributes, and the text in each."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, tuple[tuple[str, str | None], ...]]] = []
        self.texts: list[tuple[str, str]] = []
        self._open: list[str] = []
        self.feed(html)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, tuple(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, tuple(attrs)))  # as SVG's paths are closed

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append((self._open[-1] if self._open else "", data))

    def handle_decl(self, decl: str) -> None:
        assert decl == "DOCTYPE html"

    def handle_comment(self, data: str) -> None:
        raise AssertionError(data)

    def handle_pi(self, data: str) -> None:
        raise AssertionError(data)

    @property
    def text(self) -> str:
        return "".join(data for _, data in self.texts)

    def within(self, tag: str) -> list[str]:
        return [data.strip() for holder, data in self.texts if holder == tag and data.strip()]

    def count(self, tag: str) -> int:
        return sum(1 for found, _ in self.elements if found == tag)


def everywhere(name: str) -> Report:
    """Make a report with a name in every text that can come from a file or a user."""
    report = report_of(name)
    problem = f"{name} differs"
    checks = (*report.layers[0].checks[:1], Check("bytes", False, problem), ANSWERS)
    doubted = replace(report.evidence[0], reason=f"of {name}: no", outcome="contradicts")
    return replace(
        report,
        verdict=replace(report.verdict, passed=False, problems=(problem, f"{name} has no origin")),
        layers=(
            replace(report.layers[0], checks=checks, module=f"nn.{name}", dtype=name),
            *report.layers[1:],
        ),
        spec={**report.spec, "state_dict": name},
        versions={**report.versions, name: name},
        evidence=(doubted, replace(doubted, layer="score", readings=())),
        model=model(name),
    )


def batch_of(name: str) -> BatchReport:
    return BatchReport(
        (
            Piece(name, name, "bug", 0.5, problems=(f"{name}!",), traceback=f"Trace\n{name}"),
            Piece(f"{name}/a", name, "converted", 0.5, name, 2, 7, warnings=(f"{name}?",)),
        ),
        None,
        {name: name},
    )


@pytest.mark.parametrize("name", HOSTILE, ids=ascii)
@pytest.mark.parametrize("kind", ["conversion", "batch"])
def test_no_element_and_no_attribute_comes_from_a_name(kind: str, name: str) -> None:
    def page(name: str) -> Page:
        of_conversion = kind == "conversion"
        return Page(to_html(everywhere(name)) if of_conversion else batch_to_html(batch_of(name)))

    found = page(name)
    assert found.elements == page("plain").elements
    scripts, styles = found.within("script"), found.within("style")
    assert scripts == page("plain").within("script")
    assert styles == page("plain").within("style")
    assert len(scripts) == len(styles) == 1
    name = shown(name)
    if kind == "batch":
        for text in (name, f"{name}/a", f"{name}!", f"{name}?", "Trace\n"):
            assert text in found.text
        return
    assert found.text.count(name) > 25
    for text in (f"{name} → {name}{name}", f"{name} differs", f"{name} is unlikely", f"nn.{name}"):
        assert text in found.text
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u202e\ud800-\udfff]", found.text)


@pytest.mark.parametrize("case", CASES)
def test_nothing_is_loaded_from_elsewhere(case: str) -> None:
    html = to_html(CASES[case])
    page = Page(html)
    for tag, attributes in page.elements:
        found = dict(attributes)
        assert tag not in {"link", "iframe", "object", "embed", "base", "form", "a"}
        assert not any(key.startswith("on") or key == "style" for key in found)
        assert (found.get("src") or "data:image/png;base64,").startswith("data:image/png;base64,")
        assert "href" not in found
    assert "url(" not in html
    assert "http://" not in html
    assert "https://" not in html
    policy = next(dict(a)["content"] or "" for t, a in page.elements if "http-equiv" in dict(a))
    assert policy.startswith("default-src 'none'; ")
    assert "unsafe" not in policy


def test_the_verdict_comes_first_then_problems_then_the_heads() -> None:
    headings = [text for tag, text in Page(to_html(CASES["failed"])).texts if tag in {"h1", "h2"}]
    assert headings == [
        "does not match the spec (checked: activations); no output was written",
        "What does not hold",
        "Warnings",
        "The heads, before and after",
        "Layer by layer",
        "The whole network",
        "Everything else",
        "Provenance",
    ]


def test_every_picture_has_a_title_and_every_heading_of_a_table_a_scope() -> None:
    page = Page(to_html(CASES["passed"]))
    for at, (tag, attributes) in enumerate(page.elements):
        if tag == "svg":
            follows = page.elements[at + 1][0]
            assert follows == "title" or dict(attributes)["aria-hidden"] == "true"
        if tag == "th":
            assert dict(attributes)["scope"] in {"col", "row"}
        if tag == "img":
            assert dict(attributes)["alt"]
        if tag == "table":
            assert page.elements[at + 1][0] == "caption"


def test_a_large_report_is_cut_with_a_word() -> None:
    report = report_of("features.0")
    kept = [
        TensorEntry(f"t{n}.weight", f"t{n}.weight", "F32", (2,), 8, "kept", "for tests", ())
        for n in range(20 * LIMIT)
    ]
    layers = [layer(f"fc{n}") for n in range(2 * PICTURES)]
    out = TensorEntry("epoch", None, None, None, None, "left out", "not a tensor", ())
    spec = {**report.spec, "heads": [head(layers, C=2, H=3, W=4)]}
    html = to_html(replace(report, spec=spec, tensors=(*kept, out), layers=tuple(layers)))
    page = Page(html)
    assert f"… and {19 * LIMIT + 1} more" in page.text
    assert f"{PICTURES} more layers are not drawn" in page.text
    assert f"{PICTURES} more layers of this head are not drawn" in page.text
    cells = page.within("td")
    assert cells.count("kept") == LIMIT - 1
    assert cells.count("left out") == 1
    assert {entry.name for entry in layers} <= set(cells)
    assert len(html) < 2 << 20


def test_a_warning_that_is_a_problem_is_said_once() -> None:
    report = report_of("fc")
    verdict = replace(report.verdict, passed=False, problems=report.warnings)
    page = Page(to_html(replace(report, verdict=verdict)))
    assert page.within("li").count(report.warnings[0]) == 1
    assert "Warnings" not in page.within("h2")


def test_a_tensor_that_differs_comes_first() -> None:
    report = report_of("fc")
    bad = replace(report.tensors[0], name="bad", new_name="bad", checks=(Check("bytes", False),))
    cells = Page(to_html(replace(report, tensors=(*report.tensors, bad)))).within("td")
    assert cells.index("bad") < cells.index("epoch") < cells.index("n.w → m.w")


def test_a_difference_beyond_every_number_can_be_sorted() -> None:
    report = report_of("fc")
    checks = (Check("bytes", False, "fc differs", {"max_abs_diff": float("inf")}),)
    layers = (replace(report.layers[0], checks=checks), *report.layers[1:])
    page = Page(to_html(replace(report, layers=layers)))
    values = [
        dict(attributes).get("data-value") for tag, attributes in page.elements if tag == "td"
    ]
    assert "Infinity" in values  # as a browser reads it


# The drawings


@pytest.mark.parametrize(
    ("spread", "beyond"),
    [
        pytest.param(Spread(0, -12, (3, 0, 9)), [], id="within"),
        pytest.param(Spread(5, -2, (1, 2, 4)), [], id="up-to-the-bound"),
        pytest.param(Spread(5, -2, (1, 2, 4, 1)), [1], id="one-power-beyond"),
        pytest.param(Spread(5, 30, (1, 2, 4)), [1, 2, 4], id="far-beyond"),
        pytest.param(Spread(5, -64, (1, *[0] * 127, 4)), [4], id="widest"),
    ],
)
def test_bars_stand_on_the_side_of_the_bound_on_which_the_differences_are(
    spread: Spread, beyond: list[int]
) -> None:
    drawn = histogram(spread)
    counts = [count for count in spread.counts if count]
    assert len(drawn.bars) == len(counts)
    assert [bar.kind for bar in drawn.bars].count("beyond") == len(beyond)
    for bar, count in zip(drawn.bars, counts, strict=True):
        assert (bar.kind == "beyond") == (bar.x + 0.01 >= drawn.bound)
        assert bar.x + bar.width <= drawn.bound + 0.01 or bar.kind == "beyond"
        assert bar.y + bar.height == pytest.approx(AXIS, abs=0.1)
        tallest = max(bar.height for bar in drawn.bars)
        assert bar.height == pytest.approx(max(2, tallest * count / max(counts)), abs=0.1)
    assert [ten for x, ten in drawn.ticks if x == drawn.bound] == [0]
    assert 2 <= len(drawn.ticks) <= 9
    assert min(bar.x for bar in drawn.bars) >= 0
    assert max(bar.x + bar.width for bar in drawn.bars) <= 350


def test_a_maps_cells_lie_where_their_values_do() -> None:
    values = (0.0, 1.0, -1.0, 0.5, 0.0, float("nan"))
    [pair] = larger_map(LargerMap((2, 3), (7,), (values,), (values,)))
    assert pair.feature == 7
    assert (pair.dense.width, pair.dense.height) == (3, 2)
    found = {(shade.kind, shade.opacity): shade.path for shade in pair.dense.shades}
    assert found == {
        ("more", 1.0): "M1 0h1v1h-1z",
        ("less", 1.0): "M2 0h1v1h-1z",
        ("more", 0.5): "M0 1h1v1h-1z",
        ("odd", 1.0): "M2 1h1v1h-1z",
    }


def test_the_slices_of_a_3d_map_do_not_overlap() -> None:
    values = tuple(float(n) for n in range(1, 13))
    [pair] = larger_map(LargerMap((3, 2, 2), (0,), (values,), (values,)))
    starts = re.findall(r"M([\d.]+) ([\d.]+)h", "".join(s.path for s in pair.dense.shades))
    assert len(set(starts)) == 12
    assert len(pair.dense.frames) == 3


def test_a_head_flows_where_features_fit_and_starts_anew_where_they_do_not() -> None:
    shapes = [
        ("map", 64, 24),
        ("dense", 10, 64),
        ("map", 32, 24),
        ("dense", 2, 32),
        ("dense", 9, 64),
    ]
    layers = [
        layer(f"fc{n}", reads=reads, old_shape=(out, into), new_shape=(out, into, 1, 1))
        for n, (reads, out, into) in enumerate(shapes)
    ]
    drawn = diagram({"C": 2, "H": 3, "W": 4}, "HWC", layers)
    starts = [arrow.text for arrow in drawn.arrows if arrow.starts and arrow.x == 0]
    assert starts == ["flatten H, W, C: 24", "64 values"]
    texts = [arrow.text for arrow in drawn.arrows]
    assert texts[-1] == "9 × H−2 × W−3 answers"  # noqa: RUF001 - a minus
    assert max(box.y + 54 for box in drawn.boxes) < drawn.height
