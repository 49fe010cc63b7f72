"""The proof's own reader against numpy's views, and against a conversion that reads wrongly."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fcn_convert import CheckFailedError, convert, rereading
from fcn_convert.formats import strided
from fcn_convert.formats.source import SourceFile
from fcn_convert.rereading import BoxReader, boxes
from fcn_convert.tensors import DTYPES, TensorInfo

ITEMSIZE = 2


@st.composite
def views(draw: st.DrawFn) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Shapes and strides: permuted, with gaps, expanded, and of one element."""
    shape = tuple(draw(st.lists(st.integers(1, 7), min_size=1, max_size=4)))
    steps = [0] * len(shape)
    step = 1
    for axis in draw(st.permutations(range(len(shape)))):
        step *= draw(st.sampled_from([1, 1, 1, 3]))
        if draw(st.sampled_from([True, True, True, False])):
            steps[axis] = step
            step *= shape[axis]
    return shape, tuple(steps)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    view=views(),
    most=st.sampled_from([1, 16, 64, 1 << 20]),
    cached=st.sampled_from([1, 4, 1 << 14]),
    offset=st.sampled_from([0, 6]),
)
def test_boxes_hold_every_value_once(
    tmp_path: Path,
    view: tuple[tuple[int, ...], tuple[int, ...]],
    most: int,
    cached: int,
    offset: int,
) -> None:
    shape, strides = view
    span = 1 + sum((size - 1) * step for size, step in zip(shape, strides, strict=True))
    stored = np.arange(1, span + 1, dtype=np.int16)
    path = tmp_path / "values"
    path.write_bytes(bytes(offset) + stored.tobytes())
    in_bytes = tuple(step * ITEMSIZE for step in strides)
    expected = np.lib.stride_tricks.as_strided(stored, shape, in_bytes)
    plain = expected.flags["C_CONTIGUOUS"]
    tensor = TensorInfo("t", DTYPES["I16"], shape, offset, None if plain else strides)
    found = np.zeros(shape, np.int16)
    with pytest.MonkeyPatch.context() as patch, SourceFile(path) as file:
        patch.setattr(rereading, "BOX_BYTES", most)
        patch.setattr(rereading, "CACHED", cached)
        for box in boxes(tensor):
            assert prod(box.shape) * ITEMSIZE <= max(most, ITEMSIZE)
            place = tuple(slice(a, a + n) for a, n in zip(box.start, box.shape, strict=True))
            assert not found[place].any()
            values = BoxReader().read(file, tensor, box)
            found[place] = np.frombuffer(values, np.int16).reshape(box.shape)
    assert (found == expected).all()


@pytest.mark.parametrize("flatten", ["CHW", "HWC", "WCH"])
@pytest.mark.parametrize("how", ["row-major", "column-major", "sliced"])
def test_long_stretches_are_read_of_both_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str, flatten: str
) -> None:
    sizes, features_out = {"C": 64, "H": 4, "W": 3}, 640
    outer, inner = {"row-major": (768, 1), "column-major": (1, 640), "sliced": (3 * 768, 3)}[how]
    inside = {axis: prod(sizes[b] for b in flatten[at + 1 :]) for at, axis in enumerate(flatten)}
    shape = (features_out, *sizes.values())
    strides = (outer, *(inner * inside[axis] for axis in sizes))
    before = TensorInfo("t", DTYPES["F32"], shape, 0, strides)
    after = TensorInfo("t", DTYPES["F32"], shape, 0)
    monkeypatch.setattr(rereading, "BOX_BYTES", 64 << 10)
    (tmp_path / "values").write_bytes(bytes(before.span))
    reads = 0
    real = SourceFile.pread_into

    def spy(self: SourceFile, buffer: memoryview, offset: int) -> None:
        nonlocal reads
        reads += 1
        real(self, buffer, offset)

    monkeypatch.setattr(SourceFile, "pread_into", spy)
    with SourceFile(tmp_path / "values") as file:
        for box in boxes(before):
            for tensor in (before, after):
                BoxReader().read(file, tensor, box)
    assert reads < 3 * prod(shape) / 128  # a square of 64 kB has sides of 128 numbers


def _backwards(values: bytearray) -> None:
    values[:] = np.frombuffer(values, np.float32)[::-1].tobytes()


def _gathers_backwards(monkeypatch: pytest.MonkeyPatch) -> None:
    gather: Callable[..., None] = strided._gather

    def broken(*arguments: Any) -> None:
        gather(*arguments)
        _backwards(arguments[-1])

    monkeypatch.setattr(strided, "_gather", broken)


def _leaves_out_a_block(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(strided, "BLOCK_BYTES", 256)
    monkeypatch.setattr("fcn_convert.write.blocks", lambda view: list(strided.blocks(view))[1:])


@pytest.mark.parametrize("level", ["bytes", "activations"])
@pytest.mark.parametrize(
    "break_reader",
    [
        pytest.param(_gathers_backwards, id="values-out-of-order"),
        pytest.param(_leaves_out_a_block, id="a-block-left-out"),
    ],
)
def test_a_conversion_that_reads_wrongly_fails(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    break_reader: Callable[[pytest.MonkeyPatch], None],
    level: Any,
) -> None:
    made = np.random.default_rng(0)
    arrays = {
        "conv/kernel": made.standard_normal((3, 3, 2, 4), np.float32),
        "fc/kernel": made.standard_normal((16, 5), np.float32),
    }
    np.savez(tmp_path / "net.npz", **arrays)
    spec = {"layout": "keras", "feature_map": [4, 2, 2]}
    assert convert(tmp_path / "net.npz", spec, tmp_path / "right.safetensors").verdict.passed
    break_reader(monkeypatch)
    with pytest.raises(CheckFailedError, match=r"conv\.weight differs from the original"):
        convert(tmp_path / "net.npz", spec, tmp_path / "wrong.safetensors", level=level)
    assert not (tmp_path / "wrong.safetensors").exists()
