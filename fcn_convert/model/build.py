"""From a model to its fully convolutional form, which is checked against it before it is given."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import nullcontext
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

from fcn_convert.errors import ModelError, printable
from fcn_convert.model import trials
from fcn_convert.model.imagined import ShapesOnly
from fcn_convert.model.lift import LiftedDense, Lifter, Pool
from fcn_convert.model.precision import AtLeast
from fcn_convert.model.sizes import Sizes, larger, measure, run_through
from fcn_convert.model.tracing import Traced, one_line, trace
from fcn_convert.model.values import leaves
from fcn_convert.torch_library import Tensor, fx, nn, torch

BATCH = 2
"""Samples of the traced input: with one, a squeeze could take the batch for an axis of size 1."""


@dataclass(frozen=True)
class Converted:
    """A model made fully convolutional.

    module: that. layers: the Dense layers, in order. sizes: what is trunk, and what is head.
    aliases: other names of a layer, by its first.
    """

    module: fx.GraphModule
    layers: tuple[LiftedDense, ...]
    sizes: Sizes
    aliases: Mapping[str, tuple[str, ...]]

    @property
    def decisions(self) -> tuple[str, ...]:
        """Lines of the model that were decided by the size of the example."""
        return self.sizes.traced.decisions


def make_convertible(
    model: nn.Module, example: Tensor | tuple[Tensor, ...], pool: Pool
) -> Converted:
    """Make a model fully convolutional; raises ModelError where it cannot be.

    What stays as it is shares its tensors with the model.
    """
    if pool not in {"slide", "global"}:
        raise ModelError(f"pool is {pool!r}; expected 'slide' or 'global'")
    _check_kind(model)
    inputs = _given(model, example)
    with torch.no_grad():
        expected = _answer(model, inputs)
        traced = _traced(model, inputs)
        sizes = measure(traced)
        lifter = Lifter(sizes, pool)
        lifter.run()
        module = _module(model, traced.model, lifter)
        _check_sizes(module, traced)
        with AtLeast(torch.float32):
            problem = compare(expected, module(*inputs))
    if problem:
        raise ModelError(
            f"the fully convolutional {type(model).__name__} answers differently: {problem}; take "
            "out what causes it: an autocast, a hook on a Dense layer, or random numbers"
        )
    return Converted(module, tuple(lifter.layers.values()), sizes, _aliases(model, lifter.layers))


def _check_kind(model: nn.Module) -> None:
    """Raise ModelError for a model whose Python code is gone, or hidden."""
    if isinstance(model, torch.jit.ScriptModule):
        raise ModelError(
            f"{printable(model.original_name)} is TorchScript, which torch.fx cannot record: "
            "expected the nn.Module that it was made of"
        )
    if hasattr(model, "_orig_mod"):
        raise ModelError(
            "the model is compiled: expected the one given to torch.compile, its `_orig_mod`"
        )


def with_own_tensors(module: nn.Module, model: nn.Module) -> nn.Module:
    """Give a module copies of the tensors that it shares with a model; returns it."""
    shared = {tensor.untyped_storage().data_ptr() for tensor in _tensors(model).values()}
    copies: dict[int, Tensor] = {}
    for name, tensor in _tensors(module).items():
        if tensor.untyped_storage().data_ptr() in shared:
            _put(module, name, copies.setdefault(id(tensor), deepcopy(tensor)))
    return module


def _tensors(module: nn.Module) -> dict[str, Tensor]:
    """Return parameters and buffers by name, under every name that they have."""
    return {
        **dict(module.named_parameters(remove_duplicate=False)),
        **dict(module.named_buffers(remove_duplicate=False)),
    }


def _put(module: nn.Module, name: str, made: nn.Module | Tensor) -> None:
    """Put a submodule, a parameter or a buffer in the place of another."""
    parent, _, last = name.rpartition(".")
    setattr(module.get_submodule(parent), last, made)


def _given(model: nn.Module, example: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Return the example in the model's dtype; in place of zeros, which tell little, noise."""
    dtypes = {tensor.dtype for tensor in model.parameters() if tensor.is_floating_point()}
    noise = torch.Generator().manual_seed(0)
    given = []
    for tensor in example if isinstance(example, tuple) else (example,):
        if tensor.is_floating_point() and tensor.numel():
            if bool(tensor.min() == tensor.max()):
                tensor = torch.rand(tensor.shape, generator=noise).to(tensor)
            if len(dtypes) == 1:
                tensor = tensor.to(next(iter(dtypes)))
        given.append(tensor)
    return tuple(given)


