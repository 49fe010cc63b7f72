"""Times fcn-convert against `cp` and against the script everyone writes, whole processes each.

`make bench`. Each figure is the median of interleaved runs in this one run; what counts are the
ratios, and peak resident memory. Prints a table and writes bench.json into the folder of the files.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

NAIVE = Path(__file__).with_name("naive.py")
SMALL = Path(__file__).with_name("small.py")
FILES = Path(__file__).with_name("files.py")
SMALL_FILES, SMALL_NAIVE = 200, 20


@dataclass
class Runs:
    """Wall-clock seconds and peak memory, in MB, of one command's runs."""

    seconds: list[float]
    memory: list[float]

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)


@dataclass(frozen=True)
class Case:
    """A row of the table: what was asked, and whether it was met."""

    case: str
    ours: float
    reference: float
    ratio: float
    memory_mb: float
    target: str
    met: bool


def timed(command: list[str]) -> tuple[float, float]:
    """Run a command; return its seconds and its peak memory in MB, children included."""
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - start
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} exited {process.returncode}")
    return seconds, usage.ru_maxrss / 1000


def interleaved(commands: dict[str, list[str]], repeats: int) -> dict[str, Runs]:
    """Run all commands in turn, `repeats` times after a warm-up."""
    runs = {name: Runs([], []) for name in commands}
    for turn in range(repeats + 1):
        for name, command in commands.items():
            os.sync()
            seconds, memory = timed(command)
            if turn:
                runs[name].seconds.append(seconds)
                runs[name].memory.append(memory)
    return runs


def ours(source: Path, spec: str, level: str, out: Path) -> list[str]:
    """Return our command for a source."""
    return [
        *(sys.executable, "-m", "fcn_convert", "convert", str(source), "-q", "--force"),
        *("--spec", str(source.parent / spec), "--verify", level, "-o", str(out)),
    ]


def naive(source: Path, order: str, out: Path) -> list[str]:
    """Return the command of the script everyone writes."""
    script = f"{sys.executable} {NAIVE} {source} {out} {order} && sync {out}"
    return ["sh", "-c", script]


def copy(source: Path, out: Path) -> list[str]:
    """Return the command that only copies."""
    return ["sh", "-c", f"cp --reflink=never {source} {out} && sync {out}"]


def cases(folder: Path, repeats: int) -> Iterator[Case]:
    """Yield every row, each as soon as it is measured."""
    out, other = folder / "out.safetensors", folder / "other"
    single: dict[tuple[str, str], float] = {}
    for name in ("vgg16.safetensors", "vgg16.pth"):
        source = folder / name
        runs = interleaved(
            {
                **{
                    level: ours(source, "chw.yaml", level, out)
                    for level in ("shapes", "bytes", "activations")
                },
                "cp": copy(source, other),
                "naive": naive(source, "CHW", other),
            },
            repeats,
        )
        single |= {(name, level): max(run.memory) for level, run in runs.items()}
        yield from levels(name, runs)
    source = folder / "vgg16.safetensors"
    runs = interleaved(
        {
            "hwc": ours(source, "hwc.yaml", "activations", out),
            "naive": naive(source, "HWC", other),
        },
        repeats,
    )
    yield row("H, W, C, activations", runs["hwc"], runs["naive"], 1.2, memory=0.5)
    yield from twice(folder, out, single)
    yield from start_up(repeats)
    yield from small(folder)


def levels(name: str, runs: dict[str, Runs]) -> Iterator[Case]:
    """Yield the rows of one container."""
    shapes, cp = runs["shapes"], runs["cp"]
    met = shapes.median <= cp.median + 0.4 and max(shapes.memory) <= 64
    yield Case(
        f"{name}, shapes",
        shapes.median,
        cp.median,
        shapes.median / cp.median,
        max(shapes.memory),
        "≤ cp + 0.4 s, ≤ 64 MB",
        met,
    )
    level = runs["bytes"]
    met = level.median <= 0.5 * runs["naive"].median and max(level.memory) <= 64
    yield Case(
        f"{name}, bytes",
        level.median,
        runs["naive"].median,
        level.median / runs["naive"].median,
        max(level.memory),
        "≤ 0.5 × naive, ≤ 64 MB",
        met,
    )
    yield row(f"{name}, activations", runs["activations"], runs["naive"], 1.0, memory=0.5)


def row(name: str, run: Runs, reference: Runs, target: float, *, memory: float) -> Case:
    """Make a row whose targets are ratios of time and of memory to the naive script's."""
    ratio = run.median / reference.median
    met = ratio <= target and max(run.memory) <= memory * max(reference.memory)
    wanted = f"≤ {target} × naive, ≤ {memory:g} × its {max(reference.memory):.0f} MB"
    return Case(name, run.median, reference.median, ratio, max(run.memory), wanted, met)


def twice(folder: Path, out: Path, single: dict[tuple[str, str], float]) -> Iterator[Case]:
    """Yield how memory grows with the size of the file."""
    for level in ("shapes", "bytes", "activations"):
        command = ours(folder / "vgg16-twice.safetensors", "twice.yaml", level, out)
        seconds, memory = timed(command)
        before = single["vgg16.safetensors", level]
        grows = memory / before
        name = f"twice the size, {level}: memory"
        yield Case(name, seconds, before, grows, memory, "≤ 1.05 × single", grows <= 1.05)


def start_up(repeats: int) -> Iterator[Case]:
    """Yield the time of `--version` against its unavoidable imports."""
    runs = interleaved(
        {
            "version": [sys.executable, "-m", "fcn_convert", "--version"],
            "imports": [sys.executable, "-c", "import typer, rich.console"],
        },
        repeats * 2,
    )
    version, imports = runs["version"], runs["imports"]
    ratio = version.median / imports.median
    yield Case(
        "--version",
        version.median,
        imports.median,
        ratio,
        max(version.memory),
        "≤ 1.5 × its imports",
        ratio <= 1.5,
    )


def small(folder: Path) -> Iterator[Case]:
    """Yield the time of one small checkpoint among many in a process."""
    out = folder / "small-out"
    out.mkdir(exist_ok=True)
    answer = subprocess.run(
        [sys.executable, str(SMALL), str(folder / "small"), str(out)],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    ours_each = float(answer)
    sources = sorted((folder / "small").glob("*.safetensors"))[:SMALL_NAIVE]
    each = statistics.median(timed(naive(source, "CHW", out / "n"))[0] for source in sources)
    times = each / ours_each
    name = f"{SMALL_FILES} small in one process, each"
    yield Case(name, ours_each, each, 1 / times, 0, "≤ 1/50 × naive", times >= 50)


def show(case: Case) -> str:
    """Return a row of a Markdown table."""
    met = "met" if case.met else "**not met**"
    return (
        f"| {case.case} | {case.ours:.3f} | {case.reference:.3f} | {case.ratio:.2f} "
        f"| {case.memory_mb:.0f} | {case.target} | {met} |"
    )


def main() -> None:
    """Make the files, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, help="where the files lie; default: a new one")
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="fcn-bench-") as temporary:
        folder = arguments.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        subprocess.run([sys.executable, str(FILES), str(folder), str(SMALL_FILES)], check=True)
        sys.stdout.write("| case | ours, s | reference, s | ratio | MB | target | |\n")
        sys.stdout.write("|---|---|---|---|---|---|---|\n")
        measured = []
        for case in cases(folder, arguments.repeats):
            sys.stdout.write(show(case) + "\n")
            sys.stdout.flush()
            measured.append(asdict(case))
        (folder / "bench.json").write_text(json.dumps(measured, indent=2) + "\n")


if __name__ == "__main__":
    main()
