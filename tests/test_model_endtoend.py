"""What the end-to-end check measures: strides, culprits, differences; and at what cost."""

from __future__ import annotations

from collections.abc import Callable
from math import inf, nan
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fcn_convert import fully_convolutional
from fcn_convert.errors import ModelError
from fcn_convert.model.build import make_convertible
from fcn_convert.model.culprits import culprits
from fcn_convert.model.differences import difference, of_cells
from fcn_convert.model.precision import AtLeast
from fcn_convert.model.stride import stride_of

pytestmark = pytest.mark.usefixtures("one_thread")

SIZE, CHANNELS = 36, 4


class Net(nn.Module):
    """A convolution, a function of its map, and a Dense layer on whatever that gives."""

    def __init__(self, trunk: Callable[..., Tensor], stride: int = 1, **layers: nn.Module) -> None:
        super().__init__()
        self.first = nn.Conv2d(2, CHANNELS, 2, stride)
        for name, layer in layers.items():
            self.add_module(name, layer)
        self.trunk = trunk
        self.weight = nn.Parameter(torch.randn(CHANNELS, CHANNELS, 3, 3))
        features = trunk(self, self.first(torch.zeros(1, 2, SIZE, SIZE)))[0].numel()
        self.fc = nn.Linear(features, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.trunk(self, self.first(x)).flatten(1))


TRUNKS: dict[str, tuple[Net, tuple[int, int], list[str]]] = {
    "nothing": (Net(lambda _, x: F.max_pool2d(x.relu(), 2, 2)), (2, 2), []),
    "module-pads": (
        Net(lambda self, x: self.conv(x), conv=nn.Conv2d(CHANNELS, 4, 3, padding=1)),
        (1, 1),
        ["conv pads its input"],
    ),
    "F.pad": (
        Net(lambda self, x: F.conv2d(F.pad(x, (1, 0, 0, 1)), self.weight)),
        (1, 1),
        ["pad (test_model_endtoend.py"],
    ),
    "F.conv2d": (
        Net(lambda self, x: F.conv2d(x, self.weight, padding=1)),
        (1, 1),
        ["conv2d (test_model_endtoend.py"],
    ),
    "F.max_pool2d": (
        Net(lambda _, x: F.max_pool2d(x, 2, 2, ceil_mode=True)),
        (2, 2),
        ["has ceil_mode"],
    ),
    "adaptive": (
        Net(lambda _, x: x * F.adaptive_avg_pool2d(x, 1)),
        (1, 1),
        ["adaptive_avg_pool2d (test_model_endtoend.py"],
    ),
    "mean": (
        Net(lambda _, x: x * x.mean((2, 3)).unsqueeze(2).unsqueeze(2)),
        (1, 1),
        ["mean (test_model_endtoend.py"],
    ),
    "norm": (
        Net(lambda self, x: self.norm(x), norm=nn.InstanceNorm2d(CHANNELS)),
        (1, 1),
        ["norm computes from the whole input"],
    ),
    "one-of-several-answers": (
        Net(
            lambda self, x: self.pool(x)[0],
            pool=nn.MaxPool2d(3, 1, padding=1, return_indices=True),
        ),
        (1, 1),
        ["pool pads its input"],
    ),
    "batch-statistics": (
        Net(lambda self, x: self.norm(x), norm=nn.BatchNorm2d(CHANNELS, track_running_stats=False)),
        (1, 1),
        ["norm computes from the whole input"],
    ),
    "chunks": (
        Net(lambda _, x: F.pad(torch.cat(x.chunk(2, 1)[::-1], 1), (1, 1, 1, 1))),
        (1, 1),
        ["pad (test_model_endtoend.py"],
    ),
    "in-place": (
        Net(lambda _, x: F.pad(x.relu_().mul_(2), (1, 1, 1, 1))),
        (1, 1),
        ["pad (test_model_endtoend.py"],
    ),
    "stride-of-5": (Net(lambda _, x: x.relu(), 5), (5, 5), []),
    "stride-of-14": (Net(lambda _, x: F.avg_pool2d(x, (1, 2)), 7), (7, 14), []),
    "stride-of-33": (Net(lambda _, x: F.avg_pool2d(x, 3), 11), (33, 33), []),
}


@pytest.mark.parametrize(("net", "stride", "named"), TRUNKS.values(), ids=TRUNKS)
def test_the_stride_and_what_differs_on_crops_are_found_by_what_operations_do(
    net: Net, stride: tuple[int, int], named: list[str]
) -> None:
    net.eval()
    made = make_convertible(net, torch.zeros(1, 2, SIZE, SIZE), "slide")
    assert stride_of(made) == stride
    with torch.inference_mode():
        larger = torch.randn(2, 2, *(SIZE + 2 * step for step in stride))
        found = list(culprits(made.sizes, net, larger))
    assert len(found) == len(named)
    for sentence, part in zip(found, named, strict=True):
        assert part in sentence


