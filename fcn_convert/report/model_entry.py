"""What running the whole network showed, in both forms."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class PictureRequest:
    """What to draw: the images, and the class of the heat map, by default the best.

    labels: a file with the name of each class, one a line. mean, std: what is taken from pixels of
    0 to 1, and what they are divided by, one number or one for each channel.
    """

    images: tuple[Path, ...] = ()
    chosen: int | None = None
    labels: Path | None = None
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()


@dataclass(frozen=True)
class ModelRequest:
    """What to run: the model's factory, `module:factory`, and its input's size, `3,224,224`."""

    factory: str
    input: str
    pictures: PictureRequest = PictureRequest()


@dataclass(frozen=True)
class PictureEntry:
    """What the network sees of an image.

    chosen: the class of the heat map, and its highest probability. classes: the best class of every
    cell, by rows. labels: the classes' names, if they were given. png: the picture, image, heat map
    and class map, as a data URI.
    """

    image: str
    chosen: int
    probability: float
    classes: tuple[tuple[int, ...], ...]
    labels: tuple[str, ...]
    png: str


@dataclass(frozen=True)
class ModelEntry:
    """The original model against its fully convolutional form, each with its own checkpoint.

    factory, input: as the command was given them. outputs: numbers compared at the native size, in
    float64. max_abs_diff, bound: their largest difference, and the largest allowed.
    stored_dtype_max_abs_diff: likewise in the dtype of the checkpoint; None where torch cannot
    compute in it. larger_input, larger_output: shapes without the batch. stride: pixels from cell
    to cell; None where it is not regular.
    windows_max_abs_diff: of the cells of the larger input from the Dense head's answers to their
    windows of the feature map, which always agree; None where not computed, and not_computed says
    why.
    receptive_field: pixels that a cell sees; None where that is all, or cannot be told. crops: how
    many crops of the larger input the model was run on; crops_max_abs_diff: of its answers
    from the cells; culprits: where they differ, what makes them. decisions: lines of the model's
    code that look at a size, taken as its own input decides them. seconds: of one pass over the
    larger input, and of the model on every crop. macs: multiplications of both, in convolutions
    and Dense layers.
    """

    factory: str
    input: str
    passed: bool
    outputs: int
    max_abs_diff: float
    bound: float
    stored_dtype_max_abs_diff: float | None
    larger_input: tuple[int, ...]
    larger_output: tuple[int, ...]
    stride: tuple[int, ...] | None
    receptive_field: tuple[int, ...] | None
    windows_max_abs_diff: float | None
    crops: int
    crops_max_abs_diff: float | None
    culprits: tuple[str, ...]
    decisions: tuple[str, ...]
    parameters: int
    macs_one_pass: int
    macs_crops: int
    seconds_one_pass: float
    seconds_crops: float
    pictures: tuple[PictureEntry, ...] = ()
    not_computed: str | None = None


def model_problems(model: ModelEntry) -> Iterator[str]:
    """Say what does not hold."""
    if not model.passed:
        apart = max(model.max_abs_diff, model.windows_max_abs_diff or 0.0)
        yield (
            f"{model.factory}: the outputs of the two networks differ by up to {apart:.3g}; "
            f"at most {model.bound:.3g} is allowed"
        )


def model_warnings(model: ModelEntry) -> Iterator[str]:
    """Say what was not computed."""
    if model.not_computed:
        yield (
            f"{model.factory}: the larger input's cells were not compared with the Dense head's "
            f"answers to their windows of the map: {model.not_computed}"
        )
