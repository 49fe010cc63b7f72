"""A fault at every call of a conversion into a folder of shards, as `test_faults.py` for a file."""

from __future__ import annotations

import json
import re
import shutil
import signal
from collections.abc import Iterator
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from served import TORCH, Run, Server, serving
from test_faults import FULLY

from fcn_convert.conversion import convert

INDEX = "model.safetensors.index.json"
SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
SPEC = "feature_map: [3, 2, 2]\nflatten: HWC\n"


@dataclass
class Place:
    """A folder with a sharded checkpoint, its spec and, where asked, an older output of ours."""

    folder: Path
    replaces: bool
    older: Path
    expected: dict[str, bytes] = field(default_factory=dict)
    before: dict[str, dict[str, bytes]] = field(default_factory=dict)

    @property
    def command(self) -> tuple[Path, list[str]]:
        """Where and how its conversion is run."""
        force = ["--force"] if self.replaces else []
        return self.folder, ["convert", "net", "--verify", "bytes", *force]

    def reset(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        (self.folder / "net").mkdir(parents=True)
        torch.manual_seed(3)
        trunk = {"conv.weight": torch.randn(3, 1, 2, 2)}
        head = {"fc.weight": torch.randn(50, 12), "fc.bias": torch.randn(50)}
        weight_map = {}
        for name, tensors in zip(SHARDS, (trunk, head), strict=True):
            save_file(tensors, self.folder / "net" / name)
            weight_map |= dict.fromkeys(tensors, name)
        (self.folder / "net" / INDEX).write_text(json.dumps({"weight_map": weight_map}))
        (self.folder / "net.yaml").write_text(SPEC)
        if self.replaces:
            if not self.older.exists():
                convert(self.folder / "net", {"feature_map": [12, 1, 1]}, self.older, level="bytes")
            shutil.copytree(self.older, self.folder / "net.fcn")
        self.before = self.folders()

    def folders(self) -> dict[str, dict[str, bytes]]:
        """What each folder holds; the reports beside them lie in the one called ''."""
        files = {path: path.read_bytes() for path in self.folder.rglob("*") if path.is_file()}
        found: dict[str, dict[str, bytes]] = {path.name: {} for path in self.folder.iterdir()}
        for path, raw in files.items():
            first, *rest = path.relative_to(self.folder).parts
            found[first]["/".join(rest)] = raw
        return found


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with serving(TORCH) as started:
        yield started


@pytest.fixture(
    params=[pytest.param(False, id="new", marks=FULLY), pytest.param(True, id="replacing")]
)
def place(tmp_path: Path, server: Server, request: pytest.FixtureRequest) -> Place:
    """A place, and in `expected` what its conversion gives without a fault."""
    made = Place(tmp_path / "work", bool(request.param), tmp_path / "older")
    made.reset()
    run = server.run(*made.command)
    assert (run.status, run.stderr) == (0, "")
    made.expected = made.folders()["net.fcn"]
    assert set(made.expected) == {INDEX, *SHARDS}
    assert load_file(made.folder / "net.fcn" / SHARDS[1])["fc.weight"].shape == (50, 3, 2, 2)
    return made


def check(place: Place, run: Run, *, killed: bool = False) -> None:
    """Check what must hold whatever happened: the older folder or the new one, both whole."""
    found = place.folders()
    leftovers = set(found) - {"net", "net.yaml", "net.fcn", "net.fcn.report.json"}
    assert all(found[name] == place.before[name] for name in ("net", "net.yaml"))
    assert found.get("net.fcn") in (place.before.get("net.fcn"), place.expected)
    assert all(name.startswith(".fcn-convert-") for name in leftovers)
    assert killed or not leftovers
    if report := found.get("net.fcn.report.json", {}).get(""):
        entry = json.loads(report)["output"]
        digests = {name: sha256(raw).hexdigest() for name, raw in place.expected.items()}
        assert {part["name"]: part["sha256"] for part in entry["files"]} == digests
        assert found["net.fcn"] == place.expected  # a report comes after its output
    assert run.status != 0 or report
    assert "Traceback" not in run.stderr


def numbers(server: Server, place: Place) -> range:
    """Return the numbers of the calls of a run without a fault."""
    place.reset()
    return range(1, len(server.run(*place.command).calls) + 1)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "fault",
    [pytest.param(f, marks=FULLY) for f in ("stuck-ENOSPC", "EIO", "short", "EMFILE")],
)
def test_every_call_fails_once_or_from_then_on(server: Server, place: Place, fault: str) -> None:
    for at in numbers(server, place):
        place.reset()
        run = server.run(*place.command, at=at, fault=fault)
        call = run.calls[at - 1]
        removing = call.startswith(("unlink", "rmdir", "flock", "open", "close"))
        check(place, run, killed=removing)
        assert run.status in {0, 2}, call
        if run.status:
            assert run.stderr.startswith("error: "), call
            assert run.stderr.count("\n") == 1, call
            moved = place.folders().get("net.fcn") == place.expected
            assert moved == bool(re.search(r"net\.fcn:? is in place", run.stderr)), call


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=FULLY) for n in ("SIGTERM", "SIGINT", "after-SIGTERM")]
)
def test_a_signal_at_every_call(server: Server, place: Place, name: str) -> None:
    for at in numbers(server, place):
        place.reset()
        run = server.run(*place.command, at=at, fault=name)
        check(place, run)
        status = 128 + getattr(signal, name.removeprefix("after-"))
        assert (run.status, run.stderr) == (status, ""), run.calls[at - 1]


@pytest.mark.parametrize(
    "when", [pytest.param("", id="before"), pytest.param("after-", id="after", marks=FULLY)]
)
def test_a_kill_at_every_call(server: Server, place: Place, when: str) -> None:
    for at in numbers(server, place):
        place.reset()
        run = server.run(*place.command, at=at, fault=f"{when}SIGKILL")
        check(place, run, killed=True)
        assert run.status == -signal.SIGKILL, run.calls[at - 1]
        ended = "net.fcn.report.json" in place.folders() and not any(
            n.startswith(".") for n in place.folders()
        )
        again = server.run(*place.command)
        # What was put in place and not reported needs no --force.
        assert again.status == (2 if ended and not place.replaces else 0), run.calls[at - 1]
        known = {"net", "net.yaml", "net.fcn", "net.fcn.report.json"}
        assert set(place.folders()) <= known, run.calls[at - 1]


def test_every_file_is_synced_then_the_folder_then_it_is_moved(
    server: Server, place: Place
) -> None:
    place.reset()
    calls = server.run(*place.command).calls  # type: ignore[arg-type]
    report = next(n for n, c in enumerate(calls) if c.startswith(("link", "replace")))
    draft = next(c.split()[1] for c in calls if c.startswith("mkdir"))
    moves = [n for n, c in enumerate(calls) if c.startswith(f"rename {draft} ")]
    assert len(moves) == (not place.replaces)  # else they change places, which no call of os does
    synced = {c.split()[1]: n for n, c in enumerate(calls) if c.startswith("fsync")}
    wanted = [f"{place.folder}/{draft}{name}" for name in (*(f"/{n}" for n in place.expected), "")]
    assert [name for name in wanted if name not in synced] == []
    assert max(synced[name] for name in wanted) == synced[wanted[-1]]
    assert synced[wanted[-1]] < (moves or [report])[0]
    folder = [n for n, c in enumerate(calls) if c == f"fsync {place.folder}"]
    assert any(synced[wanted[-1]] < n < report for n in folder)
