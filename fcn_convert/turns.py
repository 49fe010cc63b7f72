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
from contextlib import suppress
from hashlib import sha256
from pathlib import Path

DRAFT_PREFIX = ".fcn-convert-"
DRAFT_SUFFIX = ".tmp"
LOCK_SUFFIX = ".lock"

_NOT_OPEN = -1
_NOTE_BYTES = 128
_CANNOT_LOCK = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL, errno.EBADF}
"""What flock says on file systems that have no such locks (Lustre, some FUSE; of a folder, NFS): go
on without."""


class Turn:
    """The lock of a target: runs put their output and its reports in place one by one."""

    def __init__(self, target: Path) -> None:
        self._target = target
        self._path = _lock_path(target)
        self._lock: int | None = None
        self._left = b""

    def wait(self) -> None:
        """Take the lock, however long another run holds it."""
        self._lock = _NOT_OPEN
        while True:
            self._lock = create_file(self._path, 0)
            lock(self._lock)
            if os.fstat(self._lock).st_nlink:  # else the run before has just removed it
                return
            os.close(self._lock)

    def note(self, draft: int) -> None:
        """Note, for who comes after a kill, which draft is about to take the target's place."""
        assert self._lock is not None
        with suppress(OSError):  # a full disk: then only --force replaces what a kill leaves
            os.ftruncate(self._lock, 0)
            os.pwrite(self._lock, _note(os.fstat(draft)), 0)

    def was_left(self) -> bool:
        """Tell whether a run put the target in place that was killed before its last report.

        First asked before leftovers are removed, and then again in one's own turn.
        """
        if self._lock is None:
            self._left = _note_of_the_dead(self._path)
        with suppress(OSError):
            return self._left == _note(os.lstat(self._target))
        return False

    def give_up(self) -> None:
        """Remove the lock, then let go of it: so no other run holds a removed one."""
        if self._lock == _NOT_OPEN:  # or a signal came between its creation and here
            _remove_unowned(self._path)
        elif self._lock is not None:
            with suppress(OSError):
                _remove_unless_held(self._path, self._lock)
                os.close(self._lock)
        self._lock = None


def wait_for_others(target: Path) -> None:
    """Wait while another run puts its output and its reports in place."""
    with suppress(OSError):  # nobody does
        descriptor = os.open(_lock_path(target), os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH)
        finally:
            os.close(descriptor)


def _note(found: os.stat_result) -> bytes:
    """Tell one file or folder from all others, also from a later one with its number."""
    return f"{found.st_ino} {found.st_size} {found.st_mtime_ns}\n".encode("ascii")


def _note_of_the_dead(path: Path) -> bytes:
    """Return what a lock notes whose owner does not live any more; nothing where one may."""
    with suppress(OSError):
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
            return os.read(descriptor, _NOTE_BYTES)
        finally:
            os.close(descriptor)
    return b""


def _lock_path(target: Path) -> Path:
    return target.parent / f"{_kind(target)}{LOCK_SUFFIX}"


def draft_path(target: Path) -> Path:
    """Return a new name for a draft of the target, beside it."""
    return target.parent / f"{_kind(target)}-{secrets.token_hex(8)}{DRAFT_SUFFIX}"


def _kind(target: Path) -> str:
    """Begin the name of what lies beside a target: short, where the target's may be long."""
    return DRAFT_PREFIX + sha256(os.fsencode(target.name)).hexdigest()[:16]


def remove_leftovers(target: Path) -> None:
    """Remove what runs to the same target have left that were killed."""
    kind = _kind(target)
    with suppress(OSError):
        for name in os.listdir(target.parent):
            if name.startswith(kind) and name.endswith((DRAFT_SUFFIX, LOCK_SUFFIX)):
                _remove_unowned(target.parent / name)


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


def _remove_unowned(path: Path) -> None:
    """Remove a draft or a lock unless another run holds it."""
    with suppress(OSError):
        how = os.O_RDONLY | os.O_DIRECTORY if path.is_dir() else os.O_RDWR
        descriptor = os.open(path, how | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        try:
            _remove_unless_held(path, descriptor)
        finally:
            os.close(descriptor)


def _remove_unless_held(path: Path, descriptor: int) -> None:
    """Remove what is open; raises OSError where another run may hold it."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        # Where nothing can be locked a lock means nothing, but a draft may have its owner.
        if error.errno not in _CANNOT_LOCK or path.suffix != LOCK_SUFFIX:
            raise
    found = os.fstat(descriptor)
    if stat.S_ISDIR(found.st_mode):
        remove_folder(path)
    elif found.st_nlink:  # else its name may be another run's by now
        os.unlink(path)


def remove_folder(folder: Path) -> None:
    """Remove a folder with its files, and nothing below it: drafts hold no folders."""
    with suppress(OSError):
        for name in os.listdir(folder):
            with suppress(OSError):
                os.unlink(folder / name)
        os.rmdir(folder)
