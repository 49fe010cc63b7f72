"""Files and folders that are not what a path says: special ones, links, and what may not be."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path

Change = Callable[[Path], object]
"""Of a folder with `net.safetensors` and `net.yaml`, before `convert ARGUMENTS` runs in it."""

IN, SPEC, OUT, REPORT = "net.safetensors", "net.yaml", "net.fcn.safetensors", "r.json"


def fifo(path: Path) -> None:
    os.mkfifo(path)


def listening(path: Path) -> None:
    before = Path.cwd()
    os.chdir(path.parent)  # a socket's path is short
    try:
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(path.name)
    finally:
        os.chdir(before)


def device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def directory(path: Path) -> None:
    path.mkdir()


def dangling(path: Path) -> None:
    path.symlink_to("nowhere")


def loop(path: Path) -> None:
    path.symlink_to(path.name)


MAKERS = (fifo, listening, device, directory, dangling, loop)
NOT_READ = (
    "is not a regular file|No such device or address|is a folder without|No such file|Too many lev"
)
NOT_REPLACED = "exists and is not a regular file; nothing else is replaced"
NO_NAME = r"what is written is safetensors, which \.(json|pth) does not stand for; name it "
ROLES: dict[str, tuple[str, list[str], str]] = {
    "input": ("s.safetensors", ["s.safetensors", "--spec", SPEC], NOT_READ),
    "spec": ("s.yaml", [IN, "--spec", "s.yaml"], NOT_READ),
    "output": ("s.safetensors", [IN, "-o", "s.safetensors", "--force"], NOT_REPLACED),
    "new-output": ("s.safetensors", [IN, "-o", "s.safetensors"], NOT_REPLACED),
    "report": ("s.json", [IN, "--report", "s.json"], NOT_REPLACED),
}


def at(name: str, make: Callable[[Path], object]) -> Change:
    return lambda folder: make(folder / name)


def hard_link(of: str, name: str) -> Change:
    return lambda folder: os.link(folder / of, folder / name)


def both(*changes: Change) -> Change:
    return lambda folder: [change(folder) for change in changes]


def folder_as(name: str, mode: int) -> Change:
    def change(folder: Path) -> None:
        (folder / name).mkdir()
        (folder / name).chmod(mode)

    return change


def mode(name: str, bits: int) -> Change:
    return lambda folder: (folder / name).chmod(bits)


READ_ONLY = "is the same file as .*, which is only read"
CASES: dict[str, tuple[Change, list[str], str]] = {
    **{
        f"{role}-is-a-{make.__name__}": (at(name, make), arguments, said)
        for role, (name, arguments, said) in ROLES.items()
        for make in MAKERS
    },
    "output-is-the-source": (lambda _: None, [IN, "-o", IN, "--force"], READ_ONLY),
    "output-is-the-spec": (lambda _: None, [IN, "-o", SPEC, "--force"], READ_ONLY),
    "output-is-a-hard-link-of-the-source": (
        hard_link(IN, "l"),
        [IN, "-o", "l", "--force"],
        READ_ONLY,
    ),
    "output-is-a-hard-link-of-the-spec": (
        hard_link(SPEC, "l"),
        [IN, "-o", "l", "--force"],
        READ_ONLY,
    ),
    "output-is-a-link-to-the-source": (
        at("l", lambda path: path.symlink_to(IN)),
        [IN, "-o", "l", "--force"],
        NOT_REPLACED,
    ),
    "output-is-the-source-by-dots": (
        folder_as("d", 0o755),
        [IN, "-o", f"d/../{IN}", "--force"],
        READ_ONLY,
    ),
    "output-is-the-source-by-a-linked-folder": (
        at("d", lambda path: path.symlink_to(".")),
        [IN, "-o", f"d/{IN}", "--force"],
        READ_ONLY,
    ),
    **{
        f"{kind}-is-a-text": (
            at(name, lambda path: path.write_text("# notes of mine")),
            [IN, "--report", name],
            f"{name}: already exists and is not a report",
        )
        for kind, name in [
            ("report", "r.json"),
            ("page", "r.html"),
            ("md", "n.md"),
            ("xml", "r.xml"),
        ]
    },
    "dry-run-to-the-source": (lambda _: None, [IN, "-o", IN, "--force", "--dry-run"], READ_ONLY),
    "dry-run-to-an-output": (
        at(OUT, lambda path: path.write_text("older")),
        [IN, "--dry-run"],
        f"{OUT}: already exists; --force, or force=True, replaces it",
    ),
    "report-is-the-spec": (
        lambda folder: (folder / SPEC).rename(folder / "s.json"),
        [IN, "--spec", "s.json", "--report", "s.json"],
        READ_ONLY,
    ),
    "report-is-the-output": (lambda _: None, [IN, "-o", REPORT, "--report", REPORT], NO_NAME),
    "report-is-the-output-but-for-case": (
        lambda _: None,
        [IN, "-o", REPORT.upper(), "--report", REPORT],
        NO_NAME,
    ),
    "output-is-called-a-pickle": (lambda _: None, [IN, "-o", "o.pth"], NO_NAME),
    "output-to-stdout": (lambda _: None, [IN, "-o", "-"], "which standard output cannot be"),
    "report-of-no-suffix": (lambda _: None, [IN, "--report", "r"], "no report has the suffix ''"),
    "output-exists": (
        at(OUT, Path.touch),
        [IN],
        "already exists; --force, or force=True, replaces it",
    ),
    "output-folder-missing": (lambda _: None, [IN, "-o", "no/o"], "its folder does not exist"),
    "output-folder-is-a-file": (lambda _: None, [IN, "-o", f"{IN}/o"], "Not a directory"),
    "report-folder-missing": (
        lambda _: None,
        [IN, "--report", "no/r.json"],
        "its folder does not exist",
    ),
    "output-name-too-long": (lambda _: None, [IN, "-o", "x" * 300], "File name too long"),
    "output-of-no-name": (lambda _: None, [IN, "-o", "."], NOT_REPLACED),
    "input-missing": (lambda _: None, ["missing.pt"], "No such file or directory"),
    "input-of-no-name": (lambda _: None, [""], "has no spec"),
    "input-folder-is-a-file": (lambda _: None, [f"{IN}/x"], "Not a directory"),
    "input-name-too-long": (lambda _: None, ["x" * 300], "File name too long"),
    "no-spec": (lambda folder: (folder / SPEC).unlink(), [IN], "has no spec: expected net.yaml"),
}

FORBIDDEN: dict[str, tuple[Change, list[str], str]] = {
    "input": (mode(IN, 0), [IN], f"{IN}: Permission denied"),
    "spec": (mode(SPEC, 0), [IN], f"{SPEC}: Permission denied"),
    "input-folder": (
        both(folder_as("d", 0o700), lambda f: (f / IN).rename(f / "d" / IN), mode("d", 0o600)),
        [f"d/{IN}", "--spec", SPEC],
        "Permission denied",
    ),
    "output-folder": (folder_as("d", 0o555), [IN, "-o", "d/o"], "d/o: .*Permission denied"),
    "output-folder-hidden": (folder_as("d", 0o000), [IN, "-o", "d/o"], "d/o.*: Permission denied"),
    "report-folder-hidden": (
        folder_as("d", 0o000),
        [IN, "--report", "d/r.json"],
        "d/r.json: Permission denied",
    ),
    "folder-that-is-the-input": (folder_as("d", 0o000), ["d", "--spec", SPEC], "d: Permission den"),
}
"""What the file system forbids a user who is not root."""
