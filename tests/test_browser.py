"""The HTML views in a real browser: what it draws, sorts, and does not run."""

from __future__ import annotations

import json
import re
from html import escape, unescape
from pathlib import Path
from typing import Any

import pytest
from reports import CASES, HOSTILE, report_of
from scripts import load_script
from test_report_html import batch_of, everywhere

from fcn_convert.cli.inspect_page import to_html as inspected
from fcn_convert.infer.inspection import inspect_checkpoint
from fcn_convert.report.batch import BatchReport, Piece
from fcn_convert.report.html import batch_to_html, to_html

SAMPLES = Path(__file__).parent.parent / "sample_checkpoints"
BROWSER = load_script(SAMPLES / "browser.py")
FOUND = BROWSER.find_browser()

pytestmark = [
    pytest.mark.heavy,
    pytest.mark.skipif(FOUND is None, reason=BROWSER.MISSING),
]

PLANTED = (
    "<script>top.planted=1</script>",
    "<img src=x onerror=top.planted=1>",
    '"><svg onload=top.planted=1>',
    "</style><script>top.planted=1</script>",
    "</title><script>top.planted=1</script>",
    "</pre></details><script>top.planted=1</script>",
)

PROBE = Path(__file__).parent / "probe.html"


def probed(html: str, folder: Path, *, width: int = 1000, dark: bool = False) -> Any:
    """Return what a page looks like in a frame of some width; no message may be in the console."""
    page, probe = folder / "page.html", folder / "probe.html"
    page.write_text(html, "utf-8")
    text = PROBE.read_text("utf-8").replace("PAGE", page.as_uri()).replace("WIDTH", str(width))
    probe.write_text(text, "utf-8")
    flags = ("--dump-dom", "--allow-file-access-from-files")
    done = BROWSER.show(FOUND, probe, *flags, size=(1100, 1000), dark=dark)
    console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    found = re.search(r'<pre id="result">(.*?)</pre>', done.stdout, re.DOTALL)
    assert found, done.stderr
    return {**json.loads(unescape(found[1])), "console": console}


PAGES = {
    "passed": lambda: to_html(CASES["passed"]),
    "failed": lambda: to_html(CASES["failed"]),
    "long-names": lambda: to_html(report_of("x" * 300, "a.b" * 99)),
    "inspection": lambda: inspected(inspect_checkpoint(SAMPLES / "two_heads.pth")),
    "batch": lambda: batch_to_html(batch_of("models/" + "deep/" * 40)),
}
every_page = pytest.mark.parametrize("name", PAGES)


@every_page
@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [400, 1000])
def test_a_page_fits_its_window_and_can_be_read(
    name: str, width: int, theme: str, tmp_path: Path
) -> None:
    dark = theme == "dark"
    found = probed(PAGES[name](), tmp_path, width=width, dark=dark)
    assert found["console"] == []
    assert found["width"] == width
    assert found["over"] == []
    assert found["background"] == ("rgb(18, 22, 29)" if dark else "rgb(246, 247, 249)")
    assert found["contrasts"][0][0] >= 4.5, found["contrasts"]
    assert all(min(size) > 5 for size in found["pictures"])
    assert found["images"] == ([] if name in {"batch", "inspection"} else [1])


def test_tables_sort_by_the_heading_that_is_clicked(tmp_path: Path) -> None:
    layers, tensors, _ = probed(PAGES["failed"](), tmp_path)["sorted"]
    (up, names), (down, reverse) = layers[0]
    assert (up, down) == ("ascending", "descending")
    assert names == reverse[::-1] == ["fc|<1> → fc|<1>fc|<1>", "score"]
    [_, weights], [_, falling] = layers[4]
    assert (weights, falling) == (["", "0.5"], ["0.5", ""])
    [_, actions], _ = tensors[3]
    assert actions == sorted(actions)
    assert len(set(actions)) == 4


def test_numbers_are_sorted_as_numbers(tmp_path: Path) -> None:
    sizes = (9_000, 1_200_000, 80, 700_000_000, 30_000)
    pieces = [Piece(f"s{n}", f"o{n}", "converted", 0.1, bytes=size) for n, size in enumerate(sizes)]
    html = batch_to_html(BatchReport(tuple(pieces), None, {}))
    [table] = probed(html, tmp_path)["sorted"]
    assert table[2][0][1] == ["80 B", "9 kB", "30 kB", "1.2 MB", "700 MB"]
    assert table[2][1][1] == table[2][0][1][::-1]


@pytest.mark.parametrize("name", [*PLANTED, " ".join(HOSTILE)], ids=ascii)
def test_nothing_of_a_name_runs(name: str, tmp_path: Path) -> None:
    found = probed(to_html(everywhere(name)), tmp_path)
    assert found["planted"] == "undefined"
    assert found["scripts"] == 1
    assert found["console"] == []


@pytest.mark.parametrize("planted", PLANTED[:2], ids=["script", "handler"])
def test_the_pages_policy_stops_what_should_ever_slip_through(planted: str, tmp_path: Path) -> None:
    html = to_html(report_of(planted)).replace(escape(planted), planted)
    assert planted in html
    found = probed(html, tmp_path)
    assert found["planted"] == "undefined"
    assert any("Content Security Policy" in line for line in found["console"])