def _copied(model: nn.Module) -> nn.Module:
    """Return a copy in evaluation mode that shares its tensors with the model."""
    computed = (value for module in model.modules() for value in vars(module).values())
    made = (one for one in computed if isinstance(one, Tensor) and not one.is_leaf)
    tensors = (*_tensors(model).values(), *made)  # of weight norm, which deepcopy refuses
    try:
        return deepcopy(model, {id(tensor): tensor for tensor in tensors}).eval()
    except Exception as error:
        raise ModelError(
            f"{type(model).__name__} cannot be copied: {one_line(error)}; expected a model that "
            "copy.deepcopy takes: leave out the attribute that it does not"
        ) from error


def _answer(model: nn.Module, inputs: tuple[Tensor, ...]) -> Any:
    """Return what the model itself gives for the example."""
    try:
        with AtLeast(torch.float32):
            return _copied(model)(*inputs)
    except ModelError:
        raise
    except Exception as error:
        shapes = ", ".join(str(tuple(tensor.shape)) for tensor in inputs)
        raise ModelError(
            f"{type(model).__name__} cannot run on the example input {shapes}: {one_line(error)}; "
            "expected an input of the model's own size"
        ) from error


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
    """Trace a copy by shapes alone and with a batch; where the model takes neither, as it is."""
    failures: list[ModelError] = []
    for mode in (ShapesOnly(), nullcontext()):
        for change in (_several, lambda tensor: tensor):
            given = tuple(map(change, inputs))
            if isinstance(mode, ShapesOnly):
                given = tuple(map(mode.imagined, given))
            try:
                return trace(_copied(model), given, mode)
            except ModelError as error:
                failures.append(error)
    raise failures[-1]


def _several(tensor: Tensor) -> Tensor:
    return torch.cat([tensor[:1]] * BATCH) if tensor.dim() and len(tensor) < BATCH else tensor


def _module(model: nn.Module, copy: nn.Module, lifter: Lifter) -> fx.GraphModule:
    """Put the new graph and the new modules together, under the names of the old ones."""
    for name, replacement in lifter.replaced.items():
        _put(copy, name, replacement)
    parameters = dict(copy.named_parameters(remove_duplicate=False))
    for name, values in lifter.parameters.items():
        old = parameters[name]
        made = nn.Parameter(values, old.requires_grad)
        for other in (other for other, found in parameters.items() if found is old):
            _put(copy, other, made)
    module = fx.GraphModule(copy, lifter.graph, class_name=type(model).__name__)
    # A GraphModule takes what its graph calls; the state dict has everything else, too.
    for name, child in copy.named_modules(remove_duplicate=False):
        if name and "." not in name:
            setattr(module, name, child)
    persistent = copy.state_dict().keys()
    for name, parameter in copy.named_parameters(recurse=False):
        module.register_parameter(name, parameter)
    for name, buffer in copy.named_buffers(recurse=False):
        module.register_buffer(name, buffer, persistent=name in persistent)
    return module.eval()


def _check_sizes(module: fx.GraphModule, traced: Traced) -> None:
    """Check that the network takes other batches and sizes."""
    if all(len(tensor) >= BATCH for tensor in traced.inputs if tensor.dim()):
        with traced.mode:
            more = tuple(torch.cat((tensor, tensor[:1])) for tensor in traced.inputs)
        _, failure = run_through(module, module.graph, more, traced.mode)
        if failure:
            raise ModelError(
                f"the model works with a batch of {len(traced.inputs[0])} only: {failure}; "
                "expected code that takes the batch from its input, `x.size(0)`"
            )
    with traced.mode:
        grown = larger(traced.inputs)
    _, failure = run_through(module, module.graph, grown, traced.mode)
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
