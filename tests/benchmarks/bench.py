"""Times fcn-convert against `cp` and against the script everyone writes, whole processes each.

`make bench`. Each figure is the median of interleaved runs in this one run; what counts are the
ratios, and peak resident memory. Prints a table and writes it as JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from measure import Runs, copy, interleaved, naive, ours, timed
from xfs import mounted

SMALL = Path(__file__).with_name("small.py")
FILES = Path(__file__).with_name("files.py")
SMALL_FILES, SMALL_NAIVE = 200, 20
TINY = (10, 1_000, 10_000, 100_000)
LEVELS = ("shapes", "bytes", "activations")


@dataclass(frozen=True)
class Case:
    """A row of the table: what was asked, and whether it was met; None where it was skipped.

    ratio: of ours to the reference, in what the target is about.
    """

    case: str
    target: str
    met: bool | None
    ours: float | None = None
    reference: float | None = None
    ratio: float | None = None
    memory_mb: float | None = None


def against(name: str, run: Runs, reference: Runs, target: str, *, met: bool) -> Case:
    """Make a row about time."""
    ratio = run.median / reference.median
    return Case(name, target, met, run.median, reference.median, ratio, run.peak)


def as_fast_as(name: str, run: Runs, reference: Runs, times: float) -> Case:
    """Make a row whose targets are ratios of time and of memory to the naive script's."""
    met = run.median <= times * reference.median and run.peak <= reference.peak / 2
    target = f"≤ {times:g} × naive, ≤ half of its {reference.peak:.0f} MB"
    return against(name, run, reference, target, met=met)


def container(name: str) -> Callable[[Path, int], Iterator[Case]]:
    """Return what measures every level on one container."""

    def measure(folder: Path, repeats: int) -> Iterator[Case]:
        source, out, other = folder / name, folder / "out.safetensors", folder / "other"
        commands = {level: ours(source, "chw.yaml", level, out) for level in LEVELS}
        commands |= {"cp": copy(source, other), "naive": naive(source, "CHW", other)}
        runs = interleaved(commands, repeats, (out, other))
        run, cp = runs["shapes"], runs["cp"]
        met = run.median <= cp.median + 0.4 and run.peak <= 64
        yield against(f"{name}, shapes", run, cp, "≤ cp + 0.4 s, ≤ 64 MB", met=met)
        run, script = runs["bytes"], runs["naive"]
        met = run.median <= 0.5 * script.median and run.peak <= 64
        yield against(f"{name}, bytes", run, script, "≤ 0.5 × naive, ≤ 64 MB", met=met)
        yield as_fast_as(f"{name}, activations", runs["activations"], script, 1.0)

    return measure


def permuted(row: str, name: str, times: float) -> Callable[[Path, int], Iterator[Case]]:
    """Return what measures a conversion whose values change places, in so many times naive's."""

    def measure(folder: Path, repeats: int) -> Iterator[Case]:
        source, out, other = folder / name, folder / "out.safetensors", folder / "other"
        commands = {
            "ours": ours(source, "hwc.yaml", "activations", out),
            "naive": naive(source, "HWC", other),
        }
        runs = interleaved(commands, repeats, (out, other))
        yield as_fast_as(row, runs["ours"], runs["naive"], times)

    return measure


def twice(folder: Path, repeats: int) -> Iterator[Case]:
    """Measure whether memory grows with the size of the file."""
    out = folder / "out.safetensors"
    chw = [("chw.yaml", level) for level in LEVELS]
    cases = [("safetensors", *case) for case in (*chw, ("hwc.yaml", "activations"))]
    for suffix, spec, level in (*cases, *(("pth", *case) for case in chw)):
        commands = {
            name: ours(folder / f"{name}.{suffix}", spec, level, out)
            for name in ("vgg16", "vgg16-twice")
        }
        runs = interleaved(commands, min(repeats, 2))
        before, after = runs["vgg16"].peak, runs["vgg16-twice"].peak
        order = spec.removesuffix(".yaml").upper()
        name = f"vgg16-twice.{suffix}, {order}, {level}: MB"
        met = after <= 1.05 * before
        yield Case(name, "≤ 1.05 × single", met, after, before, after / before, after)


def reflink(folder: Path, repeats: int) -> Iterator[Case]:
    """Measure where the file system shares blocks: time, and what the disk grows by."""
    name, target = "XFS with reflink, shapes", "≤ a 1 MB file + 0.1 s, disk grows ≤ 1 MB"
    with mounted(folder) as place:
        if isinstance(place, str):
            yield Case(f"{name}: skipped, {place}", target, met=None)
            return
        for file in ("vgg16.safetensors", "one-mb.safetensors", "chw.yaml", "tiny.yaml"):
            shutil.copyfile(folder / file, place / file)
        large, small = place / "large.fcn.safetensors", place / "small.fcn.safetensors"
        big = ours(place / "vgg16.safetensors", "chw.yaml", "shapes", large)
        os.sync()
        before = shutil.disk_usage(place).free
        timed(big)
        os.sync()
        grown = (before - shutil.disk_usage(place).free) / 1e6
        little = ours(place / "one-mb.safetensors", "tiny.yaml", "shapes", small)
        runs = interleaved({"large": big, "small": little}, repeats, (large, small))
        run, reference = runs["large"], runs["small"]
        met = run.median <= reference.median + 0.1 and grown <= 1
        yield against(f"{name}, disk grows {grown:.1f} MB", run, reference, target, met=met)


