"""Computes what a Dense layer and its convolution answer to the same inputs, and compares."""

from __future__ import annotations

from functools import partial

from fcn_convert.activations.answers import (
    ConvolutionAnswers,
    DenseAnswers,
    Job,
    StoredLayer,
    ThreadMemory,
)
from fcn_convert.activations.comparison import Comparison
from fcn_convert.activations.inputs import Inputs
from fcn_convert.formats.source import Advance
from fcn_convert.layers import DenseLayer
from fcn_convert.proof import Check
from fcn_convert.rereading import BOX_BYTES
from fcn_convert.torch_library import torch
from fcn_convert.torch_settings import SETTINGS
from fcn_convert.workers import Workers, threads_to_compute, work_off

ROWS = 1 << 14
"""Output features compared at a time, so that memory does not grow with their number."""


def compare(
    layer: DenseLayer, before: StoredLayer, after: StoredLayer, advance: Advance, helpers: Workers
) -> Check:
    """Compare every output of a layer, on maps of its size and at each window of a larger one.

    before: the Dense layer as the original has it; after: the convolution as the output does. Both
    are read a box at a time. The check is not computed where torch cannot compute in the dtype.
    """
    reason = _why_not(layer)
    if reason:
        return Check("activations", None, reason)
    inputs = Inputs(layer)
    comparison = Comparison(inputs, layer.weight.shape[1])
    with SETTINGS, torch.inference_mode():
        for first in range(0, layer.weight.shape[0], ROWS):
            dense = DenseAnswers(inputs, before.rows(first, ROWS))
            convolution = ConvolutionAnswers(inputs, after.rows(first, ROWS))
            _compute([*dense.jobs(), *convolution.jobs()], advance, helpers)
            comparison.add(dense, convolution)
    return comparison.check(after.weight.name)


def _why_not(layer: DenseLayer) -> str:
    """Return why a layer cannot be computed with; empty where it can."""
    if 0 in layer.weight.shape:
        return f"{layer.weight.name} has no elements to compute with"
    for tensor in (layer.weight, *([layer.bias] if layer.bias else [])):
        dtype = getattr(torch, tensor.dtype.torch or "", None)
        try:
            if dtype is None:
                return f"torch has no dtype {tensor.dtype.name}"
            torch.zeros(1, dtype=dtype).to(torch.complex128)
        except (RuntimeError, NotImplementedError):  # it only stores values of this dtype
            return f"torch cannot compute with {tensor.dtype.name}"
    return ""


def _compute(jobs: list[tuple[int, Job]], advance: Advance, helpers: Workers) -> None:
    """Do all jobs, in as many threads as help: in no more than there are boxes to read."""

    def counted(nbytes: int, job: Job, memory: ThreadMemory) -> None:
        with SETTINGS, torch.inference_mode():  # which hold for one thread only
            job(memory)
        advance(nbytes)

    boxes = sum(nbytes for nbytes, _ in jobs) // BOX_BYTES
    parts = (partial(counted, nbytes, job) for nbytes, job in jobs)
    work_off(parts, ThreadMemory, helpers, min(threads_to_compute(), boxes))
