"""Converts every checkpoint of a folder in one process; prints the seconds of one."""

import sys
import time
from pathlib import Path

from fcn_convert import convert

folder, out = map(Path, sys.argv[1:])
sources = sorted(folder.glob("*.safetensors"))
start = time.perf_counter()
for source in sources:
    convert(source, {"feature_map": [16, 3, 3]}, out / source.name, reports=(), force=True)
print((time.perf_counter() - start) / len(sources))
