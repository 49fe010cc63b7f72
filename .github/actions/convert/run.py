"""One step of the action: runs fcn-convert, and tells GitHub what came of it.

Everything is said by the environment: FCN_* are the action's inputs, GITHUB_* the runner's files.
The Markdown report becomes the job's summary, each error an annotation, on the spec's line where
it has one.
"""

from __future__ import annotations

import os
import re
import secrets
import subprocess
import sys
from pathlib import Path

from fcn_convert.beside import spec_beside

SUFFIXES = ("json", "html", "md", "xml")
"""Of the reports that are written: for programs, to look at, for the summary, for test reports."""
MAX_SUMMARY = 1 << 20
"""Bytes that GitHub takes of a step's summary."""
KINDS = ("error", "warning")
MAX_ANNOTATIONS = 10
"""Errors that GitHub shows of a step, and as many warnings."""
CUT = b"\n\n</details>\n\n\xe2\x80\xa6cut here; the whole report is among the artifacts.\n"
"""Said where a summary is cut, which is mostly inside of what is folded."""


def command(reports: Path) -> list[str]:
    """Return the command line that the inputs ask for."""
    asked = {name: os.environ.get(f"FCN_{name}", "") for name in ("SPEC", "OUTPUT", "CONVERTED")}
    checkpoint = os.environ["FCN_CHECKPOINT"]
    if asked["CONVERTED"]:
        files = ["verify", "--", checkpoint, asked["CONVERTED"]]
    else:
        files = ["convert", "--", checkpoint]
    name, *operands = files
    options = [f"--verify={os.environ.get('FCN_VERIFY') or 'activations'}"]
    options += [f"--report={reports / f'report.{suffix}'}" for suffix in SUFFIXES]
    options += [f"--spec={asked['SPEC']}"] if asked["SPEC"] else []
    options += [f"--output={asked['OUTPUT']}"] if asked["OUTPUT"] and name == "convert" else []
    options += ["--strict"] if is_strict() else []
    return [sys.executable, "-m", "fcn_convert", name, *options, *operands]


def is_strict() -> bool:
    """Return whether a warning fails the step; exits where that is not said clearly."""
    said = os.environ.get("FCN_STRICT", "").lower()
    if said not in {"", "true", "false"}:
        print(f"::error::strict is {_data(said)!r}; expected true or false")
        sys.exit(2)
    return said == "true"


def run(line: list[str]) -> tuple[int, list[tuple[str, str]]]:
    """Run a command, print what it says; return its status, and what it warns of or fails for.

    Each of these is `error` or `warning`, and what it is.

    GitHub's runner obeys lines that begin with `::`, and a line can begin with a tensor's name: it
    is told to obey nothing meanwhile.
    """
    done = subprocess.run(line, capture_output=True, check=False)
    token = secrets.token_hex(16).encode()
    said = (b"::stop-commands::" + token, done.stdout, done.stderr, b"::" + token + b"::", b"")
    sys.stdout.buffer.write(b"\n".join(said))
    sys.stdout.buffer.flush()
    lines = done.stderr.decode("utf-8", "replace").splitlines()
    found = [line.partition(": ")[::2] for line in lines]
    return done.returncode, [(kind, text) for kind, text in found if kind in KINDS]


def annotation(kind: str, text: str, spec: str) -> str:
    """Return the workflow command that shows an error, on the spec's line where it names one."""
    place = re.search(rf"\({re.escape(Path(spec).name)}:(\d+)\)$", text)
    where = f" file={_property(spec)},line={place[1]}" if place else ""
    return f"::{kind}{where}::{_data(text)}"


def _data(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")


def summary(markdown: bytes) -> bytes:
    """Return what fits into a step's summary."""
    if len(markdown) < MAX_SUMMARY:
        return markdown
    kept, _, _ = markdown[: MAX_SUMMARY - 1 - len(CUT)].rpartition(b"\n")  # whole lines of tables
    return kept + CUT


def main() -> int:
    """Run, tell, and return the status of fcn-convert."""
    reports = Path(os.environ["FCN_REPORTS"])
    reports.mkdir(parents=True, exist_ok=True)
    for older in reports.glob("report.*"):  # of a step before this one
        older.unlink()
    status, said = run(command(reports))
    checkpoint = Path(os.environ["FCN_CHECKPOINT"])
    spec = os.environ.get("FCN_SPEC") or str(spec_beside(checkpoint))
    markdown = reports / "report.md"
    if markdown.exists():
        text = markdown.read_bytes()
    else:
        lines = "".join(f"    {kind}: {text}\n" for kind, text in said)  # code: obeyed by nothing
        text = f"### ❌ the input or the spec is unusable\n\n{lines}".encode()
    for kind in KINDS:
        for each in [text for found, text in said if found == kind][:MAX_ANNOTATIONS]:
            print(annotation(kind, each, spec))
    with open(os.environ["GITHUB_STEP_SUMMARY"], "ab") as file:
        file.write(summary(text))
    with open(os.environ["GITHUB_OUTPUT"], "a", encoding="utf-8") as file:
        report = reports / "report.json"
        file.write(f"status={status}\nreport={report if report.exists() else ''}\n")
    return status


if __name__ == "__main__":
    sys.exit(main())
