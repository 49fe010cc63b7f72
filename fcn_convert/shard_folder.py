"""A folder of shards that appears whole or not at all, as `atomic.py` does for one file.

It is written under a draft's name beside its place, every file is synced, then the folder, which is
then moved. A folder that exists changes places with the draft in one step of the kernel's, so that
there is always one of the two.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from fcn_convert.atomic import Draft, check_no_input, naming, stat_of
from fcn_convert.errors import FcnConvertError, OutputError, quoted
from fcn_convert.formats.json_text import MAX_JSON, parse_json
from fcn_convert.formats.source import SourceFile
from fcn_convert.plan import INDEX_NAME, SUFFIX, WRITTEN_BY
from fcn_convert.turns import create_file, forget, remove_leftovers

AT_FDCWD = -100
RENAME_EXCHANGE = 2
"""Both of linux/fs.h and fcntl.h: paths count from the working directory; names change places."""
MAX_OPEN = 16
"""Files that wait for their sync: descriptors are few."""


class FolderDraft(Draft):
    """A folder that is to become the target."""

    def check(self, inputs: Iterable[Path]) -> None:
        """Raise OutputError unless a folder may be put at the target, replaced or not.

        inputs: files that must never be written to, nor moved, by whatever path.
        """
        found = stat_of(self.target)
        if found is None:
            return
        check_no_input(self.target, found, inputs)
        if not stat.S_ISDIR(found.st_mode):
            raise OutputError(
                f"{self.target}: exists and is not a folder, which the output of a sharded "
                "checkpoint is; name another, or FILE.safetensors for one file"
            )
        for path in inputs:
            for folder in {path.parent, Path(os.path.realpath(path)).parent}:
                if os.path.exists(folder) and os.path.samestat(found, os.stat(folder)):
                    raise OutputError(
                        f"{self.target}: holds {path}, which is only read; name another folder"
                    )

    def check_free(self) -> None:
        """Raise OutputError where the target exists and is not to be, or must not be, replaced."""
        super().check_free()
        if os.path.lexists(self.target):
            self._check_ours(self.target)

    def _check_ours(self, folder: Path) -> None:
        others = _not_ours(folder)
        if others:
            raise OutputError(
                f"{self.target}: is a folder that holds more than an index and its shards of ours "
                f"({quoted(others)}); --force replaces nothing else, so name another"
            )

    def remove_leftovers(self) -> None:
        """Remove what runs to the same target have left that were killed."""
        remove_leftovers(self.target, _remove_ours)

    def _make(self) -> None:
        os.mkdir(self.path)
        with suppress(FileNotFoundError):  # another run has removed it
            self._descriptor = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    @contextmanager
    def file(self, name: str, /) -> Iterator[int]:
        """Give the descriptor to write one of the files to, which is synced from then on."""
        with naming(self.target):
            descriptor = create_file(self.path / name, os.O_EXCL)
        try:
            yield descriptor
        except BaseException:
            os.close(descriptor)
            raise
        self._syncs.append(self._pool.submit(_sync_and_close, descriptor))
        with naming(self.target):
            for older in self._syncs[:-MAX_OPEN]:
                older.result()

    def _move(self, *, replaces: bool) -> None:
        if replaces and os.path.lexists(self.target):
            self._replace()
        else:
            os.rename(self.path, self.target)  # fails on a folder that holds anything

    def _replace(self) -> None:
        """Change places with the older folder; back again where more has come into it meanwhile."""
        _exchange(self.path, self.target)
        try:
            self._check_ours(self.path)
        except BaseException:
            self._put_back()
            raise

    def _put_back(self) -> None:
        try:
            _exchange(self.path, self.target)
        except OSError as error:
            raise OutputError(
                f"{self.target} is in place, but the older folder could not be put back "
                f"({error.strerror}); what in it is not ours stays in {self.path}"
            ) from error

    def _discard(self) -> None:
        """Remove what lies under the draft's name: a draft, or the folder it has replaced."""
        _remove_ours(self.path)


def tidy(output: Path, report: Path) -> None:
    """Remove what killed runs have left beside an output and its report that are both in place."""
    for target in (output, report):
        remove_leftovers(target, _remove_ours)
        forget(target)


def _sync_and_close(descriptor: int) -> None:
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _not_ours(folder: Path) -> list[str]:
    """Return what in a folder is neither an index that we wrote nor one of its shards."""
    with naming(folder), os.scandir(folder) as entries:
        found = {entry.name: entry.is_file(follow_symlinks=False) for entry in entries}
    known = {INDEX_NAME, *_shards_of_ours(folder / INDEX_NAME)} if INDEX_NAME in found else set()
    return sorted(name for name, is_file in found.items() if not is_file or name not in known)


def _remove_ours(folder: Path) -> None:
    """Remove a draft, or a folder of ours; one that holds what is not ours stays, with that."""
    with suppress(OSError):
        found = set(os.listdir(folder))
        # The index is written last, and so removed last.
        known = _shards_of_ours(folder / INDEX_NAME)
        ours = found & known if known else {name for name in found if name.endswith(SUFFIX)}
        for name in ours:
            os.unlink(folder / name)
        if found <= {*ours, INDEX_NAME}:
            with suppress(FileNotFoundError):
                os.unlink(folder / INDEX_NAME)
            os.rmdir(folder)


def _shards_of_ours(path: Path) -> set[str]:
    """Return the shards that an index of ours names; none for any other file."""
    try:
        with SourceFile(path) as file:
            data = parse_json(path, "the index", file.pread(0, min(file.size, MAX_JSON + 1)))
        ours = data["metadata"]["written_by"] == WRITTEN_BY
        return set(data["weight_map"].values()) if ours else set()
    except (FcnConvertError, KeyError, TypeError, AttributeError):
        return set()


def _exchange(one: Path, other: Path) -> None:
    """Let two names change places in one step; raises OutputError where that cannot be done.

    renameat2 is Linux's (since 3.15) and glibc's (since 2.28); Python has no name for it.
    """
    import ctypes  # noqa: PLC0415 - only where a folder is replaced

    library = ctypes.CDLL(None, use_errno=True)
    renameat2 = getattr(library, "renameat2", None)
    code = errno.ENOSYS
    if renameat2 is not None:
        names = os.fsencode(one), os.fsencode(other)
        if not renameat2(AT_FDCWD, names[0], AT_FDCWD, names[1], RENAME_EXCHANGE):
            return
        code = ctypes.get_errno()
    if code in {errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP, errno.EXDEV}:
        raise OutputError(
            f"{other}: cannot be replaced in one step on this system; remove it first, or name "
            "another folder"
        )
    raise OSError(code, os.strerror(code))
