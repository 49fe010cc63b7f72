"""The modules that take the place of a head's: convolutions, norms over maps, sliding pools."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fcn_convert.errors import ModelError, printable
from fcn_convert.model.trials import Shape
from fcn_convert.torch_library import Tensor, functional, fx, nn, torch

BATCH_NORMS = {2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
CONVOLUTIONS: Mapping[int, Any] = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
POOLS: Mapping[str, Mapping[int, Any]] = {
    "avg": {1: nn.AvgPool1d, 2: nn.AvgPool2d, 3: nn.AvgPool3d},
    "max": {1: nn.MaxPool1d, 2: nn.MaxPool2d, 3: nn.MaxPool3d},
}


@dataclass(frozen=True)
class DenseSite:
    """A call of a Dense layer: the layer's name, its tensors, and the node that it reads.

    parameters: the nodes of weight and bias, where the model passes them to `F.linear` itself.
    """

    name: str
    weight: Tensor
    bias: Tensor | None
    reads: fx.Node
    parameters: tuple[fx.Node, ...] = ()


def dense_site(node: fx.Node, model: nn.Module) -> DenseSite | None:
    """Return what a node calls, if it calls a Dense layer with a weight of its own.

    Raises ModelError for one under weight or spectral norm, whose weight no checkpoint holds.
    """
    if node.op == "call_module":
        module = model.get_submodule(str(node.target))
        if _is_quantised(module):
            raise ModelError(
                f"{printable(str(node.target))} is a quantised {type(module).__name__}: expected "
                "the model as it was trained; make the network of that one, and quantise it after"
            )
        if not isinstance(module, nn.Linear):
            return None
        if "weight" not in dict(module.named_parameters(recurse=False)):
            raise ModelError(
                f"{printable(str(node.target))} has a weight that is computed, as by weight or "
                "spectral norm: remove the norm first"
            )
        reads = node.args[0] if node.args else node.kwargs["input"]
        return DenseSite(str(node.target), module.weight, module.bias, _node(reads))
    if node.op == "call_function" and node.target is functional.linear:
        given = dict(zip(("input", "weight", "bias"), node.args, strict=False)) | node.kwargs
        return _functional_site(given, model)
    return None


def _is_quantised(module: nn.Module) -> bool:
    """Return whether a module has weights of fewer bits: torch's own, or a library's Linear."""
    weight = module._parameters.get("weight")  # noqa: SLF001 - an attribute may be computed
    packed = weight is not None and isinstance(module, nn.Linear) and not weight.is_floating_point()
    return packed or "quantized" in type(module).__module__.split(".")


def _functional_site(given: Mapping[str, Any], model: nn.Module) -> DenseSite | None:
    nodes = [given[key] for key in ("weight", "bias") if given.get(key) is not None]
    parameters = dict(model.named_parameters(remove_duplicate=False))
    if not all(isinstance(node, fx.Node) and str(node.target) in parameters for node in nodes):
        return None  # computed, not stored: an operation like any other
    weight, *bias = (parameters[str(node.target)] for node in nodes)
    name, _, last = str(nodes[0].target).rpartition(".")
    if last != "weight" or not name:
        return None  # the spec knows a Dense layer by the name of its module
    return DenseSite(name, weight, bias[0] if bias else None, given["input"], tuple(nodes))


def _node(value: object) -> fx.Node:
    assert isinstance(value, fx.Node)
    return value


def convolution_weight(weight: Tensor, order: Tensor, shape: Shape) -> Tensor:
    """Return a Dense weight (out, in) as that of a convolution, (out, C, *kernel).

    order: which element of the flattened window (C, *kernel) each input of the layer is. In the
    usual order it is the weight itself under another shape.
    """
    values = weight.detach()
    if not torch.equal(order, torch.arange(len(order), device=order.device)):
        values = values[:, order.argsort()]
    return values.reshape(len(weight), *shape).contiguous()


def convolution(site: DenseSite, weight: Tensor) -> nn.Module:
    """Return the convolution with these values; its bias is the Dense layer's own."""
    features_out, channels, *kernel = weight.shape
    size: Any = tuple(kernel) if max(kernel) > 1 else 1
    made: nn.Module = CONVOLUTIONS[len(kernel)](
        channels, features_out, kernel_size=size, bias=site.bias is not None, device="meta"
    )
    made.weight = nn.Parameter(weight, requires_grad=site.weight.requires_grad)
    if site.bias is not None:
        made.register_parameter("bias", nn.Parameter(site.bias.detach(), site.bias.requires_grad))
    return made.eval()


def norm_over_maps(norm: nn.BatchNorm1d, axes: int) -> nn.Module:
    """Return a batch norm over maps with the tensors of one over vectors."""
    made = BATCH_NORMS[axes](
        norm.num_features,
        norm.eps,
        norm.momentum,
        norm.affine,
        norm.track_running_stats,
        device="meta",
    )
    for name, parameter in norm.named_parameters():
        made.register_parameter(name, parameter)
    for name, buffer in norm.named_buffers():
        made.register_buffer(name, buffer)
    return made.eval()


def sliding_pool(kind: str, kernel: Shape) -> nn.Module | None:
    """Return the pool of a window that slides by one cell; None for a kind that torch lacks."""
    if kind not in POOLS:
        return None
    made: nn.Module = POOLS[kind][len(kernel)](kernel, stride=1)
    return made.eval()


def write_pool(
    graph: fx.Graph, kind: str, source: fx.Node, kernel: Shape, *, slide: bool
) -> fx.Node:
    """Write a pool of a window, or of the whole map, as functions."""
    if not slide:
        whole = tuple(range(2, 2 + len(kernel)))
        function: Any = {"avg": torch.mean, "max": torch.amax, "sum": torch.sum}[kind]
        return graph.call_function(function, (source, whole, True))
    name = "max" if kind == "max" else "avg"
    pooled = graph.call_function(
        getattr(functional, f"{name}_pool{len(kernel)}d"), (source, kernel, 1)
    )
    if kind != "sum":
        return pooled
    cells = int(torch.tensor(kernel).prod())
    return graph.call_function(torch.mul, (pooled, cells))
