"""Draws the README's pictures: a canvas of digits, read by a converted sample, and two reports.

From a clone, `make pictures`: it runs the command as a user would, and prints how many digits the
class map reads, and the time of one pass against that of the crops. The reports are shown to a
Chromium; without one, it says so and exits 1.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import browser
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor
from train import VGG, VGGFCN, split_digits

FOLDER = Path(__file__).parent
PICTURES = FOLDER / "pictures"
ROWS, COLUMNS, SIDE, STRIDE = 5, 7, 8, 2
PITCH = 14
"""Pixels from one digit to the next: a multiple of the stride."""
REPEATS = 50
COLOURS = 224
"""Of a picture of a report: it has few, and is so a fraction of the size."""


def canvas() -> tuple[Image.Image, Tensor]:
    """Return held-back digits laid out beside each other, and what they are, (ROWS, COLUMNS)."""
    digits = split_digits()[1]
    count = ROWS * COLUMNS
    tiles = torch.zeros(ROWS, COLUMNS, PITCH, PITCH)
    tiles[:, :, :SIDE, :SIDE] = digits.images[:count].view(ROWS, COLUMNS, SIDE, SIDE)
    pixels = tiles.permute(0, 2, 1, 3).reshape(ROWS * PITCH, COLUMNS * PITCH)
    pixels = pixels[: SIDE - PITCH, : SIDE - PITCH]  # without the last gaps
    height, width = pixels.shape
    values = bytes((pixels * 255).round().byte().flatten().tolist())
    return Image.frombytes("L", (width, height), values), digits.labels[:count].view(ROWS, COLUMNS)


def seconds(converted: Path, size: tuple[int, int]) -> tuple[float, float]:
    """Return the seconds of one pass over the canvas, and of a batch of all its crops."""
    dense, network = VGG().eval(), VGGFCN().eval()
    network.load_state_dict(load_file(converted), strict=True)
    pixels = torch.rand(1, 1, *size)
    crops = pixels.unfold(2, SIDE, STRIDE).unfold(3, SIDE, STRIDE).reshape(-1, 1, SIDE, SIDE)
    return best_of(lambda: network(pixels)), best_of(lambda: dense(crops))


def best_of(work: Callable[[], object]) -> float:
    """Return the shortest of several runs, in seconds."""
    found = []
    with torch.inference_mode():
        for _ in range(REPEATS):
            start = time.perf_counter()
            work()
            found.append(time.perf_counter() - start)
    return min(found)


def run(*arguments: str | Path, folder: Path, status: int = 0) -> None:
    """Run the command in a folder; it is to end with a status."""
    command = [sys.executable, "-m", "fcn_convert", *map(str, arguments), "-q"]
    done = subprocess.run(command, cwd=folder, check=False)  # noqa: S603 - our own command
    if done.returncode != status:
        sys.exit(f"{' '.join(command)}: exit status {done.returncode}, expected {status}")


def draw_digits(folder: Path) -> None:
    """Convert a sample, run it on the canvas, keep the picture and print what came of it."""
    image, labels = canvas()
    image.save(folder / "digits.png")
    converted, report = folder / "vgg.fcn.safetensors", folder / "verified.json"
    original, spec = FOLDER / "vgg.ckpt", FOLDER / "vgg.yaml"
    run("convert", original, "-o", converted, folder=folder)
    run(
        *("verify", original, converted, "--spec", spec, "--report", report),
        *("--model", f"{FOLDER / 'train.py'}:VGG", "--input", f"1,{SIDE},{SIDE}"),
        *("--image", folder / "digits.png"),
        folder=folder,
    )
    PICTURES.mkdir(exist_ok=True)
    (PICTURES / "digits.png").write_bytes((folder / "vgg.fcn.digits.png").read_bytes())
    [picture] = json.loads(report.read_text("utf-8"))["model"]["pictures"]
    cells = torch.tensor(picture["classes"])
    right = int((cells[:: PITCH // STRIDE, :: PITCH // STRIDE] == labels).sum())
    one, all_crops = seconds(converted, (image.height, image.width))
    print(f"{right} of {labels.numel()} digits read right; {cells.numel()} cells in one pass")
    print(f"one pass {one * 1e3:.2f} ms, crop by crop {all_crops * 1e3:.2f} ms in one batch")


def draw_reports(folder: Path) -> None:
    """Show two reports to a browser: a conversion, and one by a wrong order, held to the right."""
    chromium = browser.find_browser()
    if chromium is None:
        sys.exit(f"the pictures of reports are not drawn: {browser.MISSING}")
    for name in ("lenet.pth", "lenet.yaml"):
        shutil.copy(FOLDER / name, folder)
    wrong = (folder / "lenet.yaml").read_text("utf-8") + "flatten: HWC\n"
    (folder / "wrong.yaml").write_text(wrong, "utf-8")
    run("convert", "lenet.pth", "--report", "report.html", folder=folder)
    run("convert", "lenet.pth", "--spec", "wrong.yaml", "-o", "wrong.safetensors", folder=folder)
    run(
        *("verify", "lenet.pth", "wrong.safetensors", "--report", "report-failed.html"),
        folder=folder,
        status=1,
    )
    screenshot(chromium, folder / "report.html", height=1270, dark=False)
    screenshot(chromium, folder / "report-failed.html", height=1515, dark=True)


def screenshot(chromium: str, page: Path, *, height: int, dark: bool) -> None:
    """Keep what a page begins with, as a small PNG."""
    target = PICTURES / f"{page.stem}.png"
    target.unlink(missing_ok=True)
    shown = browser.show(chromium, page, f"--screenshot={target}", size=(1000, height), dark=dark)
    if not target.exists():
        sys.exit(f"{chromium} drew no picture: {shown.stderr}")
    with Image.open(target) as image:
        small = image.convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE)
    small.save(target, optimize=True)
    print(f"{target.name}: {target.stat().st_size / 1000:.0f} kB")


def main() -> None:
    """Draw every picture."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        draw_digits(Path(name))
        draw_reports(Path(name))


if __name__ == "__main__":
    main()
