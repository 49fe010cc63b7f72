"""What a pickle asks to call that no checkpoint needs: Python's own means to run something.

Nothing that a pickle names is ever called here, so this protects nobody; it warns those who would
load the file in another way. Only a few modules are known, and other names are not judged: a
checkpoint may well hold objects of any class.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from fcn_convert.errors import quoted

MAX_NAME = 100
"""Characters of a name that are kept."""
_MODULES = {
    *("os", "posix", "nt", "subprocess", "pty", "sys", "shutil", "socket", "ctypes"),
    *("importlib", "runpy", "webbrowser"),
}
"""Modules that start programs, load code, or open files and connections."""
_BUILTINS = {"eval", "exec", "execfile", "compile", "open", "input", "breakpoint", "__import__"}


def runs_something(module: str, name: str) -> bool:
    """Return whether a name is one of Python's own means to run code or programs.

    name: may be dotted, and lead on through the attributes of its module, as `os.system` of
    `logging` does.
    """
    *through, last = name.split(".")
    if module in {"builtins", "__builtin__"} and not through:
        return last in _BUILTINS
    return not _MODULES.isdisjoint((module.partition(".")[0], *through))


def warnings_of(path: Path, names: Collection[str]) -> tuple[str, ...]:
    """Return the warning of a file whose pickle asks to call such names, if there are any."""
    warning = (
        f"{path}: its pickle asks to call {quoted(sorted(names))}, as a file does that is made to "
        "run code where it is loaded; nothing of it was run here, and no output holds any of it"
    )
    return (warning,) if names else ()
