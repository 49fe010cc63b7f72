"""A folder given as a checkpoint: the file in it to start from."""

from __future__ import annotations

import os
from pathlib import Path

from fcn_convert.beside import CHECKPOINT_SUFFIXES, METADATA, is_index, shard_of
from fcn_convert.errors import CheckpointError, quoted

USUAL = (
    "model.safetensors.index.json",
    "model.safetensors",
    "diffusion_pytorch_model.safetensors.index.json",
    "diffusion_pytorch_model.safetensors",
    "pytorch_model.bin.index.json",
    "pytorch_model.bin",
    METADATA,
    "model.weights.h5",
)
"""Names that libraries give, those that are preferred first: as transformers, safetensors before
files of torch.save."""


def main_file(folder: Path) -> Path:
    """Return the file of a folder to open; raises CheckpointError where there is not just one."""
    try:
        names = sorted(os.listdir(folder))
    except OSError as error:
        raise CheckpointError(f"{folder}: {error.strerror}") from error
    for name in USUAL:
        if name in names:
            return folder / name
    if "saved_model.pb" in names:
        raise CheckpointError(
            f"{folder}: is a TensorFlow SavedModel; load it with Keras and save its weights with "
            "model.save('model.h5')"
        )
    groups = [[name for name in names if name.lower().endswith(s)] for s in CHECKPOINT_SUFFIXES]
    for found in (list(filter(is_index, names)), *groups):
        if found and all(map(shard_of, found)):
            raise CheckpointError(
                f"{folder}: holds {len(found)} shards ({quoted(found, 2)}) without the index that "
                "names them, as model.safetensors.index.json; put it there, too"
            )
        if len(found) > 1:
            raise CheckpointError(
                f"{folder}: holds {len(found)} files that could be meant: {quoted(found)}; name one"
            )
        if found:
            return folder / found[0]
    raise CheckpointError(
        f"{folder}: is a folder without a checkpoint; expected model.safetensors, "
        "pytorch_model.bin, the index of either, .metadata, or one file of another name"
    )
