"""torch, imported quickly, and beside threads that read."""

import gc
import os
import sys
from contextlib import suppress
from ctypes import CDLL
from importlib.util import find_spec
from pathlib import Path

from fcn_convert.errors import TorchError
from fcn_convert.numpy_import import import_numpy

SWITCH_SECONDS = 0.00005
"""How long a thread that hashes waits for the interpreter, at most, while torch is imported."""

_found = None if "torch" in sys.modules else find_spec("torch")
if _found and _found.origin:
    # `import torch` loads its library, a fifth of its time, while no other thread can work; nor
    # could one while CDLL itself loaded it, but for a function that is called others need not wait.
    with suppress(OSError, AttributeError):
        _dlopen = CDLL(None).dlopen
        _dlopen(os.fsencode(Path(_found.origin).with_name("lib") / "libtorch_cpu.so"), os.RTLD_NOW)

_collects, _switches = gc.isenabled(), sys.getswitchinterval()
gc.disable()  # an import makes many objects and no garbage: a tenth of its time
sys.setswitchinterval(SWITCH_SECONDS)
try:
    import_numpy()  # as torch does, but without looking for memory first
    import torch
    from torch import Tensor, fx, nn
    from torch._subclasses import FakeTensorMode
    from torch.nn import functional
except Exception as error:
    raise TorchError(
        f"torch cannot be imported: {str(error) or type(error).__name__}; where memory is limited "
        "(ulimit -v) it needs about a gigabyte, and `--verify bytes` needs no torch"
    ) from error
finally:
    sys.setswitchinterval(_switches)
    if _collects:
        if not gc.get_freeze_count():
            # Takes all that was imported for old, so that the next collection does not look at it.
            gc.freeze()
            gc.unfreeze()
        gc.enable()

__all__ = ["FakeTensorMode", "Tensor", "functional", "fx", "nn", "torch"]
