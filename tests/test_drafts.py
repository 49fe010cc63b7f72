"""Drafts and locks from the inside, where no run of the command comes to: tests/test_faults.py."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from fcn_convert.atomic import FileDraft, drafted
from fcn_convert.errors import OutputError
from fcn_convert.shard_folder import FolderDraft
from fcn_convert.turns import DRAFT_SUFFIX, LOCK_SUFFIX, Turn

real_open = os.open


@contextmanager
def taken(turn: Turn) -> Iterator[None]:
    """Take a turn and give it up, as a draft does."""
    try:
        turn.wait()
        yield
    finally:
        turn.give_up()


class Unlucky:
    """Another run removes what is opened first; then no more can be, and its number is another's.

    suffix: of what is meant.
    """

    def __init__(self, suffix: str, bystander: Path) -> None:
        self.suffix = suffix
        self.bystander = real_open(bystander, os.O_RDWR | os.O_CREAT)
        self.opened: list[int] = []
        self.failed = False

    def open(self, path: Path, *arguments: int) -> int:
        if self.failed or not str(path).endswith(self.suffix):
            return real_open(path, *arguments)
        if self.opened:
            self.failed = True
            os.dup2(self.bystander, self.opened[0])
            self.meanwhile(path)
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        self.opened.append(real_open(path, *arguments))
        path.rmdir() if path.is_dir() else path.unlink()
        return self.opened[0]

    def meanwhile(self, path: Path) -> None:
        """Do what else another run does by then."""

    def check(self) -> None:
        """Check that what has the number now is still open."""
        assert self.failed
        assert os.path.sameopenfile(self.opened[0], self.bystander)
        for descriptor in (self.opened[0], self.bystander):
            os.close(descriptor)


class Overtaken(Unlucky):
    """Another run has taken its turn by then."""

    def meanwhile(self, path: Path) -> None:
        self.owner = real_open(path, os.O_RDWR | os.O_CREAT)
        fcntl.flock(self.owner, fcntl.LOCK_EX)


@pytest.mark.parametrize(
    ("kind", "opened"),
    [
        pytest.param(FileDraft, True, id="file"),
        pytest.param(FolderDraft, True, id="folder"),
        pytest.param(FolderDraft, False, id="folder-before-it-is-open"),
    ],
)
def test_a_draft_that_another_run_takes_for_an_orphan_is_made_again(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    kind: type[FileDraft | FolderDraft],
    *,
    opened: bool,
) -> None:
    removed: list[Path] = []

    def removing(path: Path, *arguments: int) -> int:
        if removed or not str(path).endswith(DRAFT_SUFFIX):
            return real_open(path, *arguments)
        removed.append(path)
        if not opened:
            path.rmdir()
        descriptor = real_open(path, *arguments)
        path.rmdir() if path.is_dir() else path.unlink()
        return descriptor

    monkeypatch.setattr(os, "open", removing)
    before = len(os.listdir("/proc/self/fd"))
    with drafted(kind(tmp_path / "out", replace=False)) as draft:
        assert list(tmp_path.iterdir()) == [draft.path]
        assert [draft.path] != removed
        assert len(os.listdir("/proc/self/fd")) == before + 1
        draft.put_in_place()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize("kind", [FileDraft, FolderDraft], ids=["file", "folder"])
def test_a_draft_that_cannot_be_made_again_closes_no_file_of_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: type[FileDraft | FolderDraft]
) -> None:
    unlucky = Unlucky(DRAFT_SUFFIX, tmp_path / "bystander")
    monkeypatch.setattr(os, "open", unlucky.open)
    with (
        pytest.raises(OutputError, match="out: Too many open files"),
        drafted(kind(tmp_path / "out", replace=False)),
    ):
        pass
    unlucky.check()
    assert [path.name for path in tmp_path.iterdir()] == ["bystander"]


def test_a_lock_that_cannot_be_taken_again_is_left_to_who_has_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unlucky = Overtaken(LOCK_SUFFIX, tmp_path / "bystander")
    monkeypatch.setattr(os, "open", unlucky.open)
    with pytest.raises(OSError, match="Too many open files"), taken(Turn(tmp_path / "out")):
        pass
    unlucky.check()
    assert len([path for path in tmp_path.iterdir() if path.suffix == LOCK_SUFFIX]) == 1
    os.close(unlucky.owner)


@pytest.mark.parametrize("failing", ["unlink", "flock"])
def test_a_lock_that_cannot_be_removed_is_let_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    turn = Turn(tmp_path / "out")
    with monkeypatch.context() as patch, taken(turn):
        patch.setattr(*((os, "unlink") if failing == "unlink" else (fcntl, "flock")), refuse)
    [lock] = tmp_path.iterdir()
    descriptor = os.open(lock, os.O_RDWR)
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)  # raises where somebody holds it
    os.close(descriptor)
