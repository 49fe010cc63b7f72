"""Streams a plan into safetensors files: unchanged bytes inside the kernel, others in blocks."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import assert_never

from fcn_convert.errors import CheckpointError
from fcn_convert.formats import Checkpoint
from fcn_convert.formats.safetensors import LENGTH_BYTES
from fcn_convert.formats.source import Advance, SourceFile, write_at
from fcn_convert.formats.strided import Block, BlockReader, blocks, placed, strides_of
from fcn_convert.plan import (
    WRITTEN_BY,
    Copied,
    Keep,
    OutputFile,
    Permute,
    Reshape,
    ShardIndex,
    Step,
    Written,
)
from fcn_convert.tensors import RESERVED, TensorInfo, row_major_strides
from fcn_convert.workers import Workers, threads_to_compute, work_off

PAGE_BYTES = 4096
"""Block size of common file systems: ranges congruent modulo it can be shared, not copied."""
COPY_BYTES = 32 << 20
"""Bytes per call, so that progress and signals get through."""


@dataclass(frozen=True)
class _Range:
    """Bytes to copy as they are, from a source file to the output."""

    file: int
    source: int
    target: int
    nbytes: int


def write(file: OutputFile, checkpoint: Checkpoint, descriptor: int, advance: Advance) -> None:
    """Write a planned file to an open and empty one.

    Raises OSError where writing fails, CheckpointError where the source became shorter.
    """
    match file:
        case Written(_, steps, metadata):
            _write_tensors(steps, metadata, checkpoint, descriptor, advance)
        case Copied(_, _, number):
            source = checkpoint.files[number]
            _copy(source, descriptor, _Range(number, 0, 0, source.size), advance)
        case ShardIndex():
            write_at(descriptor, _index_text(file), 0)
        case _:
            assert_never(file)


def _index_text(index: ShardIndex) -> bytes:
    """Make the JSON that names the shard of each tensor."""
    metadata = {"total_size": index.total_size, "written_by": WRITTEN_BY}
    data = {"metadata": metadata, "weight_map": dict(index.weight_map)}
    # Names are escaped: an index is read by whatever reads JSON.
    return (json.dumps(data, indent=2) + "\n").encode("ascii")


def _write_tensors(
    planned: Iterable[Step],
    metadata: Mapping[str, str],
    checkpoint: Checkpoint,
    descriptor: int,
    advance: Advance,
) -> None:
    """Write a header, and the values in its order."""
    steps = sorted(planned, key=_place)
    header = _header(steps, metadata)
    write_at(descriptor, header, 0)
    plain: list[_Range] = []
    others: list[tuple[TensorInfo, int]] = []
    target = len(header)
    for step in steps:
        view = _view(step)
        if view.is_plain:
            plain.append(_Range(view.file, view.offset, target, view.nbytes))
        else:
            others.append((view, target))
        target += view.nbytes
    for span in _merged(plain):
        _copy(checkpoint.files[span.file], descriptor, span, advance)
    for view, start in others:  # last: this takes longest, and the disk is at work meanwhile
        _gather(checkpoint.files[view.file], view, descriptor, start, advance)


def _place(step: Step) -> tuple[int, int, int, str]:
    """Order of the values: aligned to their size, and otherwise as in the source."""
    source = step.source
    return -source.dtype.itemsize, source.file, source.offset, step.name


def _header(steps: list[Step], metadata: Mapping[str, str]) -> bytes:
    """Make the length and the JSON header, padded so that large tensors keep their place in a page.

    The largest tensor that is copied decides: with its offset equal modulo the block size, the file
    system can share the blocks between source and output.
    """
    # transformers refuses a file without `format`; sorted keys make the bytes reproducible.
    entries = [f'"{RESERVED}":{_json(dict(sorted({**metadata, "format": "pt"}.items())))}']
    end = 0
    anchor, largest = 0, 0
    for step in steps:
        begin, end = end, end + step.source.nbytes
        entry = {
            "dtype": step.source.dtype.name,
            "shape": step.action.shape,
            "data_offsets": (begin, end),
        }
        entries.append(f"{_json(step.name)}:{_json(entry)}")
        if step.source.nbytes > largest and _view(step).is_plain:
            largest, anchor = step.source.nbytes, step.source.offset - begin
    text = f"{{{','.join(entries)}}}".encode()
    padding = (anchor - LENGTH_BYTES - len(text)) % PAGE_BYTES
    text += b" " * padding
    return len(text).to_bytes(LENGTH_BYTES, "little") + text


_json = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


def _view(step: Step) -> TensorInfo:
    """Return the tensor whose values, row-major, are the output's: the source, or a view of it."""
    match step.action:
        case Keep() | Reshape():
            return step.source
        case Permute(split, order):
            strides = _split_strides(step.source, split)
            return replace(
                step.source, shape=step.action.shape, strides=tuple(strides[axis] for axis in order)
            )
        case _:
            assert_never(step.action)


def _split_strides(source: TensorInfo, split: tuple[int, ...]) -> tuple[int, ...]:
    """Return the strides of a Dense weight (out, in) read under `split`, (out, and axes of in)."""
    stride_out, stride_in = strides_of(source)
    return stride_out, *(stride_in * stride for stride in row_major_strides(split[1:]))


def _merged(ranges: list[_Range]) -> Iterator[_Range]:
    """Join ranges that follow each other in both files, so that few calls copy many tensors."""
    pending: _Range | None = None
    for span in ranges:
        if pending and (span.file, span.source, span.target) == (
            pending.file,
            pending.source + pending.nbytes,
            pending.target + pending.nbytes,
        ):
            pending = replace(pending, nbytes=pending.nbytes + span.nbytes)
        else:
            if pending:
                yield pending
            pending = span
    if pending:
        yield pending


def _copy(source: SourceFile, descriptor: int, span: _Range, advance: Advance) -> None:
    """Copy a range inside the kernel, or through memory where the file systems cannot."""
    done = 0
    while done < span.nbytes:
        length = min(COPY_BYTES, span.nbytes - done)
        # Only ranges that begin at a block boundary are shared: bring the first one there.
        head = -(span.source + done) % PAGE_BYTES
        if head and (span.source - span.target) % PAGE_BYTES == 0:
            length = min(length, head)
        count = _copy_range(source, descriptor, span.source + done, span.target + done, length)
        if not count:
            raise CheckpointError(f"{source.path}: became shorter while it was read")
        done += count
        advance(count)


_CANNOT_COPY = {errno.EXDEV, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL, errno.EPERM}


def _copy_range(source: SourceFile, descriptor: int, start: int, target: int, length: int) -> int:
    if hasattr(os, "copy_file_range"):
        try:
            return os.copy_file_range(source.descriptor, descriptor, length, start, target)
        except OSError as error:
            if error.errno not in _CANNOT_COPY:
                raise
    return os.pwrite(descriptor, source.pread(start, min(length, 1 << 20)), target)


def _gather(
    source: SourceFile, view: TensorInfo, descriptor: int, target: int, advance: Advance
) -> None:
    """Write the values of a strided view in row-major order, some blocks at the same time."""

    def write_block(block: Block, reader: BlockReader) -> None:
        values = reader.read(source, view, block)
        advance(len(values))
        for at, part in placed(values, view, block):
            write_at(descriptor, part, target + at)

    jobs = [partial(write_block, block) for block in blocks(view)]
    threads = threads_to_compute()
    with Workers(threads) as helpers:
        work_off(jobs, BlockReader, helpers, min(threads, len(jobs)))
