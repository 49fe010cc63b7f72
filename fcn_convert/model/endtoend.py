"""Runs a model and its fully convolutional form, each with its own checkpoint, and compares."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from itertools import product
from time import perf_counter
from typing import Any

from fcn_convert.errors import ModelError
from fcn_convert.model.culprits import culprits
from fcn_convert.model.differences import difference, of_cells
from fcn_convert.model.factory import example_of, user_code
from fcn_convert.model.field import receptive_field
from fcn_convert.model.images import read_labels, read_photos
from fcn_convert.model.loading import BothFiles, Pair, load_pair
from fcn_convert.model.picture import Drawing, picture, picture_paths, write_pictures
from fcn_convert.model.precision import AtLeast
from fcn_convert.model.stride import stride_of
from fcn_convert.model.tracing import one_line, raised_at
from fcn_convert.model.values import leaves
from fcn_convert.model.windows import head_on_windows
from fcn_convert.report import Report
from fcn_convert.report.model_entry import ModelEntry, ModelRequest
from fcn_convert.tensors import times
from fcn_convert.torch_library import Tensor, nn, torch

SAMPLES = 2
CELLS = 2
"""Cells along each axis of the larger input's answer."""
UNKNOWN_STRIDE = 96
"""Pixels that the larger input has in addition where no stride is known."""
REPEATS, ENOUGH_SECONDS = 3, 0.3
"""Passes that are timed, and seconds after which no further ones are; the shortest counts."""
CROPS_MIDDLE = 2
"""Strides by which an input is larger than the crop from its middle."""


@dataclass(frozen=True)
class Pass:
    """A network's answer in float64, its multiplications, and its seconds in the stored dtype."""

    answer: Any
    macs: int
    seconds: float


def with_model(
    report: Report, request: ModelRequest, files: BothFiles, *, strict: bool = False
) -> Report:
    """Run the model and add what it showed to a report; write the pictures beside the output.

    strict: a warning is a problem. Raises ModelError where a model or an image is unusable,
    OutputError for a picture.
    """
    paths = picture_paths(request.pictures.images, files.converted.path)
    with user_code():
        entry = check_model(request, files)
    write_pictures(entry.pictures, paths)
    return report.with_model(entry, strict=strict)


def check_model(request: ModelRequest, files: BothFiles) -> ModelEntry:
    """Load both checkpoints strictly and compare what the networks answer.

    Raises ModelError where a model cannot be made or does not take its checkpoint.
    """
    example = example_of(request.input)
    window = tuple(example.shape[1:])
    photos = read_photos(request.pictures, window)
    drawing = Drawing(window[1:], read_labels(request.pictures.labels), request.pictures.chosen)
    pair = load_pair(request.factory, example, files)
    with torch.no_grad():
        stride = stride_of(pair.converted)
        entry = _entry(request, pair, stride)
        with AtLeast(torch.float32):
            pictures = [picture(photo, pair.network, stride, drawing) for photo in photos]
    return replace(entry, pictures=tuple(pictures))


def _entry(request: ModelRequest, pair: Pair, stride: tuple[int, ...] | None) -> ModelEntry:
    inputs = _noise(pair, 1, batch=SAMPLES)
    stored = _stored_difference(pair, inputs)
    with AtLeast(torch.float64):
        native = difference(_answer(pair.network, inputs), _answer(pair.model, inputs))
    window = pair.example.shape[2:]
    steps = stride or (UNKNOWN_STRIDE,) * len(window)
    larger = _noise(pair, 2, [step * (CELLS - 1) for step in steps])
    precision: AbstractContextManager[object] = (
        AtLeast(torch.float32) if stored is None else nullcontext()
    )
    once = _passed(pair.network, larger, precision)
    each = [_passed(pair.model, crop, precision) for crop in _crops(larger, window, stride)]
    differ = _crop_difference(once.answer, [crop.answer for crop in each]) if each else None
    exact, not_computed = _windows_difference(pair, larger, once.answer)
    same = not each or (differ is not None and differ <= native.bound)
    return ModelEntry(
        factory=request.factory,
        input=request.input,
        passed=native.largest <= native.bound and (exact is None or exact <= native.bound),
        windows_max_abs_diff=exact,
        not_computed=not_computed,
        outputs=native.count,
        max_abs_diff=native.largest,
        bound=native.bound,
        stored_dtype_max_abs_diff=stored,
        larger_input=tuple(larger.shape[1:]),
        larger_output=tuple(next(leaves(once.answer)).shape[1:]),
        stride=stride,
        receptive_field=receptive_field(pair.network, len(window)),
        crops=len(each),
        crops_max_abs_diff=differ,
        culprits=() if same else tuple(_culprits(pair, steps)),
        decisions=pair.converted.decisions,
        parameters=sum(parameter.numel() for parameter in pair.network.parameters()),
        macs_one_pass=once.macs,
        macs_crops=sum(crop.macs for crop in each),
        seconds_one_pass=once.seconds,
        seconds_crops=sum(crop.seconds for crop in each),
    )


