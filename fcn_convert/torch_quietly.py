"""torch, imported without a warning that says nothing to the user of a command."""

import warnings

with warnings.catch_warnings():
    # torch says so where NumPy is not installed, which nothing here needs.
    warnings.filterwarnings("ignore", message="Failed to initialize NumPy")
    import torch
    from torch import Tensor, fx, nn
    from torch.nn import functional

__all__ = ["Tensor", "functional", "fx", "nn", "torch"]
