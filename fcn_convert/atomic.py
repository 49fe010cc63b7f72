"""Files that appear whole or not at all: written beside their place, synced, then moved there.

Beside a target lie, while a run works on it and after one that was killed:

    .fcn-convert-HASH-TOKEN.tmp    a draft, locked as long as its run lives
    .fcn-convert-HASH.lock         held for the moment in which a draft takes the target's place

HASH is of the target's name, so the next run to the same target finds and removes what is left.
"""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
import stat
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from hashlib import sha256
from pathlib import Path

from fcn_convert.errors import OutputError

DRAFT_PREFIX = ".fcn-convert-"
DRAFT_SUFFIX = ".tmp"
LOCK_SUFFIX = ".lock"

_NOT_OPEN = -1
_CANNOT_LOCK = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL}
"""What flock says on file systems that have no such locks (Lustre, some FUSE): go on without."""
_CANNOT_SYNC = {errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS, errno.EACCES}
"""What syncing a folder says where it cannot be done (FUSE), or its list may not be read."""


class Draft:
    """A file that is to become the target: open for writing, under a name of its own."""

    def __init__(self, target: Path, *, replace: bool) -> None:
        self.target = target
        self.replace = replace
        self.path = target
        self.descriptor = _NOT_OPEN
        self._syncs: list[Future[None]] = []
        self._lock_path = target.parent / f"{_kind(target)}{LOCK_SUFFIX}"
        self._lock: int | None = None

    def create(self) -> None:
        """Create the file; its lock tells the next run that it has an owner."""
        while True:
            token = secrets.token_hex(8)
            self.path = self.target.parent / f"{_kind(self.target)}-{token}{DRAFT_SUFFIX}"
            self.descriptor = _create(self.path, os.O_EXCL)
            _lock(self.descriptor)
            # Between its creation and its lock another run may have taken it for an orphan.
            if os.fstat(self.descriptor).st_nlink:
                return
            os.close(self.descriptor)

    def write(self, data: bytes) -> None:
        """Write at the end of what is written so far."""
        view = memoryview(data)
        while view:
            view = view[os.write(self.descriptor, view) :]

    def start_sync(self) -> None:
        """Start to bring to the disk what is written so far, while the file is still looked at."""
        pool = ThreadPoolExecutor(max_workers=1)
        self._syncs.append(pool.submit(os.fsync, self.descriptor))
        pool.shutdown(wait=False)

    def put_in_place(self) -> None:
        """Give the draft the target's name; until it is removed no other run does so.

        The draft is synced before it is moved, and its folder afterwards. Raises OutputError.
        """
        with _naming(self.target):
            for started in self._syncs:
                started.result()
            os.fsync(self.descriptor)
            self._wait_for_turn()
            check_target(self.target, replace=self.replace)
            self._move()
        try:
            _sync_folder(self.target.parent)
        except OSError as error:
            raise OutputError(
                f"{self.target} is in place, but a power failure may undo that: "
                f"its folder cannot be synced ({error.strerror})"
            ) from error

    def _wait_for_turn(self) -> None:
        """Take the target's lock: runs put their output and its reports in place one by one."""
        self._lock = _NOT_OPEN
        while True:
            self._lock = _create(self._lock_path, 0)
            _lock(self._lock)
            if os.fstat(self._lock).st_nlink:  # else the run before has just removed it
                return
            os.close(self._lock)

    def _move(self) -> None:
        """Take the target's name, in one step either way."""
        if self.replace:
            os.replace(self.path, self.target)
            return
        try:
            os.link(self.path, self.target)  # fails where the target appeared meanwhile
        except FileExistsError:
            raise
        except OSError:
            # A file system without hard links: the check just before is the best there is.
            os.replace(self.path, self.target)

    def _give_up_turn(self) -> None:
        """Remove the target's lock, then let go of it: so no other run holds a removed one."""
        if self._lock == _NOT_OPEN:  # or a signal came between its creation and here
            _remove_unowned(self._lock_path)
        elif self._lock is not None:
            with suppress(OSError):
                _unlink_unless_held(self._lock_path, self._lock)
                os.close(self._lock)
        self._lock = None

    def remove(self) -> None:
        """Remove what has not been moved; what cannot be removed is left to the next run."""
        if self.path != self.target:
            with suppress(OSError):
                os.unlink(self.path)
        self._give_up_turn()
        wait(self._syncs)  # a descriptor that is in use must not be closed
        if self.descriptor >= 0:
            with suppress(OSError):  # what matters was synced
                os.close(self.descriptor)
        self.path, self.descriptor = self.target, _NOT_OPEN


