"""NumPy's import, which takes a tenth of a second: only where values change places."""

from __future__ import annotations

import sys
from importlib import import_module
from mmap import MAP_PRIVATE, PROT_READ, mmap
from types import ModuleType

NEEDED_BYTES = 1 << 28


def import_numpy() -> ModuleType:
    """Return NumPy; raises OSError where there is no memory for it.

    Its OpenBLAS would end the process there, without a word.
    """
    if "numpy" not in sys.modules:
        mmap(-1, NEEDED_BYTES, MAP_PRIVATE, PROT_READ).close()
    return import_module("numpy")
