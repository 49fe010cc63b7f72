"""Tensors without values: the shapes that operations give, at no cost, for inputs of any size."""

from __future__ import annotations

import logging
from contextlib import AbstractContextManager, nullcontext
from types import TracebackType

from fcn_convert.torch_library import FakeTensorMode, Tensor

_LOGGER = logging.getLogger("torch._subclasses.fake_tensor")


class ShapesOnly(AbstractContextManager[None]):
    """While it is entered, operations on imagined tensors give imagined ones; nothing is computed.

    Parameters may be real. What looks at a value raises.
    """

    def __init__(self) -> None:
        self._mode = FakeTensorMode(allow_non_fake_inputs=True)

    def imagined(self, tensor: Tensor) -> Tensor:
        """Return a tensor of the same shape, dtype and device, without values."""
        return self._mode.from_tensor(tensor)

    def __enter__(self) -> None:
        _LOGGER.addFilter(_nothing)  # it logs what we try and catch
        self._mode.__enter__()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        raised: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._mode.__exit__(kind, raised, trace)
        _LOGGER.removeFilter(_nothing)


def _nothing(_record: logging.LogRecord) -> bool:
    return False


Mode = ShapesOnly | nullcontext[None]
"""What computes: shapes alone, or real values."""
