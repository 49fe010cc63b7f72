"""Every family of networks, from its model and checkpoint to the running network, end to end."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from scripts import load_script
from torch import Tensor, nn

from fcn_convert import convert, fully_convolutional, spec_of
from fcn_convert.head_code import code_of
from fcn_convert.model.build import make_convertible
from fcn_convert.model.differences import of_cells
from fcn_convert.model.field import receptive_field
from fcn_convert.model.windows import head_on_windows

pytestmark = pytest.mark.usefixtures("one_thread")

FOLDER = Path(__file__).parent


nets = load_script(FOLDER / "nets.py")
train = load_script(FOLDER.parent / "sample_checkpoints" / "train.py")

every_net = pytest.mark.parametrize("name", nets.CASES)
RELATIVE = 1e-10
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


def tensors_of(answer: Any) -> list[Tensor]:
    if isinstance(answer, Tensor):
        return [answer]
    parts = answer.values() if isinstance(answer, Mapping) else answer
    return [part for part in parts if part is not None]


def assert_close(found: Tensor, expected: Tensor) -> None:
    scale = expected.abs().max().item()
    torch.testing.assert_close(found, expected, rtol=0, atol=RELATIVE * scale)


def saved(net: nn.Module, folder: Path) -> Path:
    path = folder / "model.safetensors"
    save_file({name: tensor.clone() for name, tensor in net.state_dict().items()}, path)
    return path


@every_net
def test_the_spec_is_what_the_forward_pass_says(name: str) -> None:
    case = nets.CASES[name]
    spec = spec_of(nets.random_net(case), torch.randn(1, *case.input))
    assert [
        (head.feature_map.sizes, head.flatten, {dense.name: dense.reads for dense in head.dense})
        for head in spec.heads
    ] == case.heads


@pytest.mark.parametrize("pool", ["slide", "global"])
@every_net
def test_the_converted_checkpoint_runs_in_the_network_and_answers_the_same(
    name: str, pool: Any, tmp_path: Path
) -> None:
    case = nets.CASES[name]
    net = nets.random_net(case)
    example = torch.randn(1, *case.input)
    output = tmp_path / "model.fcn.safetensors"
    convert(saved(net, tmp_path), spec_of(net, example), output, level="bytes")
    network = fully_convolutional(net, example, pool)
    found, own = load_file(output), network.state_dict()
    assert found.keys() == own.keys()
    for key, tensor in own.items():
        assert (found[key].shape, found[key].dtype) == (tensor.shape, tensor.dtype)
        assert found[key].numpy().tobytes() == tensor.numpy().tobytes(), key
        tensor.zero_()
    network.load_state_dict(found, strict=True)
    inputs = torch.randn(3, *case.input, dtype=torch.float64)
    with torch.inference_mode():
        expected = tensors_of(net.double()(inputs))
        answers = tensors_of(network.double()(inputs))
    assert len(answers) == len(expected)
    for answer, wanted in zip(answers, expected, strict=True):
        cells = (1,) * (len(case.input) - 1)
        assert answer.shape == (*wanted.shape, *cells)
        assert_close(answer.flatten(1), wanted.reshape(3, -1))


@every_net
def test_the_printed_head_takes_the_converted_layers(name: str, tmp_path: Path) -> None:
    case = nets.CASES[name]
    net = nets.random_net(case)
    output = tmp_path / "model.fcn.safetensors"
    convert(saved(net, tmp_path), spec_of(net, torch.randn(1, *case.input)), output, level="shapes")
    namespace: dict[str, Any] = {}
    exec(compile(code_of(tmp_path / "model.fcn.report.json"), name, "exec"), namespace)
    head = namespace["Head"]()
    found = load_file(output)
    head.load_state_dict({key: found[key] for key in head.state_dict()}, strict=True)
    layers = {layer for _, _, dense in case.heads for layer in dense}
    assert {f"{layer}.weight" for layer in layers} <= head.state_dict().keys()
    assert all(isinstance(head.get_submodule(layer), CONVOLUTIONS) for layer in layers)


STRIDES = {"LeNet": (4, 4), "VGG-without-padding": (8, 8), "MTCNN": (2, 2), "1-D": (4,)}
STRIDES["3-D"] = (1, 2, 2)
MORE = (2, 3, 1)


@pytest.mark.parametrize("name", [name for name, case in nets.CASES.items() if not case.pads])
def test_where_nothing_is_padded_every_cell_is_the_models_answer_to_its_crop(name: str) -> None:
    case = nets.CASES[name]
    net = nets.random_net(case).double()
    network = fully_convolutional(net, torch.randn(1, *case.input))
    stride, window = STRIDES[name], case.input[1:]
    more = MORE[: len(stride)]
    size = [w + s * m for w, s, m in zip(window, stride, more, strict=True)]
    inputs = torch.randn(1, case.input[0], *size, dtype=torch.float64)
    starts = list(product(*(range(m + 1) for m in more)))
    crops = []
    for start in starts:
        crop = inputs[0]
        for axis, at in enumerate(start):
            crop = crop.narrow(1 + axis, at * stride[axis], window[axis])
        crops.append(crop)
    with torch.inference_mode():
        expected, found = tensors_of(net(torch.stack(crops))), tensors_of(network(inputs))
    for answer, wanted in zip(found, expected, strict=True):
        assert answer.shape[2:] == tuple(m + 1 for m in more)
        assert_close(answer[0].flatten(1).T, wanted)


@pytest.mark.parametrize("name", ["VGG", "VGG-BN", "AlexNet"])
def test_with_padding_every_cell_is_the_heads_answer_to_its_window_of_the_map(name: str) -> None:
    case = nets.CASES[name]
    net = nets.random_net(case).double()
    network = fully_convolutional(net, torch.randn(1, *case.input))
    inputs = torch.randn(1, case.input[0], 90, 81, dtype=torch.float64)
    _, height, width = case.heads[0][0]
    with torch.inference_mode():
        maps, found = net.features(inputs), network(inputs)
        windows = maps.unfold(2, height, 1).unfold(3, width, 1)  # 1, C, rows, columns, H, W
        vectors = windows[0].permute(1, 2, 0, 3, 4).flatten(0, 1).flatten(1)
        expected = net.classifier(vectors)
    assert found.shape[2:] == windows.shape[2:4]
    assert min(found.shape[2:]) > 1
    assert_close(found[0].flatten(1).T, expected)


@pytest.mark.parametrize("name", ["ResNet", "DenseNet", "MobileNetV2", "ConvNeXt"])
def test_a_pool_of_the_whole_map_slides_or_stays(name: str) -> None:
    """On a map larger by one, the four cells of `slide` are means of windows, `global` of all."""
    case = nets.CASES[name]
    net = nets.random_net(case).double()
    example = torch.randn(1, *case.input)
    inputs = torch.randn(1, 3, case.input[1] + 16, case.input[2] + 16, dtype=torch.float64)
    seen: list[Tensor] = []
    (net.classifier if hasattr(net, "classifier") else net.fc).register_forward_pre_hook(
        lambda _, given: seen.append(given[0].flatten(1))
    )
    with torch.inference_mode():
        alone = net(inputs)  # an adaptive pool takes any size
        whole = fully_convolutional(net, example, "global")(inputs)
        slid = fully_convolutional(net, example, "slide")(inputs)
    assert whole.shape == (1, 10 + (name == "ResNet"), 1, 1)
    assert_close(whole.flatten(1), alone)
    assert slid.shape[0:2] == whole.shape[0:2]
    assert min(slid.shape[2:]) > 1


@pytest.mark.parametrize("sample", train.SAMPLES, ids=lambda sample: Path(sample.file).stem)
def test_the_samples_specs_are_what_their_models_say(sample: Any) -> None:
    inputs = sample.inputs(torch.randn(1, 1, 8, 8))
    spec = spec_of(sample.dense(), inputs)
    network = fully_convolutional(sample.dense(), inputs)
    assert network.state_dict().keys() == sample.convolutional().state_dict().keys()
    for key, tensor in sample.convolutional().state_dict().items():
        assert network.state_dict()[key].shape == tensor.shape
    [head] = spec.heads
    assert head.flatten == ("WHC" if sample.file == "two_heads.pth" else head.feature_map.axes)


def test_the_model_itself_stays_as_it_is() -> None:
    case = nets.CASES["VGG"]
    net = nets.random_net(case).train()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    network = fully_convolutional(net, torch.randn(1, *case.input))
    for parameter in network.parameters():
        parameter.data.zero_()
    assert net.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())
    assert isinstance(net.classifier[0], nn.Linear)


def test_auxiliary_heads_keep_their_tensors() -> None:
    case = nets.CASES["GoogLeNet"]
    net = nets.random_net(case)
    network = fully_convolutional(net, torch.randn(1, *case.input))
    auxiliary = {key for key in network.state_dict() if key.startswith("aux1.")}
    assert len(auxiliary) == 6
    assert network.state_dict()["aux1.fc1.weight"].dim() == 2
    answer = network(torch.randn(1, *case.input))
    assert type(answer) is nets.GoogLeNetOutputs
    assert answer.aux is None


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_every_dtype_is_kept(dtype: torch.dtype) -> None:
    case = nets.CASES["LeNet"]
    net = nets.random_net(case).to(dtype)
    network = fully_convolutional(net, torch.randn(1, *case.input))
    assert {tensor.dtype for tensor in network.state_dict().values()} == {dtype}
    weight = net.fc1.weight.view(120, 16, 5, 5)
    assert torch.equal(network.state_dict()["fc1.weight"], weight)


@pytest.mark.parametrize("name", [name for name, case in nets.CASES.items() if not case.pads])
def test_where_nothing_is_padded_the_receptive_field_is_the_models_input(name: str) -> None:
    case = nets.CASES[name]
    network = fully_convolutional(nets.random_net(case), torch.randn(1, *case.input))
    unread = {"1-D": 1}.get(name, 0)  # its stride leaves the last step out
    window = tuple(size - unread for size in case.input[1:])
    assert receptive_field(network, len(window)) == window


@pytest.mark.parametrize("name", ["VGG", "AlexNet", "ResNet", "GoogLeNet", "ConvNeXt"])
def test_the_receptive_field_is_what_a_nan_spreads_from(name: str) -> None:
    case = nets.CASES[name]
    network = fully_convolutional(nets.random_net(case), torch.randn(1, *case.input))
    field = receptive_field(network, 2)
    assert field is not None
    inputs = torch.randn(1, 3, case.input[1] + 240, case.input[2], dtype=torch.float32)
    with torch.inference_mode():
        cell = tensors_of(network(inputs))[0].shape[2] // 2
        seen = []
        for row in range(inputs.shape[2]):
            spoiled = inputs.clone()
            spoiled[:, :, row] = torch.nan
            seen.append(bool(tensors_of(network(spoiled))[0][0, :, cell].isnan().any()))
    assert sum(seen) == field[0]


def test_behind_a_global_pool_a_cell_sees_the_whole_input() -> None:
    case = nets.CASES["ResNet"]
    network = fully_convolutional(nets.random_net(case), torch.randn(1, *case.input), "global")
    assert receptive_field(network, 2) is None


@every_net
def test_every_cell_is_the_dense_heads_answer_to_its_window(name: str) -> None:
    case = nets.CASES[name]
    net = nets.random_net(case).double()
    made = make_convertible(net, torch.randn(1, *case.input), "slide")
    more = {"3-D": 3, "MTCNN": 6, "AlphaZero": 2}.get(name, 16)
    inputs = torch.randn(1, case.input[0], *(s + more for s in case.input[1:]), dtype=torch.float64)
    with torch.inference_mode():
        expected = head_on_windows(made, net, inputs)
        assert expected is not None
        answer = made.module(inputs)
        assert len(expected[0]) > 1
        scale = max(float(one.abs().max()) for one in expected)
        assert of_cells(answer, expected) <= RELATIVE * scale
        expected[0][-1] += 1
        assert of_cells(answer, expected) == pytest.approx(1)
