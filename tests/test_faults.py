"""A fault at every call that writes, syncs, moves or removes, and a signal at every line.

Whatever happens: the older output is intact or the new one whole, the inputs are untouched, and
nothing is left behind but what SIGKILL leaves, which the next run removes.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import re
import shutil
import signal
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from served import TORCH, Run, Server, serving

OLDER_REPORT = b'{"older": true}\n'


@dataclass
class Place:
    """A folder with a checkpoint, its spec and, where asked, an older output."""

    folder: Path
    replaces: bool
    flatten: str
    expected: bytes = b""
    before: dict[str, bytes] = field(default_factory=dict)

    @property
    def command(self) -> tuple[Path, list[str]]:
        """Where and how its conversion is run."""
        force = ["--force"] if self.replaces else []
        return self.folder, ["convert", "net.safetensors", "--verify", "bytes", *force]

    def reset(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir()
        generator = torch.Generator().manual_seed(3)
        tensors = {
            "conv.weight": torch.randn(3, 1, 2, 2, generator=generator),
            "fc.weight": torch.randn(50, 12, generator=generator),
            "fc.bias": torch.randn(50, generator=generator),
        }
        save_file(tensors, self.folder / "net.safetensors")
        spec = f"feature_map: [3, 2, 2]\nflatten: {self.flatten}\n"
        (self.folder / "net.yaml").write_text(spec)
        if self.replaces:
            save_file({"older": torch.ones(9)}, self.folder / "net.fcn.safetensors")
            (self.folder / "net.fcn.report.json").write_bytes(OLDER_REPORT)
        self.before = self.contents()

    def contents(self) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in self.folder.iterdir()}


INPUTS = ("net.safetensors", "net.yaml")
OUTPUT, REPORT = "net.fcn.safetensors", "net.fcn.report.json"


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with serving(TORCH) as started:
        yield started


@pytest.fixture(params=[False, True], ids=["new", "replacing"])
def replaces(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


FULLY = pytest.mark.heavy  # not for its libraries, but for its time


@pytest.fixture(
    params=[pytest.param("CHW", id="copied"), pytest.param("HWC", id="permuted", marks=FULLY)]
)
def place(
    tmp_path: Path, server: Server, request: pytest.FixtureRequest, *, replaces: bool
) -> Place:
    """A place, and in `expected` what its conversion gives without a fault."""
    made = Place(tmp_path / "work", replaces, request.param)
    made.reset()
    run = server.run(*made.command)
    assert (run.status, run.stderr) == (0, "")
    made.expected = made.contents()[OUTPUT]
    assert set(load_file(made.folder / OUTPUT)) == {"conv.weight", "fc.weight", "fc.bias"}
    return made


def check(place: Place, run: Run, *, killed: bool = False) -> None:
    """Check what must hold whatever happened."""
    found = place.contents()
    leftovers = set(found) - {*INPUTS, OUTPUT, REPORT}
    assert all(found[name] == place.before[name] for name in INPUTS)
    assert found.get(OUTPUT) in {place.before.get(OUTPUT), place.expected}
    assert all(name.startswith(".fcn-convert-") for name in leftovers)
    assert killed or not leftovers
    report = found.get(REPORT)
    if report != place.before.get(REPORT):
        digest = hashlib.sha256(place.expected).hexdigest()
        assert report is not None
        assert json.loads(report)["output"]["sha256"] == digest
        assert found[OUTPUT] == place.expected  # a report comes after its output
    if run.status == 0:
        assert report != place.before.get(REPORT)
    assert "Traceback" not in run.stderr


def numbers(server: Server, place: Place) -> range:
    """Return the numbers of the calls of a run without a fault."""
    place.reset()
    return range(1, len(server.run(*place.command).calls) + 1)


@pytest.mark.parametrize(
    "fault",
    [
        "stuck-ENOSPC",
        "EIO",
        "short",
        *(pytest.param(f, marks=FULLY) for f in ("ENOSPC", "stuck-EIO", "EFBIG", "EMFILE")),
    ],
)
def test_every_call_fails_once_or_from_then_on(server: Server, place: Place, fault: str) -> None:
    for at in numbers(server, place):
        place.reset()
        run = server.run(*place.command, at=at, fault=fault)
        call = run.calls[at - 1]
        removing = call.startswith(("unlink", "flock", "open", "close"))
        check(place, run, killed=removing)
        assert run.status in {0, 2}, call
        if run.status:
            assert run.stderr.startswith("error: "), call
            assert run.stderr.count("\n") == 1, call
            moved = place.contents().get(OUTPUT) == place.expected
            assert moved == bool(re.search(rf"{OUTPUT}:? is in place", run.stderr)), call
        else:
            assert run.stderr == "", call


@pytest.mark.parametrize("when", ["", "after-"], ids=["before", "after"])
@pytest.mark.parametrize(
    "name", ["SIGTERM", *(pytest.param(n, marks=FULLY) for n in ("SIGINT", "SIGHUP"))]
)
def test_a_signal_at_every_call(server: Server, place: Place, name: str, when: str) -> None:
    for at in numbers(server, place):
        place.reset()
        run = server.run(*place.command, at=at, fault=f"{when}{name}")
        check(place, run)
        assert (run.status, run.stderr) == (128 + getattr(signal, name), ""), run.calls[at - 1]


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
        ended = REPORT in found and not any(name[0] == "." for name in found)
        again = server.run(*place.command)
        # What was put in place and not reported needs no --force.
        assert again.status == (2 if ended and not place.replaces else 0), run.calls[at - 1]
        assert set(place.contents()) - {*INPUTS, OUTPUT, REPORT} == set(), run.calls[at - 1]


@FULLY
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


def test_the_file_is_synced_then_moved_then_its_folder_then_reported(
    server: Server, place: Place
) -> None:
    place.reset()
    calls = server.run(*place.command).calls
    moves = [at for at, call in enumerate(calls) if call.startswith(("link", "replace"))]
    assert [calls[at].split()[-1] for at in moves] == [OUTPUT, REPORT]
    for at, draft in zip(moves, (calls[move].split()[1] for move in moves), strict=True):
        last_write = max(
            n
            for n, c in enumerate(calls)
            if c.startswith(("pwrite", "write", "copy")) and draft in c
        )
        assert any(c.startswith("fsync") and draft in c for c in calls[last_write:at])
        after = calls[at + 1 :][: (moves[1] - moves[0]) if at == moves[0] else None]
        assert f"fsync {place.folder}" in after


def test_a_draft_whose_owner_lives_is_left_alone(server: Server, place: Place) -> None:
    place.reset()
    kind = (
        next(c for c in server.run(*place.command).calls if ".tmp" in c)
        .split()[1]
        .rsplit("-", 1)[0]
    )
    place.reset()
    draft = place.folder / f"{kind}-0000000000000000.tmp"
    with draft.open("wb") as owner:
        fcntl.flock(owner, fcntl.LOCK_EX)
        assert server.run(*place.command).status == 0
        assert draft.exists()
    place.reset()
    draft.write_bytes(b"left")
    assert server.run(*place.command).status == 0
    assert not draft.exists()