def _noise(pair: Pair, seed: int, more: Sequence[int] = (), batch: int = 1) -> Tensor:
    """Return a random input in float64, larger than the model's own by `more` pixels."""
    channels, *window = pair.example.shape[1:]
    sizes = [w + m for w, m in zip(window, more or [0] * len(window), strict=True)]
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, channels, *sizes, generator=generator, dtype=torch.float64)


def _stored_dtype(network: nn.Module) -> torch.dtype:
    dtypes = (p.dtype for p in network.parameters() if p.is_floating_point())
    return next(dtypes, torch.float32)


def _stored_difference(pair: Pair, inputs: Tensor) -> float | None:
    """Return the largest difference in the dtype of the checkpoint; None where torch has none."""
    given = inputs.to(_stored_dtype(pair.model))
    try:
        return difference(pair.network(given), pair.model(given)).largest
    except RuntimeError:
        return None


def _answer(network: nn.Module, inputs: Tensor) -> Any:
    """Return what a network answers; raises ModelError with whatever its code raises."""
    try:
        return network(inputs)
    except Exception as error:
        raise ModelError(
            f"{type(network).__name__} fails on an input of {times(inputs.shape[1:])} in "
            f"{str(inputs.dtype).removeprefix('torch.')}{raised_at(error)}: {one_line(error)}; "
            "expected one that runs in the dtype of its weights and in float64"
        ) from error


def _passed(network: nn.Module, inputs: Tensor, precision: AbstractContextManager[object]) -> Pass:
    """Run a network in float64, and once more as it would be used, for the time.

    precision: what the dtype of the weights is widened by where torch does not compute in it.
    """
    from torch.utils.flop_counter import FlopCounterMode  # noqa: PLC0415 - heavy, as torch itself

    counter = FlopCounterMode(display=False)
    with counter, AtLeast(torch.float64):
        answer = _answer(network, inputs)
    given = inputs.to(_stored_dtype(network))
    seconds: list[float] = []
    while len(seconds) < REPEATS and sum(seconds) < ENOUGH_SECONDS:
        start = perf_counter()
        with precision:
            _answer(network, given)
        seconds.append(perf_counter() - start)
    return Pass(answer, counter.get_total_flops() // 2, min(seconds))


def _crops(larger: Tensor, window: Sequence[int], stride: Sequence[int] | None) -> Iterator[Tensor]:
    """Yield the crop that each cell of an input's answer should be the answer to, by rows."""
    if stride is None:
        return
    for cell in product(range(CELLS), repeat=len(window)):
        crop = larger
        for axis, at in enumerate(cell):
            crop = crop.narrow(2 + axis, at * stride[axis], window[axis])
        yield crop.contiguous()


def _crop_difference(answer: Any, crops: Sequence[Any]) -> float | None:
    """Return how far the cells are from the model's answers; None where they are not as many."""
    answers = zip(*(leaves(crop) for crop in crops), strict=True)
    return of_cells(answer, [torch.cat([one.reshape(1, -1) for one in each]) for each in answers])


def _windows_difference(
    pair: Pair, larger: Tensor, answer: Any
) -> tuple[float, None] | tuple[None, str]:
    """Return how far cells are from the head's answers to their windows, or why that is unknown."""
    try:
        with AtLeast(torch.float64):
            expected = head_on_windows(pair.converted, pair.model, larger)
    except ModelError as error:
        return None, str(error)
    found = of_cells(answer, expected)
    return (None, "it does not answer once for each window") if found is None else (found, None)


def _culprits(pair: Pair, steps: Sequence[int]) -> Iterator[str]:
    """Name what makes cells differ from the model's answers to their crops."""
    sizes = pair.converted.sizes
    batch = len(sizes.traced.inputs[0])
    larger = _noise(pair, 3, [CROPS_MIDDLE * step for step in steps], batch)
    with AtLeast(torch.float32):
        yield from culprits(sizes, pair.model, larger.to(_stored_dtype(pair.model)))
