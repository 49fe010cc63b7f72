"""Checkpoints in several files that a JSON index names, as huggingface_hub and transformers write.

`model.safetensors.index.json` maps every tensor's name to the file beside it that holds it; so
does `pytorch_model.bin.index.json` for files of torch.save.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from fcn_convert.errors import CheckpointError, printable, quoted
from fcn_convert.formats import safetensors, torch_legacy, zip_files
from fcn_convert.formats.json_text import MAX_JSON, parse_json
from fcn_convert.formats.reader import HEAD_BYTES, Reader
from fcn_convert.formats.source import Files, Scratch
from fcn_convert.tensors import (
    MAX_TENSORS,
    Checksum,
    Index,
    LeftOut,
    Shard,
    StateDict,
    TensorInfo,
    shown,
)

WEIGHT_MAP = "weight_map"
MAX_TIMES = 16
"""How far a `total_size` may be over what there is: from 64 bits to 4, where an index was copied
from shards of another dtype."""
SHARD_READERS: tuple[Reader, ...] = (zip_files, torch_legacy, safetensors)


def recognises(head: bytes) -> bool:
    """Return whether a file starts like a JSON object."""
    return head.lstrip(b" \t\r\n").startswith(b"{") and b"\0" not in head


def read_index(files: Files) -> Index:
    """Index all files of a checkpoint; raises CheckpointError where they do not fit together."""
    path = files.main.path
    if files.main.size > MAX_JSON:
        raise CheckpointError(f"{path}: is JSON of {files.main.size} bytes, more than any index")
    data = parse_json(path, "the file", files.main.pread(0, files.main.size))
    if not isinstance(data, dict) or not isinstance(data.get(WEIGHT_MAP), dict):
        raise CheckpointError(
            f"{path}: is JSON without a `{WEIGHT_MAP}`, a configuration perhaps; expected an index "
            "of shards, or the checkpoint itself"
        )
    by_file = _by_file(path, data[WEIGHT_MAP])
    numbers = {name: files.sibling(name) for name in by_file}
    parts = [_read(files, name, numbers[name], names) for name, names in by_file.items()]
    state_dict = StateDict(
        "",
        {tensor.name: tensor for part in parts for tensor in part.tensors},
        tuple(entry for part in parts for entry in part.left_out),
        tuple(entry for part in parts for entry in part.unreadable),
    )
    kind = quoted(sorted({part.format for part in parts}))
    notes = {note for part in parts for note in part.notes}
    notes |= set(_doubts_of_size(path, data.get("metadata"), state_dict, files))
    return Index(
        f"sharded {kind}",
        (state_dict,),
        notes=tuple(sorted(notes)),
        warnings=tuple(warning for part in parts for warning in part.warnings),
        checksums=tuple(checksum for part in parts for checksum in part.checksums),
        shards=tuple(part.shard for part in parts),
    )


def _doubts_of_size(
    path: Path, metadata: object, state_dict: StateDict, files: Files
) -> Iterator[str]:
    """Yield what is odd about the `total_size` of an index, which few of its readers look at.

    It is meant to be the bytes of all tensors. What some writers declare is as good: the bytes of
    all files, or tied tensors counted once. Another number is often that of the shards before they
    were quantized or merged. Raises CheckpointError for one that no change of dtype explains.
    """
    if not isinstance(metadata, dict | None):
        raise CheckpointError(f"{path}: its `metadata` is not an object")
    said = (metadata or {}).get("total_size")
    if said is None:
        return
    # Old versions of transformers counted eighths of a byte, and so wrote 1024.0.
    if type(said) not in {int, float} or not 0 <= said < float("inf"):
        raise CheckpointError(f"{path}: its `total_size` is not a size: {shown(str(said))}")
    shards = sum(file.size for file in files.opened[1:] if not isinstance(file, Scratch))
    if said > MAX_TIMES * shards:
        raise CheckpointError(
            f"{path}: declares {said:.0f} bytes of tensors, but its shards have {shards}: some are "
            "missing, or they are of another checkpoint"
        )
    tensors = sum(tensor.nbytes for tensor in state_dict.tensors.values())
    tied = [[state_dict.tensors[name].nbytes for name in tie] for tie in state_dict.ties]
    once = tensors - sum(sum(sizes) - max(sizes) for sizes in tied)
    if said not in {tensors, once, shards} and not state_dict.unreadable:
        yield (
            f"the index declares {said:.0f} bytes of tensors, and the shards hold {tensors}: "
            "it may be older than they are"
        )


@dataclass(frozen=True)
class _Part:
    """What one file holds."""

    shard: Shard
    format: str
    tensors: tuple[TensorInfo, ...]
    left_out: tuple[LeftOut, ...]
    unreadable: tuple[LeftOut, ...]
    notes: tuple[str, ...]
    warnings: tuple[str, ...]
    checksums: tuple[Checksum, ...]


def _by_file(path: Path, weight_map: dict[str, object]) -> dict[str, set[str]]:
    """Return the names that each file is to hold, files in the order of theirs."""
    by_file: dict[str, set[str]] = {}
    for name, file in weight_map.items():
        if not isinstance(file, str):
            raise CheckpointError(f"{path}: its `{WEIGHT_MAP}` names no file for {shown(name)}")
        by_file.setdefault(file, set()).add(name)
    if not by_file or len(weight_map) > MAX_TENSORS:
        raise CheckpointError(
            f"{path}: names {len(weight_map)} tensors; expected 1 to {MAX_TENSORS}"
        )
    return dict(sorted(by_file.items()))


def _read(files: Files, name: str, number: int, expected: set[str]) -> _Part:
    shard = files.opened[number]
    head = shard.pread(0, min(HEAD_BYTES, shard.size))
    reader = next((reader for reader in SHARD_READERS if reader.recognises(head)), None)
    if reader is None:
        raise CheckpointError(f"{shard.path}: is not a shard of safetensors or of torch.save")
    index = reader.read_index(files.child(number))
    try:
        (found,) = index.state_dicts
    except ValueError:
        raise CheckpointError(
            f"{shard.path}: holds {len(index.state_dicts)} state dicts, expected one"
        ) from None
    _check_names(files.main.path, shard.path, expected, found)
    return _Part(
        Shard(name, number, index.format, frozenset(found.tensors), index.metadata),
        index.format,
        tuple(replace(t, file=t.file or number) for t in found.tensors.values()),
        (*found.left_out, *index.left_out),
        found.unreadable,
        index.notes,
        index.warnings,
        tuple(replace(checksum, file=number) for checksum in index.checksums),
    )


def _check_names(index: Path, shard: Path, expected: set[str], found: StateDict) -> None:
    """Raise CheckpointError unless a shard holds exactly what the index says."""
    names = {*found.tensors, *(entry.name for entry in found.unreadable)}
    problems = list(_disagreements(expected, names))
    if problems:
        raise CheckpointError(
            f"{shard}: {' and '.join(problems)}, against {index.name}; the two are not of one "
            "checkpoint, or a download is incomplete"
        )


def _disagreements(expected: set[str], found: set[str]) -> Iterator[str]:
    if expected - found:
        yield f"lacks {quoted(map(printable, sorted(expected - found)))}"
    if found - expected:
        yield f"holds {quoted(map(printable, sorted(found - expected)))}"
