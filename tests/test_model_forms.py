"""The ways in which models spell the same head, and what none can be made of."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fcn_convert import FcnConvertError, fully_convolutional, spec_of

pytestmark = pytest.mark.usefixtures("one_thread")

C, H, W = 4, 2, 3
EXAMPLE = torch.zeros(1, 2, 4, 5)  # a map of C x H x W, with a stride of 1 and nothing padded


class Net(nn.Module):
    """A trunk, and a function of its map and of the layers given."""

    def __init__(self, forward: Callable[..., Any], **layers: nn.Module) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Conv2d(2, C, 3), nn.Tanh())
        for name, layer in layers.items():
            self.add_module(name, layer)
        self.rest = forward

    def forward(self, x: Tensor) -> Any:
        return self.rest(self, self.trunk(x))


def dense(features_in: int, features_out: int = 5) -> nn.Linear:
    return nn.Linear(features_in, features_out)


def assert_slides(net: nn.Module) -> nn.Module:
    """Hold the network against the model on every crop of a larger input, and on its own size."""
    net = net.double().eval()
    network = fully_convolutional(net, EXAMPLE)
    inputs = torch.randn(2, 2, 6, 8, dtype=torch.float64)
    with torch.inference_mode():
        found = network(inputs)
        for row in range(3):
            for column in range(4):
                crop = inputs[:, :, row : row + 4, column : column + 5]
                wanted = net(crop)
                torch.testing.assert_close(
                    found[..., row, column].reshape(wanted.shape), wanted, rtol=1e-10, atol=1e-10
                )
    return network


def _unpacked(x: Tensor) -> Tensor:
    n, c, h, w = x.shape
    return x.view(n, c * h * w)


FLATTENS: dict[str, tuple[Callable[[Tensor], Tensor], str]] = {
    "flatten": (lambda x: x.flatten(1), "CHW"),
    "torch.flatten": (lambda x: torch.flatten(x, start_dim=1), "CHW"),
    "view": (lambda x: x.view(x.size(0), -1), "CHW"),
    "view-by-numbers": (lambda x: x.view(-1, C * H * W), "CHW"),
    "reshape": (lambda x: x.reshape((x.shape[0], x.shape[1] * x.shape[2] * x.shape[3])), "CHW"),
    "len": (lambda x: x.view(len(x), -1), "CHW"),
    "int": (lambda x: x.reshape(int(x.size(0)), -1), "CHW"),
    "unpacked": (_unpacked, "CHW"),
    "star": (lambda x: x.reshape(*x.shape[:1], -1), "CHW"),
    "twice": (lambda x: x.flatten(2).flatten(1), "CHW"),
    "permute-HWC": (lambda x: x.permute(0, 2, 3, 1).flatten(1), "HWC"),
    "permute-WHC": (lambda x: x.permute(0, 3, 2, 1).contiguous().view(x.size(0), -1), "WHC"),
    "transpose-CWH": (lambda x: x.transpose(2, 3).reshape(x.shape[0], -1), "CWH"),
    "transpose-of-a-flattened": (lambda x: x.flatten(2).transpose(1, 2).flatten(1), "HWC"),
    "movedim": (lambda x: torch.movedim(x, 1, 3).flatten(1), "HWC"),
    "swapaxes": (lambda x: x.swapaxes(1, 2).flatten(1), "HCW"),
    "unbind-and-cat": (lambda x: torch.cat([x[:, c] for c in range(C)], 1).flatten(1), "CHW"),
    "einsum": (lambda x: torch.einsum("nchw->nwch", x).flatten(1), "WCH"),
    "relu-after": (lambda x: torch.relu(x.flatten(1)), "CHW"),
    "scaled-after": (lambda x: x.flatten(1) * 0.5 + 1, "CHW"),
}


@pytest.mark.parametrize(("flatten", "order"), FLATTENS.values(), ids=FLATTENS)
def test_a_flatten_is_understood_by_what_it_does(
    flatten: Callable[[Tensor], Tensor], order: str
) -> None:
    net = Net(lambda self, x: self.fc(flatten(x)), fc=dense(C * H * W))
    [head] = spec_of(net, EXAMPLE).heads
    assert (head.feature_map.sizes, head.flatten) == ((C, H, W), order)
    assert_slides(net)


class Gate(nn.Module):
    """A module that torch.fx cannot record: it decides by the values of a tensor."""

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1) if bool((x.abs() >= 0).all()) else x


def test_a_module_that_cannot_be_recorded_is_called_as_a_whole() -> None:
    net = Net(lambda self, x: self.fc(self.gate(x)), gate=Gate(), fc=dense(C * H * W))
    [head] = spec_of(net, EXAMPLE).heads
    assert head.flatten == "CHW"
    assert_slides(net)


POOLS: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "module": lambda self, x: self.pool(x).flatten(1),
    "functional": lambda _, x: F.adaptive_avg_pool2d(x, 1).squeeze(-1).squeeze(-1),
    "mean": lambda _, x: x.mean([2, 3]),
    "torch.mean": lambda _, x: torch.mean(x, dim=(-2, -1)),
    "mean-twice": lambda _, x: x.mean(3).mean(2),
    "mean-kept": lambda _, x: x.mean((2, 3), keepdim=True).view(x.size(0), C),
    "mean-of-a-flattened": lambda _, x: x.flatten(2).mean(-1),
    "view-mean": lambda _, x: x.view(x.size(0), x.size(1), -1).mean(2),
    "by-size": lambda _, x: F.avg_pool2d(x, kernel_size=x.size()[2:]).flatten(1),
    "sum": lambda _, x: x.sum((2, 3)),
    "amax": lambda _, x: x.amax((2, 3)),
    "max-twice": lambda _, x: x.max(3)[0].max(2).values,
    "max-module": lambda _, x: F.adaptive_max_pool2d(x, (1, 1)).flatten(1),
    "einsum": lambda _, x: torch.einsum("nchw->nc", x),
    "squeeze": lambda _, x: F.adaptive_avg_pool2d(x, 1).squeeze(),
    "generalised-mean": lambda _, x: (x + 2).pow(3).mean((2, 3)).pow(1 / 3),
}


@pytest.mark.parametrize("pool", POOLS.values(), ids=POOLS)
def test_a_pool_is_understood_by_what_it_does(pool: Callable[[Any, Tensor], Tensor]) -> None:
    net = Net(
        lambda self, x: self.fc(pool(self, x)), fc=dense(C), pool=nn.AdaptiveAvgPool2d((1, 1))
    )
    [head] = spec_of(net, EXAMPLE).heads
    assert head.feature_map.sizes == (C, 1, 1)
    assert_slides(net)
    inputs = torch.randn(2, 2, 6, 8, dtype=torch.float64)
    found = fully_convolutional(net, EXAMPLE, "global")(inputs)
    assert found.shape == (2, 5, 1, 1)
    try:
        wanted = net(inputs)
    except RuntimeError:
        return
    torch.testing.assert_close(found.flatten(1), wanted)


def test_a_pool_module_stays_a_module_under_its_name() -> None:
    net = Net(
        lambda self, x: self.fc(self.pool(x).flatten(1)), fc=dense(C), pool=nn.AdaptiveAvgPool2d(1)
    )
    slid = fully_convolutional(net, EXAMPLE).get_submodule("pool")
    assert isinstance(slid, nn.AvgPool2d)
    assert (slid.kernel_size, slid.stride) == ((H, W), 1)
    kept = fully_convolutional(net, EXAMPLE, "global").get_submodule("pool")
    assert isinstance(kept, nn.AdaptiveAvgPool2d)


def test_a_pool_of_a_map_of_one_cell_still_pools_where_it_is_to_be_global() -> None:
    net = nn.Sequential(nn.Conv2d(2, C, (4, 5)), nn.AdaptiveAvgPool2d(1), nn.Flatten(), dense(C))
    assert fully_convolutional(net, EXAMPLE, "global")(torch.randn(1, 2, 7, 9)).shape == (
        1,
        5,
        1,
        1,
    )
    assert fully_convolutional(net, EXAMPLE, "slide")(torch.randn(1, 2, 7, 9)).shape == (1, 5, 4, 5)
    with torch.inference_mode():
        inputs = torch.randn(2, 2, 7, 9)
        found = fully_convolutional(net, EXAMPLE, "global")(inputs).flatten(1)
        torch.testing.assert_close(found, net(inputs))


def flat(x: Tensor) -> Tensor:
    return x.flatten(1)


def hooked(module: nn.Module) -> nn.Module:
    """Return a module whose answer is doubled by a hook."""
    module.register_forward_hook(lambda _module, _given, answer: answer * 2)
    return module


def quietly(function: Callable[[nn.Module], Any], module: nn.Module) -> nn.Module:
    """Return what torch makes of a module by a function that it would rather see no more."""
    with warnings.catch_warnings(action="ignore"):
        return cast("nn.Module", function(module))


def old_weight_norm() -> nn.Module:
    """Return a convolution whose weight is an attribute that was computed."""
    return quietly(nn.utils.weight_norm, nn.Conv2d(C, 6, 2))


HEADS: dict[str, Net] = {
    "softmax": Net(lambda self, x: self.fc(flat(x)).softmax(1), fc=dense(24)),
    "softmax-last": Net(lambda self, x: F.log_softmax(self.fc(flat(x)), -1), fc=dense(24)),
    "sequential": Net(
        lambda self, x: self.head(x),
        head=nn.Sequential(
            nn.Flatten(),
            nn.Linear(24, 8),
            nn.BatchNorm1d(8),
            nn.PReLU(8),
            nn.Dropout(),
            nn.Linear(8, 8),
            nn.LayerNorm(8),
            nn.GELU(),
            nn.Linear(8, 3),
            nn.Softmax(dim=-1),
        ),
    ),
    "residual": Net(
        lambda self, x: self.c((y := torch.relu(self.a(flat(x)))) + self.b(y)),
        a=dense(24, 6),
        b=dense(6, 6),
        c=dense(6),
    ),
    "gated": Net(
        lambda self, x: self.c(torch.sigmoid(self.a(flat(x))) * self.b(flat(x))),
        a=dense(24, 6),
        b=dense(24, 6),
        c=dense(6),
    ),
    "joined": Net(
        lambda self, x: self.c(torch.cat([self.a(flat(x)), self.b(flat(x))], dim=1)),
        a=dense(24, 6),
        b=dense(24, 3),
        c=dense(9),
    ),
    "joined-last": Net(
        lambda self, x: self.c(torch.cat([self.a(flat(x)), self.b(flat(x))], dim=-1)),
        a=dense(24, 6),
        b=dense(24, 3),
        c=dense(9),
    ),
    "joined-maps": Net(
        lambda self, x: self.c(torch.cat([flat(torch.relu(x)), flat(x * 2)], 1)), c=dense(48)
    ),
    "joined-pools": Net(
        lambda self, x: self.c(torch.cat([x.mean((2, 3)), x.amax((2, 3))], 1)), c=dense(8)
    ),
    "chunks": Net(
        lambda self, x: self.c(torch.mul(*self.a(flat(x)).chunk(2, dim=1))),
        a=dense(24, 6),
        c=dense(3),
    ),
    "slices": Net(lambda self, x: self.a(flat(x))[:, 1:4], a=dense(24, 6)),
    "split": Net(lambda self, x: self.a(flat(x)).split([2, 4], 1)[1], a=dense(24, 6)),
    "groups": Net(lambda self, x: self.a(flat(x)).view(-1, 3, 2).softmax(2), a=dense(24, 6)),
    "normalised": Net(lambda self, x: F.normalize(self.a(flat(x))), a=dense(24, 6)),
    "cosine": Net(
        lambda self, x: F.linear(F.normalize(self.a(flat(x))), F.normalize(self.b.weight)),
        a=dense(24, 6),
        b=dense(6),
    ),
    "functional": Net(
        lambda self, x: F.linear(flat(x), self.a.weight, self.a.bias), a=dense(24, 6)
    ),
    "functional-without-bias": Net(
        lambda self, x: F.linear(flat(x), weight=self.a.weight), a=nn.Linear(24, 6, bias=False)
    ),
    "called-twice": Net(
        lambda self, x: self.c(self.b(torch.relu(self.b(self.a(flat(x)))))),
        a=dense(24, 6),
        b=dense(6, 6),
        c=dense(6),
    ),
    "unsqueezed": Net(lambda self, x: self.a(flat(x).unsqueeze(1)).squeeze(1), a=dense(24, 6)),
    "scalar": Net(lambda self, x: self.a(flat(x)).squeeze(-1), a=dense(24, 1)),
    "matmul": Net(lambda self, x: self.a(flat(x)) @ self.b.weight.t(), a=dense(24, 6), b=dense(6)),
    "scaled-by-size": Net(
        lambda self, x: self.b((y := self.a(flat(x))) * y.shape[1] ** -0.5 / y.size(-1)),
        a=dense(24, 6),
        b=dense(6),
    ),
    "bilinear": Net(
        lambda self, x: self.b(self.a(flat(x)), self.a(flat(x))),
        a=dense(24, 6),
        b=nn.Bilinear(6, 6, 2),
    ),
    "channels-last-trunk": Net(
        lambda self, x: self.a(self.n(x.permute(0, 2, 3, 1)).mean((1, 2))),
        n=nn.LayerNorm(C),
        a=dense(C),
    ),
    "channels-last-flatten": Net(
        lambda self, x: self.a(flat(self.n(x.permute(0, 2, 3, 1)))), n=nn.LayerNorm(C), a=dense(24)
    ),
    "adaptive-identity": Net(
        lambda self, x: self.a(flat(F.adaptive_avg_pool2d(x, (H, W)))), a=dense(24)
    ),
    "double-after-dense": Net(lambda self, x: self.a(flat(x)).double(), a=dense(24)),
    "1x1-then-flatten": Net(
        lambda self, x: self.a(flat(F.relu(self.conv(F.adaptive_avg_pool2d(x, (H, W)))))),
        conv=nn.Conv2d(C, 3, 1),
        a=dense(18),
    ),
    "no-dense": Net(lambda self, x: flat(self.conv(x).mean((2, 3))), conv=nn.Conv2d(C, 3, 1)),
    "maxout": Net(
        lambda self, x: self.b(self.a(flat(x)).view(-1, 3, 2).max(-1)[0]),
        a=dense(24, 6),
        b=dense(3),
    ),
    "chosen-by-sign": Net(
        lambda self, x: self.b(torch.where((y := self.a(flat(x))) > 0, y * 2, -y)),
        a=dense(24, 6),
        b=dense(6),
    ),
    "masked": Net(lambda self, x: self.a((y := flat(x)) * (y > 0.1)), a=dense(24)),
    "ensemble": Net(
        lambda self, x: torch.stack([self.a(flat(x)), self.b(flat(x))]).mean(0),
        a=dense(24),
        b=dense(24),
    ),
    "with-a-constant": Net(
        lambda self, x: self.b(
            torch.cat([y := self.a(flat(x)), self.b.bias.expand(y.shape[0], -1)], 1)
        ),
        a=dense(24, 6),
        b=dense(11),
    ),
    "made-on-the-way": Net(
        lambda self, x: nn.Softmax(dim=1)(self.a(nn.Flatten()(nn.ReLU()(x)))), a=dense(24)
    ),
    "hooked": Net(lambda self, x: self.a(flat(self.m(x))), m=hooked(nn.Tanh()), a=dense(24)),
    "view-to-the-same-shape": Net(
        lambda self, x: self.a(flat(self.conv(torch.reshape(x.view(-1, C, H, W), (-1, C, H, W))))),
        conv=nn.Conv2d(C, 6, 2),
        a=dense(12),
    ),
    "weight-norm-in-the-trunk": Net(
        lambda self, x: self.a(flat(self.conv(x))), conv=old_weight_norm(), a=dense(12)
    ),
    "reversed": Net(lambda self, x: self.b(self.a(flat(x)).flip(1)), a=dense(24, 6), b=dense(6)),
}


@pytest.mark.parametrize("net", HEADS.values(), ids=HEADS)
def test_a_head_answers_at_every_window(net: Net) -> None:
    assert_slides(net)


def test_an_input_itself_can_be_the_map() -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(40, 7), nn.ReLU(), nn.Linear(7, 5))
    assert_slides(net)
    [head] = spec_of(net, EXAMPLE).heads
    assert head.feature_map.sizes == (2, 4, 5)


class Dict(Net):
    def forward(self, x: Tensor) -> dict[str, Any]:
        maps = self.trunk(x)
        return {"logits": self.a(flat(maps)), "more": (maps, [self.b(flat(maps))])}


def test_a_structure_of_answers_is_kept() -> None:
    net = Dict(lambda *_: None, a=dense(24), b=dense(24, 2))
    answer = fully_convolutional(net, EXAMPLE)(torch.randn(1, 2, 5, 5))
    assert answer["logits"].shape == (1, 5, 2, 1)
    assert answer["more"][0].shape == (1, C, 3, 3)
    assert answer["more"][1][0].shape == (1, 2, 2, 1)


def test_a_module_under_two_names_is_rewritten_under_both() -> None:
    net = Net(lambda self, x: self.a(flat(x)), a=dense(24))
    net.b = net.a
    network = fully_convolutional(net, EXAMPLE)
    assert network.state_dict()["b.weight"].shape == (5, C, H, W)
    [head] = spec_of(net, EXAMPLE).heads
    assert [entry.name for entry in head.dense or ()] == ["a", "b"]


def quantised() -> nn.Module:
    """Return a Dense layer as a library keeps it in eight bits."""
    layer = dense(24)
    layer.weight = nn.Parameter(torch.zeros(5, 24, dtype=torch.int8), requires_grad=False)
    layer.forward = lambda x: x[:, :5]  # type: ignore[method-assign]
    return layer


class Settings(dict[str, int]):
    """As many keep their settings: an attribute that is none raises KeyError."""

    __getattr__ = dict.__getitem__


def with_settings(net: nn.Module) -> nn.Module:
    net.settings = Settings()  # type: ignore[assignment]
    return net


SEQUENTIAL = nn.Sequential(nn.Conv2d(2, C, 3), nn.Flatten(), dense(24))
ERRORS: dict[str, tuple[Net | nn.Module, str]] = {
    "scripted": (
        quietly(torch.jit.script, SEQUENTIAL),
        "^Sequential is TorchScript, .*expected the nn.Module",
    ),
    "compiled": (torch.compile(SEQUENTIAL, backend="eager"), "^the model is compiled: expected"),
    "not-copied": (
        with_settings(Net(lambda self, x: self.a(flat(x)), a=dense(24))),
        "^Net cannot be copied: KeyError: '__deepcopy__'; expected a model that ",
    ),
    "weight-of-no-module": (
        Net(lambda self, x: flat(x) @ self.a[0], a=nn.ParameterList([torch.randn(24, 5)])),
        r"matmul \(.* makes 5 of .*; a Dense layer is an nn.Linear, or F.linear with the `weight`",
    ),
    "norm-on-the-map": (
        Net(lambda self, x: self.a(self.n(flat(x))), n=nn.BatchNorm1d(24), a=dense(24)),
        (
            r"n \(test_model_forms\.py:\d+: .*\) normalises each element of the flattened feature "
            r"map 4×2×3 .*fold it"
        ),
    ),
    "layer-norm-on-the-map": (
        Net(lambda self, x: self.a(self.n(flat(x))), n=nn.LayerNorm(24), a=dense(24)),
        r"^n \(test_model_forms\.py:\d+: .*\) makes 24 of the feature map 4×2×3, which a reads",
    ),
    "adaptive": (
        Net(lambda self, x: self.a(flat(F.adaptive_avg_pool2d(x, (2, 2)))), a=dense(16)),
        (
            r"adaptive_avg_pool2d \(.*\) makes 4×2×2 of the feature map 4×2×3, which a reads.*at "
            r"an input that gives it a map of 2×2"
        ),
    ),
    "part-of-the-map": (
        Net(lambda self, x: self.a(flat(x[:, :, 0])), a=dense(12)),
        r"getitem \(.*\) makes 4×3 of the feature map 4×2×3, which a reads",
    ),
    "shuffled": (
        Net(
            lambda self, x: self.a(flat(x)[:, list(range(23, -1, -2)) + list(range(0, 24, 2))]),
            a=dense(24),
        ),
        r"a \(.*\) reads the feature map 4×2×3 in an order that is not one of its axes",
    ),
    "weight-norm": (
        Net(lambda self, x: self.a(flat(x)), a=nn.utils.parametrizations.weight_norm(dense(24))),
        r"a has a weight that is computed",
    ),
    "by-values": (
        Net(lambda self, x: self.a(flat(x)) if x.sum() != 0.123 else x, a=dense(24)),
        (
            r"forward pass of Net cannot be recorded \(test_model_forms\.py:\d+: .*decides by the "
            r"values of a tensor, ne; expected what torch.fx can record"
        ),
    ),
    "quantised": (
        Net(lambda self, x: self.a(flat(x)), a=quantised()),
        r"^a is a quantised Linear: expected the model as it was trained",
    ),
    "wrong-input": (
        Net(lambda self, x: self.a(flat(x)), a=dense(23)),
        r"Net cannot run on the example input \(1, 2, 4, 5\): RuntimeError: mat1 and mat2",
    ),
    "two-sizes": (
        Net(
            lambda self, x: self.a(flat(x)) + self.a(flat(x.transpose(2, 3).contiguous() * 2)),
            a=dense(24),
        ),
        r"a \(.*\) reads 4×2×3 in one call and 4×3×2 in another",
    ),
    "random": (
        Net(lambda self, x: self.a(F.dropout(flat(x), training=True)), a=dense(24)),
        r"dropout \(.*\) makes 24 of the feature map 4×2×3, which a reads",
    ),
    "two-strides": (
        Net(
            lambda self, x: self.a(
                torch.cat([x.mean((2, 3)), F.max_pool2d(x, (2, 2), 2).mean((2, 3))], 1)
            ),
            a=dense(8),
        ),
        r"cannot run on a larger input: cat \(.*pool='global' may do",
    ),
    "one-batch": (
        Net(lambda self, x: self.a(flat(x + torch.arange(len(x)).view(-1, 1, 1, 1))), a=dense(24)),
        r"works with a batch of 2 only: add \(",
    ),
}


@pytest.mark.parametrize(("net", "message"), ERRORS.values(), ids=ERRORS)
def test_what_cannot_be_exact_is_an_error_that_names_the_line(net: nn.Module, message: str) -> None:
    with pytest.raises(FcnConvertError, match=message):
        fully_convolutional(net.eval(), EXAMPLE)


def test_no_dense_layer_is_no_spec() -> None:
    with pytest.raises(FcnConvertError, match="no Dense layer of the model reads a feature map"):
        spec_of(HEADS["no-dense"], EXAMPLE)


def test_an_input_without_spatial_axes_is_an_error() -> None:
    with pytest.raises(FcnConvertError, match=r"example input \(2, 8\) has no spatial axes"):
        fully_convolutional(dense(8), torch.zeros(2, 8))


def test_another_pool_is_an_error() -> None:
    with pytest.raises(FcnConvertError, match="pool is 'mean'; expected 'slide' or 'global'"):
        fully_convolutional(HEADS["softmax"], EXAMPLE, "mean")  # type: ignore[arg-type]
