"""Every file of the corpus, given to the real command: one sentence, status 2, and nothing else."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from corpus import BAD, Case
from served import Server, serving

MAX_KILOBYTES = 256 << 10
MAX_SENTENCE = 2000


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with serving() as started:
        yield started


def contents(folder: Path) -> dict[str, tuple[object, ...]]:
    """What lies in a folder, at any depth, and what could tell that it was touched."""
    found: dict[str, tuple[object, ...]] = {}
    for path in folder.rglob("*"):
        state = path.lstat()
        raw = path.read_bytes() if stat.S_ISREG(state.st_mode) else b""
        found[str(path)] = (state.st_ino, state.st_mode, state.st_mtime_ns, raw)
    return found


def test_every_case_has_an_id_of_its_own() -> None:
    assert len({case.id for case in BAD}) == len(BAD) > 700


CASES = [
    pytest.param(case, id=case.id, marks=[pytest.mark.heavy] if case.is_heavy else [])
    for case in BAD
]


@pytest.mark.parametrize("case", CASES)
def test_bad_input_is_one_sentence_and_nothing_else(
    server: Server, tmp_path: Path, case: Case
) -> None:
    folder = tmp_path / "work"
    folder.mkdir()
    arguments = case.make(folder)
    before = contents(folder)
    user = {} if case.user is None or os.getuid() else {"user": case.user}
    run = server.run(folder, ["convert", *arguments], **user)
    assert (run.status, run.stdout) == (2, ""), run.stderr
    lines = run.stderr.splitlines()
    assert len(lines) == len(case.said), run.stderr
    for line, said in zip(lines, case.said, strict=True):
        assert line.startswith("error: ")
        assert re.search(said, line.removeprefix("error: ")), line
        assert line.isprintable()
        assert len(line) < MAX_SENTENCE
    assert contents(folder) == before
    assert run.peak < MAX_KILOBYTES
