"""A fault at every call that writes, syncs, moves or removes, and a signal at every line.

Whatever happens: the older output is intact or the new one whole, the inputs are untouched, and
nothing is left behind but what SIGKILL leaves, which the next run removes. This holds for one file,
for a folder of shards, and for a folder that `batch` writes.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import signal
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

import pytest
import torch
from corpus.shards import sharded
from safetensors.torch import load, save_file
from served import Run, Server, serving

from fcn_convert.conversion import convert

OLDER_REPORT = b'{"older": true}\n'
SPEC, REPORT, MANIFEST = "net.yaml", "net.fcn.report.json", "jobs.yaml"
SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
LEFT = ".fcn-convert-"
FULLY = pytest.mark.heavy  # not for its libraries, but for its time


@dataclass(frozen=True)
class Kind:
    """What is converted, to what, and how."""

    source: str
    output: str
    flatten: str
    arguments: tuple[str, ...] = ()

    @property
    def command(self) -> list[str]:
        """The command line; `batch` is given the same conversion in a manifest."""
        return [*(self.arguments or ("convert", self.source)), "--verify", "bytes"]


FILE = Kind("net.safetensors", "net.fcn.safetensors", "CHW")
PERMUTED = Kind("net.safetensors", "net.fcn.safetensors", "HWC")
FOLDER = Kind("net", "net.fcn", "HWC")
IN_BATCH = Kind("net", "net.fcn", "HWC", ("batch", "--manifest", MANIFEST, "-q"))

Contents = Mapping[str, bytes]
"""Files by their paths; a folder ends in a slash."""


@dataclass
class Place:
    """A folder with a checkpoint, its spec and, where asked, an older output of ours."""

    folder: Path
    kind: Kind
    replaces: bool
    older: Path
    expected: Contents = field(default_factory=dict)
    before: Contents = field(default_factory=dict)

    @property
    def command(self) -> tuple[Path, list[str]]:
        """Where and how its conversion is run."""
        return self.folder, [*self.kind.command, *(["--force"] if self.replaces else [])]

    def reset(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir()
        generator = torch.Generator().manual_seed(3)
        trunk = {"conv.weight": torch.randn(3, 1, 2, 2, generator=generator)}
        head = {
            "fc.weight": torch.randn(50, 12, generator=generator),
            "fc.bias": torch.randn(50, generator=generator),
        }
        if self.is_folder:
            sharded(self.folder / self.kind.source, dict(zip(SHARDS, (trunk, head), strict=True)))
        else:
            save_file({**trunk, **head}, self.folder / self.kind.source)
        spec = f"feature_map: [3, 2, 2]\nflatten: {self.kind.flatten}\n"
        (self.folder / SPEC).write_text(spec)
        job = {"source": self.kind.source, "spec": SPEC, "output": self.kind.output}
        (self.folder / MANIFEST).write_text(json.dumps([job]))
        if self.replaces:
            self._put_older()
        self.before = self.contents()

    @property
    def is_folder(self) -> bool:
        return not Path(self.kind.source).suffix

    def _put_older(self) -> None:
        """Put an older output in place, one of other bytes, made once."""
        if not self.older.exists():
            source = self.folder / self.kind.source
            convert(source, {"feature_map": [12, 1, 1]}, self.older, reports=(), level="bytes")
        copy = shutil.copytree if self.is_folder else shutil.copy
        copy(self.older, self.folder / self.kind.output)
        (self.folder / REPORT).write_bytes(OLDER_REPORT)

    def contents(self) -> Contents:
        """Return what lies in the folder, at any depth."""
        return {
            str(path.relative_to(self.folder)) + "/" * path.is_dir(): b""
            if path.is_dir()
            else path.read_bytes()
            for path in self.folder.rglob("*")
        }

    def output(self, found: Contents) -> Contents:
        """Return what of these lies at the output's place."""
        return {p: raw for p, raw in found.items() if p.split("/")[0] == self.kind.output}

    def digests(self) -> Mapping[str, str]:
        """Return the sha256 of each file of the expected output, as a report names them."""
        files = {path: raw for path, raw in self.expected.items() if not path.endswith("/")}
        return {Path(path).name: sha256(raw).hexdigest() for path, raw in files.items()}


