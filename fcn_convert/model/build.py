"""From a model to its fully convolutional form, which is checked against it before it is given."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

from fcn_convert.errors import ModelError
from fcn_convert.model import trials
from fcn_convert.model.lift import DenseLayer, Lifter, Pool
from fcn_convert.model.sizes import Sizes, larger, measure, run_through
from fcn_convert.model.tracing import Traced, one_line, trace
from fcn_convert.model.values import leaves
from fcn_convert.torch_quietly import Tensor, fx, nn, torch

BATCH = 2
"""Samples of the traced input: with one, a squeeze could take the batch for an axis of size 1."""


@dataclass(frozen=True)
class Converted:
    """A model made fully convolutional.

    module: that. layers: the Dense layers, in order. sizes: what is trunk, and what is head.
    aliases: other names of a layer, by its first.
    """

    module: fx.GraphModule
    layers: tuple[DenseLayer, ...]
    sizes: Sizes
    aliases: Mapping[str, tuple[str, ...]]

    @property
    def decisions(self) -> tuple[str, ...]:
        """Lines of the model that were decided by the size of the example."""
        return self.sizes.traced.decisions


def make_convertible(
    model: nn.Module, example: Tensor | tuple[Tensor, ...], pool: Pool
) -> Converted:
    """Make a model fully convolutional; raises ModelError where it cannot be."""
    if pool not in {"slide", "global"}:
        raise ModelError(f"pool is {pool!r}; expected 'slide' or 'global'")
    inputs = example if isinstance(example, tuple) else (example,)
    with torch.no_grad():
        traced = _traced(model, inputs)
        sizes = measure(traced)
        lifter = Lifter(sizes, pool)
        lifter.run()
        module = _module(model, traced.model, lifter)
        _check(module, traced)
        _as_stored(module, model)
    return Converted(module, tuple(lifter.layers.values()), sizes, _aliases(model, lifter.layers))


def _aliases(model: nn.Module, names: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """Return under which other names a model holds the same module."""
    modules = dict(model.named_modules(remove_duplicate=False))
    return {
        name: tuple(
            other for other, found in modules.items() if found is modules[name] and other != name
        )
        for name in names
    }


def _traced(model: nn.Module, inputs: tuple[Tensor, ...]) -> Traced:
    """Trace a copy in float64 and with a batch; where the model takes neither, as it is."""
    failures: list[ModelError] = []
    for wide, several in ((True, True), (True, False), (False, True), (False, False)):
        try:
            copy = deepcopy(model).eval()
        except Exception as error:
            raise ModelError(
                f"{type(model).__name__} cannot be copied: {one_line(error)}"
            ) from error
        given = tuple(_several(tensor) if several else tensor for tensor in inputs)
        given = tuple(t.double() if wide and t.is_floating_point() else t for t in given)
        try:
            return trace(copy.double() if wide else copy, given)
        except ModelError as error:
            failures.append(error)
    raise failures[-1]


def _several(tensor: Tensor) -> Tensor:
    return torch.cat([tensor[:1]] * BATCH) if tensor.dim() and len(tensor) < BATCH else tensor


def _module(model: nn.Module, copy: nn.Module, lifter: Lifter) -> fx.GraphModule:
    """Put the new graph and the new modules together, under the names of the old ones."""
    for name, module in lifter.replaced.items():
        parent, _, last = name.rpartition(".")
        setattr(copy.get_submodule(parent), last, module)
    parameters = dict(copy.named_parameters(remove_duplicate=False))
    for name, values in lifter.parameters.items():
        parameters[name].data = values
    made = fx.GraphModule(copy, lifter.graph, class_name=type(model).__name__)
    # A GraphModule takes what its graph calls; the state dict has everything else, too.
    for name, child in copy.named_modules(remove_duplicate=False):
        if name and "." not in name:
            setattr(made, name, child)
    persistent = copy.state_dict().keys()
    for name, parameter in copy.named_parameters(recurse=False):
        made.register_parameter(name, parameter)
    for name, buffer in copy.named_buffers(recurse=False):
        made.register_buffer(name, buffer, persistent=name in persistent)
    return made.eval()


def _as_stored(module: nn.Module, model: nn.Module) -> None:
    """Give every parameter and buffer the dtype that it has in the model."""
    stored = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    for name, tensor in (*module.named_parameters(), *module.named_buffers()):
        if name in stored and tensor.dtype != stored[name].dtype:
            tensor.data = tensor.data.to(stored[name].dtype)


def _check(module: fx.GraphModule, traced: Traced) -> None:
    """Hold the new network against the model, and run it on other batches and sizes."""
    expected, found = traced.answer, module(*traced.inputs)
    problem = compare(expected, found)
    if problem:
        raise ModelError(f"the fully convolutional network answers otherwise: {problem}")
    if all(len(tensor) >= BATCH for tensor in traced.inputs if tensor.dim()):
        more = tuple(torch.cat((tensor, tensor[:1])) for tensor in traced.inputs)
        _, failure = run_through(module, module.graph, more)
        if failure:
            raise ModelError(
                f"the model works with a batch of {len(traced.inputs[0])} only: {failure}"
            )
    _, failure = run_through(module, module.graph, larger(traced.inputs))
    if failure:
        raise ModelError(
            f"the fully convolutional network cannot run on a larger input: {failure}; where maps "
            "of several strides meet, pool='global' may do"
        )


def compare(expected: Any, found: Any) -> str:
    """Return how answers differ, or nothing; maps of one cell stand for vectors."""
    pairs = list(zip(leaves(expected), leaves(found), strict=False))
    for at, (one, other) in enumerate(pairs):
        if one.numel() != other.numel():
            return f"answer {at} has {one.numel()} elements, found {other.numel()}"
        if not trials.agree(one.flatten(), other.flatten()):
            apart = float((one.flatten() - other.flatten()).abs().max())
            return f"answer {at} differs by {apart:.3g}"
    return ""
