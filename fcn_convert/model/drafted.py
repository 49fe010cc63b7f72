"""The spec of a checkpoint as its model's forward pass shows it, as a text."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import get_args

from fcn_convert.errors import ModelError, SpecError, printable
from fcn_convert.formats import Checkpoint, open_checkpoint
from fcn_convert.infer.storage import layout_doubts
from fcn_convert.layers import resolve
from fcn_convert.model import spec_of
from fcn_convert.model.factory import example_of, make_model, user_code
from fcn_convert.model.names import names_in_model
from fcn_convert.spec import Dense, Spec
from fcn_convert.spec_text import spec_text
from fcn_convert.tensors import WEIGHT, Layout, StateDict
from fcn_convert.torch_library import nn


def spec_from_model(checkpoint: Path, model: str, sizes: str, state_dict: str | None) -> str:
    """Return the YAML of the spec that converts a checkpoint of this model.

    model: its factory, `module:factory`. sizes: of its input, `3,224,224`. Raises ModelError where
    the model cannot be made fully convolutional, or the checkpoint is not of it.
    """
    with user_code():
        made = make_model(model)
        spec = spec_of(made, example_of(sizes))
    with open_checkpoint(checkpoint) as opened:
        layout, found = _as_the_model_has_it(opened, state_dict, made)
        spec = replace(_named_as_in(found, spec, made), state_dict=state_dict, layout=None)
        # What is assumed anyway is said only where shapes alone would speak for another.
        if layout != "torch" or any(layout_doubts(opened, spec)):
            spec = replace(spec, layout=layout)
        try:
            resolve(spec, found)
        except SpecError as error:
            raise ModelError(
                f"{checkpoint}: is not of the model {printable(model)}: {error}; let the factory "
                "make the one that was trained"
            ) from error
    return spec_text(spec, [f"From the forward pass of {model} on an input of {sizes}."])


def _as_the_model_has_it(
    opened: Checkpoint, path: str | None, model: nn.Module
) -> tuple[Layout | None, StateDict]:
    """Return the layout in which a file has the model's shapes, and the file read in it."""
    plain = opened.state_dict(path)
    own = opened.index.layout
    if own is not None:
        return own, plain
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    for layout in get_args(Layout):
        found = opened.state_dict(path, layout)
        names = names_in_model(found.tensors, shapes)
        theirs = {names[name]: tensor.shape for name, tensor in found.tensors.items()}
        if shapes.items() <= theirs.items():
            return layout, found
    return None, plain


def _named_as_in(found: StateDict, spec: Spec, model: nn.Module) -> Spec:
    """Return a model's spec with the names that its layers have in a file."""
    names = {new: old for old, new in names_in_model(found.tensors, model.state_dict()).items()}

    def named(entry: Dense) -> Dense:
        old = names.get(entry.name + WEIGHT, entry.name + WEIGHT)
        return replace(entry, name=old.removesuffix(WEIGHT))

    heads = (replace(h, dense=tuple(map(named, h.dense or ()))) for h in spec.heads)
    return replace(spec, heads=tuple(heads))
