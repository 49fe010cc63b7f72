"""What lies beside a target while a run works on it, and after one that was killed.

    .fcn-convert-HASH-TOKEN.tmp    a draft, file or folder, locked as long as its run lives
    .fcn-convert-HASH.lock         held from a draft's move to the target until the last report

HASH is of the target's name, so the next run to the same target finds and removes what is left.
"""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
import stat
from collections.abc import Callable
from contextlib import suppress
from hashlib import sha256
from pathlib import Path

DRAFT_PREFIX = ".fcn-convert-"
DRAFT_SUFFIX = ".tmp"
LOCK_SUFFIX = ".lock"
NOT_OPEN = -1
"""No file's number."""

_NOTE_BYTES = 128
_CANNOT_LOCK = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL, errno.EBADF}
"""What flock says on file systems that have no such locks (Lustre, some FUSE; of a folder, NFS): go
on without."""

Remove = Callable[[Path], object]


class Turn:
    """The lock of a target: runs put their output and its reports in place one by one."""

    def __init__(self, target: Path) -> None:
        self._target = target
        self._path = _lock_path(target)
        self._lock: int | None = None

    def wait(self) -> None:
        """Take the lock, however long another run holds it."""
        self._lock = NOT_OPEN
        while True:
            self._lock = create_file(self._path, 0)
            lock(self._lock)
            if os.fstat(self._lock).st_nlink:  # else the run before has just removed it
                return
            # The number may be another file's as soon as it is closed.
            closed, self._lock = self._lock, NOT_OPEN
            os.close(closed)

    def note(self, draft: int) -> None:
        """Note, for the run after a killed one, which draft is about to take the target's place."""
        assert self._lock is not None
        with suppress(OSError):  # a full disk: then only --force replaces what a kill leaves
            os.ftruncate(self._lock, 0)
            os.pwrite(self._lock, _note(os.fstat(draft)), 0)

    def was_left(self) -> bool:
        """Return whether a run put the target in place that was killed before its last report."""
        if self._lock is None:
            noted = _note_of_the_dead(self._path)
        else:
            noted = os.pread(self._lock, _NOTE_BYTES, 0)  # of the run before, until `note`
        return _tells_of(noted, self._target)

    def give_up(self) -> None:
        """Remove the lock, then let go of it: so no other run holds a removed one."""
        if self._lock == NOT_OPEN:  # or a signal came between its creation and here
            _remove_unowned(self._path, self._target)
            self._lock = None
        elif self._lock is not None:
            with suppress(OSError):
                _lock_unless_held(self._path, self._lock)
                _unlink(self._path, self._lock)
            # Whether that failed or not: the next run, in this process too, would wait for ever.
            # Not in a `finally`: where a signal stops us before, `drafted` calls us once more.
            closed, self._lock = self._lock, None
            with suppress(OSError):
                os.close(closed)


def wait_for_others(target: Path) -> None:
    """Wait while another run puts its output and its reports in place."""
    with suppress(OSError):  # no run holds the lock
        descriptor = os.open(_lock_path(target), os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH)
        finally:
            os.close(descriptor)


def forget(target: Path) -> None:
    """Remove the lock of a run killed after its last report was in place."""
    if os.path.lexists(_lock_path(target)):
        turn = Turn(target)
        with suppress(OSError):
            turn.wait()
        turn.give_up()


def _note(found: os.stat_result) -> bytes:
    """Tell one file or folder from all others, also from a later one with its number."""
    return f"{found.st_ino} {found.st_size} {found.st_mtime_ns}\n".encode("ascii")


def _tells_of(noted: bytes, target: Path) -> bool:
    """Return whether what a lock notes is what lies at the target now."""
    with suppress(OSError):
        return noted == _note(os.lstat(target))
    return False


def _note_of_the_dead(path: Path) -> bytes:
    """Return what a lock notes whose owner is dead; nothing where it may live."""
    with suppress(OSError):
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
            return os.read(descriptor, _NOTE_BYTES)
        finally:
            os.close(descriptor)
    return b""


def _lock_path(target: Path) -> Path:
    return target.parent / f"{_prefix(target)}{LOCK_SUFFIX}"


def draft_path(target: Path) -> Path:
    """Return a new name for a draft of the target, beside it."""
    return target.parent / f"{_prefix(target)}-{secrets.token_hex(8)}{DRAFT_SUFFIX}"


def _prefix(target: Path) -> str:
    """Return the prefix of what lies beside a target: short, where the target's may be long."""
    return DRAFT_PREFIX + sha256(os.fsencode(target.name)).hexdigest()[:16]


def remove_leftovers(target: Path, remove_folder: Remove | None = None) -> None:
    """Remove what runs to the same target have left that were killed.

    What one of them put there without a report may be replaced, so the lock that tells so stays.
    remove_folder: removes drafts that are folders.
    """
    prefix = _prefix(target)
    with suppress(OSError):
        for name in os.listdir(target.parent):
            if name.startswith(prefix) and name.endswith((DRAFT_SUFFIX, LOCK_SUFFIX)):
                _remove_unowned(target.parent / name, target, remove_folder)


def create_file(path: Path, how: int) -> int:
    """Open a file for writing that may be a new one, and never what a link leads to."""
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | how, 0o666)


def lock(descriptor: int) -> None:
    """Lock an open file or folder, where the file system has locks."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    except OSError as error:
        if error.errno not in _CANNOT_LOCK:
            raise


def _remove_unowned(path: Path, target: Path, remove_folder: Remove | None = None) -> None:
    """Remove a draft or a lock unless another run holds it, or it tells of the target."""
    with suppress(OSError):
        how = os.O_RDONLY | os.O_DIRECTORY if path.is_dir() else os.O_RDWR
        descriptor = os.open(path, how | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        try:
            _lock_unless_held(path, descriptor)
            if stat.S_ISDIR(os.fstat(descriptor).st_mode):
                if remove_folder:
                    remove_folder(path)
            elif not _tells_of(os.pread(descriptor, _NOTE_BYTES, 0), target):
                _unlink(path, descriptor)
        finally:
            os.close(descriptor)


def _lock_unless_held(path: Path, descriptor: int) -> None:
    """Lock what is open and is to be removed; raises OSError where another run may hold it."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        # Where nothing can be locked a lock means nothing, but a draft may have its owner.
        if error.errno not in _CANNOT_LOCK or path.suffix != LOCK_SUFFIX:
            raise


def _unlink(path: Path, descriptor: int) -> None:
    """Remove an open file; its name may be another run's by now."""
    if os.fstat(descriptor).st_nlink:
        os.unlink(path)
