"""NumPy's import, which takes a tenth of a second: where values change places, and before torch."""

from __future__ import annotations

import sys
from importlib import import_module
from mmap import MAP_PRIVATE, PROT_READ, mmap
from types import ModuleType

NEEDED_BYTES = 1 << 28


def import_numpy() -> ModuleType:
    """Return NumPy; raises MemoryError where there is no room for it.

    Its OpenBLAS would end the process there, without a word.
    """
    if "numpy" not in sys.modules:
        try:
            mmap(-1, NEEDED_BYTES, MAP_PRIVATE, PROT_READ).close()
        except OSError as error:
            raise MemoryError(f"NumPy needs {NEEDED_BYTES >> 20} MB of addresses") from error
    return import_module("numpy")