def check_target(target: Path, *, replace: bool, inputs: Iterable[Path] = ()) -> None:
    """Raise OutputError unless a file may be written at `target`.

    inputs: files that must never be written to, by whatever path `target` names them.
    """
    try:
        found = os.lstat(target)
    except FileNotFoundError:
        if not os.path.isdir(target.parent):
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


def remove_leftovers(target: Path) -> None:
    """Remove what runs to the same target have left that were killed."""
    kind = _kind(target)
    with suppress(OSError):
        for name in os.listdir(target.parent):
            if name.startswith(kind) and name.endswith((DRAFT_SUFFIX, LOCK_SUFFIX)):
                _remove_unowned(target.parent / name)


@contextmanager
def drafted(target: Path, *, replace: bool) -> Iterator[Draft]:
    """Give a draft that can be put in the target's place, and is removed otherwise.

    Raises OutputError where the target may not be written, or exists and is not to be replaced.
    What killed runs have left of the same target is removed.
    """
    check_target(target, replace=True)
    remove_leftovers(target)
    check_target(target, replace=replace)
    draft = Draft(target, replace=replace)
    try:
        try:
            with _naming(target):
                draft.create()
            yield draft
        finally:
            draft.remove()
    finally:
        # A signal may have broken into that; a second one is ignored by then (__main__.py).
        draft.remove()


@contextmanager
def atomically(target: Path, *, replace: bool) -> Iterator[Draft]:
    """Give a draft that becomes `target` when the block ends, and vanishes when it raises.

    Raises OutputError where the target may not be written, or exists by then and is not to be
    replaced.
    """
    with drafted(target, replace=replace) as draft:
        with _naming(target):
            yield draft
        draft.put_in_place()


def write_text(target: Path, text: str, *, replace: bool) -> None:
    """Write a small text file, whole or not at all; raises OutputError."""
    with atomically(target, replace=replace) as draft:
        draft.write(text.encode("utf-8"))


@contextmanager
def _naming(target: Path) -> Iterator[None]:
    """Turn the system's errors into one that names the target."""
    try:
        yield
    except OSError as error:
        raise OutputError(f"{target}: {error.strerror}") from error


def _kind(target: Path) -> str:
    """Begin the name of what lies beside a target: short, where the target's may be long."""
    return DRAFT_PREFIX + sha256(os.fsencode(target.name)).hexdigest()[:16]


def _create(path: Path, how: int) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | how, 0o666)


def _lock(descriptor: int) -> None:
    """Lock an open file, where the file system has locks."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    except OSError as error:
        if error.errno not in _CANNOT_LOCK:
            raise


def _remove_unowned(path: Path) -> None:
    """Remove a draft or a lock unless another run holds it."""
    with suppress(OSError):
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        try:
            _unlink_unless_held(path, descriptor)
        finally:
            os.close(descriptor)


def _unlink_unless_held(path: Path, descriptor: int) -> None:
    """Remove an open file; raises OSError where another run may hold it."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        # Where nothing can be locked a lock means nothing, but a draft may have its owner.
        if error.errno not in _CANNOT_LOCK or path.suffix != LOCK_SUFFIX:
            raise
    if os.fstat(descriptor).st_nlink:  # else its name may be another run's by now
        os.unlink(path)


def _sync_folder(folder: Path) -> None:
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        if error.errno not in _CANNOT_SYNC:
            raise
