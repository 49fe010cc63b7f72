from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace
from io import StringIO

import pytest
from hypothesis import given
from hypothesis import strategies as st
from reports import layer
from rich.cells import cell_len
from rich.console import Console
from test_report import HANDMADE

from fcn_convert.report.rows import Rows
from fcn_convert.report.terminal import show

VGG = {
    "classifier.0": ((4096, 25088), (4096, 512, 7, 7), "nn.Conv2d(512, 4096, kernel_size=(7, 7))"),
    "classifier.3": ((4096, 4096), (4096, 4096, 1, 1), "nn.Conv2d(4096, 4096, kernel_size=1)"),
    "model.backbone.classification_head.fully_connected": (
        (1000, 4096),
        (1000, 4096, 1, 1),
        "nn.Conv2d(4096, 1000, kernel_size=1)",
    ),
}


def on_a_terminal(width: int) -> Console:
    return Console(file=StringIO(), force_terminal=True, width=width, color_system=None)


def lines_of(console: Console) -> list[str]:
    assert isinstance(console.file, StringIO)
    return console.file.getvalue().splitlines()


def printed(rows: Rows, width: int) -> list[str]:
    console = on_a_terminal(width)
    rows.print_on(console)
    return lines_of(console)


@pytest.mark.parametrize("width", [60, 80, 100, 120, 200])
@pytest.mark.parametrize("every_tensor", [False, True], ids=["layers", "every-tensor"])
def test_no_word_of_a_conversion_is_broken(width: int, *, every_tensor: bool) -> None:
    layers = [
        layer(name, new_name=name, old_shape=old, new_shape=new, module=module)
        for name, (old, new, module) in VGG.items()
    ]
    kept = next(entry for entry in HANDMADE.tensors if entry.action == "kept")
    names = ("features.28.weight", "head.digit.1.num_batches_tracked")
    tensors = [replace(kept, name=name, new_name=name, shape=(512, 512, 3, 3)) for name in names]
    console = on_a_terminal(width)
    report = replace(HANDMADE, layers=tuple(layers), tensors=tuple(tensors), ties=())
    show(report, console, every_tensor=every_tensor)
    lines = lines_of(console)[2:-2]  # without the sentences around
    assert max(map(cell_len, lines)) <= width
    is_table = lines[0].startswith("layer")
    modules = [module for _, _, module in VGG.values() if not is_table or width == 200]
    texts = ["weight", "outputs", "2.5e-15", "agrees", *modules]
    texts += [str(text) for entry in VGG.values() for text in entry[:2]]
    dotted = [*VGG, *(names if every_tensor else ())]
    for word in (*" ".join(texts).split(), *re.split(r"[._]", ".".join(dotted))):
        assert any(word in line for line in lines), word
    for module in modules:
        assert any(module in line for line in lines)  # whole, to be copied
    assert is_table == (width >= 80)
    assert not any(line.endswith(" ") for line in lines)


def test_a_narrow_terminal_is_shown_row_by_row() -> None:
    rows = Rows(("layer", "as", "verdict"), [("a.b", "nn.Conv2d(8, 4, 1)", "agrees, it is said")])
    assert printed(rows, 24) == [
        "a.b",
        "  as       nn.Conv2d(8,",
        "           4, 1)",
        "  verdict  agrees, it is",
        "           said",
    ]


def test_a_cell_of_nothing_takes_no_line_of_its_own() -> None:
    rows = Rows(("layer", "difference", "verdict"), [("a.b", "", "agrees")])
    assert printed(rows, 20) == ["a.b", "  verdict     agrees"]


@pytest.mark.parametrize(
    ("cell", "width", "expected"),
    [
        pytest.param("model.head.fc", 10, ["model.", "head.fc"], id="at-dots"),
        pytest.param("out/deep/vgg.pth", 10, ["out/deep/", "vgg.pth"], id="at-slashes"),
        pytest.param("is a.b, or c.d", 7, ["is a.b,", "or c.d"], id="at-blanks-first"),
        pytest.param("num_batches-seen", 8, ["num_", "batches-", "seen"], id="within-a-part"),
        pytest.param("layer.10.2 0.25", 9, ["layer.10.2", "0.25"], id="not-within-numbers"),
        pytest.param("no weight of a head", 9, ["no weight", "of a head"], id="at-blanks"),
        pytest.param("特徴.出力層", 6, ["特徴.", "出力層"], id="by-columns"),
        pytest.param("a\x1b[2J.bc\n", 9, ["a\\x1b[2J.", "bc\\n"], id="escapes"),
    ],
)
def test_a_column_that_folds_does_so_between_words(
    cell: str, width: int, expected: list[str]
) -> None:
    rows = Rows(("a", "b"), [(cell, "x")], folds={"a"})
    column = max(width, *map(cell_len, expected))
    _, *lines = printed(rows, column + len("  x"))
    first, *others = expected
    padding = " " * (column - cell_len(first))
    assert lines == [f"{first}{padding}  x", *others]


def test_a_narrow_terminal_does_without_columns_that_can_be_spared() -> None:
    rows = Rows(("layer", "as", "verdict"), [("a.b", "nn.Linear", "agrees")], spare={"as"})
    assert printed(rows, 24) == ["layer  verdict", "a.b    agrees"]
    assert printed(rows, 25) == ["layer  as         verdict", "a.b    nn.Linear  agrees"]
    assert printed(rows, 13) == ["a.b", "  as       nn.", "           Linear", "  verdict  agrees"]


WORDS = st.text("ab特é", min_size=1, max_size=8)
CELLS = st.lists(WORDS, max_size=5).map(" ".join)


@given(
    cells=st.lists(st.tuples(CELLS, CELLS, CELLS), min_size=1, max_size=4),
    folds=st.sets(st.sampled_from("xyz")),
    width=st.integers(25, 120),
)
def test_every_word_is_shown_whole_and_within_the_width(
    cells: list[tuple[str, ...]], folds: set[str], width: int
) -> None:
    lines = printed(Rows("xyz", cells, folds), width)
    is_table = lines[0].split() == ["x", "y", "z"]
    if is_table or all(cell_len(first) <= width for first, *_ in cells):
        assert max(map(cell_len, lines)) <= width
    shown = Counter(" ".join(lines).split())
    for word, count in Counter(" ".join(map(" ".join, cells)).split()).items():
        assert shown[word] >= count
    natural = sum(max(map(cell_len, column)) for column in zip("xyz", *cells, strict=True)) + 4
    if natural <= width:
        assert is_table
        assert len(lines) == len(cells) + 1
