"""Draws the README's picture: a canvas of handwritten digits, read by a converted sample.

From a clone, `make pictures`: it runs the command as a user would, and prints how many digits the
class map reads, and the time of one pass against that of the crops.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor
from train import VGG, VGGFCN, split_digits

FOLDER = Path(__file__).parent
ROWS, COLUMNS, SIDE, STRIDE = 5, 7, 8, 2
PITCH = 14
"""Pixels from one digit to the next: a multiple of the stride."""
REPEATS = 50


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


def run(*arguments: str | Path) -> None:
    """Run the command."""
    command = [sys.executable, "-m", "fcn_convert", *map(str, arguments), "-q"]
    subprocess.run(command, check=True)  # noqa: S603 - our own command


def main() -> None:
    """Convert the sample, run it on the canvas, keep the picture and print what came of it."""
    torch.set_num_threads(1)
    image, labels = canvas()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        image.save(folder / "digits.png")
        converted, report = folder / "vgg.fcn.safetensors", folder / "verified.json"
        original, spec = FOLDER / "vgg.ckpt", FOLDER / "vgg.yaml"
        run("convert", original, "-o", converted)
        run(
            *("verify", original, converted, "--spec", spec, "--report", report),
            *("--model", f"{FOLDER / 'train.py'}:VGG", "--input", f"1,{SIDE},{SIDE}"),
            *("--image", folder / "digits.png"),
        )
        target = FOLDER / "pictures" / "digits.png"
        target.parent.mkdir(exist_ok=True)
        target.write_bytes((folder / "vgg.fcn.digits.png").read_bytes())
        [picture] = json.loads(report.read_text("utf-8"))["model"]["pictures"]
        cells = torch.tensor(picture["classes"])
        right = int((cells[:: PITCH // STRIDE, :: PITCH // STRIDE] == labels).sum())
        one, all_crops = seconds(converted, (image.height, image.width))
    print(f"{right} of {labels.numel()} digits read right; {cells.numel()} cells in one pass")
    print(f"one pass {one * 1e3:.2f} ms, crop by crop {all_crops * 1e3:.2f} ms in one batch")


if __name__ == "__main__":
    main()
