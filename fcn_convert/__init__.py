"""Rewrites a trained classifier's Dense weights as convolutions, and proves that they agree."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fcn_convert.conversion import convert, verify_conversion
    from fcn_convert.errors import FcnConvertError
    from fcn_convert.model import fully_convolutional, spec_of
    from fcn_convert.report import CheckFailedError, Report

__version__ = "0.1.0"

__all__ = [
    "CheckFailedError",
    "FcnConvertError",
    "Report",
    "convert",
    "fully_convolutional",
    "spec_of",
    "verify_conversion",
]

_HOMES = {
    "CheckFailedError": "fcn_convert.report",
    "FcnConvertError": "fcn_convert.errors",
    "Report": "fcn_convert.report",
    "convert": "fcn_convert.conversion",
    "fully_convolutional": "fcn_convert.model",
    "spec_of": "fcn_convert.model",
    "verify_conversion": "fcn_convert.conversion",
}


def __getattr__(name: str) -> Any:
    """Import a public name where it is first used, so that `--version` needs none of them."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
