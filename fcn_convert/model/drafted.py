"""The spec of a checkpoint as its model's forward pass shows it, as a text."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from fcn_convert.formats import open_checkpoint
from fcn_convert.layers import resolve
from fcn_convert.model import spec_of
from fcn_convert.model.factory import example_of, make_model
from fcn_convert.spec_text import spec_text


def spec_from_model(checkpoint: Path, model: str, sizes: str, state_dict: str | None) -> str:
    """Return the YAML of the spec that converts a checkpoint of this model.

    model: its factory, `module:factory`. sizes: of its input, `3,224,224`. Raises ModelError where
    the model cannot be made fully convolutional, SpecError where the checkpoint is not of it.
    """
    spec = replace(spec_of(make_model(model), example_of(sizes)), state_dict=state_dict)
    with open_checkpoint(checkpoint) as opened:
        resolve(spec, opened.state_dict(state_dict))
    return spec_text(spec, [f"From the forward pass of {model} on an input of {sizes}."])
