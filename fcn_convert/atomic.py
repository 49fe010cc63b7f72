"""Files that appear whole or not at all: written beside their place, synced, then moved there.

Folders do the same, in `shard_folder.py`; what lies beside them until then is said in `turns.py`.
"""

from __future__ import annotations

import errno
import os
import stat
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path

from fcn_convert.errors import ExistsError, OutputError
from fcn_convert.turns import NOT_OPEN, Turn, create_file, draft_path, lock, remove_leftovers

_CANNOT_SYNC = {errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS, errno.EACCES}
"""What syncing a folder says where it cannot be done (FUSE), or its list may not be read."""


class Draft(ABC):
    """What is to become the target, a file or a folder, under a name of its own until then.

    path: where it lies.
    """

    def __init__(self, target: Path, *, replace: bool) -> None:
        self.target = target
        self.replace = replace
        self.path = target
        self._descriptor = NOT_OPEN
        self._pool = ThreadPoolExecutor(max_workers=1)
        self._syncs: list[Future[None]] = []
        self._turn = Turn(target)

    @abstractmethod
    def check(self, inputs: Iterable[Path]) -> None:
        """Raise OutputError unless something may be put at the target, replaced or not.

        inputs: files that must never be written to, by whatever path the target names them.
        """

    @abstractmethod
    def file(self, name: str, /) -> AbstractContextManager[int]:
        """Give the descriptor to write one of its files to; of a file, it is the only one.

        The file is synced from the end of the block on, while others are written or it is read.
        """

    @abstractmethod
    def _make(self) -> None:
        """Make it at its path, and open it."""

    @abstractmethod
    def _move(self, *, replaces: bool) -> None:
        """Give it the target's name; in one step where something there is replaced."""

    @abstractmethod
    def _discard(self) -> None:
        """Remove what lies at its path, where that is possible."""

    def check_free(self) -> None:
        """Raise OutputError where the target exists and is not to be, or must not be, replaced."""
        self.check(())
        if not self._replaces():
            check_absent(self.target)

    def _replaces(self) -> bool:
        return self.replace or self._turn.was_left()

    def remove_leftovers(self) -> None:
        """Remove what runs to the same target have left that were killed."""
        remove_leftovers(self.target)

    def create(self) -> None:
        """Create it; its lock tells the next run that it has an owner."""
        while True:
            self.path = draft_path(self.target)
            self._make()
            # Until it has its lock another run may take it for an orphan.
            if self._descriptor != NOT_OPEN:
                lock(self._descriptor)
                if os.fstat(self._descriptor).st_nlink and os.path.lexists(self.path):
                    return
            self._let_go()

    def put_in_place(self) -> None:
        """Give the draft the target's name; until it is removed no other run does so.

        The draft is synced before it is moved, and its folder afterwards. Raises OutputError.
        """
        with naming(self.target):
            for started in self._syncs:
                started.result()
            os.fsync(self._descriptor)
            self._turn.wait()
            self.check_free()
            replaces = self._replaces()  # may rest on a note, which the next line replaces
            self._turn.note(self._descriptor)
            self._move(replaces=replaces)
        sync_names(self.target)

    def remove(self) -> None:
        """Remove what has not been moved; what cannot be removed is left to the next run."""
        if self.path != self.target:
            self._discard()
        self._turn.give_up()
        wait(self._syncs)  # a descriptor that is in use must not be closed
        self._pool.shutdown(wait=False)
        self._let_go()
        self.path = self.target

    def _let_go(self) -> None:
        """Close the descriptor; its number may be another file's from then on."""
        closed, self._descriptor = self._descriptor, NOT_OPEN
        if closed != NOT_OPEN:
            with suppress(OSError):  # what matters was synced
                os.close(closed)