def growth(folder: Path, repeats: int) -> Iterator[Case]:
    """Measure time and memory against the number of tensors."""
    before: Runs | None = None
    for count in TINY:
        command = ours(folder / f"tiny-{count}.safetensors", "tiny.yaml", "bytes", folder / "out")
        runs = interleaved({"ours": command}, min(repeats, 3))["ours"]
        name = f"{count:,} tiny tensors, bytes"
        if before is None:
            yield Case(name, "the first of the line", None, runs.median, memory_mb=runs.peak)
        else:
            met = runs.median <= 11 * before.median and runs.peak <= 11 * before.peak
            target = "≤ 11 × the line before, time and memory"
            yield against(name, runs, before, target, met=met)
        before = runs


def start_up(_: Path, repeats: int) -> Iterator[Case]:
    """Measure `--version` against its unavoidable imports."""
    commands = {
        "version": [sys.executable, "-m", "fcn_convert", "--version"],
        "imports": [sys.executable, "-c", "import typer, rich.console"],
    }
    runs = interleaved(commands, repeats * 2)
    version, imports = runs["version"], runs["imports"]
    met = version.median <= 1.5 * imports.median
    yield against("--version", version, imports, "≤ 1.5 × its imports", met=met)


def small(folder: Path, repeats: int) -> Iterator[Case]:
    """Measure one small checkpoint among many in a process."""
    out = folder / "small-out"
    out.mkdir(exist_ok=True)
    command = [sys.executable, str(SMALL), str(folder / "small"), str(out)]
    sources = sorted((folder / "small").glob("*.safetensors"))[:SMALL_NAIVE]
    each, script = [], []
    for _ in range(repeats):
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        each.append(float(done.stdout))
        script += [timed(naive(source, "CHW", out / "n"))[0] for source in sources]
        sources = sources[:1]  # all of them in the first turn, then one a turn
    ours_each, naive_each = statistics.median(each), statistics.median(script)
    ratio = ours_each / naive_each
    name = f"{SMALL_FILES} small in one process, each"
    yield Case(name, "≤ 1/50 × naive", ratio <= 1 / 50, ours_each, naive_each, ratio)


CASES: dict[str, Callable[[Path, int], Iterator[Case]]] = {
    "safetensors": container("vgg16.safetensors"),
    "zip": container("vgg16.pth"),
    "hwc": permuted("flattened H, W, C, activations", "vgg16.safetensors", 1.2),
    "columns": permuted("column-major and H, W, C, activations", "vgg16-columns.pth", 1.5),
    "twice": twice,
    "xfs": reflink,
    "small": small,
    "version": start_up,
    "growth": growth,
}


def show(case: Case) -> str:
    """Return a row of a Markdown table."""
    numbers = (
        "" if number is None else f"{number:.{digits}f}"
        for number, digits in (
            (case.ours, 3),
            (case.reference, 3),
            (case.ratio, 3 if case.ratio and case.ratio < 0.1 else 2),
            (case.memory_mb, 0),
        )
    )
    met = {True: "met", False: "**not met**", None: ""}[case.met]
    return f"| {case.case} | {' | '.join(numbers)} | {case.target} | {met} |"


def main() -> None:
    """Make the files, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, help="where the files lie; default: a new one")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--only", action="append", choices=CASES, help="measure this case only")
    parser.add_argument("--json", type=Path, default=Path("bench.json"), help="the table as JSON")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the files are removed
    machine = f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores"
    day = datetime.now(UTC).date().isoformat()
    with tempfile.TemporaryDirectory(prefix="fcn-bench-") as temporary:
        folder = arguments.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        subprocess.run([sys.executable, str(FILES), str(folder), str(SMALL_FILES)], check=True)
        print(f"{day}, {machine}, medians of {arguments.repeats} runs\n")
        print("| case | ours, s | reference, s | ratio | MB | target | |")
        print("|---|---|---|---|---|---|---|")
        rows = []
        for name in arguments.only or CASES:
            for case in CASES[name](folder, arguments.repeats):
                print(show(case), flush=True)
                rows.append(asdict(case))
    table = {"date": day, "machine": machine, "repeats": arguments.repeats, "rows": rows}
    arguments.json.write_text(json.dumps(table, indent=2, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