def test_where_a_cell_sees_everything_there_is_no_stride() -> None:
    net = Net(lambda _, x: x.relu()).eval()
    net.fc = nn.Linear(CHANNELS, 3)
    net.trunk = lambda _, x: x.mean((2, 3))
    made = make_convertible(net, torch.zeros(1, 2, SIZE, SIZE), "global")
    assert stride_of(made) is None


class LooksAtValues(nn.Module):
    """Cannot be recorded, nor run on shapes alone."""

    def forward(self, x: Tensor) -> Tensor:
        return x if bool(x.isfinite().all()) else x * 0


def test_what_looks_at_values_is_computed_with_values() -> None:
    net = Net(lambda self, x: F.pad(self.look(x), (1, 1, 1, 1)), 3, look=LooksAtValues()).eval()
    made = make_convertible(net, torch.zeros(1, 2, SIZE, SIZE), "slide")
    assert stride_of(made) == (3, 3)


@pytest.mark.parametrize(
    ("found", "expected", "largest"),
    [
        pytest.param([1.0, nan, inf], [1.5, nan, inf], 0.5, id="same-kinds"),
        pytest.param([1.0, nan], [1.0, 2.0], inf, id="a-nan"),
        pytest.param([1.0, 2.0], [1.0, nan], inf, id="no-nan"),
        pytest.param([inf], [-inf], inf, id="other-sign"),
        pytest.param([inf, 1.0], [1.0, inf], inf, id="other-place"),
    ],
)
def test_what_is_not_finite_agrees_in_place_and_kind(
    found: list[float], expected: list[float], largest: float
) -> None:
    pair = torch.tensor([found]), torch.tensor([expected])
    result = difference(*pair)
    assert (result.count, result.largest) == (len(found), largest)
    assert result.scale == max((abs(x) for x in expected if abs(x) < inf), default=0)
    cells = torch.tensor(found).view(1, 1, -1)
    assert of_cells(cells, [torch.tensor(expected).unsqueeze(1)]) == largest


def test_answers_of_other_sizes_are_an_error() -> None:
    with pytest.raises(ModelError, match="answers with 2 numbers, the model with 3: expected"):
        difference(torch.zeros(1, 2), torch.zeros(1, 3))


OPERATIONS: dict[str, Callable[[Any, Tensor], Any]] = {
    "linear": lambda layer, x: layer(x),
    "functional": lambda layer, x: F.linear(x, layer.weight, bias=layer.bias),
    "matmul": lambda layer, x: x @ layer.weight.t() + layer.bias,
    "einsum": lambda layer, x: torch.einsum("ni,oi->no", x, layer.weight) + layer.bias,
    "list": lambda layer, x: torch.cat([x, layer.weight], 0),
    "to-the-weights-dtype": lambda layer, x: x.to(layer.weight.dtype) * layer.weight.sum(),
    "in-place": lambda layer, x: x.clone().add_(layer.bias.sum()).mul_(layer.weight[0]),
    "set-item": lambda layer, x: x.clone().index_fill(1, torch.tensor([0]), 1.0) * layer.weight[0],
}


@pytest.mark.parametrize("operation", OPERATIONS.values(), ids=OPERATIONS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_at_least_float64_is_what_a_network_in_float64_gives(
    operation: Callable[[Any, Tensor], Any], dtype: torch.dtype
) -> None:
    layer = nn.Linear(6, 5).to(dtype)
    x = torch.randn(3, 6, dtype=torch.float64)
    before = layer.weight
    with torch.inference_mode(), AtLeast(torch.float64):
        found = operation(layer, x)
    assert layer.weight is before
    assert layer.weight.dtype == dtype
    with torch.inference_mode():
        expected = operation(layer.double(), x)
    assert found.dtype == torch.float64
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)


def test_the_weights_are_held_once_more_and_no_more() -> None:
    """A layer of 4 MB: what is made of it is its own copy, and nothing of the kind in between."""
    net = nn.Sequential(nn.Conv2d(1, 16, 3), nn.Flatten(), nn.Linear(16 * 64, 1024)).eval()
    large = 16 * 64 * 1024
    made: list[int] = []

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            answer = func(*args, **(kwargs or {}))
            if type(answer) is Tensor and answer.numel() >= large and not answer.is_meta:
                given = [a.untyped_storage().data_ptr() for a in args if isinstance(a, Tensor)]
                if answer.untyped_storage().data_ptr() not in given:
                    made.append(answer.numel())
            return answer

    with Watch():
        network = fully_convolutional(net, torch.zeros(1, 1, 10, 10))
    assert made == [large]
    weight = network.get_submodule("2").weight
    assert isinstance(weight, Tensor)
    assert weight.data_ptr() != net[2].weight.data_ptr()