def reported(report: bytes) -> Mapping[str, str]:
    """Return the sha256 of each file that a report says was written."""
    entry = json.loads(report)["output"]
    files = entry.get("files") or [{**entry, "name": Path(entry["path"]).name}]
    return {file["name"]: file["sha256"] for file in files}


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with serving("numpy", "fcn_convert.cli.batch", "fcn_convert.batch.pools") as started:
        yield started


@pytest.fixture(
    params=[
        pytest.param((FILE, False), id="copied-new"),
        pytest.param((FILE, True), id="copied-replacing"),
        pytest.param((PERMUTED, False), id="permuted-new", marks=FULLY),
        pytest.param((PERMUTED, True), id="permuted-replacing", marks=FULLY),
        pytest.param((FOLDER, False), id="folder-new", marks=FULLY),
        pytest.param((FOLDER, True), id="folder-replacing"),
        pytest.param((IN_BATCH, False), id="batch", marks=FULLY),
    ]
)
def place(tmp_path: Path, server: Server, request: pytest.FixtureRequest) -> Place:
    """A place, and in `expected` what its conversion gives without a fault."""
    kind, replaces = request.param
    made = Place(tmp_path / "work", kind, replaces, tmp_path / f"older{Path(kind.output).suffix}")
    made.reset()
    run = server.run(*made.command)
    assert (run.status, run.stderr) == (0, "")
    made.expected = made.output(made.contents())
    shards = [load(raw) for path, raw in made.expected.items() if path.endswith(".safetensors")]
    tensors = {name: tensor for shard in shards for name, tensor in shard.items()}
    assert tensors.keys() == {"conv.weight", "fc.weight", "fc.bias"}
    assert tensors["fc.weight"].shape == (50, 3, 2, 2)
    assert made.output(made.before) != made.expected
    return made


def check(place: Place, run: Run, *, killed: bool = False) -> None:
    """Check what must hold whatever happened."""
    found = place.contents()
    output = place.output(found)
    assert output in (place.output(place.before), place.expected)
    inputs = place.before.keys() - {REPORT, *place.output(place.before)}
    assert {path: found.get(path) for path in inputs} == {p: place.before[p] for p in inputs}
    leftovers = found.keys() - {*inputs, REPORT, *output}
    assert all(path.startswith(LEFT) for path in leftovers)
    assert killed or not leftovers
    report = found.get(REPORT)
    if report != place.before.get(REPORT):
        assert report is not None
        assert reported(report) == place.digests()
        assert output == place.expected  # a report comes after its output
    if run.status == 0:
        assert report != place.before.get(REPORT)
    assert "Traceback" not in run.stderr


def numbers(server: Server, place: Place) -> range:
    """Return the numbers of the calls of a run without a fault."""
    place.reset()
    return range(1, len(server.run(*place.command).calls) + 1)


MOVING = ("link", "replace", "rename")
WRITING = ("write", "pwrite", "copy_file_range")
REMOVING = ("unlink", "rmdir", "flock", "open", "close")
"""Where these fail a draft may stay: it can be neither told from one that is owned, nor removed."""


@pytest.mark.parametrize(
    "fault",
    [
        "stuck-ENOSPC",
        *(pytest.param(f, marks=FULLY) for f in ("EIO", "short", "stuck-EIO", "EFBIG", "EMFILE")),
    ],
)
def test_every_call_fails_once_or_from_then_on(server: Server, place: Place, fault: str) -> None:
    for at in numbers(server, place):
        place.reset()
        run = server.run(*place.command, at=at, fault=fault)
        call = run.calls[at - 1]
        check(place, run, killed=call.startswith(REMOVING))
        assert run.status in {0, 2}, call
        if run.status:
            assert run.stderr.startswith("error: "), call
            assert run.stderr.count("\n") == 1, call
            moved = place.output(place.contents()) == place.expected
            said = re.search(rf"{re.escape(place.kind.output)}:? is in place", run.stderr)
            assert moved == bool(said), call
        else:
            assert run.stderr == "", call


