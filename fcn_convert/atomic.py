"""Files that appear whole or not at all: written beside their place, synced, then moved there."""

from __future__ import annotations

import fcntl
import os
import secrets
import stat
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

from fcn_convert.errors import OutputError

DRAFT_PREFIX = ".fcn-convert-"
DRAFT_SUFFIX = ".tmp"


@dataclass(frozen=True)
class Draft:
    """A file that is to become the target: open for writing, under a name of its own."""

    path: Path
    descriptor: int
    syncs: list[Future[None]] = field(default_factory=list)

    def start_sync(self) -> None:
        """Start to bring to the disk what is written so far, while the file is still looked at."""
        pool = ThreadPoolExecutor(max_workers=1)
        self.syncs.append(pool.submit(os.fsync, self.descriptor))
        pool.shutdown(wait=False)

    def sync(self) -> None:
        """Bring everything to the disk; raises the OSError of an earlier start, too."""
        for started in self.syncs:
            started.result()
        os.fsync(self.descriptor)


def check_target(target: Path, *, replace: bool, inputs: Iterable[Path] = ()) -> None:
    """Raise OutputError unless a file may be written at `target`.

    inputs: files that must never be written to, by whatever path `target` names them.
    """
    try:
        found = os.lstat(target)
    except FileNotFoundError:
        if not target.parent.is_dir():
            raise OutputError(f"{target}: its folder does not exist") from None
        return
    except OSError as error:
        raise OutputError(f"{target}: {error.strerror}") from error
    if not stat.S_ISREG(found.st_mode):
        raise OutputError(f"{target}: exists and is not a regular file; nothing else is replaced")
    for path in inputs:
        if os.path.exists(path) and os.path.samestat(found, os.stat(path)):
            raise OutputError(f"{target}: is the same file as {path}, which is only read")
    if not replace:
        raise OutputError(f"{target}: exists already; --force replaces it")


@contextmanager
def atomically(target: Path, *, replace: bool) -> Iterator[Draft]:
    """Give a draft that becomes `target` when the block ends, and vanishes when it raises.

    The draft is synced before it is moved, and its folder afterwards. Raises OutputError where the
    target may not be written, or exists by then and is not to be replaced.
    """
    check_target(target, replace=replace)
    try:
        draft = _new_draft(target)
    except OSError as error:
        raise OutputError(f"{target}: {error.strerror}") from error
    try:
        yield draft
        try:
            draft.sync()
            _move(draft.path, target, replace=replace)
            _sync_folder(target.parent)
        except OSError as error:
            raise OutputError(f"{target}: {error.strerror}") from error
    finally:
        with suppress(FileNotFoundError):
            os.unlink(draft.path)
        wait(draft.syncs)  # a descriptor that is in use must not be closed
        os.close(draft.descriptor)


def write_text(target: Path, text: str, *, replace: bool) -> None:
    """Write a small text file, whole or not at all; raises OutputError."""
    with atomically(target, replace=replace) as draft:
        try:
            draft.path.write_text(text, encoding="utf-8")
        except OSError as error:
            raise OutputError(f"{target}: {error.strerror}") from error


def _new_draft(target: Path) -> Draft:
    """Create a draft; its lock tells the next run that it has an owner."""
    # A short name of its own: the target's may already be as long as names can be.
    kind = DRAFT_PREFIX + sha256(os.fsencode(target.name)).hexdigest()[:16]
    _remove_orphans(target.parent, kind)
    while True:
        path = target.parent / f"{kind}-{secrets.token_hex(4)}{DRAFT_SUFFIX}"
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        # Between its creation and its lock another run may have taken it for an orphan.
        if os.fstat(descriptor).st_nlink:
            return Draft(path, descriptor)
        os.close(descriptor)


def _remove_orphans(folder: Path, kind: str) -> None:
    """Remove drafts of the same target whose run was killed."""
    for name in os.listdir(folder):
        if not (name.startswith(kind) and name.endswith(DRAFT_SUFFIX)):
            continue
        with suppress(OSError):
            descriptor = os.open(folder / name, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                os.unlink(folder / name)
            finally:
                os.close(descriptor)


def _move(draft: Path, target: Path, *, replace: bool) -> None:
    """Give the draft the target's name, in one step either way."""
    if replace:
        os.replace(draft, target)
        return
    try:
        os.link(draft, target)  # fails where the target appeared meanwhile
    except FileExistsError:
        raise
    except OSError:
        # A file system without hard links: the check just before is the best there is.
        check_target(target, replace=False)
        os.replace(draft, target)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