class FileDraft(Draft):
    """A file that is to become the target: open for writing."""

    def check(self, inputs: Iterable[Path]) -> None:
        """Raise OutputError unless a file may be put at the target, replaced or not."""
        check_regular(self.target, inputs)

    @contextmanager
    def file(self, _name: str, /) -> Iterator[int]:
        """Give the descriptor to write the file to; it is synced while it is still looked at."""
        yield self._descriptor
        self._syncs.append(self._pool.submit(os.fsync, self._descriptor))

    def write(self, data: bytes) -> None:
        """Write at the end of what is written so far."""
        view = memoryview(data)
        while view:
            view = view[os.write(self._descriptor, view) :]

    def _make(self) -> None:
        self._descriptor = create_file(self.path, os.O_EXCL)

    def _move(self, *, replaces: bool) -> None:
        if replaces:
            os.replace(self.path, self.target)
            return
        try:
            os.link(self.path, self.target)
        except FileExistsError:  # it appeared meanwhile
            raise exists_already(self.target) from None
        except OSError:
            # A file system without hard links: the check just before is the best there is.
            os.replace(self.path, self.target)

    def _discard(self) -> None:
        with suppress(OSError):
            os.unlink(self.path)


def check_regular(target: Path, inputs: Iterable[Path] = ()) -> None:
    """Raise OutputError unless at `target` a file can be written, or a regular one replaced.

    inputs: files that must never be written to, by whatever path `target` names them.
    """
    found = stat_of(target)
    if found is None:
        return
    if not stat.S_ISREG(found.st_mode):
        hint = "; it is a folder: name a file in it" if stat.S_ISDIR(found.st_mode) else ""
        raise OutputError(
            f"{target}: exists and is not a regular file; nothing else is replaced{hint}"
        )
    check_no_input(target, found, inputs)


def check_absent(target: Path) -> None:
    """Raise OutputError where there is anything at `target`."""
    if stat_of(target) is not None:
        raise exists_already(target)


def exists_already(target: Path) -> ExistsError:
    """Return the error of a target that is not to be replaced."""
    return ExistsError(f"{target}: already exists; --force, or force=True, replaces it")


def check_no_input(target: Path, found: os.stat_result, inputs: Iterable[Path]) -> None:
    """Raise OutputError where what was found at the target is one of the inputs, by any name."""
    for path in inputs:
        if os.path.exists(path) and os.path.samestat(found, os.stat(path)):
            raise OutputError(f"{target}: is the same file as {path}, which is only read")


def stat_of(target: Path) -> os.stat_result | None:
    """Return what is at the target, None for nothing; raises OutputError where nothing can be."""
    try:
        return os.lstat(target)
    except FileNotFoundError:
        if not os.path.isdir(target.parent):
            raise OutputError(f"{target}: its folder does not exist") from None
        return None
    except OSError as error:
        raise OutputError(f"{target}: {error.strerror}") from error


@contextmanager
def drafted(draft: Draft) -> Iterator[Draft]:
    """Create a draft that can be put in the target's place, and is removed otherwise.

    Raises OutputError where the target may not be written, or exists and is not to be replaced.
    What killed runs have left of the same target is removed; what one of them put there and did not
    report may be replaced.
    """
    draft.check(())
    draft.remove_leftovers()
    draft.check_free()
    try:
        try:
            with naming(draft.target):
                draft.create()
            yield draft
        finally:
            draft.remove()
    finally:
        # A signal may have broken into that; a second one is ignored by then (__main__.py).
        draft.remove()


@contextmanager
def atomically(target: Path, *, replace: bool) -> Iterator[FileDraft]:
    """Give a draft that becomes `target` when the block ends, and vanishes when it raises.

    Raises OutputError where the target may not be written, or exists by then and is not to be
    replaced.
    """
    draft = FileDraft(target, replace=replace)
    with drafted(draft):
        with naming(target):
            yield draft
        draft.put_in_place()


def write_text(target: Path, pieces: Iterable[str], *, replace: bool) -> None:
    """Write a text file, whole or not at all; raises OutputError."""
    with atomically(target, replace=replace) as draft:
        for piece in pieces:
            draft.write(piece.encode("utf-8"))


@contextmanager
def naming(target: Path) -> Iterator[None]:
    """Turn the system's errors into one that names the target."""
    try:
        yield
    except OSError as error:
        raise OutputError(f"{target}: {error.strerror}") from error


def sync_names(target: Path) -> None:
    """Bring the folder of a target that is in place to the disk; raises OutputError."""
    try:
        sync_folder(target.parent)
    except OSError as error:
        raise OutputError(
            f"{target} is in place, but a power failure may undo that: "
            f"its folder cannot be synced ({error.strerror})"
        ) from error


def sync_folder(folder: Path) -> None:
    """Bring the names in a folder to the disk, where the file system can."""
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        if error.errno not in _CANNOT_SYNC:
            raise