@pytest.mark.parametrize(
    "fault",
    [
        *("SIGTERM", "after-SIGTERM"),
        *(pytest.param(f, marks=FULLY) for f in ("SIGINT", "after-SIGHUP")),
    ],
)
def test_a_signal_at_every_call(server: Server, place: Place, fault: str) -> None:
    expected = 128 + getattr(signal, fault.removeprefix("after-"))
    for at in numbers(server, place):
        place.reset()
        run = server.run(*place.command, at=at, fault=fault)
        check(place, run)
        assert (run.status, run.stderr) == (expected, ""), run.calls[at - 1]


@pytest.mark.parametrize(
    "when", [pytest.param("", id="before"), pytest.param("after-", id="after", marks=FULLY)]
)
def test_a_kill_at_every_call(server: Server, place: Place, when: str) -> None:
    for at in numbers(server, place):
        place.reset()
        run = server.run(*place.command, at=at, fault=f"{when}SIGKILL")
        check(place, run, killed=True)
        assert run.status == -signal.SIGKILL, run.calls[at - 1]
        found = place.contents()
        ended = REPORT in found and not any(path.startswith(LEFT) for path in found)
        again = server.run(*place.command)
        # What was put in place and not reported needs no --force; a batch leaves the rest alone.
        refused = ended and not place.replaces and place.kind is not IN_BATCH
        assert again.status == (2 if refused else 0), run.calls[at - 1]
        inputs = place.before.keys() - place.output(place.before)
        assert place.contents().keys() == {*inputs, REPORT, *place.expected}, run.calls[at - 1]
        assert place.output(place.contents()) == place.expected


@FULLY
@pytest.mark.parametrize(
    "place",
    [
        pytest.param((FILE, True), id="copied-replacing"),
        pytest.param((PERMUTED, False), id="permuted-new"),
        pytest.param((FOLDER, True), id="folder-replacing"),
        pytest.param((IN_BATCH, False), id="batch"),
    ],
    indirect=True,  # between them they pass by every line, and each takes a minute
)
def test_a_signal_at_every_line(server: Server, place: Place) -> None:
    # Before its handlers are set a signal ends the process as it ends any other.
    statuses = []
    while 0 not in statuses:
        place.reset()
        run = server.run(*place.command, line=len(statuses) + 1, fault="SIGTERM")
        check(place, run)
        assert run.stderr == ""
        statuses.append(run.status)
    assert set(statuses[:10]) <= {-signal.SIGTERM, 143}
    assert set(statuses[10:-5]) == {143}
    assert len(statuses) > 300


def test_files_are_synced_then_moved_then_their_folder_then_reported(
    server: Server, place: Place
) -> None:
    place.reset()
    calls = server.run(*place.command).calls
    moves = [at for at, call in enumerate(calls) if call.startswith(MOVING)]
    assert [calls[at].split()[-1] for at in moves] == [place.kind.output, REPORT]
    for at in moves:
        draft = calls[at].split()[1]
        before = [call for call in calls[:at] if f"{place.folder}/{draft}" in call]
        written = {call.split()[1]: n for n, call in enumerate(before) if call.startswith(WRITING)}
        assert written
        assert all(f"fsync {path}" in before[last:] for path, last in written.items())
        # Of a folder its names, too, when all of its files are synced.
        assert before[-1] == f"fsync {place.folder}/{draft}"
        after = calls[at + 1 :][: (moves[1] - moves[0]) if at == moves[0] else None]
        assert f"fsync {place.folder}" in after


def test_a_draft_whose_owner_lives_is_left_alone(server: Server, place: Place) -> None:
    place.reset()
    calls = server.run(*place.command).calls
    name = next(part for call in calls for part in call.split() if part.endswith(".tmp"))
    draft = place.folder / f"{Path(name).name.rsplit('-', 1)[0]}-0000000000000000.tmp"
    make = Path.mkdir if place.is_folder else Path.touch
    place.reset()
    make(draft)
    owner = os.open(draft, os.O_RDONLY)
    fcntl.flock(owner, fcntl.LOCK_EX)
    assert server.run(*place.command).status == 0
    assert draft.exists()
    os.close(owner)
    place.reset()
    make(draft)
    assert server.run(*place.command).status == 0
    assert not draft.exists()
