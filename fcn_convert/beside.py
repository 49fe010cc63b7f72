"""Where a checkpoint's spec, its output and that one's report lie when nobody says: beside it."""

from __future__ import annotations

import os
import re
from pathlib import Path

from fcn_convert.errors import OutputError

OUTPUT_SUFFIX = ".fcn.safetensors"
FOLDER_SUFFIX = ".fcn"
"""Of an output that is a folder of shards."""
FILE_SUFFIX = ".safetensors"
"""What tells an output that is one file from a folder, by its name."""
REPORT_SUFFIX = ".report.json"
SPEC_SUFFIX = ".yaml"
INDEX_SUFFIX = ".index.json"
CHECKPOINT_SUFFIXES = (
    *(INDEX_SUFFIX, FILE_SUFFIX, ".pth", ".pt", ".bin", ".ckpt", ".h5", ".keras", ".pt2", ".hdf5"),
    *(".pdparams", ".npz", ".npy", ".pkl", ".pickle", ".tar"),
)
"""What a folder's checkpoints are told by, those that are preferred first; what a file holds is
told by its content."""
_NO_OUTPUTS = (
    *(suffix for suffix in CHECKPOINT_SUFFIXES if suffix != FILE_SUFFIX),
    *(SPEC_SUFFIX, ".yml", ".json", ".html", ".md", ".xml"),
)
"""Suffixes of other containers, of specs and of reports: an output by such a name would tell
programs and people that it is what it is not."""
METADATA, DISTRIBUTED_SUFFIX = ".metadata", ".distcp"
"""The first file of a torch distributed checkpoint, which is called as its folder; and the others'
suffix."""

_SHARD = re.compile(r"-(\d{5})-of-(\d{5})\.")
"""How one of several shards is called: `model-00001-of-00002.safetensors`."""
_INDEX = re.compile(r"(?:\.\w+)?\.index(\.\w+)?\.json$")
"""How the index of shards is called: `model.safetensors.index.json`, with a variant's name
(`model.safetensors.index.fp16.json`)."""


def is_index(name: str) -> bool:
    """Return whether a file is the index of shards by its name."""
    return _INDEX.search(name) is not None


def is_shard(name: str) -> bool:
    """Return whether a file is a shard by its name, also where it is the only one."""
    return _SHARD.search(name) is not None


def is_checkpoint(name: str) -> bool:
    """Return whether a file of a folder may be a checkpoint by its name."""
    return is_index(name) or name.lower().endswith(CHECKPOINT_SUFFIXES)


def shard_of(name: str) -> tuple[int, int] | None:
    """Return which shard a file is by its name, and of how many; None where it is all there is."""
    match = _SHARD.search(name)
    found = (int(match[1]), int(match[2])) if match else (1, 1)
    return found if found[1] > 1 else None


def spec_beside(source: Path) -> Path:
    """Return the place of a checkpoint's spec: `vgg16.yaml` beside `vgg16.pth`."""
    return _beside(source, SPEC_SUFFIX)


def file_beside(source: Path) -> Path:
    """Return the place of an output that is one file."""
    return _beside(source, OUTPUT_SUFFIX)


def folder_beside(source: Path) -> Path:
    """Return the place of an output that is a folder: `model.fcn` for the index of `model`."""
    return _beside(source, FOLDER_SUFFIX)


def check_output_name(output: Path) -> None:
    """Raise OutputError for a name that says that it is something else than a safetensors file."""
    if output.name == "-":
        raise OutputError(
            "-o -: an output is read back and checked before it appears, which standard output "
            "cannot be; name a file"
        )
    suffix = next((end for end in _NO_OUTPUTS if output.name.lower().endswith(end)), None)
    if suffix:
        name = output.name[: -len(suffix)].removesuffix(FILE_SUFFIX) + FILE_SUFFIX
        raise OutputError(
            f"{output}: what is written is safetensors, which {suffix} does not stand for; name "
            f"it {output.with_name(name)}"
        )


def report_beside(output: Path) -> Path:
    """Return the place of an output's report; only `.safetensors` is no part of its name."""
    return _made_of(output, REPORT_SUFFIX)


def picture_beside(output: Path, image: Path) -> Path:
    """Return the place of a picture: `lenet.fcn.canvas.png` of `canvas.png`."""
    return _made_of(output, f".{image.stem}.png")


def _made_of(output: Path, suffix: str) -> Path:
    path = _named(output)
    return path.with_name(path.name.removesuffix(FILE_SUFFIX) + suffix)


def _beside(source: Path, suffix: str) -> Path:
    """Return a place named as a checkpoint is, without the suffix that tells its container."""
    path = _named(source)
    name, count = _INDEX.subn(r"\1", path.name)
    # A folder's name has no such suffix.
    if not count and not (source.name == METADATA or os.path.isdir(path)):
        name = path.stem
    return path.with_name(name + suffix)


def _named(path: Path) -> Path:
    """Return a path that ends with a name; raises OutputError for the root, which has none."""
    if path.name == METADATA:
        path = path.parent
    named = Path(os.path.abspath(path)) if path.name in {"", ".."} else path
    if not named.name:
        raise OutputError(f"{path}: has no name that others could be made of")
    return named
