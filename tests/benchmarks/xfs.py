"""A small XFS with shared blocks, in a file mounted for as long as it is measured."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

SIZE_MB = 1500


@contextmanager
def mounted(folder: Path) -> Iterator[Path | str]:
    """Give the folder of a new XFS, or say in words why there is none."""
    image, place = folder / "xfs.img", folder / "xfs"
    place.mkdir(exist_ok=True)
    commands = (
        ["truncate", "-s", f"{SIZE_MB}M", str(image)],
        ["mkfs.xfs", "-q", "-f", "-m", "reflink=1", str(image)],
        ["mount", "-o", "loop", str(image), str(place)],
    )
    try:
        for command in commands:
            if shutil.which(command[0]) is None:
                yield f"{command[0]} is not installed"
                return
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                yield f"{command[0]}: {done.stderr.strip() or 'failed'}".splitlines()[0]
                return
        try:
            yield place
        finally:
            subprocess.run(["umount", str(place)], check=True)
    finally:
        image.unlink(missing_ok=True)
