"""The classic picture: an image, the heat map of a class over it, and the map of best classes."""

from __future__ import annotations

import base64
import io
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fcn_convert.atomic import atomically
from fcn_convert.beside import picture_beside
from fcn_convert.errors import ModelError, OutputError
from fcn_convert.model.images import Photo
from fcn_convert.model.values import leaves
from fcn_convert.report.files import check_replaceable
from fcn_convert.report.model_entry import PictureEntry
from fcn_convert.torch_library import Tensor, functional, fx, torch

if TYPE_CHECKING:
    from PIL.Image import Image

PANEL = 480
"""Pixels that the longer side of each of the three panels has, at least where it is scaled up."""
MAX_NAME = 16
"""Letters of a class's name that are drawn."""
SURE = 0.9
"""Probability from which on a cell's class is written into it."""
LABEL_PIXELS = 7
"""A cell must be as large, in the picture, for its label to be written into it."""


@dataclass(frozen=True)
class Drawing:
    """How it is drawn.

    window: rows and columns of the model's own input. labels: names of the classes, or nothing.
    chosen: the class of the heat map; None for that with the highest probability anywhere.
    """

    window: tuple[int, ...]
    labels: tuple[str, ...]
    chosen: int | None

    def name(self, index: int) -> str:
        """Return what stands for a class in the picture."""
        return self.labels[index][:MAX_NAME] if self.labels else str(index)


@dataclass(frozen=True)
class Answer:
    """What a network answers to an image. probabilities: (classes, rows, columns)."""

    probabilities: Tensor
    chosen: int

    @property
    def best(self) -> Tensor:
        """The best class of every cell, (rows, columns)."""
        return self.probabilities.argmax(0)


def picture(
    photo: Photo, network: fx.GraphModule, stride: tuple[int, ...] | None, drawing: Drawing
) -> PictureEntry:
    """Run a network on an image and draw what it sees.

    Raises ModelError where its answers are not a regular map of classes.
    """
    if stride is None:
        raise ModelError(
            f"{photo.path}: the cells of the network's answers have no regular stride, so they "
            "cannot be laid over an image"
        )
    dtype = next(network.parameters()).dtype
    answer = _answer(next(leaves(network(photo.pixels.to(dtype))), None), drawing, photo.path)
    drawn = _drawn(photo.image, answer, drawing, stride)
    stream = io.BytesIO()
    from PIL.PngImagePlugin import PngInfo  # noqa: PLC0415 - an extra, which has read the image

    origin = PngInfo()
    origin.add_text("Software", "fcn-convert")
    drawn.save(stream, "PNG", optimize=True, pnginfo=origin)
    text = base64.b64encode(stream.getvalue()).decode("ascii")
    return PictureEntry(
        image=str(photo.path),
        chosen=answer.chosen,
        probability=float(answer.probabilities[answer.chosen].max()),
        classes=tuple(tuple(map(int, row)) for row in answer.best.tolist()),
        labels=drawing.labels,
        png=f"data:image/png;base64,{text}",
    )


def picture_paths(images: Iterable[Path], converted: Path) -> list[Path]:
    """Return where the pictures go, beside the converted file; raises OutputError, early."""
    given = list(images)
    paths = [picture_beside(converted, image) for image in given]
    for path in paths:
        if paths.count(path) > 1:
            raise OutputError(f"{path}: two images would give this picture; rename one")
        check_replaceable(path, [*given, converted])
    return paths


def write_pictures(entries: Iterable[PictureEntry], paths: Iterable[Path]) -> None:
    """Write each picture as a PNG file; raises OutputError."""
    for entry, path in zip(entries, paths, strict=True):
        check_replaceable(path)  # it may have appeared since it was looked for
        with atomically(path, replace=os.path.lexists(path)) as draft:
            draft.write(base64.b64decode(entry.png.partition(",")[2]))


