"""Rewrites a trained classifier's Dense weights as convolutions, and proves that they agree."""

__version__ = "0.1.0"
