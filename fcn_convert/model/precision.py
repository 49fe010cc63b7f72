"""Computes with a network in a wider dtype than that of its weights, without a copy of them all."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from fcn_convert.torch_library import Tensor, torch

_DTYPE = torch.Tensor.dtype.__get__  # type: ignore[attr-defined]


class AtLeast(torch.overrides.TorchFunctionMode):
    """While it is entered, every operation gets its tensors in this dtype, or in their wider one.

    A weight is widened when an operation takes it and dropped after, so one layer at a time is held
    twice. What an operation changes in place is left as it is.
    """

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Call the operation with wider tensors."""
        del types
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        if func == _DTYPE:
            return self._wider(args[0].dtype)
        if _as_it_is(name) or "out" in kwargs:
            return func(*args, **kwargs)
        wide_args, wide_kwargs = self._widened((args, dict(kwargs)))
        return func(*wide_args, **wide_kwargs)

    def _widened(self, value: Any) -> Any:
        if isinstance(value, Tensor):
            return value.to(self._wider(value.dtype))
        if isinstance(value, dict):
            return {key: self._widened(part) for key, part in value.items()}
        if type(value) in {tuple, list}:
            return type(value)(self._widened(part) for part in value)
        return value

    def _wider(self, dtype: torch.dtype) -> torch.dtype:
        narrower = dtype.is_floating_point and dtype.itemsize < self.dtype.itemsize
        return self.dtype if narrower else dtype


def _as_it_is(name: str) -> bool:
    """Return whether an operation takes tensors as they are: it changes one or computes nothing."""
    if name.endswith("__"):
        return name in {"__get__", "__set__", "__setitem__"} or name.startswith("__i")
    return name.endswith("_") or name.startswith("register_")
