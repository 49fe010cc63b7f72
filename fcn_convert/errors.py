"""Errors a user can cause and mend: one sentence each, without a traceback."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

MAX_PROBLEMS = 50
MAX_SENTENCE = 1500
"""Characters: what a file says in a sentence can have any length, and must not bury the rest."""


class FcnConvertError(Exception):
    """Base of every error that is the input's, the spec's or the usage's, never a bug of ours.

    problems: a sentence each.
    """

    def __init__(self, *problems: str) -> None:
        more = len(problems) - MAX_PROBLEMS
        counted = (f"and {more} more of the kind",) if more > 0 else ()
        self.problems = (*map(_cut, problems[:MAX_PROBLEMS]), *counted)
        super().__init__("\n".join(self.problems))

    def __reduce__(self) -> tuple[object, ...]:
        """Let it be sent to another process as it is: made again, it would be cut again."""
        return _again, (type(self), self.args, vars(self))


def _again(
    kind: type[FcnConvertError], arguments: tuple[str, ...], values: dict[str, Any]
) -> FcnConvertError:
    error = kind.__new__(kind, *arguments)
    vars(error).update(values)
    return error


class CheckpointError(FcnConvertError):
    """A checkpoint that cannot be read, with the file and what is wrong with it."""


class OutputError(FcnConvertError):
    """An output or a report that cannot be written."""


class ExistsError(OutputError):
    """An output that already exists, and was not to be replaced."""


class ReportError(FcnConvertError):
    """A report that cannot be read back."""


class ModelError(FcnConvertError):
    """A model that cannot be made fully convolutional, with the node that stands in the way."""


class TorchError(FcnConvertError):
    """torch cannot be imported: too little memory, or a broken installation."""


class SpecError(FcnConvertError):
    """Everything that is wrong with a spec, or with a spec for this checkpoint, at once."""


_NO_MEMORY = re.compile(
    r"DefaultCPUAllocator|failed to map segment|can't start new thread|[Cc]annot allocate memory"
)
"""What torch, the loader of libraries and Python say in place of a MemoryError."""


def is_refused(error: Exception) -> bool:
    """Return whether the system refused memory, descriptors or space: not a program's mistake."""
    return isinstance(error, OSError | MemoryError) or bool(_NO_MEMORY.search(str(error)))


def _cut(sentence: str) -> str:
    """Leave out the middle of a sentence that is too long."""
    half = MAX_SENTENCE // 2
    fits = len(sentence) <= MAX_SENTENCE
    return sentence if fits else f"{sentence[:half]} … {sentence[-half:]}"


def printable(text: str) -> str:
    """Return `text` with everything that is not printable escaped.

    Names come from untrusted files: a terminal escape, a line break or a lone surrogate in one
    must reach the screen as its escape, never as itself.
    """
    if text.isprintable():
        return text
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode("ascii")
        for c in text
    )


def quoted(items: Iterable[str], limit: int = 8) -> str:
    """Join names for an error message, cut after `limit` with the number left."""
    names = list(items)
    listed = ", ".join(names[:limit])
    return f"{listed} and {len(names) - limit} more" if len(names) > limit else listed
