"""What a file system can do to the real command: limits, names, two runs at once, kills, no space.

Special files, links and permissions are cases of the corpus (test_bad_input.py).
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from corpus.shards import sharded
from safetensors.torch import load_file, save_file

from fcn_convert import torch_import
from fcn_convert.__main__ import _report
from fcn_convert.errors import TorchError

HERE = Path(__file__).parent
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(HERE.parent), "PYTHONIOENCODING": "utf-8"}
COMMAND = (sys.executable, "-m", "fcn_convert")
OUTPUT, REPORT = "net.fcn.safetensors", "net.fcn.report.json"
OUTPUTS = {"file": OUTPUT, "folder": "net.fcn"}
"""What a conversion writes, by what is converted: one file, or a folder of shards."""

both_kinds = pytest.mark.parametrize("kind", OUTPUTS)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    place = tmp_path / "work"
    place.mkdir()
    make_net(place / "net.safetensors", 1)
    return place


def make_net(path: Path, seed: int, outputs: int = 50) -> None:
    generator = torch.Generator().manual_seed(seed)
    tensors = {
        "conv.weight": torch.randn(3, 1, 2, 2, generator=generator),
        "fc.weight": torch.randn(outputs, 12, generator=generator),
    }
    save_file(tensors, path)
    path.with_suffix(".yaml").write_text("feature_map: [3, 2, 2]\n")


def make_source(folder: Path, kind: str, seed: int, outputs: int = 50) -> str:
    """Make a checkpoint of either kind with its spec beside it, and return its name."""
    name = f"net{seed}"
    made = folder / f"{name}.safetensors"
    make_net(made, seed, outputs)
    if kind == "file":
        return made.name
    tensors = load_file(made)
    sharded(folder / name, {f"{n}.safetensors": {n: tensor} for n, tensor in tensors.items()})
    made.unlink()
    return name


def contents(output: Path) -> dict[str, str]:
    """Return the sha256 of each file of an output."""
    files = output.iterdir() if output.is_dir() else [output]
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def reported(report: Path) -> dict[str, str]:
    """Return the sha256 of each file that a report names."""
    entry = json.loads(report.read_text())["output"]
    files = entry.get("files") or [{**entry, "name": Path(entry["path"]).name}]
    return {file["name"]: file["sha256"] for file in files}


def start(
    folder: Path, *arguments: str | bytes, before: Callable[[], None] | None = None
) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*COMMAND, "convert", *arguments],
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=ENVIRONMENT,
        preexec_fn=before,  # noqa: PLW1509 - no threads are running
    )


def run(
    folder: Path, *arguments: str | bytes, before: Callable[[], None] | None = None
) -> tuple[int, str, str]:
    """Run a conversion to its end: status, stdout and stderr."""
    with start(folder, *arguments, before=before) as process:
        stdout, stderr = process.communicate(timeout=60)
    return process.returncode, stdout, stderr


def one_sentence(stderr: str) -> bool:
    return stderr.startswith("error: ") and stderr.count("\n") == 1


# Limits of the process.


@both_kinds
def test_a_file_size_limit(folder: Path, kind: str) -> None:
    name = make_source(folder, kind, 2, outputs=2000)
    before = sorted(folder.rglob("*"))
    limit = (40_000, 40_000)
    status, _, stderr = run(
        folder,
        *(name, "--verify", "bytes"),
        before=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, limit),
    )
    assert status == 2
    assert one_sentence(stderr)
    assert "File too large" in stderr
    assert sorted(folder.rglob("*")) == before


@pytest.mark.parametrize("count", [3, 4, 5, 6, 8, 10, 12])
def test_few_file_descriptors(folder: Path, count: int) -> None:
    # So few that not even Python starts is not ours; the rest is a result or a sentence.
    limit = (count, count)
    preload = (
        "import sys, resource, fcn_convert.cli, fcn_convert.cli.result, fcn_convert.conversion\n"
        "import fcn_convert.spec_yaml, fcn_convert.spec_schema, fcn_convert.report.terminal\n"
        "import fcn_convert.report.json_view, fcn_convert.__main__\n"
        f"resource.setrlimit(resource.RLIMIT_NOFILE, {limit})\n"
        "sys.argv = ['fcn-convert', *sys.argv[1:]]\n"
        "fcn_convert.__main__.main()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", preload, "convert", "net.safetensors", "--verify", "bytes"],
        cwd=folder,
        capture_output=True,
        text=True,
        env=ENVIRONMENT,
        check=False,
    )
    assert "Traceback" not in done.stderr
    assert done.returncode == 0 or (done.returncode == 2 and one_sentence(done.stderr))
    assert not [path for path in folder.iterdir() if path.name.startswith(".")]
    if done.returncode == 0:
        assert set(load_file(folder / OUTPUT)) == {"conv.weight", "fc.weight"}


@pytest.mark.parametrize("megabytes", [300, 400, 550, 700, 800, 1000])
def test_little_memory(folder: Path, megabytes: int) -> None:
    # Where torch begins to fit differs from build to build; the rest is a result or a sentence.
    limit = (megabytes << 20, megabytes << 20)
    status, _, stderr = run(
        folder,
        "net.safetensors",
        before=lambda: resource.setrlimit(resource.RLIMIT_AS, limit),
    )
    assert status == 0 or (status == 2 and one_sentence(stderr)), stderr
    assert status == 2 or megabytes > 400
    assert "ulimit" in stderr or status == 0  # and not the output, as if it could not be written
    assert not [path for path in folder.iterdir() if path.name.startswith(".")]


@pytest.mark.parametrize(
    ("error", "said"),
    [
        pytest.param(
            RuntimeError("can't start new thread"),
            "error: the system refused memory or a thread (can't start new thread); `ulimit -a`",
            id="thread",
        ),
        pytest.param(
            MemoryError(), "error: the system refused memory or a thread; `ulimit -a`", id="memory"
        ),
        pytest.param(
            OSError(24, "Too many open files", "x"),
            "error: [Errno 24] Too many open files: 'x'\n",
            id="descriptors",
        ),
    ],
)
def test_what_the_system_refuses_is_one_sentence(
    capsys: pytest.CaptureFixture[str], error: Exception, said: str
) -> None:
    assert _report(error) == 2
    assert capsys.readouterr().err.startswith(said)


def test_an_import_of_torch_that_fails_is_told_to_all_who_wait(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fails(_: str) -> None:
        raise TorchError("torch cannot be imported")

    monkeypatch.setattr(torch_import, "_started", None)
    monkeypatch.setattr(torch_import, "import_module", fails)
    for _ in range(2):
        with pytest.raises(TorchError, match="cannot be imported"):
            torch_import.import_torch()


# Names.


@pytest.mark.parametrize(
    "name", [b"na\xffme", b"a\x1b[31mb", b"line\nbreak", "ü".encode()], ids=repr
)
def test_odd_names_of_files(folder: Path, name: bytes) -> None:
    source = os.path.join(os.fsencode(folder), name)
    make_net(folder / "x.safetensors", 1)
    os.rename(folder / "x.safetensors", source + b".safetensors")
    os.rename(folder / "x.yaml", source + b".yaml")
    for _ in range(2):  # the second one is refused: its output exists
        status, stdout, stderr = run(folder, name + b".safetensors", "--verify", "bytes")
        shown = stdout + stderr
        assert "Traceback" not in shown
        assert not set(shown) & set("\x1b\udcff")
        assert "line\nbreak" not in shown
    assert status == 2
    assert one_sentence(stderr)
    assert json.loads(Path(os.fsdecode(source + b".fcn.report.json")).read_text("ascii"))


# Two runs at once.


@both_kinds
def test_two_runs_to_one_output(folder: Path, kind: str) -> None:
    names = [make_source(folder, kind, seed) for seed in (2, 3)]
    output = OUTPUTS[kind]
    for _ in range(3):
        runs = [
            start(folder, name, "-o", output, "--force", "--verify", "bytes", "-q")
            for name in names
        ]
        for process in runs:
            with process:
                _, stderr = process.communicate(timeout=60)
            assert (process.returncode, stderr) == (0, "")
        assert reported(folder / REPORT) == contents(folder / output)
        assert not [path for path in folder.iterdir() if path.name.startswith(".")]


@both_kinds
def test_two_runs_of_which_neither_may_replace(folder: Path, kind: str) -> None:
    name = make_source(folder, kind, 2)
    output = OUTPUTS[kind]
    runs = [start(folder, name, "-o", output, "--verify", "bytes") for _ in range(2)]
    statuses = []
    for process in runs:
        with process:
            process.communicate(timeout=60)
        statuses.append(process.returncode)
    assert sorted(statuses) == [0, 2]
    assert reported(folder / REPORT) == contents(folder / output)
    assert not [path for path in folder.iterdir() if path.name.startswith(".")]


# SIGKILL at random moments of a large conversion.


def make_large(folder: Path, kind: str) -> str:
    """Make a checkpoint of 210 MB of either kind, and return its name."""
    parts = {"fc": torch.randn(4096, 12_800), "conv": torch.ones(512, 3, 3, 3)}
    (folder / "net.yaml").write_text("feature_map: [512, 5, 5]\n")
    if kind == "folder":
        shards = {f"{n}.safetensors": {f"{n}.weight": tensor} for n, tensor in parts.items()}
        return sharded(folder / "net", shards).parent.name
    save_file({f"{n}.weight": tensor for n, tensor in parts.items()}, folder / "net.safetensors")
    return "net.safetensors"


def make_older(folder: Path, kind: str) -> Path:
    """Make an output of ours of other bytes, and of the same name."""
    name = make_source(folder, kind, 1)
    older = folder / "older" / OUTPUTS[kind]
    older.parent.mkdir()
    assert run(folder, name, "-o", older, "--verify", "shapes")[0] == 0
    return older


def put(older: Path, output: Path) -> None:
    """Put a copy of an older output in the place of what is there."""
    if output.is_dir():
        shutil.rmtree(output)
        shutil.copytree(older, output)
    else:
        output.unlink()
        shutil.copy(older, output)


@pytest.mark.heavy  # not for its libraries, but for its time
@both_kinds
@pytest.mark.parametrize(
    ("level", "kills"), [("shapes", 50), ("bytes", 15), ("activations", 10)], ids=str
)
def test_kills_at_random_moments(tmp_path: Path, kind: str, level: str, kills: int) -> None:
    source = make_large(tmp_path, kind)
    arguments = (source, "--spec", "net.yaml", "-o", OUTPUTS[kind], "--force", "-q")
    arguments = (*arguments, "--verify", level)
    before = contents(tmp_path / source)
    began = time.monotonic()
    assert run(tmp_path, *arguments)[0] == 0
    whole = time.monotonic() - began
    output = tmp_path / OUTPUTS[kind]
    expected = contents(output)
    older = make_older(tmp_path, kind)
    moments = random.Random(0)
    killed = drafts = 0
    for _ in range(5 * kills):
        if killed >= kills and drafts:
            break
        put(older, output)
        with start(tmp_path, *arguments) as process:
            timer = threading.Timer(moments.uniform(0.2, 1.0) * whole, process.kill)
            timer.start()
            process.communicate()
            timer.cancel()
        if process.returncode == 0:
            whole *= 0.9  # it was quicker than at first
        killed += process.returncode == -signal.SIGKILL
        drafts += any(path.name.startswith(".fcn-convert-") for path in tmp_path.iterdir())
        assert contents(output) in (contents(older), expected)
    assert killed >= kills
    assert drafts  # some came while the draft was written or looked at
    assert contents(tmp_path / source) == before
    assert run(tmp_path, *arguments)[0] == 0
    assert contents(output) == expected
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


# A disk that is really full.


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "none", place], check=False, capture_output=True
    )
    if mounted.returncode:
        # Every call that a full disk fails is tried in test_faults.py, whoever runs it.
        pytest.skip(f"no small disk to fill can be mounted: {mounted.stderr.decode().strip()}")
    yield place
    subprocess.run(["umount", "-l", place], check=True)


@both_kinds
def test_a_disk_that_is_full(folder: Path, small_disk: Path, kind: str) -> None:
    output = small_disk / f"out{Path(OUTPUTS[kind]).suffix}"
    older = make_source(folder, kind, 2)
    assert run(folder, older, "-o", str(output), "--report", "r.json", "--verify", "bytes")[0] == 0
    before = contents(output)
    name = make_source(folder, kind, 3, outputs=2000)
    status, _, stderr = run(folder, name, "-o", str(output), "--force", "--verify", "bytes")
    assert status == 2
    assert one_sentence(stderr)
    assert "No space left on device" in stderr
    assert contents(output) == before
    assert list(small_disk.iterdir()) == [output]


@both_kinds
def test_a_disk_that_is_only_read(folder: Path, small_disk: Path, kind: str) -> None:
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    name = make_source(folder, kind, 2)
    output = small_disk / f"out{Path(OUTPUTS[kind]).suffix}"
    status, _, stderr = run(folder, name, "-o", str(output))
    assert status == 2
    assert one_sentence(stderr)
    assert "Read-only file system" in stderr
