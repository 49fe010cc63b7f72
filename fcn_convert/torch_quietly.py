"""torch, imported without a warning that says nothing to the user of a command, and quickly."""

import gc
import sys
import warnings

SWITCH_SECONDS = 0.0005
"""How long a thread that hashes waits for the interpreter, at most, while torch is imported."""

_collects, _switches = gc.isenabled(), sys.getswitchinterval()
gc.disable()  # an import makes many objects and no garbage: a tenth of its time
sys.setswitchinterval(SWITCH_SECONDS)
try:
    with warnings.catch_warnings():
        # torch says so where NumPy is not installed, which nothing here needs.
        warnings.filterwarnings("ignore", message="Failed to initialize NumPy")
        import torch
        from torch import Tensor, fx, nn
        from torch._subclasses import FakeTensorMode
        from torch.nn import functional
finally:
    sys.setswitchinterval(_switches)
    if _collects:
        gc.enable()

__all__ = ["FakeTensorMode", "Tensor", "functional", "fx", "nn", "torch"]
