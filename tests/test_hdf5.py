"""HDF5 files that lie or attack HDF5's own library, which reads them in a process of its own."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import zlib
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fcn_convert.errors import CheckpointError
from fcn_convert.formats import hdf5, open_checkpoint

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


# The process that reads a file may die, or say anything.


def answering(*answers: object, then: str = "") -> str:
    """The program of a process that gives these answers, and then does something."""
    lines = "".join(json.dumps(answer) + "\n" for answer in answers)
    return f"import os, signal, sys; sys.stdout.write({lines!r}); sys.stdout.flush(); {then}"


def killed(name: str) -> str:
    return answering(["group", ""], then=f"os.kill(os.getpid(), signal.{name})")


WEIGHT = ["array", "fc.weight", "<f4", [5, 4], 512]
PACKED = ["unpacked", "w", "<f4", [2, 2]]
MISBEHAVED: dict[str, tuple[str, str]] = {
    "crashed": (
        killed("SIGSEGV"),
        r"library crashed on it \(Segmentation fault\): the file is damaged",
    ),
    "gave up": (killed("SIGABRT"), r"library crashed on it \(Aborted\)"),
    "killed": (killed("SIGKILL"), "the process that reads it was killed, as the system does"),
    "out of its time": (killed("SIGXCPU"), "was at work on it for too long"),
    "out of time": (killed("SIGALRM"), "was at work on it for too long"),
    "left": (answering(["group", ""], then="sys.exit(3)"), r"crashed on it \(status 3\)"),
    "said nothing": ("", r"crashed on it \(status 0\)"),
    "broke off in values": (answering(PACKED, ["values", 16]), r"crashed on it \(status 0\)"),
    "no JSON": ("print('x')", "an answer that makes no sense"),
    "nested": ("print('[' * 100_000)", "an answer that makes no sense"),
    "no list": (answering({"end": 1}), "an answer that makes no sense"),
    "unknown": (answering(["grape", "a"]), "an answer that makes no sense"),
    "values of no array": (answering(["values", 4]), "an answer that makes no sense"),
    "too many values": (answering(PACKED, ["values", 17]), "an answer that makes no sense"),
    "no values": (answering(PACKED, ["values", 0]), "an answer that makes no sense"),
    "other than values": (answering(PACKED, WEIGHT), "an answer that makes no sense"),
    "attribute of no group": (answering(["attribute", "g", "a", "b"]), "makes no sense"),
    "unknown dtype": (answering(["array", "w", "<q4", [5], 0]), "makes no sense"),
    "array twice": (answering(WEIGHT, WEIGHT), "two arrays called 'fc.weight'"),
    "beyond the file": (answering([*WEIGHT[:4], 1 << 40]), "it ends at byte 1099511627856, the"),
    "before the file": (answering([*WEIGHT[:4], -4]), "its offset is not a natural number"),
    "offset of text": (answering([*WEIGHT[:4], "0"]), "its offset is not a natural number"),
    "negative": (answering(["array", "w", "<f4", [-1], 0]), "one of its sizes is not a natural"),
    "overflow": (answering(["array", "w", "<f4", [1 << 62, 4], 0]), "overflows"),
    "no shape": (answering(["array", "w", "<f4", 5, 0]), "its sizes are not"),
    "a terabyte": (answering(["unpacked", "w", "<f4", [1 << 38]]), "unpacks to more than"),
    "without end": ('while True: print(\'["group", "a"]\')', "has more entries, or longer names"),
    "a line without end": ("while True: print('x' * 65536, end='')", "has more entries, or longer"),
    "refused in colours": (
        answering(["refused", "is \x1b[31m" + "x" * 9000, "array", "\x1b"]),
        r"array '\\x1b' is \\x1b\[31mx{300,400}$",
    ),
}


@pytest.mark.parametrize("how", MISBEHAVED)
def test_a_process_that_misbehaves_is_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    program, said = MISBEHAVED[how]
    (tmp_path / "m.h5").write_bytes(hdf5.SIGNATURE + bytes(1000))
    monkeypatch.setattr(hdf5, "_CHILD", program)
    with pytest.raises(CheckpointError, match=said):
        open_checkpoint(tmp_path / "m.h5")


def test_a_system_without_room_for_a_process_is_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "m.h5").write_bytes(hdf5.SIGNATURE + bytes(1000))
    monkeypatch.setattr(sys, "executable", str(tmp_path / "none"))
    with pytest.raises(
        CheckpointError, match=r"which reads HDF5 files, cannot be started: No such"
    ):
        open_checkpoint(tmp_path / "m.h5")


def test_without_h5py_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "m.h5").write_bytes(hdf5.SIGNATURE + bytes(1000))
    monkeypatch.setattr(sys, "path", [path for path in sys.path if "site-packages" not in path])
    with pytest.raises(
        CheckpointError, match=r"which h5py reads: pip install 'fcn-convert\[keras\]'"
    ):
        open_checkpoint(tmp_path / "m.h5")


# What works for ever in C lets no Python run, so that only the system can end it.
BUSY = """
import json, os, resource, signal, sys
descriptor, start, size, sys.path[:] = map(json.loads, sys.argv[1:])
from fcn_convert.hdf5_child.limits import Limits
alive = os.open(FIFO, os.O_WRONLY)
Limits(0)
signal.alarm(0)
resource.setrlimit(resource.RLIMIT_CPU, (resource.RLIM_INFINITY,) * 2)
os.write(alive, b".")
10 ** 10 ** 10
"""
COMMAND = """
import sys
from fcn_convert.formats import hdf5
hdf5._CHILD = sys.argv.pop(1)
from fcn_convert.__main__ import main
main()
"""


@pytest.mark.parametrize(
    ("number", "status"), [("SIGKILL", -9), ("SIGINT", 130), ("SIGTERM", 143), ("SIGHUP", 129)]
)
def test_the_process_that_reads_ends_with_its_parent(
    tmp_path: Path, number: str, status: int
) -> None:
    (tmp_path / "m.h5").write_bytes(hdf5.SIGNATURE + bytes(1000))
    (tmp_path / "m.yaml").write_text("feature_map: [1, 2, 2]\n")
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    program = BUSY.replace("FIFO", repr(str(fifo)))
    with subprocess.Popen(
        [sys.executable, "-c", COMMAND, program, "convert", "m.h5"],
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as command:
        alive = os.open(fifo, os.O_RDONLY)
        assert os.read(alive, 1) == b"."
        os.killpg(command.pid, getattr(signal, number))
        _, stderr = command.communicate(timeout=60)
        ended, _, _ = select.select([alive], [], [], 60)
        assert ended
        assert os.read(alive, 1) == b""  # nobody has it open any more
        os.close(alive)
    assert (command.returncode, stderr) == (status, "")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["fifo", "m.h5", "m.yaml"]
