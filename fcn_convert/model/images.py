"""Images as a network takes them, and the names of its classes: read before anything is run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fcn_convert.errors import ModelError, printable
from fcn_convert.report.model_entry import PictureRequest
from fcn_convert.torch_library import Tensor, torch

if TYPE_CHECKING:
    from PIL.Image import Image

MAX_PIXELS = 1 << 24
MODES = {1: "L", 3: "RGB"}
MAX_LABELS_BYTES = 1 << 24
SIXTEEN_BITS = 257
"""Steps of a pixel of 16 bits in one of 8."""


@dataclass(frozen=True)
class Photo:
    """An image and its pixels as the network takes them, (1, C, H, W)."""

    path: Path
    image: Image
    pixels: Tensor


def read_photos(request: PictureRequest, window: tuple[int, ...]) -> list[Photo]:
    """Read the images that are asked for; raises ModelError with the first that cannot be used.

    window: the size of the model's own input. Pixels are 0 to 1, less the mean, by the deviation.
    """
    if not request.images:
        return []
    if len(window) != 3 or window[0] not in MODES:
        raise ModelError(
            f"--image: the model reads {','.join(map(str, window))}; expected an --input of 1,H,W "
            "or 3,H,W, gray or in color"
        )
    mean, deviation = (
        _of_channels(option, values, window[0], usual)
        for option, values, usual in (("--mean", request.mean, 0.0), ("--std", request.std, 1.0))
    )
    if not bool((deviation > 0).all()):
        raise ModelError("--std: expected numbers above 0, by which pixels are divided")
    photos = []
    for path in request.images:
        image = _read(path, window)
        photos.append(Photo(path, image, (_as_tensor(image, window[0]) - mean) / deviation))
    return photos


def read_labels(path: Path | None) -> tuple[str, ...]:
    """Return the names of the classes, one a line; raises ModelError where there are none."""
    if path is None:
        return ()
    try:
        with path.open("rb") as file:
            text = file.read(MAX_LABELS_BYTES).decode("utf-8-sig")
    except OSError as error:
        raise ModelError(f"--labels {path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ModelError(f"--labels {path}: is not UTF-8 text, one name a line") from error
    return tuple(printable(line.strip()) for line in text.rstrip().splitlines())


def _of_channels(option: str, values: tuple[float, ...], channels: int, usual: float) -> Tensor:
    """Return one number for each channel, (C, 1, 1)."""
    if len(values) not in {0, 1, channels}:
        raise ModelError(
            f"{option}: {len(values)} numbers, expected one for each of {channels} channels, or one"
        )
    return torch.tensor(values or (usual,), dtype=torch.float32).view(-1, 1, 1)


def _pillow() -> Any:
    try:
        import PIL.Image  # noqa: PLC0415 - an extra
        import PIL.ImageDraw  # noqa: PLC0415 - likewise
        import PIL.ImageOps  # noqa: PLC0415 - likewise
    except ImportError as error:
        raise ModelError(
            "--image needs Pillow: install it with `pip install 'fcn-convert[pictures]'`"
        ) from error
    return PIL


def _read(path: Path, window: tuple[int, ...]) -> Image:
    pillow = _pillow()
    try:
        with pillow.Image.open(path) as opened:
            width, height = opened.size
            if width * height > MAX_PIXELS:
                raise ModelError(f"{path}: has {width}×{height} pixels, more than {MAX_PIXELS}")
            upright = pillow.ImageOps.exif_transpose(opened)
            image: Image = _eight_bits(upright, path).convert(MODES[window[0]])
    except (OSError, ValueError, SyntaxError, pillow.Image.DecompressionBombError) as error:
        raise ModelError(f"{path}: is not an image that can be read: {error}") from error
    if image.height < window[1] or image.width < window[2]:
        raise ModelError(
            f"{path}: has {image.height}×{image.width} pixels (H×W), fewer than the model's own "
            f"input, {window[1]}×{window[2]}"
        )
    return image


def _eight_bits(image: Image, path: Path) -> Image:
    """Return an image with 8 bits a channel, laid on white where it is transparent."""
    pillow = _pillow()
    if image.mode == "F":
        raise ModelError(f"{path}: has pixels of floating point; expected 8 or 16 bits")
    if image.mode.startswith("I"):
        # A lambda of `value * number` is what Pillow can apply to such pixels.
        return image.convert("I").point(lambda value: value * (1 / SIXTEEN_BITS)).convert("L")
    if image.has_transparency_data:
        over = image.convert("RGBA")
        white: Image = pillow.Image.new("RGBA", over.size, "white")
        white.alpha_composite(over)
        return white
    return image


def _as_tensor(image: Image, channels: int) -> Tensor:
    pixels = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8)
    return pixels.view(1, image.height, image.width, channels).permute(0, 3, 1, 2) / 255
