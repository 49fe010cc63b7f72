"""Runs a model and its fully convolutional form, each with its own checkpoint, and compares."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from time import perf_counter
from typing import Any

from fcn_convert.errors import ModelError
from fcn_convert.formats import Checkpoint
from fcn_convert.formats.strided import read_tensor
from fcn_convert.layers import Resolved
from fcn_convert.model.build import Converted, make_convertible
from fcn_convert.model.factory import example_of, make_model
from fcn_convert.model.field import receptive_field
from fcn_convert.model.picture import picture, picture_paths, write_pictures
from fcn_convert.model.values import leaves
from fcn_convert.model.windows import apart as windows_apart
from fcn_convert.model.windows import head_on_windows
from fcn_convert.report import Report
from fcn_convert.report.model_entry import ModelEntry, ModelRequest
from fcn_convert.tensors import StateDict
from fcn_convert.torch_quietly import Tensor, fx, nn, torch

RELATIVE = 1e-10
"""Largest difference that passes, of the largest output, in float64."""
SAMPLES = 4
GROWTH = 96
"""Pixels more that a stride is found with: a multiple of all usual strides."""
CELLS = 3
"""Cells along each axis of the larger input's answer."""


@dataclass(frozen=True)
class Files:
    """Both checkpoints, the original's state dict, and its names in the converted one."""

    original: Checkpoint
    converted: Checkpoint
    resolved: Resolved
    state_dict: StateDict


@dataclass(frozen=True)
class Pair:
    """A model and its fully convolutional form, in evaluation mode."""

    model: nn.Module
    network: fx.GraphModule
    example: Tensor
    converted: Converted


def with_model(report: Report, request: ModelRequest, files: Files) -> Report:
    """Run the model and add what it showed to a report; write the pictures beside the output.

    Raises ModelError where a model or an image is unusable, OutputError for a picture.
    """
    paths = picture_paths(request.images, files.converted.path)
    entry = check_model(request, files)
    write_pictures(entry.pictures, paths)
    return report.with_model(entry)


def check_model(request: ModelRequest, files: Files) -> ModelEntry:
    """Load both checkpoints strictly and compare what the networks answer.

    Raises ModelError where a model cannot be made or does not take its checkpoint.
    """
    pair = _loaded(request.factory, example_of(request.input), files)
    with torch.inference_mode():
        inputs = torch.randn(
            SAMPLES, *pair.example.shape[1:], generator=torch.Generator().manual_seed(1)
        )
        stored = _stored_difference(pair, inputs)
        pair.model.double()
        pair.network.double()
        wide = inputs.double()
        outputs, apart, scale = _apart(pair.network(wide), pair.model(wide))
        stride = _stride(pair)
        entry = _entry(request, pair, stride, (outputs, apart, scale), stored)
        window = tuple(pair.example.shape[1:])
        pictures = [
            picture(path, pair.network, window, stride, request.chosen) for path in request.images
        ]
        return replace(entry, pictures=tuple(pictures))


def _entry(
    request: ModelRequest,
    pair: Pair,
    stride: tuple[int, ...] | None,
    native: tuple[int, float, float],
    stored: float | None,
) -> ModelEntry:
    outputs, apart, scale = native
    shape = pair.example.shape
    steps = stride or (GROWTH,) * (len(shape) - 2)
    window = shape[2:]
    larger = torch.randn(
        1,
        shape[1],
        *(w + s * (CELLS - 1) for w, s in zip(window, steps, strict=True)),
        generator=torch.Generator().manual_seed(2),
        dtype=torch.float64,
    )
    macs, seconds, answer = _measured(pair.network, larger)
    crops = list(_crops(larger, window, steps)) if stride else []
    each = [_measured(pair.model, crop) for crop in crops]
    differ = _crop_difference(answer, [found for _, _, found in each]) if each else None
    exact = _windows_difference(pair, larger, answer)
    same = differ is not None and differ <= RELATIVE * scale
    return ModelEntry(
        factory=request.factory,
        input=request.input,
        passed=apart <= RELATIVE * scale and (exact or 0) <= RELATIVE * scale,
        windows_max_abs_diff=exact,
        outputs=outputs,
        max_abs_diff=apart,
        bound=RELATIVE * scale,
        stored_dtype_max_abs_diff=stored,
        larger_input=tuple(larger.shape[1:]),
        larger_output=tuple(next(leaves(answer)).shape[1:]),
        stride=stride,
        receptive_field=receptive_field(pair.network, len(window)),
        crops=len(crops),
        crops_max_abs_diff=differ,
        culprits=() if same else tuple(culprits(pair.model)),
        parameters=sum(parameter.numel() for parameter in pair.network.parameters()),
        macs_one_pass=macs,
        macs_crops=sum(count for count, _, _ in each),
        seconds_one_pass=seconds,
        seconds_crops=sum(time for _, time, _ in each),
    )


def _loaded(factory: str, example: Tensor, files: Files) -> Pair:
    model = make_model(factory)
    _load(
        model,
        tensors_of(files.original, files.state_dict),
        f"{files.original.path}: the model {factory}",
    )
    made = make_convertible(model, example, "slide")
    network = made.module
    found = tensors_of(files.converted, files.converted.state_dict(None))
    missing = [new for new in files.resolved.names.values() if new not in found]
    if missing:
        raise ModelError(f"{files.converted.path}: lacks {missing[0]}")
    # A rename is the spec's, not the model's: its module names are the original's.
    old_names = {old: found[new] for old, new in files.resolved.names.items()}
    _load(network, old_names, f"{files.converted.path}: the fully convolutional form of {factory}")
    return Pair(model, network, example, made)


