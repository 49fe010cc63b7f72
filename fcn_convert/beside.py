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
METADATA = ".metadata"
"""The first file of a torch distributed checkpoint, which is called as its folder."""

_INDEX = re.compile(r"\.\w+\.index(\.\w+)?\.json$")
"""How the index of shards is called: `model.safetensors.index.json`, with a variant's name
(`model.safetensors.index.fp16.json`)."""


def spec_beside(source: Path) -> Path:
    """Return the place of a checkpoint's spec: `vgg16.yaml` beside `vgg16.pth`."""
    return _beside(source, SPEC_SUFFIX)


def file_beside(source: Path) -> Path:
    """Return the place of an output that is one file."""
    return _beside(source, OUTPUT_SUFFIX)


def folder_beside(source: Path) -> Path:
    """Return the place of an output that is a folder: `model.fcn` for the index of `model`."""
    return _beside(source, FOLDER_SUFFIX)


def report_beside(output: Path) -> Path:
    """Return the place of an output's report; only `.safetensors` is no part of its name."""
    path = _named(output)
    return path.with_name(path.name.removesuffix(FILE_SUFFIX) + REPORT_SUFFIX)


def _beside(source: Path, suffix: str) -> Path:
    """Return a place named as a checkpoint is, without the suffix that tells its container."""
    path = _named(source)
    name, count = _INDEX.subn(r"\1", path.name)
    if not count and not os.path.isdir(path):  # a folder's name has no such suffix
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
