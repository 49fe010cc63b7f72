"""The user's model with the original checkpoint, and its other form with the converted one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from fcn_convert.errors import ModelError, printable
from fcn_convert.formats import Checkpoint
from fcn_convert.formats.strided import read_tensor
from fcn_convert.layers import Resolved
from fcn_convert.model.build import Converted, make_convertible
from fcn_convert.model.factory import make_model
from fcn_convert.model.names import names_in_model
from fcn_convert.tensors import StateDict
from fcn_convert.torch_library import Tensor, fx, nn, torch


@dataclass(frozen=True)
class BothFiles:
    """Both checkpoints, the original's state dict, and its names in the converted one."""

    original: Checkpoint
    converted: Checkpoint
    resolved: Resolved
    state_dict: StateDict


OTHER_MODEL = (
    "Expected the model that was trained, with the names and shapes of the file; let the factory "
    "make that one"
)
OTHER_SPEC = (
    "The original fits this model, so the spec is not what its forward pass does; let `init "
    "--model` write it, and convert again"
)


@dataclass(frozen=True)
class Pair:
    """A model and its fully convolutional form, in evaluation mode."""

    model: nn.Module
    network: fx.GraphModule
    example: Tensor
    converted: Converted


def load_pair(factory: str, example: Tensor, files: BothFiles) -> Pair:
    """Make the model and its other form, and load each strictly; raises ModelError."""
    model = make_model(factory)
    names = names_in_model(files.state_dict.tensors, model.state_dict())
    original = tensors_of(files.original, files.state_dict)
    before = {names[old]: tensor for old, tensor in original.items()}
    _load(model, before, f"{files.original.path}: the model {factory}", OTHER_MODEL)
    made = make_convertible(model, example, "slide")
    found = tensors_of(files.converted, files.converted.state_dict(None))
    missing = [new for new in files.resolved.names.values() if new not in found]
    if missing:
        raise ModelError(
            f"{files.converted.path}: lacks {printable(missing[0])}, which the spec asks for"
        )
    # A rename is the spec's, not the model's: its module names are the original's.
    after = {names[old]: found[new] for old, new in files.resolved.names.items()}
    where = f"{files.converted.path}: the fully convolutional form of {factory}"
    _load(made.module, after, where, OTHER_SPEC)
    return Pair(model, made.module, example, made)


def tensors_of(checkpoint: Checkpoint, state_dict: StateDict) -> dict[str, Tensor]:
    """Read the tensors of a state dict with our own readers: no code of the file runs."""
    found: dict[str, Tensor] = {}
    for name, tensor in state_dict.tensors.items():
        if not hasattr(torch, tensor.dtype.torch or ""):  # older versions lack some dtypes
            raise ModelError(
                f"{checkpoint.path}: {printable(name)} is {tensor.dtype.name}, which torch lacks: "
                "no network can be run with it; verify it without --model"
            )
        found[name] = read_tensor(checkpoint.files[tensor.file], tensor)
    return found


def _load(model: nn.Module, tensors: Mapping[str, Tensor], where: str, advice: str) -> None:
    """Load strictly; the file's tensors become the model's, in the dtypes of the file."""
    try:
        model.load_state_dict(tensors, strict=True, assign=True)
    except RuntimeError as error:
        problems = " ".join(str(error).partition(":")[2].split())[:400]
        raise ModelError(
            f"{where} does not take its tensors: {printable(problems)} {advice}"
        ) from error
