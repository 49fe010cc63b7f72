"""Rewrites a trained classifier's Dense weights as convolutions, and proves that they agree."""

__version__ = "0.1.0"

from fcn_convert.convert import convert, verify_conversion
from fcn_convert.errors import FcnConvertError
from fcn_convert.report import CheckFailedError, Report

__all__ = ["CheckFailedError", "FcnConvertError", "Report", "convert", "verify_conversion"]
