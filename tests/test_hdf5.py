"""HDF5 files that lie or attack HDF5's own library, which reads them in a process of its own."""

from __future__ import annotations

import zlib
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fcn_convert.errors import CheckpointError
from fcn_convert.formats import open_checkpoint

pytestmark = pytest.mark.heavy  # h5py, of the extra dev-heavy


@pytest.fixture(scope="module")
def h5py() -> Any:
    return import_module("h5py")


def values_of(path: Path) -> dict[str, np.ndarray]:
    """Return the arrays of a file, as the index says where they are."""
    found = {}
    with open_checkpoint(path) as checkpoint:
        for name, tensor in checkpoint.state_dict(None).tensors.items():
            raw = checkpoint.files[tensor.file].pread(tensor.offset, tensor.nbytes)
            dtype = np.dtype(getattr(np, (tensor.dtype.torch or "").replace("bool", "bool_")))
            found[name] = np.frombuffer(raw, dtype).reshape(tensor.shape)
    return found


FILTERS: dict[str, dict[str, Any]] = {
    "none": {},
    "gzip": {"compression": "gzip"},
    "shuffled gzip with a checksum": {"compression": "gzip", "shuffle": True, "fletcher32": True},
    "lzf": {"compression": "lzf"},
    "shuffled lzf with a checksum": {"compression": "lzf", "shuffle": True, "fletcher32": True},
}


@pytest.mark.parametrize("dtype", ["f8", "f4", "f2", "i8", "i4", "i2", "i1", "u1", "?", "c8"])
@pytest.mark.parametrize("filters", FILTERS)
def test_chunks_are_unpacked(h5py: Any, tmp_path: Path, filters: str, dtype: str) -> None:
    rng = np.random.default_rng(0)
    # Noise that gzip leaves as it is, and runs of all lengths.
    values = np.concatenate([rng.standard_normal(900), np.repeat(np.arange(60), np.arange(60))])
    values = values[: 53 * 50].reshape(53, 50).astype(dtype)
    one = np.ones((), dtype)
    with h5py.File(tmp_path / "m.h5", "w") as file:
        file.create_dataset("w", data=values, chunks=(10, 50), **FILTERS[filters])
        file.create_dataset("one", data=values[3, 7])
        file.create_dataset("none", (0, 4), dtype)
        file.create_dataset("sparse", (53, 50), dtype, chunks=(10, 50), fillvalue=one)
        file["sparse"][20:30] = values[20:30]
    found = values_of(tmp_path / "m.h5")
    sparse = np.ones_like(values)
    sparse[20:30] = values[20:30]
    expected = {"w": values, "one": values[3, 7], "none": values[:0, :4], "sparse": sparse}
    assert {name: array.tobytes() for name, array in found.items()} == {
        name: array.tobytes() for name, array in expected.items()
    }


SHORT: dict[str, tuple[dict[str, Any], bytes]] = {
    "stored": ({}, bytes(700)),
    "gzip": ({"compression": "gzip"}, zlib.compress(bytes(796))),
    "gzip-longer": ({"compression": "gzip"}, zlib.compress(bytes(804))),
    "gzip-cut": ({"compression": "gzip"}, zlib.compress(np.random.default_rng(0).bytes(800))[:700]),
    "lzf": ({"compression": "lzf"}, b"\x02abc\xe0\xff\x00" + b"\x1f" + bytes(32)),
}


@pytest.mark.parametrize("form", SHORT)
def test_a_chunk_of_another_length_is_refused(h5py: Any, tmp_path: Path, form: str) -> None:
    """HDF5 fills it up with what its memory holds: never the same twice, and none of the file's."""
    filters, raw = SHORT[form]
    with h5py.File(tmp_path / "m.h5", "w") as file:
        dataset = file.create_dataset("w", (50, 4), "f4", chunks=(50, 4), **filters)
        dataset.id.write_direct_chunk((0, 0), raw)
    with pytest.raises(CheckpointError, match=r"'w' cannot be read: a chunk of it has \d+ bytes"):
        open_checkpoint(tmp_path / "m.h5")


def test_numbers_of_another_form_are_read_as_h5py_reads_them(h5py: Any, tmp_path: Path) -> None:
    """They lie in the file, but mean something else than the same bytes of NumPy's."""
    biased = h5py.h5t.IEEE_F32LE.copy()
    biased.set_ebias(100)
    values = np.arange(8, dtype="f4").reshape(2, 4)
    with h5py.File(tmp_path / "m.h5", "w") as file:
        space = h5py.h5s.create_simple(values.shape)
        dataset = h5py.h5d.create(file.id, b"w", biased, space)
        dataset.write(h5py.h5s.ALL, h5py.h5s.ALL, values)
    assert (values_of(tmp_path / "m.h5")["w"] == values).all()