def _answer(maps: Tensor | None, drawing: Drawing, path: Path) -> Answer:
    if maps is None or maps.dim() != 4:
        raise ModelError(
            f"{path}: the network's first answer is not a map of classes, (N, K, H, W)"
        )
    scores = maps[0].double()
    total = scores.sum(0)
    sums_to_one = torch.allclose(total, torch.ones_like(total)) and bool((scores >= 0).all())
    probabilities = scores if sums_to_one else scores.softmax(0)
    chosen, count = drawing.chosen, len(scores)
    if chosen is not None and not 0 <= chosen < count:
        raise ModelError(f"--class {chosen}: the model has the classes 0 to {count - 1}")
    if drawing.labels and len(drawing.labels) != count:
        raise ModelError(
            f"--labels: has {len(drawing.labels)} lines, expected {count}, one for each class"
        )
    best = int(probabilities.amax((1, 2)).argmax()) if chosen is None else chosen
    return Answer(probabilities, best)


def _drawn(image: Image, answer: Answer, drawing: Drawing, stride: tuple[int, ...]) -> Image:
    """Draw the three panels beside each other; a cell stands over the middle of its window."""
    from PIL import Image as images  # noqa: N813, PLC0415 - an extra, which has read the image
    from PIL.ImageDraw import Draw  # noqa: PLC0415 - likewise

    window = drawing.window
    scale = max(1, PANEL // max(image.size))
    size = (image.width * scale, image.height * scale)
    base = image.convert("RGB").resize(size, images.Resampling.NEAREST)
    panels = [base, base.copy(), base.copy()]
    heat, classes = (Draw(panel, "RGBA") for panel in panels[1:])
    count, rows, columns = answer.probabilities.shape
    peaks = _peaks(answer, window, stride)
    for row in range(rows):
        for column in range(columns):
            box = _box(row, column, window, stride, scale)
            share = float(answer.probabilities[answer.chosen, row, column])
            heat.rectangle(box, fill=(255, int(220 * (1 - share)), 0, int(190 * share)))
            best = int(answer.best[row, column])
            sure = float(answer.probabilities[best, row, column])
            classes.rectangle(box, fill=(*_color(best, count), int(170 * sure**2)))
            if peaks[row, column] and min(box[2] - box[0], box[3] - box[1]) >= LABEL_PIXELS:
                middle = ((box[0] + box[2]) / 2, (box[1] + box[3]) / 2)
                classes.text(
                    middle,
                    drawing.name(best),
                    fill="white",
                    anchor="mm",
                    stroke_width=2,
                    stroke_fill="black",
                )
    whole = images.new("RGB", (3 * size[0] + 2 * scale, size[1]), "white")
    for at, panel in enumerate(panels):
        whole.paste(panel, (at * (size[0] + scale), 0))
    drawn: Image = whole.quantize(128)
    return drawn


def _peaks(answer: Answer, window: tuple[int, ...], stride: tuple[int, ...]) -> Tensor:
    """Return which cells are labelled: the surest of half a window around, where one is sure."""
    surest = answer.probabilities.amax(0)
    reach = [max(1, size // step // 2) for size, step in zip(window, stride, strict=True)]
    around = functional.max_pool2d(surest[None], [2 * cells + 1 for cells in reach], 1, reach)
    return (surest == around[0]) & (surest >= min(SURE, float(surest.max())))


def _box(
    row: int, column: int, window: tuple[int, ...], stride: tuple[int, ...], scale: int
) -> tuple[int, int, int, int]:
    """Return where a cell is drawn, of the size of a stride: left, top, right, bottom."""
    top = row * stride[0] + (window[0] - stride[0]) // 2
    left = column * stride[1] + (window[1] - stride[1]) // 2
    right, bottom = (left + stride[1]) * scale - 1, (top + stride[0]) * scale - 1
    return left * scale, top * scale, right, bottom


def _color(index: int, count: int) -> tuple[int, int, int]:
    """Return a color of its own for each class."""
    from colorsys import hsv_to_rgb  # noqa: PLC0415 - only to draw

    red, green, blue = hsv_to_rgb(index / max(count, 1), 0.9, 0.8)
    return int(255 * red), int(255 * green), int(255 * blue)