def tensors_of(checkpoint: Checkpoint, state_dict: StateDict) -> dict[str, Tensor]:
    """Read the tensors of a state dict with our own readers: no code of the file runs."""
    found: dict[str, Tensor] = {}
    for name, tensor in state_dict.tensors.items():
        if tensor.dtype.torch is None:
            raise ModelError(f"{checkpoint.path}: torch has no dtype {tensor.dtype.name} ({name})")
        found[name] = read_tensor(checkpoint.files[tensor.file], tensor)
    return found


def _load(model: nn.Module, tensors: Mapping[str, Tensor], where: str) -> None:
    """Load strictly, in the dtypes of the checkpoint."""
    targets = model.state_dict(keep_vars=True)
    for name, tensor in tensors.items():
        if name in targets and tensor.is_floating_point():
            targets[name].data = targets[name].data.to(tensor.dtype)
    try:
        model.load_state_dict(tensors, strict=True)
    except RuntimeError as error:
        text = " ".join(str(error).split())[:400]
        raise ModelError(f"{where} does not take its tensors: {text}") from error


def _stored_difference(pair: Pair, inputs: Tensor) -> float | None:
    """Return the largest difference in the dtype of the checkpoint; None where torch has none."""
    dtype = next((p.dtype for p in pair.model.parameters() if p.is_floating_point()), inputs.dtype)
    try:
        given = inputs.to(dtype)
        return _apart(pair.network(given), pair.model(given))[1]
    except RuntimeError:
        return None


def _apart(found: Any, expected: Any) -> tuple[int, float, float]:
    """Return how many numbers two answers have, how far they are apart, and the largest one."""
    count, apart, scale = 0, 0.0, 0.0
    for one, other in zip(leaves(found), leaves(expected), strict=True):
        if one.numel() != other.numel():
            raise ModelError(f"the answers have {one.numel()} and {other.numel()} numbers")
        flat, wanted = one.double().flatten(), other.double().flatten()
        count += flat.numel()
        apart = max(apart, float((flat - wanted).abs().max()))
        scale = max(scale, float(wanted.abs().max()))
    return count, apart, scale


def _stride(pair: Pair) -> tuple[int, ...] | None:
    """Return the pixels from one cell to the next, per axis, from how many cells more there are."""
    shape = pair.example.shape
    native = next(leaves(pair.network(pair.example.double()))).shape[-(len(shape) - 2) :]
    found = []
    for axis in range(2, len(shape)):
        grown = list(shape)
        grown[axis] += GROWTH
        cells = next(leaves(pair.network(torch.zeros(grown, dtype=torch.float64)))).shape
        more = cells[-(len(shape) - 2) :][axis - 2] - native[axis - 2]
        if more <= 0 or GROWTH % more:
            return None
        found.append(GROWTH // more)
    return tuple(found)


def _crops(larger: Tensor, window: Sequence[int], stride: Sequence[int]) -> Iterator[Tensor]:
    for cell in product(range(CELLS), repeat=len(window)):
        crop = larger
        for axis, at in enumerate(cell):
            crop = crop.narrow(2 + axis, at * stride[axis], window[axis])
        yield crop


def _crop_difference(answer: Any, crops: Sequence[Any]) -> float | None:
    """Return how far the cells are from the model's answers; None where they are not as many."""
    apart = 0.0
    for at, maps in enumerate(leaves(answer)):
        alone = torch.cat([list(leaves(crop))[at].reshape(1, -1) for crop in crops])
        if maps.numel() != alone.numel():
            return None
        apart = max(apart, float((maps.reshape(-1, len(crops)).T - alone).abs().max()))
    return apart


def _windows_difference(pair: Pair, larger: Tensor, answer: Any) -> float | None:
    """Return how far cells are from the head's answers to their windows; None if not computed."""
    try:
        expected = head_on_windows(pair.converted, pair.model, larger)
        return None if expected is None else windows_apart(answer, expected)
    except Exception:  # noqa: BLE001 - a head that cannot run on windows, each in its own way
        return None


def _measured(network: nn.Module, inputs: Tensor) -> tuple[int, float, Any]:
    """Run a network; return its multiplications, its seconds and its answer."""
    counts: list[int] = []

    def count(module: Any, _given: Any, answer: Tensor) -> None:
        weight = module.weight
        counts.append(answer.numel() * weight[0].numel())

    layers = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
    hooks = [m.register_forward_hook(count) for m in network.modules() if isinstance(m, layers)]
    answer = network(inputs)
    for hook in hooks:
        hook.remove()
    start = perf_counter()
    network(inputs)
    return sum(counts), perf_counter() - start, answer


def culprits(model: nn.Module) -> Iterator[str]:
    """Name what makes a cell of a larger input differ from the model's answer to its crop."""
    for name, module in model.named_modules():
        padding = getattr(module, "padding", 0)
        pads = any(padding) if isinstance(padding, tuple) else padding not in {0, "valid"}
        if pads:
            yield f"{name} pads its input, so a crop's border is not the image there"
        if getattr(module, "ceil_mode", False):
            yield f"{name} has ceil_mode, so a crop's last windows are cut short"
        kind = type(module).__name__
        if kind.startswith("Adaptive"):
            yield f"{name} is an {kind}, which pools by the size of the whole input"
        if kind.startswith(("InstanceNorm", "GroupNorm")) or _normalises_batches(module):
            yield f"{name} is a {kind}, which normalises by the whole input"


def _normalises_batches(module: nn.Module) -> bool:
    return "BatchNorm" in type(module).__name__ and getattr(module, "running_mean", 0) is None
